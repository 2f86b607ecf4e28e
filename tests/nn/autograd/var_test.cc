// SPDX-License-Identifier: Apache-2.0
// The tape: accumulation, sharing, depth, recording on and off.
#include "nn/autograd/var.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "base/error.h"
#include "nn/autograd/ops.h"
#include "tests/support/compare.h"
#include "tests/support/gradcheck.h"

namespace ens::test {
namespace {

using naive::Array;

Var leaf(std::initializer_list<float> values, bool requires_grad = true) {
  return Var(Tensor::from(values, {static_cast<int64_t>(values.size())}), requires_grad);
}
using Floats = std::vector<float>;

TEST(Var, OneLeafUsedTwiceAddsUp) {
  const Var x = leaf({1, -2, 3});
  sum(mul(x, x)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{2, -4, 6}));
  x.zero_grad();
  sum(add(x, x)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{2, 2, 2}));
  x.zero_grad();
  sum(concat(std::vector<Var>{x, x, affine(x, 3, 0)}, 0)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{5, 5, 5}));
  x.zero_grad();
  sum(add_relu(x, x)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{2, 0, 2}));
}

TEST(Var, OneIntermediateUsedTwiceAddsUp) {
  // y = (x^2) * 3 + (x^2)^2: dy/dx = 6x + 4x^3
  const Var x = leaf({1, -2, 0.5f});
  const Var s = square(x);
  sum(add(affine(s, 3, 0), square(s))).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{10, -44, 3.5f}));
}

// add() hands one tensor to both operands; adding into one must not change the other.
TEST(Var, SharedGradientsStaySeparate) {
  const Var x = leaf({1, 2}), y = leaf({3, 4});
  // Older than the sum, so that its gradient reaches x after the shared one.
  const Var ten = affine(x, 10, 0);
  sum(add(add(x, y), ten)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{11, 11}));
  EXPECT_EQ(y.grad().to_vector(), (Floats{1, 1}));
  sum(affine(x, 2, 0)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{13, 13}));
  EXPECT_EQ(y.grad().to_vector(), (Floats{1, 1}));
}

TEST(Var, GradientsOfSeveralBackwardsAddUpUntilForgotten) {
  const Var x = leaf({1, 2});
  EXPECT_FALSE(x.grad().defined());
  for (int i = 1; i <= 3; ++i) {
    sum(square(x)).backward();
    EXPECT_EQ(x.grad().to_vector(), (Floats{2.0f * i, 4.0f * i}));
  }
  x.zero_grad();
  EXPECT_FALSE(x.grad().defined());
}

TEST(Var, DetachCutsTheTape) {
  const Var x = leaf({2, 3});
  const Var y = square(x);
  const Var cut = y.detach();
  EXPECT_FALSE(cut.requires_grad());
  EXPECT_EQ(cut.value().to_vector(), (Floats{4, 9}));
  sum(mul(cut, x)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{4, 9}));
}

TEST(Var, NoGradRecordsNothing) {
  const Var x = leaf({2, 3});
  EXPECT_TRUE(recording());
  {
    NoGrad outer;
    EXPECT_FALSE(recording());
    EXPECT_FALSE(square(x).requires_grad());
    {
      NoGrad inner;
      EXPECT_FALSE(recording());
    }
    EXPECT_FALSE(recording());
    std::thread([] { EXPECT_TRUE(recording()); }).join();  // of one thread only
  }
  EXPECT_TRUE(recording());
  EXPECT_TRUE(square(x).requires_grad());
}

TEST(Var, FrozenLeavesStayOut) {
  const Var x = leaf({2, 3}), w = leaf({5, 7}, false);
  sum(mul(x, w)).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{5, 7}));
  EXPECT_FALSE(w.grad().defined());
  EXPECT_FALSE(mul(w, w).requires_grad());
}

TEST(Var, DiamondsAreWalkedOnce) {
  // 40 levels of doubling: 2^40 paths. A walk path by path would never end.
  const Var x = leaf({1});
  Var y = x;
  for (int i = 0; i < 40; ++i) y = add(y, y);
  y.backward();
  EXPECT_EQ(x.grad().item(), static_cast<float>(1ll << 40));
}

TEST(Var, DeepTapesDoNotOverflowTheStack) {
  const Var x = leaf({1, 2});
  Var y = x;
  for (int i = 0; i < 200000; ++i) y = affine(y, 1, 0);
  {
    Var dropped = y;  // a tape that nobody differentiates is freed too
    for (int i = 0; i < 200000; ++i) dropped = add(dropped, y);
  }
  sum(y).backward();
  EXPECT_EQ(x.grad().to_vector(), (Floats{1, 1}));
}

TEST(Var, BackwardStartsAtOneNumber) {
  ENS_EXPECT_ERROR(leaf({1, 2}).backward(), "one number");
  ENS_EXPECT_ERROR(square(leaf({1, 2})).backward(), "[2]");
  ENS_EXPECT_ERROR(Var().backward(), "undefined");
}

TEST(Var, OnlyLeavesCanBeChanged) {
  const Var y = square(leaf({1, 2}));
  ENS_EXPECT_ERROR(y.mutable_value(), "leaf");
  ENS_EXPECT_ERROR(y.set_requires_grad(false), "leaf");
  ENS_EXPECT_ERROR(Var().value(), "undefined");
  ENS_EXPECT_ERROR(Var().grad(), "undefined");
}

TEST(Var, ThreadsDifferentiateTheirOwnTapes) {
  const Var shared(uniform({16, 24}, 5));  // requires no gradient
  const Var want(uniform({4, 24}, 6), true);
  sum(square(linear(want, shared, Var()))).backward();
  std::vector<std::thread> team;
  std::vector<Var> own;
  for (int t = 0; t < 4; ++t) own.emplace_back(uniform({4, 24}, 6), true);
  for (int t = 0; t < 4; ++t) {
    team.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        own[static_cast<size_t>(t)].zero_grad();
        sum(square(linear(own[static_cast<size_t>(t)], shared, Var()))).backward();
      }
    });
  }
  for (std::thread& t : team) t.join();
  for (const Var& v : own) EXPECT_TRUE(near(v.grad(), want.grad(), 1e-5));
}

// A small network, end to end: every operation's gradient handed on to the next one.
TEST(Var, WholeNetworkAgainstNumericDerivative) {
  const std::vector<Array> at{
      filled({3, 3, 8, 8}, Fill::kUniform, 1),  filled({8, 3, 3, 3}, Fill::kUniform, 2),
      filled({8}, Fill::kPositive, 3),          filled({8}, Fill::kUniform, 4),
      filled({16, 8, 3, 3}, Fill::kUniform, 5), filled({16, 8, 1, 1}, Fill::kUniform, 6),
      filled({5, 16}, Fill::kUniform, 7),       filled({5}, Fill::kUniform, 8)};
  const std::vector<int32_t> labels{4, 0, 2};
  std::vector<Var> v;
  for (const Array& a : at) v.emplace_back(a.tensor(), true);
  const Var h =
      batch_norm_train(conv2d(v[0], v[1], Var(), {1, 1}), v[2], v[3], Var(), {.relu = true});
  const Var sum_of_two = add(tanh(conv2d(h, v[4], Var(), {2, 1})), conv2d(h, v[5], Var(), {2, 0}));
  const Var loss = softmax_cross_entropy(linear(global_avg_pool(sum_of_two), v[6], v[7]),
                                         Tensor::from_labels(labels));
  loss.backward();
  const Scalar f = [&](const std::vector<Array>& a) {
    const Array n =
        naive::batch_norm_train(naive::conv2d(a[0], a[1], {}, {1, 1}), a[2], a[3], 1e-5, true);
    const Array left =
        naive::map(naive::conv2d(n, a[4], {}, {2, 1}), [](double x) { return std::tanh(x); });
    const Array both = naive::zip(left, naive::conv2d(n, a[5], {}, {2, 0}),
                                  [](double x, double y) { return x + y; });
    return naive::softmax_cross_entropy(naive::linear(naive::global_avg_pool(both), a[6], a[7]),
                                        labels)
        .v[0];
  };
  EXPECT_NEAR(loss.item(), f(at), 1e-5);
  for (size_t i = 0; i < at.size(); ++i) {
    EXPECT_TRUE(is_gradient(f, at, i, Array(v[i].grad()), {.step = 1e-5, .tolerance = 1e-3}));
  }
}

}  // namespace
}  // namespace ens::test
