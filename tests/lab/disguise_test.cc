// SPDX-License-Identifier: Apache-2.0
// Disguised training as run folders: trained, attacked, resumed, reported; with both controls.
#include "lab/scenarios/disguise.h"

#include <gtest/gtest.h>

#include <array>

#include "base/error.h"
#include "base/files.h"
#include "disguise/key/key.h"
#include "disguise/set/set.h"
#include "disguise/train/model.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/sweep.h"
#include "proto/results.h"
#include "report/data.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

class DisguiseRunTest : public testing::Test {
 protected:
  static RunConfig config_of(const std::string& method) {
    RunConfig config;
    parse_config(
        R"(data { name: "shapes" image_size: 16 train_limit: 700 test_limit: 150 public_images: 200 }
                    model { architecture: "lenet" } stage1 { epochs: 1 batch: 32 lr: 0.02 }
                    attack { scored_images: 40 public_images: 200 observed_features: 400 reference_images: 0
                             known_pairs { counts: 1 counts: 50 } decoder { channels: 8 blocks: 1 epochs: 4 }
                             alignment { steps: 40 batch: 32 } model_use { steps: 20 } })",
        "test", config);
    config.mutable_disguise()->set_method(method);
    complete(config);
    return config;
  }
  results::AttackResult result_of(const fs::path& run, const std::string& attack) {
    results::AttackResult result;
    results::read(run / "attack" / attack / "result.json", result);
    return result;
  }
  // What the model says of some rows, which tells weights apart.
  static Tensor logits_of(const fs::path& run) {
    return classify_disguised(read_disguised_model(run / "cloud/model.h5"),
                              DisguisedSetReader(run / "owner/test.h5").rows(0, 20));
  }
  int attack(const fs::path& run, const std::vector<std::string>& attacks, bool again = false) {
    RunConfig wanted;
    *wanted.mutable_attack() = config_of("rmt").attack();
    return attack_disguised_runs({run}, attacks, wanted, again, {});
  }

  test::TempDir temp_;
};

TEST_F(DisguiseRunTest, IsTrainedAttackedAndReported) {
  const fs::path run = temp_ / "rmt";
  ASSERT_TRUE(train_disguised_run(config_of("rmt"), run));
  EXPECT_FALSE(train_disguised_run(config_of("rmt"), run));  // done already
  EXPECT_EQ(attack(run, {"look", "thumbnail", "equality", "moments", "regression", "procrustes",
                         "codebook"}),
            0);
  EXPECT_GT(result_of(run, "procrustes").psnr().mean(), 60);  // float16
  EXPECT_EQ(result_of(run, "procrustes").matching().rank1().mean(), 1);
  EXPECT_EQ(result_of(run, "procrustes").parts_size(), 2);
  EXPECT_GT(result_of(run, "thumbnail").matching().rank1().mean(), 0.9);
  EXPECT_EQ(result_of(run, "look").matching().gallery(), 150);
  EXPECT_LT(result_of(run, "look").ssim().mean(), 0.5);
  const report::ReportData all = report::collect({temp_.path()});
  ASSERT_EQ(all.disguised.size(), 1u);
  EXPECT_TRUE(all.skipped.empty()) << all.skipped[0].what << ": " << all.skipped[0].reason;
  EXPECT_GT(all.disguised[0].summary.disguise().owner_microseconds(), 0);
  // A result that is there is left alone, unless it is asked for again.
  const auto written = fs::last_write_time(run / "attack/look/result.json");
  EXPECT_EQ(attack(run, {"look"}), 0);
  EXPECT_EQ(fs::last_write_time(run / "attack/look/result.json"), written);
  EXPECT_EQ(attack(run, {"look"}, true), 0);
  EXPECT_NE(fs::last_write_time(run / "attack/look/result.json"), written);
}

TEST_F(DisguiseRunTest, TheControlsAreAtOneAndAtChance) {
  const fs::path plain = temp_ / "identity", counter = temp_ / "aesctr";
  train_disguised_run(config_of("identity"), plain);
  train_disguised_run(config_of("aesctr"), counter);
  EXPECT_EQ(attack(plain, {}), 0);
  EXPECT_EQ(attack(counter, {}), 0);
  for (const fs::path& run : {plain, counter}) {
    for (const auto& entry : fs::directory_iterator(run / "attack")) {
      const std::string name = entry.path().filename();
      const results::AttackResult r = result_of(run, name);
      SCOPED_TRACE(run.filename().string() + ", " + name + r.error());
      if (r.has_pointless()) continue;
      if (name == "membership") {
        EXPECT_GT(r.auc().high(), 0.45);
        continue;
      }
      const double rank1 = r.matching().rank1().mean();
      if (run == counter) {
        EXPECT_LT(rank1, 0.13);  // chance: 1 / 150; six of 40 images by chance once in a million
      } else if (name == "model-use") {
        ASSERT_EQ(r.model_use_size(), 3);
        for (const auto& use : r.model_use())
          EXPECT_NEAR(use.accuracy(), r.model_use(0).accuracy(), 0.05);
      } else if (name == "align") {  // trained for a moment
        EXPECT_GT(rank1, 0.1);
      } else if (name != "equality" && name != "codebook") {  // no two units here are equal
        EXPECT_TRUE(rank1 > 0.99 || r.ssim().mean() > 0.999) << rank1 << ", " << r.ssim().mean();
      }
    }
  }
}

TEST_F(DisguiseRunTest, AKilledTrainingGoesOnWithItsKeyAndSets) {
  const fs::path run = temp_ / "rmt";
  train_disguised_run(config_of("rmt"), run);
  const std::string id = DisguiseKey::read(run / "owner/owner.key").id();
  const std::string set = DisguisedSetReader(run / "owner/train.h5").info().set_id;
  const Tensor weights = logits_of(run);
  results::RunSummary before, after;
  results::read(run / "summary.json", before);
  // Killed before its first checkpoint.
  for (const char* late : {"DONE", "summary.json", "metrics.csv", "cloud/DONE", "cloud/model.h5",
                           "cloud/summary.json", "cloud/stage1"}) {
    EXPECT_GT(fs::remove_all(run / late), 0u) << late;
  }
  EXPECT_TRUE(train_disguised_run(config_of("rmt"), run));
  EXPECT_EQ(DisguiseKey::read(run / "owner/owner.key").id(), id);
  EXPECT_EQ(DisguisedSetReader(run / "owner/train.h5").info().set_id, set);
  results::read(run / "summary.json", after);
  EXPECT_EQ(after.accuracy(), before.accuracy());
  EXPECT_EQ(logits_of(run).to_vector(), weights.to_vector());
}

TEST_F(DisguiseRunTest, TheKeyStaysWithTheOwner) {
  const fs::path run = temp_ / "rmt";
  train_disguised_run(config_of("rmt"), run);
  EXPECT_EQ(fs::status(run / "owner").permissions(), fs::perms::owner_all);
  fs::remove_all(run / "owner");
  EXPECT_EQ(attack(run, {"look"}), 1);
}

// With secrets from a seed, the seed is the key, and the command line may name it.
TEST_F(DisguiseRunTest, TheCloudSeesNeitherTheSeedNorTheCommandLine) {
  constexpr const char* kSeed = "987654321987";
  std::string program = "ensembler", command = "train", setting = "seed=987654321987";
  std::array<char*, 3> words = {program.data(), command.data(), setting.data()};
  remember_command_line(static_cast<int>(words.size()), words.data());
  RunConfig config = config_of("rmt");
  config.set_seed(std::stoull(kSeed));
  config.mutable_disguise()->set_insecure_seeded_secrets(true);
  train_disguised_run(config, temp_ / "rmt");
  EXPECT_NE(read_file(temp_ / "rmt/info.json").find(kSeed), std::string::npos);
  int files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(temp_ / "rmt/cloud")) {
    if (!entry.is_regular_file()) continue;
    ++files;
    const std::string text = read_file(entry.path());
    for (const char* secret : {kSeed, "ensembler train"}) {
      EXPECT_EQ(text.find(secret), std::string::npos) << entry.path() << " has " << secret;
    }
  }
  EXPECT_GT(files, 5);
}

TEST_F(DisguiseRunTest, AttacksGetNoPrivateImages) {
  const fs::path run = temp_ / "rmt";
  train_disguised_run(config_of("rmt"), run);
  RunConfig wanted;
  *wanted.mutable_attack() = config_of("rmt").attack();
  wanted.mutable_attack()->set_public_source("training");
  const std::string error =
      test::error_of([&] { attack_disguised_runs({run}, {"moments"}, wanted, false, {}); });
  EXPECT_NE(error.find("attack.public_source=disjoint"), std::string::npos) << error;
}

TEST_F(DisguiseRunTest, ASweepHasDisguisedCellsBesideOthers) {
  SweepConfig sweep;
  parse_config(R"(base { data { name: "shapes" image_size: 16 } model { architecture: "lenet" } }
                  row { name: "split" }
                  row { name: "rmt" set: "disguise.method=rmt" attack: "moments"
                        axis { path: "disguise.rmt.noise" value: ["0", "25"] } })",
               "test", sweep);
  const std::vector<SweepCell> cells = expand(sweep, "");
  ASSERT_EQ(cells.size(), 3u);
  EXPECT_FALSE(is_disguised(cells[0].config));
  EXPECT_TRUE(is_disguised(cells[1].config));
  EXPECT_EQ(cells[1].attacks, std::vector<std::string>{"moments"});
  EXPECT_EQ(cells[2].folder, "rmt_noise=25");
  EXPECT_TRUE(cells[2].skipped.empty()) << cells[2].skipped;
}

}  // namespace
}  // namespace ens
