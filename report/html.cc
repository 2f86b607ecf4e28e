#include "report/html.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cmath>

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
std::string Table::str() const { return html_ + "</tbody></table>\n"; }

std::string section(const std::string& title, const std::string& body, const std::string& intro) {
  if (body.empty()) return "";
  return "<section><h2>" + title + "</h2>\n" + (intro.empty() ? "" : "<p>" + intro + "</p>\n") +
         body + "</section>\n";
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

namespace {
// Round steps (1, 2, 5 times a power of ten), about `wanted` of them over the range.
double tick_step(double range, int wanted) {
  const double raw = range / wanted, base = std::pow(10, std::floor(std::log10(raw)));
  for (const double m : {1.0, 2.0, 5.0}) {
    if (raw <= m * base) return m * base;
  }
  return 10 * base;
}

}  // namespace

std::string plot(const Figure& figure, const std::vector<Line>& lines) {
  constexpr double kWidth = 360, kHeight = 190, kLeft = 42, kRight = 18, kTop = 8, kBottom = 36;
  const bool dots = figure.dots_only, log_x = figure.log_x;
  const auto drawn = [&](double x) { return !log_x || x > 0; };
  const auto scale = [&](double x) { return log_x ? std::log10(x) : x; };
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  bool whole = true;  // then no ticks between
  for (const Line& line : lines) {
    for (const auto& [x, y] : line.points) {
      if (!drawn(x)) continue;
      x0 = std::min(x0, scale(x)), x1 = std::max(x1, scale(x));
      y0 = std::min(y0, y * figure.y_factor), y1 = std::max(y1, y * figure.y_factor);
      whole = whole && x == std::floor(x);
    }
  }
  if (!(x0 <= x1)) return "";
  if (dots || x1 - x0 < 1e-9) {
    const double margin = x1 - x0 < 1e-9 ? 0.5 : (x1 - x0) * 0.04;
    x0 -= margin, x1 += margin;
  }
  if (y1 - y0 < 1e-9)
    y0 -= 0.05 * std::max(1.0, std::abs(y0)), y1 += 0.05 * std::max(1.0, std::abs(y1));
  const double y_step = tick_step(y1 - y0, 4),
               x_step = std::max(whole || log_x ? 1.0 : 0.0, tick_step(x1 - x0, 6));
  y0 = std::floor(y0 / y_step + 1e-9) * y_step, y1 = std::ceil(y1 / y_step - 1e-9) * y_step;
  const auto px = [&](double x) {
    return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - kRight);
  };
  const auto py = [&](double y) {
    return kHeight - kBottom - (y - y0) / (y1 - y0) * (kHeight - kTop - kBottom);
  };
  const auto digits = [](double step) { return step < 0.1 ? 2 : step < 1 ? 1 : 0; };

  std::string svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
                                kWidth, kHeight, escape(figure.title));
  for (double y = y0; y <= y1 + y_step / 2; y += y_step) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>",
        kLeft, kWidth - kRight, py(y), py(y), kLeft - 6, py(y) + 3.5, fixed(y, digits(y_step)));
  }
  for (double x = std::ceil(x0 / x_step - 1e-9) * x_step; x <= x1 + 1e-9; x += x_step) {
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", px(x),
                       kHeight - kBottom + 15,
                       log_x ? fmt::format("{:g}", std::pow(10, x)) : fixed(x, digits(x_step)));
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                     (kLeft + kWidth - kRight) / 2, kHeight - 4, escape(figure.x_label));
  std::string legend;
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string path, circles;
    for (size_t k = 0; k < lines[i].points.size(); ++k) {
      const auto& [x, y] = lines[i].points[k];
      if (!drawn(x)) continue;
      const double at_x = px(scale(x)), at_y = py(y * figure.y_factor);
      path += fmt::format("{:.1f},{:.1f} ", at_x, at_y);
      const std::string& name = k < lines[i].labels.size() ? lines[i].labels[k] : lines[i].name;
      circles += fmt::format(
          "<circle class=\"c{}\" r=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\"><title>{}: "
          "{}</title></circle>",
          i % kColours, dots ? 4.5 : 2.2, at_x, at_y, escape(name), fixed(y * figure.y_factor, 3));
    }
    if (!dots) svg += fmt::format("<polyline class=\"c{}\" points=\"{}\"/>", i % kColours, path);
    svg += circles;
    legend += legend_item(i, lines[i].name);
  }
  return "<figure class=\"plot\"><figcaption>" + escape(figure.title) + "</figcaption>" + svg +
         "</svg><div class=\"legend\">" + legend + "</div></figure>\n";
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
