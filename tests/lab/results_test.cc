// SPDX-License-Identifier: Apache-2.0
// What a result says of several seeds.
#include "lab/results.h"

#include <gtest/gtest.h>

#include "attacks/split/registry.h"

namespace ens {
namespace {

AttackScore scored(double ssim, double choice) {
  AttackScore s;
  s.attack = "shadow-n1";
  s.scores.images.ssim.assign(10, ssim);
  s.scores.images.psnr.assign(10, 20 * ssim);
  s.scores.images.mse.assign(10, 0.01);
  s.scores.ssim = {ssim, ssim, ssim};
  s.scores.psnr = {20 * ssim, 20 * ssim, 20 * ssim};
  s.best_candidate = std::to_string(ssim);
  s.candidates.push_back({"net 0", choice, 10});
  s.attacker_choice = 0;
  s.seconds = 2;
  return s;
}

TEST(ToMessage, OfSeveralSeedsTheMedianIsReported) {
  AttackScore middle = scored(0.587, 0.2);
  middle.scores.images.ssim[3] = 0.1, middle.scores.images.ssim[8] = 0.95;
  middle.scores.images.ssim[0] += 2 * 0.587 - 1.05;  // the same mean
  const std::vector<int64_t> images = {5, 6, 7, 18, 19, 20, 31, 32, 33, 34};
  const results::AttackResult r =
      to_message({scored(0.69, 0.6), scored(0.285, 0.1), middle}, 7, images);
  EXPECT_NEAR(r.ssim().mean(), 0.587, 1e-12);
  EXPECT_NEAR(r.psnr().mean(), 11.74, 1e-9);
  EXPECT_NEAR(r.ssim().low(), 0.285, 1e-9);
  EXPECT_NEAR(r.ssim().high(), 0.69, 1e-9);
  EXPECT_EQ(r.best_part(), std::to_string(0.587));
  EXPECT_EQ(r.seconds(), 6);
  ASSERT_EQ(r.seeds_size(), 3);
  EXPECT_EQ(r.seeds(1).seed(), 8);
  EXPECT_EQ(r.seeds(1).ssim(), 0.285);
  EXPECT_EQ(r.seeds(1).own_pick(), 0.1);
  EXPECT_EQ(r.best_image().image(), 33);
  EXPECT_EQ(r.best_image().ssim(), 0.95);
  EXPECT_EQ(r.worst_image().image(), 18);
  EXPECT_EQ(r.worst_image().ssim(), 0.1);
  EXPECT_EQ(to_message({scored(0.3, 0)}, 7, images).seeds_size(), 0);
}

TEST(Seeds, ShadowsRunWithFive) {
  AttackContext context;
  const auto seeds = [&](const char* name) {
    return seeds_of(*make_attack(name), context.settings);
  };
  EXPECT_EQ(seeds("shadow-n1"), 5);
  EXPECT_EQ(seeds("rmle-shadow"), 5);
  EXPECT_EQ(seeds("oracle"), 1);
  context.settings.set_seeds(3);
  EXPECT_EQ(seeds("shadow-n1"), 3);
  EXPECT_EQ(seeds("oracle"), 3);
  EXPECT_EQ(seeds("mean-image"), 1);
}

}  // namespace
}  // namespace ens
