// SPDX-License-Identifier: Apache-2.0
// What an attacker on a split translation may know, one type for each level. What each member gets
// is decided in grant.h. An attack sees one side of the traffic, source or target, at a time.
//
// A sentence is the features of its tokens as the server received them, [L,D] float32: of the
// source from the begin to the end symbol, of the target from the begin symbol to the last word but
// the end. Tokens are texts; words that the training has too seldom are "<unk>" for the client,
// too.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "attacks/core/attack.h"

namespace ens {

using TokenTexts = std::vector<std::string>;

// Sentences with what was sent for them, token by token.
struct TextPairs {
  std::vector<TokenTexts> tokens;  // with "<bos>", and of the source "<eos>"
  std::vector<Tensor> features;
};

// Everything that could be known of one side of one client: filled in by the scenario. Attacks
// never see it; grant() takes their view from it.
struct TextVictim {
  std::vector<Tensor> observed;  // what was sent; the first `scored` are to be read
  int64_t scored = 0;
  std::vector<TokenTexts>
      public_text;   // the attacker's own sentences, as the client would cut them
  Tensor table;      // [V,D]: sqrt(d) times the client's embedding
  TokenTexts words;  // its V rows
  // What the client would send for the attacker's sentences [first, first + count).
  std::function<TextPairs(int64_t first, int64_t count)> send;
};

// Query-free: the traffic, text of the same kind, and that PE is added (Kerckhoffs).
struct ObservedTextView {
  using Victim = TextVictim;
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kQueryFree;
  std::vector<Tensor> observed;
  int64_t scored = 0;
  std::vector<TokenTexts> public_text;
};

// And some sentences with what was sent for them: the last of text_pair_counts().
struct TextPairsView : ObservedTextView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kKnownPairs;
  TextPairs pairs;
};

// And as many as it likes.
struct AnyTextPairsView : ObservedTextView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kBlackBox;
  std::function<TextPairs(int64_t first, int64_t count)> send;
};

// And the client's embedding, without its noise.
struct EmbeddingView : ObservedTextView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kWhiteBox;
  Tensor table;
  TokenTexts words;
};

// What an attack makes of the first `scored` sentences: a text for each vector.
struct TextReading {
  std::string candidate;           // "m = 100"
  std::vector<TokenTexts> tokens;  // empty: the attack reads nothing
  // Whether two tokens are the same word, told from what was sent: higher is likelier. Pairs of
  // (sentence, place) among the scored; empty: the attack does not compare.
  std::function<double(std::pair<size_t, size_t>, std::pair<size_t, size_t>)> same;
};

class TextAttack : public Attack {
 public:
  virtual std::vector<TextReading> run(const TextVictim& victim, const AttackContext& context) = 0;
};

template <typename View>
class TextAttackOn : public TextAttack {
 public:
  KnowledgeLevel level() const override { return View::kLevel; }
  std::vector<TextReading> run(const TextVictim& victim, const AttackContext& context) final {
    View view;
    grant(victim, context, view);
    return run_on(view, context);
  }
  virtual std::vector<TextReading> run_on(const View& view, const AttackContext& context) = 0;
};

}  // namespace ens
