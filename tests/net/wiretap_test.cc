// SPDX-License-Identifier: Apache-2.0
// What the wiretap records must be what the edge computed: the attacks are judged by it.
#include "net/wiretap.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "edge/client.h"
#include "edge/pipeline.h"
#include "tests/edge/fake_cloud.h"

namespace ens {
namespace {

using test::FakeCloud;

class WiretapTest : public testing::Test {
 protected:
  static constexpr int64_t kBatch = 2;

  WiretapTest() : bundles_(test::random_bundles(5)) {
    write(bundles_, dir_.path());
    images_ = test::random_images(bundles_.edge.info.model, 5, 3);
    config_.set_bundle((dir_ / "edge.h5").string());
    config_.set_batch(kBatch);
  }
  std::vector<float> classify(const std::string& endpoint, int timeout_ms = 10000) {
    config_.set_cloud(endpoint);
    config_.set_timeout_ms(timeout_ms);
    complete(config_);
    const auto result = EdgeClient(config_).classify(images_);
    EXPECT_TRUE(result.status.ok()) << result.status.str();
    return result.value.logits.defined() ? result.value.logits.to_vector() : std::vector<float>();
  }
  // Request by request: the edge's own features, computed without a link.
  std::vector<std::vector<float>> own_features() {
    EdgePipeline pipeline(read_edge_bundle(dir_ / "edge.h5"), kBatch);
    std::vector<std::vector<float>> requests;
    for (int64_t first = 0; first < images_.dim(0); first += kBatch) {
      const int64_t count = std::min(kBatch, images_.dim(0) - first);
      requests.push_back(pipeline.smash(images_.rows(first, count)).to_vector());
    }
    return requests;
  }
  static std::vector<float> joined(const std::vector<std::vector<float>>& requests) {
    std::vector<float> all;
    for (const auto& request : requests) all.insert(all.end(), request.begin(), request.end());
    return all;
  }

  test::TempDir dir_;
  test::Bundles bundles_;
  Tensor images_;
  EdgeConfig config_;
};

TEST_F(WiretapTest, RecordsTheEdgesOwnFeaturesBitByBitInTheirOrder) {
  FakeCloud cloud(bundles_.cloud.info);
  const Wiretap tap(cloud.endpoint());
  const std::vector<float> logits = classify(tap.endpoint());
  const auto own = own_features();
  ASSERT_EQ(own.size(), 3u);
  ASSERT_NE(own[0], own[1]);  // so that an exchange of two requests shows
  const Tensor features = tap.features();
  EXPECT_EQ(features.shape(),
            batched(5, smashed_shape(bundles_.cloud.info.model, bundles_.cloud.info.split)));
  EXPECT_TRUE(features.to_vector() == joined(own)) << "other features, or in another order";
  EXPECT_EQ(logits, classify(cloud.endpoint())) << "the tap changed a message";
}

TEST_F(WiretapTest, ARequestThatIsSentAgainCountsOnce) {
  FakeCloud cloud(bundles_.cloud.info,
                  [](int number, const wire::Request&, FakeCloud::Answer right) {
                    if (number == 0) return std::vector<FakeCloud::Answer>{};  // lost
                    return std::vector{right};
                  });
  const Wiretap tap(cloud.endpoint());
  classify(tap.endpoint(), 2000);
  EXPECT_GE(cloud.infer_requests(), 4);
  EXPECT_TRUE(tap.features().to_vector() == joined(own_features()));
}

TEST_F(WiretapTest, WithoutARequestThereIsNothing) {
  FakeCloud cloud(bundles_.cloud.info);
  const Wiretap tap(cloud.endpoint());
  EXPECT_THROW(tap.features(), Error);
}

}  // namespace
}  // namespace ens
