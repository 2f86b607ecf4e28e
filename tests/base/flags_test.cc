// SPDX-License-Identifier: Apache-2.0
// What is wrong with a command line, and what was probably meant.
#include "base/flags.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace ens {
namespace {

struct Lab {
  CLI::App app{"", "lab"};
  int epochs = 0;
  double limit = 0;
  std::vector<std::string> overrides, runs;

  Lab() {
    app.require_subcommand(1);
    CLI::App* train = app.add_subcommand("train");
    train->add_option("--epochs", epochs)->check(between(1, 100));
    train->add_option("--limit", limit)->check(at_least(0));
    add_set_flag(*train, overrides);
    train->add_option("runs", runs);
    app.add_subcommand("report");
  }

  void parse(std::vector<std::string> words) {
    words.insert(words.begin(), "lab");
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    parse_flags(app, static_cast<int>(argv.size()), argv.data());
  }

  std::string error(const std::vector<std::string>& words) {
    try {
      parse(words);
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 2);
      return e.what();
    }
    return "";
  }
};

#define EXPECT_SAYS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Flags, MisspeltCommandsAndFlagsGetASuggestion) {
  EXPECT_SAYS(Lab().error({"trian"}), "unknown command 'trian'");
  EXPECT_SAYS(Lab().error({"trian"}), "did you mean 'train'?");
  EXPECT_SAYS(Lab().error({"train", "--epoch", "3"}), "unknown flag '--epoch'");
  EXPECT_SAYS(Lab().error({"train", "--epoch=3"}), "did you mean '--epochs'?");
  EXPECT_SAYS(Lab().error({"train", "--epoch", "3"}), "lab train --help");
  EXPECT_SAYS(Lab().error({"report", "runs/a"}), "one argument too many: 'runs/a'");
}

TEST(Flags, RangesAreSaidInWordsAndNanIsInNone) {
  EXPECT_SAYS(Lab().error({"train", "--limit", "-1"}), "use 0 or more");
  EXPECT_SAYS(Lab().error({"train", "--limit", "nan"}), "use 0 or more");
  EXPECT_SAYS(Lab().error({"train", "--epochs", "0"}), "use 1 to 100");
  EXPECT_EQ(Lab().error({"train", "--limit", "0.5", "--epochs", "100"}), "");
}

TEST(Flags, SeveralOverridesMayFollowOneSet) {
  Lab lab;
  lab.parse({"train", "--set", "stage1.lr=0.1", "seed=2", "runs/a=b/c", "--set", "x=1", "runs/d"});
  EXPECT_EQ(lab.overrides, (std::vector<std::string>{"stage1.lr=0.1", "seed=2", "x=1"}));
  EXPECT_EQ(lab.runs, (std::vector<std::string>{"runs/a=b/c", "runs/d"}));
}

}  // namespace
}  // namespace ens
