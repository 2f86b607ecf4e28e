// SPDX-License-Identifier: Apache-2.0
// A cloud that records everything it receives and answers as a test wants, right or wrong.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "proto/wire.pb.h"
#include "tests/ensemble/bundles.h"

namespace ens::test {

class FakeCloud {
 public:
  using Frames = std::vector<std::string>;
  struct Answer {
    wire::Reply header;  // id, version and fingerprint are set already
    std::string tensor;  // empty: no frame
  };
  // Called for every INFER request with its number (0, 1, ...) and a right answer (made of
  // arbitrary finite numbers); returns what to send, in order.
  using Script = std::function<std::vector<Answer>(int, const wire::Request&, Answer right)>;

  // `bind`: tcp://127.0.0.1:* or an earlier endpoint().
  explicit FakeCloud(const BundleInfo& info, Script script = {},
                     std::string bind = "tcp://127.0.0.1:*");
  ~FakeCloud();

  // Changes the answer to INFO requests.
  void on_info(std::function<void(wire::Reply&)> change);
  const std::string& endpoint() const { return endpoint_; }
  std::vector<Frames> received() const;  // without ROUTER's own first frame
  int infer_requests() const;

 private:
  void run(std::stop_token stop);
  void handle(std::vector<zmq::message_t>& frames);

  const BundleInfo info_;
  const Script script_;
  mutable std::mutex mutex_;
  std::function<void(wire::Reply&)> info_change_;
  std::vector<Frames> received_;
  int infers_ = 0;
  zmq::context_t context_;
  zmq::socket_t socket_;
  std::string endpoint_;
  std::jthread thread_;
};

}  // namespace ens::test
