// SPDX-License-Identifier: Apache-2.0
// What the real cuDNN says of our convolutions on GPUs that are not here: it is told their
// properties, as it would have read them, and must suggest engines and build plans. No GPU needed.
#include "nn/cuda/dnn_conv.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <ostream>
#include <set>

#include "nn/models/model.h"
#include "nn/plan/fuse.h"

namespace ens::test {
namespace {

using cuda::DnnConv;
using cuda::DnnEngines;

struct Gpu {
  const char* name;
  int compute, processors, shared_kib, sm_mhz, memory_mhz, l2_mib;
};
void PrintTo(const Gpu& gpu, std::ostream* out) { *out << gpu.name; }

// From NVIDIA's data sheets and the CUDA programming guide's table of compute capabilities.
constexpr Gpu kA100{"A100", 800, 108, 163, 1410, 1215, 40};
constexpr Gpu kH100{"H100", 900, 132, 227, 1980, 2619, 50};
constexpr Gpu kH200{"H200", 900, 132, 227, 1980, 3201, 50};

std::string properties(const Gpu& g) {
  return nlohmann::json{{"deviceName", g.name},
                        {"deviceVer", g.compute},
                        {"cudaDeviceId", 0},
                        {"pciDeviceId", 0},
                        {"driverVer", 13000},
                        {"isTccDriver", 0},
                        {"supportCoopLaunch", 1},
                        {"multiProcessorCount", g.processors},
                        {"warpSize", 32},
                        {"maxGridSize", {2147483647, 65535, 65535}},
                        {"maxBlockSize", {1024, 1024, 64}},
                        {"regsPerBlock", 65536},
                        {"maxRegistersPerSM", 65536},
                        {"maxThreadsPerBlock", 1024},
                        {"maxThreadsPerSM", 2048},
                        {"maxCtasPerSM", 32},
                        {"maxSharedMemoryPerBlock", 48 << 10},
                        {"maxSharedMemoryPerBlockOptin", g.shared_kib << 10},
                        {"reservedSharedMemoryPerBlock", 1 << 10},
                        {"smClockRateKHz", g.sm_mhz * 1000},
                        {"memClockRateKHz", g.memory_mhz * 1000},
                        {"l2CacheSize", g.l2_mib << 20},
                        {"totalGlobalMem", int64_t{40} << 30}}
      .dump();
}

// Every convolution of a graph, as it is served.
std::vector<DnnConv> convolutions(const Graph& graph, int64_t batch, Dtype dtype) {
  std::vector<DnnConv> list;
  for (const GraphStep& s : graph.steps) {
    if (s.kind != GraphStep::Kind::kConv) continue;
    DnnConv c;
    c.dtype = dtype;
    c.x = batched(batch, graph.shape(s.input));
    c.w = s.weight.shape();
    c.y = batched(batch, graph.shape(s.output));
    c.spec = s.conv;
    c.z = s.residual >= 0;
    c.bias = true;
    c.relu = s.relu;
    list.push_back(c);
  }
  return list;
}

std::vector<Graph> whole_networks() {
  std::vector<Graph> list;
  Rng rng(1);
  for (const char* architecture : {"resnet18", "vgg16"}) {
    ModelSpec spec;
    spec.architecture = architecture;
    const auto head = build_head(spec, {}, rng);
    list.push_back(lower(*head, spec.input_shape()));
    const auto body = build_body(spec, {}, rng);
    list.push_back(lower(*body, smashed_shape(spec, {})));
  }
  return list;
}

class DnnConvolutions : public testing::TestWithParam<Gpu> {
 protected:
  // Some suggestion can be built.
  void expect_engines(const DnnConv& conv) {
    if (!seen_.insert(conv.key()).second) return;
    SCOPED_TRACE(conv.x.str() + " " + conv.w.str() + " " + name(conv.dtype) + " pass " +
                 std::to_string(static_cast<int>(conv.pass)) + (conv.tf32 ? "" : " exact"));
    const DnnEngines engines(conv, {nullptr, properties(GetParam())});
    ASSERT_GT(engines.count(), 0);
    for (int i = 0; i < engines.count(); ++i) {
      if (engines.plan(i)) return;
    }
    FAIL() << "none of " << engines.count() << " suggestions can be built";
  }

  // All three passes of a training, with and without TF32.
  void expect_training(DnnConv c) {
    c.z = c.bias = c.relu = false;
    for (const auto pass :
         {DnnConv::Pass::kForward, DnnConv::Pass::kGradInput, DnnConv::Pass::kGradWeight}) {
      for (const bool tf32 : {true, false}) {
        c.pass = pass;
        c.tf32 = tf32;
        expect_engines(c);
      }
    }
  }

 private:
  std::set<std::vector<int64_t>> seen_;
};

TEST_P(DnnConvolutions, ServeWholeNetworks) {
  for (const Graph& net : whole_networks()) {
    for (const int64_t batch : {1, 128}) {
      for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16, Dtype::kF32}) {
        for (const DnnConv& c : convolutions(fuse(net), batch, dtype)) expect_engines(c);
      }
    }
  }
}

TEST_P(DnnConvolutions, TrainWholeNetworks) {
  for (const Graph& net : whole_networks()) {
    for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
      for (const DnnConv& c : convolutions(net, 128, dtype)) {
        expect_training(c);
      }
    }
  }
}

// The net that the attacks' results are shown to (attacks/core/reference_classifier.cc): narrow,
// smaller batches.
TEST_P(DnnConvolutions, TrainNarrowNetworks) {
  ModelSpec spec;
  spec.width = 16;
  Rng rng(1);
  const auto net = build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng);
  const Graph graph = lower(*net, spec.input_shape());
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    for (const DnnConv& c : convolutions(graph, 64, dtype)) {
      expect_training(c);
    }
  }
}

// The attacks' decoders: from 64 x 16 x 16 to an image.
TEST_P(DnnConvolutions, TrainDecoders) {
  struct Layer {
    int64_t in, size, out;
    int kernel;
    ConvSpec spec;
  };
  for (const Layer& l : {Layer{64, 16, 64, 3, {1, 1}}, Layer{32, 32, 64, 4, {2, 1}},
                         Layer{32, 32, 32, 3, {1, 1}}, Layer{32, 32, 3, 3, {1, 1}}}) {
    DnnConv c;
    const int64_t out = (l.size + 2 * l.spec.padding - l.kernel) / l.spec.stride + 1;
    c.x = {64, l.in, l.size, l.size};
    c.w = {l.out, l.in, l.kernel, l.kernel};
    c.y = {64, l.out, out, out};
    c.spec = l.spec;
    for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
      c.dtype = dtype;
      expect_training(c);
    }
  }
}

// Channels that fill no vector, dilation, groups, no padding, windows as large as the image.
TEST_P(DnnConvolutions, OddShapes) {
  struct Odd {
    int64_t channels, size, outputs;
    int kernel;
    ConvSpec spec;
  };
  for (const Odd& o :
       {Odd{5, 7, 6, 3, {1, 1, 1, 1}}, Odd{3, 9, 4, 3, {2, 1, 2, 1}}, Odd{4, 8, 6, 3, {1, 1, 1, 2}},
        Odd{6, 5, 6, 3, {1, 1, 1, 6}}, Odd{6, 9, 4, 3, {2, 2, 2, 2}}, Odd{1, 6, 1, 5, {3, 2, 1, 1}},
        Odd{7, 4, 3, 4, {1, 0, 1, 1}}, Odd{2, 3, 5, 1, {2, 0, 1, 1}}}) {
    DnnConv c;
    const int64_t out =
        (o.size + 2 * o.spec.padding - o.spec.dilation * (o.kernel - 1) - 1) / o.spec.stride + 1;
    c.x = {2, o.channels, o.size, o.size};
    c.w = {o.outputs, o.channels / o.spec.groups, o.kernel, o.kernel};
    c.y = {2, o.outputs, out, out};
    c.spec = o.spec;
    for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16, Dtype::kF32}) {
      c.dtype = dtype;
      expect_training(c);
    }
  }
}

// cuDNN compiles its kernels for float8 when a plan is made and asks the driver's library for help,
// in whose place the toolkit has one without functions: enough for suggestions, not for plans.
TEST_P(DnnConvolutions, TakeFloat8) {
  if (GetParam().compute < 890) GTEST_SKIP() << "this GPU has no float8";
  if (!dlopen("libcuda.so.1", RTLD_NOW) && !dlopen(ENS_CUDA_STUB, RTLD_NOW)) {
    GTEST_SKIP() << "neither a driver nor " << ENS_CUDA_STUB;
  }
  for (const Graph& net : whole_networks()) {
    for (DnnConv c : convolutions(fuse(net), 128, Dtype::kF16)) {
      if (c.w[0] % 16 || c.w[1] % 16) continue;
      c.float8 = true;
      const DnnEngines engines(c, {nullptr, properties(GetParam())});
      EXPECT_GT(engines.count(), 0) << c.x.str() << " " << c.w.str();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Described, DnnConvolutions, testing::Values(kA100, kH100, kH200),
                         [](const auto& each) { return each.param.name; });

}  // namespace
}  // namespace ens::test
