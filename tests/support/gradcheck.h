// SPDX-License-Identifier: Apache-2.0
// Numeric derivatives, to hold gradients against.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "tests/support/naive.h"

namespace ens::test {

// A number computed from several arrays.
using Scalar = std::function<double(const std::vector<naive::Array>&)>;

struct GradCheck {
  // Half the width of the central difference. 1e-4 suits functions computed in double (its error is
  // then about 1e-8); float32 functions need about 1e-2.
  double step = 1e-4;
  // Relative to the largest derivative met. A wrong factor of 1 + tolerance is detected.
  double tolerance = 1e-4;
  // Checked one by one: this many elements, chosen evenly; all if there are no more than that.
  int elements = 24;
  // And so many random directions, each of which involves every element.
  int directions = 2;
};

// Is `gradient` the derivative of f with respect to inputs[which]? Fails too if every derivative
// met is zero, since such a check would accept a gradient that is never computed.
testing::AssertionResult is_gradient(const Scalar& f, std::vector<naive::Array> inputs,
                                     size_t which, const naive::Array& gradient,
                                     const GradCheck& options = {});

}  // namespace ens::test
