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
               const std::string& settings = "") {
    const fs::path folder = root_ / name;
    spill(folder / "config.txtpb",
          "seed: 7\ndata { name: \"mnist\" }\nstage1 { epochs: 2 }\ndisguise { method: \"" +
              method + "\" }\n");
    spill(folder / "info.json",
          json{{"version", "0.1.0"}, {"seed", 7}, {"command", "ensembler train"}}.dump());
    spill(folder / "summary.json", json{{"protection", "disguise"},
                                        {"data", "mnist"},
                                        {"architecture", "lenet"},
                                        {"accuracy", accuracy},
                                        {"test_images", 2000},
                                        {"seconds", {{"stage1", 8.0}}},
                                        {"disguise",
                                         {{"method", method},
                                          {"settings", settings},
                                          {"owner_microseconds", 12.5},
                                          {"image_bytes", 784},
                                          {"disguised_bytes", 1568},
                                          {"key_bytes", 32}}}}
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
  attack(plain, result("procrustes", "L2", 1, 1));
  const fs::path rmt = run("b", "rmt", 0.95, "4x4 blocks");
  attack(rmt, result("look", "L0", 0.1, 0.004));
  attack(rmt, result("moments", "L1", 0.9, 0.12));
  json curve = result("procrustes", "L2", 0.99, 1);
  for (const auto& [m, rank1] : {std::pair(1, 0.06), {10, 0.7}, {1000, 1.0}}) {
    curve["parts"].push_back(
        {{"name", "m"}, {"x", m}, {"ssim", 0.5}, {"psnr", 20}, {"matching", matching(rank1, 1)}});
  }
  attack(rmt, curve);
  EXPECT_EQ(disguise_markdown(collect({root_})),
            "### Disguised training\n\n"
            "| Method | Accuracy | Owner, \u00b5s | Bytes | L0 | L1 | L2, 1 pair | L2, 10 pairs | "
            "L2, 1000 "
            "pairs | oracle |\n"
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
            "| **mnist, lenet** |\n"
            "| Plain | 98.0\u202f% | 12.5 | 1.5 KiB | bad 100.0\u202f% (look) | bad "
            "100.0\u202f% (look) | bad "
            "100.0\u202f% (look) | bad 100.0\u202f% (look) | bad 100.0\u202f% (look) | bad "
            "100.0\u202f% (look) |\n"
            "| RMT, 4x4 blocks | 95.0\u202f% | 12.5 | 1.5 KiB | good 0.4\u202f% (look) | "
            "moderate 12.0\u202f% "
            "(moments) | moderate 12.0\u202f% (moments) | bad 70.0\u202f% (procrustes) | bad "
            "100.0\u202f% "
            "(procrustes) | bad 100.0\u202f% (procrustes) |\n\n");
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
