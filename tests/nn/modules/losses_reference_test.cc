// SPDX-License-Identifier: Apache-2.0
// Losses and their gradients against PyTorch (make_torch_reference.py).
#include <gtest/gtest.h>

#include "nn/autograd/ops.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

using Loss = std::function<Var(const std::vector<Var>&)>;

void check(const std::string& name, const std::vector<Shape>& shapes, const Loss& loss) {
  static const Reference want("tests/nn/modules/data/losses.bin");
  std::vector<Var> operands;
  for (size_t i = 0; i < shapes.size(); ++i) {
    operands.emplace_back(pattern(name + "." + std::to_string(i), shapes[i]), true);
  }
  const Var value = loss(operands);
  EXPECT_TRUE(near(value.value(), want[name + ".value"], 1e-5));
  backward_with(value, value.shape() == Shape{1} ? Tensor::full({1}, 1)
                                                 : pattern(name + ".dy", value.shape()));
  for (size_t i = 0; i < operands.size(); ++i) {
    EXPECT_TRUE(near(operands[i].grad(), want[name + ".grad" + std::to_string(i)], 2e-5))
        << "operand " << i;
  }
}

TEST(LossReference, CrossEntropy) {
  const std::vector<int32_t> labels{3, 0, 9, 9, 5, 1};
  check("cross_entropy", {{6, 10}}, [&](const std::vector<Var>& v) {
    return softmax_cross_entropy(affine(v[0], 8, 0), Tensor::from_labels(labels));
  });
}

TEST(LossReference, CosineSimilarity) {
  check("cosine_similarity", {{4, 3, 5, 5}, {4, 3, 5, 5}},
        [](const std::vector<Var>& v) { return cosine_similarity(v[0], v[1]); });
}

TEST(LossReference, Mse) {
  check("mse", {{2, 3, 4, 4}, {2, 3, 4, 4}},
        [](const std::vector<Var>& v) { return mse(v[0], v[1]); });
}

TEST(LossReference, L1) {
  check("l1", {{2, 3, 4, 4}, {2, 3, 4, 4}},
        [](const std::vector<Var>& v) { return l1(v[0], v[1]); });
}

TEST(LossReference, TotalVariation) {
  check("total_variation", {{2, 3, 5, 7}},
        [](const std::vector<Var>& v) { return total_variation(v[0]); });
}

}  // namespace
}  // namespace ens::test
