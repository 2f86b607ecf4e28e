// SPDX-License-Identifier: Apache-2.0
// Every operation of the table against its naive loop: float32, bfloat16, and every memory layout
// that its operands can have.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "base/error.h"
#include "tests/support/compare.h"
#include "tests/support/guarded_memory.h"
#include "tests/support/op_cases.h"

namespace ens::test {
namespace {

using naive::Array;

constexpr double kF32Tolerance = 5e-6;
constexpr double kBF16Tolerance =
    1.6e-2;  // three roundings to 8 bits; Winograd's are twice as large

class OpValues : public Guarded<testing::TestWithParam<OpCase>> {};

TEST_P(OpValues, MatchesNaiveLoop) {
  const OpCase& c = GetParam();
  const std::vector<Array> values = operand_values(c, Dtype::kF32);
  const Var y = c.op(operand_vars(c, values, Dtype::kF32));
  EXPECT_EQ(y.value().dtype(), Dtype::kF32);
  EXPECT_TRUE(near(y.value(), c.naive(values), kF32Tolerance * c.slack));
}

TEST_P(OpValues, MatchesNaiveLoopInBFloat16) {
  const OpCase& c = GetParam();
  const std::vector<Array> values = operand_values(c, Dtype::kBF16);
  const Var y = c.op(operand_vars(c, values, Dtype::kBF16));
  EXPECT_TRUE(near(y.value(), c.naive(values), kBF16Tolerance));
}

// Operations on images.
class OpLayouts : public Guarded<testing::TestWithParam<OpCase>> {};

TEST_P(OpLayouts, AreAllAccepted) {
  const OpCase& c = GetParam();
  const std::vector<Array> values = operand_values(c, Dtype::kF32);
  const Array want = c.naive(values);
  const Tensor dy = uniform(want.shape, 77);
  std::vector<Var> plain = operand_vars(c, values, Dtype::kF32);
  backward_with(c.op(plain), dy);
  for (const Layout layout : {Layout::kChannelsLast, Layout::kBlocked8, Layout::kBlocked16}) {
    std::vector<Var> vars = operand_vars(c, values, Dtype::kF32, layout);
    bool any = false;
    for (const Var& v : vars) any |= v.value().layout() == layout;
    if (!any) continue;
    SCOPED_TRACE(name(layout));
    const Var y = c.op(vars);
    EXPECT_TRUE(near(y.value(), want, kF32Tolerance * c.slack));
    // The gradient from above may come in another layout than y's own.
    for (const Layout from : {Layout::kPlain, layout}) {
      for (const Var& v : vars) v.zero_grad();
      const bool fits = from == Layout::kPlain || (dy.rank() == 4 && dy.dim(1) % 16 == 0);
      backward_with(c.op(vars), fits ? dy.with_layout(from) : dy);
      for (size_t i = 0; i < vars.size(); ++i) {
        EXPECT_TRUE(near(vars[i].grad(), plain[i].grad(), 10 * kF32Tolerance * c.slack))
            << "gradient of operand " << i;
      }
    }
  }
}

// Results of operations feed other operations in whatever layout and memory they came: chain one
// after a convolution, whose result is the backend's own choice.
TEST_P(OpLayouts, OfAnotherResultAreAccepted) {
  const OpCase& c = GetParam();
  std::vector<Array> values = operand_values(c, Dtype::kF32);
  std::vector<Var> vars = operand_vars(c, values, Dtype::kF32);
  const int64_t channels = c.operands[0].shape[1];
  Array identity(Shape{channels, channels, 1, 1});
  for (int64_t k = 0; k < channels; ++k) identity.at(k, k, 0, 0) = 1;
  vars[0] = conv2d(vars[0], Var(identity.tensor()), Var(), {});
  EXPECT_TRUE(near(c.op(vars).value(), c.naive(values), kF32Tolerance * c.slack));
}

std::vector<OpCase> image_cases() {
  std::vector<OpCase> cases;
  for (const OpCase& c : op_cases()) {
    if (c.operands[0].shape.rank() == 4) cases.push_back(c);
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Ops, OpValues, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, OpLayouts, testing::ValuesIn(image_cases()), case_name);

TEST(GuardedMemoryTest, SeesWritesOutOfBounds) {
  for (const int64_t at : {-64, -1, 5, 6, 68}) {
    GuardedMemory memory;
    const Tensor t = Tensor::zeros({5});
    EXPECT_TRUE(memory.intact());
    t.data<float>()[at] = 1;
    const testing::AssertionResult result = memory.intact();
    EXPECT_FALSE(result) << at;
    EXPECT_NE(std::string(result.message()).find("a tensor of 20 bytes on cpu was overrun"),
              std::string::npos)
        << result.message();
  }
}

TEST(GuardedMemoryTest, StartsAsNotANumber) {
  GuardedMemory memory;
  EXPECT_TRUE(std::isnan(Tensor::empty({3}).to_vector()[2]));
  EXPECT_TRUE(std::isnan(Tensor::empty({3}, Dtype::kBF16).to_vector()[2]));
}

// ---- what does not fit the table

TEST(BatchNormTrain, RemembersBatchStatistics) {
  for (const Shape& shape : {Shape{4, 3, 5, 2}, Shape{2, 16, 4, 4}, Shape{7, 5}}) {
    for (const bool relu : {false, true}) {
      Array x = filled(shape, Fill::kUniform, 1);
      for (size_t i = 0; i < x.size(); ++i) x.v[i] += 3;  // a mean far from zero
      const Shape channels{shape[1]};
      const Array gamma = filled(channels, Fill::kPositive, 2);
      const Array beta = filled(channels, Fill::kUniform, 3);
      Array want_mean, want_var;
      naive::batch_norm_train(x, gamma, beta, 1e-5, relu, &want_mean, &want_var);
      // Running statistics that keep half of what they were.
      BatchNormSpec spec{.relu = relu, .momentum = 0.5f};
      spec.running_mean = Tensor::full(channels, 7);
      spec.running_var = Tensor::full(channels, 9);
      batch_norm_train(Var(x.tensor()), Var(gamma.tensor()), Var(beta.tensor()), Var(), spec);
      const double n = static_cast<double>(x.size()) / static_cast<double>(shape[1]);
      const auto half = [](double start, double factor) {
        return [=](double now) { return (start + factor * now) / 2; };
      };
      EXPECT_TRUE(near(spec.running_mean, naive::map(want_mean, half(7, 1)), 1e-5)) << shape.str();
      EXPECT_TRUE(near(spec.running_var, naive::map(want_var, half(9, n / (n - 1))), 1e-4))
          << shape.str();
    }
  }
}

TEST(BatchNormTrain, LargeMeanKeepsItsPrecision) {
  Array x = filled({8, 3, 8, 8}, Fill::kUniform, 1);
  for (double& v : x.v) v = static_cast<float>(v + 100);
  const Array one = naive::map(Array(Shape{3}), [](double) { return 1.0; });
  const Array zero(Shape{3});
  const Var y = batch_norm_train(Var(x.tensor()), Var(one.tensor()), Var(zero.tensor()), Var(), {});
  EXPECT_TRUE(near(y.value(), naive::batch_norm_train(x, one, zero, 1e-5, false), 1e-3));
}

TEST(SoftmaxCrossEntropy, LargeLogitsDoNotOverflow) {
  const Tensor logits = Tensor::from({1000, 0, -1000, 500, 500, -1e4f}, {2, 3});
  const std::vector<int32_t> labels{1, 0};
  const Var loss = softmax_cross_entropy(Var(logits, true), Tensor::from_labels(labels));
  EXPECT_NEAR(loss.item(), (1000 + std::log(2.0)) / 2, 1e-3);
}

TEST(Gather, PaddingGetsNoGradientAndRepeatedRowsAddUp) {
  const Var table(filled({4, 3}, Fill::kUniform, 3).tensor(), true);
  const Tensor ids = Tensor::from_labels(std::vector<int32_t>{0, 2, 1, 2, 1, 1}).reshape({2, 3});
  const Var y = gather(table, ids, /*none=*/1);
  EXPECT_EQ(y.shape(), (Shape{2, 3, 3}));
  EXPECT_TRUE(near(slice(reshape(y, {6, 3}), 0, 2, 1).value(), slice(table, 0, 1, 1).value(),
                   0));  // the padding's value is there
  backward_with(y, Tensor::full({2, 3, 3}, 0.5f));
  EXPECT_TRUE(
      near(table.grad(), Tensor::from({.5f, .5f, .5f, 0, 0, 0, 1, 1, 1, 0, 0, 0}, {4, 3}), 1e-7));
}

TEST(Gather, GradientsRepeatToTheBit) {
  const Tensor dy = filled({3000, 40}, Fill::kUniform, 4).tensor();
  std::vector<int32_t> ids(3000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 7);
  const auto gradient = [&] {
    const Var table(Tensor::zeros({9, 40}), true);
    backward_with(gather(table, Tensor::from_labels(ids)), dy);
    return table.grad().to_vector();
  };
  const std::vector<float> first = gradient();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(gradient(), first);
}

TEST(LogSoftmax, LargeAndSmallLogitsStayFinite) {
  const Var y = log_softmax(Var(Tensor::from({1000, 0, -1000, -1000, -1000, -1000}, {2, 3})));
  EXPECT_TRUE(near(y.value(),
                   Tensor::from({0, -1000, -2000, -1.0986123f, -1.0986123f, -1.0986123f}, {2, 3}),
                   1e-5));
}

TEST(TopK, TiesGoToTheFirst) {
  const TopK top = top_k(Tensor::from({1, 3, 3, 2, 0, 0, 0, 0}, {2, 4}), 3);
  EXPECT_EQ(top.index, (std::vector<int32_t>{1, 2, 3, 0, 1, 2}));
  EXPECT_EQ(top.score, (std::vector<float>{3, 3, 2, 0, 0, 0}));
}

TEST(CosineSimilarity, ZeroRowCountsAsZero) {
  const Var a(Tensor::from({0, 0, 0, 1, 2, 3}, {2, 3}), true);
  const Var b(Tensor::from({1, 2, 3, -1, -2, -3}, {2, 3}), true);
  const Var y = cosine_similarity(a, b);
  EXPECT_NEAR(y.value().to_vector()[0], 0, 1e-6);
  EXPECT_NEAR(y.value().to_vector()[1], -1, 1e-6);
  sum(y).backward();
  for (const Var& v : {a, b}) {
    for (float g : v.grad().to_vector()) EXPECT_TRUE(std::isfinite(g));
  }
}

TEST(CosineSimilarity, ScaleDoesNotMatter) {
  const Array a = filled({3, 40}, Fill::kUniform, 1), b = filled({3, 40}, Fill::kUniform, 2);
  for (const double scale : {1e-3, 1.0, 1e4}) {
    const Array s = naive::map(a, [scale](double v) { return scale * v; });
    EXPECT_TRUE(near(cosine_similarity(Var(s.tensor()), Var(b.tensor())).value(),
                     naive::cosine_similarity(a, b), 1e-5))
        << scale;
  }
}

TEST(Sigmoid, SaturatesWithoutOverflow) {
  const Var x(Tensor::from({-200, -30, 0, 30, 200}, {5}), true);
  const Var y = sigmoid(x);
  const std::vector<float> v = y.value().to_vector();
  EXPECT_NEAR(v[0], 0, 1e-12);
  EXPECT_NEAR(v[2], 0.5, 1e-7);
  EXPECT_NEAR(v[4], 1, 1e-7);
  backward_with(y, Tensor::full({5}, 1));
  for (float g : x.grad().to_vector()) EXPECT_TRUE(std::isfinite(g) && g >= 0);
}

TEST(MaxPool, PaddingNeverWins) {
  const Var x(Tensor::full({1, 1, 4, 4}, -5.0f), true);
  const Var y = max_pool(x, {3, 2, 1});
  for (float v : y.value().to_vector()) EXPECT_EQ(v, -5.0f);
}

TEST(AvgPool, PaddingIsNotCounted) {
  const Var y = avg_pool(Var(Tensor::full({1, 3, 4, 4}, 2.0f)), {3, 2, 1});
  for (float v : y.value().to_vector()) EXPECT_FLOAT_EQ(v, 2.0f);
}

TEST(Dropout, DropsAndScalesAndRepeats) {
  const Tensor ones = Tensor::full({64, 256}, 1.0f);
  const Var x(ones, true);
  Rng rng(7);
  const Rng::State before = rng.state();
  const Var y = dropout(x, 0.25f, rng);
  const std::vector<float> v = y.value().to_vector();
  size_t dropped = 0;
  for (float f : v) {
    if (f == 0)
      ++dropped;
    else
      EXPECT_FLOAT_EQ(f, 1 / 0.75f);
  }
  // 16384 draws: the standard deviation of the fraction is 0.0034.
  EXPECT_NEAR(static_cast<double>(dropped) / static_cast<double>(v.size()), 0.25, 0.02);
  sum(y).backward();
  EXPECT_EQ(x.grad().to_vector(), v);  // the same mask, and the input was one

  const Var other = dropout(x, 0.25f, rng);
  EXPECT_NE(other.value().to_vector(), v);
  rng.set_state(before);
  EXPECT_EQ(dropout(x, 0.25f, rng).value().to_vector(), v);
  EXPECT_EQ(dropout(x, 0.0f, rng).value().to_vector(), ones.to_vector());
}

TEST(ArgmaxAndAccuracy, CountRows) {
  const Tensor scores = Tensor::from({1, 3, 2, 9, -1, 0, -3, -2, -2.5f}, {3, 3});
  EXPECT_EQ(argmax_rows(scores), (std::vector<int32_t>{1, 0, 1}));
  const std::vector<int32_t> labels{1, 2, 1};
  EXPECT_NEAR(accuracy(scores, Tensor::from_labels(labels)), 2.0 / 3, 1e-12);
}

TEST(Maximum, TakesTheLargest) {
  std::vector<Var> v;
  for (float f : {0.5f, 2.0f, -3.0f}) v.emplace_back(Tensor::full({1}, f), true);
  const Var largest = maximum(v);
  EXPECT_EQ(largest.item(), 2.0f);
  affine(largest, 3, 0).backward();
  EXPECT_FALSE(v[0].grad().defined());
  EXPECT_EQ(v[1].grad().item(), 3.0f);
  EXPECT_FALSE(v[2].grad().defined());
}

TEST(Cast, RoundsToNearestEven) {
  // bfloat16 holds 8 bits: 1 + 1/128 exactly, 1 + 1/256 and 1 + 3/256 are ties.
  const Var x(Tensor::from({1 + 1 / 128.0f, 1 + 1 / 256.0f, 1 + 3 / 256.0f, -1e30f}, {4}), true);
  const Var y = cast(x, Dtype::kBF16);
  EXPECT_EQ(y.value().dtype(), Dtype::kBF16);
  const std::vector<float> v = y.value().to_vector();
  EXPECT_EQ(v[0], 1 + 1 / 128.0f);
  EXPECT_EQ(v[1], 1.0f);
  EXPECT_EQ(v[2], 1 + 2 / 128.0f);
  EXPECT_NEAR(v[3] / -1e30f, 1, 1 / 256.0);
  backward_with(y, Tensor::full({4}, 2.0f, Dtype::kBF16));
  EXPECT_EQ(x.grad().dtype(), Dtype::kF32);
  EXPECT_EQ(x.grad().to_vector(), std::vector<float>(4, 2.0f));
}

// ---- arguments that do not fit: an Error that names the operation

struct BadCall {
  std::string operation;
  std::function<void()> call;
};

Var zeros(const Shape& shape) { return Var(Tensor::zeros(shape), true); }

void PrintTo(const BadCall& c, std::ostream* out) { *out << c.operation; }

class BadArguments : public testing::TestWithParam<BadCall> {};

TEST_P(BadArguments, AreNamed) { ENS_EXPECT_ERROR(GetParam().call(), GetParam().operation); }

std::vector<BadCall> bad_calls() {
  static Rng rng(1);
  const Tensor two = Tensor::from({1, 1}, {2});
  return {
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 4, 4}), zeros({8, 4, 3, 3}), Var(), {1, 1});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 4, 4}), zeros({8, 3, 3}), Var(), {1, 1});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({3, 4}), zeros({8, 3, 3, 3}), Var(), {1, 1});
       }},
      {"conv2d",
       [] {
         conv2d(Var(), zeros({8, 3, 3, 3}), Var(), {1, 1});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 4, 4}), Var(), Var(), {1, 1});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 4, 4}), zeros({8, 3, 3, 3}), zeros({7}), {1, 1});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 2, 2}), zeros({8, 3, 3, 3}), Var(), {1, 0});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 2, 2}), zeros({8, 3, 3, 3}), Var(), {2, 0});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 4, 4}), zeros({8, 3, 3, 3}), Var(), {0, 1});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 3, 4, 4}), zeros({8, 3, 3, 3}), Var(), {1, -1});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 6, 4, 4}), zeros({8, 2, 3, 3}), Var(), {1, 1, 1, 3});
       }},
      {"conv2d",
       [] {
         conv2d(zeros({2, 6, 4, 4}), zeros({8, 2, 3, 3}), Var(), {1, 1, 1, 0});
       }},
      {"conv_transpose2d",
       [] {
         conv_transpose2d(zeros({2, 3, 4, 4}), zeros({4, 3, 2, 2}), Var(), {2, 0});
       }},
      {"conv_transpose2d",
       [] {
         conv_transpose2d(zeros({2, 3, 4, 4}), zeros({3, 3, 2, 2}), Var(), {2, 0}, 2);
       }},
      {"conv_transpose2d",
       [] {
         conv_transpose2d(zeros({2, 3, 4, 4}), zeros({3, 3, 2, 2}), zeros({4}), {2, 0});
       }},
      {"conv_transpose2d",
       [] {
         conv_transpose2d(zeros({2, 3, 1, 1}), zeros({3, 3, 2, 2}), Var(), {1, 1});
       }},
      {"conv_transpose2d",
       [] {
         conv_transpose2d(zeros({2, 3, 4, 4}), zeros({3, 3, 3, 3}), Var(), {1, 1, 2}, 1);
       }},
      {"linear",
       [] {
         linear(zeros({2, 3}), zeros({5, 4}), Var());
       }},
      {"linear",
       [] {
         linear(zeros({2, 3, 1}), zeros({5, 3}), Var());
       }},
      {"linear",
       [] {
         linear(zeros({2, 3}), zeros({5, 3}), zeros({3}));
       }},
      {"batch_norm",
       [] {
         batch_norm_train(zeros({2, 3, 4, 4}), zeros({4}), zeros({3}), Var(), {});
       }},
      {"batch_norm",
       [] {
         batch_norm_train(zeros({2, 3, 4}), zeros({3}), zeros({3}), Var(), {});
       }},
      {"batch_norm",
       [] {
         batch_norm_train(zeros({2, 3, 4, 4}), zeros({3}), zeros({3}), zeros({2, 3, 4, 1}), {});
       }},
      {"batch_norm",
       [two] {
         batch_norm_eval(zeros({2, 2, 4, 4}), zeros({2}), zeros({3}), two, two, 1e-5f, false);
       }},
      {"channel_affine",
       [two] {
         channel_affine(zeros({2, 3, 4, 4}), two, two);
       }},
      {"max_pool",
       [] {
         max_pool(zeros({1, 1, 2, 2}), {3, 1, 0});
       }},
      {"max_pool",
       [] {
         max_pool(zeros({1, 2}), {2, 2, 0});
       }},
      {"max_pool",
       [] {
         max_pool(zeros({1, 1, 4, 4}), {2, 0, 0});
       }},
      {"max_pool",
       [] {
         max_pool(zeros({1, 1, 4, 4}), {2, 2, 2});
       }},
      {"avg_pool",
       [] {
         avg_pool(zeros({1, 1, 2, 2}), {3, 1, 0});
       }},
      {"global_avg_pool",
       [] {
         global_avg_pool(zeros({1, 2}));
       }},
      {"dropout",
       [] {
         dropout(zeros({1, 2}), 1.0f, rng);
       }},
      {"dropout",
       [] {
         dropout(zeros({1, 2}), -0.1f, rng);
       }},
      {"relu", [] { relu(Var()); }},
      {"sigmoid", [] { sigmoid(Var()); }},
      {"add",
       [] {
         add(zeros({2, 3}), zeros({2, 4}));
       }},
      {"add",
       [] {
         add(zeros({2, 3}), zeros({3}));
       }},
      {"sub",
       [] {
         sub(zeros({2, 3}), Var());
       }},
      {"mul",
       [] {
         mul(zeros({2, 3}), zeros({3, 2}));
       }},
      {"div",
       [] {
         div(zeros({2, 3}), zeros({3, 2}));
       }},
      {"add_relu",
       [] {
         add_relu(zeros({2, 3}), zeros({1, 3}));
       }},
      {"reshape",
       [] {
         reshape(zeros({2, 3}), {7});
       }},
      {"slice",
       [] {
         slice(zeros({2, 3}), 1, 2, 2);
       }},
      {"slice",
       [] {
         slice(zeros({2, 3}), 2, 0, 1);
       }},
      {"slice",
       [] {
         slice(zeros({2, 3}), 0, -1, 1);
       }},
      {"concat", [] { concat(std::vector<Var>{}, 0); }},
      {"concat",
       [] {
         concat(std::vector<Var>{zeros({2, 3}), zeros({2, 4})}, 0);
       }},
      {"concat",
       [] {
         concat(std::vector<Var>{zeros({2, 3}), zeros({2})}, 0);
       }},
      {"concat",
       [] {
         concat(std::vector<Var>{zeros({2, 3}), zeros({2, 3})}, 2);
       }},
      {"sum_to",
       [] {
         sum_to(zeros({2, 3}), {2, 2});
       }},
      {"sum_to",
       [] {
         sum_to(zeros({2, 3}), {3});
       }},
      {"matmul",
       [] {
         matmul(zeros({2, 3}), zeros({2, 3}));
       }},
      {"matmul",
       [] {
         matmul(zeros({2, 3}), zeros({3, 2}), false, true);
       }},
      {"channel_gram",
       [] {
         channel_gram(zeros({2, 3}));
       }},
      {"gather",
       [] {
         gather(zeros({2, 3}), Tensor::from_labels(std::vector<int32_t>{0, 2}));
       }},
      {"gather",
       [] {
         gather(zeros({2, 3}), Tensor::from_labels(std::vector<int32_t>{-1}));
       }},
      {"gather",
       [] {
         gather(zeros({2, 3}), Tensor::from({0}, {1}));
       }},
      {"add_position",
       [] {
         add_position(zeros({2, 3, 4}), zeros({2, 4}));
       }},
      {"log_softmax",
       [] {
         log_softmax(zeros({3, 0}));
       }},
      {"maximum", [] { maximum(std::vector<Var>{}); }},
      {"cosine_similarity",
       [] {
         cosine_similarity(zeros({2, 3}), zeros({3, 2}));
       }},
      {"softmax_cross_entropy",
       [two] {
         softmax_cross_entropy(zeros({2, 3}), two);
       }},
      {"softmax_cross_entropy",
       [] {
         softmax_cross_entropy(zeros({2, 3}), Tensor::from_labels(std::vector<int32_t>{1}));
       }},
      {"softmax_cross_entropy",
       [] {
         softmax_cross_entropy(zeros({2, 3}), Tensor::from_labels(std::vector<int32_t>{1, 3}));
       }},
      {"softmax_cross_entropy",
       [] {
         softmax_cross_entropy(zeros({2, 3}), Tensor::from_labels(std::vector<int32_t>{-1, 0}));
       }},
      {"mse",
       [] {
         mse(zeros({2, 3}), zeros({3, 2}));
       }},
      {"l1",
       [] {
         l1(zeros({2, 3}), zeros({1, 3}));
       }},
      {"ssim",
       [] {
         ssim(zeros({1, 3, 10, 11}), zeros({1, 3, 10, 11}));
       }},
      {"total_variation",
       [] {
         total_variation(zeros({1, 3, 1, 5}));
       }},
      {"argmax_rows", [] { argmax_rows(Tensor::zeros({4})); }},
      {"accuracy",
       [] {
         accuracy(Tensor::zeros({2, 3}), Tensor::from_labels(std::vector<int32_t>{1}));
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(Ops, BadArguments, testing::ValuesIn(bad_calls()),
                         [](const testing::TestParamInfo<BadCall>& i) {
                           return i.param.operation + "_" + std::to_string(i.index);
                         });

}  // namespace
}  // namespace ens::test
