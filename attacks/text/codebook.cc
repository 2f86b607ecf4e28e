// SPDX-License-Identifier: Apache-2.0
// Equal words are equal vectors: the traffic is a substitution cipher, which is broken by the
// statistics of other sentences of the same kind.
#include "attacks/text/codes.h"
#include "attacks/text/decipher.h"
#include "attacks/text/registry.h"
#include "attacks/text/vocabulary.h"

namespace ens {
namespace {

class Codebook : public TextAttackOn<ObservedTextView> {
 public:
  std::string name() const override { return "codebook"; }
  std::string title() const override { return "substitution cipher broken by word statistics"; }

  std::vector<TextReading> run_on(const ObservedTextView& view,
                                  const AttackContext& context) override {
    context.report(0, "looking for equal vectors");
    TextCodes codes = find_codes(view.observed);
    TextVocabulary words;
    Cipher cipher;
    for (const TokenTexts& tokens : view.public_text) cipher.text.push_back(words(tokens));
    cipher.sentences = std::move(codes.sentences);
    cipher.codes = codes.count;
    cipher.words = words.size();
    int round = 0;
    const std::vector<int32_t> word_of = decipher(cipher, [&] {
      context.report(0, "breaking the cipher, round " + std::to_string(++round));
    });
    TextReading reading;
    for (int64_t s = 0; s < view.scored; ++s) {
      TokenTexts tokens;
      for (const int32_t code : cipher.sentences[static_cast<size_t>(s)]) {
        const int32_t word = word_of[static_cast<size_t>(code)];
        tokens.push_back(word < 0 ? "" : words.word(word));
      }
      reading.tokens.push_back(std::move(tokens));
    }
    return {reading};
  }
};

}  // namespace

std::unique_ptr<TextAttack> text_codebook_attack() { return std::make_unique<Codebook>(); }

}  // namespace ens
