// SPDX-License-Identifier: Apache-2.0
// The matrix of disguised training: levels, verdicts, weak attackers and controls.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "report/data.h"
#include "report/report.h"
#include "tests/support/temp_dir.h"

namespace ens::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

void spill(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

json matching(double rank1, double guesses) {
  return {{"gallery", 1000},
          {"rank1", {{"mean", rank1}, {"low", rank1}, {"high", rank1}}},
          {"cmc5", rank1},
          {"cmc20", rank1},
          {"guesswork", guesses}};
}

json result(const std::string& attack, const std::string& level, double ssim, double rank1) {
  const auto spread = [](double v) { return json{{"mean", v}, {"low", v}, {"high", v}}; };
  return {{"attack", attack},
          {"title", attack},
          {"level", level},
          {"metric", "default"},
          {"best_of", 1},
          {"scored_images", 256},
          {"ssim", spread(ssim)},
          {"psnr", spread(20)},
          {"mse", spread(0.01)},
          {"seconds", 1.5},
          {"parts", json::array()},
          {"matching", matching(rank1, 3)},
          {"reference", {{"chance", 0.11}, {"originals", 0.9}}}};
}

class DisguiseReport : public testing::Test {
 protected:
  fs::path run(const std::string& name, const std::string& method, double accuracy,
               const std::string& settings = "", const std::string& more = "", int epochs = 2) {
    const fs::path folder = root_ / name;
    spill(folder / "config.txtpb",
          "seed: 7\ndata {\n  name: \"mnist\"\n}\nstage1 {\n  epochs: " + std::to_string(epochs) +
              "\n}\ndisguise {\n  method: \"" + method + "\"\n" + more + "}\n");
    spill(folder / "info.json",
          json{{"version", "0.1.0"}, {"seed", 7}, {"command", "ensembler train"}}.dump());
    spill(folder / "summary.json", json{{"protection", "disguise"},
                                        {"data", "mnist"},
                                        {"architecture", "lenet"},
                                        {"width", 64},  // which it has not
                                        {"accuracy", accuracy},
                                        {"test_images", 2000},
                                        {"seconds", {{"stage1", 8.0}}},
                                        {"disguise",
                                         {{"method", method},
                                          {"settings", settings},
                                          {"owner_microseconds", 12.5},
                                          {"image_bytes", 784},
                                          {"disguised_bytes", 1568},
                                          {"key_bytes", 32},
                                          {"rarest_class", 0.09},
                                          {"commonest_class", 0.11}}}}
                                       .dump());
    spill(folder / "metrics.csv", "time,stage,net,epoch,step,name,value\n");
    spill(folder / "cloud/config.txtpb", "seed: 7\n");  // a run of the cloud's, which is no row
    spill(folder / "DONE", "x\n");
    return folder;
  }
  void attack(const fs::path& folder, const json& r) {
    spill(folder / "attack" / r.at("attack").get<std::string>() / "result.json", r.dump());
  }

  test::TempDir temp_;
  const fs::path root_ = temp_ / "runs", html_ = temp_ / "report.html";
};

TEST_F(DisguiseReport, EachLevelHasTheStrongestAttackOfThoseThatKnowNoMore) {
  const fs::path plain = run("a", "identity", 0.98);
  attack(plain, result("look", "L0", 1, 1));
  attack(plain, result("moments", "L1", 1, 1));
  json pairs = result("procrustes", "L2", 1, 1);
  pairs["parts"].push_back(
      {{"name", "m"}, {"x", 1}, {"ssim", 1}, {"psnr", 99}, {"matching", matching(1, 1)}});
  attack(plain, pairs);
  const fs::path rmt = run("b", "rmt", 0.95, "4x4 blocks");
  attack(rmt, result("look", "L0", 0.1, 0.004));
  attack(rmt, result("moments", "L1", 0.9, 0.12));
  json curve = result("procrustes", "L2", 0.99, 1);
  for (const auto& [m, rank1] : {std::pair(1, 0.06), {10, 0.7}, {1000, 1.0}}) {
    curve["parts"].push_back(
        {{"name", "m"}, {"x", m}, {"ssim", 0.5}, {"psnr", 20}, {"matching", matching(rank1, 1)}});
  }
  attack(rmt, curve);
  attack(rmt, {{"attack", "membership"},
               {"title", "membership"},
               {"level", "L0"},
               {"auc", {{"mean", 0.612}, {"low", 0.6}, {"high", 0.62}}}});
  json use = result("model-use", "L1", 0.1, 0.002);
  use["model_use"] = {{{"on", "plain images"}, {"accuracy", 0.091}},
                      {{"on", "images under the recovered key"}, {"accuracy", 0.93}}};
  attack(rmt, use);
  EXPECT_EQ(
      disguise_markdown(collect({root_})),
      "### Disguised training\n\n"
      "| Method | Accuracy | Owner, \u00b5s | Bytes | AUC | Model without the key | L0 | L1 | L1x "
      "| L2, 1 pair | L2, 10 pairs | "
      "L2, 1000 "
      "pairs | oracle |\n"
      "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|\n"
      "| **mnist, lenet** |\n"
      "| Plain | 98.0\u202f% | 12.5 | 1.5 KiB | \u2013 | \u2013 | bad 100.0\u202f% (look) | bad "
      "100.0\u202f% (look) | \u2013 | bad "
      "100.0\u202f% (look) | bad 100.0\u202f% (look) | bad 100.0\u202f% (look) | "
      "\u2013 |\n"
      "| RMT, 4x4 blocks | 95.0\u202f% | 12.5 | 1.5 KiB | 0.612 | 9.1\u202f% plain images; "
      "93.0\u202f% "
      "images under the recovered key | good 0.4\u202f% (look) | "
      "moderate 12.0\u202f% "
      "(moments) | \u2013 | moderate 12.0\u202f% (moments) | bad 70.0\u202f% (procrustes) | bad "
      "100.0\u202f% "
      "(procrustes) | \u2013 |\n\n");
}

// Without a run on plain images, or where the attack does not read them, nothing is called good.
TEST_F(DisguiseReport, AWeakAttackerEarnsNobodyAGood) {
  const fs::path aes = run("b", "aes", 0.9);
  attack(aes, result("equality", "L0", 0.1, 0.004));
  EXPECT_NE(disguise_markdown(collect({root_})).find("weak attacker 0.4"), std::string::npos);
  const fs::path plain = run("a", "identity", 0.98);
  attack(plain, result("equality", "L0", 0.2, 0.5));
  EXPECT_NE(disguise_markdown(collect({root_})).find("weak attacker 0.4"), std::string::npos);
  attack(plain, result("equality", "L0", 0.2, 1));
  EXPECT_NE(disguise_markdown(collect({root_})).find("good 0.4"), std::string::npos);
}

// `look` reads plain images whatever the others do: that is no merit of theirs.
TEST_F(DisguiseReport, AGoodIsEarnedAtItsOwnLevelAndByTheAttackThatIsReported) {
  const auto with_pairs = [](json r, double rank1) {
    r["parts"].push_back(
        {{"name", "m"}, {"x", 1}, {"ssim", 0.1}, {"psnr", 9}, {"matching", matching(rank1, 3)}});
    return r;
  };
  const fs::path plain = run("a", "identity", 0.98), aes = run("b", "aes", 0.9);
  attack(plain, result("look", "L0", 1, 1));
  attack(aes, result("look", "L0", 0.1, 0.004));
  const std::string good = "good 0.4\u202f% (look) |", dash = " \u2013 |";
  EXPECT_NE(disguise_markdown(collect({root_}))
                .find(good + dash + dash + dash + dash + dash + dash + "\n"),
            std::string::npos)
      << disguise_markdown(collect({root_}));
  attack(plain, with_pairs(result("codebook", "L2", 0.4, 0.5), 0.5));
  attack(aes, with_pairs(result("codebook", "L2", 0.2, 0.04), 0.04));
  const std::string weak = " weak attacker 4.0\u202f% (codebook) |";
  EXPECT_NE(disguise_markdown(collect({root_}))
                .find(good + dash + dash + weak + weak + weak + dash + "\n"),
            std::string::npos)
      << disguise_markdown(collect({root_}));
  // Nor is it enough that the strongest attack is one of a level below.
  attack(aes, with_pairs(result("codebook", "L2", 0.2, 0.002), 0.002));
  EXPECT_NE(disguise_markdown(collect({root_})).find("weak attacker 0.4\u202f% (look)"),
            std::string::npos);
  attack(plain, with_pairs(result("codebook", "L2", 1, 1), 1));
  EXPECT_EQ(disguise_markdown(collect({root_})).find("weak attacker"), std::string::npos);
}

TEST_F(DisguiseReport, RunsAreComparedWithPlainOnesOfTheSameTraining) {
  const auto change = [&] {
    write_report({root_}, html_, {});
    const std::string html = slurp(html_);
    return html.find("\u22123.0") != std::string::npos || html.find("-3.0") != std::string::npos;
  };
  run("sweep/b", "rmt", 0.95);
  run("a", "identity", 0.98, "", "", 3);
  EXPECT_FALSE(change());
  run("a", "identity", 0.98);
  EXPECT_TRUE(change());
  run("sweep/z", "identity", 0.97);  // nearer
  EXPECT_FALSE(change());
}

TEST_F(DisguiseReport, AugmentedImagesCostAsOftenAsTheyAreSent) {
  run("b", "rmt", 0.95, "", "  augment: 4\n");
  EXPECT_NE(disguise_markdown(collect({root_})).find("| 50.0 | 6.1 KiB |"), std::string::npos)
      << disguise_markdown(collect({root_}));
}

TEST_F(DisguiseReport, NoiseHasAFloorWhereItIsKnown) {
  const std::string noise = "    noise: 25\n    noise_place: \"after\"\n";
  const auto floor = [&](const std::string& matrix) {
    attack(run("b", "rmt", 0.95, "", "  rmt {\n" + noise + matrix + "  }\n"),
           result("moments", "L1", 0.9, 0.12));
    write_report({root_}, html_, {});
    return slurp(html_).find("30.9") != std::string::npos ||
           slurp(html_).find("31.0") != std::string::npos;
  };
  EXPECT_TRUE(floor("    matrix: \"orthogonal\"\n"));
  EXPECT_FALSE(floor("    matrix: \"gaussian\"\n"));
}

TEST_F(DisguiseReport, TheNegativeControlIsRedWhereItIsNotAtChance) {
  const fs::path counter = run("c", "aesctr", 0.1);
  attack(counter, result("moments", "L1", 0.1, 0.004));
  write_report({root_}, html_, {});
  EXPECT_NE(slurp(html_).find("at chance, as it must be"), std::string::npos);
  attack(counter, result("moments", "L1", 0.1, 0.05));
  write_report({root_}, html_, {});
  EXPECT_NE(slurp(html_).find("not at chance: an error of ours"), std::string::npos);
  attack(counter, result("moments", "L1", 0.1, 0.004));
  run("c", "aesctr", 0.3);
  write_report({root_}, html_, {});
  EXPECT_NE(slurp(html_).find("its classifier is right on 30.0"), std::string::npos);
  run("c", "aesctr", 0.05);  // too seldom right is no chance either
  write_report({root_}, html_, {});
  EXPECT_NE(slurp(html_).find("its classifier is right on 5.0"), std::string::npos);
}

TEST_F(DisguiseReport, TheNegativeControlIsNotFineWhereNothingWasMeasured) {
  run("c", "aesctr", 0.1);
  write_report({root_}, html_, {});
  EXPECT_NE(slurp(html_).find("not checked: attacks"), std::string::npos);
  EXPECT_EQ(slurp(html_).find("at chance, as it must be"), std::string::npos);
  run("c", "aesctr", 0.3);  // apart from the attacks
  write_report({root_}, html_, {});
  EXPECT_NE(slurp(html_).find("its classifier is right on 30.0"), std::string::npos);
}

TEST_F(DisguiseReport, DisguisedRunsAreRowsOfTheTablesForPrograms) {
  attack(run("b", "rmt", 0.95, "4x4 blocks"), result("moments", "L1", 0.9, 0.12));
  write_report({root_}, html_, {});
  const std::string csv = slurp(temp_ / "report.csv");
  EXPECT_NE(csv.find("rank1"), std::string::npos);
  EXPECT_NE(csv.find("0.12"), std::string::npos);
  EXPECT_NE(slurp(temp_ / "report.json").find("\"moments\""), std::string::npos);
  EXPECT_EQ(collect({root_}).disguised.size(), 1u);
  EXPECT_TRUE(collect({root_}).runs.empty());
}

}  // namespace
}  // namespace ens::report
