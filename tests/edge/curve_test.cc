// SPDX-License-Identifier: Apache-2.0
// Keys: the real server and the real client in one process.
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <cmath>

#include "cloud/server.h"
#include "edge/client.h"
#include "net/keys.h"
#include "tests/ensemble/bundles.h"

namespace ens {
namespace {

class CurveTest : public testing::Test {
 protected:
  CurveTest() : bundles_(test::random_bundles(5)) {
    spdlog::set_level(spdlog::level::off);
    write(bundles_, dir_.path());
    for (const char* name : {"cloud", "friend", "stranger"}) write_keys(dir_ / name, new_keys());
    cloud_.set_bundle((dir_ / "cloud.h5").string());
    cloud_.set_bind("tcp://127.0.0.1:*");
    cloud_.set_dtype("float32");
    edge_.set_bundle((dir_ / "edge.h5").string());
  }
  void serve(bool encrypted) {
    if (encrypted) {
      cloud_.set_secret_key((dir_ / "cloud.key").string());
      cloud_.set_clients((dir_ / "friend.pub").string());
    }
    complete(cloud_);
    server_.emplace(cloud_);
    server_->start();
    edge_.set_cloud(server_->endpoint());
  }
  Status ask(const char* server_key, const char* own_key, int timeout_ms = 10000,
             int64_t count = 3) {
    EdgeConfig config = edge_;
    if (!config.has_timeout_ms()) config.set_timeout_ms(timeout_ms);
    if (server_key) config.set_server_key((dir_ / server_key).string());
    if (own_key) config.set_secret_key((dir_ / own_key).string());
    complete(config);
    EdgeClient client(config);
    const Tensor images = test::random_images(bundles_.edge.info.model, count, 1);
    const auto result = client.classify(images);
    if (result.status.ok()) {
      const auto want = expected_logits(bundles_, images).to_vector();
      const auto got = result.value.logits.to_vector();
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i])));
      }
    }
    return result.status;
  }

  test::TempDir dir_;
  test::Bundles bundles_;
  CloudConfig cloud_;
  EdgeConfig edge_;
  std::optional<Server> server_;
};

TEST_F(CurveTest, RightKeysAreServed) {
  serve(true);
  const Status status = ask("cloud.pub", "friend.key");
  EXPECT_TRUE(status.ok()) << status.str();
}

// Encryption makes frames longer; both sides limit the length of what they receive.
TEST_F(CurveTest, TheLargestRequestAndItsAnswerFit) {
  cloud_.set_max_request_batch(256);
  edge_.set_batch(256);
  serve(true);
  const Status status = ask("cloud.pub", "friend.key", 60000, 256);
  EXPECT_TRUE(status.ok()) << status.str();
}

TEST_F(CurveTest, StrangersAndMistakesEndWithAClearError) {
  serve(true);
  const Status not_allowed = ask("cloud.pub", "stranger.key");
  EXPECT_EQ(not_allowed.code, StatusCode::kUnauthenticated) << not_allowed.str();
  EXPECT_NE(not_allowed.message.find("does not allow this client's key"), std::string::npos);

  const auto asked = std::chrono::steady_clock::now();
  const Status wrong_server = ask("stranger.pub", "friend.key", 30000);
  EXPECT_LT(std::chrono::steady_clock::now() - asked, std::chrono::seconds(10));
  EXPECT_EQ(wrong_server.code, StatusCode::kUnauthenticated) << wrong_server.str();
  EXPECT_NE(wrong_server.message.find("--server-key"), std::string::npos);

  const Status plain = ask(nullptr, nullptr, 3000);
  EXPECT_EQ(plain.code, StatusCode::kUnauthenticated) << plain.str();
  EXPECT_NE(plain.message.find("encryption"), std::string::npos);

  EXPECT_TRUE(ask("cloud.pub", "friend.key").ok()) << "still served";
}

TEST_F(CurveTest, KeysToAPlainCloudAreRefused) {
  serve(false);
  const Status status = ask("cloud.pub", "friend.key", 3000);
  EXPECT_EQ(status.code, StatusCode::kUnauthenticated) << status.str();
  EXPECT_NE(status.message.find("plain text"), std::string::npos);
  EXPECT_TRUE(ask(nullptr, nullptr).ok());
}

// The same client, once the cloud is as it should be.
TEST_F(CurveTest, RefusedClientRecovers) {
  serve(true);
  EdgeConfig config = edge_;
  config.set_server_key((dir_ / "cloud.pub").string());
  config.set_secret_key((dir_ / "stranger.key").string());
  complete(config);
  EdgeClient client(config);
  EXPECT_EQ(client.check().code, StatusCode::kUnauthenticated);
  EXPECT_EQ(client.check().code, StatusCode::kUnauthenticated);
  cloud_.set_bind(server_->endpoint());
  cloud_.set_clients((dir_ / "stranger.pub").string());
  server_.reset();
  server_.emplace(cloud_);
  server_->start();
  const Status status = client.check();
  EXPECT_TRUE(status.ok()) << status.str();
}

TEST_F(CurveTest, EndsWithinItsTimeWhateverTheKeys) {
  serve(true);
  edge_.set_timeout_ms(50);
  for (const char* key : {"friend.pub", "cloud.pub"}) {
    const Status status = ask(key, "stranger.key");
    EXPECT_TRUE(status.code == StatusCode::kUnauthenticated ||
                status.code == StatusCode::kUnavailable)
        << status.str();
  }
}

}  // namespace
}  // namespace ens
