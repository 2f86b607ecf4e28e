// SPDX-License-Identifier: Apache-2.0
// A child process: started with arguments, waited for, or told to end.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

namespace ens {

class Process {
 public:
  // Where the child's output goes; what is not set is shared with this process.
  struct Options {
    bool capture = false;  // standard output is kept for output()
    // Files, made or emptied (err_append: appended to), with mode 0600.
    std::string out_file, err_file;
    bool err_append = false;
    bool no_input = false;   // standard input is /dev/null
    bool own_group = false;  // a terminal's Ctrl-C does not reach it
  };
  // Starts arguments[0] (a path). Error if it cannot be started.
  Process(const std::vector<std::string>& arguments, const Options& options);
  explicit Process(const std::vector<std::string>& arguments) : Process(arguments, Options()) {}
  ~Process();  // ends the process with SIGTERM, then SIGKILL after two seconds, if it still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  bool running();
  pid_t pid() const { return pid_; }  // -1 once it has ended
  void signal(int number);            // SIGTERM, SIGKILL, ...; nothing if it has ended
  int wait();  // exit code; 128 + signal if killed. Reads the captured output meanwhile
  // The same, at most so long: -1, and killed, if it did not end in time. Not with `capture`.
  int wait(std::chrono::milliseconds patience);
  const std::string& output() const { return output_; }

 private:
  bool reap(bool block);
  std::string name_;
  pid_t pid_ = -1;
  int pipe_ = -1;
  int code_ = -1;
  std::string output_;
};

}  // namespace ens
