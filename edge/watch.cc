// SPDX-License-Identifier: Apache-2.0
#include "edge/watch.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/program.h"
#include "base/statistics.h"
#include "edge/reload.h"
#include "edge/stream.h"
#include "nn/data/video.h"

namespace ens {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t g_stop = 0;
// After Ctrl-C, for replies that are under way.
constexpr std::chrono::milliseconds kStopPatience{300};

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// A label comes from a data set's file: no control characters to the terminal.
std::string printable(std::string text) {
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

struct Shown {
  int64_t number = 0, dropped = 0;
  double seconds = 0, latency_ms = 0;
  Classified result;
};

class View {
 public:
  View(std::string source, bool as_json)
      : source_(std::move(source)),
        as_json_(as_json),
        redraws_(!as_json && isatty(STDOUT_FILENO)) {}

  void show(const Shown& frame) {
    // Of the last second or so.
    times_.push_back(Clock::now());
    while (times_.size() > 2 && times_.back() - times_.front() > std::chrono::seconds(1)) {
      times_.pop_front();
    }
    if (as_json_) {
      print_json(frame);
    } else if (redraws_) {
      draw(frame);
    } else {
      print_line(frame);
    }
    flush_output();
  }

 private:
  double rate() const {
    if (times_.size() < 2) return 0;
    const std::chrono::duration<double> span = times_.back() - times_.front();
    return span.count() > 0 ? static_cast<double>(times_.size() - 1) / span.count() : 0;
  }

  void print_json(const Shown& f) const {
    json top = json::array();
    for (const Ranked& r : f.result.top[0]) {
      top.push_back({{"index", r.index}, {"label", r.label}, {"probability", r.probability}});
    }
    const json line = {{"source", source_}, {"frame", f.number},          {"seconds", f.seconds},
                       {"top", top},        {"latency_ms", f.latency_ms}, {"dropped", f.dropped}};
    std::printf("%s\n", line.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  }

  void print_line(const Shown& f) const {
    std::printf("frame %lld  %.2f s ", static_cast<long long>(f.number), f.seconds);
    for (const Ranked& r : f.result.top[0]) {
      std::printf(" %5.1f %% %s ", 100.0 * r.probability, printable(r.label).c_str());
    }
    std::printf("\n");
  }

  void draw(const Shown& f) {
    winsize size{};
    const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    const size_t width = known ? size.ws_col : 80;
    char text[256];
    std::vector<std::string> lines;
    std::snprintf(text, sizeof text, "%s  frame %lld  %.2f s", printable(source_).c_str(),
                  static_cast<long long>(f.number), f.seconds);
    lines.emplace_back(text);
    int rank = 0;
    for (const Ranked& r : f.result.top[0]) {
      constexpr double kBar = 30;
      std::string bar(static_cast<size_t>(kBar * std::clamp<double>(r.probability, 0, 1) + 0.5),
                      '#');
      bar.resize(static_cast<size_t>(kBar), ' ');
      std::snprintf(text, sizeof text, "%d  %5.1f %%  |%s|  %s", ++rank, 100.0 * r.probability,
                    bar.c_str(), printable(r.label).c_str());
      lines.emplace_back(text);
    }
    std::snprintf(text, sizeof text, "%.1f frames/s, %.1f ms each, %lld dropped", rate(),
                  f.latency_ms, static_cast<long long>(f.dropped));
    lines.emplace_back(text);
    if (drawn_ > 0) std::printf("\x1b[%zuA", drawn_);
    for (std::string& line : lines) {
      if (line.size() >= width) line.resize(width - 1);  // a wrapped line would count as two
      std::printf("\r%s\x1b[K\n", line.c_str());
    }
    drawn_ = lines.size();
  }

  const std::string source_;
  const bool as_json_, redraws_;
  std::deque<Clock::time_point> times_;
  size_t drawn_ = 0;  // lines
};

}  // namespace

void watch(const std::string& source, const EdgeConfig& config, const WatchOptions& options) {
  // A live source's frames are sent at once; a file's may wait for each other and travel together.
  const bool live =
      options.live || source.find("://") != std::string::npos || source.starts_with("/dev/");
  EdgeStream stream(config, live ? 1 : 2 * config.batch(), &report_reload);
  const ModelSpec& model = stream.info().model;
  Video video(source, {model.channels, model.image_size, stream.info().fit_of_frames(), options.fps,
                       options.live});
  for (const int number : {SIGINT, SIGTERM}) std::signal(number, [](int) { g_stop = 1; });

  struct Sent {
    Frame frame;
    Clock::time_point at;
    std::future<Result<Classified>> result;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Sent> sent;
  bool all_sent = false, stop = false;
  Status failure;
  std::vector<double> latencies;
  const auto start = Clock::now();
  std::string broken;   // why the source ended, if not well
  std::string unshown;  // why results could not be printed
  {
    // A signal interrupts no wait of ours: look for it, until the last result is there.
    std::jthread watcher([&](const std::stop_token& over) {
      std::optional<Clock::time_point> asked;
      while (!over.stop_requested()) {
        if (take_reload_request()) stream.request_reload();
        if (g_stop) {
          video.stop();
          if (!asked) asked = Clock::now();
          if (Clock::now() - *asked > kStopPatience) stream.cancel();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
    std::jthread shower([&] {
      View view(source, options.as_json);
      while (true) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return all_sent || !sent.empty(); });
        if (sent.empty()) return;
        Sent next = std::move(sent.front());
        sent.pop_front();
        lock.unlock();
        Result<Classified> result = next.result.get();
        if (!result.status.ok()) {
          lock.lock();
          if (failure.ok() && !g_stop) failure = result.status;
          stop = true;
          lock.unlock();
          video.stop();
          continue;  // the others that are pending
        }
        latencies.push_back(ms_since(next.at));
        try {
          view.show({next.frame.number, video.dropped(), next.frame.seconds, latencies.back(),
                     std::move(result.value)});
        } catch (const Error& error) {  // standard output is lost
          lock.lock();
          unshown = error.what();
          stop = true;
          lock.unlock();
          video.stop();
        }
      }
    });
    try {
      Frame frame;
      while (!g_stop && video.next(frame)) {
        const auto at = Clock::now();
        auto classified = stream.submit(frame.image.reshape(batched(1, model.input_shape())));
        const std::lock_guard lock(mutex);
        if (stop) break;
        sent.push_back({frame, at, std::move(classified)});
        changed.notify_all();
      }
    } catch (const std::exception& error) {
      broken = error.what();
    }
    const std::lock_guard lock(mutex);
    all_sent = true;
    changed.notify_all();
  }
  const std::string frames = std::to_string(latencies.size()) + " frames";
  if (!failure.ok()) fail(failure.str() + " (after " + frames + " of " + source + ")");
  if (!broken.empty()) fail(broken);
  if (!unshown.empty()) fail(unshown);
  const double seconds = ms_since(start) / 1000;
  std::fprintf(stderr, "%s: %s classified in %.1f s, %.1f a second", source.c_str(), frames.c_str(),
               seconds, static_cast<double>(latencies.size()) / seconds);
  if (video.live()) std::fprintf(stderr, ", %lld dropped", static_cast<long long>(video.dropped()));
  if (!latencies.empty()) {
    std::fprintf(stderr, "; %.1f ms each (p95 %.1f)", percentile(latencies, 0.5),
                 percentile(latencies, 0.95));
  }
  std::fprintf(stderr, "\n");
}

}  // namespace ens
