// SPDX-License-Identifier: Apache-2.0
// From sentences to token numbers and back. Only the client has one: its bytes lie in edge.h5.
//
// `word`: a token is a run of letters and digits, in lower case, or one other character. Where no
// space separated two tokens, the other character carries a join mark (U+FFED) at that side:
// "(a dog)." is "(￭", "a", "dog", "￭)", "￭.". So decode() gives the sentence back, but for case,
// repeated spaces and unknown words. `spm`: a SentencePiece model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ens {

inline constexpr int32_t kUnknown = 0, kPad = 1, kBegin = 2, kEnd = 3;  // of every vocabulary
inline constexpr int32_t kFirstWord = 4;

// Immutable, so any number of threads may use it.
class Tokeniser {
 public:
  virtual ~Tokeniser() = default;
  virtual std::vector<int32_t> encode(
      std::string_view sentence) const = 0;  // without begin and end
  // Numbers below kFirstWord but kUnknown ("<unk>") are left out.
  virtual std::string decode(std::span<const int32_t> tokens) const = 0;
  virtual int64_t size() const = 0;  // of the vocabulary
  virtual std::string token(int32_t id) const = 0;
  virtual std::string kind() const = 0;   // "word", "spm"
  virtual std::string bytes() const = 0;  // to be read by read_tokeniser
};
using TokeniserPtr = std::shared_ptr<const Tokeniser>;

// The tokens of `word`, as text, with join marks; without: as papers count words.
std::vector<std::string> split_words(std::string_view sentence, bool join_marks);

// Of words that `sentences` have at least `min_count` times, most frequent first.
TokeniserPtr make_word_tokeniser(const std::vector<std::string>& sentences, int64_t min_count);
// text/model/spm.cc; `model`: as SentencePiece serialises it. Error if it is none, or has other
// numbers for unknown, padding, begin and end.
TokeniserPtr make_spm_tokeniser(std::string model);
// A unigram model of so many pieces of `sentences`, normalised by nmt_nfkc.
TokeniserPtr train_spm_tokeniser(const std::vector<std::string>& sentences, int64_t pieces);

// Error, naming `source`, for damaged bytes.
TokeniserPtr read_tokeniser(const std::string& kind, const std::string& bytes,
                            const std::string& source);

// Usage Error, naming `where` (file or "line 3") and the byte, for text that is not UTF-8.
void check_utf8(std::string_view text, const std::string& where);

}  // namespace ens
