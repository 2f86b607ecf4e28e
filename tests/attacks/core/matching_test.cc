// SPDX-License-Identifier: Apache-2.0
// Ranks in a gallery, by hand, and what equal similarities count.
#include "attacks/core/matching.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "base/error.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

TEST(Matching, CountsThoseThatAreLikelier) {
  // Its own original is first, second and fourth of four.
  const Tensor similarities = Tensor::from({9, 1, 2, 3,  //
                                            8, 7, 1, 2,  //
                                            5, 4, 1, 3},
                                           {3, 4});
  const MatchingScore score = score_matching(similarities, 1);
  EXPECT_EQ(score.gallery, 4);
  EXPECT_DOUBLE_EQ(score.rank1.mean, 1.0 / 3);
  EXPECT_DOUBLE_EQ(score.cmc5, 1);
  EXPECT_DOUBLE_EQ(score.guesswork, 2);
}

TEST(Matching, EqualSimilaritiesAreChance) {
  constexpr int64_t kGallery = 50;
  const MatchingScore score = score_matching(Tensor::full({kGallery, kGallery}, 3), 1);
  EXPECT_NEAR(score.rank1.mean, 1.0 / kGallery, 1e-12);
  EXPECT_NEAR(score.cmc5, 5.0 / kGallery, 1e-12);
  EXPECT_NEAR(score.cmc20, 20.0 / kGallery, 1e-12);
  EXPECT_EQ(score.guesswork, kGallery / 2);
}

TEST(Matching, IsUnchangedByTheOrderOfTheOthers) {
  Rng rng(4);
  Tensor a = Tensor::empty({5, 30}), b = Tensor::empty({5, 30});
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t j = 0; j < 30; ++j) {
      a.data<float>()[i * 30 + j] = static_cast<float>(rng.below(10));
    }
    for (int64_t j = 0; j < 30; ++j) {
      b.data<float>()[i * 30 + j] = a.data<float>()[i * 30 + (j < 5 ? j : 34 - j)];
    }
  }
  EXPECT_EQ(score_matching(a, 1).cmc20, score_matching(b, 1).cmc20);
  EXPECT_EQ(score_matching(a, 1).guesswork, score_matching(b, 1).guesswork);
}

TEST(Matching, PixelsAreComparedByTheirDistance) {
  const Tensor images = Tensor::from({0, 0, 1, 1}, {2, 1, 1, 2});
  const Tensor gallery = Tensor::from({0.1f, 0, 0.9f, 1, 5, 5}, {3, 1, 1, 2});
  EXPECT_EQ(score_matching(pixel_similarity(images, gallery), 1).rank1.mean, 1);
  const Tensor swapped = Tensor::from({0.9f, 1, 0.1f, 0, 5, 5}, {3, 1, 1, 2});
  EXPECT_EQ(score_matching(pixel_similarity(images, swapped), 1).rank1.mean, 0);
}

TEST(Matching, RefusesWhatCannotBeRanked) {
  EXPECT_THROW(score_matching(Tensor::zeros({3, 2}), 1), Error);
  EXPECT_THROW(score_matching(Tensor::full({2, 2}, std::numeric_limits<float>::quiet_NaN()), 1),
               Error);
}

}  // namespace
}  // namespace ens
