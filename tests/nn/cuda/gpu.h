// SPDX-License-Identifier: Apache-2.0
// What the tests that need a GPU share.
#pragma once

#include <gtest/gtest.h>

#include "base/error.h"
#include "nn/core/backend.h"

namespace ens::test {

inline constexpr Device kGpu{Device::Type::kCuda, 0};

// Skips the test where there is no GPU. Exact float32, so that results can be held against the CPU.
inline bool gpu_is_there(std::string& why) {
  static const bool offered = (offer_gpus(), true);
  (void)offered;
  try {
    backend(kGpu).allow_tf32(false);
    return true;
  } catch (const Error& e) {
    why = e.what();
    return false;
  }
}

template <typename Base>
class OnGpu : public Base {
 protected:
  void SetUp() override {
    std::string why;
    if (!gpu_is_there(why)) GTEST_SKIP() << why;
  }
};

}  // namespace ens::test
