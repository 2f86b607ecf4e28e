// SPDX-License-Identifier: Apache-2.0
// What the report says of translations.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "proto/results.h"
#include "report/data.h"
#include "report/report.h"
#include "tests/support/temp_dir.h"

namespace ens::report {
namespace {

namespace fs = std::filesystem;

class TextReport : public testing::Test {
 protected:
  void run(const std::string& name, int head_layers) {
    const fs::path folder = root_ / name;
    fs::create_directories(folder / "attack");
    std::ofstream(folder / "config.txtpb")
        << "data { name: \"multi30k\" } text { direction: \"en-de\" head_layers: " << head_layers
        << " }";
    std::ofstream(folder / "metrics.csv") << "time,stage,net,epoch,step,name,value\n";
    results::RunSummary s;
    s.set_protection("none");
    s.set_data("multi30k");
    s.set_accuracy(.5);
    s.mutable_text()->set_bleu(24.5);
    s.mutable_text()->set_head_layers(head_layers);
    s.mutable_text()->set_direction("en-de");
    results::write(folder / "summary.json", s);
    results::write(folder / "info.json", results::RunInfo());
    std::ofstream(folder / "DONE").flush();
  }
  void attack(const std::string& name, const std::string& kind, double tokens) {
    results::AttackResult r;
    r.set_attack(kind);
    r.set_title(kind);
    r.set_level("query-free");
    if (tokens < 0) {
      r.mutable_auc()->set_mean(.75);
    } else {
      auto& text = *r.add_text();
      text.set_side("source");
      text.mutable_tokens()->set_mean(tokens);
      text.set_bleu(70);
    }
    fs::create_directories(root_ / name / "attack" / kind);
    results::write(root_ / name / "attack" / kind / "result.json", r);
  }
  const test::TempDir folder_;
  const fs::path root_ = folder_.path();
};

TEST_F(TextReport, HasARowForEachSideThatWasRead) {
  run("h1", 1);
  run("h0", 0);
  attack("h0", "oracle", .999);
  attack("h0", "known-pairs", .96);
  attack("h0", "codebook", .875);
  attack("h0", "equality", -1);
  attack("h1", "codebook", .041);
  const ReportData all = collect({root_ / "h1", root_ / "h0"});
  EXPECT_TRUE(all.skipped.empty());
  EXPECT_TRUE(all.runs.empty());
  ASSERT_EQ(all.translated.size(), 2u);
  ASSERT_EQ(all.translated[0].attacks.size(), 4u);
  EXPECT_EQ(all.translated[0].attacks[0].kind(), "equality");  // in the order of what they know
  EXPECT_EQ(all.translated[0].attacks[2].kind(), "known-pairs");
  const std::string markdown = text_markdown(all);
  const size_t first = markdown.find("h = 0 | 24.50 | codebook | source | 87.5"),
               second = markdown.find("h = 1 | 24.50 | codebook | source | 4.1");
  EXPECT_NE(first, std::string::npos) << markdown;
  EXPECT_NE(second, std::string::npos) << markdown;
  EXPECT_LT(first, second);
  write_report({root_ / "h1", root_ / "h0"}, root_ / "report.html", {});
  std::ifstream in(root_ / "report.html");
  std::stringstream page;
  page << in.rdbuf();
  EXPECT_NE(page.str().find("AUC"), std::string::npos);
  EXPECT_NE(page.str().find("substitution cipher"), std::string::npos);
}

}  // namespace
}  // namespace ens::report
