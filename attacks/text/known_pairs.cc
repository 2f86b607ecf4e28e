// SPDX-License-Identifier: Apache-2.0
// Some sentences are known with what was sent for them: a dictionary of codes, and the rest of the
// cipher broken from these seeds.
#include <map>

#include "attacks/text/codes.h"
#include "attacks/text/decipher.h"
#include "attacks/text/registry.h"
#include "attacks/text/vocabulary.h"

namespace ens {
namespace {

class KnownPairs : public TextAttackOn<TextPairsView> {
 public:
  std::string name() const override { return "known-pairs"; }
  std::string title() const override {
    return "dictionary from known sentences, and the cipher's rest";
  }

  std::vector<TextReading> run_on(const TextPairsView& view,
                                  const AttackContext& context) override {
    context.report(0, "looking for equal vectors");
    std::vector<Tensor> all = view.observed;
    all.insert(all.end(), view.pairs.features.begin(), view.pairs.features.end());
    TextCodes codes = find_codes(all);
    TextVocabulary words;
    Cipher cipher;
    for (const TokenTexts& tokens : view.public_text) cipher.text.push_back(words(tokens));
    std::vector<std::vector<int32_t>> plain;
    for (const TokenTexts& tokens : view.pairs.tokens) plain.push_back(words(tokens));
    cipher.sentences = std::move(codes.sentences);
    cipher.codes = codes.count;
    cipher.words = words.size();
    std::vector<TextReading> curve;
    for (const int64_t count : text_pair_counts(context.settings, std::ssize(view.pairs.tokens))) {
      std::vector<std::map<int32_t, int64_t>> votes(static_cast<size_t>(cipher.codes));
      for (int64_t i = 0; i < count; ++i) {
        const auto& sent = cipher.sentences[view.observed.size() + static_cast<size_t>(i)];
        const auto& said = plain[static_cast<size_t>(i)];
        for (size_t k = 0; k < said.size(); ++k) ++votes[static_cast<size_t>(sent[k])][said[k]];
      }
      cipher.seeds.assign(static_cast<size_t>(cipher.codes), -1);
      for (size_t code = 0; code < votes.size(); ++code) {
        int64_t most = 0;
        for (const auto& [word, number] : votes[code]) {
          if (number > most) most = number, cipher.seeds[code] = word;
        }
      }
      const std::vector<int32_t> word_of = decipher(cipher, [&] {
        context.report(0, "the cipher's rest from " + std::to_string(count) + " sentences");
      });
      TextReading reading;
      reading.candidate = "m = " + std::to_string(count);
      for (int64_t s = 0; s < view.scored; ++s) {
        TokenTexts tokens;
        for (const int32_t code : cipher.sentences[static_cast<size_t>(s)]) {
          const int32_t word = word_of[static_cast<size_t>(code)];
          tokens.push_back(word < 0 ? "" : words.word(word));
        }
        reading.tokens.push_back(std::move(tokens));
      }
      curve.push_back(std::move(reading));
    }
    return curve;
  }
};

}  // namespace

std::unique_ptr<TextAttack> text_known_pairs_attack() { return std::make_unique<KnownPairs>(); }

}  // namespace ens
