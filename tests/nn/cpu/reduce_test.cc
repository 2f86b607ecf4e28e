// SPDX-License-Identifier: Apache-2.0
// Sums and the classification loss against plain loops in double.
#include "base/error.h"
#include "tests/nn/cpu/naive.h"

namespace ens {
namespace {

void check(const Shape& from, const Shape& to, Dtype dtype, Layout layout) {
  const Tensor x = random_tensor(from, 1, dtype, layout, 0.3f);
  const Values vx = values(x);
  Values want(static_cast<size_t>(to.numel()));
  for (int64_t i = 0; i < from.numel(); ++i) {
    int64_t rest = i, out = 0, step = 1;
    for (int axis = from.rank() - 1; axis >= 0; --axis) {
      out += (to[axis] == 1 ? 0 : rest % from[axis]) * step;
      step *= to[axis];
      rest /= from[axis];
    }
    want[static_cast<size_t>(out)] += vx[static_cast<size_t>(i)];
  }
  const Tensor y = cpu_backend().sum_to(x, to);
  EXPECT_EQ(y.shape(), to);
  EXPECT_EQ(y.dtype(), Dtype::kF32);
  EXPECT_EQ(y.layout(), Layout::kPlain);
  expect_near(y, want, 1e-5,
              from.str() + " to " + to.str() + " " + name(dtype) + " " + name(layout));
}

TEST(SumTo, EverySubsetOfAxes) {
  for (const Shape& from : {Shape{3, 16, 4, 5}, Shape{64, 32, 7, 9}, Shape{2, 5, 3, 1}})
    for (int subset = 0; subset < 16; ++subset) {
      Shape to = from;
      for (int axis = 0; axis < 4; ++axis) {
        if (subset >> axis & 1) to.set(axis, 1);
      }
      for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
        for (Layout layout : all_layouts()) check(from, to, dtype, layout);
    }
}

TEST(SumTo, OtherRanks) {
  check({1000}, {1}, Dtype::kF32, Layout::kPlain);
  check({100000}, {1}, Dtype::kF32, Layout::kPlain);
  check({300, 700}, {300, 1}, Dtype::kF32, Layout::kPlain);
  check({300, 700}, {1, 700}, Dtype::kBF16, Layout::kPlain);
  check({4, 5, 6}, {4, 1, 6}, Dtype::kF32, Layout::kPlain);
  check({7, 9}, {7, 9}, Dtype::kF32, Layout::kPlain);
  expect_near(cpu_backend().sum_to(Tensor::empty({0, 3}), {1, 3}), Values(3), 1e-6);
}

TEST(SumTo, LongSumsStayExact) {
  const int64_t n = 20'000'000;  // float32 alone would stop at 2^24
  EXPECT_EQ(cpu_backend().sum_to(Tensor::full({n}, 1.0f), {1}).item(), static_cast<float>(n));
}

TEST(CrossEntropy, LossProbabilitiesAndGradient) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    const int64_t batch = 9, classes = 13;
    const Tensor logits = random_tensor({batch, classes}, 1, dtype, Layout::kPlain, 50, 20);
    std::vector<int32_t> labels;
    for (int64_t b = 0; b < batch; ++b) labels.push_back(static_cast<int32_t>(b * 5 % classes));
    const Tensor weight = random_tensor({batch}, 2);
    const Values v = values(logits), w = values(weight);
    Values loss, probs, grad;
    for (int64_t b = 0; b < batch; ++b) {
      double sum = 0;
      const auto row = static_cast<size_t>(b * classes);
      const auto label = static_cast<size_t>(labels[static_cast<size_t>(b)]);
      for (size_t k = 0; k < static_cast<size_t>(classes); ++k) sum += std::exp(v[row + k] - 50);
      loss.push_back(std::log(sum) - (v[row + label] - 50));
      for (size_t k = 0; k < static_cast<size_t>(classes); ++k) {
        probs.push_back(std::exp(v[row + k] - 50) / sum);
        grad.push_back(w[static_cast<size_t>(b)] * (probs.back() - (k == label ? 1 : 0)));
      }
    }
    Tensor p;
    const Tensor targets = Tensor::from_labels(labels);
    expect_near(cpu_backend().softmax_cross_entropy(logits, targets, {}, p), loss, 1e-5);
    expect_near(p, probs, 1e-5);
    const Tensor g = cpu_backend().softmax_cross_entropy_grad(p, targets, {}, weight, dtype);
    EXPECT_EQ(g.dtype(), dtype);
    expect_near(g, grad, dtype == Dtype::kF32 ? 1e-5 : 5e-3);
  }
}

TEST(CrossEntropy, LabelOutOfRangeIsAnError) {
  Tensor p;
  const std::vector<int32_t> labels{0, 3};
  EXPECT_THROW(cpu_backend().softmax_cross_entropy(Tensor::zeros({2, 3}),
                                                   Tensor::from_labels(labels), {}, p),
               Error);
}

}  // namespace
}  // namespace ens
