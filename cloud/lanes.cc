#include "cloud/lanes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "nn/core/error.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/threads.h"

namespace ens {

Lanes::Lanes(CloudBundle bundle, Device device, Dtype dtype, int64_t max_batch, int threads)
    : plans_(bundle.bodies.size()) {
  const int nets = static_cast<int>(plans_.size());
  if (threads <= 0) threads = cpu::compute_threads();
  const int lanes = std::clamp(threads, 1, nets);
  for (int i = 0; i < lanes; ++i) {
    threads_.emplace_back([this, team = threads / lanes] { work(team); });
  }
  try {
    const Shape input = smashed_shape(bundle.info.model, bundle.info.split);
    for_each_net([&](int net) {
      const Graph graph =
          lower(*std::exchange(bundle.bodies[static_cast<size_t>(net)], nullptr), input);
      plans_[static_cast<size_t>(net)] = std::make_unique<Plan>(graph, device, dtype, max_batch);
    });
    cpu::release_idle_memory();  // what compiling took
    // Kernels for a new batch size are prepared on first use: have the two commonest ready.
    for (int64_t batch : {int64_t{1}, max_batch}) {
      run(Tensor::zeros(batched(batch, input)));
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
  for (const auto& plan : plans_) bytes += plan->weight_bytes();
  return bytes;
}

size_t Lanes::arena_bytes() const {
  size_t bytes = 0;
  for (const auto& plan : plans_) bytes += plan->arena_bytes();
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
  cpu::set_compute_threads(team);
  std::unique_lock lock(mutex_);
  while (true) {
    started_.wait(lock,
                  [&] { return stop_ || (task_ && next_net_ < static_cast<int>(plans_.size())); });
    if (stop_) return;
    const int net = next_net_++;
    const auto* task = task_;
    lock.unlock();
    std::string error;
    try {
      (*task)(net);
    } catch (const std::exception& e) {
      error = e.what();
    }
    lock.lock();
    if (!error.empty()) error_ = error;
    if (--unfinished_ == 0) finished_.notify_one();
  }
}

void Lanes::for_each_net(const std::function<void(int)>& f) {
  std::unique_lock lock(mutex_);
  task_ = &f;
  next_net_ = 0;
  unfinished_ = static_cast<int>(plans_.size());
  error_.clear();
  started_.notify_all();
  finished_.wait(lock, [&] { return unfinished_ == 0; });
  task_ = nullptr;
  if (!error_.empty()) fail(error_, "server nets");
}

Tensor Lanes::run(const Tensor& features) {
  const int64_t nets = static_cast<int64_t>(plans_.size());
  const Shape answer_shape = batched(features.dim(0), plans_.front()->output_shape());
  Tensor answers = Tensor::empty(batched(nets, answer_shape));
  for_each_net([&](int net) {
    // answers[net]: its own part of the memory, so the lanes do not meet.
    answers.rows(net, 1)
        .reshape(answer_shape)
        .copy_from(plans_[static_cast<size_t>(net)]->run(features));
  });
  return answers;
}

}  // namespace ens
