// SPDX-License-Identifier: Apache-2.0
#include "base/utf8.h"

#include <locale.h>
#include <wctype.h>

#include <cstdint>

#include "base/error.h"

namespace ens {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// Reads a character at `at` and moves on. On a bad byte: false, and one byte further.
bool next(std::string_view text, size_t& at, char32_t& c) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(at);
  const size_t length = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
  if (length == 0 || at + length > text.size()) return ++at, false;
  c = length == 1 ? first : first & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return ++at, false;
    c = c << 6 | (byte(at + i) & 0x3Fu);
  }
  const bool overlong = (length == 3 && c < 0x800) || (length == 4 && c < 0x10000);
  if (overlong || (c >= 0xD800 && c < 0xE000) || c > 0x10FFFF) return ++at, false;
  at += length;
  return true;
}

locale_t unicode() {
  static const locale_t all = [] {
    const locale_t found = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    if (!found) fail("the C library has no locale C.UTF-8", "text", "use glibc 2.35 or newer");
    return found;
  }();
  return all;
}

wint_t wide(char32_t c) { return static_cast<wint_t>(c); }

}  // namespace

std::optional<size_t> invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    char32_t c;
    if (!next(text, at, c)) return begin;
  }
  return std::nullopt;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) {
    char32_t c;
    out.push_back(next(text, at, c) ? c : kReplacement);
  }
  return out;
}

std::string encode_utf8(std::u32string_view text) {
  std::string out;
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  for (const uint32_t c : text) {
    if (c < 0x80) {
      put(c);
    } else if (c < 0x800) {
      put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
      put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
    } else {
      put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)),
          put(0x80 | (c & 0x3F));
    }
  }
  return out;
}

bool is_letter_or_digit(char32_t c) {
  // glibc counts combining marks among letters only where they belong to a word's script.
  return iswalnum_l(wide(c), unicode()) || (c >= 0x300 && c < 0x370);
}
bool is_space(char32_t c) { return c == 0xA0 || c == 0x202F || iswspace_l(wide(c), unicode()); }
bool is_upper(char32_t c) { return iswupper_l(wide(c), unicode()); }
bool is_digit(char32_t c) { return iswdigit_l(wide(c), unicode()); }
char32_t to_lower(char32_t c) { return static_cast<char32_t>(towlower_l(wide(c), unicode())); }

std::string lower_case(std::string_view text) {
  std::u32string all = decode_utf8(text);
  for (char32_t& c : all) c = to_lower(c);
  return encode_utf8(all);
}

}  // namespace ens
