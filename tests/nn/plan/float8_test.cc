// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/float8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "nn/core/float8.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"
#include "tests/nn/plan/cases.h"
#include "tests/nn/plan/e4m3.h"

namespace ens {
namespace {

using test::expect_close;
using test::interpret;
using test::Net;
using test::net_cases;
using test::random_batch;

bool is_layer(const GraphStep& s) {
  return s.kind == GraphStep::Kind::kConv || s.kind == GraphStep::Kind::kLinear;
}

// The largest magnitudes that plain loops see.
std::vector<double> largest_inputs(const Graph& graph, const Tensor& images) {
  std::vector<double> largest(graph.steps.size(), 0);
  interpret(graph, images, [&](const GraphStep& s, std::vector<double>& x) {
    double& most = largest[static_cast<size_t>(&s - graph.steps.data())];
    for (const double v : x) most = std::max(most, std::abs(v));
  });
  std::vector<double> layers;
  for (size_t i = 0; i < graph.steps.size(); ++i) {
    if (is_layer(graph.steps[i])) layers.push_back(largest[i]);
  }
  return layers;
}

void expect_ranges(const std::vector<float>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4 * want[i]) << i;
}

float round_e4m3(float x, float scale) {
  return static_cast<float>(test::e4m3_value(test::e4m3_bits(x / scale))) * scale;
}

// The same network by plain loops and a table, with every step that is calibrated rounded.
std::vector<double> rounded_by_table(Graph graph, const Tensor& images) {
  for (GraphStep& s : graph.steps) {
    if (!takes_float8(s)) continue;
    s.weight = s.weight.clone();
    const auto w = s.weight.span<float>();
    const size_t row = w.size() / static_cast<size_t>(s.weight.dim(0));
    for (size_t o = 0; o < w.size(); o += row) {
      float largest = 0;
      for (size_t i = o; i < o + row; ++i) largest = std::max(largest, std::abs(w[i]));
      for (size_t i = o; i < o + row; ++i) {
        if (largest > 0) w[i] = round_e4m3(w[i], largest / 448);
      }
    }
  }
  return interpret(graph, images, [](const GraphStep& s, std::vector<double>& x) {
    if (!takes_float8(s)) return;
    for (double& v : x) v = round_e4m3(static_cast<float>(v), 2 * s.input_max / 448);
  });
}

class Float8Table : public testing::TestWithParam<size_t> {
 protected:
  void SetUp() override { net_cases()[GetParam()].build(net_, net_.graph.input); }
  Tensor images(int64_t count, uint64_t seed) const {
    return random_batch(count, net_.graph.shape(net_.graph.input), seed);
  }

  Net net_{net_cases()[GetParam()].input};
};

TEST_P(Float8Table, FindsTheLargestInputs) {
  const Tensor x = images(34, 3);  // more than are computed at once
  expect_ranges(input_ranges(net_.graph, x), largest_inputs(net_.graph, x));
  const Graph fused = fuse(net_.graph);
  expect_ranges(input_ranges(fused, x), largest_inputs(fused, x));
}

// Whatever is absorbed, and wherever a convolution moves to: the range is still that of its input.
TEST_P(Float8Table, FusedLayersKeepTheirRanges) {
  const Tensor x = images(4, 3);
  set_input_ranges(net_.graph, input_ranges(net_.graph, x));
  const Graph fused = fuse(net_.graph);
  std::vector<float> kept;
  for (const GraphStep& s : fused.steps) {
    if (is_layer(s)) kept.push_back(s.input_max);
  }
  expect_ranges(kept, largest_inputs(fused, x));
}

TEST_P(Float8Table, WithoutRangesItIsFloat32) {
  const Graph fused = fuse(net_.graph);
  const Tensor x = images(4, 4);
  expect_close(interpret(fused, x), run_float8(fused, x), 1e-4);
}

// A number near a tie may go either way in a deep network: a sixteenth of it, somewhere.
TEST_P(Float8Table, RoundsAsTheTableDoes) {
  Graph fused = fuse(net_.graph);
  const Tensor x = images(4, 5);
  set_input_ranges(fused, input_ranges(fused, images(4, 3)));
  expect_close(rounded_by_table(fused, x), run_float8(fused, x), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Nets, Float8Table, testing::Range<size_t>(0, net_cases().size()),
                         [](const auto& each) { return net_cases()[each.param].name; });

// One layer, where no number depends on an earlier rounding, with residual and ReLU.
TEST(Float8, OneLayerIsExact) {
  struct Case {
    int kernel;
    ConvSpec spec;
    bool bias;
  };
  for (const Case& c : {Case{3, {1, 1, 1, 1}, true}, {3, {2, 1, 1, 1}, false}, {1, {}, true}}) {
    Net net({32, 6, 6});
    const int y = net.conv(net.graph.input, 48, c.kernel, c.spec, c.bias);
    net.relu(net.add(y, net.conv(net.graph.input, 48, 1, {c.spec.stride, 0, 1, 1})));
    Graph graph = fuse(net.graph);
    ASSERT_EQ(graph.steps.size(), 2u);
    const Tensor x = random_batch(3, {32, 6, 6});
    set_input_ranges(graph, {0.9f, 1.1f});  // numbers up to 4: some are cut off
    expect_close(rounded_by_table(graph, x), run_float8(graph, x), 1e-5);
  }
  Net net({48});
  net.linear(net.graph.input, 32);
  const Tensor x = random_batch(70, {48});  // more than are computed at once
  set_input_ranges(net.graph, input_ranges(net.graph, x));
  const auto want = rounded_by_table(net.graph, x);
  expect_close(want, run_float8(net.graph, x), 1e-5);
  const auto exact = interpret(net.graph, x);
  double moved = 0;
  for (size_t i = 0; i < want.size(); ++i) moved = std::max(moved, std::abs(want[i] - exact[i]));
  EXPECT_GT(moved, 1e-3) << "nothing was rounded";
}

TEST(Float8, OnlyCalibratedLayersThatTensorCoresTake) {
  Net net({16, 4, 4});
  int x = net.conv(net.graph.input, 32, 3);
  x = net.conv(x, 24, 1);                // 24 outputs
  x = net.conv(x, 32, 1);                // 24 inputs
  x = net.conv(x, 32, 1, {1, 0, 1, 2});  // groups
  net.linear(net.flatten(net.relu(x)), 16);
  for (const GraphStep& s : net.graph.steps) EXPECT_FALSE(takes_float8(s));
  set_input_ranges(net.graph, {1, 1, 1, 1, 1});
  std::vector<bool> takes;
  for (const GraphStep& s : net.graph.steps) takes.push_back(takes_float8(s));
  EXPECT_EQ(takes, (std::vector<bool>{true, false, false, false, false, false, true}));
}

TEST(Float8, ScalesReachToTheLargestWeightAndTwiceTheRange) {
  Net net({16});
  net.linear(net.graph.input, 32);
  GraphStep& step = net.graph.steps[0];
  for (float& w : step.weight.span<float>().subspan(16, 16)) w = 0;  // a channel without weights
  set_input_ranges(net.graph, {5});
  const Float8Scales scales = float8_scales(step);
  EXPECT_FLOAT_EQ(scales.input, 10.0f / 448);
  ASSERT_EQ(scales.weight.size(), 32u);
  EXPECT_GT(scales.weight[1], 0);
  const auto w = step.weight.span<float>().first(16);
  const float largest = *std::ranges::max_element(w, {}, [](float v) { return std::abs(v); });
  EXPECT_EQ(scales.weight[0], std::abs(largest) / 448);
  const Tensor x = random_batch(2, {16});
  expect_close(rounded_by_table(net.graph, x), run_float8(net.graph, x), 1e-5);
}

TEST(Float8, AnInputOfZerosFitsAnyRange) {
  Net net({16, 4, 4});
  net.conv(net.graph.input, 16, 3);
  const Tensor zeros = Tensor::zeros({2, 16, 4, 4});
  const auto ranges = input_ranges(net.graph, zeros);
  EXPECT_EQ(ranges, std::vector<float>{1});
  set_input_ranges(net.graph, ranges);
  expect_close(interpret(net.graph, zeros), run_float8(net.graph, zeros), 1e-5);
}

TEST(Float8, WhatCannotBeCalibratedIsAnError) {
  Net net({16, 4, 4});
  net.conv(net.relu(net.conv(net.graph.input, 16, 3, {1, 1, 1, 1})), 16, 3);
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Tensor x = random_batch(40, {16, 4, 4});
    x.span<float>().back() = bad;
    EXPECT_THROW(input_ranges(net.graph, x), Error);
  }
  Graph huge = net.graph;  // finite numbers that a layer makes infinite
  huge.steps[0].weight = Tensor::full(huge.steps[0].weight.shape(), 3e38f);
  EXPECT_THROW(input_ranges(huge, Tensor::full({1, 16, 4, 4}, 2)), Error);
  EXPECT_THROW(input_ranges(net.graph, random_batch(2, {16, 4, 5})), Error);
  EXPECT_THROW(run_float8(net.graph, Tensor()), Error);

  for (const std::vector<float>& bad : {std::vector<float>{},
                                        {1},
                                        {1, 2, 3},
                                        {1, 0},
                                        {-1, 1},
                                        {1, NAN},
                                        {INFINITY, 1},
                                        {1, 9000}}) {
    EXPECT_THROW(set_input_ranges(net.graph, bad), Error);
  }
  set_input_ranges(net.graph, {1, 2});
  EXPECT_EQ(net.graph.steps[2].input_max, 2);
}

TEST(Float8, PlansSayWhatTheyCannotDo) {
  Net net({16, 4, 4});
  net.conv(net.graph.input, 16, 3);
  Graph calibrated = net.graph;
  set_input_ranges(calibrated, {1});
  EXPECT_THROW(Plan({calibrated, net.graph}, {}, Dtype::kF32, 4), Error);
  try {
    Plan(calibrated, {}, Dtype::kF8, 4);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the CPU does not serve in float8"), std::string::npos)
        << e.what();
  }
}

}  // namespace
}  // namespace ens
