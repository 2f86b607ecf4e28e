// SPDX-License-Identifier: Apache-2.0
// Translation: what a server reads of both languages (docs/text.md).
#include <fmt/format.h>

#include "proto/protections.h"
#include "report/html.h"
#include "report/sections.h"

namespace ens::report {
namespace {

std::string title_of(const Run& run) {
  return fmt::format("{}, h = {}", run.title(), run.summary.text().head_layers());
}

std::string trainings(const ReportData& all) {
  Table table({left("Protection"), left("Direction"), right("BLEU"), right("of lower-case words"),
               right("Validation loss"), right("&sigma;"), right("Similarity"),
               right("Sentences")});
  for (const Run& run : all.translated) {
    const auto value = [&](const char* path) { return number(run.summary, path); };
    table.add({left(escape(title_of(run))), left(escape(run.summary.text().direction())),
               right(format(value("text.bleu"), 2)), right(format(value("text.bleu_lower"), 2)),
               right(format(value("text.validation_loss"), 3)), right(format(value("sigma"), 2)),
               right(format(value("similarity"), 3)), right(plain(value("text.sentences")))});
  }
  return table.str();
}

// A row for each side that an attack read.
void add_attack(Table& table, const Run& run, const Attack& a) {
  const results::AttackResult& r = a.result;
  const std::string name = escape(title_of(run)), title = escape(r.title());
  if (r.has_error()) {
    table.add_wide(name + ", " + title, badge("failed", "failed") + " " + escape(r.error()));
    return;
  }
  if (r.has_auc()) {
    table.add_wide(name + ", " + title,
                   fmt::format("AUC {} (.5 is chance)", with_interval(r.auc(), 4)));
  }
  for (const auto& t : r.text()) {
    const auto share = [](bool there, double value) {
      return percent(there ? Maybe(value) : Maybe());
    };
    table.add({left(name), left(title), left(escape(r.level())), left(escape(t.side())),
               right(share(true, t.tokens().mean())), right(with_interval(t.rouge_l(), 3)),
               right(fixed(t.bleu(), 1)), right(share(true, t.exact())),
               right(share(t.has_rare_words(), t.rare_words())),
               right(share(t.has_names(), t.names())), right(share(true, t.common_words()))});
  }
}

}  // namespace

std::string text_sections(const ReportData& all) {
  if (all.translated.empty()) return "";
  Table attacks({left("Run"), left("Attack"), left("Level"), left("Side"), right("Tokens read"),
                 right("ROUGE-L"), right("BLEU"), right("Whole sentences"), right("Rare words"),
                 right("Names, numbers"), right("Commonest word")});
  for (const Run& run : all.translated) {
    for (const Attack& a : run.attacks) add_attack(attacks, run, a);
  }
  return section("Translation", trainings(all) + "<div class=\"wide\">" + attacks.str() + "</div>",
                 "An embedding without context is a substitution cipher; h layers stay with the "
                 "client. &ldquo;Commonest word&rdquo;: tokens right for whoever always says it.");
}

std::string text_markdown(const ReportData& all) {
  if (all.translated.empty()) return "";
  std::string out =
      "### Translation\n\n| Run | BLEU | Attack | Side | Tokens read | BLEU of the reading |\n"
      "|---|--:|---|---|--:|--:|\n";
  for (const Run& run : all.translated) {
    for (const Attack& a : run.attacks) {
      for (const auto& t : a.result.text()) {
        out += fmt::format("| {} | {:.2f} | {} | {} | {} | {:.1f} |\n", title_of(run),
                           run.summary.text().bleu(), a.kind(), t.side(),
                           percent(t.tokens().mean()), t.bleu());
      }
    }
  }
  return out + "\n";
}

}  // namespace ens::report
