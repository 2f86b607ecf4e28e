// SPDX-License-Identifier: Apache-2.0
#include "text/model/tokeniser.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/utf8.h"
#include "tests/support/errors.h"

namespace ens {
namespace {

using test::error_of;
using Words = std::vector<std::string>;

TEST(Utf8, RefusesWhatIsNone) {
  EXPECT_FALSE(invalid_utf8("Männer, 犬 und \U0001F436"));
  EXPECT_EQ(invalid_utf8("ab\xFFgo"), 2u);
  EXPECT_EQ(invalid_utf8("a\xC3"), 1u);             // cut
  EXPECT_EQ(invalid_utf8("\xC0\xAF"), 0u);          // overlong
  EXPECT_EQ(invalid_utf8("x\xE0\x80\x80"), 1u);     // overlong
  EXPECT_EQ(invalid_utf8("\xED\xA0\x80"), 0u);      // a surrogate
  EXPECT_EQ(invalid_utf8("\xF4\x90\x80\x80"), 0u);  // beyond U+10FFFF
  EXPECT_EQ(invalid_utf8("\xC3("), 0u);
  const std::string all = "Ärger 犬 \U0001F436 a";
  EXPECT_EQ(encode_utf8(decode_utf8(all)), all);
  EXPECT_EQ(lower_case("ÄRGER Straße ΣΑΣ"), "ärger straße σασ");
  EXPECT_NE(error_of([] { check_utf8("ab\xFF", "line 3"); }).find("byte 3"), std::string::npos);
}

TEST(WordTokeniser, SplitsByClassesAndMarksJoins) {
  EXPECT_EQ(
      split_words("A dog's toy (3,000 of them).", true),
      (Words{"a", "dog", "￭'￭", "s", "toy", "(￭", "3", "￭,￭", "000", "of", "them", "￭)", "￭."}));
  EXPECT_EQ(split_words("Ein  Mädchen\tlacht...", false),
            (Words{"ein", "mädchen", "lacht", ".", ".", "."}));
  EXPECT_TRUE(split_words(" \t", true).empty());
}

// Whatever the text: what is read is written again, but for case and the number of spaces.
TEST(WordTokeniser, GivesSentencesBack) {
  const Words sentences{"Zwei junge Männer sind im Freien.",
                        "\"Well-known\", he said (in 1999): 5.5% of £20...",
                        "a犬b \U0001F436\U0001F436 !x! '' x’s", "- a -b c- d-e --", "!"};
  const TokeniserPtr t = make_word_tokeniser(sentences, 1);
  for (const std::string& s : sentences) {
    const std::vector<int32_t> ids = t->encode(s);
    EXPECT_EQ(std::ranges::count(ids, kUnknown), 0);
    EXPECT_EQ(t->decode(ids), lower_case(s));
  }
  EXPECT_EQ(t->decode(t->encode("  zwei \t Männer ")), "zwei männer");
  EXPECT_EQ(t->decode(t->encode("")), "");
  EXPECT_EQ(t->decode(t->encode("zwei Katzen")), "zwei <unk>");
}

TEST(WordTokeniser, CountsWordsAndIsReadAgain) {
  const TokeniserPtr t = make_word_tokeniser({"b a b", "c b a"}, 2);
  EXPECT_EQ(t->size(), 6);
  EXPECT_EQ(t->token(4), "b");
  EXPECT_EQ(t->token(5), "a");
  EXPECT_EQ(t->encode("a b c"), (std::vector<int32_t>{5, 4, kUnknown}));
  const TokeniserPtr again = read_tokeniser("word", t->bytes(), "edge.h5");
  EXPECT_EQ(again->encode("a b c"), t->encode("a b c"));
  EXPECT_EQ(again->bytes(), t->bytes());
  EXPECT_NE(error_of([] { read_tokeniser("word", "a\nb\n", "edge.h5"); }).find("damaged"),
            std::string::npos);
  EXPECT_NE(error_of([] { read_tokeniser("bpe", "", "edge.h5"); }).find("bpe"), std::string::npos);
}

TEST(SpmTokeniser, LearnsRepeatablyAndGivesSentencesBack) {
  Words sentences;
  const Words nouns{"hund", "katze", "mann", "frau", "kind", "ball"};
  for (const std::string& a : nouns) {
    for (const std::string& b : nouns) sentences.push_back("ein " + a + " sieht den " + b + ".");
  }
  const TokeniserPtr t = train_spm_tokeniser(sentences, 60);
  EXPECT_EQ(t->bytes(), train_spm_tokeniser(sentences, 60)->bytes());
  EXPECT_LE(t->size(), 60);
  const std::string sentence = "ein hund sieht den mann.";
  const auto ids = t->encode(sentence);
  EXPECT_GT(ids.size(), 0u);
  EXPECT_EQ(std::ranges::count_if(ids, [](int32_t id) { return id < kFirstWord; }), 0);
  EXPECT_EQ(t->decode(ids), sentence);
  EXPECT_EQ(read_tokeniser("spm", t->bytes(), "edge.h5")->encode(sentence), ids);
  EXPECT_NE(error_of([] { read_tokeniser("spm", "rubbish", "edge.h5"); }), "");
}

}  // namespace
}  // namespace ens
