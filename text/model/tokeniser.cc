// SPDX-License-Identifier: Apache-2.0
#include "text/model/tokeniser.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/error.h"
#include "base/utf8.h"

namespace ens {
namespace {

constexpr char32_t kJoin = 0xFFED;
const std::string kJoinMark = "\xEF\xBF\xAD";
constexpr char32_t kJoinInText = 0x25A0;  // what a join mark in a sentence is read as

class WordTokeniser : public Tokeniser {
 public:
  explicit WordTokeniser(std::vector<std::string> words) : words_(std::move(words)) {
    for (size_t i = 0; i < words_.size(); ++i) ids_[words_[i]] = static_cast<int32_t>(i);
  }

  std::vector<int32_t> encode(std::string_view sentence) const override {
    std::vector<int32_t> out;
    for (const std::string& word : split_words(sentence, true)) {
      const auto found = ids_.find(word);
      out.push_back(found == ids_.end() ? kUnknown : found->second);
    }
    return out;
  }

  std::string decode(std::span<const int32_t> tokens) const override {
    std::string out;
    bool joined = true;
    for (const int32_t id : tokens) {
      if (id < 0 || id >= size() || (id < kFirstWord && id != kUnknown)) continue;
      std::string_view word = words_[static_cast<size_t>(id)];
      if (word.starts_with(kJoinMark)) {
        word.remove_prefix(kJoinMark.size());
      } else if (!joined) {
        out += ' ';
      }
      joined = word.ends_with(kJoinMark);
      if (joined) word.remove_suffix(kJoinMark.size());
      out += word;
    }
    return out;
  }

  int64_t size() const override { return static_cast<int64_t>(words_.size()); }
  std::string token(int32_t id) const override { return words_.at(static_cast<size_t>(id)); }
  std::string kind() const override { return "word"; }
  std::string bytes() const override {
    std::string out;
    for (const std::string& word : words_) out += word + '\n';
    return out;
  }

 private:
  std::vector<std::string> words_;
  std::unordered_map<std::string, int32_t> ids_;
};

const std::vector<std::string>& symbols() {
  static const std::vector<std::string> all{"<unk>", "<pad>", "<bos>", "<eos>"};
  return all;
}

}  // namespace

std::vector<std::string> split_words(std::string_view sentence, bool join_marks) {
  std::vector<std::string> tokens;
  const std::u32string text = decode_utf8(sentence);
  bool after_space = true;
  for (size_t at = 0; at < text.size();) {
    if (is_space(text[at]) || text[at] < 0x20) {
      after_space = true;
      ++at;
      continue;
    }
    std::u32string token;
    if (is_letter_or_digit(text[at])) {
      while (at < text.size() && is_letter_or_digit(text[at])) token += to_lower(text[at++]);
    } else {
      const bool joins_left = !after_space;
      token += text[at] == kJoin ? kJoinInText : text[at];
      ++at;
      // The next token of this kind marks its own left side.
      const bool joins_right = at < text.size() && is_letter_or_digit(text[at]);
      if (join_marks && joins_left) token.insert(token.begin(), kJoin);
      if (join_marks && joins_right) token.push_back(kJoin);
    }
    tokens.push_back(encode_utf8(token));
    after_space = false;
  }
  return tokens;
}

TokeniserPtr make_word_tokeniser(const std::vector<std::string>& sentences, int64_t min_count) {
  std::map<std::string, int64_t> counts;
  for (const std::string& sentence : sentences) {
    for (const std::string& word : split_words(sentence, true)) ++counts[word];
  }
  std::vector<std::pair<std::string, int64_t>> order(counts.begin(), counts.end());
  std::ranges::stable_sort(order, [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<std::string> words = symbols();
  for (const auto& [word, count] : order) {
    if (count >= min_count) words.push_back(word);
  }
  return std::make_shared<WordTokeniser>(std::move(words));
}

TokeniserPtr read_tokeniser(const std::string& kind, const std::string& bytes,
                            const std::string& source) {
  if (kind == "spm") return make_spm_tokeniser(bytes);
  if (kind != "word") {
    fail("tokeniser '" + kind + "' is not known", source, "a newer version wrote it");
  }
  std::vector<std::string> words;
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = std::min(bytes.find('\n', begin), bytes.size());
    words.push_back(bytes.substr(begin, end - begin));
    begin = end + 1;
  }
  if (words.size() < symbols().size() ||
      !std::equal(symbols().begin(), symbols().end(), words.begin())) {
    fail("the vocabulary is damaged", source);
  }
  return std::make_shared<WordTokeniser>(std::move(words));
}

void check_utf8(std::string_view text, const std::string& where) {
  if (const auto at = invalid_utf8(text)) {
    usage_fail(fmt::format("byte {} is not UTF-8", *at + 1), where,
               "convert the text: iconv -t utf8");
  }
}

}  // namespace ens
