// SPDX-License-Identifier: Apache-2.0
// Scores of single images: written by an attack, read back for a paired comparison of two runs.
#include "lab/scores.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/files.h"
#include "proto/results.h"
#include "proto/results.pb.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

AttackScore scored(const std::vector<double>& ssim) {
  AttackScore s;
  s.scores.images = {ssim, std::vector<double>(ssim.size(), 20),
                     std::vector<double>(ssim.size(), 0.01)};
  s.negative.images = {
      std::vector<double>(ssim.size(), -0.5), std::vector<double>(ssim.size(), 5), {}};
  return s;
}

class ScoresTest : public testing::Test {
 protected:
  // A finished run with one attacked image after another; test image 3, 5, 7, ...
  fs::path run(const std::string& name, const std::vector<std::vector<double>>& ssim_by_seed,
               int64_t first_image = 3, const std::string& pixels = "some") {
    const fs::path folder = temp_ / name;
    fs::create_directories(folder / "attack/oracle");
    write_file_atomically(folder / "DONE", "", false);
    std::vector<AttackScore> scores;
    std::vector<int64_t> images;
    for (const auto& ssim : ssim_by_seed) scores.push_back(scored(ssim));
    for (size_t i = 0; i < ssim_by_seed[0].size(); ++i)
      images.push_back(first_image + 2 * static_cast<int64_t>(i));
    write_file_atomically(folder / "attack/oracle/scores.csv",
                          scores_csv(scores, 7, images, std::vector<int32_t>(images.size(), 4)),
                          false);
    results::AttackResult result;
    result.set_attack("oracle");
    result.set_metric("default");
    result.set_scored_sha256(pixels);
    result.mutable_ssim()->set_mean(0.5);
    result.mutable_floor()->mutable_ssim()->set_mean(name == "low" ? 0.6 : 0.2);
    results::write(folder / "attack/oracle/result.json", result);
    return folder;
  }

  std::string refusal(const fs::path& a, const fs::path& b,
                      const std::vector<std::string>& attacks = {}) {
    try {
      compare_runs(a, b, attacks);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  test::TempDir temp_;
};

TEST(ScoresCsv, HasARowForEachSeedAndImage) {
  AttackScore first = scored({0.25, 0.5}), second = scored({-0.125, 1});
  second.reference.emplace();
  second.reference->recognised = {0, 1};
  second.reference->reidentified = {1, 1};
  EXPECT_EQ(scores_csv({first, second}, 7, std::vector<int64_t>{3, 12}, std::vector<int32_t>{4, 9}),
            "image,label,seed,ssim,psnr,mse,negative_ssim,negative_psnr,recognised,reidentified\n"
            "3,4,7,0.25,20,0.01,-0.5,5,,\n"
            "12,9,7,0.5,20,0.01,-0.5,5,,\n"
            "3,4,8,-0.125,20,0.01,-0.5,5,0,1\n"
            "12,9,8,1,20,0.01,-0.5,5,1,1\n");
}

// Two seeds of one run, one of the other: means over the seeds of each image are paired.
TEST_F(ScoresTest, OfTwoRunsArePairedByImage) {
  const auto rows =
      compare_runs(run("a", {{0.2, 0.4, 0.9}}), run("low", {{0.2, 0.6, 1}, {0.4, 0.8, 1}}), {});
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].attack, "oracle");
  EXPECT_EQ(rows[0].images, 3);
  EXPECT_NEAR(rows[0].ssim[0], 0.5, 1e-12);
  EXPECT_NEAR(rows[0].ssim[1], 2.0 / 3, 1e-12);
  EXPECT_NEAR(rows[0].ssim_test.difference.mean, 1.0 / 6, 1e-12);
  EXPECT_EQ(rows[0].ssim_test.p_value, 0.25);
  EXPECT_FALSE(rows[0].at_floor[0]);
  EXPECT_TRUE(rows[0].at_floor[1]);
}

TEST_F(ScoresTest, OfOtherImagesAreRefused) {
  const fs::path a = run("a", {{0.2, 0.4, 0.9}});
  const std::string differ = "the scored images differ";
  EXPECT_NE(refusal(a, run("fewer", {{0.2, 0.4}})).find(differ + " (3 of "), std::string::npos);
  EXPECT_NE(refusal(a, run("other", {{0.2, 0.4, 0.9}}, 4)).find(differ), std::string::npos);
  EXPECT_NE(refusal(a, run("pixels", {{0.2, 0.4, 0.9}}, 3, "others")).find(differ),
            std::string::npos);
  EXPECT_NE(refusal(a, temp_ / "nowhere").find("not a finished run folder"), std::string::npos);
  const fs::path b = run("b", {{0.2, 0.4, 0.9}});
  EXPECT_NE(refusal(a, b, {"alignment"}).find("was not attacked with 'alignment'"),
            std::string::npos);
  results::AttackResult result;
  results::read(b / "attack/oracle/result.json", result);
  result.set_metric("he19");
  results::write(b / "attack/oracle/result.json", result);
  EXPECT_NE(refusal(a, b).find("the metrics differ: default and he19"), std::string::npos);
}

TEST_F(ScoresTest, ThatAreMissingOrDamagedAreNamed) {
  const fs::path a = run("a", {{0.2, 0.4}}), b = run("b", {{0.2, 0.4}});
  const fs::path file = b / "attack/oracle/scores.csv";
  for (const char* damage :
       {"", "image,seed\n3,7\n", "image,ssim\n3,0.2\n5,0.x\n", "image,ssim\n3\n"}) {
    write_file_atomically(file, damage, false);
    EXPECT_NE(refusal(a, b).find("scores.csv"), std::string::npos) << damage;
  }
  fs::remove(file);  // as of older versions
  EXPECT_NE(compare_runs(a, b, {})[0].missing.find("ensembler attack --rerun"), std::string::npos);
}

}  // namespace
}  // namespace ens
