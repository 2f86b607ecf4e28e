// SPDX-License-Identifier: Apache-2.0
// The cloud's half as programs: a training that is killed, and its model behind ensembler-cloud.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <limits>
#include <thread>

#include "disguise/train/train.h"
#include "edge/whole_net.h"
#include "experiment/run_dir.h"
#include "tests/disguise/sets.h"
#include "tests/edge/process.h"
#include "tests/ensemble/train/same_run.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::Process;

std::string program(const char* name) { return std::string(ENS_BIN_DIR) + "/" + name; }

class DisguisedPrograms : public ::testing::Test {
 protected:
  DisguisedPrograms() {
    test::write_pictures(folder_ / "train.h5", 1024, "train");
    test::write_pictures(folder_ / "test.h5", 128, "test");
  }
  std::unique_ptr<Process> train(const std::string& run, const std::string& epochs) {
    return std::make_unique<Process>(
        std::vector<std::string>{program("ensembler"), "disguise", "train", folder_ / "train.h5",
                                 "--test", folder_ / "test.h5", "--out", folder_ / run, "--set",
                                 "model.architecture=lenet", "--set", "stage1.epochs=" + epochs,
                                 "--set", "stage1.batch=32", "--set", "device=cpu"},
        folder_ / (run + std::to_string(++started_)));
  }
  void start_cloud(const fs::path& bundle) {
    const fs::path ready = folder_ / "ready";
    cloud_ = std::make_unique<Process>(
        std::vector<std::string>{program("ensembler-cloud"), "--bundle", bundle, "--bind",
                                 "tcp://127.0.0.1:*", "--ready-file", ready, "--set",
                                 "dtype=float32", "--threads", "1"},
        folder_ / "cloud");
    endpoint_ = wait_for_file(ready, *cloud_);
    ASSERT_EQ(endpoint_.rfind("tcp://", 0), 0u) << cloud_->err();
  }

  test::TempDir folder_;
  std::unique_ptr<Process> cloud_;
  std::string endpoint_;
  int started_ = 0;
};

// Killed in different epochs and started again; the sets lie in a file that is read in chunks.
TEST_F(DisguisedPrograms, KilledAndResumedEndsInTheSameWeights) {
  auto whole = train("whole", "6");
  ASSERT_EQ(whole->wait(), 0) << whole->err();
  EXPECT_NE(whole->out().find("accuracy"), std::string::npos);
  const fs::path run = folder_ / "killed";
  int kills = 0;
  for (int epoch = 0; epoch < 3; ++epoch) {
    auto part = train("killed", "6");
    const auto epochs = [&] {
      int64_t last = -1;
      if (fs::exists(run / "metrics.csv")) {
        for (const Metric& m : read_run(run).metrics) last = std::max(last, m.epoch);
      }
      return last;
    };
    while (part->running() && epochs() < 2 * epoch) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!fs::exists(run / "DONE")) ++kills;
    part->signal(SIGKILL);
    part->wait();
  }
  EXPECT_GE(kills, 2);
  auto last = train("killed", "6");
  ASSERT_EQ(last->wait(), 0) << last->err();
  EXPECT_EQ(test::weights(folder_ / "whole/model.h5"), test::weights(run / "model.h5"));
  std::map<int64_t, double> losses[2];
  for (const Metric& m : read_run(folder_ / "whole").metrics) {
    if (m.name == "loss") losses[0][m.epoch] = m.value;
  }
  for (const Metric& m : read_run(run).metrics) {
    if (m.name == "loss") losses[1][m.epoch] = m.value;
  }
  EXPECT_EQ(losses[0].size(), 6u);
  EXPECT_EQ(losses[0], losses[1]);
}

TEST_F(DisguisedPrograms, ACloudServesTheModelAndIsAskedWithDisguisedImages) {
  auto training = train("run", "1");
  ASSERT_EQ(training->wait(), 0) << training->err();
  const fs::path file = folder_ / "run/model.h5";
  start_cloud(file);
  const DisguisedModel model = read_disguised_model(file);
  const DisguisedSetReader set(folder_ / "test.h5");
  const Tensor rows = set.rows(0, 50);

  EdgeConfig config;
  config.set_bundle(file.string());
  config.set_cloud(endpoint_);
  config.set_batch(16);
  complete(config);
  WholeNetClient client(config, model.info);
  EdgeTimes times;
  const Result<Tensor> served = client.classify(rows, times);
  ASSERT_TRUE(served.status.ok()) << served.status.str();
  const std::vector<float> there = served.value.to_vector(),
                           here = classify_disguised(model, rows).to_vector();
  ASSERT_EQ(there.size(), here.size());
  for (size_t i = 0; i < there.size(); ++i) EXPECT_NEAR(there[i], here[i], 1e-3);
  EXPECT_GT(times.bytes_sent, 50 * 3 * 32 * 32 * 4);

  // Nothing else is sent.
  EXPECT_EQ(client.classify(Tensor::zeros({1, 3, 32, 31}), times).status.code,
            StatusCode::kInvalidArgument);
  Tensor odd = rows.rows(0, 1).clone();
  odd.data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(client.classify(odd, times).status.code, StatusCode::kInvalidArgument);

  // Another model of the same form is told apart.
  DisguisedModel other = model;
  Rng rng(77);
  other.net = build_body(other.info.model, other.info.split, rng);
  write_disguised_model(folder_ / "other.h5", other);
  WholeNetClient stranger(config, other.info);
  EXPECT_EQ(stranger.classify(rows, times).status.code, StatusCode::kFingerprintMismatch);
}

// A head of no cells would send the picture itself.
TEST_F(DisguisedPrograms, TheEdgeOfSplitInferenceRefusesTheModel) {
  auto training = train("run", "1");
  ASSERT_EQ(training->wait(), 0) << training->err();
  Process edge({program("ensembler-edge"), "--bundle", folder_ / "run/model.h5", "--cloud",
                "tcp://127.0.0.1:1", folder_ / "none.png"},
               folder_ / "edge");
  EXPECT_EQ(edge.wait(), 1);
  EXPECT_NE(edge.err().find("model.h5"), std::string::npos) << edge.err();
}

TEST_F(DisguisedPrograms, BadSetsEndInOneLine) {
  const auto error = [&](const fs::path& set) {
    Process p({program("ensembler"), "disguise", "train", set, "--out", folder_ / "bad", "--set",
               "device=cpu"},
              folder_ / "bad_set");
    EXPECT_NE(p.wait(), 0);
    const std::string err = p.err();
    EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
    EXPECT_FALSE(fs::exists(folder_ / "bad"));
    return err;
  };
  EXPECT_NE(error(folder_ / "none.h5").find("none.h5"), std::string::npos);
  fs::copy_file(folder_ / "train.h5", folder_ / "cut.h5");
  fs::resize_file(folder_ / "cut.h5", fs::file_size(folder_ / "train.h5") / 2);
  EXPECT_NE(error(folder_ / "cut.h5").find("cut.h5"), std::string::npos);
}

}  // namespace
}  // namespace ens
