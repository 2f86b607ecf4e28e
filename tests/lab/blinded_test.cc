// SPDX-License-Identifier: Apache-2.0
// Blinded inference beside the unprotected run: attacked, kept as run folders, read by the report.
#include "lab/scenarios/blinded.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/files.h"
#include "experiment/run_dir.h"
#include "lab/datasets.h"
#include "lab/shares_accuracy.h"
#include "offload/schemes/schemes.h"
#include "proto/results.h"
#include "report/data.h"
#include "tests/offload/blinded.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

class BlindedRunTest : public testing::Test {
 protected:
  BlindedRunTest() {
    config_.mutable_data()->set_name("shapes");
    config_.mutable_data()->set_image_size(16);
    config_.mutable_data()->set_train_limit(200);
    config_.mutable_data()->set_test_limit(60);
    config_.mutable_data()->set_public_images(100);
    config_.mutable_model()->set_width(8);
    config_.mutable_protection()->set_kind("none");
    config_.mutable_ensemble()->set_nets(1);
    config_.mutable_ensemble()->set_selected(1);
    AttackConfig& attack = *config_.mutable_attack();
    attack.set_scored_images(24);
    attack.set_public_images(100);
    attack.set_seeds(2);
    attack.mutable_decoder()->set_channels(8);
    attack.mutable_decoder()->set_blocks(1);
    attack.mutable_decoder()->set_epochs(10);
    complete(config_);
    RunDir run(run_, to_text(config_), {"ensembler train", "CPU", config_.seed()});
    results::RunSummary summary;
    summary.set_protection("none");
    summary.set_data("shapes");
    summary.set_architecture("resnet18");
    summary.set_width(8);
    summary.mutable_split()->set_head(1);
    summary.mutable_split()->set_tail(1);
    summary.mutable_bytes()->set_up(2048);
    summary.mutable_bytes()->set_down(256);
    summary.set_accuracy(0.5);
    results::write(run.path("summary.json"), summary);
    BlindedBundle bundle = test::random_blinded_bundle(1);
    bundle.class_names = shared_dataset(config_, DataPart::kTest)->class_names;
    write_blinded_bundle(run.path("blinded.h5"), bundle);
    run.mark_done();
  }

  test::TempDir temp_;
  const fs::path run_ = temp_ / "none";
  RunConfig config_;
};

TEST_F(BlindedRunTest, EveryNumberOfColludingCloudsIsARowBesideTheUnprotectedRun) {
  config_.mutable_offload()->set_virtual_batch(2);
  const std::vector<fs::path> rows = attack_blinded(run_, config_);
  ASSERT_EQ(rows.size(), 3u);
  const report::ReportData all = report::collect({run_});
  EXPECT_TRUE(all.skipped.empty()) << all.skipped[0].what << ": " << all.skipped[0].reason;
  ASSERT_EQ(all.comparisons.size(), 1u);  // with the unprotected run, which sends other bytes
  const std::vector<report::SeedGroup>& groups = all.comparisons[0].rows;
  ASSERT_EQ(groups.size(), 4u);
  for (int c = 1; c <= 3; ++c) {
    const report::SeedGroup& row = groups[static_cast<size_t>(c)];
    SCOPED_TRACE(row.title);
    EXPECT_EQ(row.title, "Blinded, " + std::to_string(c) + " of 3 clouds");
    EXPECT_EQ(row.rounds, 18);
    EXPECT_TRUE(row.change.has_mean());
    const report::SeedGroupAttack *shares = row.attack("oracle", "default"),
                                  *floor = row.attack("uniform-numbers", "default");
    ASSERT_TRUE(shares && floor);
    EXPECT_GT(all.at(shares->members[0]).result.own().ssim(), floor->ssim.high());
    if (c == 1) EXPECT_LT(shares->ssim.low(), floor->ssim.high());
    if (c == 3) EXPECT_GT(shares->ssim.mean(), 0.98);
  }
}

// Of three clouds with T = 2 two are sent a seed and one a share; with K = 2 one is sent a seed and
// two are sent a share for two images each.
TEST_F(BlindedRunTest, WhatTravelsIsCountedOfAllClouds) {
  const BlindedBundle bundle = read_blinded_bundle(run_ / "blinded.h5");
  const auto cost = [&](int inputs, int noises) {
    const auto scheme = make_scheme(
        "darknight_field", {.virtual_batch = inputs, .noises = noises, .shares = inputs + noises});
    return blinded_cost(bundle.net.graph, bundle.net.groups, *scheme, inputs + noises);
  };
  int64_t elements = 0;
  for (const Int8Group& group : bundle.net.groups) elements += group.input.numel();
  EXPECT_EQ(cost(1, 2).bytes_up, 4 * elements + 18 * 2 * 32);
  EXPECT_EQ(cost(2, 1).bytes_up, 4 * elements + 18 * 32);
  EXPECT_EQ(cost(1, 2).bytes_down, 2 * cost(2, 1).bytes_down);
}

// DarKnight's first scheme: all workers together separate the images, and the row says so beside
// the floor. One row, of all of them.
TEST_F(BlindedRunTest, SharesOfRealNumbersAreSeparatedAndTheReportShowsIt) {
  config_.mutable_offload()->set_scheme("darknight_real");
  config_.mutable_offload()->set_virtual_batch(2);
  const std::vector<fs::path> rows = attack_blinded(run_, config_);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0], run_ / "blinded/real-K2-T1/3-of-3");
  const report::ReportData all = report::collect({run_});
  const std::vector<report::SeedGroup>& groups = all.comparisons.at(0).rows;
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[1].title, "Blinded over real numbers, 3 of 3 clouds");
  const report::SeedGroupAttack *found = groups[1].attack("share-ica", "default"),
                                *floor = groups[1].attack("uniform-numbers", "default");
  ASSERT_TRUE(found && floor);
  EXPECT_GT(found->ssim.mean(), 0.9);
  EXPECT_LT(floor->ssim.mean(), 0.5);
}

// The bars of docs/offload.md: nothing changes under N(0, 1), nor over a field; under the paper's
// largest noise a layer's products are off by less than 2 %.
TEST_F(BlindedRunTest, RealNoiseCostsTheRoundingOfFloat32) {
  const BlindedBundle bundle = read_blinded_bundle(run_ / "blinded.h5");
  const auto test = shared_dataset(config_, DataPart::kTest);
  const auto measure = [&](const std::string& scheme, double mean, double stddev) {
    const auto made = make_scheme(scheme, {.virtual_batch = 2,
                                           .noises = 1,
                                           .shares = 3,
                                           .noise_mean = mean,
                                           .noise_stddev = stddev});
    return shares_accuracy(bundle.net, *made, *test, 20);
  };
  const SharesAccuracy exact = measure("darknight_field", 0, 1);
  EXPECT_EQ(exact.layer_error, 0);
  EXPECT_EQ(exact.changed, 0);
  EXPECT_EQ(measure("darknight_real", 0, 1).layer_error, 0);
  const SharesAccuracy noisy = measure("darknight_real", 1e4, 1e4);
  EXPECT_GT(noisy.layer_error, 0);
  EXPECT_LT(noisy.layer_error, 0.02);
}

TEST_F(BlindedRunTest, ASchemeThatHidesNothingIsRefused) {
  config_.mutable_offload()->set_scheme("clear");
  try {
    attack_blinded(run_, config_);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("hides nothing"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace ens
