// SPDX-License-Identifier: Apache-2.0
// What the table of operations does not reach: the backend's verbs against the CPU's.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "nn/autograd/ops.h"
#include "nn/optim/optim.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

using naive::Array;
using GpuVerbs = OnGpu<testing::Test>;

Backend& gpu() { return backend(kGpu); }
Backend& cpu() { return backend(Device{}); }

constexpr Dtype kAll[] = {Dtype::kF32, Dtype::kBF16, Dtype::kF16,
                          Dtype::kU8,  Dtype::kI8,   Dtype::kI32};

// Numbers in [-300, 300] with fractions, NaN and infinities: what conversions have to decide about.
Tensor awkward(const Shape& shape) {
  Tensor t = uniform(shape, 5);
  auto v = t.span<float>();
  for (size_t i = 0; i < v.size(); ++i) v[i] *= 300;
  const float inf = std::numeric_limits<float>::infinity();
  const float special[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 255.5f,
                           NAN,  inf,  -inf, 1e-8f, -0.0f, 3e9f};
  for (size_t i = 0; i < std::size(special) && i < v.size(); ++i) v[i] = special[i];
  return t;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

// Equal numbers, infinities and NaN included.
bool equal(const Tensor& a, const Tensor& b) {
  return std::ranges::equal(a.to_vector(), b.to_vector(), [](float x, float y) {
    return x == y || (std::isnan(x) && std::isnan(y));
  });
}

TEST_F(GpuVerbs, CopyConvertsLikeTheCpu) {
  for (const Shape& shape : {Shape{2, 5, 7, 3}, Shape{3, 16, 8, 8}, Shape{1, 70, 1, 1},
                             Shape{2, 40, 33, 2}, Shape{2, 1, 4, 4}, Shape{1001}}) {
    const Tensor numbers = awkward(shape);
    for (const Dtype from : kAll) {
      const Tensor source = numbers.to(from);
      for (const Dtype to : kAll) {
        for (const Layout in : {Layout::kPlain, Layout::kChannelsLast}) {
          for (const Layout out : {Layout::kPlain, Layout::kChannelsLast}) {
            if (shape.rank() != 4 && (in != Layout::kPlain || out != Layout::kPlain)) continue;
            const Tensor here = source.with_layout(in);
            Tensor want = Tensor::empty(shape, to, {}, out);
            want.copy_from(here);
            // On the device, and converted on the way in and out.
            const Tensor there = here.to(kGpu).with_layout(in);
            Tensor moved = Tensor::empty(shape, to, kGpu, out);
            moved.copy_from(there);
            Tensor up = Tensor::empty(shape, to, kGpu, out);
            up.copy_from(here);
            Tensor down = Tensor::empty(shape, to, {}, out);
            down.copy_from(there);
            for (const Tensor& t : {moved, up}) {
              Tensor back = Tensor::empty(shape, to, {}, out);
              back.copy_from(t);
              EXPECT_TRUE(equal(back, want)) << shape.str() << " " << name(from) << " " << name(in)
                                             << " to " << name(to) << " " << name(out);
            }
            EXPECT_TRUE(equal(down, want))
                << shape.str() << " " << name(from) << " to " << name(to) << " on the CPU";
          }
        }
      }
    }
  }
}

TEST_F(GpuVerbs, BlockedTensorsOfTheCpuComeAndGo) {
  const Tensor plain = uniform({2, 32, 5, 3}, 1);
  for (const Layout layout : {Layout::kBlocked8, Layout::kBlocked16}) {
    const Tensor there = plain.with_layout(layout).to(kGpu);
    EXPECT_TRUE(near(there, plain, 0));
    Tensor back = Tensor::empty(plain.shape(), Dtype::kF32, {}, layout);
    back.copy_from(there);
    EXPECT_TRUE(near(back, plain, 0));
  }
}

// More than one piece of pinned memory, and not a whole number of them.
TEST_F(GpuVerbs, LargeTransfersArriveWhole) {
  Tensor t = Tensor::empty({(9 << 20) / 4 + 12345});
  auto v = t.span<float>();
  std::iota(v.begin(), v.end(), 0.0f);
  const Tensor there = t.to(kGpu);
  EXPECT_TRUE(same_bytes(there.to(Device{}), t));
  EXPECT_TRUE(same_bytes(there.rows(3, 2'000'000).to(Device{}), t.rows(3, 2'000'000)));
}

TEST_F(GpuVerbs, FillEveryType) {
  for (const Dtype dtype : kAll) {
    for (const float value : {0.0f, -0.0f, 1.0f, -3.5f, 1000.0f}) {
      Tensor there = Tensor::empty({7, 5}, dtype, kGpu), here = Tensor::empty({7, 5}, dtype);
      there.fill(value);
      here.fill(value);
      EXPECT_TRUE(same_bytes(there.to(Device{}), here)) << name(dtype) << " " << value;
    }
  }
}

// Views start anywhere: nothing may count on alignment.
TEST_F(GpuVerbs, ViewsAtOddAddresses) {
  const Tensor here = uniform({9, 7}, 1), other = uniform({9, 7}, 2);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    const Tensor a = here.to(dtype).to(kGpu).rows(1, 8), b = other.to(dtype).to(kGpu).rows(1, 8);
    const Tensor want = cpu().binary(BinaryOp::kAdd, here.to(dtype).to(Dtype::kF32).rows(1, 8),
                                     other.to(dtype).to(Dtype::kF32).rows(1, 8));
    EXPECT_TRUE(near(gpu().binary(BinaryOp::kAdd, a, b), want, 1e-2)) << name(dtype);
    EXPECT_TRUE(near(gpu().unary(UnaryOp::kRelu, a, 0, 0),
                     cpu().unary(UnaryOp::kRelu, here.rows(1, 8), 0, 0), 1e-2));
  }
  const Tensor images = uniform({5, 3, 5, 5}, 3), w = uniform({4, 3, 3, 3}, 4);
  const Tensor view = images.to(kGpu).with_layout(Layout::kChannelsLast).rows(1, 3);
  EXPECT_TRUE(near(gpu().conv2d(view, w.to(kGpu), Tensor(), {1, 1}),
                   cpu().conv2d(images.rows(1, 3), w, Tensor(), {1, 1}), 1e-5));
}

TEST_F(GpuVerbs, AxpyMixesTypes) {
  for (const Dtype x : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    for (const Dtype y : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      const Tensor a = uniform({3, 8, 4, 2}, 1), b = uniform({3, 8, 4, 2}, 2);
      const Tensor want = naive::zip(Array(b.to(y)), Array(a.to(x)), [](double p, double q) {
                            return p + 0.5 * q;
                          }).tensor();
      Tensor there = b.to(y).to(kGpu).with_layout(Layout::kChannelsLast);
      gpu().axpy(0.5f, a.to(x).to(kGpu), there);
      EXPECT_TRUE(near(there, want, y == Dtype::kF32 ? 1e-6 : 2e-2)) << name(x) << name(y);
    }
  }
}

TEST_F(GpuVerbs, SlicesAndPlaces) {
  const Tensor here = uniform({4, 6, 5, 7}, 1);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kU8}) {
    for (const Layout layout : {Layout::kPlain, Layout::kChannelsLast}) {
      const Tensor x = here.to(dtype).to(kGpu).with_layout(layout);
      for (int axis = 0; axis < 4; ++axis) {
        const Tensor part = gpu().slice(x, axis, 1, 2);
        const Tensor want = cpu().slice(here.to(dtype), axis, 1, 2);
        EXPECT_TRUE(near(part, want, 0)) << name(dtype) << name(layout) << axis;
        Tensor zeros = Tensor::zeros(here.shape(), dtype, kGpu).with_layout(layout);
        gpu().slice_update(part, zeros, axis, 2);
        Tensor expected = Tensor::zeros(here.shape(), dtype);
        cpu().slice_update(want, expected, axis, 2);
        EXPECT_TRUE(near(zeros, expected, 0)) << name(dtype) << name(layout) << axis;
      }
    }
  }
}

TEST_F(GpuVerbs, LargeSumsKeepTheirPrecision) {
  struct Case {
    Shape from, to;
  };
  for (const auto& [from, to] :
       {Case{{300'000}, {1}}, Case{{64, 32, 16, 16}, {1, 32, 1, 1}}, Case{{20'000, 10}, {1, 10}},
        Case{{16, 9'000}, {16, 1}}, Case{{64, 33, 9, 5}, {1, 33, 9, 1}},
        Case{{70'000, 3}, {70'000, 1}}}) {
    Tensor x = uniform(from, 3);
    for (float& v : x.span<float>()) v += 1;
    const Tensor there = x.to(kGpu);
    EXPECT_TRUE(near(gpu().sum_to(there, to), cpu().sum_to(x, to), 2e-6)) << from.str();
    if (from.rank() == 4) {
      EXPECT_TRUE(near(gpu().sum_to(there.with_layout(Layout::kChannelsLast), to),
                       cpu().sum_to(x, to), 2e-6))
          << from.str();
    }
  }
}

TEST_F(GpuVerbs, GemmScalesAndAdds) {
  const Tensor a = uniform({5, 7}, 1), b = uniform({7, 6}, 2), c = uniform({5, 6}, 3);
  Tensor want = c.clone();
  cpu().gemm(false, false, 0.5f, a, b, -2.0f, want);
  for (const Dtype in : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
    for (const Dtype out : {in, Dtype::kF32}) {
      Tensor got = c.to(out).to(kGpu);
      gpu().gemm(false, false, 0.5f, a.to(in).to(kGpu), b.to(in).to(kGpu), -2.0f, got);
      EXPECT_TRUE(near(got, want, in == Dtype::kF32 ? 1e-6 : 2e-2)) << name(in) << name(out);
    }
  }
  Tensor empty = c.to(kGpu);
  gpu().gemm(false, false, 1, Tensor::empty({5, 0}, Dtype::kF32, kGpu),
             Tensor::empty({0, 6}, Dtype::kF32, kGpu), 3.0f, empty);
  EXPECT_TRUE(near(empty, cpu().unary(UnaryOp::kAffine, c, 3, 0), 1e-6));
}

TEST_F(GpuVerbs, BatchNormKeepsItsPrecisionFarFromZero) {
  for (const Shape& shape : {Shape{64, 5, 16, 16}, Shape{32, 64, 9, 9}, Shape{700, 12}}) {
    Tensor x = uniform(shape, 1);
    for (float& v : x.span<float>()) v += 100;
    const Tensor gamma = Tensor::full({shape[1]}, 1.5f), beta = Tensor::full({shape[1]}, 0.25f);
    const BatchNormSpec relu{.relu = true};
    BatchNormSaved here, there;
    const Tensor want = cpu().batch_norm_train(x, gamma, beta, Tensor(), relu, here);
    const Tensor got =
        gpu().batch_norm_train(x.to(kGpu), gamma.to(kGpu), beta.to(kGpu), Tensor(), relu, there);
    EXPECT_TRUE(near(got, want, 1e-3)) << shape.str();
    EXPECT_TRUE(near(there.mean, here.mean, 1e-6));
    EXPECT_TRUE(near(there.var, here.var, 1e-4));
    const Tensor dy = uniform(shape, 2);
    const BatchNormGrads g = cpu().batch_norm_train_grad(dy, x, want, gamma, beta, false, {}, here);
    const BatchNormGrads h = gpu().batch_norm_train_grad(
        dy.to(kGpu), x.to(kGpu), got, gamma.to(kGpu), beta.to(kGpu), false, {}, there);
    EXPECT_TRUE(near(h.x, g.x, 1e-3)) << shape.str();
    EXPECT_TRUE(near(h.gamma, g.gamma, 1e-3)) << shape.str();
    EXPECT_TRUE(near(h.beta, g.beta, 1e-4)) << shape.str();
  }
}

// Few rows, which one block holds, and many; channels that come in packs, and not; the second time
// too, as blocks count each other in memory that they share with the next launch.
TEST_F(GpuVerbs, BatchNormOfAnySizeWithResidualAndRunningStatistics) {
  for (const Shape& shape : {Shape{2, 16, 4, 4}, Shape{40, 24, 7, 7}, Shape{130, 8, 4, 4},
                             Shape{33, 320, 8, 8}, Shape{64, 5, 16, 16}, Shape{2100, 16}}) {
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
      for (const bool with_residual : {false, true}) {
        const Tensor x = uniform(shape, 1).to(dtype), r = uniform(shape, 2).to(dtype);
        const Tensor dy = uniform(shape, 3).to(dtype);
        const Tensor gamma = uniform({shape[1]}, 4), beta = uniform({shape[1]}, 5);
        const auto run = [&](Backend& be, Dtype type, std::vector<Tensor>& results) {
          const auto there = [&](const Tensor& t) { return t.to(type).to(be.device()); };
          BatchNormSpec spec;
          spec.relu = true;
          spec.running_mean = Tensor::full({shape[1]}, 3, Dtype::kF32, be.device());
          spec.running_var = Tensor::full({shape[1]}, 2, Dtype::kF32, be.device());
          const Tensor g = gamma.to(be.device()), b = beta.to(be.device());
          for (int time = 0; time < 2; ++time) {
            BatchNormSaved saved;
            const Tensor y = be.batch_norm_train(there(x), g, b,
                                                 with_residual ? there(r) : Tensor(), spec, saved);
            const BatchNormGrads d =
                be.batch_norm_train_grad(there(dy), there(x), y, g, b, with_residual, spec, saved);
            results = {y, d.x, d.gamma, d.beta, spec.running_mean, spec.running_var};
            if (with_residual) results.push_back(d.residual);
          }
        };
        std::vector<Tensor> got, want;
        run(gpu(), dtype, got);
        run(cpu(), Dtype::kF32, want);
        // Where the result is nearly 0, the last bit of bfloat16 may decide what the ReLU cuts.
        const double tolerance = dtype == Dtype::kF32 ? 1e-4 : 4e-2;
        for (size_t i = 0; i < want.size(); ++i) {
          EXPECT_TRUE(near(got[i], want[i], i == 4 || i == 5 ? 1e-5 : tolerance))
              << shape.str() << " " << name(dtype) << " result " << i << " residual "
              << with_residual;
        }
      }
    }
  }
}

TEST_F(GpuVerbs, ALabelThatIsNoClassGivesNoNumber) {
  const Tensor logits = uniform({3, 4}, 1).to(kGpu);
  for (const int32_t bad : {-1, 4, 1 << 30}) {
    Tensor probs;
    const std::vector<float> loss =
        gpu()
            .softmax_cross_entropy(logits, Tensor::from_labels(std::vector{1, bad, 2}).to(kGpu), {},
                                   probs)
            .to_vector();
    EXPECT_TRUE(std::isfinite(loss[0]) && std::isnan(loss[1]) && std::isfinite(loss[2])) << bad;
  }
}

// As convolutions leave them: of 16 bits or 32, in either layout; more tensors than one launch
// takes, and larger ones than one block.
TEST_F(GpuVerbs, OptimisersTakeGradientsAsConvolutionsLeaveThem) {
  std::vector<Shape> shapes = {{64, 40, 3, 3}, {5, 7, 3, 2}, {300, 33, 1, 1}, {1, 1, 5, 5}, {4, 3}};
  for (int i = 0; i < 70; ++i) shapes.push_back({2 + i % 3, 3, 3, 1 + i % 4});
  for (const char* kind : {"sgd", "adam"}) {
    OptimSpec spec;
    spec.kind = parse_optimizer(kind);
    std::vector<NamedVar> here, there;
    for (size_t i = 0; i < shapes.size(); ++i) {
      const Tensor w = uniform(shapes[i], static_cast<uint32_t>(i));
      here.push_back({std::to_string(i), Var(w.clone(), true)});
      there.push_back({std::to_string(i), Var(w.to(kGpu), true)});
    }
    Optimizer a(here, spec), b(there, spec);
    constexpr Dtype kTypes[] = {Dtype::kBF16, Dtype::kF32, Dtype::kF16};
    for (uint32_t step = 0; step < 3; ++step) {
      for (uint32_t i = 0; i < shapes.size(); ++i) {
        const Dtype type = kTypes[(i + step) % 3];
        const Tensor g = uniform(shapes[i], 100 * step + i).to(type);
        const bool last = shapes[i].rank() == 4 && (i + step) % 2 == 0;
        here[i].var.accumulate(g.to(Dtype::kF32));
        there[i].var.accumulate(
            g.with_layout(last ? Layout::kChannelsLast : Layout::kPlain).to(kGpu));
      }
      a.step(0.05f);
      b.step(0.05f);
    }
    for (size_t i = 0; i < shapes.size(); ++i) {
      EXPECT_TRUE(near(there[i].var.value(), here[i].var.value(), 1e-5)) << kind << shapes[i].str();
    }
  }
}

TEST_F(GpuVerbs, WeightsOfManyConvolutionsAtOnce) {
  std::vector<Tensor> from, to;
  for (int i = 0; i < 150; ++i) {
    const Shape shape = i == 0 ? Shape{64, 40, 3, 3} : Shape{1 + i % 5, 1 + i % 7, 1 + i % 3, 3};
    from.push_back(uniform(shape, static_cast<uint32_t>(i)).to(kGpu));
    to.push_back(gpu().prepare_conv_weight(from.back(), i % 2 ? Dtype::kBF16 : Dtype::kF32));
    from.back().copy_from(uniform(shape, static_cast<uint32_t>(1000 + i)));
  }
  gpu().prepare_conv_weights(from, to);
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_TRUE(equal(to[i], from[i].to(to[i].dtype()))) << from[i].shape().str();
  }
}

TEST_F(GpuVerbs, OptimisersFollowTheCpu) {
  for (const char* name : {"sgd", "nesterov", "adam", "adamw"}) {
    OptimSpec spec;
    const std::string kind = name;
    spec.kind = parse_optimizer(kind == "nesterov" ? "sgd" : kind);
    spec.nesterov = kind == "nesterov";
    spec.amsgrad = kind == "adam";
    spec.weight_decay = 0.01f;
    const Var here(uniform({33, 5}, 1), true), there(uniform({33, 5}, 1).to(kGpu), true);
    Optimizer a({{"w", here}}, spec), b({{"w", there}}, spec);
    for (uint32_t step = 0; step < 8; ++step) {
      const Tensor g = uniform({33, 5}, 10 + step);
      here.accumulate(g);
      there.accumulate(g.to(kGpu));
      EXPECT_NEAR(a.clip_gradients(5), b.clip_gradients(5), 1e-4);
      a.step(0.05f);
      b.step(0.05f);
    }
    EXPECT_TRUE(near(there.value(), here.value(), 1e-5)) << name;
  }
}

// TF32 rounds the factors to 11 bits: a result close to float32's, and with allow_tf32(false) that.
TEST_F(GpuVerbs, Tf32IsASetting) {
  const Tensor a = uniform({64, 256}, 1), b = uniform({256, 64}, 2);
  Tensor want = Tensor::empty({64, 64});
  cpu().gemm(false, false, 1, a, b, 0, want);
  Tensor got = Tensor::empty({64, 64}, Dtype::kF32, kGpu);
  gpu().allow_tf32(true);
  gpu().gemm(false, false, 1, a.to(kGpu), b.to(kGpu), 0, got);
  EXPECT_TRUE(near(got, want, 2e-3));
  gpu().allow_tf32(false);
  gpu().gemm(false, false, 1, a.to(kGpu), b.to(kGpu), 0, got);
  EXPECT_TRUE(near(got, want, 2e-6));
}

TEST_F(GpuVerbs, EmptyTensorsAreFine) {
  const Tensor none = Tensor::empty({0, 3, 4, 4}, Dtype::kF32, kGpu);
  EXPECT_EQ(gpu().unary(UnaryOp::kExp, none, 0, 0).numel(), 0);
  EXPECT_EQ(gpu().binary(BinaryOp::kAdd, none, none).numel(), 0);
  EXPECT_EQ(gpu().max_pool(none, {}, false, *std::make_unique<Tensor>()).numel(), 0);
  EXPECT_EQ(gpu().sum_to(none, {1, 3, 1, 1}).to_vector(), std::vector<float>(3, 0.0f));
  EXPECT_EQ(none.to(Device{}).numel(), 0);
}

}  // namespace
}  // namespace ens::test
