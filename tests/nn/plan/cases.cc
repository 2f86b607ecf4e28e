// SPDX-License-Identifier: Apache-2.0
#include "tests/nn/plan/cases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace ens::test {

// Error relative to the largest number of the result: what rounding inside the network scales with.
void expect_close(const std::vector<double>& want, const Tensor& got, double tolerance) {
  ASSERT_EQ(static_cast<int64_t>(want.size()), got.numel());
  EXPECT_EQ(got.dtype(), Dtype::kF32);
  EXPECT_EQ(got.layout(), Layout::kPlain);
  double largest = 0, worst = 0;
  for (double v : want) largest = std::max(largest, std::abs(v));
  ASSERT_GT(largest, 1e-3) << "a result of zeros shows nothing";
  const auto numbers = got.to_vector();
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_TRUE(std::isfinite(numbers[i])) << "number " << i;
    worst = std::max(worst, std::abs(want[i] - numbers[i]));
  }
  EXPECT_LE(worst / largest, tolerance);
}

std::vector<NetCase> net_cases() {
  return {
      {"ConvChain",
       {3, 12, 12},
       [](Net& n, int x) {
         x = n.relu(n.affine(n.conv(n.affine(x), 16, 3, {1, 1, 1, 1}, false)));
         x = n.relu(n.conv(x, 24, 3, {2, 1, 1, 1}));
         n.conv(x, 10, 1);
       }},
      {"ResNetStage",
       {16, 8, 8},
       [](Net& n, int x) {
         x = n.res_block(x, 16, 1);
         x = n.res_block(x, 32, 2);
         x = n.res_block(x, 32, 1);
         n.global_avg_pool(n.res_block(x, 64, 2));
       }},
      {"TinyMaps",
       {64, 4, 4},
       [](Net& n, int x) {
         x = n.res_block(x, 64, 2);
         x = n.res_block(x, 64, 1);
         n.flatten(n.res_block(x, 64, 2));
       }},
      {"OnePixel",
       {48, 2, 2},
       [](Net& n, int x) {
         x = n.relu(n.affine(n.conv(x, 48, 3, {2, 1, 1, 1}, false)));
         x = n.relu(n.add(n.conv(x, 48, 3, {1, 1, 1, 1}), x));
         n.global_avg_pool(n.conv(x, 20, 3, {1, 1, 1, 1}, false));
       }},
      {"OddChannels",
       {5, 9, 7},
       [](Net& n, int x) {
         x = n.res_block(x, 7, 1);
         x = n.res_block(x, 13, 2);
         n.linear(n.global_avg_pool(x), 10);
       }},
      {"Vgg",
       {3, 8, 8},
       [](Net& n, int x) {
         x = n.max_pool(n.relu(n.affine(n.conv(x, 16, 3, {1, 1, 1, 1}))), {2, 2, 0});
         x = n.max_pool(n.relu(n.affine(n.conv(x, 32, 3, {1, 1, 1, 1}))), {2, 2, 0});
         x = n.relu(n.affine(n.linear(n.flatten(x), 40)));
         n.linear(x, 10);
       }},
      {"Pools",
       {20, 9, 9},
       [](Net& n, int x) {
         const int a = n.max_pool(n.conv(x, 32, 3, {1, 1, 1, 1}), {3, 2, 1});
         const int b = n.avg_pool(n.conv(x, 32, 3, {1, 1, 1, 1}), {3, 2, 1});
         n.global_avg_pool(n.relu(n.add(a, b)));
       }},
      {"Groups",
       {32, 6, 6},
       [](Net& n, int x) {
         x = n.relu(n.conv(x, 32, 3, {1, 1, 1, 32}));
         x = n.relu(n.conv(x, 64, 3, {1, 1, 1, 2}));
         x = n.relu(n.affine(n.conv(x, 48, 1, {1, 0, 1, 16}, false)));
         n.conv(x, 6, 3, {1, 0, 1, 3});
       }},
      {"Dilation",
       {16, 12, 12},
       [](Net& n, int x) {
         x = n.relu(n.conv(x, 16, 3, {1, 2, 2, 1}));
         n.add(n.conv(x, 16, 3, {1, 3, 3, 1}), x);
       }},
      {"Activations",
       {8, 6, 6},
       [](Net& n, int x) {
         x = n.activation(n.conv(x, 16, 3), UnaryOp::kLeakyRelu, 0.2f);
         x = n.activation(n.conv(x, 16, 3), UnaryOp::kSigmoid);
         x = n.activation(n.affine(x), UnaryOp::kTanh);
         x = n.activation(x, UnaryOp::kSquare);
         n.activation(n.activation(x, UnaryOp::kAbs), UnaryOp::kAffine, -2.0f, 0.5f);
       }},
      {"LinearOnly",
       {37},
       [](Net& n, int x) { n.linear(n.activation(n.linear(x, 19, false), UnaryOp::kTanh), 5); }},
      {"NormOfAFeature", {24}, [](Net& n, int x) { n.relu(n.affine(n.relu(n.affine(x)))); }},
      {"ResidualUsedAgain",
       {16, 6, 6},
       [](Net& n, int x) {
         // `a` is summed into b, read again by c and summed again: it must not be overwritten.
         const int a = n.relu(n.conv(x, 16, 3, {1, 1, 1, 1}));
         const int b = n.relu(n.add(n.conv(a, 16, 3, {1, 1, 1, 1}), a));
         const int c = n.add(n.conv(b, 16, 1), a);
         n.add(n.activation(c, UnaryOp::kTanh), a);
       }},
      {"ResidualIsTheInput",
       {16, 6, 6},
       [](Net& n, int x) {
         n.add(n.conv(x, 16, 3, {1, 1, 1, 1}), x);
       }},
      {"XPlusX",
       {16, 6, 6},
       [](Net& n, int x) {
         const int y = n.conv(x, 16, 3, {1, 1, 1, 1});
         n.add(y, y);
       }},
      {"PointwisePlusItself",
       {16, 1, 1},
       [](Net& n, int x) {
         x = n.relu(n.conv(x, 16, 1));
         n.add(n.conv(x, 16, 1), x);
       }},
      {"OutputReadAgain",
       {16, 6, 6},
       [](Net& n, int x) {
         const int y = n.conv(x, 16, 3, {1, 1, 1, 1});
         n.affine(y);
         n.graph.output = y;
       }},
      {"FlattenOfTheInput", {3, 4, 5}, [](Net& n, int x) { n.linear(n.flatten(x), 8); }},
      {"NoSteps", {3, 4, 4}, [](Net&, int) {}},
  };
}

}  // namespace ens::test
