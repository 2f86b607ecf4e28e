// Every variant of the kernel for few pixels against the plain loops of conv_direct.
#include "nn/cuda/conv_few.h"

#include <functional>
#include <vector>

#include "nn/cuda/context.h"
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
};

using GpuConvFew = OnGpu<testing::Test>;

TEST_F(GpuConvFew, AgreesWithPlainLoops) {
  cuda::Context& ctx = cuda::context(0);
  for (const Case& each : kCases) {
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
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
      std::vector<Tensor> held;
      const auto memory = [&](int64_t nets, int64_t numbers, uint32_t seed) {
        held.push_back(uniform({nets * numbers}, seed).to(dtype).to(kGpu));
        return cuda::NetMemory{cuda::write_raw(ctx, held.back()),
                               nets == 1 ? 0 : static_cast<size_t>(numbers) * size_of(dtype)};
      };
      conv.x = memory(each.one_input ? 1 : each.nets, each.batch * each.h * each.w * each.c, 1);
      conv.weight = memory(each.nets, each.o * conv.depth(), 2);
      conv.bias = memory(each.nets, each.o, 3);
      const int64_t out = conv.rows() * each.o;
      if (each.residual) conv.z = memory(each.nets, out, 4);
      conv.y = memory(each.nets, out, 5);
      conv_direct(conv, ctx.stream);
      const Tensor want = held.back().to(Dtype::kF32).to(Device{});
      ASSERT_TRUE(can_do_few(conv));
      int variants = 0;
      for (int v = 0; v < cuda::kFewVariants; ++v) {
        if (!suits_few(conv, v)) continue;
        ++variants;
        held.back().fill(0);
        conv_few(conv, v, ctx.stream);
        EXPECT_TRUE(near(held.back().to(Dtype::kF32).to(Device{}), want,
                         dtype == Dtype::kF16 ? 2e-3 : 1.5e-2))
            << conv.rows() << " pixels, depth " << conv.depth() << ", variant " << v << ", "
            << name(dtype);
      }
      EXPECT_GT(variants, 0);
    }
  }
}

TEST_F(GpuConvFew, KnowsWhatItCannotDo) {
  NetConv conv;
  conv.dtype = Dtype::kF16;
  conv.c = 32;
  conv.o = 16;
  EXPECT_TRUE(can_do_few(conv));
  for (const auto& spoil : std::vector<std::function<void(NetConv&)>>{
           [](NetConv& c) { c.c = 24; }, [](NetConv& c) { c.o = 24; },
           [](NetConv& c) { c.dtype = Dtype::kF32; }, [](NetConv& c) { c.float8 = true; },
           [](NetConv& c) { c.spec.groups = 2; }, [](NetConv& c) { c.batch = 1 << 16; }}) {
    NetConv bad = conv;
    spoil(bad);
    EXPECT_FALSE(can_do_few(bad));
  }
}

}  // namespace
}  // namespace ens::test
