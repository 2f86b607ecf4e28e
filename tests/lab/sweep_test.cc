// Which cells a sweep consists of.
#include "lab/sweep.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace ens {
namespace {

SweepConfig parse(const std::string& text) {
  SweepConfig sweep;
  parse_config(text, "test", sweep);
  return sweep;
}

std::vector<std::string> folders(const std::vector<SweepCell>& cells) {
  std::vector<std::string> names;
  for (const SweepCell& cell : cells) names.push_back(cell.folder);
  return names;
}

TEST(SweepTest, EveryRowWithEveryCombination) {
  const auto cells = expand(parse(R"(
      base { data { name: "shapes" } ensemble { nets: 4 selected: 2 } }
      row { name: "a" set: "protection.kind=none" attack: "oracle" }
      row { axis { path: "ensemble.selected" value: "1" value: "3" } }
      axis { path: "model.head_cells" value: "1" value: "2" }
      axis { path: "seed" value: "7" }
      attack: "shadow-n1")"),
                            "");
  EXPECT_EQ(
      folders(cells),
      (std::vector<std::string>{
          "a_head_cells=1_seed=7", "a_head_cells=2_seed=7",
          "ensembler_head_cells=1_seed=7_selected=1", "ensembler_head_cells=1_seed=7_selected=3",
          "ensembler_head_cells=2_seed=7_selected=1", "ensembler_head_cells=2_seed=7_selected=3"}));
  EXPECT_EQ(cells[0].attacks, std::vector<std::string>{"oracle"});
  EXPECT_EQ(cells[5].attacks, std::vector<std::string>{"shadow-n1"});
  EXPECT_EQ(cells[5].config.model().head_cells(), 2);
  EXPECT_EQ(cells[5].config.ensemble().selected(), 3);
  EXPECT_EQ(cells[5].config.seed(), 7u);
  EXPECT_EQ(cells[5].values.at("ensemble.selected"), "3");
  for (const SweepCell& cell : cells) EXPECT_EQ(cell.skipped, "") << cell.folder;
}

TEST(SweepTest, WhatCannotBeIsNamedAndSkipped) {
  const auto cells = expand(parse(R"(
      base { ensemble { nets: 3 } }
      row { name: "p" axis { path: "ensemble.selected" value: "3" value: "4" } }
      row { name: "h" axis { path: "model.head_cells" value: "4" value: "5" } })"),
                            "");
  ASSERT_EQ(cells.size(), 4u);
  EXPECT_EQ(cells[0].skipped, "");
  EXPECT_NE(cells[1].skipped.find("selected"), std::string::npos) << cells[1].skipped;
  EXPECT_EQ(cells[2].skipped, "");
  EXPECT_NE(cells[3].skipped.find("head"), std::string::npos) << cells[3].skipped;
}

TEST(SweepTest, TheSameExperimentRunsOnce) {
  const auto cells = expand(parse(R"(
      row { name: "none" set: "protection.kind=none" }
      row { name: "single" set: "protection.kind=single" }
      row { name: "ensembler" }
      axis { path: "ensemble.lambda" value: "0" value: "0.5" })"),
                            "");
  ASSERT_EQ(cells.size(), 6u);
  std::set<std::string> run;
  for (const SweepCell& cell : cells) {
    if (cell.skipped.empty()) run.insert(cell.folder);
  }
  // lambda belongs to stage 2, which only Ensembler has.
  EXPECT_EQ(run, (std::set<std::string>{"none_lambda=0", "single_lambda=0", "ensembler_lambda=0",
                                        "ensembler_lambda=0.5"}));
  EXPECT_NE(cells[1].skipped.find("none_lambda=0"), std::string::npos) << cells[1].skipped;
}

TEST(SweepTest, MistakesAreNamed) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      expand(parse(text), "");
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 2);
      return e.what();
    }
    return "no error";
  };
  EXPECT_NE(message(R"(axis { path: "model.widht" value: "8" })").find("width"), std::string::npos);
  EXPECT_NE(message(R"(axis { path: "model.width" value: "many" })").find("many"),
            std::string::npos);
  EXPECT_NE(message(R"(axis { path: "seed" })").find("value"), std::string::npos);
  EXPECT_NE(message(R"(attack: "telepathy")").find("telepathy"), std::string::npos);
  EXPECT_NE(message(R"(row { name: "a" } row { name: "a" set: "seed=2" })").find("'a'"),
            std::string::npos);
}

}  // namespace
}  // namespace ens
