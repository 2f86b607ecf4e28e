// SPDX-License-Identifier: Apache-2.0
#include "offload/core/nonces.h"

#include <atomic>
#include <mutex>
#include <set>
#include <string>

#include "base/error.h"
#include "base/hash.h"

namespace ens {
namespace {

#ifdef NDEBUG
constexpr bool kDebug = false;
#else
constexpr bool kDebug = true;
#endif

std::atomic<bool> g_watched{kDebug};
std::mutex g_mutex;            // of the set
std::set<std::string> g_used;  // hashes, so that this is no copy of the keys

}  // namespace

void watch_nonces(bool on) {
  const std::lock_guard lock(g_mutex);
  g_used.clear();
  g_watched = on;
}

void use_nonce(std::span<const uint8_t> key, uint64_t number) {
  if (!g_watched) return;
  Hash hash;
  hash.add_number(number);
  hash.add(key.data(), key.size());
  const std::lock_guard lock(g_mutex);
  if (!g_used.insert(hash.finish()).second) fail("a nonce is used for a second time", "secrets");
}

}  // namespace ens
