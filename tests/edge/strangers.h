// SPDX-License-Identifier: Apache-2.0
// What strangers, and clients gone wrong, do to a cloud: each act is one of them, once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "net/keys.h"
#include "nn/core/rng.h"
#include "nn/core/shape.h"

namespace ens::test {

// What they know of the cloud that they meet.
struct Target {
  std::string endpoint, http;             // http: HOST:PORT; empty: none
  std::string server_key;                 // empty: plain text
  std::shared_ptr<const KeyPair> client;  // allowed; for acts of a client gone wrong
  std::string fingerprint;
  Shape input;                // one image's features
  int64_t request_batch = 0;  // images that one request may hold
};

// Connections that stay open until this goes away.
class Held {
 public:
  Held() = default;
  ~Held() { let_go(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  void add(int fd) {
    if (fd >= 0) fds_.push_back(fd);
  }
  void let_go();
  size_t count() const { return fds_.size(); }

 private:
  std::vector<int> fds_;
};

struct Act {
  const char* name;
  // Returns soon, whatever the cloud does; what stays open goes into `held`.
  void (*run)(const Target& target, Rng& rng, Held& held);
};
const std::vector<Act>& acts();
const Act& act(const std::string& name);

}  // namespace ens::test
