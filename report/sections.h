// SPDX-License-Identifier: Apache-2.0
// The sections of the report's page; each is empty if there is nothing to show. Internal to the
// report.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "report/data.h"
#include "report/html.h"

namespace ens::report {

// The page's images: each different PNG is in the file once, as the background of a CSS class.
class Album {
 public:
  // Chooses the images: of each row the first run's, as far as they fit (about 16 MB of page, 32
  // for the oracle and each row's strongest attack, which come first).
  explicit Album(const ReportData& all);

  bool has(std::pair<int, int> run_and_attack) const { return shown_.count(run_and_attack) > 0; }
  int left_out() const { return left_out_; }
  // All images of a strip, twice their size; on narrow screens on several lines.
  std::string strip(const std::string& png, const std::string& label);
  // The first `count` images of a strip, each `side` pixels.
  std::string first(const std::string& png, int count, int side, const std::string& label);
  std::string style() const;  // for the head of the page; of the images used so far

 private:
  int id(const std::string& png);
  std::set<std::pair<int, int>> shown_;
  std::map<std::string, int> ids_;
  int left_out_ = 0;
};

constexpr size_t kManyRuns = 6;  // from here on details are folded away

std::string overview_table(const ReportData& all);  // protections x attacks, one table a setting
std::string accuracy_table(const ReportData& all);
std::string attack_table(const ReportData& all);  // every run and attack with all numbers
std::string published_table(const ReportData& all);
std::string latency(const ReportData& all);
std::string certificates(const ReportData& all);  // of channels
std::string run_details(const ReportData& all);
std::string skipped_list(const ReportData& all);

std::string split_grids(const ReportData& all, Album& album);  // h down, t across
std::string pictures(const ReportData& all, Album& album);

std::string attack_curves(const ReportData& all, FigureList& figures);
std::string trade_offs(const ReportData& all, FigureList& figures);
// Of ReportData::disguised: the matrix of methods and levels, its figures and pictures.
std::string disguise_sections(const ReportData& all, FigureList& figures);

// Of ReportData::translated: trainings, and what each attack read.
std::string text_sections(const ReportData& all);

std::string training_curves(const ReportData& all, FigureList& figures);

}  // namespace ens::report
