// SPDX-License-Identifier: Apache-2.0
// Ten training steps of a small network against PyTorch: every loss, every learning rate, and every
// parameter and running statistic at the end. The numbers come from
// tests/nn/modules/make_torch_reference.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "nn/modules/layers.h"
#include "nn/optim/optim.h"
#include "nn/optim/schedule.h"
#include "tests/support/compare.h"
#include "tests/support/reference.h"

namespace ens::test {
namespace {

const Reference& reference() {
  static const Reference r("tests/nn/modules/data/training.bin");
  return r;
}

struct Training {
  std::string name;  // optimizer.schedule, as in the reference
  OptimSpec optimizer;
  Schedule schedule;
};

void PrintTo(const Training& r, std::ostream* out) { *out << r.name; }

constexpr int kSteps = 10;

std::vector<Training> runs() {
  OptimSpec sgd, adam, adamw, sgd_plain, sgd_momentum;
  sgd.weight_decay = 5e-3f;
  adam.kind = OptimSpec::Kind::kAdam;
  adam.amsgrad = true;
  adam.weight_decay = 1e-2f;
  adamw.kind = OptimSpec::Kind::kAdamW;
  adamw.weight_decay = 0.1f;
  sgd_plain.momentum = 0;
  sgd_momentum.nesterov = false;
  Schedule onecycle, cosine, step, constant;
  onecycle.kind = Schedule::Kind::kOneCycle;
  cosine.kind = Schedule::Kind::kCosine;
  step.kind = Schedule::Kind::kStep;
  step.period = 3;
  step.gamma = 0.5f;
  constant.kind = Schedule::Kind::kConstant;
  std::vector<Training> list{{"sgd_plain.constant", sgd_plain, constant},
                             {"sgd_momentum.constant", sgd_momentum, constant}};
  for (const auto& [name, spec] : {std::pair{"sgd", sgd}, {"adam", adam}, {"adamw", adamw}}) {
    list.push_back({name + std::string(".onecycle"), spec, onecycle});
    list.push_back({name + std::string(".cosine"), spec, cosine});
    list.push_back({name + std::string(".step"), spec, step});
  }
  for (Training& r : list) {
    r.schedule.steps = kSteps;
    r.schedule.peak = r.optimizer.kind == OptimSpec::Kind::kSgd ? 0.1f : 0.01f;
  }
  return list;
}

std::shared_ptr<Sequential> network() {
  Rng rng(1);
  auto net = std::make_shared<Sequential>();
  net->push("conv", std::make_shared<Conv2d>(3, 8, 3, ConvSpec{1, 1}, false, rng));
  net->push("bn", std::make_shared<BatchNorm>(8, true));
  net->push("block", std::make_shared<BasicBlock>(8, 12, 2, rng));
  net->push(std::make_shared<GlobalAvgPool>());
  net->push("fc", std::make_shared<Linear>(12, 5, true, rng));
  init_from_names(*net, "train");
  return net;
}

class TenSteps : public testing::TestWithParam<Training> {};

TEST_P(TenSteps, MatchPyTorch) {
  const Training& run = GetParam();
  const Reference& want = reference();
  const std::vector<std::vector<int32_t>> labels{{0, 4, 2, 2, 1, 3, 0, 4},
                                                 {1, 1, 3, 0, 2, 4, 4, 0}};
  const auto net = network();
  Optimizer optimizer(net->parameters(), run.optimizer);
  std::vector<float> losses, rates;
  for (int step = 0; step < kSteps; ++step) {
    const size_t batch = step % 2;
    const Var x(pattern("train.x" + std::to_string(batch), {8, 3, 8, 8}));
    const Var loss = softmax_cross_entropy(net->forward(x), Tensor::from_labels(labels[batch]));
    loss.backward();
    losses.push_back(loss.item());
    rates.push_back(run.schedule.at(step));
    optimizer.step(rates.back());
  }
  EXPECT_TRUE(near(Tensor::from(rates, {kSteps}), want[run.name + ".rates"], 1e-6));
  EXPECT_TRUE(near(Tensor::from(losses, {kSteps}), want[run.name + ".losses"], 1e-5));
  for (const NamedTensor& t : net->state()) {
    EXPECT_TRUE(near(t.tensor, want[run.name + ".final." + t.name], 5e-5)) << t.name;
  }
  EXPECT_EQ(want.names(run.name + ".final.").size(), net->state().size());
}

INSTANTIATE_TEST_SUITE_P(Optimizers, TenSteps, testing::ValuesIn(runs()),
                         [](const testing::TestParamInfo<Training>& i) {
                           std::string name = i.param.name;
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

// Were the trajectories all alike, the comparison above could not tell the optimisers apart.
TEST(TenStepsReference, RunsDiffer) {
  const std::vector<Training> all = runs();
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const std::string a = all[i].name + ".final.block.conv2.weight";
      const std::string b = all[j].name + ".final.block.conv2.weight";
      EXPECT_FALSE(near(reference()[a], reference()[b], 1e-3)) << a << " and " << b;
    }
  }
}

}  // namespace
}  // namespace ens::test
