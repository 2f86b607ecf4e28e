// SPDX-License-Identifier: Apache-2.0
// Attacks on `rmt`, against a naive rmt and stored numpy results; with the data set there, the
// numbers of docs/disguise.md.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "attacks/core/evaluator.h"
#include "attacks/disguise/moments.h"
#include "attacks/disguise/registry.h"
#include "base/error.h"
#include "tests/attacks/disguise/naive.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

std::vector<Reconstruction> attack(const std::string& name, const DisguiseVictim& victim,
                                   const std::vector<int64_t>& pairs = {}) {
  AttackContext context = small_context();
  context.settings.mutable_known_pairs()->mutable_counts()->Assign(pairs.begin(), pairs.end());
  return make_disguise_attack(name)->run(victim, context);
}

double psnr(const Tensor& truth, const Reconstruction& r) {
  Tensor clipped = r.images.clone();
  for (float& v : clipped.span<float>()) v = std::clamp(v, 0.0f, 1.0f);
  const auto all = score_images(truth, clipped).psnr;
  return std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size());
}

// A mean squared error in [0, 1] that no linear attack without bias goes below: the noise's own.
double floor_of(double noise) { return 20 * std::log10(255 * std::sqrt(12.0) / noise); }

struct Case {
  const char* settings;
  char side;
  bool shared, permuted, gaussian;
  double noise;
};

// Every form of rmt.
const Case kCases[] = {
    {"side: 'right'", 'r', false, false, false, 0},
    {"side: 'left'", 'l', false, false, false, 0},
    {"side: 'full'", 'f', false, false, false, 0},
    {"side: 'right' share: 'all'", 'r', true, false, false, 0},
    {"side: 'right' permute: true", 'r', false, true, false, 0},
    {"side: 'left' permute: true noise: 25", 'l', false, true, false, 25},
    {"side: 'full' permute: true", 'f', false, true, false, 0},
    {"side: 'right' noise: 25", 'r', false, false, false, 25},
    {"side: 'right' noise: 25 noise_place: 'after'", 'r', false, false, false, -25},
    {"side: 'right' matrix: 'gaussian'", 'r', false, false, true, 0},
};

class BlockAttacks : public testing::TestWithParam<Case> {
 protected:
  BlockAttacks() {
    const Case& c = GetParam();
    NaiveRmt rmt(test_, 4, c.side, c.shared, c.permuted, c.gaussian, std::abs(c.noise), 5);
    rmt.noise_after = c.noise < 0;
    victim_ =
        victim_of(settings(std::string("disguise { method: 'rmt' rmt { ") + c.settings + " } }"),
                  training_, public_, test_, kQueries,
                  [this, rmt](const Tensor& images) { return rmt(images, ++sent_); });
  }

  static constexpr int64_t kQueries = 20;
  uint64_t sent_ = 0;
  const Dataset training_ = waves(1500, 3, 16, 1), public_ = waves(1500, 3, 16, 2),
                test_ = waves(40, 3, 16, 3);
  const Tensor truth_ = images_of(test_, 0, kQueries);
  DisguiseVictim victim_;
};

TEST_P(BlockAttacks, PairsReachWhatTheNoiseLeaves) {
  const double floor = GetParam().noise == 0 ? 80 : floor_of(std::abs(GetParam().noise)) - 0.3;
  EXPECT_GT(psnr(truth_, attack("regression", victim_, {200}).back()), floor);
  if (!GetParam().gaussian) {
    EXPECT_GT(psnr(truth_, attack("procrustes", victim_, {200}).back()), floor);
  }
}

TEST_P(BlockAttacks, MomentsNeedNoPair) {
  victim_.apply = [](const Tensor&) -> Tensor { fail("no pair is known"); };
  const double noise = std::abs(GetParam().noise);
  // Eigenvectors of 48 elements from 1500 images are less certain than those of 4.
  const double least = GetParam().side == 'f' ? 22 : GetParam().gaussian ? 25 : 35;
  EXPECT_GT(psnr(truth_, attack("moments", victim_).front()),
            noise > 0 ? floor_of(noise) - 0.5 : least);
}

INSTANTIATE_TEST_SUITE_P(Rmt, BlockAttacks, testing::ValuesIn(kCases));

// The waves rise to the right, so that of a layout and its mirror image the true one is known.
TEST_P(BlockAttacks, MomentsFindWhereBlocksWent) {
  if (!GetParam().permuted) GTEST_SKIP() << "all blocks stayed";
  PublicView view;
  grant(victim_, AttackContext(), view);
  const std::vector<MomentsEstimate> found = estimates_by_moments(view, AttackContext());
  ASSERT_EQ(found.size(), GetParam().side == 'f' ? 4u : 2u);
  const NaiveRmt rmt(test_, 4, GetParam().side, GetParam().shared, true, GetParam().gaussian,
                     std::abs(GetParam().noise), 5);
  EXPECT_EQ(found[0].inverse.place, std::vector<int64_t>(rmt.target.begin(), rmt.target.end()));
  EXPECT_LT(found[0].misfit, 0.5 * found[1].misfit);
}

// A denoiser that knows the noise's law goes beyond what no unbiased linear attack does.
TEST_P(BlockAttacks, DenoisingGoesBeyondTheNoise) {
  const double noise = std::abs(GetParam().noise);
  if (noise == 0) GTEST_SKIP() << "no noise";
  EXPECT_GT(psnr(truth_, attack("denoise", victim_).front()), floor_of(noise) + 1.5);
}

// Both ways of an estimate belong together, padding and places included.
TEST(BlockAttacksTest, AnEstimateDisguisesWhatItUndoes) {
  DisguiseConfig disguise = settings("disguise { method: 'rmt' rmt { block: '6x6' noise: 25 } }");
  const BlockVectors blocks({3, 16, 16}, disguise);
  Rng rng(3);
  BlockInverse estimate{Tensor::empty({blocks.positions(), 6, 6}), rng.permutation(9)};
  rng.fill_normal(estimate.matrices.span<float>(), 0, 1);
  const Dataset test = waves(5, 3, 16, 4);
  const Tensor images = images_of(test, 0, 5);
  const Tensor rows = estimate.disguise(blocks, BlockNoise(disguise), images, blocks.padded());
  EXPECT_TRUE(near(estimate.apply(blocks, BlockNoise(disguise), rows), images, 1e-3));
}

TEST(BlockAttacksTest, RegressionAndProcrustesAreThoseOfNumpy) {
  std::ifstream in(std::string(ENS_SOURCE_DIR) + "/tests/attacks/disguise/pairs_reference.json");
  const nlohmann::json reference = nlohmann::json::parse(in);
  const auto tensor = [&](const char* name, int64_t count, float scale) {
    std::vector<float> values = reference.at(name);
    for (float& v : values) v *= scale;
    return Tensor::from(values, {count, 2, 16, 16});
  };
  DisguisedPairsView view;
  view.disguise = settings("disguise { method: 'rmt' rmt { noise: 25 } }");
  view.image = {2, 16, 16};
  view.pair_images = tensor("pairs", 3, 1 / 255.0f);
  view.pair_rows = tensor("pair_rows", 3, 1);
  view.queries = tensor("queries", 2, 1);
  AttackContext context;
  context.settings.mutable_known_pairs()->add_counts(3);
  for (const char* name : {"regression", "procrustes"}) {
    auto made = make_disguise_attack(name);
    const auto curve = dynamic_cast<AttackOn<DisguisedPairsView>&>(*made).run_on(view, context);
    ASSERT_EQ(curve.size(), 1u);
    EXPECT_TRUE(near(curve[0].images, tensor(name, 2, 1), 1e-5)) << name;
  }
}

TEST(BlockAttacksTest, LengthsOfBlocksShowAThumbnail) {
  const Dataset test = waves(60, 3, 16, 4);
  const NaiveRmt rmt(test, 4, 'r', false, false, false, 0, 9);
  const Tensor gallery = images_of(test, 0, 60);
  const DisguiseVictim victim = victim_of(settings("disguise { method: 'rmt' }"), test, test, test,
                                          30, [&](const Tensor& images) { return rmt(images, 1); });
  const Reconstruction r = attack("thumbnail", victim).back();
  EXPECT_EQ(score_matching(r.match(gallery), 1).rank1.mean, 1);
  // The mean of every block beside the mean of the reconstruction.
  double sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0, n = 0;
  for (int64_t map = 0; map < 30 * 3; ++map) {
    for (int64_t block = 0; block < 16; ++block, ++n) {
      double x = 0, y = 0;
      for (int64_t p = 0; p < 16; ++p) {
        const int64_t at = (map * 16 + block / 4 * 4 + p / 4) * 16 + block % 4 * 4 + p % 4;
        x += gallery.data<float>()[at], y += r.images.data<float>()[at];
      }
      sx += x, sy += y, sxx += x * x, syy += y * y, sxy += x * y;
    }
  }
  const double r2 = (n * sxy - sx * sy) / std::sqrt((n * sxx - sx * sx) * (n * syy - sy * sy));
  EXPECT_GT(r2, 0.99);
}

TEST(BlockAttacksTest, MomentsSayHowManyImagesTheyNeed) {
  const Dataset few = waves(3, 3, 16, 4);
  const DisguiseVictim victim =
      victim_of(settings("disguise { method: 'rmt' rmt { side: 'full' } }"), few, few, few, 2,
                [](const Tensor& images) { return images.clone(); });
  ENS_EXPECT_ERROR(attack("moments", victim), "need 96 public images");
}

TEST(BlockAttacksTest, NoiseIsTakenOffPlainImagesToo) {
  const Dataset test = waves(20, 1, 16, 4);
  const DisguiseVictim victim = victim_of(settings("disguise { method: 'identity' }"), test, test,
                                          test, 10, [](const Tensor& images) {
                                            Tensor rows = images.clone();
                                            for (float& v : rows.span<float>()) v *= 255;
                                            return rows;
                                          });
  const Tensor truth = images_of(test, 0, 10);
  for (const char* name : {"look", "regression", "procrustes", "oracle"}) {
    EXPECT_GT(psnr(truth, attack(name, victim, {10}).back()), 80) << name;
  }
}

// What pads images to whole blocks is cut off, and the image is not squeezed.
TEST(BlockAttacksTest, PaddingIsNotLookedAt) {
  const Dataset test = waves(4, 1, 16, 4);
  const DisguiseVictim victim =
      victim_of(settings("disguise { method: 'rmt' rmt { block: '6x6' } }"), test, test, test, 4,
                [](const Tensor& images) {
                  Tensor rows = Tensor::zeros({images.dim(0), 1, 18, 18});
                  for (int64_t i = 0; i < images.dim(0); ++i) {
                    for (int64_t p = 0; p < 256; ++p) {
                      rows.data<float>()[(i * 18 + p / 16) * 18 + p % 16] =
                          255 * images.data<float>()[i * 256 + p];
                    }
                  }
                  return rows;
                });
  EXPECT_GT(psnr(images_of(test, 0, 4), attack("look", victim).back()), 80);
}

// The numbers of docs/disguise.md.
class OnCifar10 : public testing::Test {
 protected:
  void SetUp() override {
    DataOptions options;
    options.limit = 10000;
    if (!dataset_present(options)) GTEST_SKIP() << "no CIFAR-10";
    const Dataset all = load_dataset(options, DataSplit::kTrain);
    std::vector<int64_t> first(3000), second(3000);
    std::iota(first.begin(), first.end(), 0);
    std::iota(second.begin(), second.end(), 5000);
    training_ = all.pick(first), public_ = all.pick(second);
    test_ = load_dataset(options, DataSplit::kTest);
    truth_ = images_of(test_, 0, kQueries);
  }
  DisguiseVictim victim(const NaiveRmt& rmt, const std::string& text) {
    return victim_of(settings("disguise { method: 'rmt' rmt { " + text + " } }"), training_,
                     public_, test_, kQueries,
                     [this, rmt](const Tensor& images) { return rmt(images, ++sent_); });
  }
  static constexpr int64_t kQueries = 128;
  uint64_t sent_ = 0;
  Dataset training_, public_, test_;
  Tensor truth_;
};

TEST_F(OnCifar10, MomentsReachTheNoise) {
  for (const auto& [noise, least] : {std::pair(0, 45.0), {25, 30.46}, {100, 18.42}}) {
    const NaiveRmt rmt(test_, 4, 'r', false, false, false, noise, 5);
    const auto found = attack("moments", victim(rmt, "noise: " + std::to_string(noise))).back();
    const double reached = psnr(truth_, found);
    RecordProperty("noise_" + std::to_string(noise), std::to_string(reached));
    printf("moments, 4x4, U(0,%d): %.2f dB\n", noise, reached);
    EXPECT_GT(reached, least);
  }
}

TEST_F(OnCifar10, DenoisingGoesBeyondTheNoise) {
  for (const int noise : {25, 100}) {
    const NaiveRmt rmt(test_, 4, 'r', false, false, false, noise, 5);
    const double reached =
        psnr(truth_, attack("denoise", victim(rmt, "noise: " + std::to_string(noise))).front());
    printf("denoise, 4x4, U(0,%d): %.2f dB, the noise %.2f dB\n", noise, reached, floor_of(noise));
    EXPECT_GT(reached, floor_of(noise) + 1);
  }
}

// Blocks that changed places: every one is found, or every one in the mirror image of the layout,
// which CIFAR-10 hardly tells apart.
TEST_F(OnCifar10, MomentsFindWhereBlocksWent) {
  for (const int noise : {0, 25, 100}) {
    const NaiveRmt rmt(test_, 4, 'r', false, true, false, noise, 5);
    const DisguiseVictim v = victim(rmt, "permute: true noise: " + std::to_string(noise));
    PublicView view;
    grant(v, AttackContext(), view);
    const auto found = estimates_by_moments(view, AttackContext());
    double best = 0;
    size_t which = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      double right = 0;
      for (size_t p = 0; p < rmt.target.size(); ++p) {
        right += (found[i].inverse.place[p] == rmt.target[p]) / 64.0;
      }
      if (right > best) best = right, which = i;
    }
    const double reached = psnr(truth_, rebuilt_by_moments(view, found)[which]);
    printf("moments, permuted 4x4, U(0,%d): places %.3f in layout %d of %d, %.2f dB\n", noise, best,
           static_cast<int>(which) + 1, static_cast<int>(found.size()), reached);
    EXPECT_GT(best, 0.95);
    EXPECT_GT(reached, noise > 0 ? floor_of(noise) - 0.5 : 40);
  }
}

// Means over ten draws of the pairs. What is reached with few pairs depends on which they are; with
// many, both reach the noise.
TEST_F(OnCifar10, PairsReachTheNoise) {
  struct Row {
    int noise, block;
    std::vector<double> procrustes;  // measured before by another program
  };
  const std::vector<int64_t> counts = {1, 3, 10, 50};
  for (const Row& row : {Row{25, 4, {0, 30.4, 0, 31.0}}, Row{100, 8, {17.0, 0, 19.1, 19.2}}}) {
    constexpr int kDraws = 10;
    std::vector<double> squares(counts.size()), procrustes(counts.size());
    const NaiveRmt rmt(test_, row.block, 'r', false, false, false, row.noise, 5);
    const std::string block = std::to_string(row.block);
    const DisguiseConfig disguise =
        settings("disguise { method: 'rmt' rmt { block: '" + block + "x" + block +
                 "' noise: " + std::to_string(row.noise) + " } }");
    for (int draw = 0; draw < kDraws; ++draw) {
      std::vector<int64_t> which(50);
      std::iota(which.begin(), which.end(), 50 * draw);
      const Dataset pairs = public_.pick(which);
      const DisguiseVictim v =
          victim_of(disguise, pairs, pairs, test_, kQueries,
                    [this, &rmt](const Tensor& images) { return rmt(images, ++sent_); });
      const auto a = attack("regression", v, counts), b = attack("procrustes", v, counts);
      for (size_t i = 0; i < counts.size(); ++i) {
        squares[i] += psnr(truth_, a[i]) / kDraws, procrustes[i] += psnr(truth_, b[i]) / kDraws;
      }
    }
    for (size_t i = 0; i < counts.size(); ++i) {
      printf("U(0,%d), blocks of %d, %d pairs: least squares %.2f, Procrustes %.2f dB\n", row.noise,
             row.block, static_cast<int>(counts[i]), squares[i], procrustes[i]);
      if (i == 0 && row.block == 4) {
        EXPECT_GE(procrustes[i], squares[i] - 0.5);  // where pairs are few
      }
      if (row.procrustes[i] > 0) {
        EXPECT_NEAR(procrustes[i], row.procrustes[i], 1);
      }
    }
    EXPECT_GT(squares.back(), floor_of(row.noise) + 0.3);  // biased, so the floor is none for it
    EXPECT_NEAR(procrustes.back(), floor_of(row.noise), 0.5);  // clipped to [0, 255], so above it
  }
}

}  // namespace
}  // namespace ens::test
