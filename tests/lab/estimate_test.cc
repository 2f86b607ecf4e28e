// SPDX-License-Identifier: Apache-2.0
// The estimates of a sweep's costs against steps that are timed here, and against counts made by
// hand.
#include "lab/estimate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "attacks/core/decoder.h"
#include "base/threads.h"
#include "nn/autograd/ops.h"
#include "nn/models/model.h"
#include "nn/optim/optim.h"

namespace ens {
namespace {

// Estimates are good to a factor of two; other processes may run beside either measurement.
constexpr double kFactor = 10;

RunConfig config_of(const std::string& kind, const std::vector<std::string>& more = {}) {
  std::vector<std::string> settings{"data.name=shapes",
                                    "data.image_size=16",
                                    "data.train_limit=400",
                                    "dtype=float32",
                                    "device=cpu",
                                    "model.width=8",
                                    "model.stem_pool=false",
                                    "ensemble.nets=4",
                                    "ensemble.selected=2",
                                    "stage1.epochs=3",
                                    "stage1.batch=32",
                                    "stage2.epochs=5",
                                    "attack.public_images=200",
                                    "attack.decoder.epochs=7",
                                    "protection.kind=" + kind};
  settings.insert(settings.end(), more.begin(), more.end());
  RunConfig config;
  apply_overrides(settings, config);
  complete(config);
  return config;
}

ModelSpec model_of_config() {
  ModelSpec model;
  model.width = 8;
  model.image_size = 16;
  model.stem_pool = false;
  return model;
}

// Seconds of forward, backward and update for each of 32 images on one thread: the best of five
// steps.
double step_seconds(Module& net, const Tensor& input, const Tensor& target) {
  set_compute_threads(1);
  Optimizer optimizer(net.parameters(), {});
  double best = 1e30;
  for (int i = 0; i < 21; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const Var y = net.forward(Var(input));
    mse(y, Var(target)).backward();
    optimizer.step(1e-6f);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (i > 0) best = std::min(best, took.count());
  }
  return best / static_cast<double>(input.dim(0));
}

void expect_near_factor(double got, double want) {
  EXPECT_GT(got, want / kFactor);
  EXPECT_LT(got, want * kFactor);
}

TEST(Estimator, TrainingTakesAsLongAsItsSteps) {
  Rng rng(1);
  const ModelSpec model = model_of_config();
  const auto net = build_cells(model, 0, static_cast<int>(cell_names(model).size()), rng);
  const double step =
      step_seconds(*net, Tensor::full({32, 3, 16, 16}, 0.5f), Tensor::zeros({32, model.classes}));
  Estimator estimator;
  const Estimator::Cell none = estimator.estimate(config_of("none"), {});
  expect_near_factor(none.stage1_per_image, step);
  expect_near_factor(none.stage1_seconds, 400 * 3 * step);
  EXPECT_EQ(none.stage2_seconds, 0);

  // Four nets in stage 1; in stage 2 the two selected ones.
  const Estimator::Cell ensembler = estimator.estimate(config_of("ensembler"), {});
  expect_near_factor(ensembler.stage1_seconds, 400 * 3 * 4 * step);
  expect_near_factor(ensembler.stage2_per_image, 2 * step);
  expect_near_factor(ensembler.stage2_seconds, 400 * 5 * 2 * step);
}

TEST(Estimator, AttacksTakeAsLongAsTheirSteps) {
  Rng rng(1);
  const ModelSpec model = model_of_config();
  const Shape feature = smashed_shape(model, {});
  const Tensor images = Tensor::full({32, 3, 16, 16}, 0.5f);
  const auto net = build_cells(model, 0, static_cast<int>(cell_names(model).size()), rng);
  const double net_step = step_seconds(*net, images, Tensor::zeros({32, model.classes}));
  const RunConfig config = config_of("ensembler");
  const auto decoder = std::make_shared<Decoder>(feature, model.input_shape(), DecoderSize{}, rng);
  const double decoder_step =
      step_seconds(*decoder, Tensor::full({32, feature[0], feature[1], feature[2]}, 0.5f), images);
  const Estimator::Cell cell = Estimator().estimate(config, {"oracle", "shadow-n1"});
  // Most public images, seven times.
  expect_near_factor(cell.attacks.at("oracle").seconds, 200 * 7 * decoder_step);
  // A pass of every net for each image of the shadows' training.
  expect_near_factor(cell.attacks.at("shadow-n1").seconds_per_image, net_step);
  EXPECT_GT(cell.attacks.at("shadow-n1").seconds, 4 * cell.attacks.at("oracle").seconds_per_image);
}

TEST(Estimator, MemoryGrowsWithTheBatchAndTheNets) {
  Estimator estimator;
  const auto gigabytes = [&](const std::vector<std::string>& settings) {
    return estimator.estimate(config_of("ensembler", settings), {}).gigabytes;
  };
  const double base = gigabytes({});
  // What a process needs at all, and little more for nets as small as these.
  EXPECT_GT(base, 0.1);
  EXPECT_LT(base, 0.4);
  // A ResNet-18 of width 8 on 16 x 16 has a stem and four convolutions at 8 x 16 x 16 elements;
  // each later stage has half of that. Convolution, batch norm and ReLU keep their outputs, values
  // and gradients are float32.
  const double per_image = 3 * 2 * 4.0 * (5 + 2 + 1 + 0.5) * 8 * 16 * 16;
  expect_near_factor(gigabytes({"stage1.batch=10032"}) - base, 10000 * per_image / 1e9);
  // The nets that are added: 11.2 million weights at width 64.
  const double weights = 11.2e6 * 8 * 8 / 64 / 64 * 4;
  expect_near_factor(gigabytes({"ensemble.nets=204"}) - base, 200 * weights / 1e9);
}

}  // namespace
}  // namespace ens
