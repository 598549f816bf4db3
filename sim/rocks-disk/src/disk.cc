// A disk in memory for RocksDB, used by one process after the other, that loses power: src/lib.rs says what it does.
//
// What is on the disk, and what a power loss leaves of it, is in src/files.h. Here is RocksDB's view of it, and processes: one may end at a chosen
// operation, and one that has ended reaches nothing any more and holds on to no locks.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "env/composite_env_wrapper.h"
#include "files.h"
#include "rocksdb/env.h"
#include "rocksdb/file_system.h"
#include "rocksdb/system_clock.h"

using namespace ROCKSDB_NAMESPACE;
using kvsvr_sim::Change;
using kvsvr_sim::Content;
using kvsvr_sim::Counts;
using kvsvr_sim::Node;
using kvsvr_sim::Tree;

// As the C interface has it.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};

namespace {

// What happens at an operation.
enum class Event { kKill, kPowerLoss, kError };

// What outlives processes.
struct Machine {
  std::mutex mutex;
  Tree tree;
  Counts counts;
  uint64_t ended_within = 0;
  uint64_t errors = 0;
};

IOStatus Missing(const std::string& path) { return IOStatus::PathNotFound(path); }

// A process, as its files know it.
class Life {
 public:
  explicit Life(const std::shared_ptr<Machine>& machine) : machine_(machine) {}

  Machine& machine() { return *machine_; }

  // Something happens at the n-th operation from now on, before it is carried out; with 0 nothing does.
  void Arm(uint64_t n, Event event, uint32_t seed) {
    std::lock_guard<std::mutex> guard(machine_->mutex);
    left_ = n;
    event_ = event;
    seed_ = seed;
  }

  void End(Event event, uint32_t seed) {
    std::lock_guard<std::mutex> guard(machine_->mutex);
    EndLocked(event, seed);
  }

  bool Ended() {
    std::lock_guard<std::mutex> guard(machine_->mutex);
    return ended_;
  }

  // Carries out what makes something durable or visible, if the process lives.
  template <typename Operation>
  IOStatus Do(Operation operation) {
    std::lock_guard<std::mutex> guard(machine_->mutex);
    if (!ended_ && left_ > 0 && --left_ == 0) {
      if (event_ == Event::kError) {
        ++machine_->errors;
        return IOStatus::IOError("injected input/output error");
      }
      ++machine_->ended_within;
      EndLocked(event_, seed_);
    }
    return ended_ ? Gone() : operation();
  }

  // Carries out what does neither.
  template <typename Operation>
  IOStatus Quietly(Operation operation) {
    std::lock_guard<std::mutex> guard(machine_->mutex);
    return ended_ ? Gone() : operation();
  }

 private:
  static IOStatus Gone() { return IOStatus::IOError("the process has ended"); }

  void EndLocked(Event event, uint32_t seed) {
    if (ended_) return;
    ended_ = true;
    if (event == Event::kPowerLoss) machine_->tree.LosePower(seed, &machine_->counts);
  }

  const std::shared_ptr<Machine> machine_;
  uint64_t left_ = 0;
  Event event_ = Event::kKill;
  uint32_t seed_ = 0;
  bool ended_ = false;
};

using SharedLife = std::shared_ptr<Life>;

class Writer : public FSWritableFile {
 public:
  Writer(const SharedLife& life, const std::shared_ptr<Content>& content)
      : life_(life), content_(content) {}

  using FSWritableFile::Append;
  IOStatus Append(const Slice& data, const IOOptions&, IODebugContext*) override {
    return life_->Quietly([&] {
      content_->data.append(data.data(), data.size());
      return IOStatus::OK();
    });
  }

  IOStatus Truncate(uint64_t size, const IOOptions&, IODebugContext*) override {
    return life_->Quietly([&] {
      content_->data.resize(size);
      content_->synced = std::min<size_t>(content_->synced, size);
      return IOStatus::OK();
    });
  }

  IOStatus Sync(const IOOptions&, IODebugContext*) override {
    return life_->Do([&] {
      content_->synced = content_->data.size();
      return IOStatus::OK();
    });
  }
  // Only begins to write: nothing is durable before Sync.
  IOStatus RangeSync(uint64_t, uint64_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus Flush(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }

  uint64_t GetFileSize(const IOOptions&, IODebugContext*) override {
    uint64_t size = 0;
    life_->Quietly([&] {
      size = content_->data.size();
      return IOStatus::OK();
    }).PermitUncheckedError();
    return size;
  }

 private:
  const SharedLife life_;
  const std::shared_ptr<Content> content_;
};

IOStatus ReadAt(Life& life, const Content& content, uint64_t offset, size_t n, Slice* result,
                char* scratch) {
  *result = Slice(scratch, 0);
  return life.Quietly([&] {
    if (offset < content.data.size()) {
      const size_t read = std::min<size_t>(n, content.data.size() - offset);
      memcpy(scratch, content.data.data() + offset, read);
      *result = Slice(scratch, read);
    }
    return IOStatus::OK();
  });
}

class Sequential : public FSSequentialFile {
 public:
  Sequential(const SharedLife& life, const std::shared_ptr<Content>& content)
      : life_(life), content_(content) {}

  IOStatus Read(size_t n, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) override {
    IOStatus done = ReadAt(*life_, *content_, at_, n, result, scratch);
    at_ += result->size();
    return done;
  }
  IOStatus Skip(uint64_t n) override {
    at_ += n;
    return IOStatus::OK();
  }

 private:
  const SharedLife life_;
  const std::shared_ptr<Content> content_;
  uint64_t at_ = 0;
};

class RandomAccess : public FSRandomAccessFile {
 public:
  RandomAccess(const SharedLife& life, const std::shared_ptr<Content>& content)
      : life_(life), content_(content) {}

  IOStatus Read(uint64_t offset, size_t n, const IOOptions&, Slice* result, char* scratch,
                IODebugContext*) const override {
    return ReadAt(*life_, *content_, offset, n, result, scratch);
  }
  IOStatus Prefetch(uint64_t, size_t, const IOOptions&, IODebugContext*) override {
    return IOStatus::OK();
  }
  IOStatus GetFileSize(uint64_t* size) override {
    return life_->Quietly([&] {
      *size = content_->data.size();
      return IOStatus::OK();
    });
  }

 private:
  const SharedLife life_;
  const std::shared_ptr<Content> content_;
};

class OpenDirectory : public FSDirectory {
 public:
  OpenDirectory(const SharedLife& life, const std::shared_ptr<kvsvr_sim::Directory>& directory)
      : life_(life), directory_(directory) {}

  IOStatus Fsync(const IOOptions&, IODebugContext*) override {
    return life_->Do([&] {
      directory_->Sync();
      return IOStatus::OK();
    });
  }
  IOStatus Close(const IOOptions&, IODebugContext*) override { return IOStatus::OK(); }

 private:
  const SharedLife life_;
  const std::shared_ptr<kvsvr_sim::Directory> directory_;
};

// RocksDB's info log, which nobody reads.
class Silent : public Logger {
 public:
  using Logger::Logv;
  void Logv(const char*, va_list) override {}
  size_t GetLogFileSize() const override { return 0; }
};

// The disk as one process uses it.
class Process : public FileSystem {
 public:
  explicit Process(const std::shared_ptr<Machine>& machine)
      : life_(std::make_shared<Life>(machine)) {}

  const char* Name() const override { return "SimulatedProcess"; }
  Life& life() { return *life_; }

  IOStatus NewSequentialFile(const std::string& path, const FileOptions&,
                             std::unique_ptr<FSSequentialFile>* result,
                             IODebugContext*) override {
    return WithFile(path, [&](auto file) { *result = std::make_unique<Sequential>(life_, file); });
  }

  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions&,
                               std::unique_ptr<FSRandomAccessFile>* result,
                               IODebugContext*) override {
    return WithFile(path,
                    [&](auto file) { *result = std::make_unique<RandomAccess>(life_, file); });
  }

  IOStatus NewWritableFile(const std::string& path, const FileOptions&,
                           std::unique_ptr<FSWritableFile>* result, IODebugContext*) override {
    return life_->Do([&] { return Open(path, true, result); });
  }

  IOStatus ReopenWritableFile(const std::string& path, const FileOptions&,
                              std::unique_ptr<FSWritableFile>* result, IODebugContext*) override {
    return life_->Do([&] { return Open(path, false, result); });
  }

  IOStatus NewDirectory(const std::string& path, const IOOptions&,
                        std::unique_ptr<FSDirectory>* result, IODebugContext*) override {
    return life_->Quietly([&] {
      const Node node = tree().Find(path);
      if (!node.directory) return Missing(path);
      *result = std::make_unique<OpenDirectory>(life_, node.directory);
      return IOStatus::OK();
    });
  }

  IOStatus FileExists(const std::string& path, const IOOptions&, IODebugContext*) override {
    return life_->Quietly(
        [&] { return tree().Find(path).Exists() ? IOStatus::OK() : IOStatus::NotFound(path); });
  }

  IOStatus GetChildren(const std::string& path, const IOOptions&,
                       std::vector<std::string>* names, IODebugContext*) override {
    names->clear();
    return life_->Quietly([&] {
      const Node node = tree().Find(path);
      if (!node.directory) return IOStatus::NotFound(path);
      for (const auto& [name, child] : node.directory->names) names->push_back(name);
      return IOStatus::OK();
    });
  }

  IOStatus DeleteFile(const std::string& path, const IOOptions&, IODebugContext*) override {
    return life_->Quietly([&] {
      if (!tree().Find(path).file) return Missing(path);
      return Set(path, {});
    });
  }

  IOStatus CreateDir(const std::string& path, const IOOptions&, IODebugContext*) override {
    return life_->Quietly([&] {
      if (tree().Find(path).Exists()) return IOStatus::IOError(path, "exists");
      return Set(path, Node{nullptr, std::make_shared<kvsvr_sim::Directory>()});
    });
  }

  IOStatus CreateDirIfMissing(const std::string& path, const IOOptions&,
                              IODebugContext*) override {
    return life_->Quietly([&] {
      if (tree().Find(path).directory) return IOStatus::OK();
      return Set(path, Node{nullptr, std::make_shared<kvsvr_sim::Directory>()});
    });
  }

  IOStatus DeleteDir(const std::string& path, const IOOptions&, IODebugContext*) override {
    return life_->Quietly([&] {
      const Node node = tree().Find(path);
      if (!node.directory) return Missing(path);
      if (!node.directory->names.empty()) return IOStatus::IOError(path, "is not empty");
      return Set(path, {});
    });
  }

  IOStatus GetFileSize(const std::string& path, const IOOptions&, uint64_t* size,
                       IODebugContext*) override {
    return WithFile(path, [&](auto file) { *size = file->data.size(); });
  }

  // Nothing is older than anything: the clock stands still.
  IOStatus GetFileModificationTime(const std::string& path, const IOOptions&, uint64_t* time,
                                   IODebugContext*) override {
    return WithFile(path, [&](auto) { *time = 0; });
  }

  IOStatus RenameFile(const std::string& from, const std::string& to, const IOOptions&,
                      IODebugContext*) override {
    return life_->Do([&] {
      const auto [source, old_name] = tree().Place(from);
      const auto [target, new_name] = tree().Place(to);
      const Node node = tree().Find(from);
      if (!node.Exists() || !target) return Missing(from);
      if (source != target) return IOStatus::NotSupported(from, "goes to another directory");
      source->Set(Change{{old_name, {}}, {new_name, node}});
      return IOStatus::OK();
    });
  }

  IOStatus LinkFile(const std::string& from, const std::string& to, const IOOptions&,
                    IODebugContext*) override {
    return life_->Do([&] {
      const Node node = tree().Find(from);
      if (!node.file) return Missing(from);
      if (tree().Find(to).Exists()) return IOStatus::IOError(to, "exists");
      return Set(to, node);
    });
  }

  IOStatus SyncFile(const std::string& path, const FileOptions&, const IOOptions&, bool,
                    IODebugContext*) override {
    return life_->Do([&] {
      const Node node = tree().Find(path);
      if (!node.file) return Missing(path);
      node.file->synced = node.file->data.size();
      return IOStatus::OK();
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

  IOStatus NewLogger(const std::string&, const IOOptions&, std::shared_ptr<Logger>* result,
                     IODebugContext*) override {
    *result = std::make_shared<Silent>();
    return IOStatus::OK();
  }

  IOStatus GetTestDirectory(const IOOptions&, std::string* path, IODebugContext*) override {
    *path = "/test";
    return IOStatus::OK();
  }
  IOStatus GetAbsolutePath(const std::string& path, const IOOptions&, std::string* absolute,
                           IODebugContext*) override {
    *absolute = path;
    return IOStatus::OK();
  }
  IOStatus IsDirectory(const std::string& path, const IOOptions&, bool* is_directory,
                       IODebugContext*) override {
    return life_->Quietly([&] {
      const Node node = tree().Find(path);
      *is_directory = node.directory != nullptr;
      return node.Exists() ? IOStatus::OK() : Missing(path);
    });
  }

  // Makes a directory and those above it.
  IOStatus CreateDirs(const std::string& path) {
    return life_->Quietly([&] {
      return tree().MakeDirectories(path) ? IOStatus::OK() : IOStatus::IOError(path, "is a file");
    });
  }

 private:
  Tree& tree() { return life_->machine().tree; }

  template <typename Use>
  IOStatus WithFile(const std::string& path, Use use) {
    return life_->Quietly([&] {
      const Node node = tree().Find(path);
      if (!node.file) return Missing(path);
      use(node.file);
      return IOStatus::OK();
    });
  }

  IOStatus Set(const std::string& path, const Node& node) {
    const auto [directory, name] = tree().Place(path);
    if (!directory) return Missing(path);
    directory->Set(Change{{name, node}});
    return IOStatus::OK();
  }

  IOStatus Open(const std::string& path, bool cut, std::unique_ptr<FSWritableFile>* result) {
    Node node = tree().Find(path);
    if (node.directory) return IOStatus::IOError(path, "is a directory");
    if (!node.file) {
      node.file = std::make_shared<Content>();
      IOStatus done = Set(path, node);
      if (!done.ok()) return done;
    } else if (cut) {
      *node.file = Content();
    }
    *result = std::make_unique<Writer>(life_, node.file);
    return IOStatus::OK();
  }

  const SharedLife life_;
};

struct Disk {
  std::shared_ptr<Machine> machine;
  std::shared_ptr<SystemClock> clock;
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

IOStatus SyncDir(FileSystem* fs, const std::string& path) {
  std::unique_ptr<FSDirectory> directory;
  IOStatus done = fs->NewDirectory(path, IOOptions(), &directory, nullptr);
  return done.ok() ? directory->Fsync(IOOptions(), nullptr) : done;
}

Event EventOf(int power) { return power != 0 ? Event::kPowerLoss : Event::kKill; }

char* Text(const std::string& text) { return strdup(text.c_str()); }

// Nothing if it went well, else why not.
char* Error(const IOStatus& status) { return status.ok() ? nullptr : Text(status.ToString()); }

}  // namespace

extern "C" {

Disk* kvsvr_disk_new(const char* directory) {
  // The clock of a MemEnv stands still but for who sleeps, and nobody does: RocksDB waits a second after a flush that failed.
  const std::unique_ptr<Env> env(NewMemEnv(Env::Default()));
  auto* disk = new Disk{std::make_shared<Machine>(), env->GetSystemClock()};
  disk->machine->tree.MakeDirectories(directory);
  disk->machine->tree.SyncAll();
  return disk;
}
void kvsvr_disk_free(Disk* disk) { delete disk; }

// In the order of `Counts` in src/lib.rs.
void kvsvr_disk_counts(Disk* disk, uint64_t* counts) {
  std::lock_guard<std::mutex> guard(disk->machine->mutex);
  const Counts& of_files = disk->machine->counts;
  counts[0] = disk->machine->ended_within;
  counts[1] = disk->machine->errors;
  counts[2] = of_files.lost_names;
  counts[3] = of_files.partial_tails;
  counts[4] = of_files.lost_tails;
}

Mount* kvsvr_mount_new(Disk* disk) {
  return new Mount{std::make_shared<Process>(disk->machine), disk->clock};
}
void kvsvr_mount_free(Mount* mount) { delete mount; }

rocksdb_env_t* kvsvr_mount_env(Mount* mount) {
  auto* env = new CompositeEnvWrapper(Env::Default(), mount->process, mount->clock);
  return new rocksdb_env_t{env, false};
}

void kvsvr_mount_arm(Mount* mount, uint64_t operation, int power, uint32_t seed) {
  mount->process->life().Arm(operation, EventOf(power), seed);
}
void kvsvr_mount_fail(Mount* mount, uint64_t operation) {
  mount->process->life().Arm(operation, Event::kError, 0);
}
void kvsvr_mount_end(Mount* mount, int power, uint32_t seed) {
  mount->process->life().End(EventOf(power), seed);
}
int kvsvr_mount_ended(Mount* mount) { return mount->process->life().Ended(); }

int kvsvr_mount_exists(Mount* mount, const char* path) {
  return mount->process->FileExists(path, IOOptions(), nullptr).ok();
}
char* kvsvr_mount_create_dir(Mount* mount, const char* path) {
  return Error(mount->process->CreateDirs(path));
}
char* kvsvr_mount_remove_dir(Mount* mount, const char* path) {
  return Error(RemoveDir(mount->process.get(), path));
}
char* kvsvr_mount_sync_dir(Mount* mount, const char* path) {
  return Error(SyncDir(mount->process.get(), path));
}
// The names, each before a line feed; nothing if there is no such directory.
char* kvsvr_mount_list(Mount* mount, const char* path) {
  std::vector<std::string> names;
  if (!mount->process->GetChildren(path, IOOptions(), &names, nullptr).ok()) return nullptr;
  std::string text;
  for (const std::string& name : names) text += name + "\n";
  return Text(text);
}
void kvsvr_text_free(char* text) { free(text); }

}  // extern "C"
