// SPDX-License-Identifier: Apache-2.0
// Operations that wait for one another, executed in an order that a seed chooses.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <optional>

#include "tests/support/cuda_emulator/emulator.h"

namespace ens::emulator {
namespace {

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

struct Queue {
  uint64_t seed = static_cast<uint64_t>(from_environment("ENS_CUDA_SEED", 1));
  uint64_t state = seed;
  uint64_t favour = mix(seed);  // decides which lanes go first, for a while
  uint64_t lanes = 0;
  std::vector<OpPtr> ready;

  // Host functions: a thread of their own, which also lets time pass while any is waiting for its
  // turn, since the host may be waiting for it without a call of CUDA's.
  std::condition_variable changed;
  std::deque<OpPtr> host_ready;
  int host_pending = 0;
  bool host_thread = false;
};

Queue& queue() {
  static Queue* q = new Queue;  // never destroyed: threads may outlive main()
  return *q;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void complete(const OpPtr& op) {
  op->done = true;
  op->finished = now();
  op->work = nullptr;
  for (const OpPtr& next : op->then) {
    if (--next->waits_for == 0) queue().ready.push_back(next);
  }
  op->then.clear();
  queue().changed.notify_all();
}

void host_functions() {
  Queue& q = queue();
  std::unique_lock lock(machine());
  for (;;) {
    if (!q.host_ready.empty()) {
      const OpPtr op = q.host_ready.front();
      q.host_ready.pop_front();
      lock.unlock();
      op->work();
      lock.lock();
      --q.host_pending;
      complete(op);
    } else if (q.host_pending > 0) {
      run_one();
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      lock.lock();
    } else {
      q.changed.wait(lock);
    }
  }
}

// Takes the operation whose lane is in favour.
OpPtr take() {
  Queue& q = queue();
  if (random_below(8) == 0) q.favour = mix(q.favour + q.state);
  const auto best = std::ranges::min_element(
      q.ready, {}, [&](const OpPtr& op) { return mix(op->lane ^ q.favour); });
  const OpPtr op = *best;
  q.ready.erase(best);
  return op;
}

// Memory stays open between operations of one device.
class Session {
 public:
  bool run_one() {
    if (queue().ready.empty()) return false;
    const OpPtr op = take();
    if (op->on_host) {
      queue().host_ready.push_back(op);
      queue().changed.notify_all();
      return true;
    }
    if (op->work) {
      if (!open_ || device_ != op->device) {
        open_.reset();
        open_.emplace(op->device);
        device_ = op->device;
      }
      set_current_work(&op->what);
      op->work();
      set_current_work(nullptr);
    }
    complete(op);
    return true;
  }

 private:
  std::optional<Open> open_;
  int device_ = 0;
};

}  // namespace

void die(const std::string& what) {
  std::fprintf(stderr, "CUDA emulator: %s\n", what.c_str());
  std::abort();
}

std::mutex& machine() {
  static auto* m = new std::mutex;
  return *m;
}

int device_count() {
  static const int count = std::clamp(from_environment("ENS_CUDA_DEVICES", 1), 0, 16);
  return count;
}

uint64_t seed() { return queue().seed; }

void reseed(uint64_t value) {
  Queue& q = queue();
  q.seed = q.state = value;
  q.favour = mix(value);
  q.lanes = 0;
}

uint64_t random_below(uint64_t n) { return mix(queue().state++) % n; }

uint64_t new_lane() { return ++queue().lanes; }

void submit(const OpPtr& op, const std::vector<OpPtr>& after) {
  Queue& q = queue();
  for (const OpPtr& before : after) {
    if (!before || before->done) continue;
    before->then.push_back(op);
    ++op->waits_for;
  }
  if (op->on_host) {
    ++q.host_pending;
    if (!q.host_thread) std::thread(host_functions).detach();
    q.host_thread = true;
    q.changed.notify_all();
  }
  if (op->waits_for == 0) q.ready.push_back(op);
}

bool run_one() { return Session().run_one(); }

void wait_for(const OpPtr& op) {
  if (!op) return;
  Session session;
  while (!op->done) {
    if (session.run_one()) continue;
    Queue& q = queue();
    if (q.host_pending == 0) die("nothing can run, and yet " + describe(op->what) + " waits");
    std::unique_lock lock(machine(), std::adopt_lock);
    q.changed.wait(lock);
    lock.release();
  }
}

void let_time_pass() {
  if (random_below(4) != 0) return;
  Session session;
  for (uint64_t steps = 1 + random_below(4); steps > 0; --steps) {
    if (!session.run_one()) break;
  }
}

}  // namespace ens::emulator
