// SPDX-License-Identifier: Apache-2.0
// An int8 network as bytes, for a process that reads no files.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "nn/plan/int8.h"

namespace ens {

std::vector<std::byte> to_bytes(const Int8Net& net);
// Error for anything that to_bytes() does not write.
Int8Net int8_net_of(std::span<const std::byte> bytes);

}  // namespace ens
