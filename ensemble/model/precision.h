// SPDX-License-Identifier: Apache-2.0
// In which precision the networks run.
#pragma once

#include <string>

#include "nn/core/device.h"
#include "nn/core/dtype.h"

namespace ens {

// "float32", "bfloat16" or "auto" (bfloat16 where the device is fast in it). When bfloat16 is asked
// for and missing, says so in the log, once in a process however many networks there are, and
// answers float32. Usage Error for anything else.
Dtype choose_dtype(const std::string& name, Device device);

}  // namespace ens
