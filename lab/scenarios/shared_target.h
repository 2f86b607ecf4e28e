// SPDX-License-Identifier: Apache-2.0
// A run that several tasks attack: opened when the first of them starts, until the last has ended.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "experiment/scenario.h"

namespace ens {

// Target: made of a run's folder and configuration. Any number of threads.
template <typename Target>
class SharedTarget {
 public:
  // attacks: how often use() will be called.
  SharedTarget(const ScenarioRun& run, size_t attacks) : run_(run), left_(attacks) {}

  // attack(target).
  template <typename Attack>
  void use(Attack&& attack) {
    std::shared_ptr<Target> target;
    const std::shared_ptr<void> last(nullptr, [this](void*) {
      std::lock_guard lock(mutex_);
      if (--left_ == 0) target_.reset();
    });
    {
      std::lock_guard lock(mutex_);
      if (!target_) target_ = std::make_shared<Target>(run_.folder, run_.config);
      target = target_;
    }
    attack(*target);
  }

 private:
  const ScenarioRun run_;
  std::mutex mutex_;
  size_t left_;
  std::shared_ptr<Target> target_;
};

}  // namespace ens
