// SPDX-License-Identifier: Apache-2.0
#include "offload/host/worker_pool.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/strings.h"
#include "offload/core/assignment.h"

namespace ens {
namespace {

constexpr std::chrono::seconds kAvoid{5};  // a worker that failed, while there are others

Status cancelled_status() { return {StatusCode::kUnavailable, "the call was broken off"}; }

}  // namespace

WorkerPool::WorkerPool(std::vector<Worker> workers, std::chrono::milliseconds timeout) {
  std::map<std::string, int> owners;
  for (size_t w = 0; w < workers.size(); ++w) {
    const int next = static_cast<int>(owners.size());
    owner_of_.push_back(owners.try_emplace(workers[w].owner, next).first->second);
    State& state = workers_.emplace_back();
    state.link = std::make_unique<WorkerLink>(static_cast<int>(w), workers[w].address,
                                              std::move(workers[w].security), timeout,
                                              [this](WorkerReply reply) {
                                                const std::lock_guard lock(mutex_);
                                                replies_.push_back(std::move(reply));
                                                changed_.notify_all();
                                              });
  }
}

WorkerPool::~WorkerPool() { workers_.clear(); }  // their threads, before what they use

int WorkerPool::owners() const { return count_owners(owner_of_); }

std::string WorkerPool::addresses() const {
  std::vector<std::string> all;
  for (const State& worker : workers_) all.push_back(worker.link->address());
  return join(all);
}

std::vector<int> WorkerPool::order(int& ready) const {
  std::vector<int> order, first;
  const auto now = Clock::now();
  std::vector<int> rank;
  for (const State& worker : workers_)
    rank.push_back(now < worker.avoid_until ? 2 : worker.link->owes_reply() ? 1 : 0);
  for (int r = 0; r <= 2; ++r) {
    for (size_t w = 0; w < workers_.size(); ++w) {
      if (!workers_[w].rejected.empty() || rank[w] != r) continue;
      order.push_back(static_cast<int>(w));
      if (r == 0) first.push_back(owner_of_[w]);
    }
  }
  ready = count_owners(first);
  return order;
}

bool WorkerPool::wait_reply(WorkerReply& reply) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return cancelled_ || !replies_.empty(); });
  if (cancelled_) return false;
  reply = std::move(replies_.front());
  replies_.pop_front();
  return true;
}

void WorkerPool::failed(int worker, const Status& why, std::string& reasons) {
  workers_[static_cast<size_t>(worker)].avoid_until = Clock::now() + kAvoid;
  reasons += (reasons.empty() ? "" : "; ") + why.message;
  warnings_.push_back(why.str());
}

Status WorkerPool::handshake(const WorkerJob& job, int needed) {
  std::vector<uint64_t> tickets;
  for (State& worker : workers_) tickets.push_back(worker.link->post(job));
  std::vector<int> good;
  Status first;
  std::string reasons;
  for (size_t left = workers_.size(); left > 0;) {
    WorkerReply reply;
    if (!wait_reply(reply)) return cancelled_status();
    if (reply.ticket != tickets[static_cast<size_t>(reply.worker)]) continue;  // to an earlier job
    --left;
    if (reply.status.ok()) {
      good.push_back(owner_of_[static_cast<size_t>(reply.worker)]);
    } else {
      if (first.ok()) first = reply.status;
      failed(reply.worker, reply.status, reasons);
    }
  }
  if (count_owners(good) >= needed) return {};
  return {first.code, std::to_string(count_owners(good)) + " of " + std::to_string(owners()) +
                          " workers can be used, " + std::to_string(needed) +
                          " are needed: " + reasons};
}

Status WorkerPool::run(int shares, int needed, int at_once, const MakeJob& make,
                       const Accept& accept) {
  int ready = 0;
  ShareAssignment assignment(owner_of_, order(ready), shares);
  at_once = std::clamp(ready, needed, std::max(needed, at_once));
  std::map<int, std::pair<uint64_t, int>> pending;  // worker -> ticket, share
  std::string reasons;
  const auto send_next = [&] {
    const auto send = assignment.next();
    if (!send) return false;
    const uint64_t ticket =
        workers_[static_cast<size_t>(send->worker)].link->post(make(send->share));
    pending[send->worker] = {ticket, send->share};
    return true;
  };
  for (int i = 0; i < at_once; ++i) send_next();
  int accepted = 0;
  while (accepted < needed) {
    if (static_cast<int>(pending.size()) < needed - accepted) {
      for (const auto& [worker, job] : pending)
        workers_[static_cast<size_t>(worker)].link->give_up();
      for (const State& worker : workers_) {
        if (!worker.rejected.empty() && reasons.find(worker.rejected) == std::string::npos) {
          reasons += (reasons.empty() ? "" : "; ") + worker.rejected;
        }
      }
      return {StatusCode::kUnavailable, "fewer than " + std::to_string(needed) +
                                            " workers have replied, of " +
                                            std::to_string(owners()) + ": " + reasons};
    }
    WorkerReply reply;
    if (!wait_reply(reply)) return cancelled_status();
    const auto at = pending.find(reply.worker);
    if (at == pending.end() || at->second.first != reply.ticket) continue;  // to an earlier job
    const int share = at->second.second;
    pending.erase(at);
    if (!reply.status.ok()) {
      failed(reply.worker, reply.status, reasons);
      send_next();
      continue;
    }
    State& worker = workers_[static_cast<size_t>(reply.worker)];
    if (Status verdict = accept(share, reply); !verdict.ok()) {
      verdict.message = worker.link->address() + " " + verdict.message + "; it is not asked again";
      worker.rejected = verdict.message;
      failed(reply.worker, verdict, reasons);
      send_next();
      continue;
    }
    ++accepted;
  }
  for (const auto& [worker, job] : pending) workers_[static_cast<size_t>(worker)].link->give_up();
  return {};
}

WorkerTraffic WorkerPool::traffic() const {
  WorkerTraffic sum;
  for (const State& worker : workers_) {
    const WorkerTraffic one = worker.link->traffic();
    sum.sent += one.sent;
    sum.received += one.received;
    sum.refused += one.refused;
  }
  return sum;
}

std::vector<std::string> WorkerPool::take_warnings() { return std::exchange(warnings_, {}); }

void WorkerPool::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  changed_.notify_all();
}

}  // namespace ens
