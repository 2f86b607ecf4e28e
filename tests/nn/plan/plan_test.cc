// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/error.h"
#include "nn/core/backend.h"
#include "tests/nn/plan/cases.h"
#include "tests/nn/plan/reference.h"

namespace ens {
namespace {

using test::expect_close;
using test::Net;
using test::net_cases;
using test::NetCase;
using test::random_batch;

class PlanTable : public testing::TestWithParam<size_t> {};

TEST_P(PlanTable, AgreesWithPlainLoops) {
  const NetCase c = net_cases()[GetParam()];
  Net net(c.input);
  c.build(net, net.graph.input);
  for (const auto& [dtype, tolerance] : {std::pair(Dtype::kF32, 1e-4), {Dtype::kBF16, 2e-2}}) {
    SCOPED_TRACE(name(dtype));
    Plan plan(net.graph, {}, dtype, 9);
    EXPECT_EQ(plan.input_shape(), c.input);
    EXPECT_EQ(plan.flops(), net.graph.flops());
    for (int64_t batch : {9, 1, 2, 3, 8, 21, 1}) {  // 21: three goes
      SCOPED_TRACE(batch);
      const Tensor x = random_batch(batch, c.input, 100 + batch);
      const auto before = x.to_vector();
      const Tensor y = plan.run(x);
      ASSERT_EQ(y.dim(0), batch);
      expect_close(test::interpret(net.graph, x), y, tolerance);
      EXPECT_EQ(x.to_vector(), before) << "the input was overwritten";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Nets, PlanTable, testing::Range<size_t>(0, net_cases().size()),
                         [](const auto& each) { return net_cases()[each.param].name; });

Graph small_resnet(uint64_t seed) {
  Net net({3, 16, 16}, seed);
  int x = net.relu(net.affine(net.conv(net.affine(net.graph.input), 16, 3, {1, 1, 1, 1}, false)));
  x = net.res_block(x, 16, 1);
  x = net.res_block(x, 32, 2);
  net.linear(net.global_avg_pool(x), 10);
  return net.graph;
}

TEST(Plan, SeveralPlansOnSeveralThreadsAtOnce) {
  constexpr int kThreads = 4, kRuns = 20;
  std::vector<std::thread> threads;
  std::vector<Graph> graphs;
  std::vector<Tensor> inputs;
  std::vector<std::unique_ptr<Plan>> plans;
  for (int i = 0; i < kThreads; ++i) {
    graphs.push_back(small_resnet(10 + i));
    inputs.push_back(random_batch(6, {3, 16, 16}, 20 + i));
    plans.push_back(
        std::make_unique<Plan>(graphs[i], Device{}, i % 2 ? Dtype::kBF16 : Dtype::kF32, 8));
  }
  std::vector<std::vector<Tensor>> results(kThreads);
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int r = 0; r < kRuns; ++r) {  // a new size, and thus new kernels, in the middle
        results[i].push_back(plans[i]->run(inputs[i].rows(0, 1 + r % 6)));
      }
    });
  }
  for (auto& t : threads) t.join();
  for (int i = 0; i < kThreads; ++i) {
    const auto want = test::interpret(graphs[i], inputs[i]);
    for (const Tensor& y : results[i]) {
      expect_close({want.begin(), want.begin() + y.numel()}, y, i % 2 ? 2e-2 : 1e-4);
    }
  }
}

TEST(Plan, OnePlanMovesBetweenThreads) {
  const Graph graph = small_resnet(3);
  const Tensor x = random_batch(4, {3, 16, 16});
  const auto want = test::interpret(graph, x);
  Plan plan(graph, {}, Dtype::kF32, 4);
  for (int i = 0; i < 3; ++i) {
    Tensor y;
    std::thread([&] { y = plan.run(x); }).join();
    expect_close(want, y, 1e-4);
  }
}

TEST(Plan, ResultsAreTheCallersOwn) {
  const Graph graph = small_resnet(3);
  Plan plan(graph, {}, Dtype::kF32, 4);
  const Tensor first = plan.run(random_batch(3, {3, 16, 16}, 1));
  const auto kept = first.to_vector();
  plan.run(random_batch(3, {3, 16, 16}, 2));
  EXPECT_EQ(first.to_vector(), kept);
}

TEST(Plan, SameInputSameResult) {
  const Graph graph = small_resnet(3);
  Plan plan(graph, {}, Dtype::kBF16, 8);
  const Tensor x = random_batch(5, {3, 16, 16});
  const auto first = plan.run(x).to_vector();
  plan.run(random_batch(8, {3, 16, 16}, 2));  // leaves other numbers in the arena
  EXPECT_EQ(plan.run(x).to_vector(), first);
}

// The results of a network whose weights were rounded, and otherwise of float32.
TEST(Plan, KeepsWeightsInBFloat16WhereTheProcessorLacksItsInstructions) {
  if (backend({}).supports(Dtype::kBF16) || !backend({}).serves(Dtype::kBF16)) {
    GTEST_SKIP() << "for processors with AVX2 or AVX-512 and no more";
  }
  Net net({16, 9, 9});  // no layer for Winograd's form, which rounds other numbers
  int x = net.relu(net.conv(net.graph.input, 32, 5, {1, 2, 1, 1}));
  x = net.add(net.conv(x, 32, 1, {1, 0, 1, 1}), x);
  x = net.relu(net.conv(x, 64, 3, {2, 1, 1, 1}));
  net.global_avg_pool(net.conv(x, 64, 3, {2, 1, 1, 1}));
  Plan exact(net.graph, {}, Dtype::kF32, 9), plan(net.graph, {}, Dtype::kBF16, 9);
  EXPECT_LT(plan.weight_bytes(), 0.52 * static_cast<double>(exact.weight_bytes()));
  double moved = 0;
  for (GraphStep& s : net.graph.steps) {
    if (s.kind != GraphStep::Kind::kConv) continue;
    for (float& w : s.weight.span<float>()) {
      const auto rounded = static_cast<float>(BFloat16(w));
      moved = std::max(moved, static_cast<double>(std::abs(rounded - w)));
      w = rounded;
    }
  }
  ASSERT_GT(moved, 0);
  for (int64_t batch : {1, 3, 4, 9}) {
    SCOPED_TRACE(batch);
    const Tensor images = random_batch(batch, {16, 9, 9});
    expect_close(test::interpret(net.graph, images), plan.run(images), 1e-5);
  }
}

// In Winograd's form a kernel's 16 numbers are rounded, not its 9.
TEST(Plan, RoundsWinogradsFormOfTheWeight) {
  if (!backend({}).serves(Dtype::kBF16)) GTEST_SKIP() << "no bfloat16 here";
  Net net({32, 9, 8});
  net.global_avg_pool(net.relu(net.conv(net.graph.input, 32, 3, {1, 1, 1, 1})));
  Plan plan(net.graph, {}, Dtype::kBF16, 9);
  for (int64_t batch : {1, 3, 9}) {
    SCOPED_TRACE(batch);
    const Tensor images = random_batch(batch, {32, 9, 8});
    expect_close(test::interpret(net.graph, images), plan.run(images), 1.6e-2);
  }
}

TEST(Plan, DoesNotNeedTheGraphAnyMore) {
  auto graph = std::make_unique<Graph>(small_resnet(3));
  const Tensor x = random_batch(2, {3, 16, 16});
  const auto want = test::interpret(*graph, x);
  Plan plan(*graph, {}, Dtype::kF32, 8);
  for (GraphStep& s : graph->steps) {
    if (s.weight.defined()) s.weight.fill(NAN);
    if (s.bias.defined()) s.bias.fill(NAN);
  }
  graph.reset();
  expect_close(want, plan.run(x), 1e-4);
}

TEST(Plan, CountsItsMemory) {
  const Graph graph = small_resnet(3);
  Plan plan(graph, {}, Dtype::kF32, 8);
  plan.run(random_batch(8, {3, 16, 16}));
  // Batch norms are folded, so there are fewer numbers than in the graph; formats may pad.
  EXPECT_LT(plan.parameters(), graph.parameters());
  EXPECT_GE(plan.weight_bytes(), static_cast<size_t>(plan.parameters()) * 4);
  EXPECT_LT(plan.weight_bytes(), static_cast<size_t>(graph.parameters()) * 4 * 3);
  // Two maps of the first stage must fit at least; all values together would be much more.
  const size_t map = 8 * 16 * 16 * 16 * 4;
  EXPECT_GE(plan.arena_bytes(), 2 * map);
  size_t all = 0;
  for (const Shape& s : graph.values) all += 8 * 4 * static_cast<size_t>(s.numel());
  EXPECT_LT(plan.arena_bytes(), all);
  EXPECT_EQ(plan.max_batch(), 8);
}

// Nets of one form, whatever the seed.
std::vector<Graph> small_resnets(int count) {
  std::vector<Graph> nets;
  for (int i = 0; i < count; ++i) nets.push_back(small_resnet(10 + i));
  return nets;
}

TEST(Plan, SeveralNetsAnswerLikeEachAlone) {
  const std::vector<Graph> nets = small_resnets(3);
  Plan together(nets, {}, Dtype::kF32, 4);
  EXPECT_EQ(together.nets(), 3);
  EXPECT_EQ(together.flops(), 3 * nets[0].flops());
  const Tensor x = random_batch(6, {3, 16, 16});  // two goes
  const Tensor all = together.run_all(x);
  ASSERT_EQ(all.shape(), (Shape{3, 6, 10}));
  for (int64_t i = 0; i < 3; ++i) {
    Plan alone(nets[static_cast<size_t>(i)], {}, Dtype::kF32, 4);
    EXPECT_EQ(all.rows(i, 1).to_vector(), alone.run(x).to_vector()) << "net " << i;
  }
}

TEST(Plan, SmallerBatchesNeedNoMoreArena) {
  Plan plan(small_resnet(3), {}, Dtype::kF32, 16);
  const size_t before = plan.arena_bytes();
  for (int64_t batch : {1, 2, 3, 7, 11}) plan.run(random_batch(batch, {3, 16, 16}));
  EXPECT_LE(plan.arena_bytes(), before + before / 2);
}

void expect_usage_error(const std::function<void()>& f, const std::string& part) {
  try {
    f();
    FAIL() << "no error; expected one with '" << part << "'";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), Error::Kind::kUsage);
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(Plan, WrongInputsAreUsageErrors) {
  Plan plan(small_resnet(3), {}, Dtype::kF32, 4);
  expect_usage_error([&] { plan.run(random_batch(1, {3, 16, 15})); }, "[3, 16, 16]");
  expect_usage_error([&] { plan.run(random_batch(1, {1, 16, 16})); }, "[1, 1, 16, 16]");
  expect_usage_error([&] { plan.run(random_batch(3, {16, 16})); }, "[3, 16, 16]");
  expect_usage_error([&] { plan.run(random_batch(2, {3, 16, 16}).reshape({2, 768})); }, "[2, 768]");
  expect_usage_error([&] { plan.run(Tensor::empty({0, 3, 16, 16})); }, "at least one");
  expect_usage_error([&] { plan.run(Tensor()); }, "no images");
  expect_usage_error([&] { Plan(small_resnet(3), {}, Dtype::kF32, 0); }, "at least one");
  expect_usage_error([&] { Plan(small_resnet(3), {}, Dtype::kI32, 4); }, "int32");
  expect_usage_error([&] { Plan(std::vector<Graph>{}, {}, Dtype::kF32, 4); }, "at least one net");
  std::vector<Graph> nets = small_resnets(2);
  expect_usage_error(
      [&] {
        Plan(nets, {}, Dtype::kF32, 4).run(random_batch(1, {3, 16, 16}));
      },
      "several");
  nets[1].steps.back().bias = Tensor();
  expect_usage_error([&] { Plan(nets, {}, Dtype::kF32, 4); }, "same steps");
}

TEST(BatchBucket, IsLargeEnoughAndCloseBy) {
  for (int64_t max_batch : {1, 5, 32, 100, 512}) {
    int64_t before = 0;
    int sizes = 0;
    for (int64_t batch = 1; batch <= max_batch; ++batch) {
      const int64_t bucket = batch_bucket(batch, max_batch);
      EXPECT_GE(bucket, batch);
      EXPECT_LE(bucket, max_batch);
      EXPECT_LT(bucket, batch + (batch + 3) / 4) << batch;
      EXPECT_GE(bucket, before);
      EXPECT_EQ(batch_bucket(bucket, max_batch), bucket);
      sizes += bucket != before;
      before = bucket;
    }
    EXPECT_EQ(before, max_batch);
    EXPECT_LE(sizes, 8 + 4 * 6);
  }
  EXPECT_EQ(batch_bucket(9, 512), 10);
  EXPECT_EQ(batch_bucket(17, 512), 20);
  EXPECT_EQ(batch_bucket(33, 34), 34);
}

}  // namespace
}  // namespace ens
