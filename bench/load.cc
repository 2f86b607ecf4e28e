// SPDX-License-Identifier: Apache-2.0
// ens-load: what a cloud does under more load than it can take.
//
//   ./run build ens-load
//   build/cpu/bin/ens-load --bundle runs/mine/cloud.h5          a cloud of its own, in this process
//   build/cpu/bin/ens-load --cloud tcp://127.0.0.1:5755         one that runs already
//   build/cpu/bin/ens-load --cloud ... --server-key cloud.pub --secret-key load.key
//
// Finds the cloud's capacity (as many requests under way as the queue holds), then offers requests
// at fixed rates from far below to far beyond it, whatever comes back (open loop, Poisson
// arrivals). Latency counts from when a request was due, so that a late sender hides nothing.
#include <google/protobuf/stubs/logging.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "base/error.h"
#include "base/flags.h"
#include "base/program.h"
#include "base/statistics.h"
#include "cloud/server.h"
#include "net/client_socket.h"
#include "net/keys.h"
#include "net/message.h"
#include "nn/core/rng.h"
#include "proto/status.h"
#include "proto/tensor_codec.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::duration;
using std::chrono::milliseconds;

struct Outcome {
  double offered = 0, seconds = 0;  // requests a second; of the step
  int64_t sent = 0, unsent = 0, lost = 0;
  std::map<StatusCode, int64_t> codes;
  std::vector<double> latency_ms;  // of OK replies

  int64_t count(StatusCode code) const {
    const auto it = codes.find(code);
    return it == codes.end() ? 0 : it->second;
  }
};

class Load {
 public:
  Load(const std::string& address, const std::optional<ClientSecurity>& security, int clients,
       int64_t batch, milliseconds timeout)
      : timeout_(timeout) {
    for (int i = 0; i < clients; ++i) {
      zmq::socket_t& socket = sockets_.emplace_back(context_, zmq::socket_type::dealer);
      socket.set(zmq::sockopt::linger, 0);
      socket.set(zmq::sockopt::sndhwm, 100000);
      socket.set(zmq::sockopt::rcvhwm, 100000);
      if (security) {
        socket.set(zmq::sockopt::curve_serverkey, security->server_keys[0]);
        socket.set(zmq::sockopt::curve_publickey, security->keys.public_key);
        socket.set(zmq::sockopt::curve_secretkey, security->keys.secret_key.z85());
      }
      socket.connect(address);
      items_.push_back({socket.handle(), 0, ZMQ_POLLIN, 0});
    }
    ask_info(address, batch);
  }

  // `window` > 0: so many under way all the time, and no rate.
  Outcome run(double rate, int64_t window, double seconds) {
    Outcome result;
    result.offered = rate;
    const auto start = Clock::now();
    const auto end = start + std::chrono::duration_cast<Clock::duration>(duration<double>(seconds));
    auto next = start;
    Rng rng(7);
    due_.clear();
    while (true) {
      const auto now = Clock::now();
      const bool offering = now < end;
      if (!offering && (due_.empty() || now > end + timeout_)) break;
      if (window > 0) {
        while (offering && std::ssize(due_) < window) send(now, result);
      } else {
        for (; offering && next <= now; next += gap(rng, rate)) send(next, result);
      }
      receive(result, window > 0 || !offering ? milliseconds(1) : milliseconds(0));
    }
    result.lost = std::ssize(due_);
    result.seconds = duration<double>(std::min(Clock::now(), end) - start).count();
    return result;
  }

 private:
  static Clock::duration gap(Rng& rng, double rate) {
    const double u = static_cast<double>(rng.next() >> 11) * 0x1p-53;
    return std::chrono::duration_cast<Clock::duration>(duration<double>(-std::log(1 - u) / rate));
  }

  void ask_info(const std::string& address, int64_t batch) {
    wire::Request info;
    info.set_version(kProtocolVersion);
    info.set_kind(wire::Request::INFO);
    sockets_[0].send(zmq::buffer(info.SerializeAsString()), zmq::send_flags::none);
    zmq::message_t frame;
    sockets_[0].set(zmq::sockopt::rcvtimeo, 10000);
    wire::Reply reply;
    if (!sockets_[0].recv(frame) ||
        !reply.ParseFromArray(frame.data(), static_cast<int>(frame.size())) || !reply.has_info()) {
      fail("no answer to INFO", address, "is an ensembler-cloud there, and are the keys right?");
    }
    std::vector<int64_t> dims = {batch};
    for (const int64_t size : reply.info().input_shape()) dims.push_back(size);
    Tensor features = Tensor::empty(Shape(std::span<const int64_t>(dims)));
    Rng(3).fill_uniform(features.span<float>(), 0, 2);
    Encoded encoded = encode(features, wire::FLOAT32);
    features_ = encoded.frame;
    request_.set_version(kProtocolVersion);
    request_.set_kind(wire::Request::INFER);
    request_.set_fingerprint(reply.fingerprint());
    request_.set_timeout_ms(static_cast<uint32_t>(timeout_.count()));
    *request_.mutable_tensor() = encoded.info;
  }

  void send(Clock::time_point due, Outcome& result) {
    zmq::socket_t& socket = sockets_[static_cast<size_t>(next_id_) % sockets_.size()];
    request_.set_id(next_id_);
    const std::string header = request_.SerializeAsString();
    const auto flags = zmq::send_flags::dontwait;
    if (!socket.send(zmq::buffer(header), zmq::send_flags::sndmore | flags)) {
      ++result.unsent;
      return;
    }
    socket.send(zmq::buffer(features_.raw(), features_.bytes()), flags);
    due_[next_id_++] = due;
    ++result.sent;
  }

  void receive(Outcome& result, milliseconds patience) {
    zmq::poll(items_, patience);
    for (zmq::socket_t& socket : sockets_) {
      zmq::message_t header;
      while (socket.recv(header, zmq::recv_flags::dontwait)) {
        zmq::message_t rest;
        for (bool more = header.more(); more; more = rest.more()) {
          if (!socket.recv(rest, zmq::recv_flags::dontwait)) break;
        }
        wire::Reply reply;
        if (!reply.ParseFromArray(header.data(), static_cast<int>(header.size()))) continue;
        const auto it = due_.find(reply.id());
        if (it == due_.end()) continue;
        const StatusCode code = code_from_wire(reply.code());
        ++result.codes[code];
        if (code == StatusCode::kOk) {
          result.latency_ms.push_back(
              duration<double, std::milli>(Clock::now() - it->second).count());
        }
        due_.erase(it);
      }
    }
  }

  const milliseconds timeout_;
  zmq::context_t context_;
  std::vector<zmq::socket_t> sockets_;
  std::vector<zmq::pollitem_t> items_;
  wire::Request request_;
  Tensor features_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Clock::time_point> due_;  // request -> when it was due
};

int run(int argc, char** argv) {
  std::string bundle, cloud, csv, server_key, secret_key;
  int clients = 16, timeout_ms = 1000, threads = 0;
  int64_t batch = 1, max_queue = 256;
  double seconds = 5;
  CLI::App app{"Offers a cloud more load than it can take, and shows what it makes of it.",
               "ens-load"};
  auto* own = app.add_option("--bundle", bundle, "cloud.h5: serve it in this process");
  app.add_option("--cloud", cloud, "or the address of a cloud that runs")->excludes(own);
  auto* pinned = app.add_option("--server-key", server_key, "that cloud's public key (NAME.pub)");
  auto* secret = app.add_option("--secret-key", secret_key, "a client's secret key (NAME.key)");
  pinned->needs(secret)->excludes(own);
  secret->needs(pinned);
  app.add_option("--clients", clients, "connections")
      ->check(between(1, 10000))
      ->capture_default_str();
  app.add_option("--batch", batch, "images a request")
      ->check(between(1, 4096))
      ->capture_default_str();
  app.add_option("--seconds", seconds, "of each rate")
      ->check(between(0.1, 3600))
      ->capture_default_str();
  app.add_option("--timeout-ms", timeout_ms, "deadline of a request")
      ->check(between(1, 3600000))
      ->capture_default_str();
  app.add_option("--max-queue", max_queue, "of the cloud's own queue, images (--bundle)")
      ->check(between(1, 1000000000))
      ->capture_default_str();
  app.add_option("--threads", threads, "of the cloud (--bundle); 0: all")
      ->check(between(0, 1024))
      ->capture_default_str();
  app.add_option("--csv", csv, "raw numbers to this file");
  parse_flags(app, argc, argv);
  std::optional<Server> server;
  if (!bundle.empty()) {
    CloudConfig config;
    config.set_bundle(bundle);
    config.set_bind("tcp://127.0.0.1:*");
    config.set_max_queue(static_cast<int32_t>(max_queue));
    config.set_max_request_batch(static_cast<int32_t>(std::min<int64_t>(256, max_queue)));
    config.set_threads(threads);
    complete(config);
    spdlog::set_level(spdlog::level::off);
    server.emplace(config);
    server->start();
    cloud = server->endpoint();
  }
  if (cloud.empty()) usage_fail("which cloud?", "", "use --bundle or --cloud");

  std::optional<ClientSecurity> security;
  if (!secret_key.empty()) {
    security.emplace(read_secret_key(secret_key),
                     std::vector<std::string>{read_public_key(server_key)});
  }
  Load load(cloud, security, clients, batch, milliseconds(timeout_ms));
  load.run(0, 64, 1);  // warm
  Outcome full = load.run(0, 64, seconds);
  const double capacity = static_cast<double>(full.count(StatusCode::kOk)) / full.seconds;
  std::printf("capacity: %.0f requests/s of %lld image%s (64 under way, %d connections)\n\n",
              capacity, static_cast<long long>(batch), batch == 1 ? "" : "s", clients);
  std::printf("%8s %10s %10s %10s %10s %8s %9s %9s %9s\n", "load", "offered/s", "goodput/s",
              "refused/s", "too late/s", "lost", "p50 ms", "p95 ms", "p99 ms");
  std::ofstream out(csv);
  if (!csv.empty()) {
    out << "load,offered,goodput,refused,expired,lost,unsent,p50_ms,p95_ms,p99_ms\n";
  }
  for (const double factor : {0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0}) {
    Outcome o = load.run(capacity * factor, 0, seconds);
    const auto rate = [&](int64_t count) { return static_cast<double>(count) / o.seconds; };
    const double good = rate(o.count(StatusCode::kOk)),
                 refused = rate(o.count(StatusCode::kResourceExhausted)),
                 late = rate(o.count(StatusCode::kDeadlineExceeded)),
                 p50 = percentile(o.latency_ms, 0.5), p95 = percentile(o.latency_ms, 0.95),
                 p99 = percentile(o.latency_ms, 0.99);
    std::printf("%7.2fx %10.0f %10.0f %10.0f %10.0f %8lld %9.2f %9.2f %9.2f\n", factor, o.offered,
                good, refused, late, static_cast<long long>(o.lost), p50, p95, p99);
    std::fflush(stdout);
    if (!csv.empty()) {
      out << factor << ',' << o.offered << ',' << good << ',' << refused << ',' << late << ','
          << o.lost << ',' << o.unsent << ',' << p50 << ',' << p95 << ',' << p99 << '\n';
    }
  }
  return 0;
}

}  // namespace
}  // namespace ens

int main(int argc, char** argv) {
  google::protobuf::SetLogHandler(nullptr);
  return ens::run_program("ens-load", argv, [&] { return ens::run(argc, argv); });
}
