// SPDX-License-Identifier: Apache-2.0
// A TCP relay on loopback that can be slow, stall, break off, and that keeps what was sent through
// it.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/listener.h"

namespace ens::test {

// The methods may be called from any thread.
class TcpProxy {
 public:
  // To `endpoint`, tcp://127.0.0.1:PORT, which need not be there.
  explicit TcpProxy(const std::string& endpoint);
  ~TcpProxy();
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  void set_rate(int64_t bytes_per_second) { rate_ = bytes_per_second; }  // each way; 0: no limit
  void stall(bool on) { stalled_ = on; }  // connections stand, nothing passes
  void cut() { cut_ = true; }             // all connections, now
  // The connection that sends the so many-th byte from now on ends there; once.
  void cut_after(int64_t bytes) { cut_after_ = bytes; }
  // What the client's side sent, byte for byte; one string for each connection, in order.
  void record() { recording_ = true; }
  std::vector<std::string> recorded() const;

 private:
  struct Way {  // from one socket to the other
    int from, to;
    std::string waiting{};
    double allowance = 0;  // bytes that may leave now
  };
  struct Connection {
    Way up, down;
    size_t number = 0;
    bool ended = false;
  };

  void run(std::stop_token stop);
  void accept();
  void receive(Connection& connection, Way& way);
  static void pass(Connection& connection, Way& way);

  const int target_port_;
  const Listener listener_;
  std::string endpoint_;
  std::atomic<int64_t> rate_{0}, cut_after_{-1};
  std::atomic<bool> stalled_{false}, cut_{false}, recording_{false};
  mutable std::mutex mutex_;  // of recorded_
  std::vector<std::string> recorded_;
  std::list<Connection> connections_;  // of the thread
  std::jthread thread_;
};

// A connected TCP socket, or -1.
int dial(const std::string& endpoint);

}  // namespace ens::test
