// SPDX-License-Identifier: Apache-2.0
// Lanes: the N server nets, computed side by side.
//
// On GPUs there is a lane for each, with an equal share of the nets as one plan (nn/plan/plan.h).
//
// On the CPU there are min(threads, N) lanes, each a thread with an equal share of the cores; the
// nets of a batch are handed to whichever lane is free. Independent nets on single-threaded lanes
// need no barrier inside a layer. On two cores, ResNet-18, width 16, N = 4, float32, fastest runs:
// lanes 0.44 ms and one team over all cores 0.58 ms at batch 1, 12 ms and 15 ms at batch 32; where
// other work shares the cores, teams wait at barriers and fall behind by far more.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "ensemble/model/bundle.h"
#include "nn/plan/plan.h"

namespace ens {

class Lanes {
 public:
  // Compiles every net for batches of up to max_batch. devices: the CPU, or GPUs. threads: of the
  // CPU, 0: all cores. Error as Plan's. Each body is let go as soon as it is compiled: a caller who
  // moves the bundle in never holds all weights twice.
  Lanes(CloudBundle bundle, const std::vector<Device>& devices, Dtype dtype, int64_t max_batch,
        int threads);
  size_t weight_bytes() const;  // of all nets, as packed
  size_t arena_bytes() const;   // of all nets; lanes of the CPU use one net's at a time
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  // features [B, C, H, W] -> outputs of all nets [N, B, ...], float32 on the CPU. One call at a
  // time.
  Tensor run(const Tensor& features);
  int count() const { return static_cast<int>(threads_.size()); }

 private:
  // Nets [first, first + count): what a lane computes in one go. One net on the CPU.
  struct Share {
    Device device;
    int first, count;
    std::unique_ptr<Plan> plan;
  };

  void work(int team);
  // Calls f(share) for every share, on the lanes. Error (without its values) if one of them threw.
  void for_each_share(const std::function<void(Share&)>& f);

  std::vector<Share> shares_;

  std::mutex mutex_;
  std::condition_variable started_, finished_;
  const std::function<void(Share&)>* task_ = nullptr;
  size_t next_share_ = 0, unfinished_ = 0;
  std::string error_;
  bool stop_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace ens
