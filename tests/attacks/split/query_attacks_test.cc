// SPDX-License-Identifier: Apache-2.0
// Attacks that ask for features: they read a head whose inverse is known, and nothing from features
// that hold nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "attacks/split/grant.h"
#include "base/error.h"
#include "base/threads.h"
#include "nn/autograd/ops.h"
#include "nn/core/rng.h"
#include "nn/data/loader.h"
#include "tests/attacks/split/attacks.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

constexpr int kSize = 16;

Dataset shapes(uint64_t seed, int64_t count) {
  DataOptions options;
  options.name = "shapes";
  options.image_size = kSize;
  options.limit = count;
  options.seed = seed;
  return load_dataset(options, DataSplit::kTrain);
}

double squared(const Tensor& a, const Tensor& b) {
  NoGrad no_grad;
  return mse(Var(a), Var(b)).item();
}

// he19's first cell, normalisation and one convolution of 8 channels from 3, with noise.
class QueryAttacks : public testing::Test {
 protected:
  QueryAttacks() {
    set_compute_threads(1);
    model_.architecture = "he19";
    model_.width = 8;
    model_.image_size = kSize;
    model_.mean = {0.5f, 0.5f, 0.5f};
    model_.stddev = {0.25f, 0.25f, 0.25f};
    Rng rng(3);
    head_ = build_head(model_, {}, rng);
    head_->freeze();
    context_.settings.mutable_decoder()->set_channels(24);
    context_.settings.mutable_decoder()->set_blocks(1);
    context_.settings.mutable_decoder()->set_epochs(6);
    context_.settings.set_batch(32);
  }

  // The features of images, times `gain`, with Gaussian noise of deviation `sigma`.
  Tensor send(const Tensor& images, float gain, float sigma) {
    NoGrad no_grad;
    Tensor noise = Tensor::empty(batched(images.dim(0), smashed_shape(model_, {})));
    draws_.fill_normal(noise.span<float>(), 0, sigma);
    return add(affine(head_->forward(Var(images)), gain, 0), Var(noise)).value().plain();
  }

  template <typename View>
  View view(float gain, float sigma) {
    View v;
    v.model = model_;
    v.public_data = v.query_data = &public_;
    v.query = [this, gain, sigma](const Tensor& images) { return send(images, gain, sigma); };
    v.observed = send(truth_, gain, sigma);
    return v;
  }

  double mean_image_error() const {
    SplitVictim victim;
    victim.model = model_;
    victim.public_data = &public_;
    victim.observed = truth_;
    return squared(make_attack("mean-image")->run(victim, context_)[0].images, truth_);
  }

  ModelSpec model_;
  std::shared_ptr<Sequential> head_;
  AttackContext context_;
  Rng draws_{5};
  const Dataset public_ = shapes(1, 600);
  const Tensor truth_ = images_of(shapes(2, 24), 0, 24);
};

TEST_F(QueryAttacks, TooFewPublicImagesAreNamed) {
  for (const std::string attack : {"linear-decoder", "retrieval"}) {
    auto known = view<BlackBoxView>(1, 0);
    const Dataset one = public_.head(1);
    known.public_data = known.query_data = &one;
    EXPECT_THROW(run_on(attack, known, context_), Error) << attack;
  }
}

TEST_F(QueryAttacks, TheLinearDecoderInvertsAConvolution) {
  EXPECT_EQ(make_attack("linear-decoder")->level(), KnowledgeLevel::kBlackBox);
  const auto open = run_on("linear-decoder", view<BlackBoxView>(1, 0), context_);
  EXPECT_LT(squared(open[0].images, truth_), 0.1 * mean_image_error());
  const auto nothing = run_on("linear-decoder", view<BlackBoxView>(0, 1), context_);
  EXPECT_GT(squared(nothing[0].images, truth_), 0.95 * mean_image_error());
}

// Images that are public ones but for a little noise are found among 540; where features hold
// nothing, all public images weigh alike.
TEST_F(QueryAttacks, RetrievalFindsWhatIsNearAndElseTheMean) {
  BlackBoxView v = view<BlackBoxView>(1, 0);
  const Tensor known = images_of(public_, 300, 24);
  v.observed = send(changed_copy(known, "noise", 1, 1), 1, 0);
  EXPECT_LT(squared(run_on("retrieval", v, context_)[0].images, known), 0.1 * mean_image_error());
  const auto nothing = run_on("retrieval", view<BlackBoxView>(0, 1), context_);
  EXPECT_NEAR(squared(nothing[0].images, truth_), mean_image_error(), 0.1 * mean_image_error());
}

TEST_F(QueryAttacks, RepeatedSendsAverageFreshNoiseAway) {
  test::set_list(context_.settings.mutable_repetition()->mutable_counts(), {16, 1, 16});
  RepetitionView v = view<RepetitionView>(1, 3);
  v.resend = [&](int64_t) { return send(truth_, 1, 3); };
  const auto curve = run_on("repetition", v, context_);
  ASSERT_EQ(curve.size(), 2u);
  EXPECT_EQ(curve[0].x, 1);
  EXPECT_EQ(curve[1].x, 16);
  const double one = squared(curve[0].images, truth_), many = squared(curve[1].images, truth_);
  EXPECT_LT(many, 0.7 * one);
  // The same bytes sixteen times hold no more than once.
  v.resend = [&](int64_t) { return v.observed; };
  const auto same = run_on("repetition", v, context_);
  EXPECT_GT(squared(same[1].images, truth_), 0.9 * one);
}

TEST_F(QueryAttacks, RepetitionAsksWhetherTheClientDrawsAnew) {
  SplitSetting setting{model_, {}};
  EXPECT_EQ(make_attack("repetition")->not_applicable_reason(setting), "");
  setting.draws_anew = false;
  EXPECT_NE(make_attack("repetition")->not_applicable_reason(setting), "");
}

TEST_F(QueryAttacks, CopiesDifferAsTheySay) {
  const auto changed = [&](const std::string& how, int64_t copy = 1) {
    return changed_copy(truth_, how, copy, 9);
  };
  EXPECT_EQ(changed("same").to_vector(), truth_.to_vector());
  for (const char* how : {"shift", "mirror", "noise"}) {
    EXPECT_EQ(changed(how).to_vector(), changed(how).to_vector()) << how;
    EXPECT_NE(changed(how).to_vector(), changed(how, 2).to_vector()) << how;
  }
  EXPECT_NEAR(std::sqrt(squared(changed("noise"), truth_)), 1 / 255.0, 0.3 / 255);
  const double jpeg = std::sqrt(squared(changed("jpeg"), truth_));
  EXPECT_GT(jpeg, 1e-4);
  EXPECT_LT(jpeg, 0.1);
  // Every pixel of a shifted image is a neighbour's; a mirrored image is its mirror image or
  // itself.
  const Tensor shifted = changed("shift"), mirrored = changed("mirror");
  int mirrors = 0;
  for (int64_t i = 0; i < truth_.dim(0); ++i) {
    const float* from = truth_.rows(i, 1).data<float>();
    const float* shift = shifted.rows(i, 1).data<float>();
    const float* mirror = mirrored.rows(i, 1).data<float>();
    int moved = -1;  // the same offset everywhere inside
    for (int offset = 0; offset < 9 && moved < 0; ++offset) {
      const int down = offset / 3 - 1, right = offset % 3 - 1;
      bool fits = true;
      for (int y = 1; y + 1 < kSize; ++y) {
        for (int x = 1; x + 1 < kSize; ++x) {
          fits = fits && shift[y * kSize + x] == from[(y - down) * kSize + x - right];
        }
      }
      if (fits) moved = offset;
    }
    EXPECT_GE(moved, 0) << "image " << i;
    bool same = true, reversed = true;
    for (int y = 0; y < kSize; ++y) {
      for (int x = 0; x < kSize; ++x) {
        same = same && mirror[y * kSize + x] == from[y * kSize + x];
        reversed = reversed && mirror[y * kSize + x] == from[y * kSize + kSize - 1 - x];
      }
    }
    EXPECT_TRUE(same || reversed) << "image " << i;
    mirrors += reversed && !same;
  }
  EXPECT_GT(mirrors, 2);
  EXPECT_LT(mirrors, truth_.dim(0) - 2);
}

}  // namespace
}  // namespace ens::test
