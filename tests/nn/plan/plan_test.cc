#include "nn/plan/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "nn/core/error.h"
#include "tests/nn/plan/reference.h"

namespace ens {
namespace {

using test::Net;
using test::random_batch;

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

struct Case {
  std::string name;
  Shape input;
  std::function<void(Net&, int)> build;
};

// Rows for the table below. Channel counts both do and do not fit the vector width.
std::vector<Case> cases() {
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

class PlanTable : public testing::TestWithParam<size_t> {};

TEST_P(PlanTable, AgreesWithPlainLoops) {
  const Case c = cases()[GetParam()];
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

INSTANTIATE_TEST_SUITE_P(Nets, PlanTable, testing::Range<size_t>(0, cases().size()),
                         [](const auto& each) { return cases()[each.param].name; });

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
