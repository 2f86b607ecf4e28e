// SPDX-License-Identifier: Apache-2.0
// One progress line on stderr. On a terminal a bar rewritten in place at most 10 times a second and
// not before 300 ms have passed; otherwise one plain line at most every 5 seconds, and one at the
// end. It shows the label, what is done, the rate of the last half minute, the time left and free
// text. Thread-safe: several trainings side by side share one bar.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>

#include "base/error.h"

namespace ens {

// A stop was requested (Ctrl-C, a task's std::stop_token): thrown at a step, through the training
// or the attack. What was saved until then is continued when it is started again.
class Stopped : public Error {
 public:
  Stopped() : Error(Kind::kFailure, "stopped", "", "the same command goes on from what is saved") {}
};

// How Progress objects made from now on show themselves: as lines for people, or, for programs that
// read them, as a JSON object a line on stderr, at most two a second and one at the end:
// {"label":"stage 1","done":512,"total":50000,"unit":"images","rate":431.5,"left":115,"note":"..."}
// rate is per second, left in seconds; a number that is not known is left out.
void show_progress_as_json(bool json);

class Progress {
 public:
  // total: units of work in all, 0 if unknown; `unit` names them ("images") for the rate. "bytes"
  // are shown as MB.
  Progress(std::string label, int64_t total, std::string unit = "images");
  // For tests: a clock, a stream and whether it is a terminal.
  using Clock = std::function<std::chrono::steady_clock::time_point()>;
  Progress(std::string label, int64_t total, std::string unit, Clock clock, std::ostream& out,
           bool terminal);
  ~Progress();  // finishes the line

  void add(int64_t units);             // work done just now
  void skip(int64_t units);            // work done earlier (a resumed run): not part of the rate
  void note(const std::string& text);  // free text shown behind: "loss 1.23  accuracy 61 %"
  void finish();                       // final line; further calls do nothing

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What a Progress tells its ProgressCapture.
struct ProgressStep {
  const std::string& label;
  int64_t total;            // of the label, 0 if unknown
  int64_t units;            // done since the last step, or earlier (a resumed run)
  const std::string& note;  // empty: as before
};

// While alive, Progress objects made on this thread tell `listen` what is added and noted, and draw
// nothing (a sweep has one line for everything) unless `draw`. `listen` may be called from any
// thread; what it throws (Stopped) comes out of the call that added or noted.
class ProgressCapture {
 public:
  using Listen = std::function<void(const ProgressStep&)>;
  explicit ProgressCapture(Listen listen, bool draw = false);
  ~ProgressCapture();
  ProgressCapture(const ProgressCapture&) = delete;
  ProgressCapture& operator=(const ProgressCapture&) = delete;

 private:
  const Listen listen_;
  const bool draw_;
  const ProgressCapture* before_;
  friend class Progress;
  friend std::function<void()> stop_check();
};

// For long loops that add nothing to a Progress, such as measuring an accuracy: a function, to be
// called from any thread at every step, that throws what this thread's ProgressCapture throws.
std::function<void()> stop_check();

}  // namespace ens
