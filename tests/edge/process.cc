// SPDX-License-Identifier: Apache-2.0
#include "tests/edge/process.h"

#include <fstream>
#include <thread>

namespace ens::test {
namespace {

std::string contents(const std::string& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

Process::Process(const std::vector<std::string>& argv, std::filesystem::path stem)
    : ens::Process(argv, {.out_file = stem.string() + ".out",
                          .err_file = stem.string() + ".err",
                          .no_input = true}),
      stem_(std::move(stem)) {}

std::string Process::out() const { return contents(stem_.string() + ".out"); }
std::string Process::err() const { return contents(stem_.string() + ".err"); }

std::string http_address(const Process& server) {
  const std::string log = server.err(), before = "event=http address=";
  const size_t at = log.find(before);
  if (at == std::string::npos) return "no address for HTTP in: " + log;
  return log.substr(at + before.size(), log.find('\n', at) - at - before.size());
}

std::string wait_for_file(const std::filesystem::path& file, Process& writer) {
  while (!std::filesystem::exists(file)) {
    if (!writer.running()) return "";
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::string line;
  std::ifstream in(file);
  std::getline(in, line);
  return line;
}

}  // namespace ens::test
