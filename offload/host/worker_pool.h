// SPDX-License-Identifier: Apache-2.0
// WorkerPool: the workers of one trusted side, and who of them gets which share.
//
// A worker that fails or is late is replaced by one whose owner has no share of that encoding yet;
// one that lies is not asked again. One thread at a time, but for cancel().
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "offload/host/worker_link.h"

namespace ens {

class WorkerPool {
 public:
  struct Worker {
    std::string address;
    std::optional<ClientSecurity> security;
    std::string owner;  // workers of the same one are one party
  };
  // What to send for one share.
  using MakeJob = std::function<WorkerJob(int share)>;
  // Judges a reply; not OK: its worker lies.
  using Accept = std::function<Status(int share, const WorkerReply& reply)>;

  // timeout: for one job. Starts connecting.
  WorkerPool(std::vector<Worker> workers, std::chrono::milliseconds timeout);
  ~WorkerPool();

  int owners() const;  // how many parties the workers are
  std::string addresses() const;

  // Sends this job to all workers and waits; fewer than `needed` owners with a good reply: what the
  // first of the others says. For HELLO.
  Status handshake(const WorkerJob& job, int needed);
  // Sends shares 0, 1, ... (`shares` there are): at_once of them, those beyond `needed` only to
  // workers that are ready, and another for each worker that fails, until `needed` are accepted.
  // UNAVAILABLE with what went wrong if that cannot be.
  Status run(int shares, int needed, int at_once, const MakeJob& make, const Accept& accept);

  WorkerTraffic traffic() const;             // of all
  std::vector<std::string> take_warnings();  // who lied or failed since the last call, for a person
  void cancel();                             // from any thread, for good
  bool cancelled() const { return cancelled_.load(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct State {
    std::unique_ptr<WorkerLink> link;
    Clock::time_point avoid_until;  // it failed a short time ago
    std::string rejected;           // why it is not asked again; empty: it may be asked
  };

  // In which they are asked: first those that are ready, of so many owners; then those that still
  // owe a reply to a job that was given up; last those that failed a short time ago.
  std::vector<int> order(int& ready) const;
  bool wait_reply(WorkerReply& reply);  // false: cancelled
  void failed(int worker, const Status& why, std::string& reasons);

  std::vector<int> owner_of_;
  std::vector<State> workers_;
  std::vector<std::string> warnings_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<WorkerReply> replies_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace ens
