// Files and directories in memory, what of them is durable, and what a power loss leaves. Nothing of RocksDB is here.
//
// As `kvsvr::disk::mem` has it: a file has what was written to it, and how much of that was synced; a change of a name belongs to the directory
// that has the name, and is durable when that directory was synced, no sooner. A power loss keeps by chance a part of what a file got since it was
// synced, and of each directory's changes a prefix. A directory whose own name is lost takes with it all that it holds.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace kvsvr_sim {

// SplitMix64.
class Chance {
 public:
  explicit Chance(uint64_t seed) : state_(seed) {}
  uint64_t Below(uint64_t bound) {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    z ^= z >> 31;
    return bound == 0 ? 0 : z % bound;
  }

 private:
  uint64_t state_;
};

// What is written at the end, as RocksDB does it.
struct Content {
  std::string data;
  size_t synced = 0;
};

struct Directory;

// What a name stands for: a file, a directory, or nothing.
struct Node {
  std::shared_ptr<Content> file;
  std::shared_ptr<Directory> directory;
  bool Exists() const { return file || directory; }
};

using Names = std::map<std::string, Node>;
// Names that change at once.
using Change = std::vector<std::pair<std::string, Node>>;

struct Directory {
  Names names;
  Names durable;
  // What is not durable yet, oldest first.
  std::vector<Change> changes;

  void Set(Change change) {
    Apply(change, &names);
    changes.push_back(std::move(change));
  }

  void Sync() {
    for (const Change& change : changes) Apply(change, &durable);
    changes.clear();
  }

  static void Apply(const Change& change, Names* names) {
    for (const auto& [name, node] : change) {
      if (node.Exists()) {
        (*names)[name] = node;
      } else {
        names->erase(name);
      }
    }
  }
};

// What has happened to a disk.
struct Counts {
  // Changes of names that a power loss undid.
  uint64_t lost_names = 0;
  // Files of which a power loss left a part of what was not synced.
  uint64_t partial_tails = 0;
  // Files that a power loss left without anything of what was not synced.
  uint64_t lost_tails = 0;
};

// A tree of them. The caller sees to it that one thread uses it at a time.
class Tree {
 public:
  Tree() : root_(std::make_shared<Directory>()) {}

  Node Find(const std::string& path) const {
    Node node{nullptr, root_};
    for (const std::string& name : Parts(path)) {
      if (!node.directory) return {};
      auto found = node.directory->names.find(name);
      if (found == node.directory->names.end()) return {};
      node = found->second;
    }
    return node;
  }

  // The directory that has the name, if that is there, and the name in it.
  std::pair<std::shared_ptr<Directory>, std::string> Place(const std::string& path) const {
    std::vector<std::string> parts = Parts(path);
    if (parts.empty()) return {};
    const std::string name = parts.back();
    Node node{nullptr, root_};
    for (size_t at = 0; at + 1 < parts.size(); ++at) {
      if (!node.directory) return {};
      auto found = node.directory->names.find(parts[at]);
      if (found == node.directory->names.end()) return {};
      node = found->second;
    }
    return {node.directory, name};
  }

  // Makes a directory and those above it, unless they are there. False if one of them is a file.
  bool MakeDirectories(const std::string& path) {
    std::shared_ptr<Directory> at = root_;
    for (const std::string& name : Parts(path)) {
      auto found = at->names.find(name);
      if (found == at->names.end()) {
        Node made{nullptr, std::make_shared<Directory>()};
        at->Set({{name, made}});
        at = made.directory;
      } else if (found->second.directory) {
        at = found->second.directory;
      } else {
        return false;
      }
    }
    return true;
  }

  // Makes durable all that is there.
  void SyncAll() {
    Walk([](Directory& directory) { directory.Sync(); },
         [](Content& file) { file.synced = file.data.size(); });
  }

  void LosePower(uint64_t seed, Counts* counts) {
    Chance chance(seed);
    Walk(
        [&](Directory& directory) {
          const size_t changes = directory.changes.size();
          const size_t kept = chance.Below(changes + 1);
          for (size_t at = 0; at < kept; ++at) {
            Directory::Apply(directory.changes[at], &directory.durable);
          }
          counts->lost_names += changes - kept;
          directory.changes.clear();
          directory.names = directory.durable;
        },
        [&](Content& file) {
          const size_t unsynced = file.data.size() - file.synced;
          if (unsynced == 0) return;
          // None, all, or some of it.
          const size_t fate = chance.Below(3);
          const size_t kept = fate == 0 ? 0 : fate == 1 ? unsynced : chance.Below(unsynced);
          counts->lost_tails += kept == 0;
          counts->partial_tails += kept > 0 && kept < unsynced;
          file.data.resize(file.synced + kept);
          file.synced = file.data.size();
        });
  }

 private:
  static std::vector<std::string> Parts(const std::string& path) {
    std::vector<std::string> parts;
    size_t begin = 0;
    while (begin <= path.size()) {
      size_t end = path.find('/', begin);
      if (end == std::string::npos) end = path.size();
      if (end > begin) parts.push_back(path.substr(begin, end - begin));
      begin = end + 1;
    }
    return parts;
  }

  // Comes by each directory, and after that by what it then has; by each once, in an order that only the names decide.
  template <typename OnDirectory, typename OnFile>
  void Walk(OnDirectory on_directory, OnFile on_file) {
    std::set<const void*> seen;
    std::vector<std::shared_ptr<Directory>> left{root_};
    while (!left.empty()) {
      std::shared_ptr<Directory> directory = left.back();
      left.pop_back();
      if (!seen.insert(directory.get()).second) continue;
      on_directory(*directory);
      for (const auto& [name, node] : directory->names) {
        if (node.directory) left.push_back(node.directory);
        if (node.file && seen.insert(node.file.get()).second) on_file(*node.file);
      }
    }
  }

  const std::shared_ptr<Directory> root_;
};

}  // namespace kvsvr_sim
