// A child process: started with arguments, waited for, or told to end.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace ens {

class Process {
 public:
  // Starts arguments[0] (a path). `capture`: standard output is kept for output(). Standard error
  // is shared, or written to `log_file` if given. Error if it cannot be started.
  Process(const std::vector<std::string>& arguments, bool capture,
          const std::string& log_file = "");
  ~Process();  // ends the process with SIGTERM, then SIGKILL after two seconds, if it still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  bool running();
  void terminate();  // SIGTERM
  void kill_now();   // SIGKILL
  int wait();        // exit code; 128 + signal if killed. Reads the captured output meanwhile
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
