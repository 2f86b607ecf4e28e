// SPDX-License-Identifier: Apache-2.0
#include "tests/support/peers.h"

#include <cstdlib>
#include <filesystem>
#include <regex>

#include "base/files.h"
#include "base/process.h"
#include "tests/support/temp_dir.h"

namespace ens::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPython = "/usr/bin/python3";  // with Debian's packages, whatever PATH finds
constexpr const char* kNode = "/usr/bin/node";

PeerOutcome run(const std::string& program, const std::string& script,
                const std::vector<std::string>& arguments) {
  const TempDir dir;
  std::vector<std::string> words{program, std::string(ENS_SOURCE_DIR) + "/" + script};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::string log = dir / "log";
  Process process(words, {.out_file = log, .err_file = log, .err_append = true, .no_input = true});
  PeerOutcome outcome;
  outcome.code = process.wait();
  outcome.out = read_file(log);
  return outcome;
}

}  // namespace

bool peers_are_required() { return std::getenv("ENS_REQUIRE_PEERS") != nullptr; }

PeerOutcome run_python(const std::string& script, const std::vector<std::string>& arguments) {
  if (!fs::exists(kPython)) return {.missing = "no python3: apt-get install python3"};
  ::setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
  PeerOutcome outcome = run(kPython, script, arguments);
  std::smatch match;
  if (std::regex_search(outcome.out, match, std::regex("No module named '([a-z0-9]+)"))) {
    const std::string module = match[1];
    outcome.missing = "no " + module + " for Python: apt-get install python3-" +
                      (module == "google" ? "protobuf" : module);
  }
  return outcome;
}

PeerOutcome run_node(const std::string& script, const std::vector<std::string>& arguments) {
  const std::string how =
      "npm install --ignore-scripts --prefix build/node onnxruntime-node@1.30.0";
  if (!fs::exists(kNode)) return {.missing = "no node: apt-get install nodejs npm, then " + how};
  PeerOutcome outcome = run(kNode, script, arguments);
  if (outcome.out.find("Cannot find module") != std::string::npos) {
    outcome.missing = "no ONNX Runtime: " + how;
  }
  return outcome;
}

}  // namespace ens::test
