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

std::string show(const Number& value, int digits, const char* unit, bool sign) {
  return value ? fixed(*value, digits, sign) + unit : "\u2013";
}
std::string percent(const Number& share, int digits) {
  return share ? fixed(*share * 100, digits) + "\u202f%" : "\u2013";
}
std::string weak_share(double share) { return percent(std::floor(share * 100) / 100, 0); }
std::string points(const Number& share) {
  return share ? fixed(*share * 100, 1, true) + " points" : "\u2013";
}
std::string plain(const Number& value) { return value ? fmt::format("{}", *value) : "\u2013"; }

namespace {
std::string scaled(const Number& value, double step, const std::vector<const char*>& units) {
  if (!value) return "\u2013";
  double v = *value;
  size_t unit = 0;
  while (v >= step && unit + 1 < units.size()) v /= step, ++unit;
  return fixed(v, unit > 0 && v < 100 ? 1 : 0) + " " + units[unit];
}
}  // namespace
std::string bytes(const Number& value) { return scaled(value, 1024, {"B", "KiB", "MiB", "GiB"}); }
std::string flops(const Number& value) { return scaled(value, 1000, {"", "k", "M", "G", "T"}); }
std::string duration(double seconds) {
  return seconds < 120 ? fixed(seconds, seconds < 10 ? 1 : 0) + " s"
                       : fixed(seconds / 60, 1) + " min";
}

std::string with_interval(const std::optional<Interval>& value, int digits) {
  if (!value) return "\u2013";
  std::string out = fixed(value->mean, digits);
  if (value->low && value->high) {
    out += fmt::format("<br>{}",
                       muted(fixed(*value->low, digits) + " to " + fixed(*value->high, digits)));
  }
  return out;
}

std::string plus_minus(const Interval& value, int digits) {
  if (!value.low || !value.high) return "";
  return "\u00b1" + fixed((*value.high - *value.low) / 2, digits);
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

const char* const kStyle = R"css(
:root{color-scheme:light dark;--bg:#fbfbfa;--panel:#fff;--ink:#1c2024;--muted:#667079;--line:#e2e4e6;--band:#f1f3f4;
--c0:#3a6ea5;--c1:#c8673a;--c2:#3d8b5f;--c3:#8561b5;--c4:#b08a2e;--c5:#2f8c99;--c6:#b3527f;--c7:#74808a;--c8:#8a5a3b;--c9:#7a9a1f;--c10:#1d3f73;--c11:#d66a6a;
--weak:#9a5b00;--weakbg:#fdf0d9;--ok:#1f6b42;--okbg:#e0f2e7;--bound:#2b5786;--boundbg:#e3edf8;--bad:#9c2f2f;--badbg:#fae4e4}
@media (prefers-color-scheme:dark){:root{--bg:#15181b;--panel:#1c2024;--ink:#e6e8ea;--muted:#98a2ab;--line:#32383e;--band:#252a2f;
--c0:#6fa3dc;--c1:#e38d62;--c2:#6abf8d;--c3:#b194e0;--c4:#d6b458;--c5:#5fbccb;--c6:#de86ae;--c7:#9aa6b0;--c8:#c29a7c;--c9:#b7d165;--c10:#4b6fb8;--c11:#f0a0a0;
--weak:#f3c77c;--weakbg:#3d2f14;--ok:#8fd9ae;--okbg:#17351f;--bound:#a3c8ef;--boundbg:#1b2f45;--bad:#f0a3a3;--badbg:#421c1c}}
*{box-sizing:border-box}
body{margin:0 auto;padding:32px 24px 64px;max-width:1248px;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
h1{font-size:28px;line-height:1.2;margin:0 0 4px}h2{font-size:20px;margin:44px 0 8px}h3{font-size:15px;margin:18px 0 6px}
h4{font-size:13px;margin:12px 0 4px}p{max-width:840px;margin:6px 0 12px}.muted{color:var(--muted);font-size:13px;font-weight:400}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:24px 0}
.card{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.card .label{font-size:13px;color:var(--muted)}.card .value{font-size:26px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;margin:0}dt{color:var(--muted)}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;background:var(--panel);font-size:14px;line-height:1.4;margin:12px 0;
border:1px solid var(--line);font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);overflow-wrap:break-word}
thead th{font-size:13px;color:var(--muted);font-weight:600;vertical-align:bottom}.num{text-align:right}
td.num{white-space:nowrap}.band th{background:var(--band);font-weight:600}tbody tr:last-child td{border-bottom:0}
.badge{display:inline-block;padding:0 7px;border-radius:9px;font-size:12px;line-height:19px;white-space:nowrap;border:1px solid var(--line)}
.weak{color:var(--weak);background:var(--weakbg);border-color:transparent}.strong{color:var(--ok);background:var(--okbg);border-color:transparent}
.bound{color:var(--bound);background:var(--boundbg);border-color:transparent}.plain{color:var(--muted)}
.nowrap{white-space:nowrap}.meter{display:inline-block;width:64px;height:8px;border-radius:4px;background:var(--line);overflow:hidden;margin-right:4px}
.meter i{display:block;height:100%;background:var(--c0)}
.strips{margin:12px 0 28px}.strip{display:flex;gap:14px;align-items:center;margin:3px 0}
.strip .caption{flex:0 0 160px;font-size:13px;line-height:1.3}.strip .px{min-width:0;max-width:calc(100% - 174px)}
.px{display:inline-block;background-size:100% 100%;background-repeat:no-repeat;image-rendering:pixelated;vertical-align:top;print-color-adjust:exact}
.crop{margin-right:4px}.splits{width:auto}.splits td{text-align:center;padding:6px 8px}.splits td:first-child{vertical-align:middle}
.matrix{font-size:12.5px}.matrix th,.matrix td{padding:6px 4px}.matrix .muted{font-size:12px}.matrix td.num{white-space:normal}.matrix td:first-child{min-width:104px}.matrix .badge{padding:0 5px;font-size:11px}
.wide{overflow-x:auto}.failed{color:var(--bad);background:var(--badbg);border-color:transparent}
.original{padding-bottom:8px;border-bottom:1px solid var(--line)}
.barline{display:grid;grid-template-columns:200px 1fr 80px;gap:14px;align-items:center;margin:8px 0;font-size:14px}
.bar{width:100%;height:26px;border-radius:4px;background:var(--band)}
.legend{font-size:13px;line-height:1.7}.key{display:inline-block;margin-right:14px}.key i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px;background:var(--c)}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.c8{--c:var(--c8)}.c9{--c:var(--c9)}.c10{--c:var(--c10)}.c11{--c:var(--c11)}
svg rect,svg circle{fill:var(--c)}svg polyline{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}
svg text{fill:var(--muted);font-size:11px}svg .grid{stroke:var(--line)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:16px}
.plot{margin:0;padding:12px 14px;background:var(--panel);border:1px solid var(--line);border-radius:10px}
.plot figcaption{font-size:13px;font-weight:600;margin-bottom:6px}.plot svg{display:block;width:100%}
details{margin:8px 0}summary{cursor:pointer}pre{background:var(--band);border-radius:8px;padding:12px 14px;font-size:13px;line-height:1.45;white-space:pre-wrap;overflow-wrap:anywhere}
code{overflow-wrap:anywhere}footer{margin-top:48px;font-size:13px;color:var(--muted)}
@media (max-width:1000px){body{padding:20px 14px 48px}table{font-size:12.5px}th,td{padding:5px 6px}thead th{font-size:12px}.meter{width:36px}
.strip{display:block;margin:8px 0}.strip .px{max-width:100%;margin-top:3px}.barline{grid-template-columns:120px 1fr 70px}dl{display:block}dt{margin-top:8px}}
)css";

}  // namespace ens::report
