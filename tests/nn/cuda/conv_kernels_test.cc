// SPDX-License-Identifier: Apache-2.0
// Every variant of the serving convolutions of our own against the plain loops of conv_naive.
#include <functional>
#include <set>
#include <vector>

#include "nn/cuda/context.h"
#include "nn/cuda/conv_grouped_gemm.h"
#include "nn/cuda/conv_small_batch.h"
#include "nn/cuda/serve_conv.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

using cuda::NetConv;

struct Case {
  int64_t nets, batch, c, h, w, o, k;
  ConvSpec spec;
  bool one_input, residual, relu;
};

constexpr Case kCases[] = {
    {3, 1, 32, 2, 2, 16, 3, {1, 1}, false, true, true},
    {2, 1, 64, 4, 4, 48, 3, {1, 1}, true, false, true},
    {2, 3, 32, 5, 7, 32, 3, {2, 1}, false, false, false},
    {1, 2, 96, 4, 4, 16, 1, {2, 0}, false, true, false},
    {2, 5, 32, 6, 6, 32, 3, {1, 2, 2}, false, true, true},
    {1, 4, 288, 3, 3, 16, 2, {1, 0}, false, false, true},
    {2, 1, 32, 1, 1, 16, 1, {1, 0}, false, false, false},
    // For the larger tiles, none of which they fill; the last two for sums that are split.
    {2, 3, 24, 9, 7, 136, 3, {1, 1}, true, true, true},
    {1, 2, 8, 12, 11, 72, 2, {1, 1}, false, false, false},
    {1, 1, 120, 9, 8, 72, 3, {1, 1}, false, true, true},
    {1, 1, 512, 3, 3, 40, 3, {1, 1}, false, false, false},
};
// For float8: all tiles but one, and narrow layers.
constexpr Case kFloat8Cases[] = {
    {2, 2, 32, 9, 8, 80, 3, {1, 1}, false, true, true},
    {1, 2, 16, 5, 4, 16, 3, {2, 1}, true, false, false},
};

class GpuConvKernels : public OnGpu<testing::Test> {
 protected:
  // One of them with its operands; `want` is what it has to be.
  NetConv prepare(const Case& each, Dtype dtype, bool float8 = false) {
    NetConv conv;
    conv.dtype = dtype;
    conv.nets = each.nets;
    conv.batch = each.batch;
    conv.c = each.c;
    conv.h = each.h;
    conv.w = each.w;
    conv.o = each.o;
    conv.kh = conv.kw = each.k;
    conv.spec = each.spec;
    const auto size = [&](int64_t in) {
      return (in + 2 * each.spec.padding - each.spec.dilation * (each.k - 1) - 1) /
                 each.spec.stride +
             1;
    };
    conv.oh = size(each.h);
    conv.ow = size(each.w);
    conv.relu = each.relu;
    held_.clear();
    const auto hold = [&](const Tensor& all, int64_t nets) {
      held_.push_back(all.to(kGpu));
      return cuda::NetMemory{cuda::write_raw(ctx(), held_.back()),
                             nets == 1 ? 0 : all.bytes() / static_cast<size_t>(nets)};
    };
    const auto memory = [&](int64_t nets, int64_t numbers, uint32_t seed) {
      return hold(uniform({nets * numbers}, seed).to(dtype), nets);
    };
    conv.x = memory(each.one_input ? 1 : each.nets, each.batch * each.h * each.w * each.c, 1);
    conv.weight = memory(each.nets, each.o * conv.depth(), 2);
    conv.float8 = float8;
    if (float8) {
      conv.weight = hold(uniform({each.nets * each.o * conv.depth()}, 2).to(Dtype::kF8), each.nets);
      conv.scales = hold(uniform({each.nets * (each.o + 1)}, 6), each.nets);
    }
    conv.bias = memory(each.nets, each.o, 3);
    const int64_t out = conv.rows() * each.o;
    if (each.residual) conv.z = memory(each.nets, out, 4);
    conv.y = memory(each.nets, out, 5);
    conv_naive(conv, ctx().stream);
    want_ = result();
    return conv;
  }
  Tensor result() const { return held_.back().to(Dtype::kF32).to(Device{}); }

  // After run(), which computes `conv` anew.
  void expect_right(const NetConv& conv, int variant, const std::function<void()>& run) {
    held_.back().fill(0);
    run();
    EXPECT_TRUE(near(result(), want_, conv.dtype == Dtype::kF16 ? 2e-3 : 1.5e-2))
        << conv.rows() << " pixels, depth " << conv.depth() << ", variant " << variant << ", "
        << name(conv.dtype);
  }

  // One kernel behind another of its kind, as the executable captures them.
  void run_early(const std::function<void(cuda::Launch)>& kernel) {
    const bool dependent = supports_pdl(ctx());
    cuda::Capture capture(ctx());
    kernel(ctx().stream);
    kernel({ctx().stream, dependent});
    const auto graph = capture.finish();
    graph->launch(ctx());
    ctx().synchronize();
  }

  // Every variant that suits_grouped_gemm; which ones do goes to `variants`.
  void together(const NetConv& conv, std::set<int>& variants) {
    ASSERT_TRUE(can_do_grouped_gemm(conv));
    for (int v = 0; v < cuda::kGroupedGemmVariants; ++v) {
      if (!suits_grouped_gemm(conv, v)) continue;
      variants.insert(v);
      const auto bytes = [&](size_t n) {
        return Tensor::zeros({static_cast<int64_t>(n) + 1}, Dtype::kU8, kGpu);
      };
      Tensor scratch = bytes(grouped_gemm_scratch(conv, v));
      Tensor counters = bytes(static_cast<size_t>(grouped_gemm_counters(conv, v)) * 4);
      auto* const partials = cuda::write<std::byte>(ctx(), scratch);
      auto* const counts = cuda::write<int32_t>(ctx(), counters);
      const auto kernel = [&](cuda::Launch how) {
        conv_grouped_gemm(conv, v, partials, counts, how);
      };
      expect_right(conv, v, [&] { kernel(ctx().stream); });
      expect_right(conv, v, [&] { run_early(kernel); });  // counters are left as they were
    }
  }

  cuda::Context& ctx() { return cuda::context(0); }  // not before SetUp(): there may be no GPU
  std::vector<Tensor> held_;                         // the last one is y
  Tensor want_;
};

TEST_F(GpuConvKernels, FewAgreesWithPlainLoops) {
  std::set<int> variants;
  for (const Case& each : kCases) {
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
      const NetConv conv = prepare(each, dtype);
      for (int v = 0; v < cuda::kSmallBatchVariants; ++v) {
        if (!can_do_small_batch(conv) || !suits_small_batch(conv, v)) continue;
        variants.insert(v);
        const auto kernel = [&](cuda::Launch how) { conv_small_batch(conv, v, how); };
        expect_right(conv, v, [&] { kernel(ctx().stream); });
        expect_right(conv, v, [&] { run_early(kernel); });
      }
    }
  }
  EXPECT_EQ(std::ssize(variants), cuda::kSmallBatchVariants);
}

TEST_F(GpuConvKernels, TogetherAgreesWithPlainLoops) {
  std::set<int> variants;
  for (size_t i = 0; i < std::size(kCases); ++i) {
    together(prepare(kCases[i], i % 2 ? Dtype::kF16 : Dtype::kBF16), variants);
  }
  EXPECT_EQ(std::ssize(variants), cuda::kGroupedGemmVariants);
}

TEST_F(GpuConvKernels, TogetherAgreesWithPlainLoopsInFloat8) {
  std::set<int> variants;
  for (const Case& each : kFloat8Cases) together(prepare(each, Dtype::kF16, true), variants);
  EXPECT_GT(std::ssize(variants), 4);
}

TEST_F(GpuConvKernels, FewKnowsWhatItCannotDo) {
  NetConv conv;
  conv.dtype = Dtype::kF16;
  conv.c = 32;
  conv.o = 16;
  EXPECT_TRUE(can_do_small_batch(conv));
  for (const auto& spoil : std::vector<std::function<void(NetConv&)>>{
           [](NetConv& c) { c.c = 24; }, [](NetConv& c) { c.o = 24; },
           [](NetConv& c) { c.dtype = Dtype::kF32; }, [](NetConv& c) { c.float8 = true; },
           [](NetConv& c) { c.spec.groups = 2; }, [](NetConv& c) { c.batch = 1 << 16; }}) {
    NetConv bad = conv;
    spoil(bad);
    EXPECT_FALSE(can_do_small_batch(bad));
  }
}

}  // namespace
}  // namespace ens::test
