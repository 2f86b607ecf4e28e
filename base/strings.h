// SPDX-License-Identifier: Apache-2.0
// Text helpers that several folders need.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ens {

std::string to_hex(std::string_view bytes);  // two lower-case digits a byte

std::string trimmed(std::string_view text);  // without white space at both ends

// The parts of `text` between separators, without empty ones: "a,,b" -> {"a", "b"}.
std::vector<std::string> split_text(std::string_view text, char separator);

// The parts with `separator` between them.
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");

// The word of `known` that `word` is probably meant to be: the one at the smallest edit distance
// (Levenshtein), which is at most a third of the word's length, or 2; a word that begins with
// `word` counts as distance 1. Empty if there is none.
std::string nearest_word(std::string_view word, const std::vector<std::string>& known);

}  // namespace ens
