// SPDX-License-Identifier: Apache-2.0
// Programs of others that tests compare with: Debian's Python packages, and packages for node under
// build/node/node_modules. Where they are missing a test skips, saying what to install; with
// ENS_REQUIRE_PEERS set, as in CI, it fails instead.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ens::test {

struct PeerOutcome {
  int code = 0;
  std::string out;      // standard output and error
  std::string missing;  // what to install; then nothing was run
};

// Runs a script of this project, by its path from the project's root. A Python module or a package
// for node that is not there makes `missing`.
PeerOutcome run_python(const std::string& script, const std::vector<std::string>& arguments);
PeerOutcome run_node(const std::string& script, const std::vector<std::string>& arguments);

bool peers_are_required();

}  // namespace ens::test

#define ENS_SKIP_OR_FAIL(why)                             \
  do {                                                    \
    if (ens::test::peers_are_required()) FAIL() << (why); \
    GTEST_SKIP() << (why);                                \
  } while (false)

#define ENS_PYTHON_OR_SKIP(outcome, script, arguments)                             \
  const ens::test::PeerOutcome outcome = ens::test::run_python(script, arguments); \
  if (!outcome.missing.empty()) ENS_SKIP_OR_FAIL(outcome.missing)

#define ENS_NODE_OR_SKIP(outcome, script, arguments)                             \
  const ens::test::PeerOutcome outcome = ens::test::run_node(script, arguments); \
  if (!outcome.missing.empty()) ENS_SKIP_OR_FAIL(outcome.missing)
