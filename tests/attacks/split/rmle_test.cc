// SPDX-License-Identifier: Apache-2.0
// rMLE against heads whose inverse is known, and its objective against a naive loop's derivative.
#include "attacks/split/rmle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "attacks/split/registry.h"
#include "base/error.h"
#include "base/threads.h"
#include "ensemble/protect/feature_train.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"
#include "nn/data/loader.h"
#include "tests/attacks/split/attacks.h"
#include "tests/support/compare.h"
#include "tests/support/gradcheck.h"

namespace ens::test {
namespace {

// The client's head is he19's first cell: normalisation and one convolution, 8 channels from 3.
WhiteBoxView linear_view(int64_t images) {
  WhiteBoxView view;
  view.model.architecture = "he19";
  view.model.width = 8;
  view.model.image_size = 8;
  view.model.mean = {0.5f, 0.4f, 0.6f};
  view.model.stddev = {0.25f, 0.2f, 0.3f};
  Rng rng(3);
  view.head = build_head(view.model, view.split, rng);
  view.head->freeze();
  view.observed = Tensor::empty({images, 8, 8, 8});
  return view;
}

Tensor some_images(int64_t count, uint32_t seed) {
  Tensor x = uniform({count, 3, 8, 8}, seed);
  for (float& pixel : x.span<float>()) pixel = 0.5f + 0.45f * pixel;
  return x;
}

void observe(WhiteBoxView& view, const Tensor& images) {
  NoGrad no_grad;
  const Var z = view.head->forward(Var(images));
  view.observed = (view.protect ? view.protect(z) : z).value().plain();
}

AttackContext precise() {
  AttackContext context;
  context.settings.mutable_rmle()->set_iterations(400);
  context.settings.mutable_rmle()->set_lr(0.05);
  context.settings.mutable_rmle()->set_tv(0);
  return context;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const std::vector<float> x = a.to_vector(), y = b.to_vector();
  EXPECT_EQ(x.size(), y.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max<double>(worst, std::abs(x[i] - y[i]));
  return worst;
}

TEST(RmleWhite, FindsTheImagesBehindAConvolution) {
  WhiteBoxView view = linear_view(3);
  const Tensor truth = some_images(3, 1);
  observe(view, truth);
  const auto found = run_on("rmle-white", view, precise());
  ASSERT_EQ(found.size(), 1u);
  EXPECT_LT(largest_difference(found[0].images, truth), 0.02);
}

// What the protection adds is known; without that the noise would show.
TEST(RmleWhite, KnowsTheClientsNoise) {
  WhiteBoxView view = linear_view(2);
  const Tensor noise = uniform({1, 8, 8, 8}, 5);
  view.protect = [&](const Var& z) { return add(z, Var(noise)); };
  const Tensor truth = some_images(2, 1);
  observe(view, truth);
  EXPECT_LT(largest_difference(run_on("rmle-white", view, precise())[0].images, truth), 0.02);
  view.protect = nullptr;
  EXPECT_GT(largest_difference(run_on("rmle-white", view, precise())[0].images, truth), 0.2);
}

// A protection that sets the smaller half of the elements to zero: who models that finds the image,
// who takes the zeros for the head's own output does not.
TEST(RmleWhite, KnowsWhatTheClientSetsToZero) {
  WhiteBoxView view = linear_view(2);
  view.protect = mean_protection({{"largest", Tensor::from({0.5f}, {1})}});
  const Tensor truth = some_images(2, 1);
  observe(view, truth);
  const auto error = [&] {
    return mse(Var(run_on("rmle-white", view, precise())[0].images), Var(truth)).item();
  };
  const double known = error();
  view.protect = nullptr;
  EXPECT_LT(known, 0.5 * error());
}

// Columns of random colours, each odd one the negative of the even one before it. The client sends
// the even ones: an image of them all is a matter of what images look like, and smooth they are
// not.
Dataset columns(int64_t count, uint64_t seed) {
  Dataset data;
  data.channels = 3;
  data.height = data.width = 16;
  data.labels.assign(static_cast<size_t>(count), 0);
  Rng rng(seed);
  for (int64_t i = 0; i < count * 3; ++i) {
    std::array<uint8_t, 16> row;
    for (size_t x = 0; x < 16; ++x) {
      row[x] = static_cast<uint8_t>(x % 2 == 0 ? 25 + rng.below(205) : 255 - row[x - 1]);
    }
    for (int y = 0; y < 16; ++y) data.pixels.insert(data.pixels.end(), row.begin(), row.end());
  }
  return data;
}

TEST(MapPrior, FillsInWhatTheFeatureLeavesOpen) {
  const Dataset data = columns(400, 1);
  const Tensor truth = images_of(columns(8, 2), 0, 8);
  WhiteBoxView view = linear_view(1);
  view.model.image_size = 16;
  view.public_data = &data;
  set_compute_threads(1);
  Rng rng(3);
  view.head = std::make_shared<Sequential>();
  view.head->push(std::make_shared<Conv2d>(3, 8, 1, ConvSpec{1, 0}, false, rng));
  view.head->freeze();
  Tensor mask = Tensor::zeros({1, 8, 16, 16});
  for (int64_t i = 0; i < mask.numel(); i += 2) mask.data<float>()[i] = 1;
  view.protect = [&](const Var& z) { return mul(z, Var(mask)); };
  observe(view, truth);
  AttackContext context = precise();
  context.settings.set_batch(16);
  context.settings.mutable_rmle()->set_tv(0.03);
  context.settings.mutable_map_prior()->set_steps(80);
  context.settings.mutable_map_prior()->set_channels(24);
  context.settings.mutable_map_prior()->set_blocks(1);
  context.settings.mutable_map_prior()->set_starts(1);
  context.settings.mutable_map_prior()->set_epochs(8);
  context.settings.mutable_decoder()->set_channels(16);
  context.settings.mutable_decoder()->set_blocks(0);
  context.settings.mutable_decoder()->set_epochs(1);
  const auto error = [&](const Reconstruction& r) { return mse(Var(r.images), Var(truth)).item(); };
  const auto all = run_on("map-prior", view, context);
  ASSERT_EQ(all.size(), 3u);  // from a decoder, from the mean colour, the mean of both
  const double plain = error(run_on("rmle-white", view, context)[0]);
  for (const Reconstruction& r : all) {
    EXPECT_LT(error(r), 0.5 * plain) << r.candidate;
    EXPECT_TRUE(std::isfinite(r.self_score)) << r.candidate;
  }
  // With its weight at nothing the prior fills in nothing.
  context.settings.mutable_map_prior()->set_weight(0);
  EXPECT_GT(error(run_on("map-prior", view, context)[1]), 2 * error(all[1]));
}

TEST(RmleWhite, NeedsTheHead) {
  WhiteBoxView view = linear_view(1);
  view.head = nullptr;
  ENS_EXPECT_ERROR(run_on("rmle-white", view, precise()), "white-box");
}

// An image's reconstruction is the same alone and beside others, also when the others differ much
// in the size of their features.
TEST(Rmle, TreatsEachImageByItself) {
  WhiteBoxView view = linear_view(4);
  const Tensor truth = some_images(4, 2);
  for (float& pixel : truth.rows(1, 1).span<float>()) pixel = 0.5f;
  observe(view, truth);
  AttackContext context = precise();
  context.settings.mutable_rmle()->set_iterations(60);
  context.settings.mutable_rmle()->set_tv(0.05);
  context.settings.mutable_rmle()->set_l2(0.01);
  const FeatureMap features = [&](const Var& x) { return view.head->forward(x); };
  const Tensor together = rmle(features, view.observed, view, context, "all");
  for (int64_t i = 0; i < 4; ++i) {
    const Tensor alone = rmle(features, view.observed.rows(i, 1), view, context, "one");
    EXPECT_LT(largest_difference(alone, together.rows(i, 1)), 1e-3) << "image " << i;
  }
}

// The weight of the total variation smooths, that of the norm fades to the mean colour.
TEST(Rmle, WeightsDoWhatTheySay) {
  WhiteBoxView view = linear_view(1);
  observe(view, some_images(1, 3));
  const FeatureMap features = [&](const Var& x) { return view.head->forward(x); };
  const auto variation = [](const Tensor& images) { return total_variation(Var(images)).item(); };
  AttackContext context = precise();
  const Tensor plain = rmle(features, view.observed, view, context, "");
  context.settings.mutable_rmle()->set_tv(10);
  EXPECT_LT(variation(rmle(features, view.observed, view, context, "")), 0.2 * variation(plain));
  context.settings.mutable_rmle()->set_tv(0);
  context.settings.mutable_rmle()->set_l2(1000);
  const Tensor faded = rmle(features, view.observed, view, context, "");
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < 64; ++i) {
      EXPECT_NEAR(faded.data<float>()[c * 64 + i], view.model.mean[static_cast<size_t>(c)], 0.02);
    }
  }
}

// F(x) = x, two images of 2x2 pixels in two channels: every term written out.
TEST(RmleObjective, ValueAndGradientMatchTheFormula) {
  ModelSpec model;
  model.channels = 2;
  model.mean = {0.5f, 0.3f};
  model.stddev = {0.25f, 0.4f};
  AttackContext context;
  context.settings.mutable_rmle()->set_tv(0.7);
  context.settings.mutable_rmle()->set_l2(0.3);
  const Tensor z = uniform({2, 2, 2, 2}, 1);
  const naive::Array target(z);
  const Scalar by_hand = [&](const std::vector<naive::Array>& in) {
    const std::vector<double>& u = in[0].v;
    double total = 0;
    for (size_t image = 0; image < 2; ++image) {
      double error = 0, power = 0, across = 0, down = 0, norm = 0;
      for (size_t c = 0; c < 2; ++c) {
        const size_t at = image * 8 + c * 4;
        for (size_t i = 0; i < 4; ++i) {
          const double x = u[at + i] * model.stddev[c] + model.mean[c];
          error += (x - target.v[at + i]) * (x - target.v[at + i]);
          power += target.v[at + i] * target.v[at + i];
          norm += u[at + i] * u[at + i];
        }
        across += std::pow(u[at + 1] - u[at], 2) + std::pow(u[at + 3] - u[at + 2], 2);
        down += std::pow(u[at + 2] - u[at], 2) + std::pow(u[at + 3] - u[at + 1], 2);
      }
      total += error / power + context.settings.rmle().tv() * (across + down) / 4 +
               context.settings.rmle().l2() * norm / 8;
    }
    return total;
  };
  const Var u(uniform({2, 2, 2, 2}, 2), true);
  const RmleObjective objective([](const Var& x) { return x; }, z, model, context);
  const Var loss = objective(u);
  const naive::Array start(u.value());
  EXPECT_NEAR(loss.item(), by_hand({start}), 1e-4);
  loss.backward();
  EXPECT_TRUE(is_gradient(by_hand, {start}, 0, naive::Array(u.grad())));
}

}  // namespace
}  // namespace ens::test
