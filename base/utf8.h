// SPDX-License-Identifier: Apache-2.0
// UTF-8: checked, decoded and encoded, and what Unicode says of a character.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ens {

// The position of the first byte that is not UTF-8 (RFC 3629: no overlong forms, no surrogates,
// nothing above U+10FFFF); empty if all is well.
std::optional<size_t> invalid_utf8(std::string_view text);

// Of valid UTF-8; other bytes become U+FFFD.
std::u32string decode_utf8(std::string_view text);
std::string encode_utf8(std::u32string_view text);

// Classes and lower case by Unicode's tables, as the C library has them (its locale C.UTF-8),
// whatever the user's language.
bool is_letter_or_digit(char32_t c);  // combining marks among them
bool is_space(char32_t c);
bool is_upper(char32_t c);
bool is_digit(char32_t c);
char32_t to_lower(char32_t c);
std::string lower_case(std::string_view text);

}  // namespace ens
