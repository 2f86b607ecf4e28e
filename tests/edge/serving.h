// SPDX-License-Identifier: Apache-2.0
// Edge and cloud as programs, for tests: a cloud, edges, and traffic between them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "edge/client.h"
#include "tests/edge/process.h"
#include "tests/ensemble/bundles.h"

namespace ens::test {

using Args = std::vector<std::string>;

class ServingTest : public testing::Test {
 protected:
  explicit ServingTest() : bundles_(random_bundles(5)) { write(bundles_, dir_.path()); }
  std::string path(const std::string& name) const { return (dir_ / name).string(); }

  std::unique_ptr<Process> run(const std::string& program, Args args) {
    args.insert(args.begin(), std::string(ENS_BIN_DIR) + "/" + program);
    return std::make_unique<Process>(args, dir_ / ("process" + std::to_string(++started_)));
  }
  // Starts a cloud and waits until it is ready; endpoint_ is then its address.
  void start_cloud(const std::string& bind = "tcp://127.0.0.1:*", Args more = {}) {
    const std::string ready = path("ready" + std::to_string(started_));
    Args args = {"--bundle", path("cloud.h5"), "--bind",        bind,        "--ready-file",
                 ready,      "--set",          "dtype=float32", "--threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    cloud_ = run("ensembler-cloud", args);
    endpoint_ = wait_for_file(ready, *cloud_);
    ASSERT_EQ(endpoint_.rfind("tcp://", 0), 0u) << cloud_->err();
  }
  // HOST:PORT of a cloud that was started with --http.
  std::string http() const { return http_address(*cloud_); }
  EdgeConfig edge_config() const {
    EdgeConfig config;
    config.set_bundle(path("edge.h5"));
    if (!endpoint_.empty()) config.set_cloud(endpoint_);
    config.set_timeout_ms(60000);
    config.set_batch(4);
    complete(config);
    return config;
  }
  std::unique_ptr<Process> edge(Args args) {
    args.insert(args.begin(), {"--bundle", path("edge.h5"), "--cloud", endpoint_});
    return run("ensembler-edge", args);
  }
  // The program must end with this code and one line on stderr that has `says` in it.
  void expect_refused(Process& process, int code, const std::string& says) {
    EXPECT_EQ(process.wait(), code) << process.err();
    const std::string err = process.err();
    EXPECT_NE(err.find(says), std::string::npos) << err;
    EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
    EXPECT_EQ(process.out(), "");
  }

  TempDir dir_;
  Bundles bundles_;
  std::unique_ptr<Process> cloud_;
  std::string endpoint_;
  int started_ = 0;
};

// Classifies the same images again and again beside the test; every answer must be right.
class Traffic {
 public:
  Traffic(const EdgeConfig& config, const Bundles& bundles) {
    const Tensor images = random_images(bundles.edge.info.model, 32, 2);
    client_ =
        std::jthread([this, config, images, want = expected_logits(bundles, images).to_vector()] {
          EdgeClient edge(config);
          while (!stop_) {
            const auto result = edge.classify(images);
            ASSERT_TRUE(result.status.ok()) << result.status.str();
            const auto got = result.value.logits.to_vector();
            for (size_t i = 0; i < want.size(); ++i)
              ASSERT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i])));
            ++answered_;
          }
        });
  }
  // Waits for so many more answers.
  void expect_answers(int more) {
    const int before = answered_;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (answered_ < before + more && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ASSERT_GE(answered_, before + more);
  }
  void stop() {
    stop_ = true;
    client_.join();
  }

 private:
  std::atomic<int> answered_{0};
  std::atomic<bool> stop_{false};
  std::jthread client_;
};

}  // namespace ens::test
