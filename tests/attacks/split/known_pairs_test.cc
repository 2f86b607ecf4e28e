// SPDX-License-Identifier: Apache-2.0
// Known pairs: which numbers of pairs are tried, and that what is tried inverts heads whose inverse
// is known.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attacks/core/linear_decoder.h"
#include "attacks/split/registry.h"
#include "base/error.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"
#include "tests/attacks/split/attacks.h"
#include "tests/support/compare.h"

namespace ens::test {
namespace {

constexpr int kSize = 16;

// Pictures with some structure: waves.
Tensor pictures(int64_t count, uint64_t seed, int size = kSize) {
  Tensor x = Tensor::empty({count, 3, size, size});
  Rng rng(seed);
  float* to = x.data<float>();
  for (int64_t i = 0; i < count * 3; ++i) {
    const double a = 3 * rng.uniform(), b = 3 * rng.uniform(), c = 6 * rng.uniform();
    for (int y = 0; y < size; ++y) {
      for (int j = 0; j < size; ++j) {
        *to++ = static_cast<float>(0.5 + 0.4 * std::sin(a * y + b * j + c));
      }
    }
  }
  return x;
}

double squared(const Tensor& a, const Tensor& b) {
  NoGrad no_grad;
  return mse(Var(a), Var(b)).item();
}

// A feature of half the size from which the pixels follow exactly: each 2x2 block through an
// invertible 12x12 matrix, plus a noise fixed at every position.
struct BlockHead {
  Tensor matrix, noise;
  explicit BlockHead(float sigma, int size = kSize) {
    matrix = uniform({12, 3, 2, 2}, 1);
    noise = uniform({1, 12, size / 2, size / 2}, 2);
    for (float& g : noise.span<float>()) g *= sigma;
  }
  Tensor operator()(const Tensor& images) const {
    NoGrad no_grad;
    const Var z = conv2d(Var(images), Var(matrix), Var(), ConvSpec{2, 0});
    return add(z, Var(noise)).value().plain();
  }
};

TEST(LinearDecoder, InvertsALinearHeadFromOnePair) {
  constexpr int kLarge = 48;  // more positions than the 108 unknowns, also in one half
  const BlockHead head(0, kLarge);
  const Tensor known = uniform({1, 3, kLarge, kLarge}, 5);
  const LinearDecoder decoder(known, head(known), 0, 1);
  EXPECT_LT(decoder.held_out_error(), 1e-3);
  const Tensor others = pictures(4, 6, kLarge);
  EXPECT_LT(squared(decoder.decode(head(others)), others), 1e-3);
}

// With two pairs and more a fixed noise is told from the picture by its place.
TEST(LinearDecoder, RemovesAFixedNoise) {
  const BlockHead head(3);
  const Tensor known = pictures(40, 7), others = pictures(4, 8);
  const LinearDecoder decoder(known, head(known), 8, 1);
  EXPECT_LT(decoder.held_out_error(), 5e-3);
  EXPECT_LT(squared(decoder.decode(head(others)), others), 5e-3);
}

TEST(LinearDecoder, ErrorOnHeldOutPairsIsAboutThatOnOthers) {
  const BlockHead head(0);
  const Tensor known = pictures(12, 7), others = pictures(12, 8);
  Tensor features = head(known), other_features = head(others);
  // A noise that is new in every picture cannot be removed: an error remains.
  const Tensor fresh = uniform(features.shape(), 9), more = uniform(features.shape(), 10);
  features = backend(Device{}).binary(BinaryOp::kAdd, features, fresh);
  other_features = backend(Device{}).binary(BinaryOp::kAdd, other_features, more);
  const LinearDecoder decoder(known, features, 4, 1);
  const double error = squared(decoder.decode(other_features), others);
  EXPECT_GT(error, 1e-3);
  EXPECT_LT(error, 2 * decoder.held_out_error());
  EXPECT_GT(error, 0.4 * decoder.held_out_error());
}

TEST(LinearDecoder, RefusesWhatDoesNotFit) {
  const Tensor images = pictures(2, 1);
  ENS_EXPECT_ERROR(LinearDecoder(images, uniform({2, 4, 5, 5}, 1), 1, 1), "no linear decoder");
  ENS_EXPECT_ERROR(LinearDecoder(images, uniform({3, 4, 8, 8}, 1), 1, 1), "no linear decoder");
  ENS_EXPECT_ERROR(LinearDecoder(images, uniform({2, 4, 8, 8}, 1), 2, 1), "no pairs");
}

TEST(PairCounts, AreClippedSortedAndUnique) {
  AttackContext context;
  set_list(context.settings.mutable_known_pairs()->mutable_counts(), {1, 10, 100, 1000, 10000});
  EXPECT_EQ(pair_counts(context.settings, 5000), (std::vector<int64_t>{1, 10, 100, 1000, 5000}));
  EXPECT_EQ(pair_counts(context.settings, 10), (std::vector<int64_t>{1, 10}));
  set_list(context.settings.mutable_known_pairs()->mutable_counts(), {30, 5, 30, 0, -1});
  EXPECT_EQ(pair_counts(context.settings, 1000), (std::vector<int64_t>{5, 30}));
  EXPECT_TRUE(pair_counts(context.settings, 0).empty());
}

// A client with a small he19 head, cut after its first convolution, and a fixed noise.
struct Client {
  KnownPairsView view;
  Dataset public_data;
  Tensor truth = pictures(6, 100);

  Client() {
    view.model.architecture = "he19";
    view.model.width = 6;
    view.model.image_size = kSize;
    Rng rng(3);
    const auto head = build_head(view.model, view.split, rng);
    head->freeze();
    const Tensor noise = uniform({1, 6, kSize, kSize}, 4);
    const auto send = [&](const Tensor& images) {
      NoGrad no_grad;
      return add(head->forward(Var(images)), affine(Var(noise), 0.2f, 0)).value().plain();
    };
    const Tensor mine = pictures(62, 200);
    public_data.channels = 3;
    public_data.height = public_data.width = kSize;
    for (float pixel : mine.span<float>()) {
      public_data.pixels.push_back(static_cast<uint8_t>(std::lround(255 * pixel)));
    }
    public_data.labels.assign(62, 0);
    public_data.class_names = {"a", "b"};
    view.public_data = &public_data;
    view.pair_images = pictures(16, 300);
    view.pair_features = send(view.pair_images);
    view.observed = send(truth);
  }
};

TEST(KnownPairs, IsACurveThatMorePairsImprove) {
  const Client client;
  AttackContext context;
  set_list(context.settings.mutable_known_pairs()->mutable_counts(), {16, 1, 500});
  context.settings.set_batch(8);
  context.settings.mutable_decoder()->set_epochs(4);
  context.settings.mutable_decoder()->set_channels(16);
  context.settings.mutable_decoder()->set_blocks(1);
  int64_t worked = 0;
  context.on_progress = [&](int64_t images, const std::string&) { worked += images; };
  const std::vector<Reconstruction> curve = run_on("known-pairs", client.view, context);
  SplitSetting setting{client.view.model, client.view.split};
  setting.public_images = client.public_data.count();
  set_list(context.settings.mutable_known_pairs()->mutable_counts(), {16, 1});
  EXPECT_EQ(worked, make_attack("known-pairs")->cost(setting, context.settings).images());
  ASSERT_EQ(curve.size(), 2u);
  EXPECT_EQ(curve[0].x, 1);
  EXPECT_EQ(curve[1].x, 16);
  EXPECT_EQ(curve[1].candidate.substr(0, 7), "m = 16:");
  const double few = squared(curve[0].images, client.truth);
  const double more = squared(curve[1].images, client.truth);
  EXPECT_LT(more, 0.3 * few) << few << " " << more;
}

TEST(KnownPairs, NeedsPairs) {
  Client client;
  client.view.pair_images = Tensor();
  ENS_EXPECT_ERROR(run_on("known-pairs", client.view, {}), "known-pairs view");
}

}  // namespace
}  // namespace ens::test
