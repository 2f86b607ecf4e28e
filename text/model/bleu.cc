// SPDX-License-Identifier: Apache-2.0
#include "text/model/bleu.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>

#include "base/error.h"

namespace ens {
namespace {

constexpr size_t kOrders = 4;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

bool digit(char c) { return c >= '0' && c <= '9'; }

// The characters that 13a always cuts: {-~ [-` space-& (-+ :-@ /.
bool always_cut(char c) {
  return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
         (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

std::map<std::string, int64_t> ngrams(const Words& tokens, size_t n) {
  std::map<std::string, int64_t> counts;
  for (size_t i = 0; i + n <= tokens.size(); ++i) {
    std::string key;
    for (size_t k = 0; k < n; ++k) key += tokens[i + k] + '\n';
    ++counts[key];
  }
  return counts;
}

}  // namespace

Words tokens_13a(std::string_view given) {
  std::string line(given);
  replace_all(line, "<skipped>", "");
  replace_all(line, "-\n", "");
  replace_all(line, "\n", " ");
  replace_all(line, "&quot;", "\"");
  replace_all(line, "&amp;", "&");
  replace_all(line, "&lt;", "<");
  replace_all(line, "&gt;", ">");
  line = " " + line + " ";
  std::string cut;
  for (const char c : line) {
    if (always_cut(c)) {
      cut += ' ', cut += c, cut += ' ';
    } else {
      cut += c;
    }
  }
  // Each of mteval's passes reads what the one before wrote, from left to right: a full stop or
  // comma is cut unless a digit stands before and behind it, a dash after a digit.
  const auto pass = [&cut](auto matches, size_t length, auto write) {
    std::string out;
    for (size_t i = 0; i < cut.size();) {
      if (i + length <= cut.size() && matches(cut[i], cut[i + 1])) {
        out += write(cut[i], cut[i + 1]);
        i += length;
      } else {
        out += cut[i++];
      }
    }
    cut = out;
  };
  const auto point = [](char c) { return c == '.' || c == ','; };
  const auto before = [](char a, char b) { return std::string{a} + " " + b + " "; };
  pass([&](char a, char b) { return !digit(a) && point(b); }, 2, before);
  pass([&](char a, char b) { return point(a) && !digit(b); }, 2,
       [](char a, char b) {
         return std::string{' ', a, ' ', b};
       });
  pass([&](char a, char b) { return digit(a) && b == '-'; }, 2, before);
  Words tokens;
  std::string token;
  for (const char c : cut + " ") {
    if (c != ' ' && c != '\t' && c != '\r') {
      token += c;
    } else if (!token.empty()) {
      tokens.push_back(std::move(token));
      token.clear();
    }
  }
  return tokens;
}

double bleu(const std::vector<Words>& hypotheses, const std::vector<Words>& references,
            bool effective_order) {
  if (hypotheses.size() != references.size()) {
    fail("as many hypotheses as references are needed", "bleu");
  }
  std::array<int64_t, kOrders> right{}, total{};
  int64_t length = 0, reference_length = 0;
  for (size_t i = 0; i < hypotheses.size(); ++i) {
    length += std::ssize(hypotheses[i]);
    reference_length += std::ssize(references[i]);
    for (size_t n = 0; n < kOrders; ++n) {
      const auto wanted = ngrams(references[i], n + 1);
      for (const auto& [key, count] : ngrams(hypotheses[i], n + 1)) {
        const auto found = wanted.find(key);
        total[n] += count;
        if (found != wanted.end()) right[n] += std::min(count, found->second);
      }
    }
  }
  if (right[0] == 0) return 0;
  double smooth = 1, logs = 0;
  size_t orders = 0;
  for (size_t n = 0; n < kOrders; ++n) {
    if (total[n] == 0) {
      if (!effective_order) return 0;
      break;
    }
    ++orders;
    const auto all = static_cast<double>(total[n]);
    if (right[n] == 0) smooth *= 2;
    logs += std::log(right[n] == 0 ? 1 / (smooth * all) : static_cast<double>(right[n]) / all);
  }
  const double ratio = static_cast<double>(reference_length) / static_cast<double>(length);
  const double brevity = ratio > 1 ? std::exp(1 - ratio) : 1;
  return 100 * brevity * std::exp(logs / static_cast<double>(orders));
}

double corpus_bleu(const std::vector<std::string>& hypotheses,
                   const std::vector<std::string>& references) {
  std::vector<Words> h, r;
  for (const std::string& line : hypotheses) h.push_back(tokens_13a(line));
  for (const std::string& line : references) r.push_back(tokens_13a(line));
  return bleu(h, r);
}

double sentence_bleu(const std::string& hypothesis, const std::string& reference) {
  return bleu({tokens_13a(hypothesis)}, {tokens_13a(reference)}, true);
}

std::string bleu_signature() { return "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"; }

}  // namespace ens
