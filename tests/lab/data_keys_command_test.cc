#include <gtest/gtest.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "lab/commands/commands.h"
#include "nn/core/error.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

class CommandTest : public ::testing::Test {
 protected:
  test::TempDir temp_;
  void SetUp() override { folder_ = temp_.path(); }

  // What the commands print on stdout.
  std::string run(std::vector<std::string> args) {
    CLI::App app;
    app.require_subcommand(1);
    add_data_command(app);
    add_keys_command(app);
    std::reverse(args.begin(), args.end());  // as CLI11 wants them
    ::testing::internal::CaptureStdout();
    try {
      app.parse(args);
    } catch (...) {
      ::testing::internal::GetCapturedStdout();
      throw;
    }
    std::fflush(stdout);
    return ::testing::internal::GetCapturedStdout();
  }

  fs::path folder_;
};

mode_t mode(const fs::path& file) {
  struct stat s {};
  return stat(file.c_str(), &s) == 0 ? s.st_mode & 0777 : 0;
}

TEST_F(CommandTest, KeysNewWritesASecretAndAPublicFile) {
  const fs::path keys = folder_ / "new" / "keys";
  const std::string printed = run({"keys", "new", "edge1", "--folder", keys.string()});
  EXPECT_EQ(mode(keys / "edge1.key"), 0600u);
  EXPECT_EQ(mode(keys / "edge1.pub"), 0644u);
  EXPECT_NE(printed.find("edge1.pub"), std::string::npos);
  // Only the names are printed: the secret stays in its file.
  std::ifstream in(keys / "edge1.key");
  for (std::string word; in >> word;) {
    if (word.size() == 40) {
      EXPECT_EQ(printed.find(word), std::string::npos);
    }
  }
  EXPECT_THROW(run({"keys", "new", "edge1", "--folder", keys.string()}), Error);  // never replaced
}

TEST_F(CommandTest, KeysNewTakesPlainNamesOnly) {
  for (const char* name : {"../edge", "a/b", ".hidden"}) {
    try {
      run({"keys", "new", name, "--folder", folder_.string()});
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 2) << name;
    }
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(CommandTest, DataListSaysWhatIsMissingAndHowToGetIt) {
  const std::string printed = run({"data", "list", "--data", folder_.string()});
  EXPECT_NE(printed.find(folder_.string()), std::string::npos);
  EXPECT_NE(printed.find("ensembler data get cifar10"), std::string::npos);
  EXPECT_NE(printed.find("shapes"), std::string::npos);
}

TEST_F(CommandTest, DataGetRefusesUnknownNamesBeforeAnyDownload) {
  try {
    run({"data", "get", "cifar10", "no_such_set", "--data", folder_.string()});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    EXPECT_NE(std::string(e.what()).find("no_such_set"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("cifar100"), std::string::npos);  // the known ones
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(CommandTest, WrongUseIsAParseError) {
  EXPECT_THROW(run({"data"}), CLI::ParseError);
  EXPECT_THROW(run({"data", "get"}), CLI::ParseError);
  EXPECT_THROW(run({"keys", "new"}), CLI::ParseError);
  EXPECT_THROW(run({"keys", "new", "x", "--wrong"}), CLI::ParseError);
}

}  // namespace
}  // namespace ens
