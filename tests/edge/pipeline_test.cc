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

}  // namespace
}  // namespace ens
