// SPDX-License-Identifier: Apache-2.0
// Every layer against PyTorch: result, gradients of input and parameters, buffers afterwards. The
// numbers come from make_torch_reference.py beside this file.
#include <gtest/gtest.h>

#include <ostream>

#include "nn/modules/layers.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

constexpr double kTolerance = 2e-5;

const Reference& reference() {
  static const Reference r("tests/nn/modules/data/layers.bin");
  return r;
}

struct LayerCase {
  std::string name;  // in the reference
  Shape input;
  std::function<ModulePtr(Rng&)> make;
  bool train = true;
  int passes = 1;
};

void PrintTo(const LayerCase& c, std::ostream* out) { *out << c.name; }

template <typename M, typename... Args>
std::function<ModulePtr(Rng&)> with_rng(Args... args) {
  return [=](Rng& rng) { return std::make_shared<M>(args..., rng); };
}

template <typename M, typename... Args>
std::function<ModulePtr(Rng&)> plain(Args... args) {
  return [=](Rng&) { return std::make_shared<M>(args...); };
}

std::vector<LayerCase> cases() {
  const std::vector<float> half(3, 0.5f), quarter(3, 0.25f);
  return {
      {"conv", {2, 3, 7, 7}, with_rng<Conv2d>(3, 8, 3, ConvSpec{2, 1}, true)},
      {"conv_groups", {2, 6, 5, 5}, with_rng<Conv2d>(6, 12, 3, ConvSpec{1, 1, 1, 3}, false)},
      {"conv_dilated", {1, 5, 7, 6}, with_rng<Conv2d>(5, 4, 3, ConvSpec{1, 2, 2}, true)},
      {"conv_1x1", {2, 16, 4, 4}, with_rng<Conv2d>(16, 24, 1, ConvSpec{2, 0}, false)},
      {"deconv", {2, 8, 3, 4}, with_rng<ConvTranspose2d>(8, 5, 4, ConvSpec{2, 1}, 0, true)},
      {"deconv_output_padding",
       {1, 6, 4, 3},
       with_rng<ConvTranspose2d>(6, 4, 3, ConvSpec{2, 1, 1, 2}, 1, false)},
      {"linear", {5, 20}, with_rng<Linear>(20, 7, true)},
      {"linear_no_bias", {3, 16}, with_rng<Linear>(16, 24, false)},
      {"bn_train", {4, 5, 3, 3}, plain<BatchNorm>(5), true, 3},
      {"bn_train_16", {2, 16, 4, 4}, plain<BatchNorm>(16), true, 2},
      {"bn_eval", {4, 5, 3, 3}, plain<BatchNorm>(5), false},
      {"bn_rows", {6, 7}, plain<BatchNorm>(7), true, 2},
      {"bn_relu", {3, 6, 4, 4}, plain<BatchNorm>(6, true)},
      {"bn_relu_eval", {3, 6, 4, 4}, plain<BatchNorm>(6, true), false},
      {"max_pool", {2, 3, 7, 6}, plain<MaxPool>(PoolSpec{3, 2, 1})},
      {"avg_pool", {2, 3, 7, 6}, plain<AvgPool>(PoolSpec{3, 2, 1})},
      {"global_avg_pool", {3, 5, 4, 3}, plain<GlobalAvgPool>()},
      {"flatten", {2, 3, 2, 4}, plain<Flatten>()},
      {"leaky_relu", {4, 9}, plain<Activation>(UnaryOp::kLeakyRelu, 0.2f)},
      {"sigmoid", {4, 9}, plain<Activation>(UnaryOp::kSigmoid)},
      {"tanh", {4, 9}, plain<Activation>(UnaryOp::kTanh)},
      {"normalize", {2, 3, 4, 4}, plain<Normalize>(half, quarter)},
      {"block", {3, 8, 5, 5}, with_rng<BasicBlock>(8, 8, 1)},
      {"block_eval", {3, 8, 5, 5}, with_rng<BasicBlock>(8, 8, 1), false},
      {"block_down", {3, 8, 6, 6}, with_rng<BasicBlock>(8, 12, 2)},
      {"block_down_eval", {3, 8, 6, 6}, with_rng<BasicBlock>(8, 12, 2), false},
  };
}

class LayerReference : public testing::TestWithParam<LayerCase> {};

TEST_P(LayerReference, MatchesPyTorch) {
  const LayerCase& c = GetParam();
  const Reference& want = reference();
  Rng rng(1);
  const ModulePtr layer = c.make(rng);
  // Normalize's numbers are settings, not weights.
  if (c.name != "normalize") init_from_names(*layer, c.name);
  layer->train(c.train);
  Var x, y;
  for (int i = 0; i < c.passes; ++i) {
    for (const NamedVar& p : layer->parameters()) p.var.zero_grad();
    x = Var(pattern(c.name + ".x" + std::to_string(i), c.input), true);
    y = layer->forward(x);
    backward_with(y, pattern(c.name + ".dy", y.shape()));
  }
  EXPECT_TRUE(near(y.value(), want[c.name + ".y"], kTolerance));
  EXPECT_TRUE(near(x.grad(), want[c.name + ".dx"], kTolerance));
  size_t compared = 0;
  for (const NamedVar& p : layer->parameters()) {
    EXPECT_TRUE(near(p.var.grad(), want[c.name + ".grad." + p.name], kTolerance)) << p.name;
    ++compared;
  }
  EXPECT_EQ(want.names(c.name + ".grad.").size(), compared);
  if (c.name == "normalize") return;
  compared = 0;
  for (const NamedTensor& b : layer->buffers()) {
    EXPECT_TRUE(near(b.tensor, want[c.name + ".after." + b.name], kTolerance)) << b.name;
    ++compared;
  }
  EXPECT_EQ(want.names(c.name + ".after.").size(), compared);
}

INSTANTIATE_TEST_SUITE_P(Layers, LayerReference, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<LayerCase>& i) { return i.param.name; });

// The table and the file hold the same layers: neither is forgotten.
TEST(LayerReferenceFile, HoldsEveryLayerOfTheTable) {
  size_t results = 0;
  for (const std::string& name : reference().names("")) results += name.ends_with(".y");
  EXPECT_EQ(results, cases().size());
}

}  // namespace
}  // namespace ens::test
