// SPDX-License-Identifier: Apache-2.0
// The gradient of every operation of the table, with respect to every operand, against the numeric
// derivative of its naive loop (in double precision, so that an error of a thousandth shows).
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/compare.h"
#include "tests/support/gradcheck.h"
#include "tests/support/guarded_memory.h"
#include "tests/support/op_cases.h"

namespace ens::test {
namespace {

using naive::Array;

class OpGradients : public Guarded<testing::TestWithParam<OpCase>> {};

// y is weighted with fixed random numbers to make one number of it.
void check(const OpCase& c, Dtype dtype, double tolerance) {
  const std::vector<Array> values = operand_values(c, dtype);
  std::vector<Var> vars = operand_vars(c, values, dtype);
  const Var y = c.op(vars);
  const Tensor dy = uniform(y.shape(), 77).to(y.value().dtype());
  backward_with(y, dy);
  const Array weights(dy);
  const Scalar f = [&](const std::vector<Array>& at) {
    const Array out = c.naive(at);
    double total = 0;
    for (size_t i = 0; i < out.size(); ++i) total += weights.v[i] * out.v[i];
    return total;
  };
  for (size_t i = 0; i < vars.size(); ++i) {
    ASSERT_TRUE(vars[i].grad().defined()) << "operand " << i << " got no gradient";
    EXPECT_TRUE(is_gradient(f, values, i, Array(vars[i].grad()), {.tolerance = tolerance}));
    if (c.operands[i].parameter) {
      EXPECT_EQ(vars[i].grad().dtype(), Dtype::kF32) << "operand " << i;
    }
  }
}

TEST_P(OpGradients, MatchNumericDerivative) {
  check(GetParam(), Dtype::kF32, 5e-5 * GetParam().slack);
}

TEST_P(OpGradients, MatchNumericDerivativeInBFloat16) { check(GetParam(), Dtype::kBF16, 3e-2); }

// Only what requires a gradient gets one, and it does not depend on what else does.
TEST_P(OpGradients, FrozenOperandsGetNone) {
  const OpCase& c = GetParam();
  const std::vector<Array> values = operand_values(c, Dtype::kF32);
  std::vector<Var> all = operand_vars(c, values, Dtype::kF32);
  const Var full = c.op(all);
  const Tensor dy = uniform(full.shape(), 77);
  backward_with(full, dy);
  for (size_t live = 0; live < all.size(); ++live) {
    std::vector<Var> vars = operand_vars(c, values, Dtype::kF32);
    for (size_t i = 0; i < vars.size(); ++i) vars[i].set_requires_grad(i == live);
    const Var y = c.op(vars);
    EXPECT_TRUE(y.requires_grad());
    EXPECT_TRUE(near(y.value(), full.value(), 2e-5 * c.slack));
    backward_with(y, dy);
    for (size_t i = 0; i < vars.size(); ++i) {
      if (i == live) {
        EXPECT_TRUE(near(vars[i].grad(), all[i].grad(), 2e-5 * c.slack)) << "operand " << i;
      } else {
        EXPECT_FALSE(vars[i].grad().defined()) << "operand " << i;
      }
    }
  }
  for (const Var& v : all) v.set_requires_grad(false);
  EXPECT_FALSE(c.op(all).requires_grad());
}

INSTANTIATE_TEST_SUITE_P(Ops, OpGradients, testing::ValuesIn(op_cases()), case_name);

// ---- the check itself: a test that cannot fail is worth nothing

TEST(GradCheck, DetectsAnErrorOfOneInAThousand) {
  const Scalar cube_sum = [](const std::vector<Array>& a) {
    double total = 0;
    for (double x : a[0].v) total += x * x * x;
    return total;
  };
  const std::vector<Array> at{filled({5, 7}, Fill::kAwayFromZero, 3)};
  Array right = naive::map(at[0], [](double x) { return 3 * x * x; });
  EXPECT_TRUE(is_gradient(cube_sum, at, 0, right));
  EXPECT_FALSE(is_gradient(cube_sum, at, 0, naive::map(right, [](double g) { return 1.001 * g; })));
  EXPECT_FALSE(is_gradient(cube_sum, at, 0, Array(at[0].shape)));
  EXPECT_FALSE(is_gradient(cube_sum, at, 0, Array(Shape{7, 5})));
  right.v[17] += 0.05;  // one wrong element of 35
  EXPECT_FALSE(is_gradient(cube_sum, at, 0, right));
  EXPECT_FALSE(
      is_gradient([](const std::vector<Array>&) { return 1.0; }, at, 0, Array(at[0].shape)))
      << "a constant checks nothing";
}

TEST(Near, DetectsSmallErrors) {
  const Array a = filled({100}, Fill::kUniform, 1);
  Array b = a;
  EXPECT_TRUE(near(b, a, 1e-6));
  b.v[60] += 1e-4;
  EXPECT_FALSE(near(b, a, 1e-5));
  b.v[60] = std::nan("");
  EXPECT_FALSE(near(b, a, 1));
}

}  // namespace
}  // namespace ens::test
