// SPDX-License-Identifier: Apache-2.0
// Networks on which a device's executable is held against plain loops.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/nn/plan/reference.h"

namespace ens::test {

struct NetCase {
  std::string name;
  Shape input;
  std::function<void(Net&, int)> build;
};

// Channel counts both do and do not fit the vector width.
std::vector<NetCase> net_cases();

// Error relative to the largest number of the result: what rounding inside the network scales with.
void expect_close(const std::vector<double>& want, const Tensor& got, double tolerance);

}  // namespace ens::test
