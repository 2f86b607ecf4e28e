// SPDX-License-Identifier: Apache-2.0
// Every operation of the table on the GPU against the CPU: values and the gradients of all
// operands, in float32, bfloat16 and float16, plain and channels-last.
//
// The CPU computes in float32 from the very numbers that the GPU's type holds, so the tolerances
// are what the GPU's own roundings may add: float32 sums in another order; three roundings to 8
// bits for bfloat16, to 11 for float16.
#include "tests/nn/cuda/gpu.h"
#include "tests/support/compare.h"
#include "tests/support/guarded_memory.h"
#include "tests/support/op_cases.h"

namespace ens::test {
namespace {

using naive::Array;

class GpuOps : public Guarded<OnGpu<testing::TestWithParam<OpCase>>> {
 protected:
  void compare(Dtype dtype, Layout layout, double tolerance, double grad_tolerance) {
    const OpCase& c = GetParam();
    const std::vector<Array> values = operand_values(c, dtype);
    const std::vector<Var> there = operand_vars(c, values, dtype, layout, kGpu);
    const std::vector<Var> here = operand_vars(c, values, Dtype::kF32);
    const Var got = c.op(there), want = c.op(here);
    EXPECT_EQ(got.value().device(), kGpu);
    EXPECT_TRUE(near(got.value(), want.value(), tolerance));
    const Tensor dy = uniform(want.shape(), 77).to(got.value().dtype());
    backward_with(got, dy.to(kGpu));
    backward_with(want, dy.to(Dtype::kF32));
    for (size_t i = 0; i < there.size(); ++i) {
      ASSERT_TRUE(there[i].grad().defined()) << "operand " << i << " got no gradient";
      // A weight's gradient may be in the activations' type.
      EXPECT_TRUE(there[i].grad().dtype() == there[i].value().dtype() ||
                  there[i].grad().dtype() == dtype)
          << "operand " << i;
      EXPECT_TRUE(near(there[i].grad(), here[i].grad(), grad_tolerance)) << "operand " << i;
    }
  }
};

TEST_P(GpuOps, MatchTheCpu) {
  compare(Dtype::kF32, Layout::kPlain, 5e-6 * GetParam().slack, 5e-5 * GetParam().slack);
}

TEST_P(GpuOps, MatchTheCpuChannelsLast) {
  compare(Dtype::kF32, Layout::kChannelsLast, 5e-6 * GetParam().slack, 5e-5 * GetParam().slack);
}

TEST_P(GpuOps, MatchTheCpuInBFloat16) {
  compare(Dtype::kBF16, Layout::kChannelsLast, 1.2e-2, 3e-2);
}

TEST_P(GpuOps, MatchTheCpuInFloat16) { compare(Dtype::kF16, Layout::kChannelsLast, 1.5e-3, 4e-3); }

INSTANTIATE_TEST_SUITE_P(Ops, GpuOps, testing::ValuesIn(op_cases()), case_name);

}  // namespace
}  // namespace ens::test
