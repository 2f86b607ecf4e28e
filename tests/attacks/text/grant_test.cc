// SPDX-License-Identifier: Apache-2.0
// Who may know what of a split translation. For every attack the exact list of what its view holds;
// a wider view or a grant too many fails here.
#include "attacks/text/grant.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "attacks/text/registry.h"

namespace ens {
namespace {

using Names = std::set<std::string>;

class TextGrantTest : public testing::Test {
 protected:
  TextGrantTest() {
    victim_.observed = {Tensor::zeros({3, 4})};
    victim_.scored = 1;
    victim_.public_text = {{"<bos>", "a", "<eos>"}};
    victim_.table = Tensor::zeros({2, 4});
    victim_.words = {"a", "b"};
    victim_.send = [this](int64_t, int64_t count) {
      sent_ += count;
      return TextPairs{std::vector<TokenTexts>(static_cast<size_t>(count)), {}};
    };
  }

  template <typename View>
  Names held(const TextAttack& attack) {
    if (!dynamic_cast<const TextAttackOn<View>*>(&attack)) return {};
    View view;
    grant(victim_, context_, view);
    Names names;
    const auto add = [&](const char* name, bool is_set) {
      if (is_set) names.insert(name);
    };
    add("observed", view.observed.size() == 1 && view.scored == 1);
    add("public_text", !view.public_text.empty());
    if constexpr (requires { view.pairs; }) add("pairs", !view.pairs.tokens.empty());
    if constexpr (requires { view.send; }) add("send", static_cast<bool>(view.send));
    if constexpr (requires { view.table; }) add("table", view.table.defined());
    if constexpr (requires { view.words; }) add("words", !view.words.empty());
    return names;
  }
  Names held_by(const std::string& name) {
    const auto attack = make_text_attack(name);
    Names all;
    all.merge(held<ObservedTextView>(*attack));
    all.merge(held<TextPairsView>(*attack));
    all.merge(held<AnyTextPairsView>(*attack));
    all.merge(held<EmbeddingView>(*attack));
    return all;
  }

  TextVictim victim_;
  AttackContext context_;
  int64_t sent_ = 0;  // sentences that the client was made to send
};

TEST_F(TextGrantTest, EveryAttackStopsAtItsLevel) {
  const Names query_free{"observed", "public_text"};
  const std::map<std::string, Names> want{
      {"equality", query_free},
      {"codebook", query_free},
      {"known-pairs", {"observed", "public_text", "pairs"}},
      {"nearest", {"observed", "public_text", "table", "words"}},
      {"oracle", {"observed", "public_text", "send"}},
  };
  for (const std::string& name : text_attack_names()) {
    ASSERT_TRUE(want.contains(name)) << name;
    EXPECT_EQ(held_by(name), want.at(name)) << name;
  }
  EXPECT_EQ(text_attack_names().size(), want.size());
}

TEST_F(TextGrantTest, KnownPairsAreNoMoreThanWereAskedFor) {
  victim_.public_text.resize(5000);
  TextPairsView view;
  grant(victim_, context_, view);
  EXPECT_EQ(sent_, 1000);
  EXPECT_EQ(view.pairs.tokens.size(), 1000u);
}

}  // namespace
}  // namespace ens
