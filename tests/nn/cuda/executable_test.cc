// SPDX-License-Identifier: Apache-2.0
// Serving on the GPU: every algorithm for a layer, odd networks, all dtypes, batch sizes around
// the edges of buckets, several nets at once and several threads, against plain loops and the CPU.
#include "nn/cuda/executable.h"

#include <map>
#include <string>
#include <thread>

#include "nn/core/float8.h"
#include "nn/cuda/serve_conv.h"
#include "nn/models/model.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/nn/plan/cases.h"

namespace ens::test {
namespace {

using cuda::ConvAlgorithm;

constexpr ConvAlgorithm kAlgorithms[] = {ConvAlgorithm::kSmallBatchTensorCore,
                                         ConvAlgorithm::kGroupedImplicitGemm,
                                         ConvAlgorithm::kDenseSmallMap,
                                         ConvAlgorithm::kIm2colGemm,
                                         ConvAlgorithm::kCudnn,
                                         ConvAlgorithm::kNaive};

double tolerance(Dtype dtype) {
  return dtype == Dtype::kF32 ? 1e-4 : dtype == Dtype::kBF16 ? 3e-2 : 5e-3;
}

struct Row {
  size_t net;
  ConvAlgorithm algorithm;
};

class GpuNets : public OnGpu<testing::TestWithParam<Row>> {};

TEST_P(GpuNets, AgreesWithPlainLoops) {
  const NetCase c = net_cases()[GetParam().net];
  std::vector<Graph> nets;
  for (uint64_t seed : {1, 2, 3}) {
    Net net(c.input, seed);
    c.build(net, net.graph.input);
    nets.push_back(net.graph);
  }
  std::vector<Graph> fused;
  for (const Graph& net : nets) fused.push_back(fuse(net));
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    SCOPED_TRACE(name(dtype));
    const auto executable = cuda::compile_cuda(fused, dtype, 9, 0, {false, GetParam().algorithm});
    for (int64_t batch : {9, 1, 5}) {
      SCOPED_TRACE(batch);
      const Tensor x = random_batch(batch, c.input, 100 + static_cast<uint64_t>(batch));
      const Tensor all = executable->run(x.to(kGpu)).to(Device{});
      ASSERT_EQ(all.dim(0), 3);
      ASSERT_EQ(all.dim(1), batch);
      for (int64_t i = 0; i < 3; ++i) {
        SCOPED_TRACE("net " + std::to_string(i));
        expect_close(interpret(nets[static_cast<size_t>(i)], x), all.rows(i, 1), tolerance(dtype));
      }
    }
  }
}

std::vector<Row> rows() {
  std::vector<Row> list;
  for (size_t net = 0; net < net_cases().size(); ++net) {
    for (ConvAlgorithm algorithm : kAlgorithms) list.push_back({net, algorithm});
  }
  return list;
}
INSTANTIATE_TEST_SUITE_P(All, GpuNets, testing::ValuesIn(rows()), [](const auto& each) {
  return net_cases()[each.param.net].name + "_" + cuda::name(each.param.algorithm);
});

// A body as the cloud serves it, with batch-norm statistics that are not those of a fresh net.
Graph body_graph(const ModelSpec& spec, const Split& split, uint64_t seed) {
  Rng rng(seed);
  const auto body = build_body(spec, split, rng);
  for (const NamedTensor& b : body->buffers()) {
    if (b.tensor.dtype() != Dtype::kF32) continue;
    const bool variance = b.name.ends_with("var");
    rng.fill_uniform(b.tensor.span<float>(), variance ? 0.5f : -0.3f, variance ? 1.5f : 0.3f);
  }
  return lower(*body, smashed_shape(spec, split));
}

using GpuPlan = OnGpu<testing::Test>;

// Against the CPU's executable. Timing all algorithms of so many layers is no work for an emulated
// GPU.
void expect_same_as_cpu(const std::vector<Graph>& graphs, int64_t max_batch,
                        const std::vector<int64_t>& batches) {
  Plan cpu(graphs, {}, Dtype::kF32, max_batch);
  for (Dtype dtype : {Dtype::kF32, Dtype::kF16}) {
    SCOPED_TRACE(name(dtype));
    std::vector<Graph> fused;
    for (const Graph& g : graphs) fused.push_back(fuse(g));
    const auto gpu =
        cuda::compile_cuda(fused, dtype, max_batch, 0, {false, ConvAlgorithm::kIm2colGemm});
    for (int64_t batch : batches) {
      SCOPED_TRACE(batch);
      const Tensor x = random_batch(batch, cpu.input_shape(), 7 + static_cast<uint64_t>(batch));
      const auto want = cpu.run_all(x).to_vector();
      expect_close({want.begin(), want.end()}, gpu->run(x.to(kGpu)).to(Device{}), tolerance(dtype));
    }
  }
}

TEST_F(GpuPlan, ResNetBodies) {
  ModelSpec spec;
  spec.width = 8;
  std::vector<Graph> graphs;
  for (int i = 0; i < 3; ++i) graphs.push_back(body_graph(spec, {}, 20 + i));
  expect_same_as_cpu(graphs, 10, {10, 1, 8, 9});
}

TEST_F(GpuPlan, VggBodies) {
  ModelSpec spec;
  spec.architecture = "vgg16";
  spec.width = 8;
  std::vector<Graph> graphs;
  for (int i = 0; i < 2; ++i) graphs.push_back(body_graph(spec, {2, 1}, 20 + i));
  expect_same_as_cpu(graphs, 3, {3, 1});
}

TEST_F(GpuPlan, VisionTransformers) {
  ModelSpec spec;
  spec.architecture = "vit";
  spec.width = 8;
  const int cells = static_cast<int>(cell_names(spec).size());
  std::vector<Graph> graphs, inner;
  for (uint64_t seed : {20, 21}) {
    Rng rng(seed);
    graphs.push_back(lower(*build_cells(spec, 0, cells, rng), spec.input_shape()));
    inner.push_back(lower(*build_cells(spec, 1, 3, rng), Shape{65, 24}));  // tokens in and out
  }
  expect_same_as_cpu(graphs, 3, {3, 1});
  expect_same_as_cpu(inner, 3, {2});
}

TEST_F(GpuPlan, AllNetsAnswerLikeEachAlone) {
  ModelSpec spec;
  spec.width = 8;
  std::vector<Graph> graphs;
  for (int i = 0; i < 5; ++i) graphs.push_back(fuse(body_graph(spec, {}, 30 + i)));
  const Tensor x = random_batch(4, smashed_shape(spec, {})).to(kGpu);
  for (ConvAlgorithm algorithm : {ConvAlgorithm::kSmallBatchTensorCore,
                                  ConvAlgorithm::kGroupedImplicitGemm, ConvAlgorithm::kCudnn}) {
    SCOPED_TRACE(cuda::name(algorithm));
    const Tensor all = cuda::compile_cuda(graphs, Dtype::kF16, 4, 0, {false, algorithm})->run(x);
    for (int64_t i : {0, 4}) {
      const auto alone = cuda::compile_cuda({graphs[static_cast<size_t>(i)]}, Dtype::kF16, 4, 0,
                                            {false, algorithm});
      const auto want = alone->run(x).to_vector();
      expect_close({want.begin(), want.end()}, all.rows(i, 1).to(Device{}), 2e-3);
    }
  }
}

// Small, and with every kind of step: what is measured here is measured quickly.
Graph small_graph(uint64_t seed, int64_t channels = 8) {
  Net net({channels, 8, 8}, seed);
  int x = net.res_block(net.max_pool(net.graph.input, {3, 2, 1}), 2 * channels, 2);
  net.linear(net.global_avg_pool(x), 10);
  return net.graph;
}

TEST_F(GpuPlan, TheFastestWayIsARightOne) {
  const std::vector<Graph> nets{small_graph(1), small_graph(2)};
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    SCOPED_TRACE(name(dtype));
    Plan plan(nets, kGpu, dtype, 8);
    for (int64_t batch : {1, 8, 11}) {
      const Tensor x = random_batch(batch, plan.input_shape());
      const Tensor all = plan.run_all(x).to(Device{});
      for (int64_t i = 0; i < 2; ++i) {
        expect_close(interpret(nets[static_cast<size_t>(i)], x), all.rows(i, 1), tolerance(dtype));
      }
    }
  }
}

TEST_F(GpuPlan, TheFastestWayInFloat8IsARightOne) {
  const Tensor x = random_batch(40, {16, 8, 8});
  std::vector<Graph> nets{small_graph(1, 16), small_graph(2, 16)};
  for (Graph& net : nets) set_input_ranges(net, input_ranges(net, x));
  Plan plan(nets, kGpu, Dtype::kF8, 40);
  for (int64_t batch : {2, 40}) {
    const Tensor all = plan.run_all(x.rows(0, batch)).to(Device{});
    for (int64_t i = 0; i < 2; ++i) {
      const auto want = run_float8(fuse(nets[static_cast<size_t>(i)]), x.rows(0, batch));
      const auto numbers = want.to_vector();
      expect_close({numbers.begin(), numbers.end()}, all.rows(i, 1), 2e-2);
    }
  }
}

// Layers alone, on inputs that float16 holds: then every algorithm must round to the same float8s
// as the reference, and only the result is rounded once more.
TEST_F(GpuPlan, Float8LayersAreThoseOfTheReference) {
  struct Layer {
    Shape input;
    int64_t outputs;
    int kernel;
    ConvSpec spec;
    bool residual;
  };
  for (const Layer& layer :
       {Layer{{32, 6, 5}, 48, 3, {1, 1, 1, 1}, false},
        Layer{{16, 9, 9}, 80, 3, {2, 1, 1, 1}, false}, Layer{{48, 2, 2}, 48, 3, {1, 1, 1, 1}, true},
        Layer{{160, 4, 4}, 16, 1, {1, 0, 1, 1}, true},
        Layer{{32, 7, 7}, 32, 3, {1, 2, 2, 1}, false}}) {
    SCOPED_TRACE(layer.input.str());
    std::vector<Graph> nets;
    for (uint64_t seed : {1, 2, 3}) {
      Net net(layer.input, seed);
      const int x = net.graph.input;
      int y = net.conv(x, layer.outputs, layer.kernel, layer.spec);
      if (layer.residual && layer.input[0] == layer.outputs) y = net.add(y, x);
      net.relu(y);
      set_input_ranges(net.graph, {0.3f * static_cast<float>(seed)});
      nets.push_back(fuse(net.graph));
      ASSERT_TRUE(takes_float8(nets.back().steps[0]));
    }
    for (ConvAlgorithm algorithm :
         {ConvAlgorithm::kGroupedImplicitGemm, ConvAlgorithm::kCudnn, ConvAlgorithm::kNaive}) {
      SCOPED_TRACE(cuda::name(algorithm));
      const auto executable = cuda::compile_cuda(nets, Dtype::kF8, 40, 0, {false, algorithm});
      for (int64_t batch : {40, 1, 5}) {
        SCOPED_TRACE(batch);
        const Tensor x = random_batch(batch, layer.input, 9).to(Dtype::kF16).to(Dtype::kF32);
        const Tensor all = executable->run(x.to(kGpu)).to(Device{});
        for (int64_t i = 0; i < 3; ++i) {
          const auto want = run_float8(nets[static_cast<size_t>(i)], x).to_vector();
          // Tensor cores may keep fewer bits of sums of float8s than of a float32.
          expect_close({want.begin(), want.end()}, all.rows(i, 1),
                       algorithm == ConvAlgorithm::kCudnn ? 3e-3 : 6e-4);
        }
      }
    }
  }
}

TEST_F(GpuPlan, RangesAreThoseOfTheCpu) {
  const Graph graph = small_graph(1, 16);
  const Tensor x = random_batch(40, {16, 8, 8});
  const auto want = input_ranges(graph, x), got = input_ranges(graph, x.to(kGpu));
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4 * want[i]) << i;
}

TEST_F(GpuPlan, Float8BodiesAreCloseToTheReference) {
  ModelSpec spec;
  spec.width = 16;
  std::vector<Graph> nets;
  const Tensor x = random_batch(6, smashed_shape(spec, {}), 4);
  for (uint64_t seed : {1, 2}) {
    Graph graph = body_graph(spec, {}, seed);
    set_input_ranges(graph, input_ranges(graph, x));
    nets.push_back(fuse(graph));
  }
  const auto executable =
      cuda::compile_cuda(nets, Dtype::kF8, 8, 0, {false, ConvAlgorithm::kGroupedImplicitGemm});
  const Tensor all = executable->run(x.to(kGpu)).to(Device{});
  for (int64_t i = 0; i < 2; ++i) {
    const auto want = run_float8(nets[static_cast<size_t>(i)], x).to_vector();
    // Between the layers there are float16s here and float32s there. What they differ in decides
    // which float8 is nearest now and then, and each such step is a sixteenth: after some layers
    // the two are nearly as far apart as each is from a computation without float8.
    expect_close({want.begin(), want.end()}, all.rows(i, 1), 0.12);
  }
}

TEST_F(GpuPlan, MovesBetweenThreadsAndKeepsResults) {
  Plan plan(small_graph(3), kGpu, Dtype::kF16, 8);
  const Tensor x = random_batch(5, plan.input_shape());
  const Tensor first = plan.run(x);
  const auto want = first.to_vector();
  for (int i = 0; i < 4; ++i) {
    std::vector<float> got;
    std::thread([&] {
      plan.run(random_batch(8, plan.input_shape(), 50));  // leaves other numbers in the arena
      got = plan.run(x).to_vector();
    }).join();
    EXPECT_EQ(got, want);
  }
  EXPECT_EQ(first.to_vector(), want) << "a result was overwritten";
}

// A race would show as a number that differs at times.
TEST_F(GpuPlan, DependentLaunchesChangeNothing) {
  if (!supports_pdl(cuda::context(0))) GTEST_SKIP() << "not on this GPU and driver";
  const std::vector<Graph> nets{fuse(small_graph(1, 32)), fuse(small_graph(2, 32))};
  for (const ConvAlgorithm algorithm : kAlgorithms) {
    SCOPED_TRACE(cuda::name(algorithm));
    const auto plain = cuda::compile_cuda(nets, Dtype::kF16, 8, 0, {false, algorithm, false});
    const auto dependent = cuda::compile_cuda(nets, Dtype::kF16, 8, 0, {false, algorithm, true});
    for (const int64_t batch : {8, 1, 8}) {
      for (uint64_t seed = 1; seed <= 3; ++seed) {
        const Tensor x = random_batch(batch, {32, 8, 8}, seed).to(kGpu);
        EXPECT_EQ(plain->run(x).to_vector(), dependent->run(x).to_vector()) << batch;
      }
    }
  }
}

TEST_F(GpuPlan, SaysHowItComputesConvolutions) {
  const auto rejected = [](const ConvProblem& p) {
    std::map<std::string, std::string> reasons;
    for (const ConvCandidate& c : backend(kGpu).explain_conv(p)) reasons[c.name] = c.rejected;
    return reasons;
  };
  ConvProblem p{{1, 64, 8, 8}, {64, 64, 3, 3}, {1, 64, 8, 8}, {1, 1}, Dtype::kF16, true};
  for (const char* timed : {"small_batch_tensor_core", "grouped_implicit_gemm", "im2col_gemm"}) {
    EXPECT_EQ(rejected(p)[timed], "");
  }
  EXPECT_NE(rejected(p)["dense_small_map"], "");
  p.dtype = Dtype::kF32;
  EXPECT_NE(rejected(p)["small_batch_tensor_core"].find("16"), std::string::npos);
  EXPECT_EQ(rejected(p)["cudnn"], "");
  p.x = p.y = {8, 64, 2, 2};
  EXPECT_EQ(rejected(p)["dense_small_map"], "");
  p.serving = false;
  EXPECT_EQ(rejected(p)["cudnn"], "");
  EXPECT_NE(rejected(p)["im2col_gemm"], "");
}

TEST_F(GpuPlan, CountsItsMemory) {
  Plan plan(small_graph(3), kGpu, Dtype::kF16, 8);
  EXPECT_GE(plan.weight_bytes(), static_cast<size_t>(plan.parameters()) * 2);
  EXPECT_GT(plan.arena_bytes(), 8u * 8 * 8 * 8 * 2);
  EXPECT_THROW(Plan(small_graph(3), kGpu, Dtype::kI32, 8), Error);
}

}  // namespace
}  // namespace ens::test
