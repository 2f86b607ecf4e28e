// SPDX-License-Identifier: Apache-2.0
// Comparing runs: with their unprotected counterpart, with each other, and over seeds.
#include "report/data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <iterator>
#include <tuple>

#include "proto/attacks.h"
#include "proto/config.h"
#include "proto/protections.h"

namespace ens::report {
namespace {

// What must agree for two runs to be compared. The bytes that a split sends stand for the pool in
// the stem and the image size.
auto setting_key(const Run& r) {
  const char* sent = r.summary.has_blinded() ? "blinded.split_bytes_up" : "bytes.up";
  const auto label = r.settings.find("data.label_column");
  return std::tuple(r.summary.data(), label == r.settings.end() ? "" : label->second,
                    r.summary.architecture(), r.get("width"), r.get("train_images"),
                    r.get("split.head"), r.get("split.tail"), r.get(sent));
}

using SettingKey = decltype(setting_key(std::declval<const Run&>()));

// The unprotected runs of each setting, ascending.
std::map<SettingKey, std::vector<int>> unprotected_runs(const std::vector<Run>& runs) {
  std::map<SettingKey, std::vector<int>> found;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!runs[i].is_protected()) found[setting_key(runs[i])].push_back(static_cast<int>(i));
  }
  return found;
}

// Of the unprotected runs of its setting itself, else one with the same seed, else the first.
int find_baseline(const std::vector<Run>& runs, const Run& run,
                  const std::vector<int>& candidates) {
  for (const int i : candidates) {
    if (&runs[static_cast<size_t>(i)] == &run) return i;
  }
  for (const int i : candidates) {
    if (runs[static_cast<size_t>(i)].seed() == run.seed()) return i;
  }
  return candidates.empty() ? -1 : candidates.front();
}

double low_end(const Interval& v) { return v.has_low() ? v.low() : v.mean(); }
double high_end(const Interval& v) { return v.has_high() ? v.high() : v.mean(); }

Maybe share(const Attack* attack, const Attack* oracle) {
  if (!attack || !oracle || !oracle->can_measure() || oracle->ssim() <= 0) return {};
  return attack->ssim() / oracle->ssim();
}

// Why an attack has read nothing, if it has not; then the floor's numbers take the place of its
// own.
void judge_by_floor(const Run& run, Attack& a) {
  results::AttackResult::Floor floor = a.result.floor();
  for (const Attack& other : run.attacks) {  // results of older versions hold none
    if (!other.is_floor() || !other.has_numbers() || other.metric() != a.metric()) continue;
    if (floor.ssim().has_mean() && floor.ssim().mean() >= other.ssim()) continue;
    floor.set_attack(other.result.title());
    *floor.mutable_ssim() = other.result.ssim();
    *floor.mutable_psnr() = other.result.psnr();
  }
  const results::AttackResult::Reference& seen = a.result.reference();
  if (floor.ssim().has_mean() && a.ssim() <= floor.ssim().mean()) {
    a.why = fmt::format("its SSIM of {:.3f} is not above the floor, {} ({:.3f})", a.ssim(),
                        floor.attack(), floor.ssim().mean());
    a.below_floor = a.ssim();
    *a.result.mutable_ssim() = floor.ssim();
    *a.result.mutable_psnr() = floor.psnr();
  } else if (a.result.negative().better()) {
    a.why = "a negative of its images is nearer to the truth";
  } else if (seen.has_chance() && seen.originals() > 2 * seen.chance() &&
             low_end(seen.recognised()) <= seen.chance()) {
    a.why = "its pictures are recognised no better than by chance";
  } else {
    return;
  }
  a.strength = Strength::kFailed;
}

// A decoder on true features that somebody beats who knows less, or who has the same pairs and no
// deep net (the linear decoder, retrieval), has not been trained.
void judge_yardstick(const Run& run, Attack& oracle) {
  if (run.summary.has_blinded()) {
    // That it reads nothing of shares is the protection; without noise it should read the images.
    const double open = oracle.result.own().ssim();
    oracle.strength = open < Attack::kStrongShare ? Strength::kWeak : Strength::kStrong;
    oracle.why = fmt::format("of inputs without noise it reads {:.3f}", open);
    return;
  }
  if (oracle.strength == Strength::kFailed) return;
  oracle.strength = Strength::kStrong;
  for (const Attack& a : run.attacks) {
    const std::string& level = a.result.level();
    const bool knows_less = level == "query-free" || level == "known pairs";
    if (!a.has_numbers() || a.metric() != oracle.metric() || a.is_oracle() ||
        (!knows_less && level != "black box"))
      continue;
    if (low_end(a.result.ssim()) <= high_end(oracle.result.ssim())) continue;
    oracle.strength = Strength::kWeak;
    oracle.why = fmt::format("{}, which knows {}, reached {:.3f}", a.result.title(),
                             knows_less ? "less" : "no more", a.ssim());
  }
}

void judge_strength(const Run* none, Attack& a) {
  if (a.strength == Strength::kFailed) return;
  const Attack* alone = none ? none->attack(a.kind(), a.metric()) : nullptr;
  const Attack* oracle = none ? none->attack("oracle", a.metric()) : nullptr;
  a.of_oracle_unprotected = share(alone, oracle);
  if (!alone || !oracle) {
    a.why = std::string("no run without protection to compare with") +
            (none ? (alone ? ": it lacks the decoder on true features" : ": it lacks this attack")
                  : "");
  } else if (!a.of_oracle_unprotected) {
    a.why = "the decoder on true features is too weak to measure by: " + oracle->why;
  } else if (alone->strength == Strength::kFailed ||
             *a.of_oracle_unprotected < Attack::kStrongShare) {
    a.strength = Strength::kWeak;
    a.why = alone->strength == Strength::kFailed ? "it failed even against no protection" : "";
  } else {
    a.strength = Strength::kStrong;
  }
}

// Nothing reads more than the features hold: one of the two numbers is wrong, so it is no result.
void refuse_above_upper_bound(const Run& run, Attack& a) {
  const Attack* oracle = run.attack("oracle", a.metric());
  if (!oracle || !oracle->is_upper_bound() || oracle == &a) return;
  if (a.result.level() == "repeated sends") return;  // several features hold more than one
  if (low_end(a.result.ssim()) <= high_end(oracle->result.ssim())) return;
  a.result.set_error(fmt::format(
      "its SSIM of {:.3f} exceeds the upper bound of {:.3f} by more than the intervals allow: the "
      "bound is none, or the attack knew more than it may; measure both again",
      a.ssim(), oracle->ssim()));
}

void compare(std::vector<Run>& runs) {
  const auto each = [](Run& run, auto what) {
    for (Attack& a : run.attacks) {
      if (a.has_numbers()) what(a);
    }
  };
  const std::map<SettingKey, std::vector<int>> unprotected = unprotected_runs(runs);
  for (Run& run : runs) {
    const auto candidates = unprotected.find(setting_key(run));
    if (candidates != unprotected.end())
      run.baseline = find_baseline(runs, run, candidates->second);
    const Run* none = run.baseline < 0 ? nullptr : &runs[static_cast<size_t>(run.baseline)];
    const Maybe before = none ? none->get("accuracy") : Maybe(), after = run.get("accuracy");
    if (before && after) run.accuracy_change = *after - *before;
    each(run, [&](Attack& a) {
      if (!a.is_floor() && !run.summary.has_blinded()) judge_by_floor(run, a);
    });
    each(run, [&](Attack& a) {
      if (a.is_oracle()) judge_yardstick(run, a);
    });
    each(run, [&](Attack& a) { refuse_above_upper_bound(run, a); });
  }
  for (Run& run : runs) {
    const Run* none = run.baseline < 0 ? nullptr : &runs[static_cast<size_t>(run.baseline)];
    each(run, [&](Attack& a) {
      if (a.is_floor()) return;
      a.of_oracle = share(&a, run.attack("oracle", a.metric()));
      if (!a.is_oracle()) judge_strength(none, a);
    });
  }
}

// ---- rows: runs over seeds

template <typename Field>
Spread over(const ReportData& all, const std::vector<int>& runs, Field field) {
  Spread out;
  for (const int run : runs) out.add(field(all.runs[static_cast<size_t>(run)]));
  return out;
}

void add_attacks(const ReportData& all, SeedGroup& row) {
  for (const int index : row.runs) {
    const Run& run = all.runs[static_cast<size_t>(index)];
    for (size_t i = 0; i < run.attacks.size(); ++i) {
      const Attack& a = run.attacks[i];
      auto found =
          std::find_if(row.attacks.begin(), row.attacks.end(), [&](const SeedGroupAttack& r) {
            return r.folder == a.folder && r.kind == a.kind() && r.metric == a.metric();
          });
      if (found == row.attacks.end()) {
        row.attacks.emplace_back();
        found = std::prev(row.attacks.end());
        found->folder = a.folder, found->kind = a.kind(), found->title = a.result.title();
        found->level = a.result.level(), found->metric = a.metric();
      }
      if (a.has_numbers()) found->members.emplace_back(index, static_cast<int>(i));
      if (!a.result.error().empty()) found->error = a.result.error();
      if (!a.result.pointless().empty()) found->pointless = a.result.pointless();
    }
  }
  for (SeedGroupAttack& r : row.attacks) {
    Spread ssim, psnr, own_pick, best, of_oracle, unprotected, recognised, reidentified;
    std::vector<const Attack*> by_strength;
    for (const auto& member : r.members) {
      const Attack& a = all.at(member);
      ssim.add(a.ssim());
      psnr.add(number(a.result, "psnr.mean"));
      own_pick.add(number(a.result, "own_pick.ssim"));
      best.add(a.best_ssim());
      of_oracle.add(a.of_oracle);
      unprotected.add(a.of_oracle_unprotected);
      by_strength.push_back(&a);
      recognised.add(number(a.result, "reference.recognised.mean"));
      reidentified.add(number(a.result, "reference.reidentified.mean"));
      r.with_truth = r.with_truth || a.with_truth();
    }
    const bool one = r.members.size() == 1;
    r.ssim = one ? all.at(r.members[0]).result.ssim() : ssim.interval();
    r.psnr = one ? all.at(r.members[0]).result.psnr() : psnr.interval();
    r.own_pick = own_pick.mean();
    r.best_ssim = best.interval(), r.worst_case = best.largest();
    if (one && r.best_ssim.mean() == r.ssim.mean()) r.best_ssim = r.ssim;
    r.of_oracle = of_oracle.mean(), r.of_oracle_unprotected = unprotected.mean();
    if (!by_strength.empty()) {
      std::ranges::stable_sort(by_strength, {}, &Attack::strength);
      const Attack& middle = *by_strength[(by_strength.size() - 1) / 2];
      r.strength = middle.strength, r.strength_word = middle.strength_word();
    }
    r.recognition_rate = recognised.mean(), r.reidentification_rate = reidentified.mean();
  }
  std::stable_sort(row.attacks.begin(), row.attacks.end(),
                   [](const SeedGroupAttack& a, const SeedGroupAttack& b) {
                     return attack_rank(a.kind) < attack_rank(b.kind);
                   });
}

SeedGroup make_row(const ReportData& all, std::vector<int> runs) {
  SeedGroup row;
  row.runs = std::move(runs);
  const auto each = [&](auto field) { return over(all, row.runs, field); };
  row.accuracy = each([](const Run& r) { return r.get("accuracy"); }).interval();
  row.change = each([](const Run& r) { return r.accuracy_change; }).interval();
  row.edge_ms = each([](const Run& r) { return r.edge_ms(); }).mean();
  row.edge_flops = each([](const Run& r) { return r.get("flops.edge"); }).mean();
  row.bytes_up = each([](const Run& r) { return r.get("bytes.up"); }).mean();
  row.rounds = each([](const Run& r) { return r.get("blinded.rounds"); }).mean();
  row.bytes_down = each([](const Run& r) { return r.get("bytes.down"); }).mean();
  add_attacks(all, row);
  return row;
}

// A run of a version without the setting is like one that has its default.
bool is_default(const std::string& path, const std::string& value) {
  const std::string text = default_text(path);
  return !text.empty() && (value == text || "\"" + value + "\"" == text);
}

bool is_attack_setting(const std::string& path) {
  return path == "seed" || path == "data.root" || path.rfind("attack.", 0) == 0;
}

// In what the rows of one title differ: "λ = 0.5, dropout = 0.3".
void tell_apart(const ReportData& all, Comparison& comparison) {
  for (SeedGroup& row : comparison.rows) {
    const Run& run = all.first(row);
    row.title = run.title();
    std::set<std::string> different;
    bool alone = true;
    for (const SeedGroup& other : comparison.rows) {
      const Run& theirs = all.first(other);
      if (&other == &row || theirs.title() != row.title) continue;
      alone = false;
      for (const auto& [path, value] : run.settings) {
        const auto it = theirs.settings.find(path);
        if (it != theirs.settings.end() && it->second != value) different.insert(path);
      }
    }
    std::string what;
    for (const std::string& path : different) {
      if (is_attack_setting(path) || path == "ensemble.nets" || path == "ensemble.selected")
        continue;
      what += ", " + path_label(path) + " = " + run.settings.at(path);
    }
    row.title += what.empty() && !alone ? " (" + run.name + ")" : what;
  }
}

void group(ReportData& all) {
  std::vector<std::string> keys;  // of the rows of the last setting
  for (size_t i = 0; i < all.runs.size(); ++i) {
    const Run& run = all.runs[i];
    const bool continued = i > 0 && setting_key(all.runs[i - 1]) == setting_key(run);
    if (!continued) {
      all.comparisons.push_back({run.task(), run.setting(), {}, {}});
      keys.clear();
    }
    std::vector<SeedGroup>& rows = all.comparisons.back().rows;
    const auto found = std::find(keys.begin(), keys.end(), identity(run)) - keys.begin();
    if (found == std::ssize(keys)) {
      keys.push_back(identity(run));
      rows.emplace_back();
    }
    rows[static_cast<size_t>(found)].runs.push_back(static_cast<int>(i));
  }
  std::map<std::string, int> of_title;
  for (const Comparison& comparison : all.comparisons) ++of_title[comparison.title];
  for (Comparison& comparison : all.comparisons) {
    for (SeedGroup& row : comparison.rows) row = make_row(all, row.runs);
    tell_apart(all, comparison);
    for (const SeedGroup& row : comparison.rows) {
      for (const int i : row.runs) {
        Run& run = all.runs[static_cast<size_t>(i)];
        run.label = row.title;
        if (row.runs.size() > 1 && run.seed()) run.label += fmt::format(", seed {}", *run.seed());
      }
    }
    if (of_title[comparison.title] > 1) {
      const Run& run = all.first(comparison.rows[0]);  // what else the settings differ in
      if (const Maybe up = run.get("bytes.up"))
        comparison.title += fmt::format(", {} bytes sent", *up);
      if (const Maybe images = run.get("train_images"))
        comparison.title += fmt::format(", {} training images", *images);
    }
  }
  for (size_t i = 0; i < all.failed.size(); ++i) {
    const FailedCell& cell = all.failed[i];
    auto found = std::find_if(all.comparisons.begin(), all.comparisons.end(),
                              [&](const Comparison& s) { return s.title == cell.setting; });
    if (found == all.comparisons.end())
      found = all.comparisons.insert(all.comparisons.end(), {cell.task, cell.setting, {}, {}});
    found->failed.push_back(static_cast<int>(i));
  }
}

std::string capitalised(std::string word) {
  if (!word.empty()) word[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(word[0])));
  return word;
}

}  // namespace

bool Attack::is_curve() const {
  return result.parts_size() > 0 &&
         std::ranges::all_of(result.parts(), [](const auto& part) { return part.has_x(); });
}

Maybe Attack::best_ssim() const {
  if (!has_numbers()) return {};
  const auto& negative = result.negative();
  return negative.better() && negative.has_ssim() ? std::max(ssim(), negative.ssim()) : ssim();
}

std::string Attack::negative_name() const {
  return result.negative().has_polarity() ? result.negative().polarity() : "luminance negative";
}

const char* name(Strength strength) {
  switch (strength) {
    case Strength::kFailed:
      return "failed";
    case Strength::kWeak:
      return "weak";
    case Strength::kNotCalibrated:
      return "not calibrated";
    case Strength::kStrong:
      return "strong";
  }
  return "";
}

std::string Attack::strength_word() const {
  if (!has_numbers()) return "";
  if (is_floor()) return "floor";
  if (!is_oracle()) return name(strength);
  return !can_measure()     ? "too weak to measure by"
         : is_upper_bound() ? "upper bound"
                            : "decoder on true features";
}

const Attack* Run::attack(const std::string& kind, const std::string& metric) const {
  for (const Attack& a : attacks) {
    if (a.kind() == kind && a.has_numbers() && (metric.empty() || a.metric() == metric)) return &a;
  }
  return nullptr;
}

std::string Run::metric() const {
  std::string found = "default";
  for (const Attack& a : attacks) {
    if (!a.has_numbers()) continue;
    if (a.metric() == "default") return a.metric();
    found = a.metric();
  }
  return found;
}

std::string Run::protection_name() const {
  const ProtectionInfo* known = find_protection(protection());
  return known ? known->title : capitalised(protection());
}

bool Run::is_protected() const { return protection() != unprotected_kind(); }

std::string Run::title() const {
  if (const auto& b = summary.blinded(); summary.has_blinded())
    return fmt::format("Blinded{}, {} of {} clouds",
                       b.scheme() == "darknight_real" ? " over real numbers" : "", b.colluding(),
                       b.clouds());
  std::string title = protection_name();
  const ProtectionInfo* known = find_protection(protection());
  if (!known || known->nets != ServerNets::kOne) {
    if (const Maybe nets = get("nets")) title += fmt::format(", N = {}", *nets);
    const Maybe selected = get("selected");
    if (selected && (!known || known->nets == ServerNets::kSelected))
      title += fmt::format(", P = {}", *selected);
  }
  if (const Maybe bits = get("channel.bits")) title += fmt::format(", R = {:g} bits", *bits);
  const auto fresh = settings.find("protection.fresh_noise");
  if (fresh != settings.end() && fresh->second == "true") title += ", fresh noise";
  return title;
}

std::string Run::task() const {
  const Maybe width = summary.architecture() == "lenet" ? Maybe() : get("width");  // has none
  return summary.data() + ", " + summary.architecture() +
         (width ? fmt::format(" width {}", *width) : "");
}

std::string Run::setting() const {
  const Maybe head = get("split.head"), tail = get("split.tail");
  return task() + (head && tail ? fmt::format(", split h = {}, t = {}", *head, *tail) : "");
}

Maybe Run::latency(const std::string& part, const char* percentile) const {
  return serving ? number(*serving, "latency_ms." + part + "." + percentile) : Maybe();
}

Maybe Run::edge_ms() const {
  const Maybe head = latency("head"), tail = latency("tail");
  return head && tail ? Maybe(*head + *tail) : Maybe();
}

const Attack* strongest(const Run& run) {
  const Attack* best = nullptr;
  for (const Attack& a : run.attacks) {
    if (a.is_oracle() || a.is_floor() || !a.has_numbers() || a.metric() != run.metric()) continue;
    if (!best || *a.best_ssim() > *best->best_ssim()) best = &a;
  }
  return best;
}

const SeedGroupAttack* SeedGroup::attack(const std::string& kind, const std::string& metric) const {
  for (const SeedGroupAttack& a : attacks) {
    if (a.kind == kind && a.metric == metric && !a.members.empty()) return &a;
  }
  return nullptr;
}

std::string identity(const Run& run, const std::set<std::string>& but_for) {
  std::string out;
  for (const auto& [path, value] : run.settings) {
    if (is_attack_setting(path) || but_for.count(path) || is_default(path, value)) continue;
    out += path + "=" + value + "\n";
  }
  if (run.summary.has_blinded()) out += run.title();
  return out;
}

std::string path_label(const std::string& path) {
  static const std::map<std::string, std::string> kLabels = {
      {"model.head_cells", "h"},        {"model.tail_cells", "t"},     {"model.width", "width"},
      {"model.architecture", "model"},  {"ensemble.nets", "N"},        {"ensemble.selected", "P"},
      {"ensemble.sigma", "\u03c3"},     {"ensemble.lambda", "\u03bb"}, {"data.name", "data"},
      {"protection.kind", "protection"}};
  const auto label = kLabels.find(path);
  if (label != kLabels.end()) return label->second;
  std::string out = path.rfind("protection.", 0) == 0 ? path.substr(path.find('.') + 1) : path;
  std::replace(out.begin(), out.end(), '_', ' ');
  return out;
}

namespace {

template <size_t N>
size_t rank_in(const std::string_view (&names)[N], const std::string& name) {
  return static_cast<size_t>(std::ranges::find(names, name) - names);
}

constexpr std::string_view kDisguises[] = {
#define DISGUISE(name, title, keyed, meaning) #name,
#include "proto/disguises.inc"
#undef DISGUISE
};

constexpr std::string_view kDisguiseAttacks[] = {
#define ATTACK(name) #name,
#include "proto/disguise_attacks.inc"
#undef ATTACK
};

constexpr std::string_view kTextAttacks[] = {
#define ATTACK(name) #name,
#include "proto/text_attacks.inc"
#undef ATTACK
};

}  // namespace

ReportData collect(const std::vector<std::filesystem::path>& folders, Detail detail) {
  ReportData all = read_folders(folders, detail);
  std::stable_sort(all.runs.begin(), all.runs.end(), [](const Run& a, const Run& b) {
    const auto key = [](const Run& r) {
      return std::tuple(setting_key(r), protection_rank(r.protection()), r.get("nets"),
                        r.get("selected"), r.get("sigma"), r.get("lambda"), r.folder);
    };
    return key(a) < key(b);
  });
  for (Run& run : all.runs) {
    std::stable_sort(run.attacks.begin(), run.attacks.end(), [](const Attack& a, const Attack& b) {
      return attack_rank(a.kind()) < attack_rank(b.kind());
    });
  }
  const auto others = std::stable_partition(all.runs.begin(), all.runs.end(),
                                            [](const Run& r) { return !r.summary.has_disguise(); });
  std::move(others, all.runs.end(), std::back_inserter(all.disguised));
  all.runs.erase(others, all.runs.end());
  for (Run& run : all.disguised) {
    const auto& disguise = run.summary.disguise();
    std::ranges::stable_sort(run.attacks, {},
                             [](const Attack& a) { return rank_in(kDisguiseAttacks, a.kind()); });
    run.label = disguise.method() + (disguise.settings().empty() ? "" : ", ") + disguise.settings();
  }
  std::ranges::stable_sort(all.disguised, {}, [](const Run& r) {
    return std::tuple(r.task(), rank_in(kDisguises, r.summary.disguise().method()), r.folder);
  });
  const auto images = std::stable_partition(all.runs.begin(), all.runs.end(),
                                            [](const Run& r) { return !r.summary.has_text(); });
  std::move(images, all.runs.end(), std::back_inserter(all.translated));
  all.runs.erase(images, all.runs.end());
  for (Run& run : all.translated) {
    std::ranges::stable_sort(run.attacks, {}, [](const Attack& a) {
      std::string name = a.kind();
      std::ranges::replace(name, '-', '_');
      return rank_in(kTextAttacks, name);
    });
  }
  std::ranges::stable_sort(all.translated, {}, [](const Run& r) {
    return std::tuple(protection_rank(r.protection()), r.summary.text().head_layers(), r.folder);
  });
  compare(all.runs);
  group(all);
  return all;
}

}  // namespace ens::report
