// SPDX-License-Identifier: Apache-2.0
// Numbers for the attacker's own words.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "attacks/text/views.h"

namespace ens {

class TextVocabulary {
 public:
  // The number of a word; a new one for a new word.
  int32_t operator[](const std::string& word) {
    const auto [at, fresh] = ids_.try_emplace(word, static_cast<int32_t>(words_.size()));
    if (fresh) words_.push_back(word);
    return at->second;
  }
  std::vector<int32_t> operator()(const TokenTexts& tokens) {
    std::vector<int32_t> ids;
    for (const std::string& token : tokens) ids.push_back((*this)[token]);
    return ids;
  }
  const std::string& word(int32_t id) const { return words_.at(static_cast<size_t>(id)); }
  int32_t size() const { return static_cast<int32_t>(words_.size()); }

 private:
  std::vector<std::string> words_;
  std::unordered_map<std::string, int32_t> ids_;
};

}  // namespace ens
