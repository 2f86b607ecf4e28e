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

}  // namespace
}  // namespace ens
