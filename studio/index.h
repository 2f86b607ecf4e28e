// SPDX-License-Identifier: Apache-2.0
// Index: which run folders and sweeps lie below one folder, in about a kilobyte a run. It is read
// again when files change; what a run holds is read when somebody looks at it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/files.h"
#include "proto/studio.pb.h"

namespace ens {

class Index {
 public:
  struct Run {
    studio::RunEntry entry;
    std::filesystem::path folder;
    FileStamp config, summary, done, metrics;  // of what the entry was made from
  };
  struct Group {
    studio::Group entry;
    std::filesystem::path folder;
    std::string title;  // of the sweep; entry's also has the folder where two share a title
    FileStamp sweep;
  };
  // Immutable once it is made.
  struct Snapshot {
    std::vector<Run> runs;      // the newest first
    std::vector<Group> groups;  // the newest first; "all" first of all if there are several
    std::map<std::string, size_t> by_id;
    int damaged = 0;
    double milliseconds = 0;  // that it took

    const Run* run(const std::string& id) const;  // null if there is none
    const Group* group(const std::string& id) const;
  };

  // Reads `root` before it returns, then every other second; `changed` is called by a thread of its
  // own after a change.
  Index(std::filesystem::path root, std::function<void()> changed);
  ~Index();

  std::shared_ptr<const Snapshot> snapshot() const;
  const std::filesystem::path& root() const { return root_; }
  // A path as visitors may see it: below the root without it.
  std::string shown(const std::filesystem::path& path) const;
  // The same with the root as it was given, for commands.
  std::string given(const std::filesystem::path& path) const {
    return (given_ / shown(path)).string();
  }
  std::string id_of(const std::filesystem::path& folder) const;

 private:
  std::shared_ptr<const Snapshot> scan(const Snapshot* before) const;

  const std::filesystem::path given_, root_;
  const std::function<void()> changed_;
  mutable std::mutex mutex_;
  std::condition_variable end_;
  bool over_ = false;
  std::shared_ptr<const Snapshot> snapshot_;
  std::thread thread_;
};

// The id of the group of all runs.
inline constexpr const char* kAllRuns = "all";

}  // namespace ens
