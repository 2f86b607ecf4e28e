// SPDX-License-Identifier: Apache-2.0
// The simulated enclave: a process that holds images, activations, masks and checks, and lets out
// nothing but shares and sealed outputs. It protects nothing from the machine's owner; it keeps to
// a memory budget and to one socket, so that what a small trusted side costs can be measured.
#pragma once

#include <memory>

#include "nn/plan/int8.h"
#include "offload/core/frame.h"
#include "offload/core/scheme.h"

namespace ens {

// Reads requests from the socket until it is told to stop or the socket ends. Nothing that comes in
// ends it otherwise: what is wrong is answered by kError.
void serve_enclave(int socket);

// The bytes that computing `images` at once takes, at most, and in which group. scheme: null where
// everything is computed inside. An estimate, within a tenth or so, of what the budget bounds.
struct MemoryEstimate {
  int64_t bytes = 0;
  size_t group = 0;
};
MemoryEstimate estimate_memory(const Int8Net& net, const Scheme* scheme, int64_t images);

}  // namespace ens
