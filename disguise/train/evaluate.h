// SPDX-License-Identifier: Apache-2.0
// The accuracy of a compiled network on a disguised set (internal to this folder).
#pragma once

#include <cstdint>
#include <functional>

#include "disguise/set/set.h"
#include "nn/plan/plan.h"

namespace ens {

inline constexpr int64_t kEvaluationBatch = kDisguisedChunkRows;

// The share of the first `rows` (or all, if there are fewer) that are classified right. each_batch
// may throw to end it.
double set_accuracy(Plan& plan, const DisguisedSetReader& set, int64_t rows,
                    const std::function<void()>& each_batch);

}  // namespace ens
