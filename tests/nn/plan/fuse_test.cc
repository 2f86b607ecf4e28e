// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/fuse.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "tests/nn/plan/reference.h"

namespace ens {
namespace {

using test::Net;
using Kind = GraphStep::Kind;

std::vector<Kind> kinds(const Graph& graph) {
  std::vector<Kind> result;
  for (const GraphStep& s : graph.steps) result.push_back(s.kind);
  return result;
}

// Folding changes float32 rounding only.
void expect_same_function(const Graph& before, const Graph& after) {
  const Tensor x = test::random_batch(2, before.shape(before.input));
  const auto want = test::interpret(before, x);
  const auto got = test::interpret(after, x);
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(want[i], got[i], 1e-5 * (1 + std::abs(want[i]))) << "number " << i;
  }
}

TEST(Fuse, BatchNormAndReluGoIntoTheConvolution) {
  Net net({3, 6, 6});
  net.relu(net.affine(net.conv(net.graph.input, 5, 3, {1, 1, 1, 1}, false)));
  const Graph fused = fuse(net.graph);
  ASSERT_EQ(kinds(fused), (std::vector{Kind::kConv}));
  EXPECT_TRUE(fused.steps[0].relu);
  EXPECT_TRUE(fused.steps[0].bias.defined());
  EXPECT_EQ(fused.steps[0].output, net.graph.output);
  expect_same_function(net.graph, fused);
}

TEST(Fuse, FoldsWithAndWithoutBiasIntoConvAndLinear) {
  for (bool bias : {false, true}) {
    Net net({4, 5, 5});
    const int conv = net.affine(net.conv(net.graph.input, 6, 3, {2, 1, 1, 2}, bias));
    net.relu(net.affine(net.linear(net.flatten(conv), 7, bias)));
    const Graph fused = fuse(net.graph);
    EXPECT_EQ(kinds(fused), (std::vector{Kind::kConv, Kind::kFlatten, Kind::kLinear}));
    expect_same_function(net.graph, fused);
  }
}

TEST(Fuse, LeavesTheOriginalAlone) {
  Net net({3, 6, 6});
  net.relu(net.affine(net.conv(net.graph.input, 5, 3)));
  const auto weight = net.graph.steps[0].weight.to_vector();
  fuse(net.graph);
  EXPECT_EQ(net.graph.steps.size(), 3u);
  EXPECT_FALSE(net.graph.steps[0].relu);
  EXPECT_EQ(net.graph.steps[0].weight.to_vector(), weight);
}

TEST(Fuse, InputNormalisationStaysAStep) {
  Net net({3, 6, 6});
  net.conv(net.affine(net.graph.input), 4, 3, {1, 1, 1, 1});
  EXPECT_EQ(kinds(fuse(net.graph)), (std::vector{Kind::kChannelAffine, Kind::kConv}));
}

TEST(Fuse, ResidualBlocks) {
  Net net({4, 8, 8});
  net.res_block(net.res_block(net.graph.input, 4, 1), 8, 2);
  const Graph fused = fuse(net.graph);
  ASSERT_EQ(kinds(fused), std::vector<Kind>(5, Kind::kConv));
  EXPECT_TRUE(fused.steps[0].relu);
  EXPECT_EQ(fused.steps[1].residual, net.graph.input);
  EXPECT_TRUE(fused.steps[1].relu);
  int residuals = 0;
  for (const GraphStep& s : fused.steps) residuals += s.residual >= 0;
  EXPECT_EQ(residuals, 2);
  EXPECT_EQ(fused.steps.back().output, net.graph.output);
  EXPECT_GE(fused.steps.back().residual, 0);
  expect_same_function(net.graph, fused);
}

TEST(Fuse, ResidualThatIsComputedAfterTheConvolution) {
  // The only convolution that can take the sum runs before the other operand.
  Net net({4, 6, 6});
  const int conv = net.conv(net.graph.input, 4, 3, {1, 1, 1, 1});
  const int other = net.activation(net.graph.input, UnaryOp::kTanh);
  net.add(other, conv);
  const Graph fused = fuse(net.graph);
  ASSERT_EQ(kinds(fused), (std::vector{Kind::kActivation, Kind::kConv}));
  EXPECT_EQ(fused.steps[1].residual, other);
  expect_same_function(net.graph, fused);
}

TEST(Fuse, AddWithoutAConvolutionTakesTheRelu) {
  Net net({4, 6, 6});
  const int a = net.max_pool(net.graph.input, {3, 1, 1});
  const int b = net.avg_pool(net.graph.input, {3, 1, 1});
  net.relu(net.add(a, b));
  const Graph fused = fuse(net.graph);
  ASSERT_EQ(kinds(fused), (std::vector{Kind::kMaxPool, Kind::kAvgPool, Kind::kAdd}));
  EXPECT_TRUE(fused.steps[2].relu);
  expect_same_function(net.graph, fused);
}

TEST(Fuse, AValueWithTwoReadersIsNotAbsorbed) {
  Net net({4, 6, 6});
  const int conv = net.conv(net.graph.input, 4, 3, {1, 1, 1, 1});
  const int relu = net.relu(conv);
  net.add(relu, net.affine(conv));
  const Graph fused = fuse(net.graph);
  EXPECT_EQ(kinds(fused),
            (std::vector{Kind::kConv, Kind::kActivation, Kind::kChannelAffine, Kind::kAdd}));
  expect_same_function(net.graph, fused);
}

TEST(Fuse, XPlusXKeepsItsAdd) {
  Net net({4, 6, 6});
  const int conv = net.conv(net.graph.input, 4, 3, {1, 1, 1, 1});
  net.add(conv, conv);
  const Graph fused = fuse(net.graph);
  EXPECT_EQ(kinds(fused), (std::vector{Kind::kConv, Kind::kAdd}));
  expect_same_function(net.graph, fused);
}

TEST(Fuse, NothingIsFoldedPastAReluOrAResidual) {
  Net net({4, 6, 6});
  const int first = net.affine(net.relu(net.conv(net.graph.input, 4, 3, {1, 1, 1, 1})));
  const int sum = net.add(net.conv(first, 4, 1), first);
  net.affine(sum);
  const Graph fused = fuse(net.graph);
  EXPECT_EQ(kinds(fused),
            (std::vector{Kind::kConv, Kind::kChannelAffine, Kind::kConv, Kind::kChannelAffine}));
  expect_same_function(net.graph, fused);
}

TEST(Fuse, TheGraphsOutputSurvives) {
  // The convolution's value is the output; the ReLU after it is dead, and must not be fused.
  Net net({4, 6, 6});
  const int conv = net.conv(net.graph.input, 4, 3, {1, 1, 1, 1});
  net.relu(conv);
  net.graph.output = conv;
  const Graph fused = fuse(net.graph);
  ASSERT_EQ(kinds(fused), (std::vector{Kind::kConv}));
  EXPECT_FALSE(fused.steps[0].relu);
  EXPECT_EQ(fused.steps[0].output, conv);
}

TEST(Fuse, ReaderCountsIgnoreDeadSteps) {
  Net net({4, 6, 6});
  const int conv = net.conv(net.graph.input, 4, 3, {1, 1, 1, 1});
  net.activation(conv, UnaryOp::kTanh);  // nobody reads it
  net.relu(conv);
  EXPECT_EQ(kinds(fuse(net.graph)), (std::vector{Kind::kConv}));
}

TEST(Fuse, OtherActivationsStay) {
  Net net({4, 6, 6});
  net.activation(net.conv(net.graph.input, 4, 3), UnaryOp::kLeakyRelu, 0.1f);
  EXPECT_EQ(kinds(fuse(net.graph)), (std::vector{Kind::kConv, Kind::kActivation}));
}

TEST(Fuse, AnImpossibleOrderIsAnError) {
  Net net({4, 6, 6});
  net.relu(net.conv(net.graph.input, 4, 3));
  std::swap(net.graph.steps[0], net.graph.steps[1]);
  EXPECT_THROW(fuse(net.graph), Error);
}

}  // namespace
}  // namespace ens
