// SPDX-License-Identifier: Apache-2.0
#include "base/notice.h"

#include <cstdio>
#include <mutex>
#include <utility>

namespace ens {
namespace {

std::mutex g_mutex;
std::function<void(const std::string&)>& listener() {
  static auto* listener =
      new std::function<void(const std::string&)>;  // threads may outlive main()
  return *listener;
}

}  // namespace

void notice(const std::string& line) {
  const std::lock_guard lock(g_mutex);
  if (listener()) {
    listener()(line);
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

void set_notice_listener(std::function<void(const std::string&)> to) {
  const std::lock_guard lock(g_mutex);
  listener() = std::move(to);
}

}  // namespace ens
