// SPDX-License-Identifier: Apache-2.0
#include "lab/stop_on_signals.h"

#include <semaphore.h>
#include <signal.h>

#include <cerrno>
#include <cstdio>

namespace ens {
namespace {

sem_t g_signalled;

void handle(int) {
  const int before = errno;
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  sem_post(&g_signalled);
  errno = before;
}

}  // namespace

StopOnSignals::StopOnSignals() {
  sem_init(&g_signalled, 0, 0);
  thread_ = std::thread([this] {
    while (sem_wait(&g_signalled) != 0) {
    }
    if (over_) return;
    std::fputs("\nensembler: stopping at the next step; interrupt again to end at once\n", stderr);
    source_.request_stop();
  });
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  for (int number : {SIGINT, SIGTERM}) {
    struct sigaction before {};
    sigaction(number, nullptr, &before);
    if (before.sa_handler != SIG_IGN) sigaction(number, &action, nullptr);  // nohup, `&` in scripts
  }
}

StopOnSignals::~StopOnSignals() {
  for (int number : {SIGINT, SIGTERM}) {
    struct sigaction now {};
    sigaction(number, nullptr, &now);
    if (now.sa_handler == handle) signal(number, SIG_DFL);
  }
  over_ = true;
  sem_post(&g_signalled);
  thread_.join();
  sem_destroy(&g_signalled);
}

}  // namespace ens
