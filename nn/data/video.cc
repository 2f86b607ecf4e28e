#include "nn/data/video.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "nn/data/codecs.h"

namespace ens {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

namespace {

bool is_camera(const std::string& source) { return source.starts_with("/dev/"); }
bool is_stream(const std::string& source) { return source.find("://") != std::string::npos; }

constexpr const char* kVideoHint =
    "give a video that FFmpeg plays, a camera such as /dev/video0, or a stream's address";

// FFmpeg gives up with the same code as for a damaged stream; the time tells.
bool silent_since(Clock::time_point start) {
  return Clock::now() - start >= std::chrono::milliseconds(data::kStreamSilenceMs);
}

[[noreturn]] void fail_silent(const std::string& source) {
  fail("nothing came from the stream for " + std::to_string(data::kStreamSilenceMs / 1000) +
           " seconds",
       source, "check that the camera sends, and the address");
}

std::unique_ptr<data::Capture> open(const std::string& source, int channels) {
  std::error_code ignored;
  if (!is_stream(source) && !fs::exists(source, ignored)) {
    fail(is_camera(source) ? "there is no such camera" : "there is no such video", source,
         is_camera(source) ? "see /dev/video*" : "check the path");
  }
  std::unique_ptr<data::Capture> capture;
  const data::Codecs& decoders = data::codecs();
  const auto start = Clock::now();
  try {
    capture = decoders.open(source, is_camera(source), channels);
  } catch (const std::exception& error) {
    fail(std::string("cannot open: ") + error.what(), source, kVideoHint);
  }
  if (!capture && is_stream(source) && silent_since(start)) fail_silent(source);
  if (!capture && is_stream(source)) {
    fail("the stream cannot be opened: nobody answers there, or not with a video", source,
         "check the address, user and password, and that the camera sends");
  }
  if (!capture) {
    fail(is_camera(source) ? "the camera cannot be opened: another program has it, it is none, or "
                             "you may not"
                           : "not a video that can be played: damaged, or its codec is missing",
         source, kVideoHint);
  }
  return capture;
}

}  // namespace

struct Video::Impl {
  Impl(const std::string& source_, const VideoOptions& options_)
      : source(source_),
        options(options_),
        unbounded(is_camera(source) || is_stream(source)),
        live(options.live || unbounded),
        capture(open(source, options.channels)),
        rate(capture->rate()) {}

  // The next frame that is asked for; false at the end.
  bool read(data::Pixels& pixels, Frame& frame) {
    while (!stopped) {
      const auto asked = Clock::now();
      bool there = false;
      try {
        there = capture->read(pixels);
      } catch (const std::exception& error) {
        fail(std::string("cannot decode frame ") + std::to_string(count) + ": " + error.what(),
             source);
      }
      if (!there) {
        if (!stopped && is_stream(source) && silent_since(asked)) fail_silent(source);
        end();
        return false;
      }
      frame.number = count++;
      const Seconds now = Clock::now() - started;
      frame.seconds = unbounded || rate <= 0 ? (frame.number == 0 ? 0 : now.count())
                                             : static_cast<double>(frame.number) / rate;
      if (frame.number == 0) started = Clock::now();
      if (live && !unbounded) {  // a file: no sooner than a camera would have it
        std::this_thread::sleep_until(
            started + std::chrono::duration_cast<Clock::duration>(Seconds(frame.seconds)));
      }
      // One frame in each slot of 1 / fps seconds.
      const double slot = options.fps > 0 ? std::floor(frame.seconds * options.fps + 1e-6) : -1;
      if (options.fps > 0 && slot == last_slot) continue;
      last_slot = slot;
      return true;
    }
    return false;
  }

  // Files say how many frames they have; some only about.
  void end() const {
    if (stopped) return;
    if (unbounded) fail("the source broke off after " + std::to_string(count) + " frames", source);
    const int64_t promised = capture->frames();
    if (count == 0) fail("the video has no frame that can be decoded", source, kVideoHint);
    if (count < promised - std::max<int64_t>(2, promised / 50)) {
      fail("the video ends early: " + std::to_string(count) + " of " + std::to_string(promised) +
               " frames could be read",
           source, "copy it again");
    }
  }

  void finish(const data::Pixels& pixels, Frame& frame) const {
    frame.image = data::to_tensor(data::resize(pixels, options.side, options.side, options.fit));
  }

  void read_live() {
    data::Pixels pixels;
    Frame frame;
    std::string why;
    try {
      while (read(pixels, frame)) {
        const std::lock_guard lock(mutex);
        dropped += fresh;
        fresh = true;
        std::swap(newest, pixels);
        newest_frame = frame;
        changed.notify_all();
      }
    } catch (const std::exception& error) {
      why = error.what();
    }
    const std::lock_guard lock(mutex);
    ended = true;
    failure = why;
    changed.notify_all();
  }

  bool next_live(Frame& frame) {
    data::Pixels pixels;
    {
      std::unique_lock lock(mutex);
      // stop() may come from a signal handler, which cannot notify.
      while (!fresh && !ended && !stopped) changed.wait_for(lock, std::chrono::milliseconds(50));
      if (stopped) return false;
      if (!fresh) {
        if (!failure.empty()) fail(failure);
        return false;
      }
      fresh = false;
      std::swap(pixels, newest);
      frame = newest_frame;
    }
    finish(pixels, frame);
    return true;
  }

  bool next(Frame& frame) {
    if (live) return next_live(frame);
    data::Pixels pixels;
    if (!read(pixels, frame)) return false;
    finish(pixels, frame);
    return true;
  }

  const std::string source;
  const VideoOptions options;
  const bool unbounded;  // a camera or stream: has no last frame
  const bool live;
  const std::unique_ptr<data::Capture> capture;
  const double rate;
  Clock::time_point started = Clock::now();
  int64_t count = 0;  // frames read
  double last_slot = -1;
  std::atomic<bool> stopped{false};

  // Of a live source: the newest frame.
  std::mutex mutex;
  std::condition_variable changed;
  data::Pixels newest;
  Frame newest_frame;
  bool fresh = false, ended = false;
  std::string failure;
  int64_t dropped = 0;
};

Video::Video(const std::string& source, const VideoOptions& options)
    : impl_(std::make_shared<Impl>(source, options)) {
  if (impl_->live) std::thread([impl = impl_] { impl->read_live(); }).detach();
}
Video::~Video() {
  stop();
  if (!impl_->live) return;
  // Usually the reader is done within a frame.
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait_for(lock, std::chrono::milliseconds(500), [&] { return impl_->ended; });
}
bool Video::next(Frame& frame) { return impl_->next(frame); }
void Video::stop() { impl_->stopped = true; }
bool Video::live() const { return impl_->live; }
int64_t Video::dropped() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->dropped;
}

bool is_video(const std::string& source) {
  constexpr std::array<std::string_view, 16> kEndings{
      ".avi",  ".mp4", ".m4v",   ".mov", ".mkv", ".webm", ".mpg", ".mpeg",
      ".mjpg", ".ts",  ".mjpeg", ".ogv", ".wmv", ".flv",  ".3gp", ".y4m"};
  if (is_stream(source) || is_camera(source)) return true;
  std::string ending = fs::path(source).extension().string();
  std::ranges::transform(ending, ending.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::ranges::find(kEndings, ending) != kEndings.end();
}

}  // namespace ens
