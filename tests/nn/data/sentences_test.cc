// SPDX-License-Identifier: Apache-2.0
#include "nn/data/sentences.h"

#include <gtest/gtest.h>

#include <fstream>

#include "nn/data/dataset.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

using test::error_of;

class Sentences : public testing::Test {
 protected:
  Sentences() { std::filesystem::create_directories(root_ / "multi30k"); }
  void write(const std::string& file, const std::string& text) {
    std::ofstream(root_ / "multi30k" / file) << text;
  }
  test::TempDir root_;
};

TEST_F(Sentences, AreReadInPairs) {
  write("val.en", "A dog.\r\n\nTwo men\n");
  write("val.de", "Ein Hund.\n\nZwei Männer");
  const SentencePairs there = read_multi30k(root_.path(), "val", "en-de");
  EXPECT_EQ(there.source, (std::vector<std::string>{"A dog.", "", "Two men"}));
  EXPECT_EQ(there.target, (std::vector<std::string>{"Ein Hund.", "", "Zwei Männer"}));
  EXPECT_EQ(read_multi30k(root_.path(), "val", "de-en").source, there.target);
  EXPECT_FALSE(multi30k_present(root_.path()));
}

TEST_F(Sentences, OfDamagedFilesSayWhereAndHowToMend) {
  write("val.en", "A dog.\nTwo men\n");
  const auto error = [&] { return error_of([&] { read_multi30k(root_.path(), "val", "en-de"); }); };
  EXPECT_NE(error().find("val.de"), std::string::npos);
  EXPECT_NE(error().find("ensembler data get multi30k"), std::string::npos);
  write("val.de", "Ein Hund.\n");
  EXPECT_NE(error().find("2 sentences, and 1"), std::string::npos) << error();
  write("val.de", "Ein Hund.\nZwei M\xE4nner\n");  // Latin-1
  EXPECT_NE(error().find("line 2, byte 7"), std::string::npos) << error();
}

TEST(Multi30k, HasItsSentences) {
  if (!multi30k_present("")) GTEST_SKIP() << "no multi30k: ensembler data get multi30k";
  EXPECT_EQ(read_multi30k("", "train", "en-de").count(), 29000);
  EXPECT_EQ(read_multi30k("", "test_2016_flickr", "de-en").count(), 1000);
}

}  // namespace
}  // namespace ens
