// SPDX-License-Identifier: Apache-2.0
#include "attacks/core/decoder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "attacks/core/metrics.h"
#include "base/error.h"
#include "nn/optim/optim.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

Tensor pictures(int64_t count, uint64_t seed) {
  constexpr int kSize = 16;
  Tensor x = Tensor::empty({count, 3, kSize, kSize});
  Rng rng(seed);
  float* to = x.data<float>();
  for (int64_t i = 0; i < count * 3; ++i) {
    const double a = 3 * rng.uniform(), b = 3 * rng.uniform(), c = 6 * rng.uniform();
    for (int p = 0; p < kSize * kSize; ++p) {
      *to++ = static_cast<float>(0.5 + 0.4 * std::sin(a * (p / kSize) + b * (p % kSize) + c));
    }
  }
  return x;
}

double mean_ssim(const Tensor& truth, const Tensor& images) {
  const std::vector<double> ssim = score_images(truth, images).ssim;
  return std::accumulate(ssim.begin(), ssim.end(), 0.0) / static_cast<double>(ssim.size());
}

TEST(Decoder, GivesImagesFromMapsOfEverySize) {
  for (const Shape& feature :
       {Shape{16, 32, 32}, Shape{16, 16, 16}, Shape{64, 4, 4}, Shape{5, 1, 1}}) {
    Rng rng(1);
    Decoder net(feature, {3, 32, 32}, {8, 2}, rng);
    const Var y = net.forward(Var(uniform({2, feature[0], feature[1], feature[2]}, 1)));
    ASSERT_EQ(y.shape(), (Shape{2, 3, 32, 32})) << feature.str();
    mse(y, Var(uniform(y.shape(), 2))).backward();
    for (const NamedVar& p : net.parameters()) EXPECT_TRUE(p.var.grad().defined()) << p.name;
  }
  Rng rng(1);
  EXPECT_EQ(
      Decoder({4, 9, 9}, {1, 9, 9}, {8, 1}, rng).forward(Var(uniform({2, 4, 9, 9}, 1))).shape(),
      (Shape{2, 1, 9, 9}));
}

TEST(Decoder, RefusesFeaturesThatAreNoMap) {
  Rng rng(1);
  ENS_EXPECT_ERROR(Decoder({512}, {3, 32, 32}, {}, rng), "[512]");
  ENS_EXPECT_ERROR(Decoder({8, 5, 5}, {3, 32, 32}, {}, rng), "[8, 5, 5]");
  ENS_EXPECT_ERROR(Decoder({8, 16, 16}, {3, 48, 48}, {}, rng), "power of two");
}

// Each 2x2 block of pixels through a matrix, plus a fixed noise: 150 steps bring the decoder near
// pictures that it has not seen, by each loss. From features that say nothing it learns grey.
TEST(Decoder, LearnsToInvertAHeadAndItsNoise) {
  const Tensor matrix = uniform({12, 3, 2, 2}, 1), noise = uniform({1, 12, 8, 8}, 2);
  const auto features = [&](const Tensor& images, float strength) {
    NoGrad no_grad;
    const Var z = affine(conv2d(Var(images), Var(matrix), Var(), ConvSpec{2, 0}), strength, 0);
    return add(z, Var(noise)).value().plain();
  };
  const Tensor images = pictures(64, 3), others = pictures(8, 4);
  const auto reached = [&](DecoderLoss loss, float strength) {
    Rng rng(5);
    Decoder net({12, 8, 8}, {3, 16, 16}, {16, 1}, rng);
    OptimSpec adam;
    adam.kind = OptimSpec::Kind::kAdam;
    Optimizer optimizer(net.parameters(), adam);
    for (int step = 0; step < 150; ++step) {
      const Tensor batch = images.rows(step % 4 * 16, 16);
      decoder_loss(loss, net.forward(Var(features(batch, strength))), batch).backward();
      optimizer.step(step < 110 ? 5e-3f : 1e-3f);
    }
    net.freeze();
    return mean_ssim(others, net.forward(Var(features(others, strength))).value().plain());
  };
  EXPECT_GT(reached(DecoderLoss::kBoth, 1), 0.9);
  EXPECT_GT(reached(DecoderLoss::kSsim, 1), 0.9);
  EXPECT_GT(reached(DecoderLoss::kMse, 1), 0.9);
  EXPECT_LT(reached(DecoderLoss::kBoth, 0), 0.2);
}

// The loss is the metric: what is trained for is what is scored.
TEST(DecoderLoss, IsWhatIsScored) {
  const Tensor a = pictures(3, 1), b = pictures(3, 2);
  const double ssim = mean_ssim(a, b), error = mse(Var(a), Var(b)).item();
  EXPECT_NEAR(decoder_loss(DecoderLoss::kSsim, Var(b), a).item(), 1 - ssim, 1e-5);
  EXPECT_NEAR(decoder_loss(DecoderLoss::kMse, Var(b), a).item(), error, 1e-6);
  EXPECT_NEAR(decoder_loss(DecoderLoss::kBoth, Var(b), a).item(), 1 - ssim + 10 * error, 1e-5);
  // Too small for SSIM's window.
  const Tensor x = uniform({2, 3, 8, 8}, 1), y = uniform({2, 3, 8, 8}, 2);
  EXPECT_NEAR(decoder_loss(DecoderLoss::kBoth, Var(y), x).item(), mse(Var(x), Var(y)).item(), 1e-6);
  for (DecoderLoss loss : {DecoderLoss::kMse, DecoderLoss::kSsim, DecoderLoss::kBoth}) {
    EXPECT_EQ(parse_decoder_loss(name(loss)), loss);
  }
  ENS_EXPECT_ERROR(parse_decoder_loss("l1"), "mse, ssim or both");
}

// SSIM as a function of what was spent: 1 - .5/passes^.3 - .1/blocks - 1/channels, mse .02 worse.
void pretend(DecoderRound& round) {
  const double passes = static_cast<double>(round.images * round.epochs) / 1000;
  round.ssim = 1 - 0.5 * std::pow(passes, -0.3) - 0.1 / round.size.blocks -
               1.0 / round.size.channels - (round.loss == DecoderLoss::kMse ? 0.02 : 0);
}

TEST(Saturate, DoublesOneThingAtATimeUntilNothingGains) {
  DecoderRound start;
  start.images = 8000;
  start.epochs = 4;
  const Saturation s = saturate(start, 50000, pretend);
  EXPECT_TRUE(s.saturated);
  ASSERT_GT(s.rounds.size(), 6u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(s.rounds[i].images, 8000);  // the losses
  const DecoderRound& best = s.rounds[s.best];
  EXPECT_NE(best.loss, DecoderLoss::kMse);
  for (const DecoderRound& r : s.rounds) {
    EXPECT_LE(r.images, 50000);
    EXPECT_LE(r.ssim, best.ssim);
  }
  // More images first; when there are no more, more passes over them.
  EXPECT_EQ(s.rounds[3].images, 16000);
  EXPECT_EQ(s.rounds[3].epochs, 4);
  EXPECT_EQ(s.rounds[5].images, 50000);
  EXPECT_GE(s.rounds[5].images * s.rounds[5].epochs, 8 * 8000 * 4);
  // No doubling of the last round that was grown from gains any more: the last three say so.
  const size_t n = s.rounds.size();
  for (size_t i = n - 3; i < n; ++i) EXPECT_LT(s.rounds[i].ssim, s.rounds[n - 4].ssim + kLeastGain);
  EXPECT_GT(s.rounds[n - 3].images * s.rounds[n - 3].epochs,
            s.rounds[n - 4].images * s.rounds[n - 4].epochs);
  EXPECT_GT(s.rounds[n - 2].size.blocks, s.rounds[n - 4].size.blocks);
  EXPECT_GT(s.rounds[n - 1].size.channels, s.rounds[n - 4].size.channels);
}

// A decoder that learns nothing, however large, is done after one try of each.
TEST(Saturate, EndsWhereNothingIsLearned) {
  DecoderRound start;
  start.images = 100;
  const Saturation s = saturate(start, 100, [](DecoderRound& r) { r.ssim = 0.01; });
  EXPECT_EQ(s.rounds.size(), 6u);
  EXPECT_EQ(s.best, 0u);
}

}  // namespace
}  // namespace ens::test
