// SPDX-License-Identifier: Apache-2.0
#include "report/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/error.h"
#include "proto/config.h"
#include "report/data.h"
#include "report/html.h"
#include "report/published.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A grey 2x1 PNG made by another program.
const unsigned char kPng[] = {
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48,
    0x44, 0x52, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, 0x00, 0x00,
    0x00, 0xd1, 0x49, 0x20, 0x56, 0x00, 0x00, 0x00, 0x0b, 0x49, 0x44, 0x41, 0x54, 0x78,
    0x9c, 0x63, 0x68, 0xf8, 0x0f, 0x00, 0x02, 0x02, 0x01, 0x80, 0x6e, 0x56, 0x8b, 0x13,
    0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};
std::string png() { return {reinterpret_cast<const char*>(kPng), sizeof kPng}; }

std::string slurp(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void spill(const fs::path& file, const std::string& text) {
  fs::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

json spread(double mean) { return {{"mean", mean}, {"low", mean - 0.01}, {"high", mean + 0.01}}; }

json result(const std::string& attack, double ssim, double psnr) {
  return {{"attack", attack},
          {"title", attack},
          {"level", "query-free"},
          {"best_of", 1},
          {"chosen_by", nullptr},
          {"scored_images", 256},
          {"ssim", spread(ssim)},
          {"psnr", spread(psnr)},
          {"mse", spread(0.02)},
          {"negative", {{"ssim", -0.3}, {"psnr", 5.0}, {"better", false}}},
          {"own", nullptr},
          {"shadow_accuracy", nullptr},
          {"reference",
           {{"recognised", spread(0.625)}, {"reidentified", spread(0.75)}, {"originals", 0.8125}}},
          {"seconds", 12.5},
          {"parts", json::array()}};
}

class ReportTest : public ::testing::Test {
 protected:
  test::TempDir temp_;
  void SetUp() override {
    root_ = temp_ / "runs";
    html_ = temp_ / "report.html";
    fs::create_directories(root_);
  }

  json summary(const std::string& protection, double accuracy) {
    const bool ensemble = protection == "ensembler";
    return {{"protection", protection},
            {"nets", ensemble ? 4 : 1},
            {"selected", ensemble ? 2 : 1},
            {"sigma", 0.1},
            {"lambda", 0.05},
            {"architecture", "resnet18"},
            {"width", 16},
            {"split", {{"head", 1}, {"tail", 1}}},
            {"data", "cifar10"},
            {"test_images", 1000},
            {"net_accuracy", {0.71, 0.74}},
            {"accuracy", accuracy},
            {"similarity", nullptr},
            {"seconds", {{"stage1", 30.0}}},
            {"flops", {{"edge", 4e5}, {"cloud", 3e7}}},
            {"bytes", {{"up", 16384}, {"down", 2048}}}};
  }

  fs::path add_run(const std::string& name, const json& facts) {
    const fs::path run = root_ / name;
    spill(run / "config.txtpb", "seed: 7\ndata { name: \"cifar10\" }\n");
    spill(run / "info.json", json{{"version", "0.1.0"},
                                  {"revision", "abc123"},
                                  {"seed", 7},
                                  {"device", "CPU, 2 threads"},
                                  {"processor", "Some CPU"},
                                  {"started", "2025-01-02T03:04:05Z"},
                                  {"command", "ensembler train --out " + name}}
                                 .dump());
    spill(run / "summary.json", facts.dump());
    spill(run / "metrics.csv",
          "time,stage,net,epoch,step,name,value\n"
          "1,stage1,0,0,10,loss,2.0\n2,stage1,0,1,20,loss,1.0\n"
          "3,stage1,1,0,10,accuracy,0.5\n");
    spill(run / "DONE", "2025-01-02T03:05:05Z\n");
    return run;
  }

  void add_attack(const fs::path& run, const json& r, bool pictures = false) {
    const fs::path folder = run / "attack" / r.at("attack").get<std::string>();
    spill(folder / "result.json", r.dump());
    if (!pictures) return;
    spill(folder / "original.png", png());
    spill(folder / "reconstruction.png", png());
  }

  // An unprotected and a protected run, as the demo makes them.
  void add_pair() {
    none_ = add_run("none", summary("none", 0.75));
    add_attack(none_, result("oracle", 0.8, 25));
    add_attack(none_, result("shadow-n1", 0.16, 8));
    add_attack(none_, result("alignment", 0.72, 20));
    protected_ = add_run("ens", summary("ensembler", 0.73));
    add_attack(protected_, result("oracle", 0.7, 24), true);
    add_attack(protected_, result("shadow-n1", 0.07, 7), true);
    add_attack(protected_, result("shadow-adaptive", 0.35, 12), true);
    add_attack(protected_, result("alignment", 0.68, 19), true);
  }

  std::string page() {
    write_report({root_}, html_);
    return slurp(html_);
  }

  fs::path root_, html_, none_, protected_;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

int count(const std::string& text, const std::string& part) {
  int n = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++n;
  return n;
}

const report::Run& by_protection(const report::ReportData& all, const std::string& protection) {
  for (const report::Run& run : all.runs) {
    if (run.protection() == protection) return run;
  }
  throw std::runtime_error("no such run: " + protection);
}

// The page and the tables of stored folders. They were written before result files had a schema and
// must stay readable for ever.
class StoredRuns : public ReportTest {
 protected:
  void SetUp() override {
    ReportTest::SetUp();
    here_ = fs::current_path();
    fs::current_path(fs::path(ENS_SOURCE_DIR) / "tests/report/data");  // paths are in the page
    setenv("SOURCE_DATE_EPOCH", "1767225600", /*overwrite=*/1);        // and when it was written
  }
  void TearDown() override {
    fs::current_path(here_);
    unsetenv("SOURCE_DATE_EPOCH");
  }
  fs::path here_;
};

TEST_F(StoredRuns, GiveTheSameRowsAsBefore) {
  const report::ReportData all = report::collect({"demo", "grid"});
  EXPECT_TRUE(all.skipped.empty());
  EXPECT_EQ(report::as_csv(all), slurp("runs.csv"));
}

// To accept a change of the page, look at it and store it:
//   cd tests/report/data && SOURCE_DATE_EPOCH=1767225600 ensembler report demo grid -o
//   /tmp/report.html cp /tmp/report.html . && cp /tmp/report.csv runs.csv
TEST_F(StoredRuns, GiveTheStoredPage) {
  write_report({"demo", "grid"}, html_);
  std::istringstream now(slurp(html_)), stored(slurp("report.html"));
  int number = 0;
  for (std::string ours, theirs; std::getline(stored, theirs); ++number) {
    ASSERT_TRUE(std::getline(now, ours)) << "line " << number + 1 << " is missing: " << theirs;
    ASSERT_EQ(ours, theirs) << "line " << number + 1;
  }
  EXPECT_GT(number, 100);
  EXPECT_EQ(slurp(html_), slurp("report.html"));
}

TEST_F(StoredRuns, AreReadWhole) {
  const report::ReportData all = report::collect({"demo", "grid"});
  const report::Run& run = all.runs.back();
  ASSERT_EQ(run.folder, "demo/ensembler");
  EXPECT_EQ(run.info.processor(), "AMD EPYC");
  EXPECT_EQ(run.seed(), 1);
  EXPECT_EQ(run.summary.net_accuracy_size(), 3);
  EXPECT_EQ(run.summary.seconds().at("stage1"), 0.243559386);
  EXPECT_FALSE(run.get("snr"));
  EXPECT_EQ(run.latency("wire", "p95"), 0.07219400000000001);
  EXPECT_EQ(run.edge_ms(), 0.012579 + 0.001813);
  const report::Attack& shadow = *run.attack("shadow-n1");
  EXPECT_TRUE(shadow.with_truth());
  EXPECT_EQ(shadow.result.parts(1).psnr(), 10.021740950122927);
  EXPECT_FALSE(shadow.result.parts(1).has_x());  // null in the file
  EXPECT_EQ(shadow.result.own_pick().name(), "net 2");
  EXPECT_EQ(shadow.result.observed(), "recorded on the wire");
  EXPECT_TRUE(run.attack("known-pairs")->is_curve());
  EXPECT_EQ(all.runs[0].info.resumed_size(), 1);
  EXPECT_EQ(all.sweeps.at(0).state.title(), "A small grid");
  EXPECT_EQ(all.sweeps[0].paths, std::set<std::string>{"model.head_cells"});
  EXPECT_EQ(all.failed.size(), 3u);
}

TEST_F(StoredRuns, OfANewerVersionAreRefusedAndNamed) {
  const report::ReportData all = report::collect({"newer", "demo/none"});
  ASSERT_EQ(all.runs.size(), 1u);
  EXPECT_TRUE(all.sweeps.empty());
  std::map<std::string, std::string> reasons;
  for (const report::Skipped& s : all.skipped) reasons[s.what] = s.reason;
  ASSERT_EQ(reasons.size(), 2u);
  EXPECT_TRUE(has(reasons["newer/run"],
                  "newer/run/summary.json was written by a newer version (format 2, known is 1)"));
  EXPECT_TRUE(has(reasons["newer/sweep.json"], "was written by a newer version"));
}

TEST_F(ReportTest, AnAttackOfANewerVersionIsRefusedAndNamed) {
  add_pair();
  json r = result("oracle", 0.5, 20);
  r["format"] = 2;
  add_attack(protected_, r);
  spill(protected_ / "serve.json", R"({"format": 2, "images": 5})");
  const report::ReportData all = report::collect({root_});
  EXPECT_EQ(by_protection(all, "ensembler").attack("oracle"), nullptr);
  EXPECT_FALSE(by_protection(all, "ensembler").serving);
  ASSERT_EQ(all.skipped.size(), 2u);
  for (const report::Skipped& s : all.skipped) {
    EXPECT_TRUE(has(s.reason, "was written by a newer version")) << s.reason;
    EXPECT_TRUE(has(s.reason, "update this program")) << s.reason;
    EXPECT_FALSE(has(s.reason, "damaged")) << s.reason;
  }
}

TEST_F(ReportTest, HoldsEveryRowInAllForms) {
  add_pair();
  EXPECT_TRUE(has(page(), "The settings differ"));  // published numbers beside them
  const json numbers = json::parse(slurp(fs::path(html_).replace_extension(".json")));
  ASSERT_EQ(numbers.at("runs").size(), 2u);
  EXPECT_EQ(numbers["runs"][0]["attacks"].size(), 3u);
  EXPECT_EQ(numbers["runs"][1]["attacks"].size(), 4u);
  EXPECT_NEAR(numbers["runs"][1]["accuracy_change"].get<double>(), -0.02, 1e-12);

  std::istringstream csv(slurp(fs::path(html_).replace_extension(".csv")));
  std::string line;
  int rows = 0;
  size_t columns = 0;
  while (std::getline(csv, line)) {
    size_t commas = 0;
    bool quoted = false;
    for (const char c : line) {
      if (c == '"') quoted = !quoted;
      if (c == ',' && !quoted) ++commas;
    }
    if (rows++ == 0) columns = commas;
    EXPECT_EQ(commas, columns) << line;
  }
  EXPECT_EQ(rows, 1 + 7);
}

TEST_F(ReportTest, EachPictureIsInTheFileOnce) {
  add_pair();
  const std::string other = png() + "another";
  spill(protected_ / "attack" / "alignment" / "reconstruction.png", other);
  const std::string html = page();
  const std::string data = "background-image:url(data:image/png;base64,";
  EXPECT_EQ(count(html, data + report::base64(png()) + ")"), 1);
  EXPECT_EQ(count(html, data + report::base64(other) + ")"), 1);
  EXPECT_EQ(count(html, data), 2);
  EXPECT_EQ(count(html, "aria-label=\"originals\""), 1);
  EXPECT_EQ(count(html, "aria-label=\"reconstructions, "), 4);
  // Two pixels, twice as large.
  EXPECT_TRUE(has(html, "style=\"width:4px;aspect-ratio:2/1;background-size:100% 100%;"));
}

// At 390 px a strip of sixteen was a line of images 23 px wide.
TEST_F(ReportTest, AStripIsCutIntoLinesOfEight) {
  std::string strip = png();
  strip[18] = 1, strip[19] = 0x90;  // 400 x 20: twenty images
  strip[23] = 20;
  add_pair();
  spill(protected_ / "attack" / "alignment" / "reconstruction.png", strip);
  const std::string html = page();
  EXPECT_TRUE(has(html,
                  "style=\"width:320px;aspect-ratio:8/1;background-size:250% 100%;"
                  "background-position:0% 0\""));
  EXPECT_TRUE(has(html,
                  "style=\"width:320px;aspect-ratio:8/1;background-size:250% 100%;"
                  "background-position:66.67% 0\""));  // 8 images of 12
  EXPECT_TRUE(has(html,
                  "style=\"width:160px;aspect-ratio:4/1;background-size:500% 100%;"
                  "background-position:100% 0\""));
}

// "P = 2 of N = 4" may be P = 1 in effect.
TEST_F(ReportTest, SaysWhichSelectedNetDoesTheWork) {
  const auto page_of = [&](double share) {
    json facts = summary("ensembler", 0.73);
    facts["selected_nets"] = {{{"share", share}, {"accuracy", 0.726}},
                              {{"share", 1 - share}, {"accuracy", 0.1}}};
    add_run("ens", facts);
    return page();
  };
  const std::string even = page_of(0.62), uneven = page_of(0.97);
  EXPECT_TRUE(has(even, "selected networks: 62, 38 % of the logits; alone 72.6, 10.0 %"));
  EXPECT_FALSE(has(even, "in effect one network"));
  EXPECT_TRUE(has(uneven, "selected networks: 97, 3 % of the logits; alone 72.6, 10.0 %"));
  EXPECT_TRUE(has(uneven, "in effect one network"));
}

// "0.4 ms" on a card was "0.3 ms" at its bar and "0.35" in the table.
TEST_F(ReportTest, ALatencyIsRoundedInOneWay) {
  add_pair();
  const json part = {{"p50", 0.114}, {"p95", 0.2}};
  spill(protected_ / "serve.json", json{{"images", 5},
                                        {"latency_ms",
                                         {{"head", part},
                                          {"wire", part},
                                          {"tail", part},
                                          {"total", {{"p50", 0.3512}, {"p95", 0.6}}}}}}
                                       .dump());
  const std::string html = page();
  EXPECT_TRUE(has(html, "<div class=\"value\">0.35 ms</div>"));
  EXPECT_TRUE(has(html, "<div class=\"num\">0.35 ms</div>"));
  EXPECT_TRUE(has(html, "<td class=\"num\">0.35<br>"));
  EXPECT_TRUE(has(html, "served, on Some CPU, CPU, 2 threads."));
}

TEST_F(ReportTest, TooManyPicturesAreLeftOutTheWeakerAttacksFirst) {
  add_pair();
  const auto large = [](char c) { return png() + std::string(7 << 20, c); };
  spill(protected_ / "attack" / "oracle" / "reconstruction.png", large('o'));
  spill(protected_ / "attack" / "alignment" / "reconstruction.png", large('a'));  // the strongest
  spill(protected_ / "attack" / "shadow-n1" / "reconstruction.png", png() + "n1");
  const std::string html = page();
  EXPECT_TRUE(has(html, "aria-label=\"reconstructions, oracle\""));
  EXPECT_TRUE(has(html, "aria-label=\"reconstructions, alignment\""));
  EXPECT_FALSE(has(html, "aria-label=\"reconstructions, shadow-n1\""));
  EXPECT_TRUE(has(html, "2 strips of images are left out"));
}

TEST_F(ReportTest, LinksToNothingOutside) {
  add_pair();
  const std::string html = page();
  const std::string inside = "url(data:image/png;base64,";
  for (size_t at = 0; (at = html.find("url(", at)) != std::string::npos; ++at) {
    EXPECT_EQ(html.compare(at, inside.size(), inside), 0) << html.substr(at, 60);
  }
  for (const char* unwanted :
       {"http://", "https://", "src=", "@import", "<script", "<link", "<iframe"}) {
    EXPECT_FALSE(has(html, unwanted)) << unwanted;
  }
  EXPECT_EQ(count(html, "href="), count(html, "href=\"#"));
  for (size_t at = 0; (at = html.find("href=\"#", at)) != std::string::npos;) {  // contents
    at += 7;
    EXPECT_TRUE(has(html, "id=\"" + html.substr(at, html.find('"', at) - at) + "\">"));
  }
}

TEST_F(ReportTest, EscapesAllText) {
  json facts = summary("ensembler", 0.7);
  facts["data"] = "folder:<b>&\"x\"";
  const fs::path run = add_run("a<img src=x onerror=y>", facts);
  json r = result("oracle", 0.5, 20);
  r["title"] = "<script>alert('1')</script>";
  add_attack(run, r);
  json broken = {
      {"attack", "other"}, {"title", "<i>t</i>"}, {"level", "<u>"}, {"error", "a < b & <style>"}};
  add_attack(run, broken);
  spill(run / "config.txtpb", "x: \"</pre><script>\"\n");
  spill(run / "metrics.csv",
        "time,stage,net,epoch,step,name,value\n1,<svg>,0,0,1,loss,1\n2,<svg>,0,1,1,loss,2\n");
  const std::string html = page();
  EXPECT_TRUE(has(html, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"));
  EXPECT_TRUE(has(html, "a &lt; b &amp; &lt;style&gt;"));
  EXPECT_TRUE(has(html, "folder:&lt;b&gt;&amp;&quot;x&quot;"));
  for (const char* unwanted : {"<script", "<img src=x", "<i>t", "<b>&", "<u>", "<svg>"}) {
    EXPECT_FALSE(has(html, unwanted)) << unwanted;
  }
}

TEST_F(ReportTest, WeakMarkComparesWithTheOracleAgainstNoProtection) {
  add_pair();
  const report::ReportData all = report::collect({root_});
  const report::Run& run = by_protection(all, "ensembler");
  // 0.16 of 0.8 against no protection: weak, whatever it reaches against the protection.
  ASSERT_TRUE(run.attack("shadow-n1")->of_oracle_unprotected);
  EXPECT_NEAR(*run.attack("shadow-n1")->of_oracle_unprotected, 0.2, 1e-12);
  EXPECT_EQ(run.attack("shadow-n1")->strength_word(), "weak");
  EXPECT_NEAR(*run.attack("shadow-n1")->of_oracle, 0.1, 1e-12);
  // 0.72 of 0.8.
  EXPECT_NEAR(*run.attack("alignment")->of_oracle_unprotected, 0.9, 1e-12);
  EXPECT_EQ(run.attack("alignment")->strength_word(), "strong");
  // Not run against no protection: another attack's strength is not its own.
  EXPECT_EQ(run.attack("shadow-adaptive")->strength_word(), "not calibrated");
  EXPECT_EQ(report::strongest(run)->kind(), "alignment");
  EXPECT_TRUE(has(page(), "this protection did not stop it"));  // 0.68 of 0.70
}

TEST_F(ReportTest, ExactlyEightyPercentIsEnough) {
  const fs::path run = add_run("none", summary("none", 0.75));
  add_attack(run, result("oracle", 0.5, 25));
  add_attack(run, result("a", 0.4, 8));
  add_attack(run, result("b", 0.399, 8));
  const report::ReportData all = report::collect({root_});
  EXPECT_EQ(all.runs[0].attack("a")->strength_word(), "strong");
  EXPECT_EQ(all.runs[0].attack("b")->strength_word(), "weak");
}

// Each way to fail. What is not above the floor is reported as the floor.
TEST_F(ReportTest, AnAttackThatReadNothingFailed) {
  const fs::path run = add_run("none", summary("none", 0.75));
  add_attack(run, result("oracle", 0.5, 25));
  json grey = result("grey", 0.1, 9);
  grey["floor"] = {{"attack", "nearest image"}, {"ssim", spread(0.217)}, {"psnr", spread(15.2)}};
  add_attack(run, grey);
  json negative = result("inverted", 0.45, 9);
  negative["negative"] = {{"ssim", 0.48}, {"psnr", 20.0}, {"better", true}};
  add_attack(run, negative);
  json blind = result("unrecognised", 0.45, 20);
  blind["reference"] = {{"recognised", spread(0.105)}, {"originals", 0.8}, {"chance", 0.1}};
  add_attack(run, blind);
  json seen = result("recognised", 0.45, 20);
  seen["reference"] = {{"recognised", spread(0.2)}, {"originals", 0.8}, {"chance", 0.1}};
  add_attack(run, seen);
  const report::ReportData all = report::collect({root_});
  const auto& attack = [&](const char* kind) { return *all.runs[0].attack(kind); };
  EXPECT_EQ(attack("grey").strength_word(), "failed");
  EXPECT_EQ(attack("grey").ssim(), 0.217);
  EXPECT_EQ(attack("grey").result.psnr().mean(), 15.2);
  EXPECT_EQ(attack("grey").below_floor, 0.1);
  EXPECT_EQ(attack("inverted").strength_word(), "failed");
  EXPECT_EQ(attack("unrecognised").strength_word(), "failed");
  EXPECT_EQ(attack("recognised").strength_word(), "strong");
  EXPECT_TRUE(has(page(), "not above the floor, nearest image (0.217)"));
}

// A floor that was measured as an attack counts where results hold none.
TEST_F(ReportTest, TheMeanImageIsAFloorForAll) {
  const fs::path run = add_run("none", summary("none", 0.75));
  json mean = result("mean-image", 0.135, 12.7);
  mean["level"] = "blind";
  add_attack(run, mean);
  add_attack(run, result("oracle", 0.12, 12));
  add_attack(run, result("alignment", 0.7, 20));
  const report::ReportData all = report::collect({root_});
  EXPECT_EQ(all.runs[0].attack("mean-image")->strength_word(), "floor");
  EXPECT_EQ(all.runs[0].attack("oracle")->strength_word(), "too weak to measure by");
  EXPECT_EQ(all.runs[0].attack("oracle")->ssim(), 0.135);
  EXPECT_EQ(report::strongest(all.runs[0])->kind(), "alignment");
}

// Who has the same pairs and no deep net must not do better; who was sent the image more than once
// may, and is no error beside an upper bound.
TEST_F(ReportTest, ALinearDecoderChecksTheDeepOneAndRepetitionDoesNot) {
  const fs::path run = add_run("none", summary("none", 0.75));
  json oracle = result("oracle", 0.6, 18), again = result("repetition", 0.8, 22);
  oracle["level"] = "black box";
  oracle["saturated"] = true;
  again["level"] = "repeated sends";
  add_attack(run, oracle);
  add_attack(run, again);
  report::ReportData all = report::collect({root_});
  EXPECT_EQ(all.runs[0].attack("oracle")->strength_word(), "upper bound");
  ASSERT_NE(all.runs[0].attack("repetition"), nullptr);
  EXPECT_EQ(all.runs[0].attack("repetition")->ssim(), 0.8);

  oracle["saturated"] = false;
  json linear = result("linear-decoder", 0.7, 20);
  linear["level"] = "black box";
  add_attack(run, oracle);
  add_attack(run, linear);
  all = report::collect({root_});
  EXPECT_EQ(all.runs[0].attack("oracle")->strength_word(), "too weak to measure by");
}

// The decoder on true features that learned nothing made an attack "strong enough 1200 %".
TEST_F(ReportTest, ADecoderThatFailedMeasuresNothing) {
  add_pair();
  add_attack(none_, result("oracle", 0.02, 10));
  add_attack(protected_, result("oracle", 0.02, 10));
  const report::ReportData all = report::collect({root_});
  for (const char* protection : {"none", "ensembler"}) {
    const report::Run& run = by_protection(all, protection);
    EXPECT_EQ(run.attack("oracle")->strength_word(), "too weak to measure by");
    for (const char* kind : {"shadow-n1", "alignment"}) {
      EXPECT_EQ(run.attack(kind)->strength_word(), "not calibrated") << kind;
      EXPECT_FALSE(run.attack(kind)->of_oracle);
    }
  }
  const std::string html = page();
  EXPECT_TRUE(has(html, "is too weak to measure by: alignment, which knows less"));
  EXPECT_TRUE(has(html, "attack.decoder.epochs"));
  EXPECT_FALSE(has(html, "Leaks at"));
  EXPECT_FALSE(has(html, "upper bound</span>"));
}

// "Upper bound" is said of a decoder that was grown until it gained no more, and of no other; what
// exceeds it is an error.
TEST_F(ReportTest, OnlyASaturatedDecoderIsAnUpperBound) {
  const fs::path run = add_run("none", summary("none", 0.75));
  json oracle = result("oracle", 0.9, 28);
  oracle["level"] = "black box";
  add_attack(run, oracle);
  json white = result("rmle-white", 0.95, 30);
  white["level"] = "white box";
  add_attack(run, white);
  report::ReportData all = report::collect({root_});
  EXPECT_EQ(all.runs[0].attack("oracle")->strength_word(), "decoder on true features");
  EXPECT_EQ(all.runs[0].attack("rmle-white")->ssim(), 0.95);
  EXPECT_TRUE(has(page(), "Leaks at least"));

  oracle["saturated"] = true;
  for (const int images : {8000, 16000})
    oracle["rounds"].push_back({{"loss", "both"}, {"images", images}, {"ssim", 0.9}});
  add_attack(run, oracle);
  all = report::collect({root_});
  EXPECT_EQ(all.runs[0].attack("oracle")->strength_word(), "upper bound");
  EXPECT_EQ(all.runs[0].attack("rmle-white"), nullptr);
  const std::string html = page();
  EXPECT_TRUE(has(html, "Leaks at most"));
  EXPECT_TRUE(has(html, "exceeds the upper bound of 0.900"));
  EXPECT_TRUE(has(html, "how the decoder on true features grew"));

  white["ssim"] = {{"mean", 0.905}, {"low", 0.895}, {"high", 0.915}};  // within the intervals
  add_attack(run, white);
  all = report::collect({root_});
  EXPECT_NE(all.runs[0].attack("rmle-white"), nullptr);
}

TEST_F(ReportTest, WithoutAComparableRunNothingIsCalibrated) {
  json other = summary("none", 0.75);
  other["split"]["head"] = 2;  // another split: not comparable
  const fs::path none = add_run("none", other);
  add_attack(none, result("oracle", 0.8, 25));
  add_attack(none, result("shadow-n1", 0.7, 20));
  const fs::path run = add_run("ens", summary("ensembler", 0.7));
  add_attack(run, result("oracle", 0.7, 25));
  add_attack(run, result("shadow-n1", 0.1, 20));
  const report::ReportData all = report::collect({root_});
  const report::Run& ens = by_protection(all, "ensembler");
  EXPECT_FALSE(ens.attack("shadow-n1")->of_oracle_unprotected);
  EXPECT_FALSE(ens.accuracy_change);
  EXPECT_EQ(ens.attack("shadow-n1")->strength_word(), "not calibrated");
}

TEST_F(ReportTest, PrefersTheUnprotectedRunOfTheSameSeed) {
  const fs::path a = add_run("none_a", summary("none", 0.75));
  spill(a / "info.json", R"({"seed": 1})");
  const fs::path b = add_run("none_b", summary("none", 0.80));
  spill(b / "info.json", R"({"seed": 7})");
  add_run("ens", summary("ensembler", 0.70));
  const report::ReportData all = report::collect({root_});
  EXPECT_NEAR(*by_protection(all, "ensembler").accuracy_change, -0.10, 1e-12);
}

TEST_F(ReportTest, TheLuminanceNegativeCountsWhenItIsBetter) {
  const fs::path run = add_run("none", summary("none", 0.75));
  add_attack(run, result("oracle", 0.85, 25));
  json r = result("alignment", -0.458, 7.6);
  r["negative"] = {{"ssim", 0.83}, {"psnr", 23.25}, {"better", true}};
  add_attack(run, r);
  json hue = r;
  hue["attack"] = "other";
  hue["negative"]["polarity"] = "hue negative";
  add_attack(run, hue);
  const report::ReportData all = report::collect({root_});
  const report::Attack& alignment = *all.runs[0].attack("alignment");
  EXPECT_EQ(alignment.ssim(), -0.458);
  EXPECT_EQ(alignment.best_ssim(), 0.83);
  EXPECT_EQ(all.comparisons.at(0).rows.at(0).attack("alignment", "default")->best_ssim.mean(),
            0.83);
  EXPECT_EQ(alignment.strength_word(), "failed");
  const std::string html = page();
  EXPECT_TRUE(has(html, "its luminance negative is better"));  // older results do not name it
  EXPECT_TRUE(has(html, "its hue negative is better"));
  EXPECT_TRUE(has(html, "as a negative"));
}

TEST_F(ReportTest, AFailedAttackShowsItsReason) {
  const fs::path run = add_run("none", summary("none", 0.75));
  add_attack(run, {{"attack", "shadow-n1"},
                   {"title", "shadow"},
                   {"level", "query-free"},
                   {"error", "out of memory"}});
  const report::ReportData all = report::collect({root_});
  EXPECT_FALSE(all.runs[0].attacks.at(0).has_numbers());
  EXPECT_EQ(all.comparisons.at(0).rows.at(0).attacks.at(0).error, "out of memory");
  EXPECT_TRUE(has(page(), "<strong>failed</strong>: out of memory"));
}

TEST_F(ReportTest, LeavesOutWhatIsNotThere) {
  const fs::path run = add_run("only", json{{"protection", "ensembler"}, {"data", "shapes"}});
  fs::remove(run / "metrics.csv");
  const std::string html = page();
  EXPECT_TRUE(has(html, "It was not attacked"));
  for (const char* absent : {"<h2>Attacks", "<h2>Pictures", "<h2>Latency", "<h2>Training",
                             "<h2>Published", "nan", "inf "}) {
    EXPECT_FALSE(has(html, absent)) << absent;
  }
}

TEST_F(ReportTest, DamageIsNamedAndSkipped) {
  add_pair();
  spill(protected_ / "attack" / "rmle" / "result.json", R"({"attack": "rm)");
  spill(protected_ / "attack" / "empty" / "result.json", "{}");
  spill(protected_ / "attack" / "typed" / "result.json", R"({"ssim": {"mean": "high"}})");
  spill(protected_ / "attack" / "oracle" / "original.png", "GIF89a");
  spill(protected_ / "serve.json", "[1, 2]");
  const fs::path cut = add_run("cut", summary("ensembler", 0.7));
  spill(cut / "summary.json", "{\"protection\": ");
  const fs::path bare = add_run("bare", summary("ensembler", 0.7));
  fs::remove(bare / "info.json");
  const fs::path unfinished = add_run("unfinished", summary("ensembler", 0.7));
  fs::remove(unfinished / "DONE");
  fs::create_directories(root_ / "not_a_run");

  const report::ReportData all = report::collect({root_, root_ / "nowhere"});
  EXPECT_EQ(all.runs.size(), 2u);
  std::map<std::string, std::string> reasons;
  for (const report::Skipped& s : all.skipped)
    reasons[fs::path(s.what).lexically_relative(root_).string()] = s.reason;
  EXPECT_TRUE(has(reasons["ens/attack/rmle"], "not valid JSON"));
  EXPECT_TRUE(has(reasons["ens/attack/empty"], "neither an SSIM nor an error"));
  EXPECT_TRUE(has(reasons["ens/attack/typed"], "result.json is damaged: (ssim.mean)"));
  EXPECT_TRUE(has(reasons["ens/attack/oracle (images)"], "not a PNG"));
  EXPECT_TRUE(has(reasons["ens/serve.json"], "does not hold a JSON object"));
  EXPECT_TRUE(has(reasons["cut"], "summary.json is not valid JSON"));
  EXPECT_TRUE(has(reasons["bare"], "info.json"));
  EXPECT_TRUE(has(reasons["unfinished"], "no DONE"));
  EXPECT_TRUE(has(reasons["nowhere"], "no such folder"));
  EXPECT_EQ(reasons.size(), 9u);

  EXPECT_EQ(by_protection(all, "ensembler").attacks.size(), 4u);  // the rest of the run stands
  EXPECT_FALSE(by_protection(all, "ensembler").serving);
  EXPECT_TRUE(has(page(), "Left out"));
}

TEST_F(ReportTest, ARunGivenTwiceCountsOnce) {
  add_pair();
  EXPECT_EQ(report::collect({root_, protected_, root_}).runs.size(), 2u);
}

TEST_F(ReportTest, NothingToReportIsAnError) {
  EXPECT_THROW(write_report({root_}, html_), Error);
  const fs::path run = add_run("unfinished", summary("none", 0.7));
  fs::remove(run / "DONE");
  try {
    write_report({root_}, html_);
    FAIL();
  } catch (const Error& e) {
    EXPECT_TRUE(has(e.what(), "no DONE")) << e.what();
  }
  EXPECT_FALSE(fs::exists(html_));
}

// ---- sweeps

std::string config(const std::string& kind, int seed, int h, int t, double lambda = 0.05) {
  return "seed: " + std::to_string(seed) + "\ndata {\n  name: \"cifar10\"\n}\nmodel {\n" +
         "  architecture: \"resnet18\"\n  width: 16\n  head_cells: " + std::to_string(h) +
         "\n  tail_cells: " + std::to_string(t) +
         "\n}\nensemble {\n  lambda: " + std::to_string(lambda) + "\n}\nprotection {\n  kind: \"" +
         kind + "\"\n}\n";
}

class SweepTest : public ReportTest {
 protected:
  fs::path add_cell(const std::string& name, const std::string& kind, int seed, int h, int t,
                    double accuracy, double lambda = 0.05) {
    json facts = summary(kind, accuracy);
    facts["split"] = {{"head", h}, {"tail", t}};
    facts["lambda"] = lambda;
    const fs::path run = add_run(name, facts);
    spill(run / "config.txtpb", config(kind, seed, h, t, lambda));
    spill(run / "info.json", json{{"seed", seed}, {"command", "train " + name}}.dump());
    return run;
  }
};

TEST_F(SweepTest, SeedsOfOneCellAreOneRow) {
  const double accuracies[] = {0.70, 0.71, 0.75}, ssims[] = {0.5, 0.6, 0.4};
  for (int seed = 1; seed <= 3; ++seed) {
    const fs::path run =
        add_cell("s" + std::to_string(seed), "single", seed, 1, 1, accuracies[seed - 1]);
    add_attack(run, result("oracle", ssims[seed - 1], 20 + seed));
  }
  add_cell("other", "single", 1, 1, 1, 0.6, /*lambda=*/0.5);  // differs in more than the seed
  const report::ReportData all = report::collect({root_});
  ASSERT_EQ(all.comparisons.size(), 1u);
  ASSERT_EQ(all.comparisons[0].rows.size(), 2u);
  const report::SeedGroup& row = all.comparisons[0].rows[0];
  ASSERT_EQ(row.runs.size(), 3u);
  EXPECT_NEAR(row.accuracy.mean(), 0.72, 1e-12);
  EXPECT_EQ(row.accuracy.low(), 0.70);
  EXPECT_EQ(row.accuracy.high(), 0.75);
  ASSERT_EQ(row.attacks.size(), 1u);
  EXPECT_NEAR(row.attacks[0].ssim.mean(), 0.5, 1e-12);
  EXPECT_EQ(row.attacks[0].ssim.low(), 0.4);
  EXPECT_EQ(row.attacks[0].ssim.high(), 0.6);
  EXPECT_EQ(row.attacks[0].worst_case, 0.6);
  EXPECT_TRUE(has(row.title, "\u03bb = 0.05")) << row.title;
  EXPECT_TRUE(has(all.comparisons[0].rows[1].title, "\u03bb = 0.5"));
  EXPECT_FALSE(all.comparisons[0].rows[1].accuracy.has_low());  // of one seed
  EXPECT_EQ(report::plus_minus(row.attacks[0].ssim, 3), "\u00b10.100");
  EXPECT_TRUE(has(page(), "3 seeds"));
}

// The value of a row of a CSV without quotes, by the name of its column.
std::string csv_cell(const std::string& csv, size_t row, const std::string& column) {
  std::istringstream in(csv);
  std::string names, line;
  std::getline(in, names);
  for (size_t i = 0; i <= row; ++i) std::getline(in, line);
  const auto cells = [](const std::string& text) {
    std::vector<std::string> out = {""};
    bool quoted = false;
    for (const char c : text) {
      if (c == '"') quoted = !quoted;
      if (c == ',' && !quoted) {
        out.emplace_back();
      } else if (c != '\r' && c != '"') {
        out.back() += c;
      }
    }
    return out;
  };
  const std::vector<std::string> all = cells(names);
  const auto at = std::ranges::find(all, column) - all.begin();
  return at == std::ssize(all) ? "no such column" : cells(line).at(static_cast<size_t>(at));
}

// What a sweep varied was in the title of a row alone.
TEST_F(SweepTest, WhatIsVariedIsAColumn) {
  const fs::path a = add_cell("a", "dr_single", 1, 1, 1, 0.7),
                 b = add_cell("b", "dr_single", 1, 1, 1, 0.6);
  const auto with = [&](const fs::path& run, const std::string& more) {
    spill(run / "config.txtpb", config("dr_single", 1, 1, 1) + more);
  };
  with(a, "stage1 {\n  lr: 0.05\n  epochs: 3\n}\n");
  with(b, "stage1 {\n  epochs: 3\n}\n");  // of a version without the setting: it has the default
  spill(root_ / "sweep.json",
        json{{"cells",
              {{{"folder", "a"}, {"row", "r"}, {"values", {{"model.head_cells", "1"}}}},
               {{"folder", "gone"}, {"row", "r"}, {"values", {{"model.head_cells", "2"}}}}}}}
            .dump());
  const std::string csv = report::as_csv(report::collect({root_}));
  EXPECT_EQ(csv_cell(csv, 0, "stage1.lr"), "0.05");
  EXPECT_EQ(csv_cell(csv, 1, "stage1.lr"), default_text("stage1.lr"));
  EXPECT_EQ(csv_cell(csv, 0, "stage1.epochs"), "no such column");  // all have the same
  EXPECT_EQ(csv_cell(csv, 0, "model.head_cells"), "1");
  EXPECT_EQ(csv_cell(csv, 2, "model.head_cells"), "2");  // of the cell without a run
  EXPECT_EQ(csv_cell(csv, 2, "no_numbers"), "missing: there is no run in its folder");
}

TEST_F(SweepTest, SettingsAreStructuredInTheJson) {
  const fs::path run = add_cell("a", "none", 1, 2, 1, 0.7);
  spill(run / "config.txtpb",
        config("none", 3, 2, 1) +
            "tf32: false\ndata {\n  label_column: \"M\\303\\266bel\"\n}\nattack {\n  known_pairs "
            "{\n    counts: 1\n    counts: 10\n  "
            "}\n}\n");
  json r = result("oracle", 0.5, 20);
  r["settings"] = "metric: \"he19\"\ndecoder {\n  epochs: 4\n}\nobserved: edge\ndtype: bfloat16\n";
  add_attack(run, r);
  const json all = json::parse(report::as_json(report::collect({root_})));
  const json& settings = all["runs"][0]["settings"];
  EXPECT_EQ(settings["seed"], 3);
  EXPECT_EQ(settings["model"]["head_cells"], 2);
  EXPECT_EQ(settings["ensemble"]["lambda"], 0.05);
  EXPECT_EQ(settings["protection"]["kind"], "none");
  EXPECT_EQ(settings["tf32"], false);
  EXPECT_EQ(settings["data"]["label_column"], "M\u00f6bel");  // in octal in the file
  EXPECT_EQ(settings["attack"]["known_pairs"]["counts"], json({1, 10}));
  const json& attack = all["runs"][0]["attacks"][0]["derived"]["settings"];
  EXPECT_EQ(attack["attack"]["metric"], "he19");
  EXPECT_EQ(attack["attack"]["decoder"]["epochs"], 4);
  EXPECT_EQ(attack["observed"], "edge");
  EXPECT_EQ(attack["dtype"], "bfloat16");
}

// Three seeds made a point, and its range was in the table alone.
TEST_F(SweepTest, PointsOfSeveralSeedsHaveErrorBars) {
  for (const double lambda : {0.05, 0.5}) {
    for (int seed = 1; seed <= 3; ++seed) {
      const fs::path run = add_cell("l" + std::to_string(lambda) + "s" + std::to_string(seed),
                                    "single", seed, 1, 1, 0.7 + 0.01 * seed, lambda);
      add_attack(run, result("oracle", 0.4 + 0.1 * seed * lambda, 20));
    }
  }
  write_report({root_}, html_, root_ / "figures");
  const std::string html = slurp(html_);
  const std::string svg = slurp(
      root_ / "figures/over-ensemble.lambda-single-data-cifar10-h-1-t-1-n-1-p-1-sigma-0.1.svg");
  EXPECT_TRUE(has(html, "Over \u03bb</h3>"));
  // A bar for each of two lambdas, of the accuracy and of the attack.
  EXPECT_EQ(count(svg, "h6m-3 0V"), 4);
  EXPECT_TRUE(has(svg, "oracle: 0.410 (0.405 to 0.415)"));
  EXPECT_TRUE(has(svg, "accuracy: 0.720 (0.710 to 0.730)"));
  EXPECT_EQ(count(html, "oracle: 0.410 (0.405 to 0.415)"), 1);
}

TEST_F(SweepTest, TheLatexTableHasTheRowsOfTheMarkdownTable) {
  add_pair();
  json r = result("oracle", 0.61, 20);
  r["title"] = "50 % of {x_1} & \\y [a] ~ #2 $ ^";
  r["floor"] = {{"attack", "mean image"}, {"ssim", spread(0.217)}, {"psnr", spread(15.2)}};
  add_attack(add_cell("other", "single", 1, 1, 1, 0.6, 0.5), r);
  page();
  const std::string tex = slurp(fs::path(html_).replace_extension(".tex"));
  EXPECT_TRUE(
      has(tex,
          "50 \\% of \\{x\\_1\\} \\& \\textbackslash{}y {[}a{]} \\textasciitilde{} \\#2 \\$ "
          "\\textasciicircum{}"));
  EXPECT_TRUE(has(tex, " & 0.217 & "));  // the floor
  EXPECT_TRUE(has(tex,
                  "& 0.680 {[}0.670, 0.690{]} & 19.00 {[}18.99, 19.01{]} & 62\\,\\% & 75\\,\\% & "
                  "-- & 97\\,\\% & strong 89\\,\\% \\\\"));
  EXPECT_EQ(count(tex, "\\begin{table}"), count(tex, "\\end{table}"));
  EXPECT_EQ(count(tex, "\\toprule"), 1);
  const std::string markdown = slurp(fs::path(html_).replace_extension(".md"));
  const std::string table = markdown.substr(0, markdown.find("\nSSIM and"));
  EXPECT_EQ(count(tex, " \\\\\n"), count(table, "|\n") - 1);  // without Markdown's rule
  std::istringstream lines(tex);
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with(" \\\\")) {
      EXPECT_EQ(count(line, " & "), 10) << line;
    }
  }
}

TEST_F(SweepTest, CellsWithoutARunAreRowsWithTheReason) {
  add_cell("fine", "none", 1, 1, 1, 0.75);
  const fs::path half = add_cell("half", "single", 1, 1, 1, 0.7);
  fs::remove(half / "DONE");
  const fs::path bad = add_cell("bad", "single", 1, 2, 1, 0.7);
  const auto cell = [](const std::string& folder, const std::string& row, const json& values,
                       const std::string& status, const std::string& reason) {
    return json{{"folder", folder},
                {"row", row},
                {"values", values},
                {"status", status},
                {"reason", reason}};
  };
  spill(
      root_ / "sweep.json",
      json{{"title", "All <of> them"},
           {"command", "ensembler sweep x"},
           {"cells",
            {cell("fine", "none", json::object(), "done", ""),
             cell("half", "single", {{"ensemble.sigma", "5"}}, "failed", "the loss is <nan>"),
             cell("bad", "single", {{"model.head_cells", "2"}}, "failed", "1 of 4 attacks failed"),
             cell("gone", "nopeek", {{"model.head_cells", "2"}}, "done", ""),
             cell("no", "ressfl", {{"model.head_cells", "3"}}, "skipped", "too deep")}}}
          .dump());
  const report::ReportData all = report::collect({root_});
  EXPECT_EQ(all.runs.size(), 2u);
  EXPECT_TRUE(all.skipped.empty());  // the unfinished one is in the table
  ASSERT_EQ(all.failed.size(), 3u);
  EXPECT_EQ(all.failed[0].title, "single, \u03c3 = 5");
  EXPECT_EQ(all.failed[0].setting, "cifar10, resnet18 width 16, split h = 1, t = 1");
  EXPECT_EQ(all.failed[0].reason, "the loss is <nan>");
  EXPECT_EQ(all.failed[1].status, "missing");
  EXPECT_EQ(all.failed[1].setting, "cifar10, resnet18 width 16, split h = 2, t = 1");
  EXPECT_EQ(all.failed[2].status, "skipped");
  ASSERT_EQ(all.comparisons.size(), 3u);
  EXPECT_EQ(all.comparisons[0].failed, std::vector<int>{0});
  EXPECT_EQ(all.comparisons[1].failed, std::vector<int>{1});
  EXPECT_EQ(all.sweeps[0].done, 2);
  EXPECT_EQ(by_protection(all, "single").note, "failed: 1 of 4 attacks failed");
  const std::string html = page();
  EXPECT_TRUE(has(html, "All &lt;of&gt; them"));
  EXPECT_TRUE(has(html, "the loss is &lt;nan&gt;"));
  EXPECT_TRUE(has(slurp(fs::path(html_).replace_extension(".csv")), "skipped: too deep"));
  EXPECT_EQ(json::parse(slurp(fs::path(html_).replace_extension(".json"))).at("failed").size(), 3u);
  EXPECT_TRUE(
      has(slurp(fs::path(html_).replace_extension(".md")), "**failed**: the loss is \\<nan>"));
}

TEST_F(SweepTest, ADamagedSweepFileIsNamed) {
  add_cell("fine", "none", 1, 1, 1, 0.75);
  spill(root_ / "sweep.json", "{\"cells\": [");
  const report::ReportData all = report::collect({root_});
  EXPECT_EQ(all.runs.size(), 1u);
  ASSERT_EQ(all.skipped.size(), 1u);
  EXPECT_TRUE(has(all.skipped[0].reason, "not valid JSON"));
}

TEST_F(SweepTest, AGridOfSplitsShowsPicturesDownAndAcross) {
  for (int h = 1; h <= 3; ++h) {
    for (int t = 1; t <= 2; ++t) {
      add_attack(add_cell("h" + std::to_string(h) + "t" + std::to_string(t), "none", 1, h, t, 0.7),
                 result("oracle", 0.9 / h, 20), true);
    }
  }
  const std::string html = page();
  EXPECT_TRUE(has(html, "Reconstructions over split points"));
  EXPECT_EQ(count(html, "aria-label=\"reconstruction, h = "), 6);
  EXPECT_TRUE(has(html, "aria-label=\"reconstruction, h = 3, t = 2\""));
  EXPECT_EQ(count(html, "url("), 1);      // one PNG for all
  EXPECT_TRUE(has(html, "Over h</h3>"));  // and the curve
  EXPECT_TRUE(has(html, "t = 2, "));
}

TEST_F(SweepTest, AKnownPairsAttackIsACurveNotAChoice) {
  const fs::path run = add_cell("none", "none", 1, 1, 1, 0.75);
  json r = result("known-pairs", 0.7, 20);
  for (const int m : {1, 10, 100})
    r["parts"].push_back({{"name", "m"}, {"ssim", 0.1}, {"psnr", 30.0 - m / 10.0}, {"x", m}});
  add_attack(run, r);
  const report::ReportData all = report::collect({root_});
  EXPECT_TRUE(all.runs[0].attacks[0].is_curve());
  EXPECT_FALSE(all.runs[0].attacks[0].with_truth());
  const std::string html = page();
  EXPECT_TRUE(has(html, "<h2>Known pairs"));
  EXPECT_FALSE(has(html, "best PSNR 29.9"));  // a part, were they alternatives
}

TEST_F(SweepTest, TheAttackersOwnPickStandsBesideTheTruths) {
  const fs::path run = add_cell("none", "none", 1, 1, 1, 0.75);
  json r = result("shadow-n1", 0.4, 12);
  r["best_of"] = 4;
  r["chosen_by"] = "truth (SSIM)";
  r["own_pick"] = {{"name", "net 3"}, {"ssim", 0.123}, {"psnr", 9.5}};
  add_attack(run, r);
  add_attack(run, {{"attack", "shadow-adaptive"}, {"pointless", "one server net only"}});
  const report::ReportData all = report::collect({root_});
  const report::SeedGroup& row = all.comparisons.at(0).rows.at(0);
  const report::SeedGroupAttack& shadow = *row.attack("shadow-n1", "default");
  EXPECT_TRUE(shadow.with_truth);
  EXPECT_EQ(shadow.ssim.mean(), 0.4);
  EXPECT_EQ(shadow.own_pick, 0.123);
  EXPECT_EQ(row.attacks.at(1).pointless, "one server net only");
  EXPECT_TRUE(has(report::as_markdown(all),
                  "best of 4, selected using the ground truth; own choice SSIM 0.123"));
}

TEST_F(SweepTest, MetricsAreNotCompared) {
  const fs::path run = add_cell("none", "none", 1, 1, 1, 0.75);
  add_attack(run, result("oracle", 0.8, 25));
  json r = result("rmle-white", 0.2, 15);
  r["metric"] = "he19";
  add_attack(run, r);
  const report::ReportData all = report::collect({root_});
  const report::Attack* rmle = all.runs[0].attack("rmle-white");
  EXPECT_FALSE(rmle->of_oracle);
  EXPECT_FALSE(rmle->of_oracle_unprotected);
  EXPECT_EQ(report::strongest(all.runs[0]), nullptr);
}

TEST_F(SweepTest, TheCalibrationOfHeEtAlIsJudged) {
  for (const int h : {1, 4}) {
    json facts = summary("none", 0.8);
    facts["architecture"] = "he19";
    facts["split"] = {{"head", h}, {"tail", 1}};
    const fs::path run = add_run("h" + std::to_string(h), facts);
    for (const char* kind : {"rmle-white", "rmle-shadow"}) {
      json r = result(kind, 0.62, 18.5);
      r["metric"] = "he19";
      add_attack(run, r);
    }
  }
  const std::vector<report::PublishedTable> tables = report::published(report::collect({root_}));
  ASSERT_EQ(tables.size(), 1u);
  const auto row = std::ranges::find_if(tables[0].rows, [](const report::PublishedRow& r) {
    return r.group == "cut after ReLU22 (h = 4)" && r.name == "white-box rMLE";
  });
  ASSERT_NE(row, tables[0].rows.end());
  EXPECT_EQ(row->our_psnr, 18.5);
  EXPECT_NEAR(*row->ssim_difference(), 0.62 - 0.6940, 1e-12);
  EXPECT_TRUE(has(tables[0].gate, "white-box rMLE at ReLU22: passed"));
  EXPECT_TRUE(has(tables[0].gate, "query-free, same set and net at conv11: not passed"));
}

TEST_F(SweepTest, MarkdownIsATable) {
  add_pair();
  page();
  std::istringstream markdown(slurp(fs::path(html_).replace_extension(".md")));
  int rows = 0, bars = 0;
  for (std::string line; std::getline(markdown, line);) {
    if (line.empty() || line[0] != '|') {
      bars = 0;
      continue;
    }
    const int here = count(line, "|") - count(line, "\\|");
    if (bars == 0) bars = here;
    EXPECT_EQ(here, bars) << line;
    ++rows;
  }
  EXPECT_GT(rows, 7 + 2 + 9);  // attacks, heads, the paper's CIFAR-10 rows
}

TEST(ReportHtml, Base64) {
  EXPECT_EQ(report::base64(""), "");
  EXPECT_EQ(report::base64("f"), "Zg==");  // RFC 4648, section 10
  EXPECT_EQ(report::base64("fo"), "Zm8=");
  EXPECT_EQ(report::base64("foobar"), "Zm9vYmFy");
}

TEST(ReportHtml, Numbers) {
  EXPECT_EQ(report::fixed(-0.0001, 2), "0.00");
  EXPECT_EQ(report::fixed(-0.458, 3), "\u22120.458");
  EXPECT_EQ(report::fixed(0.25, 1, true), "+0.2");
  EXPECT_EQ(report::format({}, 3), "\u2013");
  EXPECT_EQ(report::bytes(16384), "16.0 KiB");
  EXPECT_EQ(report::bytes(900), "900 B");
  EXPECT_EQ(report::percent(0.754), "75.4\u202f%");
}

std::vector<report::Line> one_line(const std::vector<std::pair<double, double>>& points) {
  report::Line line{"a", {}};
  for (const auto& [x, y] : points) line.points.push_back({x, y, {}, {}, {}, {}, ""});
  return {line};
}

TEST(ReportHtml, APlotSurvivesConstantAndSingleValues) {
  for (const std::vector<std::pair<double, double>>& points :
       std::vector<std::vector<std::pair<double, double>>>{
           {{1, 0}}, {{1, 5}, {2, 5}}, {{3, -1e9}, {4, 1e9}}}) {
    const std::string svg = report::FigureList().add("a", {"t", "x", "y", one_line(points)});
    EXPECT_TRUE(has(svg, "<svg"));
    EXPECT_FALSE(has(svg, "nan"));
    EXPECT_FALSE(has(svg, "inf"));
    EXPECT_LT(svg.size(), 5000u);
  }
  EXPECT_EQ(report::FigureList().add("a", {"t", "x", "y", one_line({})}), "");
}

// The texts of a figure's axes that are numbers: those of y, which end at the axis, or of x.
std::vector<double> ticks(const std::string& svg, const std::string& anchor) {
  std::vector<double> out;
  const std::string end = "text-anchor=\"" + anchor + "\">";
  for (size_t at = 0; (at = svg.find(end, at)) != std::string::npos;) {
    at += end.size();
    std::string text = svg.substr(at, svg.find('<', at) - at);
    if (text.starts_with("\u2212")) text.replace(0, 3, "-");
    char* rest = nullptr;
    const double value = std::strtod(text.c_str(), &rest);
    if (*rest == 0) out.push_back(value);
  }
  return out;
}

// "0.22 0.22 0.21 0.21" stood at an axis that spanned .005, and "0.86 0.86 0.85".
TEST(ReportHtml, TicksNeverRepeat) {
  for (const double span : {1e-6, 0.005, 0.008, 0.03, 0.3, 0.7, 1.0, 3.0, 60.0, 5000.0, 2e7}) {
    for (const double low : {0.0, -span / 3, 0.855, 74.3}) {
      const std::string svg = report::FigureList().add(
          "a",
          {"t", "x", "y", one_line({{low, low}, {low + span, low + span}}), /*dots_only=*/true});
      for (const char* anchor : {"end", "middle"}) {
        const std::vector<double> values = ticks(svg, anchor);
        EXPECT_GE(values.size(), 2u) << anchor << " " << low << " " << span;
        const double step = values.at(1) - values.at(0);
        EXPECT_GT(step, 0) << anchor << " " << low << " " << span;
        for (size_t i = 1; i < values.size(); ++i) {
          EXPECT_NEAR(values[i] - values[i - 1], step, step * 0.01)
              << anchor << " " << low << " " << span;
        }
      }
    }
  }
}

// A difference of 0.008 in SSIM looked like everything on an axis that began at 0.852.
TEST(ReportHtml, TheAxisOfYHoldsZero) {
  for (const auto& [low, high] :
       {std::pair(0.852, 0.860), {-0.4, -0.1}, {-0.1, 0.3}, {70.0, 71.0}}) {
    const std::vector<double> values = ticks(
        report::FigureList().add("a", {"t", "x", "y", one_line({{1, low}, {2, high}})}), "end");
    EXPECT_LE(values.front(), std::min(0.0, low));
    EXPECT_GE(values.back(), std::max(0.0, high));
  }
}

TEST(ReportHtml, AShortLogarithmicAxisHasTicks) {
  const std::string svg = report::FigureList().add(
      "a", {"t", "x", "y", one_line({{20, 0.1}, {50, 0.2}}), false, /*log_x=*/true});
  EXPECT_EQ(ticks(svg, "middle"), (std::vector<double>{10, 100}));
}

// What of a file's drawing an SVG viewer other than a browser does not know is not in it.
TEST_F(ReportTest, AFigureIsAFileThatStandsAlone) {
  report::Line line{"a <b> & c", {{1, 0.5, 0.4, 0.7, {}, {}, ""}, {2, 0.6, 0.6, 0.6, {}, {}, ""}}};
  report::FigureList figures;
  figures.add("Over \u03bb, N = 4", {"t", "x", "SSIM", {line}});
  figures.add("Over \u03bb, N = 4", {"another", "x", "SSIM", {line}});
  figures.write(root_ / "figures");
  const std::string svg = slurp(root_ / "figures/over-lambda-n-4.svg");
  EXPECT_TRUE(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 "));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_TRUE(has(svg, "a &lt;b&gt; &amp; c</text>"));
  EXPECT_TRUE(has(svg, "circle.c0,rect.c0{fill:#"));
  EXPECT_TRUE(has(svg, ">SSIM</text>"));
  EXPECT_FALSE(has(svg, "var("));
  EXPECT_EQ(count(svg, "<path class=\"c0\""), 1);
  EXPECT_EQ(count(svg, "h6m-3 0V"), 1);  // no error bar where there is no range
  EXPECT_TRUE(has(slurp(root_ / "figures/over-lambda-n-4-2.svg"), ">another</text>"));
}

}  // namespace
}  // namespace ens
