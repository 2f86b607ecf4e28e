// SPDX-License-Identifier: Apache-2.0
// The report's tables.
#include <fmt/format.h>

#include <algorithm>

#include "base/strings.h"
#include "proto/results.h"
#include "report/certificate.h"
#include "report/html.h"
#include "report/published.h"
#include "report/sections.h"

namespace ens::report {
namespace {

std::string nowrap(const std::string& html) { return "<span class=\"nowrap\">" + html + "</span>"; }

// The badge of a strength, by its word.
std::string strength_badge(Strength strength, const std::string& word) {
  const bool plain = strength == Strength::kNotCalibrated || word == "floor";
  return badge(plain                           ? "plain"
               : word == "upper bound"         ? "bound"
               : strength == Strength::kStrong ? "strong"
                                               : "weak",
               word);
}

std::string strength_cell(const Attack& a) {
  std::string out = strength_badge(a.strength, a.strength_word());
  if (a.of_oracle_unprotected) {
    out += " " + (a.strength == Strength::kStrong ? percent(a.of_oracle_unprotected, 0)
                                                  : weak_share(*a.of_oracle_unprotected));
  }
  return nowrap(out) + (a.why.empty() ? "" : "<br>" + muted(escape(a.why)));
}

// What the reference classifier recognises, of what it recognises of the originals.
std::string seen_cell(const Attack& a) {
  const results::AttackResult::Reference& seen = a.result.reference();
  if (!seen.recognised().has_mean()) return "\u2013";
  std::string out = percent(seen.recognised().mean(), 0);
  if (seen.has_originals()) out += " " + muted("of " + percent(seen.originals(), 0));
  if (seen.reidentified().has_mean())
    out += "<br>" + muted("re-id. " + percent(seen.reidentified().mean(), 0));
  return nowrap(out);
}

// What a decoder was trained on.
std::string budget(const results::AttackResult::Round& r) {
  return fmt::format("{} images, {} steps, {} of CPU time", r.images(), r.steps(),
                     duration(r.cpu_seconds()));
}

// How a decoder on true features grew, until it gained no more.
std::string saturation_table(const results::AttackResult& r) {
  Table table({left("Loss"), right("Channels"), right("Blocks"), right("Images"),
               right("Images passed"), right("Steps"), right("SSIM, held out"), right("PSNR, dB"),
               right("CPU time")});
  for (const auto& round : r.rounds()) {
    table.add({left(escape(round.loss())), right(plain(round.channels())),
               right(plain(round.blocks())), right(plain(round.images())),
               right(plain(round.passes())), right(plain(round.steps())),
               right(fixed(round.ssim(), 3)), right(fixed(round.psnr(), 2)),
               right(duration(round.cpu_seconds()))});
  }
  return table.str();
}

std::string attack_notes(const Attack& a) {
  const results::AttackResult& r = a.result;
  std::vector<std::string> notes;
  if (a.with_truth()) {
    notes.push_back(fmt::format("best of {}, <strong>selected using the ground truth</strong>{}",
                                r.best_of(),
                                r.chosen_by().empty() ? "" : ": " + escape(r.chosen_by())));
  }
  if (r.has_own_pick() && a.with_truth()) {
    notes.push_back(fmt::format(
        "the attacker\u2019s own choice {}: SSIM {}, PSNR {}", escape(r.own_pick().name()),
        format(number(r, "own_pick.ssim"), kSsim), format(number(r, "own_pick.psnr"), kPsnr)));
  }
  const auto psnr = [](const auto& part) { return number(part, "psnr").value_or(-1); };
  const auto best = std::ranges::max_element(r.parts(), {}, psnr);
  if (r.parts_size() > 1 && !a.is_curve() && best->has_psnr()) {
    notes.push_back(
        fmt::format("best PSNR {} dB: {}", fixed(best->psnr(), 2), escape(best->name())));
  }
  if (r.negative().better()) {
    notes.push_back(fmt::format(
        "<strong>its {} is better</strong>: SSIM {}, PSNR {}", escape(a.negative_name()),
        format(number(r, "negative.ssim"), kSsim), format(number(r, "negative.psnr"), kPsnr)));
  }
  if (r.rounds_size() == 1) notes.push_back(budget(r.rounds(0)));
  if (r.has_shadow_accuracy()) notes.push_back("shadow accuracy " + percent(r.shadow_accuracy()));
  if (a.metric() != "default") notes.push_back("metric " + escape(a.metric()));
  if (r.scored_images() > 0) notes.push_back(fmt::format("{} images", r.scored_images()));
  if (r.has_best_image() && r.has_worst_image()) {
    notes.push_back(fmt::format("from SSIM {} (test image {}) to {} (test image {})",
                                fixed(r.worst_image().ssim(), kSsim), r.worst_image().image(),
                                fixed(r.best_image().ssim(), kSsim), r.best_image().image()));
  }
  if (r.has_seconds()) notes.push_back(duration(r.seconds()));
  std::string out;
  for (const std::string& note : notes) out += (out.empty() ? "" : "; ") + note;
  return out;
}

// Why a run is marked although it is there.
std::string sweep_note(const Run& run) {
  return run.note.empty() ? "" : "<br>" + badge("failed", "sweep") + " " + muted(escape(run.note));
}

std::string row_title(const ReportData& all, const SeedGroup& row) {
  std::string out = escape(row.title);
  if (row.runs.size() > 1) {
    std::set<Maybe> seeds;
    for (const int i : row.runs) seeds.insert(all.runs[static_cast<size_t>(i)].seed());
    out += "<br>" + muted(fmt::format("{} {}", row.runs.size(),
                                      seeds.size() == row.runs.size() ? "seeds" : "runs"));
  }
  for (const int i : row.runs) out += sweep_note(all.runs[static_cast<size_t>(i)]);
  return out;
}

void add_failed(const ReportData& all, const Comparison& comparison, Table& table) {
  for (const int i : comparison.failed) {
    const FailedCell& cell = all.failed[static_cast<size_t>(i)];
    table.add_wide(escape(cell.title),
                   badge("failed", escape(cell.status)) + " " + escape(cell.reason));
  }
}

std::string setting_title(const Comparison& comparison) {
  return comparison.title.empty() ? "Cells whose setting is not known" : escape(comparison.title);
}

// A share or a change of one, in percent or points, with the range over seeds.
std::string with_spread(const Interval& share, bool as_change = false) {
  if (!share.has_mean()) return "\u2013";
  std::string out = as_change ? fixed(share.mean() * 100, 1, true) : percent(share.mean());
  if (share.has_low() && share.has_high()) {
    out += "<br>" + muted(fixed(share.low() * 100, 1, as_change) + " to " +
                          fixed(share.high() * 100, 1, as_change));
  }
  return out;
}

std::string matrix_cell(const SeedGroupAttack& a) {
  if (a.members.empty()) {
    return a.pointless.empty() ? badge("failed", "failed") : muted("does not apply");
  }
  std::string out = "<b>" + fixed(a.ssim.mean(), kSsim) + "</b>" + (a.with_truth ? "\u2020" : "");
  if (const std::string half = plus_minus(a.ssim, kSsim); !half.empty())
    out += "<br>" + muted(half);
  if (a.psnr.has_mean()) out += "<br>" + fixed(a.psnr.mean(), kPsnr) + "\u202fdB";
  if (a.own_pick && a.with_truth) out += "<br>" + muted("own choice " + format(a.own_pick, kSsim));
  if (a.best_ssim.mean() > a.ssim.mean())
    out += "<br>" + muted("negative " + fixed(a.best_ssim.mean(), kSsim));
  if (a.strength == Strength::kStrong && a.strength_word != "upper bound") return out;
  out += "<br>" + strength_badge(a.strength, a.strength_word);
  return a.strength == Strength::kWeak && a.of_oracle_unprotected
             ? out + " " + weak_share(*a.of_oracle_unprotected)
             : out;
}

// One an attack and metric, in the order of the rows.
std::vector<const SeedGroupAttack*> attack_columns(const std::vector<const Comparison*>& settings) {
  std::vector<const SeedGroupAttack*> columns;
  for (const Comparison* comparison : settings) {
    for (const SeedGroup& row : comparison->rows) {
      size_t at = 0;  // where the next new one goes
      for (const SeedGroupAttack& a : row.attacks) {
        const auto found =
            std::find_if(columns.begin(), columns.end(), [&](const SeedGroupAttack* c) {
              return c->folder == a.folder && c->metric == a.metric;
            });
        if (found == columns.end()) {
          columns.insert(columns.begin() + static_cast<int64_t>(at++), &a);
        } else {
          at = static_cast<size_t>(found - columns.begin()) + 1;
        }
      }
    }
  }
  return columns;
}

void add_overview_row(const ReportData& all, const SeedGroup& row,
                      const std::vector<const SeedGroupAttack*>& columns, Table& table) {
  const bool open = !all.first(row).is_protected();
  std::string accuracy = with_spread(row.accuracy);
  if (!open && row.change.has_mean())
    accuracy += "<br>" + with_spread(row.change, /*as_change=*/true);
  std::vector<Cell> cells = {left(row_title(all, row)), right(accuracy)};
  for (const SeedGroupAttack* column : columns) {
    const auto a =
        std::find_if(row.attacks.begin(), row.attacks.end(), [&](const SeedGroupAttack& r) {
          return r.folder == column->folder && r.metric == column->metric;
        });
    cells.push_back(right(a == row.attacks.end() ? "\u2013" : matrix_cell(*a)));
  }
  const std::string rounds =
      row.rounds ? "<br>" + muted(fmt::format("in {} rounds", *row.rounds)) : "";
  for (const std::string& cost : {nowrap(bytes(row.bytes_up)) + rounds,
                                  nowrap(bytes(row.bytes_down)), format(row.edge_ms, kMs)})
    cells.push_back(right(cost));
  table.add(cells);
}

std::string machine_of(const Run& run) { return join({run.info.processor(), run.info.device()}); }

// Where the runs were served that were.
std::string serving_machines(const ReportData& all) {
  std::set<std::string> machines;
  for (const Run& run : all.runs) {
    if (run.serving) machines.insert(machine_of(run));
  }
  machines.erase("");
  return machines.size() == 1  ? ", on " + escape(*machines.begin())
         : machines.size() > 1 ? ", on the machines named under Latency and bytes"
                               : "";
}

}  // namespace

std::string overview_table(const ReportData& all) {
  std::vector<std::pair<std::string, std::vector<const Comparison*>>> tasks;  // one table each
  for (const Comparison& comparison : all.comparisons) {
    auto found = std::find_if(tasks.begin(), tasks.end(),
                              [&](const auto& task) { return task.first == comparison.task; });
    if (found == tasks.end()) found = tasks.insert(tasks.end(), {comparison.task, {}});
    found->second.push_back(&comparison);
  }
  std::string out;
  for (const auto& [task, settings] : tasks) {
    const std::vector<const SeedGroupAttack*> columns = attack_columns(settings);
    std::vector<Cell> head = {left("Protection"), right("Accuracy;<br>change, points")};
    for (const SeedGroupAttack* a : columns) {
      head.push_back(right("<span title=\"" + escape(a->title + ", " + a->level) + "\">" +
                           escape(a->folder) + "</span>" +
                           (a->metric == "default" ? "" : "<br>" + muted(escape(a->metric)))));
    }
    for (const char* cost : {"Sent", "Received", "Edge, ms"}) head.push_back(right(cost));
    Table table(head, "matrix");
    for (const Comparison* comparison : settings) {
      table.band(setting_title(*comparison));
      for (const SeedGroup& row : comparison->rows) add_overview_row(all, row, columns, table);
      add_failed(all, *comparison, table);
    }
    out += table.str();
  }
  return section(
      "Defences and attacks", out,
      "SSIM of what each attack reconstructed, PSNR beneath; lower is better protected. \u00b1 is "
      "half "
      "the "
      "bootstrap 95\u202f% interval over the images, or, of several seeds, half the range of "
      "their "
      "means. A decoder on true features is what leaks at most where it is marked as an upper "
      "bound, "
      "that is, grown until it gained no more. "
      "\u2020: the best of several reconstructions, selected using the ground truth; the "
      "attacker\u2019s own choice is beneath. <b>Weak</b>: against no protection at this split the "
      "attack reaches only this share of that decoder, less than 80\u202f%, so its number flatters "
      "every protection. Bytes are per image; edge milliseconds are medians where the run was "
      "served" +
          serving_machines(all) + ".");
}

namespace {

// What each selected net adds to the logits, and its accuracy alone; empty for one net.
std::string selected_nets(const results::RunSummary& summary) {
  if (summary.selected_nets().empty()) return "";
  std::vector<std::string> shares, alone;
  for (const auto& net : summary.selected_nets()) {
    shares.push_back(fixed(net.share() * 100, 0));
    alone.push_back(fixed(net.accuracy() * 100, 1));
  }
  return "<br>" +
         muted(fmt::format("selected networks: {} % of the logits; alone {} %", join(shares),
                           join(alone))) +
         (results::in_effect_one_net(summary) ? "<br>in effect one network" : "");
}

}  // namespace

std::string accuracy_table(const ReportData& all) {
  Table table({left("Protection"), right("Accuracy"), right("Change, points"),
               right("Single networks"), right("Similarity reached"), right("\u03c3"),
               right("\u03bb"), right("Edge FLOPs"), right("Cloud FLOPs"), right("Training")});
  for (const Comparison& comparison : all.comparisons) {
    if (comparison.rows.empty()) continue;
    if (all.comparisons.size() > 1) table.band(setting_title(comparison));
    for (const SeedGroup& row : comparison.rows) {
      const Run& run = all.first(row);
      std::string nets = "\u2013", time, notes;
      if (!run.summary.net_accuracy().empty()) {
        const auto [low, high] = std::minmax_element(run.summary.net_accuracy().begin(),
                                                     run.summary.net_accuracy().end());
        nets = percent(*low);
        if (*low != *high) nets = fixed(*low * 100, 1) + " to " + percent(*high);
      }
      const auto& stages = run.summary.seconds();
      for (const auto& [stage, seconds] : std::map(stages.begin(), stages.end())) {
        time += (time.empty() ? "" : "<br>") + escape(stage) + " " + duration(seconds);
      }
      if (const Maybe snr = run.get("snr"))
        notes += "<br>" + muted("signal to noise " + fixed(*snr, 2));
      if (const Maybe correlation = run.get("distance_correlation"))
        notes += "<br>" + muted("distance correlation " + fixed(*correlation, 3));
      notes += selected_nets(run.summary);
      const std::string images =
          run.summary.has_test_images()
              ? "<br>" + muted(fmt::format("{} images", run.summary.test_images()))
              : "";
      table.add({left(row_title(all, row) + notes), right(with_spread(row.accuracy) + images),
                 right(!run.is_protected() ? "\u2013" : with_spread(row.change, true)), right(nets),
                 right(format(run.get("similarity"), 3)), right(plain(run.get("sigma"))),
                 right(plain(run.get("lambda"))), right(flops(run.get("flops.edge"))),
                 right(flops(run.get("flops.cloud"))), right(time)});
    }
  }
  return section(
      "Accuracy and cost", table.str(),
      "Change: against the unprotected run with the same data, model and split. "
      "Similarity: the largest mean cosine similarity between the client\u2019s features "
      "and those of a selected network. The selected networks\u2019 parts of the logits\u2019 "
      "variance, and the accuracy of each with the others\u2019 outputs at their means; one with "
      "more than 90 % does the work alone. Of several seeds mean and range; networks, similarity, "
      "FLOPs and times are of the first.");
}

std::string attack_table(const ReportData& all) {
  const bool fold = all.runs.size() > kManyRuns;
  std::string out;
  for (const Comparison& comparison : all.comparisons) {
    Table table({left("Attack"), right("SSIM"), right("PSNR, dB"), right("Recognised"),
                 left("Of the decoder on true features"), right("On own features"),
                 left("Against no protection"), left("Notes")});
    std::string parts;
    int attacks = 0;
    for (const SeedGroup& row : comparison.rows) {
      for (const int index : row.runs) {
        const Run& run = all.runs[static_cast<size_t>(index)];
        if (run.attacks.empty()) continue;
        table.band(escape(run.label) + " " +
                   muted(fmt::format("accuracy {}{}", percent(run.get("accuracy")),
                                     run.is_protected() && run.accuracy_change
                                         ? ", " + points(run.accuracy_change)
                                         : "")));
        for (const Attack& a : run.attacks) {
          ++attacks;
          const std::string name =
              escape(a.result.title()) +
              (a.result.level().empty() ? "" : "<br>" + muted(escape(a.result.level())));
          if (!a.has_numbers()) {
            table.add_wide(name, a.result.error().empty()
                                     ? muted("does not apply: " + escape(a.result.pointless()))
                                     : "<strong>failed</strong>: " + escape(a.result.error()));
            continue;
          }
          const std::string meter =
              a.of_oracle ? fmt::format(
                                "<span class=\"nowrap\"><span class=\"meter\"><i "
                                "style=\"width:{:.0f}%\"></i></span> {}</span>",
                                std::clamp(*a.of_oracle, 0.0, 1.0) * 100, percent(a.of_oracle, 0))
                          : "\u2013";
          const Maybe ssim = number(a.result, "own.ssim"), psnr = number(a.result, "own.psnr");
          const std::string own =
              ssim || psnr ? format(ssim, 3) + "<br>" + muted(format(psnr, 2, " dB")) : "\u2013";
          table.add({left(name), right(with_interval(a.result.ssim(), kSsim)),
                     right(with_interval(a.result.psnr(), kPsnr)), right(seen_cell(a)), left(meter),
                     right(own), left(strength_cell(a)), left(muted(attack_notes(a)))});
          if (a.result.rounds_size() > 1) {
            parts += details(escape(run.label) + ": how the decoder on true features grew",
                             saturation_table(a.result));
          }
          if (a.result.parts_size() > 1) {
            Table list({left("Candidate"), right("SSIM"), right("PSNR, dB"),
                        right("The attacker\u2019s own criterion")});
            for (const auto& part : a.result.parts()) {
              list.add({left(escape(part.name())), right(format(number(part, "ssim"), 3)),
                        right(format(number(part, "psnr"), 2)),
                        right(format(number(part, "merit"), 4))});
            }
            parts += details(escape(run.label) + ": " + escape(a.result.title()) + ", all " +
                                 std::to_string(a.result.parts_size()) + " candidates",
                             list.str());
          }
        }
      }
    }
    if (attacks == 0) continue;
    const std::string title = setting_title(comparison);
    out +=
        fold ? details(title + " " + muted(fmt::format("{} attacks", attacks)), table.str() + parts)
             : (all.comparisons.size() > 1 ? "<h3>" + title + "</h3>\n" : "") + table.str() + parts;
  }
  return section(
      "Attacks, run by run", out,
      "Ranges are bootstrap 95\u202f% intervals over the images. Recognised: the share in which "
      "a "
      "reference classifier, which never saw the client, sees the true class, of the share in the "
      "originals; re-id.: the share nearest to their own original among all originals. "
      "\u201cOn own "
      "features\u201d scores the decoder on the attacker\u2019s own shadow, where it "
      "should be good. An attack that does not reach 80\u202f% of the SSIM of the decoder on true "
      "features against no protection at the same split is marked as a weak attacker: its numbers "
      "flatter any protection. An upper bound is a decoder on true features that was grown until "
      "doubling its training, depth or width gained less than .01; any other may fall short of "
      "what the features hold.");
}

std::string published_table(const ReportData& all) {
  std::string out;
  for (const PublishedTable& published_one : published(all)) {
    Table table({left("Published row"), right("\u0394 accuracy"), right("SSIM"), right("PSNR"),
                 left("Ours"), right("\u0394 accuracy"), right("SSIM"), right("PSNR"),
                 right("SSIM, ours \u2212 theirs"), right("PSNR, ours \u2212 theirs")});
    std::string band;
    for (const PublishedRow& row : published_one.rows) {
      if (band != row.group) table.band(escape(band = row.group));
      table.add({left(escape(row.name)), right(format(row.change, 2, "", true)),
                 right(format(row.ssim, 4)), right(format(row.psnr, 2)),
                 left(row.ours.empty() ? muted("not run here")
                                       : escape(row.ours) + "<br>" + muted(escape(row.attack))),
                 right(format(row.our_change, 1, "", true)), right(format(row.our_ssim, kSsim)),
                 right(format(row.our_psnr, kPsnr)),
                 right(format(row.ssim_difference(), 3, "", true)),
                 right(format(row.psnr_difference(), 2, "", true))});
    }
    out += "<h3>" + escape(published_one.source) + "</h3>\n<p>" + escape(published_one.remark) +
           "</p>\n" + table.str();
    if (!published_one.gate.empty()) out += "<p>" + escape(published_one.gate) + "</p>\n";
  }
  return section("Published results beside ours", out);
}

constexpr std::pair<const char*, const char*> kLatency[] = {{"head", "edge: head"},
                                                            {"wire", "wire"},
                                                            {"cloud_queue", "cloud: queue"},
                                                            {"cloud_compute", "cloud: compute"},
                                                            {"tail", "edge: tail"}};

std::string latency(const ReportData& all) {
  std::vector<const Run*> served;
  double longest = 0;
  for (const Run& run : all.runs) {
    if (!run.serving) continue;
    served.push_back(&run);
    double sum = 0;
    for (const auto& [key, label] : kLatency) {
      sum += run.latency(key).value_or(0);
    }
    longest = std::max(longest, sum);
  }
  if (served.empty()) return "";
  std::string bars, legend;
  for (size_t i = 0; i < std::size(kLatency); ++i) legend += legend_item(i, kLatency[i].second);
  Table table({left("Protection"), right("Images"), right("Accuracy served"), right("Head"),
               right("Wire"), right("Queue"), right("Compute"), right("Tail"), right("Total"),
               right("Sent"), right("Received")});
  for (const Run* run : served) {
    const results::ServingSummary& s = *run->serving;
    std::string svg =
        "<svg class=\"bar\" viewBox=\"0 0 1000 26\" preserveAspectRatio=\"none\" role=\"img\" "
        "aria-label=\"latency by part\">";
    double x = 0;
    for (size_t i = 0; i < std::size(kLatency) && longest > 0; ++i) {
      const Maybe part = run->latency(kLatency[i].first);
      if (!part) continue;
      const double width = *part / longest * 1000;
      svg += fmt::format(
          "<rect class=\"c{}\" x=\"{:.1f}\" y=\"0\" width=\"{:.1f}\" height=\"26\"><title>{} {} "
          "ms</title>"
          "</rect>",
          i, x, width, kLatency[i].second, fixed(*part, kMs));
      x += width;
    }
    bars += "<div class=\"barline\"><div>" + escape(run->label) + "</div>" + svg +
            "</svg><div class=\"num\">" + format(run->latency("total"), kMs, " ms") +
            "</div></div>\n";
    const auto cell = [&](const char* key) {
      if (!run->latency(key) && !run->latency(key, "p95")) return right("\u2013");
      return right(format(run->latency(key), kMs) + "<br>" +
                   muted(format(run->latency(key, "p95"), kMs)));
    };
    const std::string wire = !s.has_curve() ? ""
                             : s.curve()    ? "encrypted (CURVE)"
                                            : "plain text, loopback";
    const std::string batch =
        s.has_batch() ? fmt::format("{}batch {}", wire.empty() ? "" : ", ", s.batch()) : "";
    const std::string machine = machine_of(*run);
    table.add({left(escape(run->label) + "<br>" + muted(wire + batch) +
                    (machine.empty() ? "" : "<br>" + muted(escape(machine)))),
               right(plain(number(s, "images"))), right(percent(number(s, "accuracy"))),
               cell("head"), cell("wire"), cell("cloud_queue"), cell("cloud_compute"), cell("tail"),
               cell("total"), right(bytes(number(s, "bytes_sent"))),
               right(bytes(number(s, "bytes_received")))});
  }
  return section("Latency and bytes",
                 bars + "<div class=\"legend\">" + legend + "</div>\n" + table.str(),
                 "Milliseconds per request: the median, and the 95th percentile beneath. The bars "
                 "show the medians of the parts, which need not add up to the median of the whole "
                 "beside them. Bytes are per image.");
}

std::string certificates(const ReportData& all) {
  std::string out;
  for (const Run& run : all.runs) {
    if (!run.certificate) continue;
    out += "<h3>" + escape(run.label) + "</h3>\n<pre>" +
           escape(certificate_text(*run.certificate)) + "</pre>\n";
  }
  return out.empty() ? "" : section("What a request can tell at most", out);
}

std::string run_details(const ReportData& all) {
  std::string out;
  for (const Run& run : all.runs) {
    out += "<details><summary>" + escape(run.label) + " " + muted(escape(run.folder.string())) +
           "</summary>\n";
    out += "<h4>Command</h4><pre>" +
           escape(run.info.command().empty() ? "not recorded" : run.info.command()) + "</pre>\n";
    out += "<h4>Configuration</h4><pre>" + escape(run.config) + "</pre>\n";
    out += "<h4>Facts</h4><pre>" + escape(results::to_json(run.info)) + "</pre></details>\n";
  }
  return section("Command and configuration of each run", out);
}

std::string skipped_list(const ReportData& all) {
  std::string out;
  for (const Skipped& s : all.skipped)
    out += "<li><code>" + escape(s.what) + "</code>: " + escape(s.reason) + "</li>\n";
  return out.empty() ? ""
                     : section("Left out", "<ul>" + out + "</ul>",
                               "These could not be read and are not in any number above.");
}

}  // namespace ens::report
