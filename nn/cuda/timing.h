// SPDX-License-Identifier: Apache-2.0
// How long captured work takes.
#pragma once

#include <vector>

#include "nn/cuda/context.h"

namespace ens::cuda {

// Milliseconds that each graph takes on c's stream with nothing in the cache: medians, in turn.
std::vector<float> times_of(const std::vector<const Capture::Graph*>& graphs, Context& c);

}  // namespace ens::cuda
