// SPDX-License-Identifier: Apache-2.0
// The table of operations: one line per operation and shape. Every test of operations walks it:
// values against the naive loop, gradients against the numeric derivative of the naive loop, any
// memory layout, bfloat16, and one device against another. A new operation needs a naive loop
// (naive.h) and its lines here, nothing else.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "nn/autograd/ops.h"
#include "tests/support/compare.h"
#include "tests/support/naive.h"

namespace ens::test {

struct Operand {
  Shape shape;
  Fill fill = Fill::kUniform;
  bool parameter = false;  // weights, bias, ...: float32 and plain, whatever the activations are
};

struct OpCase {
  std::string name;  // letters, digits and underscores
  std::vector<Operand> operands;
  std::function<Var(const std::vector<Var>&)> op;
  std::function<naive::Array(const std::vector<naive::Array>&)> naive;
  double slack = 1;  // multiplies every tolerance, for ill-conditioned operations
  double flops = 0;  // of convolutions and matrix products, forward; a multiply-add is 2
};

const std::vector<OpCase>& op_cases();
// Of a network's sizes, to be timed and not compared: tests/nn/autograd/ops_main.cc.
const std::vector<OpCase>& op_perf_cases();

// The operands' numbers, rounded to what `dtype` can hold.
std::vector<naive::Array> operand_values(const OpCase& c, Dtype dtype);
// The same as Vars: activations in `dtype`, `layout` (where the shape allows it) and on `device`.
std::vector<Var> operand_vars(const OpCase& c, const std::vector<naive::Array>& values, Dtype dtype,
                              Layout layout = Layout::kPlain, Device device = {});

// For test names.
inline std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }
void PrintTo(const OpCase& c, std::ostream* out);

}  // namespace ens::test
