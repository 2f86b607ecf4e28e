// SPDX-License-Identifier: Apache-2.0
// Module: names, state, training and evaluation, freezing, initialisation, dropout, lowering.
#include "nn/modules/module.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "nn/modules/layers.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

std::shared_ptr<Sequential> small_net(uint64_t seed) {
  Rng rng(seed);
  auto net = std::make_shared<Sequential>();
  net->push("conv", std::make_shared<Conv2d>(3, 8, 3, ConvSpec{1, 1}, true, rng));
  net->push("bn", std::make_shared<BatchNorm>(8, true));
  net->push("block", std::make_shared<BasicBlock>(8, 16, 2, rng));
  net->push(std::make_shared<GlobalAvgPool>());
  net->push("fc", std::make_shared<Linear>(16, 5, true, rng));
  return net;
}

std::vector<std::string> names(const std::vector<NamedTensor>& list) {
  std::vector<std::string> result;
  for (const NamedTensor& t : list) result.push_back(t.name);
  return result;
}

std::vector<std::vector<float>> copies(const std::vector<NamedTensor>& list) {
  std::vector<std::vector<float>> result;
  for (const NamedTensor& t : list) result.push_back(t.tensor.to_vector());
  return result;
}

TEST(Module, NamesArePathsInRegistrationOrder) {
  const auto net = small_net(1);
  std::vector<std::string> parameters;
  for (const NamedVar& p : net->parameters()) parameters.push_back(p.name);
  EXPECT_EQ(parameters,
            (std::vector<std::string>{"conv.weight", "conv.bias", "bn.weight", "bn.bias",
                                      "block.conv1.weight", "block.bn1.weight", "block.bn1.bias",
                                      "block.conv2.weight", "block.bn2.weight", "block.bn2.bias",
                                      "block.downsample.conv.weight", "block.downsample.bn.weight",
                                      "block.downsample.bn.bias", "fc.weight", "fc.bias"}));
  EXPECT_EQ(names(net->buffers()),
            (std::vector<std::string>{"bn.running_mean", "bn.running_var", "block.bn1.running_mean",
                                      "block.bn1.running_var", "block.bn2.running_mean",
                                      "block.bn2.running_var", "block.downsample.bn.running_mean",
                                      "block.downsample.bn.running_var"}));
  EXPECT_EQ(net->state().size(), net->parameters().size() + net->buffers().size());
}

TEST(Module, StateRoundTripGivesTheSameNet) {
  const auto a = small_net(1), b = small_net(2);
  const Var x(uniform({4, 3, 8, 8}, 3));
  a->forward(x);  // moves the running statistics
  EXPECT_FALSE(near(b->forward(x).value(), a->forward(x).value(), 1e-3));
  // Names decide, not the order.
  std::vector<NamedTensor> state = a->state();
  std::reverse(state.begin(), state.end());
  b->load_state(state, "a test");
  EXPECT_EQ(copies(b->state()), copies(a->state()));
  a->train(false);
  b->train(false);
  EXPECT_EQ(b->forward(x).value().to_vector(), a->forward(x).value().to_vector());
  // Copied, not shared: training b leaves a alone.
  const auto before = copies(a->state());
  b->train();
  b->forward(x);
  for (const NamedVar& p : b->parameters()) p.var.mutable_value().fill(0);
  EXPECT_EQ(copies(a->state()), before);
}

TEST(Module, LoadStateNamesWhatDoesNotFit) {
  const auto net = small_net(1);
  std::vector<NamedTensor> state = net->state();
  std::vector<NamedTensor> missing(state.begin(), state.end());
  missing.erase(missing.begin() + 3);  // bn.bias
  ENS_EXPECT_ERROR(net->load_state(missing, "file.h5"), "'bn.bias'");
  ENS_EXPECT_ERROR(net->load_state(missing, "file.h5"), "file.h5");
  std::vector<NamedTensor> extra = state;
  extra.push_back({"block.conv9.weight", Tensor::zeros({1})});
  ENS_EXPECT_ERROR(net->load_state(extra, "file.h5"), "'block.conv9.weight'");
  std::vector<NamedTensor> wrong = state;
  wrong[0].tensor = Tensor::zeros({8, 3, 5, 5});
  ENS_EXPECT_ERROR(net->load_state(wrong, "file.h5"), "'conv.weight'");
  ENS_EXPECT_ERROR(net->load_state(wrong, "file.h5"), "[8, 3, 5, 5]");
}

TEST(Module, TrainingAndEvaluationDiffer) {
  const auto net = small_net(1);
  const Var x(uniform({4, 3, 8, 8}, 3));
  EXPECT_TRUE(net->training());
  net->train(false);
  const auto still = copies(net->buffers());
  const std::vector<float> once = net->forward(x).value().to_vector();
  EXPECT_EQ(net->forward(x).value().to_vector(), once);
  EXPECT_EQ(copies(net->buffers()), still) << "evaluation moved the running statistics";
  // An image's result does not depend on its neighbours in the batch.
  const Var alone = net->forward(Var(x.value().rows(2, 1)));
  EXPECT_TRUE(near(alone.value(), net->forward(x).value().rows(2, 1), 1e-5));
  net->train();
  EXPECT_FALSE(near(net->forward(x).value(), Tensor::from(once, {4, 5}), 1e-2));
  EXPECT_NE(copies(net->buffers()), still);
}

TEST(Module, FreezingIsForGood) {
  const auto net = small_net(1);
  const Var x(uniform({4, 3, 8, 8}, 3), true);
  net->forward(x);
  net->freeze();
  EXPECT_TRUE(net->frozen());
  const auto before = copies(net->state());
  net->train();  // a frozen net stays in evaluation mode, children included
  EXPECT_FALSE(net->training());
  sum(square(net->forward(x))).backward();
  EXPECT_EQ(copies(net->state()), before);
  for (const NamedVar& p : net->parameters()) {
    EXPECT_FALSE(p.var.requires_grad()) << p.name;
    EXPECT_FALSE(p.var.grad().defined()) << p.name;
  }
  // The gradient of the input still flows: that is what stage 2 and the attacks live on.
  ASSERT_TRUE(x.grad().defined());
  EXPECT_EQ(x.grad().shape(), x.shape());
  double norm = 0;
  for (float g : x.grad().to_vector()) norm += static_cast<double>(g) * g;
  EXPECT_GT(norm, 1e-8);
}

TEST(Module, FrozenPartOfALiveNet) {
  Rng rng(1);
  auto net = std::make_shared<Sequential>();
  auto body = small_net(2);
  net->push("head", std::make_shared<Conv2d>(3, 3, 3, ConvSpec{1, 1}, false, rng));
  net->push("norm", std::make_shared<BatchNorm>(3));
  net->push("body", body);
  body->freeze();
  net->train();
  const auto before = copies(body->state());
  const Var x(uniform({4, 3, 8, 8}, 3));
  sum(square(net->forward(x))).backward();
  EXPECT_EQ(copies(body->state()), before);
  for (const NamedVar& p : net->parameters()) {
    EXPECT_EQ(p.var.grad().defined(), !p.name.starts_with("body.")) << p.name;
  }
  EXPECT_TRUE((*net)[1]->training());
  EXPECT_FALSE((*body)[1]->training());
}

// The frozen body's gradient of its input against an unfrozen copy in evaluation mode.
TEST(Module, FreezingDoesNotChangeTheInputGradient) {
  const auto live = small_net(1), frozen = small_net(1);
  live->train(false);
  frozen->freeze();
  const Var a(uniform({4, 3, 8, 8}, 3), true), b(uniform({4, 3, 8, 8}, 3), true);
  sum(square(live->forward(a))).backward();
  sum(square(frozen->forward(b))).backward();
  EXPECT_TRUE(near(b.grad(), a.grad(), 1e-5));
}

TEST(Initialisation, HasTheStatedSpread) {
  Rng rng(5);
  auto deviation = [](const Tensor& t) {
    double total = 0, squares = 0;
    for (float v : t.to_vector()) {
      total += v;
      squares += static_cast<double>(v) * v;
    }
    const double n = static_cast<double>(t.numel()), mean = total / n;
    EXPECT_NEAR(mean, 0, 4 * std::sqrt(squares / n / n)) << "four standard errors";
    return std::sqrt(squares / n - mean * mean);
  };
  // Kaiming-normal, fan out: sqrt(2 / (64 * 9)).
  const Conv2d conv(32, 64, 3, ConvSpec{1, 1}, true, rng);
  const double want = std::sqrt(2.0 / (64 * 9));
  EXPECT_NEAR(deviation(conv.parameters()[0].var.value()), want, 0.03 * want);
  for (float b : conv.parameters()[1].var.value().to_vector()) EXPECT_EQ(b, 0);
  // Uniform in +-1/sqrt(in).
  const Linear linear(400, 50, true, rng);
  const double bound = 1 / std::sqrt(400.0);
  EXPECT_NEAR(deviation(linear.parameters()[0].var.value()), bound / std::sqrt(3.0), 0.03 * bound);
  for (float w : linear.parameters()[0].var.value().to_vector()) EXPECT_LE(std::fabs(w), bound);
  const BatchNorm norm(7);
  EXPECT_EQ(norm.state()[0].tensor.to_vector(), std::vector<float>(7, 1));
  EXPECT_EQ(norm.state()[1].tensor.to_vector(), std::vector<float>(7, 0));
  EXPECT_EQ(norm.state()[2].tensor.to_vector(), std::vector<float>(7, 0));
  EXPECT_EQ(norm.state()[3].tensor.to_vector(), std::vector<float>(7, 1));
}

TEST(Initialisation, FollowsTheSeed) {
  EXPECT_EQ(copies(small_net(4)->state()), copies(small_net(4)->state()));
  EXPECT_NE(copies(small_net(4)->state()), copies(small_net(5)->state()));
}

TEST(DropoutLayer, DropsInTrainingOnlyAndResumes) {
  Rng rng(3);
  Dropout layer(0.5f, rng);
  const Var x(Tensor::full({4, 64}, 1.0f));
  layer.train(false);
  EXPECT_EQ(layer.forward(x).value().to_vector(), x.value().to_vector());
  layer.train();
  const std::vector<float> first = layer.forward(x).value().to_vector();
  // A copy of the state, made here, continues with the same sequence.
  Rng again(3);
  Dropout resumed(0.5f, again);
  std::vector<NamedTensor> state;
  for (const NamedTensor& t : layer.state()) state.push_back({t.name, t.tensor.clone()});
  const std::vector<float> second = layer.forward(x).value().to_vector();
  EXPECT_NE(first, second);
  resumed.load_state(state, "a test");
  EXPECT_EQ(resumed.forward(x).value().to_vector(), second);
}

TEST(Normalize, RejectsImpossibleNumbers) {
  ENS_EXPECT_ERROR(Normalize({0.5f}, {0.0f}), "Normalize");
  ENS_EXPECT_ERROR(Normalize({0.5f}, {0.5f, 0.5f}), "Normalize");
  ENS_EXPECT_ERROR(Normalize({}, {}), "Normalize");
}

TEST(Lowering, RefusesLayersThatAreNeverServed) {
  Rng rng(1);
  Graph graph;
  const int input = graph.add_value({4, 5, 5});
  const ConvTranspose2d deconv(4, 4, 2, ConvSpec{2, 0}, 0, false, rng);
  ENS_EXPECT_ERROR(deconv.lower(graph, input), "served");
}

TEST(Lowering, SharesWeightsAndInfersShapes) {
  const auto net = small_net(1);
  Graph graph;
  graph.input = graph.add_value({3, 8, 8});
  graph.output = net->lower(graph, graph.input);
  EXPECT_EQ(graph.shape(graph.output), (Shape{5}));
  ASSERT_FALSE(graph.steps.empty());
  EXPECT_EQ(graph.steps[0].kind, GraphStep::Kind::kConv);
  EXPECT_EQ(graph.steps[0].weight.raw(), net->parameters()[0].var.value().raw());
  ENS_EXPECT_ERROR(net->lower(graph, graph.add_value({4, 8, 8})), "does not fit");
}

}  // namespace
}  // namespace ens::test
