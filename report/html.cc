// SPDX-License-Identifier: Apache-2.0
#include "report/html.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "base/files.h"
#include "base/strings.h"

namespace ens::report {

// ---- text and numbers

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string muted(const std::string& html) { return "<span class=\"muted\">" + html + "</span>"; }

std::string fixed(double value, int digits, bool sign) {
  std::string out =
      sign ? fmt::format("{:+.{}f}", value, digits) : fmt::format("{:.{}f}", value, digits);
  const bool zero = out.find_first_of("123456789") == std::string::npos;
  if (zero && (out[0] == '-' || out[0] == '+')) out.erase(0, 1);
  if (out[0] == '-') out.replace(0, 1, "\u2212");
  return out;
}

std::string format(const Maybe& value, int digits, const char* unit, bool sign) {
  return value ? fixed(*value, digits, sign) + unit : "\u2013";
}
std::string percent(const Maybe& share, int digits) {
  return share ? fixed(*share * 100, digits) + "\u202f%" : "\u2013";
}
std::string weak_share(double share) { return percent(std::floor(share * 100) / 100, 0); }
std::string points(const Maybe& share) {
  return share ? fixed(*share * 100, 1, true) + " points" : "\u2013";
}
std::string plain(const Maybe& value) { return value ? fmt::format("{}", *value) : "\u2013"; }

namespace {
std::string scaled(const Maybe& value, double step, const std::vector<const char*>& units) {
  if (!value) return "\u2013";
  double v = *value;
  size_t unit = 0;
  while (v >= step && unit + 1 < units.size()) v /= step, ++unit;
  return fixed(v, unit > 0 && v < 100 ? 1 : 0) + " " + units[unit];
}
}  // namespace
std::string bytes(const Maybe& value) { return scaled(value, 1024, {"B", "KiB", "MiB", "GiB"}); }
std::string flops(const Maybe& value) { return scaled(value, 1000, {"", "k", "M", "G", "T"}); }
std::string duration(double seconds) {
  return seconds < 120 ? fixed(seconds, seconds < 10 ? 1 : 0) + " s"
                       : fixed(seconds / 60, 1) + " min";
}

std::string with_interval(const Interval& value, int digits) {
  if (!value.has_mean()) return "\u2013";
  std::string out = fixed(value.mean(), digits);
  if (value.has_low() && value.has_high()) {
    out += fmt::format("<br>{}",
                       muted(fixed(value.low(), digits) + " to " + fixed(value.high(), digits)));
  }
  return out;
}

std::string plus_minus(const Interval& value, int digits) {
  if (!value.has_low() || !value.has_high()) return "";
  return "\u00b1" + fixed((value.high() - value.low()) / 2, digits);
}

// ---- pieces of HTML

// Of the style sheet below.
constexpr size_t kColours = 12;

namespace {
std::string table_row(const std::vector<Cell>& cells, const char* tag) {
  std::string out = "<tr>";
  for (const Cell& c : cells) {
    out += fmt::format("<{}{}>{}</{}>", tag, c.number ? " class=\"num\"" : "", c.html, tag);
  }
  return out + "</tr>\n";
}
}  // namespace

Table::Table(const std::vector<Cell>& head, const char* kind) : columns_(head.size()) {
  html_ = fmt::format("<table class=\"{}\"><thead>", kind) + table_row(head, "th") +
          "</thead><tbody>\n";
}
void Table::add(const std::vector<Cell>& cells) { html_ += table_row(cells, "td"); }
void Table::add_wide(const std::string& first, const std::string& rest) {
  html_ +=
      fmt::format("<tr><td>{}</td><td colspan=\"{}\">{}</td></tr>\n", first, columns_ - 1, rest);
}
void Table::band(const std::string& html) {
  html_ += fmt::format("<tr class=\"band\"><th colspan=\"{}\">{}</th></tr>\n", columns_, html);
}
std::string Table::str() const {
  return "<div class=\"wide\">" + html_ + "</tbody></table></div>\n";
}

std::string section(const std::string& title, const std::string& body, const std::string& intro) {
  if (body.empty()) return "";
  return "<section id=\"" + slug(title) + "\"><h2>" + title + "</h2>\n" +
         (intro.empty() ? "" : "<p>" + intro + "</p>\n") + body + "</section>\n";
}

std::string badge(const std::string& kind, const std::string& label) {
  return "<span class=\"badge " + kind + "\">" + label + "</span>";
}

std::string details(const std::string& summary_html, const std::string& html) {
  return "<details><summary>" + summary_html + "</summary>\n" + html + "</details>\n";
}

std::string quoted(const std::string& text) { return "\u201c" + escape(text) + "\u201d"; }

std::string legend_item(size_t colour, const std::string& label) {
  return fmt::format("<span class=\"key\"><i class=\"c{}\"></i>{}</span>", colour % kColours,
                     escape(label));
}

std::string slug(const std::string& text) {
  static const std::map<std::string, std::string> kGreek = {{"\u03bb", "lambda"},
                                                            {"\u03c3", "sigma"}};
  constexpr size_t kLongest = 120;
  std::string out;
  for (size_t i = 0; i < text.size() && out.size() < kLongest; ++i) {
    const auto greek = kGreek.find(text.substr(i, 2));
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (greek != kGreek.end()) {
      out += greek->second;
      ++i;
    } else if (c < 0x80 && (std::isalnum(c) || c == '.' || c == '_')) {
      out += static_cast<char>(std::tolower(c));
    } else if (!out.empty() && out.back() != '-') {
      out += '-';
    }
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out;
}

namespace {
// Round steps (1, 2, 5 times a power of ten), about `wanted` of them over the range.
double tick_step(double range, int wanted) {
  const double raw = range / wanted, base = std::pow(10, std::floor(std::log10(raw)));
  for (const double m : {1.0, 2.0, 5.0}) {
    if (raw <= m * base) return m * base;
  }
  return 10 * base;
}

// With the digits that tell it from the next one.
std::string tick(double value, double step) {
  if (step >= 1e5) return fmt::format("{:g}", value);
  return fixed(value, std::max(0, -static_cast<int>(std::floor(std::log10(step) + 1e-9))));
}

constexpr double kWidth = 360, kHeight = 200, kLeft = 42, kRight = 18, kTop = 20, kBottom = 36;

class Axes {
 public:
  explicit Axes(const Figure& figure) : figure_(figure) {
    bool whole = true;  // then no ticks between
    for (const Line& line : figure.lines) {
      for (const Point& p : line.points) {
        if (!shows(p)) continue;
        any_ = true;
        for (const double x : {p.x, p.x_low.value_or(p.x), p.x_high.value_or(p.x)})
          x0_ = std::min(x0_, scale(x)), x1_ = std::max(x1_, scale(x));
        for (const double y : {p.y, p.low.value_or(p.y), p.high.value_or(p.y)})
          y0_ = std::min(y0_, y), y1_ = std::max(y1_, y);
        whole = whole && p.x == std::floor(p.x);
      }
    }
    if (!any_) return;
    if (figure.log_x && std::floor(x1_) - std::ceil(x0_) < 1) {  // at least two ticks
      x0_ = std::floor(x0_), x1_ = std::max(std::ceil(x1_), x0_ + 1);
    } else if (figure.dots_only || x1_ - x0_ < 1e-9) {
      const double margin = x1_ - x0_ < 1e-9 ? 0.5 : (x1_ - x0_) * 0.04;
      x0_ -= margin, x1_ += margin;
    }
    if (y1_ - y0_ < 1e-9) y1_ = 1;
    y_step_ = tick_step(y1_ - y0_, 4);
    x_step_ = std::max(whole || figure.log_x ? 1.0 : 0.0, tick_step(x1_ - x0_, 6));
    y0_ = std::floor(y0_ / y_step_ + 1e-9) * y_step_;
    y1_ = std::ceil(y1_ / y_step_ - 1e-9) * y_step_;
  }

  bool any() const { return any_; }
  bool shows(const Point& p) const { return !figure_.log_x || p.x > 0; }
  double px(double x) const {
    return kLeft + (scale(x) - x0_) / (x1_ - x0_) * (kWidth - kLeft - kRight);
  }
  double py(double y) const {
    return kHeight - kBottom - (y - y0_) / (y1_ - y0_) * (kHeight - kTop - kBottom);
  }

  std::string svg() const {
    std::string out;
    for (int i = 0; y0_ + i * y_step_ <= y1_ + y_step_ / 2; ++i) {
      const double y = y0_ + i * y_step_;
      out += fmt::format(
          "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
          "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>",
          kLeft, kWidth - kRight, py(y), py(y), kLeft - 6, py(y) + 3.5, tick(y, y_step_));
    }
    const double first = std::ceil(x0_ / x_step_ - 1e-9) * x_step_;
    for (int i = 0; first + i * x_step_ <= x1_ + 1e-9; ++i) {
      const double x = first + i * x_step_;
      out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                         kLeft + (x - x0_) / (x1_ - x0_) * (kWidth - kLeft - kRight),
                         kHeight - kBottom + 15,
                         figure_.log_x ? fmt::format("{:g}", std::pow(10, x)) : tick(x, x_step_));
    }
    return out + fmt::format(
                     "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>"
                     "<text x=\"{}\" y=\"10\">{}</text>",
                     (kLeft + kWidth - kRight) / 2, kHeight - 4, escape(figure_.x_label), kLeft,
                     escape(figure_.y_label));
  }

 private:
  double scale(double x) const { return figure_.log_x ? std::log10(x) : x; }

  const Figure& figure_;
  bool any_ = false;
  double x0_ = INFINITY, x1_ = -INFINITY, y0_ = 0, y1_ = 0, x_step_ = 1, y_step_ = 1;
};

// What the page and a file of its own share: axes, lines and dots. Empty if there is no point.
std::string drawing(const Figure& figure) {
  const Axes axes(figure);
  if (!axes.any()) return "";
  std::string out = axes.svg();
  for (size_t i = 0; i < figure.lines.size(); ++i) {
    const Line& line = figure.lines[i];
    const size_t colour = i % kColours;
    std::string path, bars, circles;
    for (const Point& p : line.points) {
      if (!axes.shows(p)) continue;
      const double x = axes.px(p.x), y = axes.py(p.y);
      path += fmt::format("{:.1f},{:.1f} ", x, y);
      if (p.low && p.high && *p.high > *p.low) {
        bars += fmt::format("M{:.1f} {:.1f}h6m-3 0V{:.1f}m-3 0h6", x - 3, axes.py(*p.low),
                            axes.py(*p.high));
      }
      if (p.x_low && p.x_high && *p.x_high > *p.x_low) {
        bars += fmt::format("M{:.1f} {:.1f}v6m0 -3H{:.1f}m0 -3v6", axes.px(*p.x_low), y - 3,
                            axes.px(*p.x_high));
      }
      std::string value = fixed(p.y, 3);
      if (p.low && p.high) value += " (" + fixed(*p.low, 3) + " to " + fixed(*p.high, 3) + ")";
      circles += fmt::format(
          "<circle class=\"c{}\" r=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\"><title>{}: "
          "{}</title></circle>",
          colour, figure.dots_only ? 4.5 : 2.2, x, y, escape(p.label.empty() ? line.name : p.label),
          value);
    }
    if (!figure.dots_only)
      out += fmt::format("<polyline class=\"c{}\" points=\"{}\"/>", colour, path);
    if (!bars.empty()) out += fmt::format("<path class=\"c{}\" d=\"{}\"/>", colour, bars);
    out += circles;
  }
  return out;
}

// The value of a variable of the style sheet, in light colours.
std::string style_variable(const std::string& name) {
  const size_t start = kStyle.find("--" + name + ":") + name.size() + 3;
  return kStyle.substr(start, kStyle.find_first_of(";}", start) - start);
}

// In lines that fit into a figure: SVG does not break them.
std::vector<std::string> wrapped(const std::string& text) {
  constexpr size_t kLongest = 48;
  std::vector<std::string> lines = {""};
  for (const std::string& word : split_text(text, ' ')) {
    if (!lines.back().empty() && lines.back().size() + word.size() >= kLongest)
      lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
  }
  return lines;
}

std::string svg_file(const Figure& figure, const std::string& drawn) {
  constexpr double kLineHeight = 16;
  std::string style = fmt::format(
      "text{{font:11px 'DejaVu Sans',Arial,sans-serif;fill:{}}}.title{{font-weight:bold;fill:{}}}"
      ".grid{{stroke:{}}}polyline,path{{fill:none;stroke-width:1.8;stroke-linejoin:round}}"
      "path{{stroke-width:1.2}}",
      style_variable("muted"), style_variable("ink"), style_variable("line"));
  for (size_t i = 0; i < std::min(figure.lines.size(), kColours); ++i) {
    style += fmt::format("circle.c{0},rect.c{0}{{fill:{1}}}polyline.c{0},path.c{0}{{stroke:{1}}}",
                         i, style_variable(fmt::format("c{}", i)));
  }
  std::string out;
  double y = 0;  // of what comes next
  const auto text = [&](const std::string& words, double x, const char* attributes) {
    for (const std::string& line : wrapped(words)) {
      out +=
          fmt::format("<text{} x=\"{}\" y=\"{}\">{}</text>\n", attributes, x, y + 12, escape(line));
      y += kLineHeight;
    }
  };
  text(figure.title, 6, " class=\"title\"");
  out += fmt::format("<g transform=\"translate(0 {})\">{}</g>\n", y + 4, drawn);
  y += kHeight + 8;
  for (size_t i = 0; i < figure.lines.size(); ++i) {
    out +=
        fmt::format("<rect class=\"c{}\" x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" rx=\"2\"/>",
                    i % kColours, kLeft, y + 3);
    text(figure.lines[i].name, kLeft + 16, "");
  }
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{2}\" "
      "height=\"{3}\">\n<style>{4}</style>\n{5}</svg>\n",
      kWidth, y + 4, 2 * kWidth, 2 * (y + 4), style, out);
}

}  // namespace

std::string FigureList::add(const std::string& name, const Figure& figure) {
  const std::string drawn = drawing(figure);
  if (drawn.empty()) return "";
  const std::string stem = slug(name);
  std::string file = stem;
  for (int i = 2; files_.count(file); ++i) file = fmt::format("{}-{}", stem, i);
  files_[file] = svg_file(figure, drawn);
  std::string legend;
  for (size_t i = 0; i < figure.lines.size(); ++i) legend += legend_item(i, figure.lines[i].name);
  return fmt::format(
      "<figure class=\"plot\"><figcaption>{0}</figcaption><svg viewBox=\"0 0 {1} {2}\" "
      "role=\"img\" "
      "aria-label=\"{0}\">{3}</svg><div class=\"legend\">{4}</div></figure>\n",
      escape(figure.title), kWidth, kHeight, drawn, legend);
}

void FigureList::write(const std::filesystem::path& folder) const {
  std::filesystem::create_directories(folder);
  for (const auto& [name, svg] : files_)
    write_file_atomically(folder / (name + ".svg"), svg, /*secret=*/false);
}

std::string base64(const std::string& bytes) {
  std::string out(4 * ((bytes.size() + 2) / 3) + 1, '\0');  // EVP ends with a NUL
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()),
                                     static_cast<int>(bytes.size()));
  out.resize(length);
  return out;
}

std::pair<int, int> png_size(const std::string& png) {
  const auto number = [&](size_t at) {  // big endian in the header chunk; checked by the reader
    int value = 0;
    for (size_t i = at; i < at + 4; ++i)
      value = (value & 0x7fffff) << 8 | static_cast<unsigned char>(png[i]);
    return value;
  };
  return {number(16), number(20)};
}

}  // namespace ens::report
