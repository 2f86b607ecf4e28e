// SPDX-License-Identifier: Apache-2.0
#include "report/advise.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/support/temp_dir.h"

namespace ens::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class AdviseTest : public ::testing::Test {
 protected:
  void spill(const fs::path& file, const std::string& text) {
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  fs::path add_run(const std::string& name, const std::string& kind, int h, double accuracy,
                   double edge_flops, const std::string& data = "cifar10", int seed = 1) {
    const fs::path run = temp_ / name;
    spill(run / "config.txtpb", "seed: " + std::to_string(seed) + "\n");
    spill(run / "info.json", json{{"seed", seed}}.dump());
    spill(run / "summary.json", json{{"protection", kind},
                                     {"architecture", "resnet18"},
                                     {"width", 16},
                                     {"split", {{"head", h}, {"tail", 1}}},
                                     {"data", data},
                                     {"nets", 1},
                                     {"accuracy", accuracy},
                                     {"flops", {{"edge", edge_flops}, {"cloud", 1e7}}},
                                     {"bytes", {{"up", 1000 * h}, {"down", 100}}}}
                                    .dump());
    spill(run / "DONE", "now\n");
    return run;
  }

  void add_attack(const fs::path& run, const std::string& kind, double ssim) {
    spill(run / "attack" / kind / "result.json",
          json{{"attack", kind}, {"ssim", {{"mean", ssim}}}, {"psnr", {{"mean", 20}}}}.dump());
  }

  // Two splits; at each an unprotected run, a good protection and a costly one.
  void add_sweep() {
    for (const int h : {1, 2}) {
      const std::string at = "h" + std::to_string(h);
      const fs::path none = add_run(at + "none", "none", h, 0.80, 1e6 * h);
      add_attack(none, "oracle", 0.9 / h);
      add_attack(none, "alignment", 0.85 / h);
      add_attack(none, "shadow-n1", 0.2 / h);
      const fs::path single = add_run(at + "single", "single", h, 0.78, 1e6 * h);
      add_attack(single, "oracle", 0.7 / h);
      add_attack(single, "alignment", 0.6 / h);
      add_attack(single, "shadow-n1", 0.1 / h);
      const fs::path nopeek = add_run(at + "nopeek", "nopeek", h, 0.70, 1e6 * h);
      add_attack(nopeek, "oracle", 0.4 / h);
      add_attack(nopeek, "alignment", 0.3 / h);
    }
  }

  Advice ask(const Wish& wish) { return advise(collect({temp_.path()}), wish); }

  test::TempDir temp_;
};

Wish at_most(double ssim) {
  Wish wish;
  wish.max_ssim = ssim;
  return wish;
}

std::vector<std::string> names(const std::vector<Candidate>& candidates) {
  std::vector<std::string> out;
  for (const Candidate& c : candidates)
    out.push_back(c.protection + c.setting.substr(c.setting.find("h =")));
  return out;
}

TEST_F(AdviseTest, TheMostAccurateThatFitsComesFirst) {
  add_sweep();
  const Advice advice = ask(at_most(0.5));
  EXPECT_EQ(names(advice.fitting),
            (std::vector<std::string>{"No protectionh = 2, t = 1", "Singleh = 2, t = 1",
                                      "NoPeekh = 2, t = 1", "NoPeekh = 1, t = 1"}));
  EXPECT_EQ(advice.fitting[0].attack, "oracle");
  EXPECT_NEAR(*advice.fitting[1].change, -0.02, 1e-12);
  ASSERT_EQ(advice.ruled_out.size(), 2u);
  EXPECT_EQ(advice.ruled_out[0].protection, "Single");  // 0.7 is nearer than 0.9
  EXPECT_NEAR(advice.ruled_out[0].excesses.at(0).share(), 0.4, 1e-12);
  EXPECT_TRUE(advice.nearest.empty());
}

TEST_F(AdviseTest, TheBudgetsOfTheEdgeCount) {
  add_sweep();
  Wish wish = at_most(0.5);
  wish.edge_flops = 1e6;  // exactly what h = 1 costs
  EXPECT_EQ(names(ask(wish).fitting), std::vector<std::string>{"NoPeekh = 1, t = 1"});
  wish.bytes = 1099;  // one less
  const Advice advice = ask(wish);
  EXPECT_TRUE(advice.fitting.empty());
  EXPECT_EQ(advice.ruled_out[0].protection, "NoPeek");
  EXPECT_NE(advice.nearest.find("bytes 1100 bytes > 1099 bytes"), std::string::npos)
      << advice.nearest;
}

// Of the sweep's splits, with a channel of 64 bits and a network that runs on the edge alone.
TEST_F(AdviseTest, AChannelsLimitCountsAndIsCertified) {
  add_sweep();
  const fs::path channel = add_run("channel", "channel", 1, 0.75, 1e6);
  add_attack(channel, "oracle", 0.4);
  json summary = json::parse(std::ifstream(channel / "summary.json"));
  summary["channel"] = {{"bits", 64}, {"power", 1}, {"elements", 128}, {"keyed", true}};
  spill(channel / "summary.json", summary.dump());
  Wish wish = at_most(0.5);
  wish.bits = 64;
  EXPECT_EQ(names(ask(wish).fitting),
            std::vector<std::string>{"Channel, N = 1, R = 64 bitsh = 1, t = 1"});
  EXPECT_NE(as_text(ask(wish), wish).find("at most 64 bits of information about the image"),
            std::string::npos);
  EXPECT_NE(as_text(ask(wish), wish).find("ensembler certify"), std::string::npos);
  EXPECT_NE(as_text(ask(wish), wish).find("bits not limited"), std::string::npos);
  spill(channel / "certificate.json", json{{"channel", summary["channel"]},
                                           {"model", "Gaussian"},
                                           {"estimate", {{"mean", 41}, {"low", 40}, {"high", 42}}}}
                                          .dump());
  EXPECT_NE(as_text(ask(wish), wish).find("41"), std::string::npos);
  wish.bits = 63;
  EXPECT_TRUE(ask(wish).fitting.empty());
}

TEST_F(AdviseTest, TheEdgeAloneSendsNothing) {
  add_sweep();
  const fs::path alone = add_run("alone", "none", 1, 0.71, 1e6);
  json summary = json::parse(std::ifstream(alone / "summary.json"));
  summary["architecture"] = "edge_only";
  spill(alone / "summary.json", summary.dump());
  EXPECT_EQ(ask(at_most(0.5)).unused.size(), 1u);  // no floor was measured
  spill(alone / "attack" / "mean-image" / "result.json", json{{"attack", "mean-image"},
                                                              {"level", "blind"},
                                                              {"ssim", {{"mean", 0.13}}},
                                                              {"psnr", {{"mean", 12}}}}
                                                             .dump());
  Wish wish = at_most(0.5);
  wish.edge_flops = 1e6;
  const Advice advice = ask(wish);
  ASSERT_EQ(advice.fitting.size(), 2u);  // 0.71 against NoPeek's 0.70
  EXPECT_EQ(advice.fitting[0].protection, "Edge alone");
  EXPECT_EQ(*advice.fitting[0].ssim, 0.13);
  EXPECT_EQ(*advice.fitting[0].bytes, 0);
  EXPECT_NE(as_text(advice, wish).find("Compute on the edge alone"), std::string::npos);
}

TEST_F(AdviseTest, ADeeperSplitMayBeTheAnswer) {
  add_sweep();
  const std::string text = as_text(ask(at_most(0.5)), at_most(0.5));
  EXPECT_NE(text.find("Cut deeper"), std::string::npos) << text;
  EXPECT_NE(as_text(ask(at_most(1)), at_most(1)).find("No protection is needed"),
            std::string::npos);
}

TEST_F(AdviseTest, WhatWasNotMeasuredDoesNotFit) {
  add_sweep();
  Wish wish = at_most(1);
  wish.edge_ms = 5;
  spill(temp_ / "h1single" / "serve.json",
        R"({"latency_ms": {"head": {"p50": 3}, "tail": {"p50": 1.5}}})");
  const Advice advice = ask(wish);
  EXPECT_EQ(names(advice.fitting), std::vector<std::string>{"Singleh = 1, t = 1"});
  EXPECT_NE(as_text(advice, wish).find("edge ms not measured"), std::string::npos);
}

TEST_F(AdviseTest, OneAttackCanCountInstead) {
  add_sweep();
  Wish wish = at_most(0.65);
  wish.attack = "alignment";
  EXPECT_EQ(names(ask(wish).fitting).size(), 5u);  // all but 0.85
  wish.attack = "shadow-n1";                       // 0.2 of 0.9: weak at every split
  const Advice advice = ask(wish);
  EXPECT_TRUE(advice.fitting.empty());
  EXPECT_EQ(advice.unused.size(), 6u);
  EXPECT_NE(as_text(advice, wish).find("is weak"), std::string::npos);
}

TEST_F(AdviseTest, NumbersThatSayNothingAreNotUsed) {
  add_sweep();
  fs::remove_all(temp_ / "h1single" / "attack" / "oracle");
  // Only a weak attacker is left here beside the oracle, which is the bound all the same.
  fs::remove_all(temp_ / "h2single" / "attack" / "alignment");
  const Advice advice = ask(at_most(1));
  EXPECT_EQ(advice.fitting.size(), 5u);
  ASSERT_EQ(advice.unused.size(), 1u);
  EXPECT_EQ(advice.unused[0].unused, "no decoder on true features was trained");
}

TEST_F(AdviseTest, TheWorstSeedCounts) {
  for (const int seed : {1, 2}) {
    const fs::path run =
        add_run("s" + std::to_string(seed), "none", 1, 0.7 + 0.1 * seed, 1e6, "cifar10", seed);
    add_attack(run, "oracle", 0.3 * seed);
    add_attack(run, "alignment", 0.29 * seed);
  }
  const Advice advice = ask(at_most(0.5));
  ASSERT_EQ(advice.ruled_out.size(), 1u);
  EXPECT_NEAR(*advice.ruled_out[0].ssim, 0.6, 1e-12);
  EXPECT_NEAR(*advice.ruled_out[0].accuracy, 0.85, 1e-12);
}

TEST_F(AdviseTest, SeveralDataSetsNeedAName) {
  add_sweep();
  const fs::path run = add_run("mnist", "none", 1, 0.99, 1e5, "mnist");
  add_attack(run, "oracle", 0.2);
  add_attack(run, "alignment", 0.2);
  EXPECT_THROW(ask(at_most(0.5)), Error);
  Wish wish = at_most(0.5);
  wish.data = "mnist";
  EXPECT_EQ(ask(wish).fitting.size(), 1u);
  wish.data = "svhn";
  EXPECT_THROW(ask(wish), Error);
}

}  // namespace
}  // namespace ens::report
