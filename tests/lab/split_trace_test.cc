// SPDX-License-Identifier: Apache-2.0
#include "lab/split_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/ensemble/bundles.h"
#include "tests/support/errors.h"

namespace ens {
namespace {

struct SplitTraceTest : testing::Test {
  SplitTraceTest() : bundles(test::random_bundles(3)) {
    images = test::random_images(bundles.cloud.info.model, 1, 5);
    image = images.reshape(Shape(images.shape().dims().subspan(1)));
    test::write(bundles, temp.path());
  }
  test::TempDir temp;
  test::Bundles bundles;
  Tensor images, image;
};

TEST_F(SplitTraceTest, EndsInWhatTheModulesAnswer) {
  SplitTracer tracer(temp.path());
  const SplitTrace trace = tracer.trace(image, 1);
  const Tensor expected = test::expected_logits(bundles, images);
  const auto logits = expected.span<float>();
  double sum = 0;
  for (const float v : logits) sum += std::exp(static_cast<double>(v));
  ASSERT_EQ(trace.probabilities.size(), logits.size());
  const auto largest = std::ranges::max_element(logits) - logits.begin();
  EXPECT_EQ(trace.probabilities[0].first, tracer.class_names()[static_cast<size_t>(largest)]);
  EXPECT_NEAR(trace.probabilities[0].second,
              std::exp(static_cast<double>(logits[static_cast<size_t>(largest)])) / sum, 1e-4);
  EXPECT_EQ(trace.outputs.dim(0), 4);
  EXPECT_EQ(trace.body_ms.size(), 4u);
  EXPECT_EQ(trace.sent.shape(), smashed_shape(tracer.info().model, tracer.info().split));
}

TEST_F(SplitTraceTest, NoiseGrowsAndGoes) {
  SplitTracer tracer(temp.path());
  ASSERT_TRUE(tracer.has_noise());
  const auto added = [&](double noise) {
    const SplitTrace trace = tracer.trace(image, noise);
    const auto clean = trace.clean.span<float>(), sent = trace.sent.span<float>();
    double sum = 0;
    for (size_t i = 0; i < sent.size(); ++i) sum += std::abs(sent[i] - clean[i]);
    return sum;
  };
  EXPECT_EQ(added(0), 0);
  EXPECT_GT(added(1), 0);
  EXPECT_NEAR(added(3), 3 * added(1), 1e-3 * added(3));
}

TEST_F(SplitTraceTest, RefusesBundlesOfDifferentTrainings) {
  test::Bundles other = test::random_bundles(4);
  test::TempDir elsewhere;
  test::write(other, elsewhere.path());
  std::filesystem::copy_file(elsewhere / "cloud.h5", temp / "cloud.h5",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_NE(test::error_of([&] { SplitTracer tracer(temp.path()); }).find("different trainings"),
            std::string::npos);
}

}  // namespace
}  // namespace ens
