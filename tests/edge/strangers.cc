// SPDX-License-Identifier: Apache-2.0
#include "tests/edge/strangers.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <zmq.hpp>

#include "proto/wire.pb.h"
#include "tests/edge/tcp_proxy.h"

namespace ens::test {
namespace {

using std::chrono::milliseconds;

std::string random_bytes(Rng& rng, size_t size) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(rng.next());
  return bytes;
}

// Never waits for a peer that does not read.
void put(int fd, const std::string& bytes) {
  (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

// The 64 bytes with which ZMTP 3 begins.
std::string greeting(const std::string& mechanism) {
  std::string text("\xff\0\0\0\0\0\0\0\x01\x7f\x03\0", 12);
  text += mechanism;
  text.resize(64, '\0');
  return text;
}

std::string mechanism(const Target& target) { return target.server_key.empty() ? "NULL" : "CURVE"; }

// A client with a whole connection. Speaks with the allowed key, another one, or none.
class Client {
 public:
  enum class Key { kAllowed, kOther, kNone };
  Client(const Target& target, Key key, bool deaf = false)
      : socket_(context_, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 100);
    socket_.set(zmq::sockopt::rcvtimeo, 300);
    socket_.set(zmq::sockopt::sndtimeo, 100);
    socket_.set(zmq::sockopt::sndhwm, 100000);
    if (!target.server_key.empty() && key != Key::kNone) {
      const KeyPair other = new_keys();
      const KeyPair& own = key == Key::kAllowed ? *target.client : other;
      socket_.set(zmq::sockopt::curve_serverkey, target.server_key);
      socket_.set(zmq::sockopt::curve_publickey, own.public_key);
      socket_.set(zmq::sockopt::curve_secretkey, own.secret_key.z85());
    }
    if (deaf) {  // little room for answers, so that they pile up in the cloud
      socket_.set(zmq::sockopt::rcvhwm, 1);
      socket_.set(zmq::sockopt::rcvbuf, 4096);
    }
    socket_.connect(target.endpoint);
  }
  void send(const std::vector<std::string>& frames, bool whole = true) {
    for (size_t i = 0; i < frames.size(); ++i) {
      const bool more = i + 1 < frames.size() || !whole;
      (void)socket_.send(zmq::buffer(frames[i]),
                         more ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  void read_one() {
    zmq::message_t frame;
    (void)socket_.recv(frame);
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
};

wire::Request infer(const Target& target, int64_t images) {
  wire::Request request;
  request.set_version(1);
  request.set_kind(wire::Request::INFER);
  request.set_id(1);
  request.set_fingerprint(target.fingerprint);
  request.set_timeout_ms(1000);
  request.mutable_tensor()->set_dtype(wire::FLOAT32);
  request.mutable_tensor()->add_shape(images);
  for (const int64_t size : target.input.dims()) request.mutable_tensor()->add_shape(size);
  return request;
}

std::string info() {
  wire::Request request;
  request.set_version(1);
  request.set_kind(wire::Request::INFO);
  return request.SerializeAsString();
}

std::string payload(const Target& target, int64_t images) {
  return std::string(static_cast<size_t>(images * target.input.numel() * 4), '\0');
}

// ---- strangers: no key

void noise(const Target& target, Rng& rng, Held&) {
  const std::string kinds[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", random_bytes(rng, 100'000), "",
                               std::string("\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 11)};
  for (const std::string& bytes : kinds) {
    const int fd = dial(target.endpoint);
    if (fd < 0) return;
    put(fd, bytes);
    ::close(fd);
  }
}

void half_greeting(const Target& target, Rng& rng, Held& held) {
  const int fd = dial(target.endpoint);
  if (fd >= 0) put(fd, greeting(mechanism(target)).substr(0, 1 + rng.below(63)));
  held.add(fd);
}

// CURVE's HELLO without what should be in it, or nothing more.
void half_handshake(const Target& target, Rng& rng, Held& held) {
  const int fd = dial(target.endpoint);
  std::string bytes = greeting(mechanism(target));
  if (rng.below(2)) bytes += std::string("\x04\xc8\x05HELLO\x01\0", 10) + random_bytes(rng, 192);
  if (fd >= 0) put(fd, bytes);
  held.add(fd);
}

void huge_frame(const Target& target, Rng&, Held& held) {
  const int fd = dial(target.endpoint);
  if (fd >= 0) {
    put(fd, greeting("NULL") + std::string("\x04\x06\x05READY", 8) +
                std::string("\x02\x40\0\0\0\0\0\0\0", 9));
  }
  held.add(fd);
}

void idle(const Target& target, Rng&, Held& held) {
  for (int i = 0; i < 50; ++i) held.add(dial(target.endpoint));
}

void no_key(const Target& target, Rng&, Held&) {
  if (target.server_key.empty()) return;
  Client client(target, Client::Key::kNone);
  client.send({info()});
  client.read_one();
}

void wrong_key(const Target& target, Rng&, Held&) {
  if (target.server_key.empty()) return;
  Client client(target, Client::Key::kOther);
  client.send({info()});
  client.read_one();
}

// ---- clients gone wrong: allowed, but

void garbage(const Target& target, Rng& rng, Held&) {
  Client client(target, Client::Key::kAllowed);
  const std::string good = infer(target, 1).SerializeAsString();
  client.send({random_bytes(rng, 1 + rng.below(300)), payload(target, 1)});
  client.send({good.substr(0, good.size() / 2), payload(target, 1)});
  client.send({std::string(20'000, 'x')});
  client.send({good, payload(target, 1).substr(1)});
  client.send(std::vector<std::string>(100, good));
  for (int i = 0; i < 5; ++i) client.read_one();
}

void two_gibibytes(const Target& target, Rng&, Held&) {
  Client client(target, Client::Key::kAllowed);
  wire::Request request = infer(target, 1);
  request.mutable_tensor()->set_shape(0, (int64_t{2} << 30) / (target.input.numel() * 4));
  client.send({request.SerializeAsString(), payload(target, 1)});
  client.read_one();
  request.mutable_tensor()->set_shape(0, int64_t{1} << 62);
  client.send({request.SerializeAsString(), payload(target, 1)});
  client.read_one();
}

void oversized(const Target& target, Rng&, Held&) {
  Client client(target, Client::Key::kAllowed);
  client.send({infer(target, 1).SerializeAsString(), payload(target, target.request_batch + 1)});
  client.read_one();
}

// A first frame, and never the second.
void half_message(const Target& target, Rng&, Held&) {
  Client client(target, Client::Key::kAllowed);
  client.send({info()});
  client.read_one();  // connected
  client.send({infer(target, 1).SerializeAsString()}, /*whole=*/false);
}

void never_reads(const Target& target, Rng&, Held&) {
  Client client(target, Client::Key::kAllowed, /*deaf=*/true);
  const std::string header = infer(target, 4).SerializeAsString(), data = payload(target, 4);
  const size_t requests = std::min<size_t>(400, (16 << 20) / data.size());
  for (size_t i = 0; i < requests; ++i) client.send({header, data});
  for (int i = 0; i < 200; ++i) client.send({info()});
}

// ---- at the health port

void slow_headers(const Target& target, Rng& rng, Held& held) {
  if (target.http.empty()) return;
  for (int i = 0; i < 8; ++i) {
    const int fd = dial(target.http);
    if (fd >= 0) put(fd, "GET /healthz HTTP/1.1\r\nX: " + std::string(rng.below(100), 'a'));
    held.add(fd);
  }
}

void http_rubbish(const Target& target, Rng& rng, Held&) {
  if (target.http.empty()) return;
  const std::string kinds[] = {
      random_bytes(rng, 10'000),
      "GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\n\r\n",
      "GET /metrics HTTP/1.1\r\n" + std::string(200'000, 'h'),
      "POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + std::string(50'000, 'b'),
      "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n" + std::string(9'000, 'c'),
      "GET /../../etc/passwd HTTP/1.1\r\n\r\n",
      ""};
  for (const std::string& bytes : kinds) {
    const int fd = dial(target.http);
    if (fd < 0) return;
    put(fd, bytes);
    ::close(fd);
  }
}

}  // namespace

void Held::let_go() {
  for (const int fd : fds_) ::close(fd);
  fds_.clear();
}

const std::vector<Act>& acts() {
  static const std::vector<Act> all = {{"noise", noise},
                                       {"half a greeting", half_greeting},
                                       {"half a handshake", half_handshake},
                                       {"a frame of 2^62 bytes", huge_frame},
                                       {"idle connections", idle},
                                       {"no key", no_key},
                                       {"a wrong key", wrong_key},
                                       {"garbage", garbage},
                                       {"2 GiB shape", two_gibibytes},
                                       {"oversized frame", oversized},
                                       {"half a message", half_message},
                                       {"never reads", never_reads},
                                       {"slow headers", slow_headers},
                                       {"HTTP rubbish", http_rubbish}};
  return all;
}

const Act& act(const std::string& name) {
  for (const Act& one : acts()) {
    if (one.name == name) return one;
  }
  throw std::runtime_error("no act " + name);
}

}  // namespace ens::test
