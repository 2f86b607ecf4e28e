// SPDX-License-Identifier: Apache-2.0
#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string_view>

namespace ens {
namespace {

using TimePoint = std::chrono::steady_clock::time_point;
using Seconds = std::chrono::duration<double>;
using std::chrono::milliseconds;

constexpr milliseconds kQuiet{300};        // nothing on a terminal before
constexpr milliseconds kRedraw{100};       // on a terminal
constexpr milliseconds kPlainLine{5000};   // elsewhere
constexpr milliseconds kJsonLine{500};     // for programs
constexpr milliseconds kSampleEvery{500};  // for the rate
constexpr milliseconds kRateWindow{30'000};
// The time left is shown once so much of the work is done, or so much time has passed: the first
// pieces are slow.
constexpr double kTelling = 0.01;
constexpr milliseconds kTellingTime{60'000};

// ---- measuring

struct Measure {
  int64_t done = 0, total = 0;
  double rate = 0;     // units per second, 0 while unknown
  double elapsed = 0;  // seconds
  double left = -1;    // seconds, -1 while unknown
};

class Meter {
 public:
  Meter(int64_t total, TimePoint now) : total_(total), start_(now), samples_{{now, 0}} {}

  void add(int64_t units, TimePoint now) {
    worked_ += units;
    if (now - samples_.back().time < kSampleEvery) return;
    samples_.push_back({now, worked_});
    // The oldest sample is the youngest one that is older than the window.
    while (samples_.size() > 2 && now - samples_[1].time >= kRateWindow) samples_.pop_front();
  }
  void skip(int64_t units) { skipped_ += units; }

  Measure now(TimePoint now) const { return measure(now, samples_.front()); }
  Measure overall(TimePoint now) const { return measure(now, {start_, 0}); }

 private:
  struct Sample {
    TimePoint time;
    int64_t worked;
  };

  Measure measure(TimePoint now, const Sample& since) const {
    Measure m{worked_ + skipped_, total_, 0, Seconds(now - start_).count(), -1};
    const double seconds = Seconds(now - since.time).count();
    if (seconds > 0) m.rate = static_cast<double>(worked_ - since.worked) / seconds;
    const bool telling = worked_ >= kTelling * static_cast<double>(total_ - skipped_);
    if (m.rate > 0 && total_ > 0 && (telling || now - start_ >= kTellingTime)) {
      m.left = static_cast<double>(std::max<int64_t>(total_ - m.done, 0)) / m.rate;
    }
    return m;
  }

  int64_t total_, worked_ = 0, skipped_ = 0;
  TimePoint start_;
  std::deque<Sample> samples_;
};

// ---- drawing

std::string duration(double seconds) {
  const int64_t s = static_cast<int64_t>(std::min(seconds, 1e9) + 0.5);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

size_t characters(std::string_view text) {  // UTF-8
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// At most `columns` characters.
std::string clipped(std::string text, size_t columns) {
  size_t end = 0;
  for (size_t seen = 0; end < text.size(); ++end) {
    if ((text[end] & 0xc0) != 0x80 && seen++ == columns) break;
  }
  text.resize(end);
  return text;
}

struct Style {
  std::string label, unit;
  bool bytes() const { return unit == "bytes"; }

  std::string amount(const Measure& m) const {
    if (bytes()) {
      const double mb = 1e-6;
      if (m.total <= 0) return fmt::format("{:.1f} MB", mb * static_cast<double>(m.done));
      return fmt::format("{:.1f}/{:.1f} MB", mb * static_cast<double>(m.done),
                         mb * static_cast<double>(m.total));
    }
    if (m.total <= 0) return fmt::format("{} {}", m.done, unit);
    return fmt::format("{}/{}", m.done, m.total);
  }
  std::string rate(const Measure& m) const {
    if (bytes()) return fmt::format("{:.1f} MB/s", 1e-6 * m.rate);
    return fmt::format("{:.{}f} {}/s", m.rate, m.rate < 10 ? 1 : 0, unit);
  }
};

int percent(const Measure& m) {  // rounded down: 100 only when all is done
  return static_cast<int>(
      std::clamp(static_cast<double>(m.done) / static_cast<double>(m.total), 0.0, 1.0) * 100);
}

// At most `columns` characters: what matters least goes first, then the end is cut.
std::string line(const Style& style, const Measure& m, const std::string& note, bool bar,
                 size_t columns) {
  constexpr int kWidth = 20;
  std::string label = style.label, drawn, amount = "  " + style.amount(m), rate, rest;
  if (m.total > 0) {
    label += fmt::format(" {:3} %", percent(m));
    if (bar) {
      const int full = percent(m) * kWidth / 100;
      drawn = fmt::format("  [{:#<{}}{:.<{}}]", "", full, "", kWidth - full);
    }
  }
  if (m.rate > 0) rate = "  " + style.rate(m);
  if (m.left >= 0) rest = fmt::format("  {} left", duration(m.left));
  if (!note.empty()) rest += "  " + note;
  for (std::string* part : {&drawn, &amount, &rate}) {
    if (characters(label + drawn + amount + rate + rest) <= columns) break;
    part->clear();
  }
  return clipped(label + drawn + amount + rate + rest, columns);
}

std::string last_line(const Style& style, const Measure& m, const std::string& note) {
  std::string text = style.label + "  ";
  if (m.total > 0 && m.done < m.total) {
    text += fmt::format("stopped at {} %, {}", percent(m), style.amount(m));
  } else {
    text += style.amount(m);
  }
  text += "  in " + duration(m.elapsed);
  if (m.rate > 0) text += "  " + style.rate(m);
  if (!note.empty()) text += "  " + note;
  return text;
}

std::string json_line(const Style& style, const Measure& m, const std::string& note) {
  nlohmann::ordered_json out{{"label", style.label}, {"done", m.done}};
  if (m.total > 0) out["total"] = m.total;
  out["unit"] = style.unit;
  if (m.rate > 0) out["rate"] = m.rate;
  if (m.left >= 0) out["left"] = m.left;
  if (!note.empty()) out["note"] = note;
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::atomic<bool> g_json{false};

bool stderr_is_terminal() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) && term && std::string_view(term) != "dumb";
}

thread_local const ProgressCapture* t_capture = nullptr;

size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

struct Progress::Impl {
  Impl(std::string label, int64_t total_, std::string unit, Clock clock_, std::ostream& out_,
       bool terminal_, const ProgressCapture* capture)
      : style{std::move(label), std::move(unit)},
        clock(std::move(clock_)),
        out(out_),
        json(g_json),
        terminal(terminal_ && !json),
        start(clock()),
        total(total_),
        meter(total, start),
        last_drawn(start) {
    if (capture) {
      listen = capture->listen_;
      silent = !capture->draw_;
    }
  }

  void tell(int64_t units, const std::string& text) const {
    if (listen) listen({style.label, total, units, text});
  }

  void draw_if_due() {
    const TimePoint now = clock();
    if (finished || silent) return;
    const milliseconds pause = json ? kJsonLine : kPlainLine;
    if (terminal ? now - start < kQuiet || (drawn && now - last_drawn < kRedraw)
                 : now - last_drawn < pause) {
      return;
    }
    last_drawn = now;
    drawn = true;
    const Measure m = meter.now(now);
    if (json) {
      write(json_line(style, m, note));
    } else if (terminal) {
      write(fmt::format("\r{}\x1b[K", line(style, m, note, true, columns())));
    } else {
      write(line(style, m, note, false, std::string::npos) + "\n");
    }
  }

  // One column stays free: some terminals wrap when the last one is written.
  size_t columns() const { return (&out == &std::cerr ? terminal_columns() : 80) - 1; }
  void write(const std::string& text) { out << text << std::flush; }

  std::mutex mutex;
  const Style style;
  const Clock clock;
  std::ostream& out;
  const bool json, terminal;
  const TimePoint start;
  const int64_t total;
  Meter meter;
  std::string note;
  TimePoint last_drawn;
  bool drawn = false, finished = false, silent = false;
  ProgressCapture::Listen listen;  // may be empty
};

void show_progress_as_json(bool json) { g_json = json; }

Progress::Progress(std::string label, int64_t total, std::string unit)
    : Progress(std::move(label), total, std::move(unit), std::chrono::steady_clock::now, std::cerr,
               stderr_is_terminal()) {}

Progress::Progress(std::string label, int64_t total, std::string unit, Clock clock,
                   std::ostream& out, bool terminal)
    : impl_(std::make_unique<Impl>(std::move(label), total, std::move(unit), std::move(clock), out,
                                   terminal, t_capture)) {}

Progress::~Progress() {
  try {
    finish();
  } catch (...) {  // a line that cannot be written is no reason to end the program
  }
}

void Progress::add(int64_t units) {
  std::lock_guard lock(impl_->mutex);
  impl_->meter.add(units, impl_->clock());
  impl_->draw_if_due();
  impl_->tell(units, "");
}

void Progress::skip(int64_t units) {
  std::lock_guard lock(impl_->mutex);
  impl_->meter.skip(units);
  impl_->draw_if_due();
  impl_->tell(units, "");
}

void Progress::note(const std::string& text) {
  std::lock_guard lock(impl_->mutex);
  impl_->note = text;
  for (char& c : impl_->note) {
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  }
  impl_->draw_if_due();
  impl_->tell(0, impl_->note);
}

void Progress::finish() {
  std::lock_guard lock(impl_->mutex);
  if (impl_->finished) return;
  impl_->finished = true;
  if (impl_->silent) return;
  if (impl_->json) {
    impl_->write(json_line(impl_->style, impl_->meter.overall(impl_->clock()), impl_->note));
    return;
  }
  const std::string text =
      last_line(impl_->style, impl_->meter.overall(impl_->clock()), impl_->note);
  if (!impl_->terminal) {
    impl_->write(text + "\n");
  } else if (impl_->drawn) {
    impl_->write(fmt::format("\r{}\x1b[K\n", clipped(text, impl_->columns())));
  }
}

ProgressCapture::ProgressCapture(Listen listen, bool draw)
    : listen_(std::move(listen)), draw_(draw), before_(t_capture) {
  t_capture = this;
}
ProgressCapture::~ProgressCapture() { t_capture = before_; }

std::function<void()> stop_check() {
  if (!t_capture) return [] {};
  return [listen = t_capture->listen_] {
    const std::string none;
    listen({none, 0, 0, none});
  };
}

}  // namespace ens
