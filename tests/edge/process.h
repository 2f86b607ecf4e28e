// SPDX-License-Identifier: Apache-2.0
// A child process whose output lands in files.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "base/process.h"

namespace ens::test {

class Process : public ens::Process {
 public:
  // argv[0] is a path. `stem`: output goes to <stem>.out and <stem>.err.
  Process(const std::vector<std::string>& argv, std::filesystem::path stem);
  ~Process() { signal(9); }
  // Exit code, 128 + signal if killed, -1 (and killed) if it did not end in time.
  int wait(std::chrono::milliseconds patience = std::chrono::seconds(60)) {
    return ens::Process::wait(patience);
  }
  std::string out() const;
  std::string err() const;

 private:
  std::filesystem::path stem_;
};

// HOST:PORT of a server's health and metrics, from its log.
std::string http_address(const Process& server);

// Waits for the file to appear (written whole, by rename) and reads its first line. Empty if it
// does not come or the process ends.
std::string wait_for_file(const std::filesystem::path& file, Process& writer);

}  // namespace ens::test
