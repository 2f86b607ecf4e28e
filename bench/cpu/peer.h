// SPDX-License-Identifier: Apache-2.0
// Another engine in a process of its own, which answers one line with another: PyTorch
// (bench/cpu/peer.py), ONNX Runtime (bench/cpu/peer.js).
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

namespace ens::bench {

class Peer {
 public:
  // `command` gets the number of threads as its last argument. `install`: what to do where it
  // cannot be started.
  Peer(std::string name, std::vector<std::string> command, const std::string& install);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // Why it cannot be asked, with what to do; empty: it can.
  const std::string& missing() const { return missing_; }
  const std::string& name() const { return name_; }
  const std::string& version() const { return version_; }
  // The answer; Error with the peer's reason if it could not.
  std::string ask(const std::string& command);

 private:
  bool read_line(std::string& line);

  const std::string name_;
  const std::vector<std::string> command_;
  pid_t pid_ = -1;
  FILE *to_ = nullptr, *from_ = nullptr;
  std::string missing_, version_;
};

}  // namespace ens::bench
