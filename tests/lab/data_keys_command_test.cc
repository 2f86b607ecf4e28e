// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "lab/commands/commands.h"
#include "net/keys.h"
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

TEST_F(CommandTest, KeysAreAllowedShownAndRevoked) {
  const std::string folder = folder_.string(), list = (folder_ / "clients.txt").string();
  for (const char* name : {"anna", "bert", "cora"}) run({"keys", "new", name, "--folder", folder});
  const auto pub = [&](const std::string& name) { return (folder_ / (name + ".pub")).string(); };
  run({"keys", "allow", list, pub("anna")});
  std::ofstream(list, std::ios::app) << "# a comment stays\n";
  run({"keys", "allow", list, pub("bert")});
  EXPECT_EQ(run({"keys", "allow", list, pub("bert")}), "already allowed\n");
  const std::string anna = read_public_key(pub("anna")), bert = read_public_key(pub("bert"));
  EXPECT_EQ(run({"keys", "show", list}), anna + " anna\n" + bert + " bert\n");
  // Of a secret key file only the public half is shown.
  EXPECT_EQ(run({"keys", "show", (folder_ / "anna.key").string()}), anna + " anna\n");

  EXPECT_THROW(run({"keys", "revoke", list, "nobody"}), Error);
  run({"keys", "revoke", list, "anna"});
  EXPECT_EQ(run({"keys", "show", list}), bert + " bert\n");
  run({"keys", "revoke", list, bert});  // by the key itself
  EXPECT_EQ(read_allowed_keys(list, true).size(), 0u);
  std::string text;
  std::getline(std::ifstream(list) >> std::ws, text);
  EXPECT_EQ(text, "# a comment stays");

  // The same with a folder of .pub files.
  const fs::path many = folder_ / "clients";
  fs::create_directory(many);
  run({"keys", "allow", many.string(), pub("anna")});
  run({"keys", "allow", many.string(), pub("cora")});
  EXPECT_EQ(read_allowed_keys(many).size(), 2u);
  run({"keys", "revoke", many.string(), "cora"});
  EXPECT_EQ(read_allowed_keys(many).size(), 1u);
  EXPECT_TRUE(read_allowed_keys(many).contains(anna));
  EXPECT_FALSE(fs::exists(many / "cora.pub"));
  EXPECT_TRUE(fs::exists(folder_ / "cora.pub"));  // the original is nobody's business
  EXPECT_THROW(run({"keys", "revoke", (folder_ / "missing").string(), "anna"}), Error);
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
