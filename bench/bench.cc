// Speed of this machine: training steps and serving plans, images per second (items_per_second).
//
//   ./run bench                                     everything
//   ./run bench --benchmark_filter=train            some of it
//   ./run bench --benchmark_format=csv > speed.csv  raw numbers
#include <benchmark/benchmark.h>

#include "nn/core/backend.h"
#include "nn/cpu/threads.h"
#include "nn/models/model.h"
#include "nn/optim/fit.h"
#include "nn/plan/plan.h"

namespace ens {
namespace {

constexpr int64_t kBatch = 128;

ModelSpec spec_of(int width) {
  ModelSpec spec;
  spec.width = width;
  return spec;
}

Tensor random_images(const Shape& image, int64_t count, Rng& rng) {
  Tensor x = Tensor::empty({count, image[0], image[1], image[2]});
  rng.fill_uniform(x.span<float>(), 0, 1);
  return x;
}

bool skip_dtype(benchmark::State& state, Dtype dtype) {
  if (backend(Device{}).supports(dtype)) return false;
  state.SkipWithError("this processor has no bfloat16 instructions");
  return true;
}

// Arguments: width, nets side by side, bfloat16.
void train_step(benchmark::State& state) {
  const Dtype dtype = state.range(2) ? Dtype::kBF16 : Dtype::kF32;
  const int nets = static_cast<int>(state.range(1));
  if (skip_dtype(state, dtype)) return;
  constexpr int kSteps = 8;
  for (auto _ : state) {
    state.PauseTiming();
    struct Training {
      std::shared_ptr<Sequential> net;
      std::unique_ptr<Optimizer> optimizer;
      Tensor images, labels;
    };
    std::vector<Training> trainings(static_cast<size_t>(nets));
    for (int i = 0; i < nets; ++i) {
      Rng rng(1, static_cast<uint64_t>(i));
      Training& t = trainings[static_cast<size_t>(i)];
      const ModelSpec spec = spec_of(static_cast<int>(state.range(0)));
      t.net = build_cells(spec, 0, 6, rng);
      t.optimizer = std::make_unique<Optimizer>(t.net->parameters(), OptimSpec{});
      t.images = random_images(spec.input_shape(), kBatch, rng).to(dtype);
      std::vector<int32_t> labels(kBatch);
      for (int32_t& l : labels) l = static_cast<int32_t>(rng.below(10));
      t.labels = Tensor::from_labels(labels);
    }
    const auto steps = [&](int count) {
      run_side_by_side(nets, 0, [&](int i) {
        Training& t = trainings[static_cast<size_t>(i)];
        for (int s = 0; s < count; ++s) {
          softmax_cross_entropy(t.net->forward(Var(t.images)), t.labels).backward();
          t.optimizer->step(0.01f);
        }
      });
    };
    steps(2);
    state.ResumeTiming();
    steps(kSteps);
  }
  state.SetItemsProcessed(state.iterations() * kSteps * kBatch * nets);
}
BENCHMARK(train_step)
    ->ArgNames({"width", "nets", "bf16"})
    ->UseRealTime()
    ->Iterations(3)
    ->ArgsProduct({{16, 64}, {1, 2}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

// Arguments: width, server nets, batch, bfloat16. One request through all bodies, one after
// another.
void serve_bodies(benchmark::State& state) {
  const Dtype dtype = state.range(3) ? Dtype::kBF16 : Dtype::kF32;
  if (skip_dtype(state, dtype)) return;
  const ModelSpec spec = spec_of(static_cast<int>(state.range(0)));
  const Split split;
  const Shape smashed = smashed_shape(spec, split);
  Rng rng(1);
  std::vector<Plan> plans;
  for (int64_t i = 0; i < state.range(1); ++i) {
    plans.emplace_back(lower(*build_body(spec, split, rng), smashed), Device{}, dtype,
                       state.range(2));
  }
  const Tensor features = random_images(smashed, state.range(2), rng);
  for (Plan& p : plans) p.run(features);
  for (auto _ : state) {
    for (Plan& p : plans) benchmark::DoNotOptimize(p.run(features));
  }
  state.SetItemsProcessed(state.iterations() * state.range(2));
}
BENCHMARK(serve_bodies)
    ->ArgNames({"width", "nets", "batch", "bf16"})
    ->UseRealTime()
    ->ArgsProduct({{16, 64}, {10}, {1, 32}, {0, 1}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace ens

int main(int argc, char** argv) {
  ens::cpu::limit_spinning(argv);
  ens::cpu::pin_compute_threads();
  benchmark::AddCustomContext("backend", ens::backend(ens::Device{}).description());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
