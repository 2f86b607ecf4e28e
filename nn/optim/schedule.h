// SPDX-License-Identifier: Apache-2.0
// Learning rate as a function of the step: a pure function, so a resumed run needs no state.
#pragma once

#include <cstdint>
#include <string>

namespace ens {

struct Schedule {
  enum class Kind {
    kConstant,
    kOneCycle,  // Smith and Topin; torch OneCycleLR(cos, pct_start, div 25, final div 1e4) without
                // cycling the momentum
    kCosine,    // torch CosineAnnealingLR to 0 over all steps
    kStep,      // times `gamma` every `period` steps
    kNoam,      // rises over warmup_steps, then falls with the square root of the step (Vaswani et
                // al., 1706.03762, section 5.3)
  };
  Kind kind = Kind::kOneCycle;
  float peak = 0.1f;            // highest learning rate
  int64_t steps = 1;            // in the whole training
  float warmup = 0.3f;          // kOneCycle: fraction of the steps spent rising
  int64_t warmup_steps = 4000;  // kNoam
  int64_t period = 1;           // kStep
  float gamma = 0.5f;           // kStep

  float at(int64_t step) const;  // 0 <= step < steps
};

// "constant", "onecycle", "cosine", "step", "noam". Usage Error for anything else.
Schedule::Kind parse_schedule(const std::string& name);

}  // namespace ens
