// SPDX-License-Identifier: Apache-2.0
#include "report/advise.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "proto/protections.h"
#include "report/certificate.h"
#include "report/html.h"

namespace ens::report {
namespace {

constexpr const char* kMetric = "default";  // the one that wishes are about

constexpr const char* kEdgeOnly = "edge_only";  // model.architecture: nothing is sent

// Where nothing is sent, the best that can be guessed; without any blind attack unknown.
void judge_unsent(const SeedGroup& row, Candidate& c) {
  c.attack = "nothing is sent";
  for (const SeedGroupAttack& a : row.attacks) {
    if (a.metric == kMetric && !a.members.empty() && a.level == "blind" && a.worst_case &&
        (!c.ssim || *c.ssim < *a.worst_case)) {
      c.ssim = a.worst_case;
    }
  }
  if (!c.ssim) c.unused = "no blind attack was measured: ensembler attack RUN -a mean-image";
}

// Fills in the attack that counts, or why the row cannot be judged.
void judge(const ReportData& all, const SeedGroup& row, const Wish& wish, Candidate& c) {
  for (const SeedGroupAttack& a : row.attacks) {
    if (a.metric != kMetric || a.members.empty()) continue;
    if (wish.attack.empty() ? c.ssim && *c.ssim >= *a.worst_case : a.kind != wish.attack) continue;
    c.ssim = a.worst_case;
    c.attack = a.title;
    const bool sure =
        a.kind == "oracle" ? a.strength > Strength::kWeak : a.strength == Strength::kStrong;
    if (!wish.attack.empty() && !sure) {
      const std::string& why = all.at(a.members[0]).why;
      c.unused = "'" + a.title + "' is " + a.strength_word + (why.empty() ? "" : ": " + why);
    }
  }
  if (!wish.attack.empty()) {
    if (!c.ssim) c.unused = "attack '" + wish.attack + "' was not measured";
  } else if (const SeedGroupAttack* oracle = row.attack("oracle", kMetric); !oracle) {
    c.unused = "no decoder on true features was trained";
  } else if (oracle->strength <= Strength::kWeak) {
    c.unused = "the decoder on true features is too weak to measure by";
  }
}

Candidate candidate(const ReportData& all, const Comparison& comparison, const SeedGroup& row,
                    const Wish& wish) {
  Candidate c;
  c.protection = row.title;
  c.setting = comparison.title;
  c.accuracy = number(row.accuracy, "mean");
  c.change = number(row.change, "mean");
  c.edge_flops = row.edge_flops;
  c.edge_ms = row.edge_ms;
  if (row.bytes_up && row.bytes_down) c.bytes = *row.bytes_up + *row.bytes_down;
  const Run& run = all.first(row);
  if (run.summary.architecture() == kEdgeOnly) {
    c.protection = "Edge alone";
    c.head = -1;
    c.bytes = c.bits = 0;
    judge_unsent(row, c);
  } else {
    c.head = run.summary.split().head();
    if (run.summary.has_channel()) c.bits = run.summary.channel().bits();
    if (run.certificate) c.certificate = certificate_text(*run.certificate);
    judge(all, row, wish, c);
  }
  if (c.unused.empty() && !c.accuracy) c.unused = "its accuracy is not known";
  const auto at_most = [&](const char* what, const Maybe& value, const Maybe& limit) {
    if (limit && (!value || *value > *limit)) c.excesses.push_back({what, value, *limit});
  };
  at_most("SSIM", c.ssim, wish.max_ssim);
  at_most("edge FLOPs", c.edge_flops, wish.edge_flops);
  at_most("edge ms", c.edge_ms, wish.edge_ms);
  at_most("bytes", c.bytes, wish.bytes);
  at_most("bits", c.bits, wish.bits);
  return c;
}

double worst_share(const Candidate& c) {
  double worst = 0;
  for (const Excess& e : c.excesses) worst = std::max(worst, e.share());
  return worst;
}

std::string amount(const std::string& what, const Maybe& value) {
  if (what == "edge FLOPs") return flops(value);
  if (what == "bits") return value ? fmt::format("{:g}", *value) : "\u2013";
  if (what == "bytes") return value ? fmt::format("{:.0f} bytes", *value) : "\u2013";
  return format(value, what == "SSIM" ? 3 : 2);
}

std::string in_words(const Excess& e) {
  if (!e.value) return e.what + (e.what == "bits" ? " not limited" : " not measured");
  return fmt::format("{} {} > {} (+{:.0f} %)", e.what, amount(e.what, e.value),
                     amount(e.what, e.limit), 100 * e.share());
}

// What the choice means, where its name does not say it.
std::string in_plain_words(const Candidate& best, const std::vector<Candidate>& ruled_out) {
  if (best.head < 0) {
    return "Compute on the edge alone: nothing is sent, and no protection that fits is more "
           "accurate.\n\n";
  }
  std::string out;
  if (best.protection == protection_info(unprotected_kind()).title) {
    const bool deeper = std::ranges::any_of(ruled_out, [&](const Candidate& c) {
      return c.protection == best.protection && c.head >= 0 && c.head < best.head;
    });
    out += deeper ? "Cut deeper: without a protection, a split further from the image fits.\n\n"
                  : "No protection is needed for this.\n\n";
  }
  if (best.bits) {
    out += !best.certificate.empty()
               ? best.certificate + "\n"
               : fmt::format(
                     "A request carries at most {:g} bits of information about the image, "
                     "whoever attacks. The rest of\nits certificate has not been made: "
                     "ensembler certify RUN\n\n",
                     *best.bits);
  }
  return out;
}

// Columns padded to their widest cell; the last one runs free.
std::string text_table(const std::vector<std::vector<std::string>>& rows) {
  const auto width_of = [](const std::string& text) {  // characters, not bytes
    return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) >> 6) != 2;
    }));
  };
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = " ";
    for (size_t i = 0; i < row.size(); ++i) {
      line += " " + row[i];
      if (i + 1 < row.size()) line += std::string(widths[i] - width_of(row[i]) + 1, ' ');
    }
    out += line + "\n";
  }
  return out;
}

std::string list(const std::string& title, const std::vector<Candidate>& candidates) {
  if (candidates.empty()) return "";
  std::vector<std::vector<std::string>> rows = {{"protection", "setting", "accuracy", "change",
                                                 "SSIM", "by", "edge FLOPs", "edge ms", "bytes",
                                                 "bits", "why not"}};
  bool reasons = false;
  for (const Candidate& c : candidates) {
    std::string why = c.unused;
    if (why.empty()) {
      for (const Excess& e : c.excesses) why += (why.empty() ? "" : "; ") + in_words(e);
    }
    reasons = reasons || !why.empty();
    rows.push_back({c.protection, c.setting, percent(c.accuracy), points(c.change),
                    format(c.ssim, 3), c.attack.empty() ? "\u2013" : c.attack, flops(c.edge_flops),
                    format(c.edge_ms, 2), c.bytes ? fmt::format("{:.0f}", *c.bytes) : "\u2013",
                    amount("bits", c.bits), why});
  }
  if (!reasons) {
    for (auto& row : rows) row.pop_back();
  }
  return title + "\n" + text_table(rows) + "\n";
}

}  // namespace

Advice advise(const ReportData& all, const Wish& wish) {
  std::set<std::string> data;
  for (const Run& run : all.runs) data.insert(run.summary.data());
  std::string names;
  for (const std::string& name : data) names += (names.empty() ? "" : ", ") + name;
  if (wish.data.empty() ? data.size() > 1 : !data.count(wish.data)) {
    usage_fail(wish.data.empty() ? "runs of several data sets cannot be ranked together"
                                 : "no run on '" + wish.data + "'",
               "--dataset", "there are: " + names);
  }
  Advice advice;
  for (const Comparison& comparison : all.comparisons) {
    for (const SeedGroup& row : comparison.rows) {
      if (!wish.data.empty() && all.first(row).summary.data() != wish.data) continue;
      Candidate c = candidate(all, comparison, row, wish);
      (!c.unused.empty()    ? advice.unused
       : c.excesses.empty() ? advice.fitting
                            : advice.ruled_out)
          .push_back(std::move(c));
    }
  }
  std::stable_sort(
      advice.fitting.begin(), advice.fitting.end(), [](const Candidate& a, const Candidate& b) {
        return *a.accuracy != *b.accuracy ? *a.accuracy > *b.accuracy : *a.ssim < *b.ssim;
      });
  // Nearest: the fewest wishes to give up, then the smallest excess.
  std::stable_sort(advice.ruled_out.begin(), advice.ruled_out.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return std::pair(a.excesses.size(), worst_share(a)) <
                            std::pair(b.excesses.size(), worst_share(b));
                   });
  if (advice.fitting.empty() && !advice.ruled_out.empty()) {
    const Candidate& c = advice.ruled_out[0];
    advice.nearest = c.protection + " (" + c.setting + ") exceeds only ";
    for (size_t i = 0; i < c.excesses.size(); ++i)
      advice.nearest += (i ? " and " : "") + in_words(c.excesses[i]);
  }
  return advice;
}

std::string as_text(const Advice& advice, const Wish& wish) {
  std::string out = fmt::format("Wanted: {} reaches at most SSIM {}",
                                wish.attack.empty()
                                    ? "the strongest attack (the decoder on true features included)"
                                    : "'" + wish.attack + "'",
                                fixed(wish.max_ssim, 3));
  const auto limit = [&](const char* what, const Maybe& value) {
    if (value) out += fmt::format(", {} at most {}", what, amount(what, value));
  };
  limit("edge FLOPs", wish.edge_flops), limit("edge ms", wish.edge_ms), limit("bytes", wish.bytes);
  limit("bits", wish.bits);
  out += ".\n\n";
  if (!advice.fitting.empty()) {
    const Candidate& best = advice.fitting[0];
    out += fmt::format("Use {} ({}): accuracy {}{}, SSIM at most {} by {}.\n\n", best.protection,
                       best.setting, percent(best.accuracy),
                       best.change ? " (" + points(best.change) + ")" : "", format(best.ssim, 3),
                       best.attack);
    out += in_plain_words(best, advice.ruled_out);
    out += list("Runners-up", {advice.fitting.begin() + 1, advice.fitting.end()});
  }
  out += list("Ruled out", advice.ruled_out);
  out += list("Not used: they say nothing about privacy", advice.unused);
  return out;
}

}  // namespace ens::report
