// SPDX-License-Identifier: Apache-2.0
// Attacks on codes of patches, against NeuraCrypt as its paper writes it.
#include <gtest/gtest.h>

#include <map>

#include "attacks/core/evaluator.h"
#include "attacks/disguise/image_graph.h"
#include "attacks/disguise/registry.h"
#include "attacks/disguise/tokens.h"
#include "tests/attacks/disguise/naive.h"

namespace ens::test {
namespace {

constexpr int64_t kQueries = 30, kGallery = 150;

class CodeAttacks : public testing::Test {
 protected:
  void disguise(const std::string& text, std::function<Tensor(const Tensor&)> apply) {
    victim_ = victim_of(settings(text), training_, public_, test_, 1, apply);
    const Tensor images = images_of(test_, 0, kGallery), rows = apply(images);
    victim_.queries = rows.rows(0, kQueries);
    victim_.private_images = [images] { return images; };
    victim_.private_rows = [rows] { return rows; };
  }
  void neuracrypt(int depth) {
    const auto encoder = std::make_shared<NaiveNeuracrypt>(training_, 96, depth, 5);
    uint64_t seed = 1;
    disguise("disguise { method: 'neuracrypt' neuracrypt { width: 96 depth: " +
                 std::to_string(depth) + " } }",
             [=](const Tensor& images) mutable { return (*encoder)(images, ++seed); });
  }
  AttackScore evaluate(const std::string& name, std::vector<int64_t> pairs = {}) {
    AttackContext context;
    context.settings.mutable_known_pairs()->mutable_counts()->Assign(pairs.begin(), pairs.end());
    context.settings.mutable_match()->set_keys(8);
    context.settings.mutable_match()->set_rounds(2);
    context.settings.mutable_match()->set_round_steps(250);
    const auto attack = make_disguise_attack(name);
    Evaluator evaluator(images_of(test_, 0, kQueries));
    evaluator.set_gallery(images_of(test_, 0, kGallery));
    return evaluator.evaluate(*attack, 1, [&] { return attack->run(victim_, context); });
  }

  const Dataset training_ = waves(300, 3, 16, 1), public_ = waves(300, 3, 16, 2),
                test_ = waves(kGallery, 3, 16, 3);
  DisguiseVictim victim_;
};

TEST_F(CodeAttacks, TheOrderOfTheCodesIsUndone) {
  NaiveNeuracrypt encoder(training_, 96, 4, 5);
  const Tensor images = images_of(test_, 0, 60);
  Tensor same = Tensor::empty(images.shape());  // one image 60 times: its codes show the order
  for (int64_t i = 0; i < 60; ++i) same.rows(i, 1).copy_from(images.rows(0, 1));
  const Tensor codes = encoder(images, 2);
  const Tensor slots = find_slots(codes), of_one = into_slots(encoder(same, 3), slots);
  for (int64_t i = 1; i < 60; ++i) {
    EXPECT_EQ(of_one.rows(i, 1).to_vector(), of_one.rows(0, 1).to_vector());
  }
  EXPECT_NE(encoder(same.rows(0, 1), 4).to_vector(), encoder(same.rows(0, 1), 5).to_vector());
}

TEST_F(CodeAttacks, ImagesAreMatchedByTheirDistancesAlone) {
  const Tensor plain = image_distances(Patches({3, 16, 16}, settings("disguise { method: "
                                                                     "'identity' }"))
                                           .of_images(images_of(test_, 0, 80)));
  const std::vector<int64_t> order = Rng(4).permutation(80);
  Tensor seen = Tensor::empty({80, 80});
  for (int64_t i = 0; i < 80; ++i) {
    for (int64_t j = 0; j < 80; ++j) {
      const float d =
          plain.data<float>()[order[static_cast<size_t>(i)] * 80 + order[static_cast<size_t>(j)]];
      seen.data<float>()[i * 80 + j] = std::sqrt(d) * 3 + 1;  // any monotone function
    }
  }
  EXPECT_EQ(match_by_distances(seen, plain, AttackContext()), order);
}

TEST_F(CodeAttacks, MatchFindsWhoIsWho) {
  neuracrypt(4);
  const AttackScore score = evaluate("match");
  ASSERT_EQ(score.candidates.size(), 2u);
  EXPECT_EQ(score.best_candidate, "matched");
  // Far above chance, 1 / 150, with few images and little training.
  EXPECT_GE(score.matching->rank1.mean, 0.15);
  EXPECT_GT(score.candidates[1].ssim, 0.3) << "a decoder from the pairs that were found";
}

TEST_F(CodeAttacks, MatchIsExactOnALinearEncoder) {
  neuracrypt(-1);
  const AttackScore score = evaluate("match");
  EXPECT_EQ(score.matching->rank1.mean, 1);
  EXPECT_EQ(score.scores.ssim.mean, 1);
  EXPECT_NE(make_disguise_attack("decode")->not_applicable_reason(
                {victim_.disguise, victim_.image, {16, 96}, 300, 300}),
            "");
}

TEST_F(CodeAttacks, DecodeGetsBetterWithPairs) {
  neuracrypt(4);
  const AttackScore score = evaluate("decode", {1, 20, 200});
  ASSERT_EQ(score.candidates.size(), 3u);
  EXPECT_GT(score.candidates[1].ssim, score.candidates[0].ssim);
  EXPECT_GT(score.candidates[2].ssim, score.candidates[1].ssim);
  EXPECT_GT(score.candidates[2].ssim, 0.5);
  EXPECT_GT(score.candidates[2].matching->rank1.mean, 0.8);
}

TEST_F(CodeAttacks, PlainImagesAreReadAndCiphertextIsNot) {
  disguise("disguise { method: 'identity' }", [](const Tensor& images) {
    Tensor rows = images.clone();
    for (float& v : rows.span<float>()) v *= 255;
    return rows;
  });
  EXPECT_EQ(evaluate("match").matching->rank1.mean, 1);
  EXPECT_GT(evaluate("decode", {100}).matching->rank1.mean, 0.999);
  Rng rng(8);
  disguise("disguise { method: 'aesctr' }", [rng](const Tensor& images) mutable {
    Tensor rows = Tensor::empty(images.shape());
    for (float& v : rows.span<float>()) v = static_cast<float>(rng.below(256));
    return rows;
  });
  EXPECT_LT(evaluate("match").matching->rank1.mean, 0.1);
  EXPECT_LT(evaluate("decode", {100}).matching->rank1.mean, 0.1);
}

TEST_F(CodeAttacks, OtherMethodsAreLeftToOtherAttacks) {
  const DisguiseConfig rmt = settings("disguise { method: 'rmt' }");
  for (const char* name : {"match", "decode"}) {
    EXPECT_NE(
        make_disguise_attack(name)->not_applicable_reason({rmt, {3, 16, 16}, {3, 16, 16}, 10, 10}),
        "");
  }
  const DisguiseConfig codes = settings("disguise { method: 'neuracrypt' }");
  for (const char* name :
       {"look", "thumbnail", "equality", "moments", "regression", "procrustes", "codebook"}) {
    EXPECT_NE(
        make_disguise_attack(name)->not_applicable_reason({codes, {3, 16, 16}, {16, 256}, 10, 10}),
        "")
        << name;
  }
}

}  // namespace
}  // namespace ens::test
