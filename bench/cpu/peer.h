// PyTorch in a process of its own, which answers one line with another (bench/cpu/peer.py).
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <string>

namespace ens::bench {

class Peer {
 public:
  explicit Peer(const std::string& script);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // Why it cannot be asked, with what to do; empty: it can.
  const std::string& missing() const { return missing_; }
  const std::string& version() const { return version_; }
  // The answer; Error with the peer's reason if it could not.
  std::string ask(const std::string& command);

 private:
  bool read_line(std::string& line);

  pid_t pid_ = -1;
  FILE *to_ = nullptr, *from_ = nullptr;
  std::string missing_, version_;
};

}  // namespace ens::bench
