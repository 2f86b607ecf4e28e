// SPDX-License-Identifier: Apache-2.0
#include "edge/pipeline.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nn/autograd/var.h"
#include "tests/ensemble/bundles.h"

namespace ens {
namespace {

// Head, noise, all bodies, selector, tail: the plans and the pipeline against the modules.
TEST(EdgePipeline, ComputesWhatTheSpecificationSays) {
  for (int tail : {1, 2}) {
    test::Bundles bundles = test::random_bundles(8, 4, {0, 3}, 4, tail);
    const Tensor images = test::random_images(bundles.edge.info.model, 5, 1);
    const std::vector<float> want = expected_logits(bundles, images).to_vector();

    EdgePipeline pipeline(bundles.edge, 2);  // 5 images in goes of 2
    const Tensor features = pipeline.smash(images);
    const NoGrad no_grad;
    std::vector<float> all;
    Shape shape;
    for (const auto& body : bundles.cloud.bodies) {
      const Tensor answer = body->forward(Var(features)).value();
      const auto values = answer.to_vector();
      all.insert(all.end(), values.begin(), values.end());
      shape = answer.shape();
    }
    std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
    dims.insert(dims.begin(), 4);
    const Tensor logits = pipeline.finish(Tensor::from(all, Shape(std::span<const int64_t>(dims))));
    const std::vector<float> got = logits.to_vector();
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i]))) << "tail " << tail << ", " << i;
    }
    EXPECT_EQ(pipeline.class_names().size(), 10u);
    EXPECT_EQ(pipeline.info().nets, 4);
  }
}

// What is sent is the head's output and what the bundle's protection says, for each image.
TEST(EdgePipeline, AppliesTheBundlesProtection) {
  test::Bundles bundles = test::random_bundles(8);
  const Tensor images = test::random_images(bundles.edge.info.model, 40, 1);
  const auto sent = [&](const ProtectionSpec& spec) {
    EdgeBundle edge = bundles.edge;
    edge.protection = spec;
    return EdgePipeline(edge, 8).smash(images).to_vector();
  };
  const std::vector<float> clean = sent({});
  const size_t size = clean.size() / 40;
  const Shape one = smashed_shape(bundles.edge.info.model, bundles.edge.info.split);
  Tensor bank = Tensor::zeros({2, one[0], one[1], one[2]});
  bank.rows(1, 1).fill(1);
  const std::vector<float> shifted = sent({{"noise_bank", bank}});
  int moved = 0;
  for (size_t b = 0; b < 40; ++b) {
    const float shift = std::round(shifted[b * size] - clean[b * size]);
    moved += shift == 1;
    for (size_t i = b * size; i < (b + 1) * size; ++i) {
      ASSERT_NEAR(shifted[i], clean[i] + shift, 1e-5);
    }
  }
  EXPECT_GT(moved, 3);
  EXPECT_LT(moved, 37);
  const ProtectionStep dropout{"dropout", Tensor::from({0.5f}, {1})},
      fresh{"fresh_noise", Tensor::from({1}, {1})};
  const std::vector<float> dropped = sent({dropout});
  EXPECT_NE(dropped, sent({dropout}));
  for (size_t i = 0; i < clean.size(); ++i) {
    ASSERT_TRUE(dropped[i] == 0 || std::abs(dropped[i] - 2 * clean[i]) < 1e-5) << i;
  }
  EXPECT_NE(sent({fresh}), sent({fresh}));
}

// With a device's key an image has one noise, in this process and the next, and no two images,
// keys, heads or powers share any.
TEST(EdgePipeline, AKeyedNoiseIsOfOneImageDeviceAndBundle) {
  test::Bundles bundles = test::random_bundles(8);
  const int64_t size = smashed_shape(bundles.edge.info.model, bundles.edge.info.split).numel();
  const Tensor images = test::random_images(bundles.edge.info.model, 5, 1);
  Seed key, other_key;
  key.fill(1), other_key.fill(2);
  const auto pipeline = [&](const EdgeBundle& edge, double bits, std::optional<Seed> device) {
    EdgeBundle own = edge;
    own.protection = {channel_step(make_channel(bits, size, true))};
    return std::make_unique<EdgePipeline>(own, 8, device);
  };
  const auto first = pipeline(bundles.edge, 64, key);
  ASSERT_TRUE(first->channel());
  EXPECT_EQ(first->channel()->elements, size);
  const Tensor all = first->smash(images);
  EXPECT_EQ(all.to_vector(), first->smash(images).to_vector());
  EXPECT_EQ(all.to_vector(), pipeline(bundles.edge, 64, key)->smash(images).to_vector());
  EXPECT_NE(pipeline(bundles.edge, 64, std::nullopt)->smash(images).to_vector(),
            pipeline(bundles.edge, 64, std::nullopt)->smash(images).to_vector());

  // What is left of z when the scaled feature is taken off, which is hardly anything at 64 bits in
  // 1,024 elements: noises of two pipelines or two images that were the same would be the same
  // here.
  const auto likeness = [&](const Tensor& a, const Tensor& b) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < size; ++i) {
      const double x = a.data<float>()[i], y = b.data<float>()[i];
      ab += x * y, aa += x * x, bb += y * y;
    }
    return ab / std::sqrt(aa * bb);
  };
  EXPECT_NEAR(likeness(all.rows(0, 1), all.rows(0, 1)), 1, 1e-9);
  const double chance =
      5 / std::sqrt(static_cast<double>(size)) + 0.1;  // 0.1: the images' likeness
  Tensor changed = images.clone();
  changed.data<float>()[7] += 1 / 255.0f;
  EXPECT_LT(likeness(first->smash(changed).rows(0, 1), all.rows(0, 1)), chance);
  EXPECT_LT(likeness(all.rows(0, 1), all.rows(1, 1)), chance);
  EXPECT_LT(likeness(pipeline(bundles.edge, 64, other_key)->smash(images), all), chance);
  EXPECT_LT(likeness(pipeline(bundles.edge, 65, key)->smash(images), all), chance);
  EXPECT_LT(likeness(pipeline(test::random_bundles(9).edge, 64, key)->smash(images), all), chance);
}

}  // namespace
}  // namespace ens
