// SPDX-License-Identifier: Apache-2.0
// A whole small network: forward, backward and ten training steps against the CPU, and against
// itself.
#include <atomic>
#include <cmath>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "nn/models/model.h"
#include "nn/optim/fit.h"
#include "nn/optim/optim.h"
#include "tests/nn/cuda/gpu.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

using GpuTraining = OnGpu<testing::Test>;

constexpr int64_t kBatch = 8;

ModelSpec small() {
  ModelSpec spec;
  spec.width = 8;
  return spec;
}

struct Training {
  std::shared_ptr<Sequential> net;
  std::unique_ptr<Optimizer> optimizer;
  Device device;
  Dtype dtype;
  std::vector<double> losses;

  Training(Device d, Dtype type, uint64_t seed = 1) : device(d), dtype(type) {
    Rng rng(seed);
    const ModelSpec spec = small();
    net = build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng);
    net->to(device);
    optimizer = std::make_unique<Optimizer>(net->parameters(), OptimSpec{});
  }

  Var loss(uint32_t batch) {
    const Tensor images =
        naive::map(naive::Array(uniform({kBatch, 3, 32, 32}, 100 + batch)), [](double v) {
          return (v + 1) / 2;
        }).tensor();
    std::vector<int32_t> labels;
    for (uint32_t i = 0; i < kBatch; ++i) labels.push_back(static_cast<int32_t>((i + batch) % 10));
    const Var scores = net->forward(cast(Var(images.to(device)), dtype));
    return softmax_cross_entropy(scores, Tensor::from_labels(labels).to(device));
  }

  void steps(int count) {
    for (int i = 0; i < count; ++i) {
      optimizer->prepare();
      const Var l = loss(static_cast<uint32_t>(i));
      losses.push_back(l.item());
      l.backward();
      optimizer->step(0.02f);
    }
  }
};

// Gradients of a deep network at its start differ in size from layer to layer; each is held against
// its own.
void same_gradients(Training& got, Training& want, double tolerance) {
  const Var a = got.loss(0), b = want.loss(0);
  EXPECT_NEAR(a.item(), b.item(), tolerance * std::abs(b.item()));
  a.backward();
  b.backward();
  const auto x = got.net->parameters(), y = want.net->parameters();
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_TRUE(near(x[i].var.grad(), y[i].var.grad(), tolerance)) << x[i].name;
  }
}

TEST_F(GpuTraining, OneStepOfAResNetMatchesTheCpu) {
  Training gpu(kGpu, Dtype::kF32), cpu(Device{}, Dtype::kF32);
  same_gradients(gpu, cpu, 2e-3);
}

// The cosine of two networks' gradients.
double agreement(const Training& a, const Training& b) {
  double dot = 0, x2 = 0, y2 = 0;
  const auto x = a.net->parameters(), y = b.net->parameters();
  for (size_t i = 0; i < x.size(); ++i) {
    const naive::Array u(x[i].var.grad()), v(y[i].var.grad());
    for (size_t k = 0; k < u.size(); ++k) {
      dot += u.v[k] * v.v[k];
      x2 += u.v[k] * u.v[k];
      y2 += v.v[k] * v.v[k];
    }
  }
  return dot / std::sqrt(x2 * y2);
}

// Roundings to 8 or 11 bits in sixty layers, and ReLUs that fall on the other side: the gradients'
// directions must agree, in bfloat16 as well as the CPU's own bfloat16 agrees with its float32.
TEST_F(GpuTraining, OneStepInSixteenBitsPointsTheSameWay) {
  Training exact(Device{}, Dtype::kF32), rounded(Device{}, Dtype::kBF16);
  const Var want = exact.loss(0);
  want.backward();
  rounded.loss(0).backward();
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16}) {
    Training gpu(kGpu, dtype);
    const Var loss = gpu.loss(0);
    EXPECT_NEAR(loss.item(), want.item(), 0.03 * want.item()) << name(dtype);
    loss.backward();
    const double least = dtype == Dtype::kBF16 ? agreement(rounded, exact) - 0.03 : 0.99;
    EXPECT_GT(agreement(gpu, exact), least) << name(dtype);
  }
}

// Ten steps amplify what the order of sums changes in the last bits.
TEST_F(GpuTraining, TenStepsStayCloseToTheCpu) {
  Training gpu(kGpu, Dtype::kF32), cpu(Device{}, Dtype::kF32);
  gpu.steps(10);
  cpu.steps(10);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_NEAR(gpu.losses[i], cpu.losses[i], 0.02 * cpu.losses[i]) << "step " << i;
  }
}

// Evaluation, where the running statistics count. After few steps: these are still far from the
// batches' own, so later one ReLU that falls on the other side moves the loss by a tenth.
TEST_F(GpuTraining, EvaluationAfterAFewStepsMatchesTheCpu) {
  Training gpu(kGpu, Dtype::kF32), cpu(Device{}, Dtype::kF32);
  gpu.steps(2);
  cpu.steps(2);
  gpu.net->train(false);
  cpu.net->train(false);
  EXPECT_NEAR(gpu.loss(50).item(), cpu.loss(50).item(), 0.01 * cpu.loss(50).item());
}

TEST_F(GpuTraining, TheSameSeedGivesTheSameNumbers) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    Training a(kGpu, dtype), b(kGpu, dtype);
    a.steps(5);
    b.steps(5);
    EXPECT_EQ(a.losses, b.losses) << name(dtype);  // to the bit: every sum has one order
  }
}

// What a captured step refers to stays where it is, whatever the net is used for in between.
TEST_F(GpuTraining, ARecordedStepDoesNotMindOtherUsesOfItsNet) {
  Training alone(kGpu, Dtype::kBF16), used(kGpu, Dtype::kBF16);
  for (Training* t : {&alone, &used}) {
    const Tensor images = uniform({kBatch, 3, 32, 32}, 5).to(kGpu);
    const Tensor labels = Tensor::from_labels(std::vector<int32_t>(kBatch, 3)).to(kGpu);
    const auto step = [&] {
      t->optimizer->prepare();
      softmax_cross_entropy(t->net->forward(cast(Var(images), t->dtype)), labels).backward();
      t->optimizer->apply();
    };
    t->optimizer->set_rate(0.02f);
    for (int i = 0; i < 3; ++i) step();
    const auto captured = backend(kGpu).capture(step);
    ASSERT_NE(captured, nullptr);
    for (int i = 0; i < 3; ++i) {
      if (t == &used) {
        t->loss(7);
        std::vector<Tensor> others;
        for (const NamedVar& p : t->net->parameters()) {
          others.push_back(Tensor::full(p.var.shape(), NAN, Dtype::kBF16, kGpu));
        }
      }
      captured->run();
    }
  }
  const auto a = alone.net->parameters(), b = used.net->parameters();
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].var.value().to_vector(), b[i].var.value().to_vector()) << a[i].name;
  }
}

// Weights that are loaded between prepare() and the forward pass, and nets that change devices.
TEST_F(GpuTraining, PreparedWeightsFollowTheirNet) {
  Training a(kGpu, Dtype::kF32, 1), b(kGpu, Dtype::kF32, 2);
  const auto same = [&] {
    const NoGrad evaluation;
    a.net->train(false);
    b.net->train(false);
    EXPECT_EQ(a.loss(3).item(), b.loss(3).item());
    a.net->train();
    b.net->train();
  };
  a.steps(2);
  b.steps(1);
  b.optimizer->prepare();
  b.net->load_state(a.net->state(), "the other net");
  same();
  b.net->to(Device{});
  b.net->to(kGpu);
  b.optimizer->prepare();
  same();
}

// On streams of their own, and no net sees another's numbers.
TEST_F(GpuTraining, NetsSideBySideTrainAsAlone) {
  std::vector<std::unique_ptr<Training>> together;
  std::vector<std::vector<double>> alone;
  for (uint64_t seed : {1, 2, 3}) {
    together.push_back(std::make_unique<Training>(kGpu, Dtype::kF32, seed));
    Training one(kGpu, Dtype::kF32, seed);
    one.steps(4);
    alone.push_back(one.losses);
  }
  run_parallel(
      3, 3, [&](int i) { together[static_cast<size_t>(i)]->steps(4); }, kGpu);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(together[i]->losses, alone[i]) << "net " << i;
}

// As attacks do, which train several nets each. There are streams for 64 threads.
TEST_F(GpuTraining, JobsSideBySideMayHaveSuchJobsThemselves) {
  const Tensor shared = Tensor::full({64}, 2.0f, Dtype::kF32, kGpu);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::vector<float> sums(20 * 20);
  run_parallel(
      20, 0,
      [&](int i) {
        run_parallel(
            20, 0,
            [&](int j) {
              {
                const std::lock_guard lock(mutex);
                threads.insert(std::this_thread::get_id());
              }
              const Tensor mine = Tensor::full({64}, static_cast<float>(i), Dtype::kF32, kGpu);
              sums[static_cast<size_t>(20 * i + j)] =
                  backend(kGpu).binary(BinaryOp::kMul, shared, mine).to_vector()[63];
            },
            kGpu);
      },
      kGpu);
  for (size_t k = 0; k < sums.size(); ++k) EXPECT_EQ(sums[k], 2.0f * static_cast<float>(k / 20));
  EXPECT_GT(threads.size(), 1u);
  // The calling thread throws like the others, and all come back.
  EXPECT_THROW(run_parallel(
                   40, 0,
                   [](int i) {
                     if (i % 16 == 3) fail("job");
                   },
                   kGpu),
               Error);
  std::atomic<int> done{0};
  run_parallel(
      40, 0, [&](int) { ++done; }, kGpu);
  EXPECT_EQ(done, 40);
}

Dataset noise_images(int64_t count) {
  Dataset data;
  data.name = "noise";
  data.channels = 3;
  data.height = data.width = 32;
  Rng rng(5);
  for (int64_t i = 0; i < count * data.image_size(); ++i) {
    data.pixels.push_back(static_cast<uint8_t>(rng.below(256)));
  }
  for (int64_t i = 0; i < count; ++i) data.labels.push_back(static_cast<int32_t>(i % 10));
  return data;
}

TEST_F(GpuTraining, TheLoaderAugmentsAsOnTheCpu) {
  const Dataset data = noise_images(37);
  for (const int padding : {0, 4}) {
    for (const bool flip : {false, true}) {
      for (const bool shuffle : {false, true}) {
        LoaderOptions options;
        options.batch = 8;
        options.drop_last = false;
        options.crop_padding = padding;
        options.flip = flip;
        options.shuffle = shuffle;
        Loader here(data, options);
        options.device = kGpu;
        Loader there(data, options);
        for (int64_t epoch = 0; epoch < 2; ++epoch) {
          here.start(epoch);
          there.start(epoch);
          Batch a, b;
          while (here.next(a)) {
            ASSERT_TRUE(there.next(b));
            EXPECT_EQ(b.images.device(), kGpu);
            EXPECT_EQ(a.first, b.first);
            EXPECT_EQ(a.images.to_vector(), b.images.to_vector());
            EXPECT_EQ(a.labels.to_vector(), b.labels.to_vector());
          }
          EXPECT_FALSE(there.next(b));
        }
      }
    }
  }
}

// fit() with a captured step against fit() without: the same losses and weights, to the bit.
TEST_F(GpuTraining, ARecordedStepTrainsTheSame) {
  const Dataset data = noise_images(14);
  const auto train = [&](bool capture, const char* optimizer, std::vector<double>& losses) {
    Training t(kGpu, Dtype::kBF16);
    OptimSpec spec;
    spec.kind = parse_optimizer(optimizer);
    spec.amsgrad = true;
    Optimizer optim(t.net->parameters(), spec);
    LoaderOptions loading;
    loading.batch = 2;
    loading.flip = true;
    loading.crop_padding = 4;
    loading.device = kGpu;
    Loader loader(data, loading);
    FitOptions options;
    options.epochs = 1;
    options.lr = spec.kind == OptimSpec::Kind::kSgd ? 0.02f : 1e-3f;
    options.capture = capture;
    fit(
        options, loader, optim,
        [&](const Batch& b) {
          return softmax_cross_entropy(t.net->forward(cast(Var(b.images), t.dtype)), b.labels);
        },
        [&](int64_t, double loss) { losses.push_back(loss); }, nullptr);
    std::vector<std::vector<float>> state;
    for (const NamedTensor& s : t.net->state()) state.push_back(s.tensor.to_vector());
    return state;
  };
  for (const char* optimizer : {"sgd", "adam"}) {
    std::vector<double> written, captured;
    const auto a = train(false, optimizer, written);
    testing::internal::CaptureStderr();
    const auto b = train(true, optimizer, captured);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");  // it was captured
    EXPECT_EQ(written.size(), 7u);
    EXPECT_EQ(written, captured) << optimizer;
    EXPECT_EQ(a, b) << optimizer;
  }
}

TEST_F(GpuTraining, ALossThatIsNoNumberEndsTheTraining) {
  const Dataset data = noise_images(16);
  Training t(kGpu, Dtype::kF32);
  LoaderOptions loading;
  loading.batch = 8;
  loading.device = kGpu;
  Loader loader(data, loading);
  FitOptions options;
  options.label = "net 7";
  const auto loss = [&](const Batch& b) {
    return affine(softmax_cross_entropy(t.net->forward(Var(b.images)), b.labels), NAN, 0);
  };
  ENS_EXPECT_ERROR(fit(options, loader, *t.optimizer, loss, nullptr, nullptr), "net 7 diverged");
}

}  // namespace
}  // namespace ens::test
