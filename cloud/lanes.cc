// SPDX-License-Identifier: Apache-2.0
#include "cloud/lanes.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/plan/float8.h"

namespace ens {

Lanes::Lanes(CloudBundle bundle, const std::vector<Device>& devices, Dtype dtype, int64_t max_batch,
             int threads) {
  const int nets = static_cast<int>(bundle.bodies.size());
  const bool cpu = devices.at(0).type == Device::Type::kCpu;
  if (threads <= 0) threads = compute_threads();
  const int shares = cpu ? nets : std::min(nets, static_cast<int>(devices.size()));
  const int lanes = cpu ? std::clamp(threads, 1, nets) : shares;
  for (int i = 0; i < shares; ++i) {
    const int first = i * nets / shares, next = (i + 1) * nets / shares;
    shares_.push_back({cpu ? Device{} : devices[static_cast<size_t>(i)], first, next - first, {}});
  }
  for (int i = 0; i < lanes; ++i) {
    threads_.emplace_back([this, team = std::max(threads / lanes, 1)] { work(team); });
  }
  try {
    const Shape input = smashed_shape(bundle.info.model, bundle.info.split);
    for_each_share([&](Share& share) {
      {
        std::vector<Graph> graphs;
        for (int net = share.first; net < share.first + share.count; ++net) {
          const auto body = std::exchange(bundle.bodies[static_cast<size_t>(net)], nullptr);
          graphs.push_back(lower(*body, input));
          if (bundle.ranges.empty()) continue;
          set_input_ranges(graphs.back(), bundle.ranges[static_cast<size_t>(net)]);
        }
        share.plan = std::make_unique<Plan>(graphs, share.device, dtype, max_batch);
      }
      cpu::release_idle_memory();  // the body's weights, and what compiling took
    });
    // Kernels for a new batch size are prepared on first use. Have the two commonest ready, and on
    // a GPU, where preparing includes measuring, all.
    for (int64_t batch = 1; batch <= max_batch;) {
      run(Tensor::zeros(batched(batch, input)));
      if (batch == max_batch) break;
      batch = cpu ? max_batch : batch_bucket(batch + 1, max_batch);
    }
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    started_.notify_all();
    throw;
  }
}

size_t Lanes::weight_bytes() const {
  size_t bytes = 0;
  for (const Share& share : shares_) bytes += share.plan->weight_bytes();
  return bytes;
}

size_t Lanes::arena_bytes() const {
  size_t bytes = 0;
  for (const Share& share : shares_) bytes += share.plan->arena_bytes();
  return bytes;
}

Lanes::~Lanes() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  started_.notify_all();
}

void Lanes::work(int team) {
  set_compute_threads(team);
  // A pinned thread that starts a server would leave its one processor to all lanes.
  unpin_this_thread();
  std::unique_lock lock(mutex_);
  while (true) {
    started_.wait(lock, [&] { return stop_ || (task_ && next_share_ < shares_.size()); });
    if (stop_) return;
    Share& share = shares_[next_share_++];
    const auto* task = task_;
    lock.unlock();
    std::string error;
    try {
      (*task)(share);
    } catch (const std::exception& e) {
      error = e.what();
    }
    lock.lock();
    if (!error.empty()) error_ = error;
    if (--unfinished_ == 0) finished_.notify_one();
  }
}

void Lanes::for_each_share(const std::function<void(Share&)>& f) {
  std::unique_lock lock(mutex_);
  task_ = &f;
  next_share_ = 0;
  unfinished_ = shares_.size();
  error_.clear();
  started_.notify_all();
  finished_.wait(lock, [&] { return unfinished_ == 0; });
  task_ = nullptr;
  if (!error_.empty()) fail(error_, "server nets");
}

Tensor Lanes::run(const Tensor& features) {
  const Share& last = shares_.back();
  const Shape one = batched(features.dim(0), last.plan->output_shape());
  Tensor outputs = Tensor::empty(batched(last.first + last.count, one));
  for_each_share([&](Share& share) {
    // Its own part of the memory, so the lanes do not meet.
    outputs.rows(share.first, share.count).copy_from(share.plan->run_all(features));
  });
  return outputs;
}

}  // namespace ens
