// A disk in memory for RocksDB, used by one process after the other, that loses power: src/lib.rs says what it does.
//
// RocksDB's FaultInjectionTestFS keeps what a file was given and not synced, and the names that a directory got since it was synced. What
// it has not is here, above it: the end of a process at a chosen operation, parts of what was not synced that survive, and locks that a
// dead process does not hold on to.

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "env/composite_env_wrapper.h"
#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "rocksdb/system_clock.h"
#include "util/random.h"
#include "utilities/fault_injection_fs.h"

using namespace ROCKSDB_NAMESPACE;

// As the C interface has it.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};

namespace {

class File;

// How a process ends.
struct End {
  bool power;
  uint32_t seed;
};

// The disk as one process uses it.
class Process : public FileSystemWrapper {
 public:
  explicit Process(const std::shared_ptr<FaultInjectionTestFS>& faults)
      : FileSystemWrapper(faults), faults_(faults) {}

  const char* Name() const override { return "SimulatedProcess"; }

  // The process ends at the n-th operation from now on, before it is carried out; with 0 at none.
  void Arm(uint64_t n, End end) {
    std::lock_guard<std::mutex> guard(mutex_);
    left_ = n;
    armed_ = end;
  }

  void Finish(End end) {
    std::lock_guard<std::mutex> guard(mutex_);
    FinishLocked(end);
  }

  bool Ended() {
    std::lock_guard<std::mutex> guard(mutex_);
    return ended_;
  }

  // What went wrong with the disk itself; empty if nothing.
  std::string Broken() {
    std::lock_guard<std::mutex> guard(mutex_);
    return broken_;
  }

  // Carries out what makes something durable or visible, as long as the process lives.
  template <typename Operation>
  IOStatus Do(Operation operation) {
    std::lock_guard<std::mutex> guard(mutex_);
    if (left_ > 0 && --left_ == 0) FinishLocked(armed_);
    return operation();
  }

  // Carries out what does neither.
  template <typename Operation>
  IOStatus Quietly(Operation operation) {
    std::lock_guard<std::mutex> guard(mutex_);
    return operation();
  }

  IOStatus NewWritableFile(const std::string& name, const FileOptions& options,
                           std::unique_ptr<FSWritableFile>* result,
                           IODebugContext* dbg) override;

  IOStatus NewDirectory(const std::string& name, const IOOptions& options,
                        std::unique_ptr<FSDirectory>* result,
                        IODebugContext* dbg) override;

  IOStatus RenameFile(const std::string& from, const std::string& to,
                      const IOOptions& options, IODebugContext* dbg) override {
    return Do([&] {
      IOStatus done = target()->RenameFile(from, to, options, dbg);
      // New names in a directory that is renamed are looked for in the old one at a power loss, and not found.
      if (done.ok()) faults_->SyncDir(from);
      return done;
    });
  }

  IOStatus LinkFile(const std::string& from, const std::string& to,
                    const IOOptions& options, IODebugContext* dbg) override {
    return Do([&] { return target()->LinkFile(from, to, options, dbg); });
  }

  IOStatus DeleteFile(const std::string& name, const IOOptions& options,
                      IODebugContext* dbg) override {
    return Quietly([&] { return target()->DeleteFile(name, options, dbg); });
  }

  // FaultInjectionTestFS lets a dead process do these.
  IOStatus CreateDir(const std::string& name, const IOOptions& options,
                     IODebugContext* dbg) override {
    return Quietly([&] {
      return ended_ ? faults_->GetError() : target()->CreateDir(name, options, dbg);
    });
  }
  IOStatus CreateDirIfMissing(const std::string& name, const IOOptions& options,
                              IODebugContext* dbg) override {
    return Quietly([&] {
      return ended_ ? faults_->GetError() : target()->CreateDirIfMissing(name, options, dbg);
    });
  }
  IOStatus DeleteDir(const std::string& name, const IOOptions& options,
                     IODebugContext* dbg) override {
    return Quietly([&] {
      return ended_ ? faults_->GetError() : target()->DeleteDir(name, options, dbg);
    });
  }

  // One process at a time uses the disk. The last one may still be on its way out of memory.
  IOStatus LockFile(const std::string&, const IOOptions&, FileLock** lock,
                    IODebugContext*) override {
    *lock = new FileLock;
    return IOStatus::OK();
  }
  IOStatus UnlockFile(FileLock* lock, const IOOptions&, IODebugContext*) override {
    delete lock;
    return IOStatus::OK();
  }

 private:
  friend class File;

  void FinishLocked(End end);

  const std::shared_ptr<FaultInjectionTestFS> faults_;
  std::mutex mutex_;
  // Files that are open for writing, in the order in which they were opened.
  std::map<uint64_t, File*> open_;
  uint64_t opened_ = 0;
  uint64_t left_ = 0;
  End armed_ = {};
  bool ended_ = false;
  std::string broken_;
};

// A file that is open for writing. What its process's lock protects is protected.
class File : public FSWritableFileOwnerWrapper {
 public:
  File(std::unique_ptr<FSWritableFile>&& file, Process* process, uint64_t number)
      : FSWritableFileOwnerWrapper(std::move(file)), process_(process), number_(number) {
    process_->open_[number_] = this;
  }

  ~File() override {
    std::lock_guard<std::mutex> guard(process_->mutex_);
    process_->open_.erase(number_);
  }

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* dbg) override {
    return Appended(data, [&] { return target()->Append(data, options, dbg); });
  }
  IOStatus Append(const Slice& data, const IOOptions& options,
                  const DataVerificationInfo& info, IODebugContext* dbg) override {
    return Appended(data, [&] { return target()->Append(data, options, info, dbg); });
  }

  IOStatus Sync(const IOOptions& options, IODebugContext* dbg) override {
    return process_->Do([&] { return SyncLocked(options, dbg); });
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* dbg) override {
    return Sync(options, dbg);
  }
  // Only begins to write: nothing is durable before Sync.
  IOStatus RangeSync(uint64_t, uint64_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }

  IOStatus Close(const IOOptions& options, IODebugContext* dbg) override {
    return process_->Quietly([&] {
      process_->open_.erase(number_);
      return target()->Close(options, dbg);
    });
  }

  // The process ends: its page cache goes on without it, or the power is gone and some of it was written.
  IOStatus Leave(bool power, Random* chance) {
    const IOOptions options;
    if (!power) return SyncLocked(options, nullptr);
    const uint64_t lost = written_ - synced_;
    if (lost == 0 || chance->OneIn(2)) return IOStatus::OK();
    const uint64_t kept = chance->Uniform(static_cast<int>(lost)) + 1;
    return target()->RangeSync(synced_, kept, options, nullptr);
  }

 private:
  template <typename Operation>
  IOStatus Appended(const Slice& data, Operation operation) {
    return process_->Quietly([&] {
      IOStatus done = operation();
      if (done.ok()) written_ += data.size();
      return done;
    });
  }

  IOStatus SyncLocked(const IOOptions& options, IODebugContext* dbg) {
    IOStatus done = target()->Sync(options, dbg);
    if (done.ok()) synced_ = written_;
    return done;
  }

  Process* const process_;
  const uint64_t number_;
  uint64_t written_ = 0;
  uint64_t synced_ = 0;
};

class Directory : public FSDirectoryWrapper {
 public:
  Directory(std::unique_ptr<FSDirectory>&& directory, Process* process)
      : FSDirectoryWrapper(std::move(directory)), process_(process) {}

  IOStatus Fsync(const IOOptions& options, IODebugContext* dbg) override {
    return process_->Do([&] { return FSDirectoryWrapper::Fsync(options, dbg); });
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* dbg,
                               const DirFsyncOptions& what) override {
    return process_->Do(
        [&] { return FSDirectoryWrapper::FsyncWithDirOptions(options, dbg, what); });
  }

 private:
  Process* const process_;
};

IOStatus Process::NewWritableFile(const std::string& name, const FileOptions& options,
                                  std::unique_ptr<FSWritableFile>* result,
                                  IODebugContext* dbg) {
  return Do([&] {
    std::unique_ptr<FSWritableFile> file;
    IOStatus done = target()->NewWritableFile(name, options, &file, dbg);
    if (done.ok()) *result = std::make_unique<File>(std::move(file), this, ++opened_);
    return done;
  });
}

IOStatus Process::NewDirectory(const std::string& name, const IOOptions& options,
                               std::unique_ptr<FSDirectory>* result, IODebugContext* dbg) {
  std::unique_ptr<FSDirectory> directory;
  IOStatus done = target()->NewDirectory(name, options, &directory, dbg);
  if (done.ok()) *result = std::make_unique<Directory>(std::move(directory), this);
  return done;
}

void Process::FinishLocked(End end) {
  if (ended_) return;
  ended_ = true;
  Random chance(end.seed);
  IOStatus done;
  for (const auto& [number, file] : open_) {
    if (done.ok()) done = file->Leave(end.power, &chance);
  }
  if (done.ok() && end.power) {
    done = faults_->DeleteFilesCreatedAfterLastDirSync(IOOptions(), nullptr);
  }
  if (!done.ok()) broken_ = done.ToString();
  faults_->SetFilesystemActive(false);
}

struct Disk {
  std::unique_ptr<Env> env;
};

struct Mount {
  std::shared_ptr<Process> process;
  std::shared_ptr<SystemClock> clock;
};

// The directories of RocksDB have no directories in them.
IOStatus RemoveDir(FileSystem* fs, const std::string& path) {
  const IOOptions options;
  std::vector<std::string> names;
  IOStatus done = fs->GetChildren(path, options, &names, nullptr);
  for (const std::string& name : names) {
    if (done.ok()) done = fs->DeleteFile(path + "/" + name, options, nullptr);
  }
  return done.ok() ? fs->DeleteDir(path, options, nullptr) : done;
}

char* Text(const std::string& text) { return strdup(text.c_str()); }

// Nothing if it went well, else why not.
char* Error(const IOStatus& status) { return status.ok() ? nullptr : Text(status.ToString()); }

}  // namespace

extern "C" {

Disk* kvsvr_disk_new() { return new Disk{std::unique_ptr<Env>(NewMemEnv(Env::Default()))}; }
void kvsvr_disk_free(Disk* disk) { delete disk; }

Mount* kvsvr_mount_new(Disk* disk) {
  auto faults = std::make_shared<FaultInjectionTestFS>(disk->env->GetFileSystem());
  faults->SetInjectUnsyncedDataLoss(true);
  faults->SetAllowLinkOpenFile();
  // The clock of a MemEnv stands still but for who sleeps, and nobody does: RocksDB waits a second after a flush that failed.
  return new Mount{std::make_shared<Process>(faults), disk->env->GetSystemClock()};
}
void kvsvr_mount_free(Mount* mount) { delete mount; }

rocksdb_env_t* kvsvr_mount_env(Mount* mount) {
  auto* env = new CompositeEnvWrapper(Env::Default(), mount->process, mount->clock);
  return new rocksdb_env_t{env, false};
}

void kvsvr_mount_arm(Mount* mount, uint64_t operation, int power, uint32_t seed) {
  mount->process->Arm(operation, End{power != 0, seed});
}
void kvsvr_mount_end(Mount* mount, int power, uint32_t seed) {
  mount->process->Finish(End{power != 0, seed});
}
int kvsvr_mount_ended(Mount* mount) { return mount->process->Ended(); }
char* kvsvr_mount_broken(Mount* mount) {
  const std::string broken = mount->process->Broken();
  return broken.empty() ? nullptr : Text(broken);
}

int kvsvr_mount_exists(Mount* mount, const char* path) {
  return mount->process->FileExists(path, IOOptions(), nullptr).ok();
}
char* kvsvr_mount_create_dir(Mount* mount, const char* path) {
  return Error(mount->process->CreateDirIfMissing(path, IOOptions(), nullptr));
}
char* kvsvr_mount_remove_dir(Mount* mount, const char* path) {
  return Error(RemoveDir(mount->process.get(), path));
}
// The names, each before a line feed; nothing if there is no such directory.
char* kvsvr_mount_list(Mount* mount, const char* path) {
  std::vector<std::string> names;
  if (!mount->process->GetChildren(path, IOOptions(), &names, nullptr).ok()) return nullptr;
  std::string text;
  // A directory is named once for each file in it.
  for (const std::string& name : std::set<std::string>(names.begin(), names.end())) {
    text += name + "\n";
  }
  return Text(text);
}
void kvsvr_text_free(char* text) { free(text); }

}  // extern "C"
