// A child process whose output lands in files.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

namespace ens::test {

class Process {
 public:
  // argv[0] is a path. `stem`: output goes to <stem>.out and <stem>.err.
  Process(const std::vector<std::string>& argv, std::filesystem::path stem);
  ~Process();  // kills it if it still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number);
  bool running();
  pid_t pid() const { return pid_; }  // -1 once it has ended
  // Exit code, 128 + signal if killed, -1 (and killed) if it did not end in time.
  int wait(std::chrono::milliseconds patience = std::chrono::seconds(60));
  std::string out() const;
  std::string err() const;

 private:
  bool reap(bool block);

  std::filesystem::path stem_;
  pid_t pid_ = -1;
  int code_ = -1;
};

// Waits for the file to appear (written whole, by rename) and reads its first line. Empty if it
// does not come or the process ends.
std::string wait_for_file(const std::filesystem::path& file, Process& writer);

}  // namespace ens::test
