// SPDX-License-Identifier: Apache-2.0
// BLEU (Papineni et al., ACL 2002) as sacreBLEU 2 computes it (Post, WMT 2018): one reference a
// sentence, exponential smoothing.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ens {

// How sacreBLEU's `13a` (mteval-v13a) splits a line.
std::vector<std::string> tokens_13a(std::string_view line);

using Words = std::vector<std::string>;

// 0..100. Of order k of n-grams without a match the precision is 1 / (2^j total), j counting such
// orders; 0 if no word matches. Orders without an n-gram in any hypothesis have no precision: the
// result is 0, unless `effective_order` leaves them out (as is done for single sentences).
double bleu(const std::vector<Words>& hypotheses, const std::vector<Words>& references,
            bool effective_order = false);

// Of whole lines, by 13a, with case.
double corpus_bleu(const std::vector<std::string>& hypotheses,
                   const std::vector<std::string>& references);
double sentence_bleu(const std::string& hypothesis, const std::string& reference);

// "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
std::string bleu_signature();

}  // namespace ens
