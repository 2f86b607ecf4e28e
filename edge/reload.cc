// SPDX-License-Identifier: Apache-2.0
#include "edge/reload.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <utility>

namespace ens {
namespace {
volatile std::sig_atomic_t g_reload = 0;
}

void report_reload(const Status& status) {
  if (status.ok()) {
    std::fprintf(stderr, "ensembler-edge: the bundle was read again\n");
  } else {
    std::fprintf(stderr, "ensembler-edge: the bundle was read again and is not used: %s\n",
                 status.str().c_str());
  }
}

void reload_on_hangup() {
  if (isatty(STDIN_FILENO)) return;
  std::signal(SIGHUP, [](int) { g_reload = 1; });
}

bool take_reload_request() {
  if (!g_reload) return false;
  g_reload = 0;
  return true;
}

}  // namespace ens
