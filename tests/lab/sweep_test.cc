// SPDX-License-Identifier: Apache-2.0
// Which cells a sweep consists of; the configurations that come with the program; old run folders.
#include "lab/sweep.h"

#include <fmt/format.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "base/files.h"
#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/scenarios/split_training.h"
#include "proto/results.h"
#include "proto/results.pb.h"
#include "tests/support/temp_dir.h"

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

// Names of older versions that are set in a message or in those within it.
void expect_no_old_names(const google::protobuf::Message& message, const std::string& file) {
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const auto* field : fields) {
    EXPECT_FALSE(field->options().HasExtension(schema::moved_to)) << file << ": " << field->name();
    if (field->message_type() && !field->is_repeated()) {
      expect_no_old_names(message.GetReflection()->GetMessage(message, field), file);
    }
  }
}

TEST(ConfigsTest, EveryOneIsReadAndHasTheNamesOfThisVersion) {
  int sweeps = 0, runs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(ENS_SOURCE_DIR "/configs")) {
    const std::string file = entry.path().string();
    std::ifstream in(file);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    RunConfig run;
    if (google::protobuf::TextFormat::ParseFromString(text, &run)) {
      ++runs;
      expect_no_old_names(run, file);
      read_config(file, run = {});
      complete(run);
      continue;
    }
    ++sweeps;
    SweepConfig sweep;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &sweep)) << file;
    expect_no_old_names(sweep, file);
    std::vector<std::string> paths;
    for (const Axis& axis : sweep.axis()) paths.push_back(axis.path());
    for (const Row& row : sweep.row()) {
      for (const Axis& axis : row.axis()) paths.push_back(axis.path());
      for (const std::string& set : row.set()) paths.push_back(set.substr(0, set.find('=')));
    }
    for (const std::string& path : paths) EXPECT_EQ(path, current_path(path)) << file;
    read_config(file, sweep = {});
    EXPECT_FALSE(expand(sweep, "").empty()) << file;
  }
  EXPECT_GE(runs, 3);
  EXPECT_GE(sweeps, 14);
}

// What `--config <(...)` is.
TEST(FindConfig, APipeIsAConfiguration) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Fd in(ends[0]);
  {
    const Fd out(ends[1]);
    ASSERT_EQ(write(out.get(), "seed: 5", 7), 7);
  }
  RunConfig config;
  read_config(find_config(fmt::format("/dev/fd/{}", in.get())), config);
  EXPECT_EQ(config.seed(), 5u);
}

// Folders of version 0.1 have the old names of settings in config.txtpb and result.json.
TEST(OldRunTest, ItsConfigurationAndResultsCount) {
  const test::TempDir dir;
  const std::filesystem::path old = dir / "run";
  std::filesystem::copy(ENS_SOURCE_DIR "/tests/lab/run_of_0_1", old,
                        std::filesystem::copy_options::recursive);
  RunConfig wanted;
  parse_config(R"(
      seed: 3 data { public_images: 0 } ensemble { insecure_seeded_secrets: true }
      protection { kind: "dr_single" dr { dropout: 0.25 } }
      attack {
        decoder { epochs: 6 lr: 1e-3 } shadow { epochs: 5 augment: false } rmle { lr: 0.3 }
        shadow_subset { nets: [0, 2] } shadow_enumerate { sizes: 2 } known_pairs { counts: [1, 10] }
      })",
               "wanted", wanted);
  RunConfig completed = wanted;
  const RunConfig theirs = read_run_config(old);
  complete(completed);
  EXPECT_EQ(training_identity(theirs), training_identity(completed));
  // What a run folder is compared by.
  EXPECT_EQ(config_difference(training_identity(completed), read_run(old).config_text), "");

  wanted.mutable_attack()->set_public_source("disjoint");
  EXPECT_FALSE(attack_done(old, "oracle", wanted, /*on_the_wire=*/false)) << "an older decoder";
  const std::filesystem::path file = old / "attack/oracle/result.json";
  results::AttackResult result;
  results::read(file, result);
  result.set_tier("quick");
  results::write(file, result);
  // Before the setting, public images were the client's own training images.
  EXPECT_FALSE(attack_done(old, "oracle", wanted, /*on_the_wire=*/false));
  wanted.mutable_attack()->set_public_source("training");
  EXPECT_TRUE(attack_done(old, "oracle", wanted, /*on_the_wire=*/false));
  EXPECT_FALSE(attack_done(old, "oracle", wanted, /*on_the_wire=*/true));
  // Seed 3 is the run's own; another is another result, in a folder of its own.
  wanted.mutable_attack()->set_seed(3);
  EXPECT_TRUE(attack_done(old, "oracle", wanted, /*on_the_wire=*/false));
  wanted.mutable_attack()->set_seed(4);
  EXPECT_FALSE(attack_done(old, "oracle", wanted, /*on_the_wire=*/false));
  wanted.mutable_attack()->set_seed(0);
  wanted.mutable_attack()->mutable_rmle()->set_lr(0.2);
  EXPECT_FALSE(attack_done(old, "oracle", wanted, /*on_the_wire=*/false));
}

// Before `data.fit`, images of folders were stretched; sets of square images have no choice.
TEST(OldRunTest, ARunOfAVersionWithoutFitGoesOnAsItBegan) {
  const test::TempDir dir;
  for (const std::string name : {"folder:x", "cifar10"}) {
    const bool folder = name == "folder:x";
    const std::string text = "seed: 3 data { name: \"" + name + "\" }";
    write_file_atomically(dir / "config.txtpb", text, false);
    const RunConfig old = read_run_config(dir.path());
    EXPECT_EQ(old.data().fit(), folder ? "stretch" : "crop");
    EXPECT_EQ(old.data().public_images(), 0);  // nothing was set aside
    // An old run goes on as it was begun, and not as a new one would.
    for (const std::string fit : {"crop", "stretch"}) {
      RunConfig wanted;
      parse_config(text, "wanted", wanted);
      wanted.mutable_data()->set_fit(fit);
      wanted.mutable_data()->set_public_images(0);
      complete(wanted);
      const std::string mine = training_identity(wanted);
      EXPECT_EQ(config_difference(mine, training_identity(old)).empty(), fit == old.data().fit());
      std::string theirs = training_identity(old);  // as it was written then
      for (const char* field : {"  fit:", "  public_images: 0"}) {
        const size_t at = theirs.find(field);
        theirs.erase(at, theirs.find('\n', at) + 1 - at);
      }
      EXPECT_EQ(config_difference(mine, theirs).empty(), fit == old.data().fit()) << mine;
      wanted.mutable_data()->set_public_images(10);
      EXPECT_NE(config_difference(training_identity(wanted), theirs), "");
    }
  }
}

}  // namespace
}  // namespace ens
