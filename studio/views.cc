// SPDX-License-Identifier: Apache-2.0
#include "studio/views.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "experiment/run_dir.h"
#include "lab/config_flags.h"
#include "report/certificate.h"
#include "report/data.h"
#include "report/published.h"
#include "studio/site.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using report::Maybe;

// A seed may lead to a selector that was drawn from it; paths say what this disk looks like.
bool is_private(const std::string& path) {
  static const std::set<std::string> kPrivate = {"seed", "data.root", "attack.seed",
                                                 "attack.settings"};
  return kPrivate.contains(path) || path.find("seed") != std::string::npos ||
         path.find("key") != std::string::npos || path.ends_with("root");
}

void fill_cell(const report::ReportData& all, const report::SeedGroupAttack& a, const Index& index,
               studio::Matrix::Cell& cell) {
  cell.set_attack(a.kind);
  cell.set_title(a.title);
  cell.set_level(a.level);
  cell.set_metric(a.metric);
  cell.set_folder(a.folder);
  cell.set_seeds(static_cast<int>(a.members.size()));
  if (!a.error.empty()) cell.set_error(a.error);
  if (!a.pointless.empty()) cell.set_pointless(a.pointless);
  if (a.members.empty()) return;
  const report::Run& run = all.runs[static_cast<size_t>(a.members.front().first)];
  const report::Attack& first = all.at(a.members.front());
  cell.set_run(index.id_of(run.folder));
  *cell.mutable_ssim() = a.ssim;
  *cell.mutable_psnr() = a.psnr;
  *cell.mutable_best_ssim() = a.best_ssim;
  if (a.worst_case) cell.set_worst_case(*a.worst_case);
  if (a.own_pick) cell.set_own_pick(*a.own_pick);
  if (a.of_oracle) cell.set_of_oracle(*a.of_oracle);
  if (a.recognition_rate) cell.set_recognised(*a.recognition_rate);
  if (a.reidentification_rate) cell.set_reidentified(*a.reidentification_rate);
  cell.set_strength(a.strength_word);
  cell.set_trusted(a.strength == report::Strength::kStrong || first.is_floor() ||
                   (first.is_oracle() && first.can_measure()));
  if (!first.why.empty()) cell.set_why(first.why);
}

void fill_row(const report::ReportData& all, const report::SeedGroup& group, const Index& index,
              studio::Matrix::Row& row) {
  const report::Run& run = all.first(group);
  row.set_title(group.title);
  row.set_protection(run.protection());
  for (const int i : group.runs) row.add_runs(index.id_of(all.runs[static_cast<size_t>(i)].folder));
  *row.mutable_accuracy() = group.accuracy;
  *row.mutable_change() = group.change;
  if (group.edge_ms) row.set_edge_ms(*group.edge_ms);
  if (group.edge_flops) row.set_edge_flops(*group.edge_flops);
  if (group.bytes_up) row.set_bytes_up(*group.bytes_up);
  if (group.bytes_down) row.set_bytes_down(*group.bytes_down);
  if (const Maybe head = run.get("split.head")) row.set_head(static_cast<int>(*head));
  if (const Maybe tail = run.get("split.tail")) row.set_tail(static_cast<int>(*tail));
  if (const Maybe bits = run.get("channel.bits")) row.set_bits(*bits);
  for (const report::SeedGroupAttack& a : group.attacks) fill_cell(all, a, index, *row.add_cells());
}

// A disguised training; its cells say the verdict by this attack alone.
void fill_disguised(const report::ReportData& all, const report::Run& run, const Index& index,
                    studio::Matrix::Row& row) {
  const results::RunSummary::Disguise& disguise = run.summary.disguise();
  row.set_disguised(true);
  row.set_title(report::disguise_title(disguise));
  row.set_protection(disguise.method());
  row.add_runs(index.id_of(run.folder));
  if (const Maybe accuracy = run.get("accuracy")) {
    row.mutable_accuracy()->set_mean(*accuracy);
    if (const Maybe plain = report::plain_accuracy(all, run);
        plain && disguise.method() != "identity")
      row.mutable_change()->set_mean(*accuracy - *plain);
  }
  if (disguise.has_disguised_bytes()) row.set_bytes_up(disguise.disguised_bytes());
  for (const report::Attack& a : run.attacks) {
    studio::Matrix::Cell& cell = *row.add_cells();
    cell.set_attack(a.kind());
    cell.set_title(a.result.title());
    cell.set_level(a.result.level());
    cell.set_metric(a.metric());
    cell.set_folder(a.folder);
    cell.set_run(row.runs(0));
    if (a.result.has_error()) cell.set_error(a.result.error());
    if (a.result.has_pointless()) cell.set_pointless(a.result.pointless());
    if (!a.has_numbers()) continue;
    cell.set_seeds(1);
    *cell.mutable_ssim() = a.result.ssim();
    *cell.mutable_psnr() = a.result.psnr();
    if (const Maybe ssim = a.best_ssim()) cell.mutable_best_ssim()->set_mean(*ssim);
    if (a.result.reference().recognised().has_mean())
      cell.set_recognised(a.result.reference().recognised().mean());
    const results::Interval& rank1 = a.result.matching().rank1();
    if (!rank1.has_mean()) continue;
    cell.set_reidentified(rank1.mean());
    const bool reads = report::reads_plain(all, run, a);
    cell.set_strength(report::verdict_word(rank1.mean(), reads));
    cell.set_trusted(reads || rank1.mean() >= 0.05);
    if (!cell.trusted()) cell.set_why("no run shows that it reads plain images");
  }
}

void fill_published(const report::ReportData& all, studio::Matrix& out) {
  for (const report::PublishedTable& table : report::published(all)) {
    studio::Matrix::Published& t = *out.add_published();
    t.set_source(table.source);
    for (const report::PublishedRow& from : table.rows) {
      auto& row = *t.add_rows();
      row.set_group(from.group);
      row.set_name(from.name);
      if (from.change) row.set_change(*from.change);
      if (from.ssim) row.set_ssim(*from.ssim);
      if (from.psnr) row.set_psnr(*from.psnr);
      if (from.our_change) row.set_our_change(*from.our_change);
      if (from.our_ssim) row.set_our_ssim(*from.our_ssim);
      if (!from.ours.empty()) row.set_ours(from.ours);
    }
  }
}

// Of each of `most / 2` equal stretches the smallest and the largest point, in their order: no
// peak is lost.
void thin(studio::Curves::Line& line, int most) {
  const int points = line.x_size();
  line.set_points(points);
  if (points <= most) return;
  const int stretches = std::max(1, most / 2);
  std::vector<int> kept;
  for (int s = 0; s < stretches; ++s) {
    const int begin = static_cast<int>(int64_t{points} * s / stretches);
    const int end = static_cast<int>(int64_t{points} * (s + 1) / stretches);
    int low = begin, high = begin;
    for (int i = begin; i < end; ++i) {
      if (line.y(i) < line.y(low)) low = i;
      if (line.y(i) > line.y(high)) high = i;
    }
    kept.push_back(std::min(low, high));
    if (low != high) kept.push_back(std::max(low, high));
  }
  studio::Curves::Line out;
  for (const int i : kept) out.add_x(line.x(i)), out.add_y(line.y(i));
  *line.mutable_x() = out.x();
  *line.mutable_y() = out.y();
}

}  // namespace

std::string public_command(const std::string& command) {
  std::string out, word, plain;  // `plain`: the word without its quotes
  bool quoted = false, after_data = false;
  const auto end_word = [&] {
    const std::string setting = plain.starts_with("--set=") ? plain.substr(6) : plain;
    const size_t sign = setting.find('=');
    const std::string path = setting.substr(0, sign);
    if (sign != std::string::npos &&
        (path == "--data" || is_private(path) || setting.find('{', sign) != std::string::npos)) {
      word = plain.substr(0, plain.size() - setting.size() + sign + 1) + "...";
    } else if (after_data) {
      word = "...";
    }
    after_data = plain == "--data";
    out += word;
    word.clear();
    plain.clear();
  };
  for (size_t i = 0; i < command.size(); ++i) {  // as shell_quoted() quotes
    const char c = command[i];
    if (c == ' ' && !quoted) {
      end_word();
      out += c;
      continue;
    }
    word += c;
    if (c == '\'') {
      quoted = !quoted;
    } else if (c == '\\' && !quoted && i + 1 < command.size()) {
      word += command[++i];
      plain += command[i];
    } else {
      plain += c;
    }
  }
  end_word();
  return out;
}

const Index::Run& find_run(const Index::Snapshot& snapshot, const std::string& id) {
  const Index::Run* run = snapshot.run(id);
  if (!run) throw Refusal(404, "there is no such run (it may have been deleted)", "run");
  return *run;
}

studio::RunView run_view(const Index::Run& run, const Index& index, Pictures& pictures) {
  studio::RunView view;
  *view.mutable_entry() = run.entry;
  const report::ReportData all = report::read_folders({run.folder}, report::Detail::kNumbers);
  for (const report::Skipped& skipped : all.skipped)
    view.add_damage(index.shown(skipped.what) + ": " + skipped.reason);
  const auto found = std::ranges::find(all.runs, run.folder, &report::Run::folder);
  if (found == all.runs.end()) return view;
  *view.mutable_summary() = found->summary;
  if (found->serving) *view.mutable_serving() = *found->serving;
  view.set_command(public_command(found->info.command()));
  view.set_device(found->info.device());
  view.set_version(found->info.version());
  view.set_revision(found->info.revision());
  if (found->certificate) {
    *view.mutable_certificate() = *found->certificate;
    view.set_certificate_text(certificate_text(*found->certificate));
  }
  for (const auto& [path, value] : found->settings) {
    if (is_private(path) || path.starts_with("attack.") || value.starts_with('{')) continue;
    studio::Setting& setting = *view.add_settings();
    setting.set_path(path);
    setting.set_value(value);
  }
  for (const report::Attack& a : found->attacks) {
    studio::AttackView& attack = *view.add_attacks();
    *attack.mutable_result() = a.result;
    for (auto& seed : *attack.mutable_result()->mutable_seeds()) seed.clear_seed();
    attack.set_folder(a.folder);
    const fs::path folder = run.folder / "attack" / a.folder;
    attack.set_original(pictures.add_file(folder / "original.png"));
    attack.set_reconstruction(pictures.add_file(folder / "reconstruction.png"));
    attack.set_command(command_to_paste(
        {"ensembler", "attack", index.given(run.folder), "--attack", a.kind(), "--rerun"}));
  }
  return view;
}

studio::Curves curves_view(const Index::Run& run, const std::string& metric, int most) {
  RunView read = read_run(run.folder);
  if (read.metrics.empty() && fs::exists(run.folder / "cloud"))  // the cloud's half is at work
    read.metrics = read_run(run.folder / "cloud").metrics;
  // By net: epochs, then the mean of what was measured in each.
  std::map<std::tuple<std::string, std::string, int>, std::map<int64_t, std::pair<double, int>>>
      lines;
  for (const Metric& m : read.metrics) {
    if (!std::isfinite(m.value) || (!metric.empty() && m.name != metric)) continue;
    auto& [sum, count] = lines[{m.stage, m.name, m.net}][m.epoch + 1];
    sum += m.value;
    ++count;
  }
  studio::Curves out;
  out.set_finished(read.done);
  for (const auto& [key, points] : lines) {
    studio::Curves::Line& line = *out.add_lines();
    line.set_stage(std::get<0>(key));
    line.set_name(std::get<1>(key));
    line.set_net(std::get<2>(key));
    for (const auto& [epoch, value] : points) {
      line.add_x(static_cast<double>(epoch));
      line.add_y(value.first / value.second);
    }
    thin(line, most);
  }
  return out;
}

studio::Matrix matrix_view(const Index::Group& group, const Index& index) {
  const report::ReportData all = report::collect({group.folder}, report::Detail::kNumbers);
  studio::Matrix out;
  *out.mutable_group() = group.entry;
  for (const report::Comparison& from : all.comparisons) {
    studio::Matrix::Comparison& comparison = *out.add_comparisons();
    comparison.set_title(from.title);
    if (!from.rows.empty()) comparison.set_data(all.first(from.rows.front()).summary.data());
    for (const report::SeedGroup& row : from.rows)
      fill_row(all, row, index, *comparison.add_rows());
    for (const int i : from.failed) {
      const auto& failed = all.failed[static_cast<size_t>(i)];
      studio::Matrix::Row& row = *comparison.add_rows();
      row.set_title(failed.title);
      row.set_status(failed.status);
      row.set_reason(failed.reason);
    }
  }
  std::map<std::string, studio::Matrix::Comparison*> of_task;
  for (const report::Run& run : all.disguised) {
    studio::Matrix::Comparison*& comparison = of_task[run.task()];
    if (!comparison) {
      comparison = out.add_comparisons();
      comparison->set_title(run.task() + ", disguised training");
      comparison->set_data(run.summary.data());
    }
    fill_disguised(all, run, index, *comparison->add_rows());
  }
  fill_published(all, out);
  for (const report::Skipped& from : all.skipped) {
    studio::Matrix::Skipped& skipped = *out.add_skipped();
    skipped.set_what(index.shown(from.what));
    skipped.set_reason(from.reason);
  }
  return out;
}

}  // namespace ens
