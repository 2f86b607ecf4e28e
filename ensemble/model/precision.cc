// SPDX-License-Identifier: Apache-2.0
#include "ensemble/model/precision.h"

#include <mutex>

#include "base/error.h"
#include "base/notice.h"
#include "nn/core/backend.h"

namespace ens {

Dtype choose_dtype(const std::string& name, Device device) {
  const bool has_bf16 = backend(device).supports(Dtype::kBF16);
  if (name == "auto") return has_bf16 ? Dtype::kBF16 : Dtype::kF32;
  const Dtype dtype = parse_dtype(name);
  if (dtype != Dtype::kF32 && dtype != Dtype::kBF16) {
    usage_fail("networks run in float32 or bfloat16, not " + name, "dtype");
  }
  if (dtype == Dtype::kBF16 && !has_bf16) {
    static std::once_flag said;
    std::call_once(said,
                   [] { notice("this processor has no bfloat16 instructions; using float32"); });
    return Dtype::kF32;
  }
  return dtype;
}

}  // namespace ens
