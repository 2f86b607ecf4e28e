// SPDX-License-Identifier: Apache-2.0
// Pieces of the report's page: escaped text, numbers as people read them, tables, plots. Strings
// named `html` go into the page as they are; all others are escaped here.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "report/data.h"

namespace ens::report {

std::string escape(const std::string& text);
std::string muted(const std::string& html);
std::string quoted(const std::string& text);

// Decimals of what the page says more than once.
inline constexpr int kSsim = 3, kPsnr = 2, kMs = 2;

// Numbers; one that is not known is a dash. `share` is 0..1.
std::string fixed(double value, int digits, bool sign = false);
std::string format(const Maybe& value, int digits, const char* unit = "", bool sign = false);
std::string plain(const Maybe& value);
std::string percent(const Maybe& share, int digits = 1);
// Below the gate of 80 %, and never rounded up to it.
std::string weak_share(double share);
std::string points(const Maybe& share);  // "+0.3 points"
std::string bytes(const Maybe& value);
std::string flops(const Maybe& value);
std::string duration(double seconds);
std::string with_interval(const Interval& value, int digits);
std::string plus_minus(const Interval& value, int digits);  // half the interval, empty if none

struct Cell {
  std::string html;
  bool number = false;  // set to the right
};
inline Cell left(const std::string& html) { return {html, false}; }
inline Cell right(const std::string& html) { return {html, true}; }

class Table {
 public:
  explicit Table(const std::vector<Cell>& head, const char* kind = "");
  void add(const std::vector<Cell>& cells);
  void add_wide(const std::string& first,
                const std::string& rest);  // a cell, and one over the rest
  void band(const std::string& html);      // a heading across the table
  std::string str() const;

 private:
  size_t columns_;
  std::string html_;
};

// Empty if there is no body. It can be linked to by slug(title).
std::string section(const std::string& title, const std::string& body,
                    const std::string& intro = "");
// Text as part of a file name or an address: "over-ensemble.lambda-nopeek".
std::string slug(const std::string& text);
std::string badge(const std::string& kind, const std::string& label);
std::string details(const std::string& summary_html, const std::string& html);
std::string legend_item(size_t colour, const std::string& label);

struct Point {
  double x = 0, y = 0;
  Maybe low, high;      // of y: the ends of its error bar
  Maybe x_low, x_high;  // of x
  std::string label;    // if it has a name of its own
};
struct Line {
  std::string name;
  std::vector<Point> points;
};
// A small figure: lines over x (or dots alone) with error bars, axes with round ticks, a legend.
// The y axis holds 0, so that heights compare as the values do. With log_x points at x <= 0 are
// left out.
struct Figure {
  std::string title, x_label, y_label;
  std::vector<Line> lines;
  bool dots_only = false, log_x = false;
};

// The page's figures. Each is in the page, and can be written as a file of its own.
class FigureList {
 public:
  // `name`: what the figure's file is called after; any text. Returns the HTML; empty if the figure
  // has no points.
  std::string add(const std::string& name, const Figure& figure);
  // NAME.svg each, with its title, legend and styles inside, in light colours. Makes the folder.
  void write(const std::filesystem::path& folder) const;

 private:
  std::map<std::string, std::string> files_;
};

std::string base64(const std::string& bytes);
// Width and height of a PNG whose header was checked.
std::pair<int, int> png_size(const std::string& png);

// style.css and page.html, embedded by CMake. The page is a format string with named fields.
extern const std::string kStyle, kPage;

}  // namespace ens::report
