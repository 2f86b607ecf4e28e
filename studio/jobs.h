// SPDX-License-Identifier: Apache-2.0
// Jobs: commands of `ensembler` that the studio runs as child processes, each into a run folder of
// its own. They belong to the server, not to a page: every browser sees the same list, and a server
// that was killed finds them again.
//
//   STATE/jobs/ID/job.json   proto/studio.proto, StoredJob; replaced by rename
//   STATE/jobs/ID/log.txt    what the command said
//
//   queued -> running -> done | failed | cancelled
//   running -> paused (SIGTERM; the run folder keeps what was done) -> queued
//   unfinished when the server ended, or was killed: interrupted -> queued
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "proto/studio.pb.h"

namespace ens {

struct JobsOptions {
  std::filesystem::path program;           // `ensembler`
  std::filesystem::path state;             // a folder of its own; made
  int parallel = 1;                        // jobs at a time
  uint64_t least_free_bytes = 256u << 20;  // of the disk, to start one
};

// What a request means: arguments of `ensembler`, and where its results go.
struct JobPlan {
  std::string title;
  std::vector<std::string> arguments;
  std::filesystem::path out;
  std::string run, group;  // the ids of what it fills, where it is one run or a sweep
};

// Thread-safe.
class Jobs {
 public:
  using Changed = std::function<void(const studio::Job&)>;
  // Jobs that another server left running are ended (they keep what they have done) and
  // interrupted.
  Jobs(JobsOptions options, Changed changed);
  // Ends what runs as if it were paused; it is interrupted then.
  ~Jobs();

  // Queues a job, or returns an unfinished one with the same arguments. Refusal if the disk is
  // full.
  studio::Job submit(const studio::JobRequest& request, const JobPlan& plan);
  studio::JobList list() const;                  // the newest first
  studio::Job get(const std::string& id) const;  // with the last lines of its log. Refusal 404
  // Ends the command with SIGTERM, and after five seconds with SIGKILL. Refusal 404, 409.
  studio::Job cancel(const std::string& id);
  studio::Job pause(const std::string& id);
  studio::Job resume(const std::string& id);

 private:
  struct Entry;
  Entry& find(const std::string& id);
  void load();
  void run();
  void start_next();
  void poll(Entry& entry);
  void change(Entry& entry, const std::string& state, const std::string& reason = "");
  void save(const Entry& entry) const;
  std::filesystem::path folder(const Entry& entry) const;

  const JobsOptions options_;
  const Changed changed_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool over_ = false;
  std::list<std::unique_ptr<Entry>> entries_;  // the oldest first
  std::thread thread_;
};

}  // namespace ens
