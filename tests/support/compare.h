// SPDX-License-Identifier: Apache-2.0
// Comparing numbers, and making them.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "nn/autograd/var.h"
#include "tests/support/naive.h"

namespace ens::test {

// Every element: |got - want| <= tolerance * (|want| + r), r the root mean square of want. So the
// tolerance is relative, and elements near zero are measured against the size of their neighbours.
// Unequal shapes, NaN and infinity fail. The message names the worst element.
testing::AssertionResult near(const naive::Array& got, const naive::Array& want, double tolerance);
testing::AssertionResult near(const Tensor& got, const Tensor& want, double tolerance);
testing::AssertionResult near(const Tensor& got, const naive::Array& want, double tolerance);

enum class Fill {
  kUniform,       // [-1, 1)
  kPositive,      // [0.5, 2)
  kAwayFromZero,  // 0.2 <= |x| < 1.2
  kSpread,        // multiples of 1/64, never two equal ones within 250 neighbours
  kSpreadOdd,     // odd multiples of 1/128: never the same, nor the same size, as kSpread's
};
// The same on every platform; different seeds, different numbers.
naive::Array filled(const Shape& shape, Fill fill, uint32_t seed);
Tensor uniform(const Shape& shape, uint32_t seed);  // float32 in [-1, 1)

// Runs the tape behind y as if dL/dy were dy (y's shape).
void backward_with(const Var& y, const Tensor& dy);

// Runs `f`, which must throw an ens::Error whose message holds `part`.
#define ENS_EXPECT_ERROR(statement, part)                                       \
  try {                                                                         \
    statement;                                                                  \
    ADD_FAILURE() << "no error from " #statement;                               \
  } catch (const ens::Error& e) {                                               \
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what(); \
  }

}  // namespace ens::test
