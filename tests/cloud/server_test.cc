// SPDX-License-Identifier: Apache-2.0
// A server in this process, spoken to byte by byte: what a stranger may send, and what must happen.
#include "cloud/server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <thread>
#include <zmq_addon.hpp>

#include "base/error.h"
#include "base/strings.h"
#include "cloud/lanes.h"
#include "net/keys.h"
#include "net/server_socket.h"
#include "net/zap.h"
#include "nn/io/checkpoint.h"
#include "proto/status.h"
#include "proto/wire.pb.h"
#include "tests/ensemble/bundles.h"
#include "tests/support/http.h"

namespace ens {
namespace {

using std::chrono::milliseconds;
using Frames = std::vector<std::string>;

class RawClient {
 public:
  explicit RawClient(const std::string& endpoint) : socket_(context_, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::rcvtimeo, 20000);
    if (!endpoint.empty()) socket_.connect(endpoint);
  }
  void send(const Frames& frames) {
    for (size_t i = 0; i < frames.size(); ++i) {
      socket_.send(zmq::buffer(frames[i]),
                   i + 1 < frames.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
  }
  // A Reply and its tensor frame, if there is one.
  wire::Reply receive(std::string* tensor = nullptr) {
    std::vector<zmq::message_t> frames;
    wire::Reply reply;
    if (!zmq::recv_multipart(socket_, std::back_inserter(frames))) {
      ADD_FAILURE() << "no answer";
    } else {
      EXPECT_TRUE(reply.ParseFromString(frames[0].to_string()));
      if (tensor && frames.size() > 1) *tensor = frames[1].to_string();
    }
    return reply;
  }
  bool silent(milliseconds patience) {
    zmq::pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
    return zmq::poll(&item, 1, patience) == 0;
  }
  zmq::socket_t& socket() { return socket_; }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
};

class ServerTest : public testing::Test {
 protected:
  ServerTest() : bundles_(test::random_bundles(5, 3, {0, 2})) {
    spdlog::set_level(spdlog::level::off);
    write(bundles_, dir_.path());
    config_.set_bundle((dir_ / "cloud.h5").string());
    config_.set_bind("tcp://127.0.0.1:*");
    config_.set_dtype("float32");
    config_.set_max_batch(4);
    config_.set_max_request_batch(8);
  }
  void start() {
    complete(config_);
    server_.emplace(config_);
    server_->start();
  }

  wire::Request infer(int64_t images, uint64_t id = 1) const {
    wire::Request request;
    request.set_version(1);
    request.set_kind(wire::Request::INFER);
    request.set_id(id);
    request.set_fingerprint(bundles_.cloud.info.fingerprint);
    auto& tensor = *request.mutable_tensor();
    tensor.set_dtype(wire::FLOAT32);
    for (int64_t size : {images, int64_t{4}, int64_t{16}, int64_t{16}}) tensor.add_shape(size);
    return request;
  }
  static std::string payload(int64_t images, int bytes_per_number = 4) {
    return std::string(static_cast<size_t>(images * 4 * 16 * 16 * bytes_per_number), '\0');
  }
  // The proof that it still serves: a right request gets the right answer.
  void expect_serving() {
    RawClient client(server_->endpoint());
    Tensor features = Tensor::empty({2, 4, 16, 16});
    Rng(6).fill_uniform(features.span<float>(), 0, 2);
    client.send({infer(2, 77).SerializeAsString(),
                 std::string(static_cast<const char*>(features.raw()), features.bytes())});
    std::string tensor;
    const wire::Reply reply = client.receive(&tensor);
    ASSERT_EQ(reply.code(), 0u) << reply.message();
    EXPECT_EQ(reply.id(), 77u);
    EXPECT_EQ(reply.fingerprint(), bundles_.cloud.info.fingerprint);
    EXPECT_EQ(std::vector<int64_t>(reply.tensor().shape().begin(), reply.tensor().shape().end()),
              (std::vector<int64_t>{3, 2, 32}));
    ASSERT_EQ(tensor.size(), 3u * 2 * 32 * 4);
    Lanes lanes(bundles_.cloud, {Device{}}, Dtype::kF32, 4, 1);
    const std::vector<float> want = lanes.run(features).to_vector();
    std::vector<float> got(want.size());
    std::memcpy(got.data(), tensor.data(), tensor.size());
    EXPECT_EQ(got, want);
  }

  test::TempDir dir_;
  test::Bundles bundles_;
  CloudConfig config_;
  std::optional<Server> server_;
};

TEST_F(ServerTest, SaysWhatItServes) {
  start();
  RawClient client(server_->endpoint());
  wire::Request request;
  request.set_version(1);
  request.set_kind(wire::Request::INFO);
  request.set_id(5);
  client.send({request.SerializeAsString()});
  const wire::Reply reply = client.receive();
  EXPECT_EQ(reply.code(), 0u);
  EXPECT_EQ(reply.id(), 5u);
  EXPECT_EQ(reply.info().nets(), 3u);
  EXPECT_EQ(reply.info().max_batch(), 8u);
  EXPECT_EQ(reply.info().input_shape_size(), 3);
  EXPECT_EQ(reply.fingerprint(), server_->info().fingerprint);
}

TEST_F(ServerTest, MalformedMessagesGetAnErrorAndItServesOn) {
  start();
  struct Case {
    const char* what;
    StatusCode code;
    Frames frames;
  };
  std::vector<Case> cases;
  const auto bad = StatusCode::kInvalidArgument;
  const auto with = [&](const char* what, StatusCode code, auto change, std::string data) {
    wire::Request request = infer(1);
    change(request);
    cases.push_back({what, code, {request.SerializeAsString(), std::move(data)}});
  };
  const std::string good = infer(1).SerializeAsString();
  cases.push_back({"garbage header", bad, {"\xff\xfe garbage", payload(1)}});
  cases.push_back({"huge header", bad, {std::string(20000, 'x'), payload(1)}});
  cases.push_back({"header cut in half", bad, {good.substr(0, good.size() / 2), payload(1)}});
  cases.push_back({"empty header", StatusCode::kVersionMismatch, {""}});
  cases.push_back({"REQ envelope", StatusCode::kVersionMismatch, {"", good, payload(1)}});
  cases.push_back({"no tensor", bad, {good}});
  cases.push_back({"two tensors", bad, {good, payload(1), payload(1)}});
  cases.push_back({"a hundred frames", bad, Frames(100, good)});
  cases.push_back({"empty tensor", bad, {good, ""}});
  cases.push_back({"tensor too short", bad, {good, payload(1).substr(1)}});
  cases.push_back({"tensor too long", bad, {good, payload(1) + "x"}});
  with(
      "version 0", StatusCode::kVersionMismatch, [](auto& r) { r.set_version(0); }, payload(1));
  with(
      "version 2", StatusCode::kVersionMismatch, [](auto& r) { r.set_version(2); }, payload(1));
  with(
      "no kind", bad, [](auto& r) { r.clear_kind(); }, payload(1));
  with(
      "unknown kind", bad, [](auto& r) { r.set_kind(static_cast<wire::Request::Kind>(9)); },
      payload(1));
  with(
      "INFO with a tensor", bad, [](auto& r) { r.set_kind(wire::Request::INFO); }, payload(1));
  with(
      "no fingerprint", StatusCode::kFingerprintMismatch, [](auto& r) { r.clear_fingerprint(); },
      payload(1));
  with(
      "other fingerprint", StatusCode::kFingerprintMismatch,
      [](auto& r) { r.set_fingerprint(std::string(32, 'f')); }, payload(1));
  with(
      "no tensor info", bad, [](auto& r) { r.clear_tensor(); }, payload(1));
  with(
      "no dtype", bad, [](auto& r) { r.mutable_tensor()->clear_dtype(); }, payload(1));
  with(
      "unknown dtype", bad,
      [](auto& r) { r.mutable_tensor()->set_dtype(static_cast<wire::DType>(7)); }, payload(1));
  with(
      "float16 with float32's bytes", bad,
      [](auto& r) { r.mutable_tensor()->set_dtype(wire::FLOAT16); }, payload(1));
  with(
      "rank 3", bad, [](auto& r) { r.mutable_tensor()->mutable_shape()->RemoveLast(); },
      payload(1));
  with(
      "rank 5", bad, [](auto& r) { r.mutable_tensor()->add_shape(1); }, payload(1));
  with(
      "rank 400", bad,
      [](auto& r) {
        for (int i = 0; i < 396; ++i) r.mutable_tensor()->add_shape(1);
      },
      payload(1));
  for (int axis = 0; axis < 4; ++axis) {
    with(
        "zero dimension", bad, [&](auto& r) { r.mutable_tensor()->set_shape(axis, 0); }, "");
    with(
        "negative dimension", bad, [&](auto& r) { r.mutable_tensor()->set_shape(axis, -4); },
        payload(1));
    with(
        "2^62 dimension", bad,
        [&](auto& r) { r.mutable_tensor()->set_shape(axis, int64_t{1} << 62); }, "");
  }
  with(
      "2 GiB claimed", bad, [](auto& r) { r.mutable_tensor()->set_shape(0, 1 << 19); }, payload(1));
  with(
      "more images than allowed", bad, [](auto& r) { r.mutable_tensor()->set_shape(0, 9); },
      payload(8));
  with(
      "channels and height swapped", bad,
      [](auto& r) {
        r.mutable_tensor()->set_shape(1, 16);
        r.mutable_tensor()->set_shape(2, 4);
      },
      payload(1));

  RawClient client(server_->endpoint());
  for (const Case& c : cases) {
    client.send(c.frames);
    const wire::Reply reply = client.receive();
    EXPECT_EQ(code_from_wire(reply.code()), c.code) << c.what << ": " << reply.message();
    EXPECT_FALSE(reply.message().empty()) << c.what;
    EXPECT_FALSE(reply.has_tensor()) << c.what;
  }
  expect_serving();
}

TEST_F(ServerTest, RandomBytesNeverHurt) {
  start();
  RawClient client(server_->endpoint());
  Rng rng(11);
  const std::string good = infer(1).SerializeAsString();
  for (int i = 0; i < 400; ++i) {
    Frames frames;
    for (uint64_t f = 0; f <= rng.below(3); ++f) {
      std::string frame = rng.below(2) ? good : std::string(rng.below(300), '\0');
      for (uint64_t k = 0; !frame.empty() && k <= rng.below(4); ++k) {
        frame[rng.below(frame.size())] = static_cast<char>(rng.next());
      }
      frames.push_back(frame);
    }
    client.send(frames);
    EXPECT_NE(client.receive().code(), 0u);
  }
  expect_serving();
}

TEST_F(ServerTest, OversizedFrameEndsTheConnectionUnread) {
  start();
  RawClient client(server_->endpoint());
  client.send({infer(8).SerializeAsString(), payload(9)});
  EXPECT_TRUE(client.silent(milliseconds(200)));
  expect_serving();
}

// Not ZeroMQ at all, or only half a message.
TEST_F(ServerTest, RawTcpNoiseIsDropped) {
  start();
  const std::string endpoint = server_->endpoint();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port =
      htons(static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::vector<int> open;
  for (const std::string& noise :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(), std::string(100000, '\xff'),
        // a ZMTP 3 greeting, then a frame of 2^62 bytes
        std::string("\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL", 16) + std::string(48, '\0') +
            std::string("\x02\x40\0\0\0\0\0\0\0", 9)}) {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    (void)::send(fd, noise.data(), noise.size(), MSG_NOSIGNAL);
    open.push_back(fd);
  }
  expect_serving();
  for (int fd : open) ::close(fd);
  expect_serving();
}

TEST_F(ServerTest, AThousandIdleConnectionsDoNotMatter) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < 8192) GTEST_SKIP() << "only " << limit.rlim_max << " descriptors here";
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, 8192);
  setrlimit(RLIMIT_NOFILE, &limit);
  start();
  zmq::context_t context;
  context.set(zmq::ctxopt::max_sockets, 1100);
  std::vector<zmq::socket_t> idle;
  for (int i = 0; i < 1000; ++i) {
    zmq::socket_t& socket = idle.emplace_back(context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, 0);
    socket.connect(server_->endpoint());
  }
  // The last of them has its turn, so all before it are connected.
  wire::Request info;
  info.set_version(1);
  info.set_kind(wire::Request::INFO);
  idle.back().set(zmq::sockopt::rcvtimeo, 20000);
  idle.back().send(zmq::buffer(info.SerializeAsString()), zmq::send_flags::none);
  zmq::message_t reply;
  EXPECT_TRUE(idle.back().recv(reply));
  expect_serving();
}

// Its answers are dropped past a few; everybody else is served meanwhile.
TEST_F(ServerTest, ClientThatNeverReadsHarmsNobody) {
  config_.set_max_queue(8192);  // what is refused here would be the full queue, not the deaf client
  start();
  RawClient deaf(server_->endpoint());
  deaf.socket().set(zmq::sockopt::sndtimeo, 0);
  for (int i = 0; i < 500; ++i) {
    deaf.socket().send(zmq::buffer(infer(8).SerializeAsString()),
                       zmq::send_flags::sndmore | zmq::send_flags::dontwait);
    deaf.socket().send(zmq::buffer(payload(8)), zmq::send_flags::dontwait);
    if (i % 100 == 0) expect_serving();
  }
  expect_serving();
}

TEST_F(ServerTest, MergesRequestsAndKeepsThemApart) {
  config_.set_batch_delay_us(20000);
  start();
  Lanes lanes(bundles_.cloud, {Device{}}, Dtype::kF32, 4, 1);
  RawClient client(server_->endpoint());
  std::vector<Tensor> features;
  for (int i = 0; i < 12; ++i) {
    features.push_back(Tensor::empty({i % 8 + 1, 4, 16, 16}));
    Rng(static_cast<uint64_t>(i)).fill_uniform(features.back().span<float>(), 0, 2);
    wire::Request request = infer(i % 8 + 1, static_cast<uint64_t>(i));
    Tensor sent = features.back();
    if (i % 3 == 0) {
      sent = sent.to(Dtype::kF16);
      features.back() = sent.to(Dtype::kF32);
      request.mutable_tensor()->set_dtype(wire::FLOAT16);
    }
    client.send({request.SerializeAsString(),
                 std::string(static_cast<const char*>(sent.raw()), sent.bytes())});
  }
  for (int i = 0; i < 12; ++i) {
    std::string tensor;
    const wire::Reply reply = client.receive(&tensor);
    ASSERT_EQ(reply.code(), 0u) << reply.message();
    const std::vector<float> want = lanes.run(features[reply.id()]).to_vector();
    ASSERT_EQ(tensor.size(), want.size() * 4);
    std::vector<float> got(want.size());
    std::memcpy(got.data(), tensor.data(), tensor.size());
    for (size_t k = 0; k < want.size(); ++k)
      ASSERT_NEAR(got[k], want[k], 1e-4 * (1 + std::abs(want[k])));
  }
}

TEST_F(ServerTest, PassedDeadlineIsSaid) {
  config_.set_batch_delay_us(200000);
  start();
  RawClient client(server_->endpoint());
  wire::Request request = infer(1);
  request.set_timeout_ms(1);
  client.send({request.SerializeAsString(), payload(1)});
  EXPECT_EQ(code_from_wire(client.receive().code()), StatusCode::kDeadlineExceeded);
}

// The thread that computes is busy when the deadline passes.
TEST_F(ServerTest, ADeadlineIsAnsweredWhileABatchIsComputed) {
  config_.set_max_batch(4096);
  config_.set_max_request_batch(4096);
  config_.set_max_queue(8192);
  config_.set_threads(1);
  start();
  RawClient client(server_->endpoint());
  client.send({infer(4096, 1).SerializeAsString(), payload(4096)});
  std::this_thread::sleep_for(milliseconds(30));  // so it is being computed
  wire::Request request = infer(1, 2);
  request.set_timeout_ms(20);
  client.send({request.SerializeAsString(), payload(1)});
  const wire::Reply first = client.receive();
  EXPECT_EQ(first.id(), 2u) << "the batch was done before";
  EXPECT_EQ(code_from_wire(first.code()), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(client.receive().id(), 1u);
}

TEST_F(ServerTest, TheQueueHoldsItsLimitAndTheRestIsRefusedAtOnce) {
  config_.set_max_batch(64);
  config_.set_max_queue(8);
  config_.set_batch_delay_us(1'000'000);  // nothing leaves the queue meanwhile
  start();
  RawClient client(server_->endpoint());
  for (uint64_t id = 1; id <= 3; ++id) client.send({infer(4, id).SerializeAsString(), payload(4)});
  const wire::Reply refused = client.receive();  // before the others are computed
  EXPECT_EQ(refused.id(), 3u);
  EXPECT_EQ(code_from_wire(refused.code()), StatusCode::kResourceExhausted);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(client.receive().code(), 0u);
}

TEST_F(ServerTest, DrainingEndsAtItsLimit) {
  config_.set_drain_ms(0);
  config_.set_max_queue(8192);
  start();
  RawClient client(server_->endpoint());
  constexpr int kRequests = 400;
  for (uint64_t id = 1; id <= kRequests; ++id)
    client.send({infer(8, id).SerializeAsString(), payload(8)});
  EXPECT_EQ(client.receive().code(), 0u);
  server_->request_stop();
  server_->wait();
  int answered = 1;
  client.socket().set(zmq::sockopt::rcvtimeo, 500);
  std::vector<zmq::message_t> frames;
  while (zmq::recv_multipart(client.socket(), std::back_inserter(frames))) {
    ++answered;
    frames.clear();
  }
  EXPECT_LT(answered, kRequests) << "it has answered all, as if it had time";
}

TEST_F(ServerTest, StopsByAnsweringWhatItAccepted) {
  config_.set_batch_delay_us(300000);  // the request waits in the queue when the stop comes
  start();
  EXPECT_EQ(server_->state(), Server::State::kReady);
  RawClient client(server_->endpoint());
  client.send({infer(1, 1).SerializeAsString(), payload(1)});
  wire::Request info;
  info.set_version(1);
  info.set_kind(wire::Request::INFO);
  client.send({info.SerializeAsString()});
  client.receive();  // so the first has arrived, too
  server_->request_stop();
  const wire::Reply reply = client.receive();
  EXPECT_EQ(reply.id(), 1u);
  EXPECT_EQ(reply.code(), 0u) << reply.message();
  server_->wait();
  EXPECT_EQ(server_->state(), Server::State::kStopped);
}

TEST_F(ServerTest, RefusesBadSettingsWithOneLine) {
  const auto error_of = [&](auto change) -> std::string {
    CloudConfig config = config_;
    change(config);
    complete(config);
    try {
      Server server(config);
    } catch (const Error& error) {
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(
      has(error_of([](auto& c) { c.set_bind("tcp://0.0.0.0:*"); }), "plain text outside loopback"));
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_bind("tcp://*:*"); }), "--insecure"));
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_bind("nonsense"); }), "nonsense"));
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_bind("tcp://127.0.0.1:99999"); }), "99999"));
  EXPECT_TRUE(has(error_of([](auto& c) { c.set_bundle("/nonexistent.h5"); }), "/nonexistent.h5"));
  EXPECT_TRUE(
      has(error_of([&](auto& c) { c.set_bundle((dir_ / "edge.h5").string()); }), "edge.h5"));
  EXPECT_TRUE(has(error_of([&](auto& c) {
                    c.set_secret_key("/nonexistent.key");
                    c.set_clients("/nonexistent");
                  }),
                  "/nonexistent.key"));
  start();
  EXPECT_TRUE(has(error_of([&](auto& c) { c.set_bind(server_->endpoint()); }), "--bind"));
}

TEST_F(ServerTest, InsecureAllowsPlainTextAnywhere) {
  config_.set_bind("tcp://0.0.0.0:*");
  config_.set_insecure(true);
  start();
  EXPECT_EQ(server_->endpoint().rfind("tcp://0.0.0.0:", 0), 0u);
}

TEST_F(ServerTest, WithKeysPlainTextGetsNothing) {
  const KeyPair keys = new_keys(), friendly = new_keys();
  write_keys(dir_ / "cloud", keys);
  write_keys(dir_ / "friend", friendly);
  config_.set_secret_key((dir_ / "cloud.key").string());
  config_.set_clients((dir_ / "friend.pub").string());
  start();
  RawClient client(server_->endpoint());
  wire::Request info;
  info.set_version(1);
  info.set_kind(wire::Request::INFO);
  client.send({info.SerializeAsString()});
  EXPECT_TRUE(client.silent(milliseconds(300)));
}

// ---- taking keys away

class KeyedServerTest : public ServerTest {
 protected:
  KeyedServerTest() {
    write_keys(dir_ / "cloud", new_keys());
    std::filesystem::create_directory(dir_ / "clients");
    for (const char* name : {"anna", "bert"}) {
      write_keys(dir_ / name, new_keys());
      std::filesystem::copy(dir_ / (std::string(name) + ".pub"), dir_ / "clients");
    }
    config_.set_secret_key((dir_ / "cloud.key").string());
    config_.set_clients((dir_ / "clients").string());
    start();
  }
  std::unique_ptr<RawClient> connect(const std::string& name) {
    const KeyPair keys = read_secret_key(dir_ / (name + ".key"));
    auto client = std::make_unique<RawClient>("");
    client->socket().set(zmq::sockopt::curve_serverkey, read_public_key(dir_ / "cloud.pub"));
    client->socket().set(zmq::sockopt::curve_publickey, keys.public_key);
    client->socket().set(zmq::sockopt::curve_secretkey, keys.secret_key.z85());
    client->socket().connect(server_->endpoint());
    return client;
  }
  static void ask(RawClient& client) {
    wire::Request info;
    info.set_version(1);
    info.set_kind(wire::Request::INFO);
    client.send({info.SerializeAsString()});
  }
};

TEST_F(KeyedServerTest, ARevokedClientGetsNothingThoughItIsConnected) {
  const auto anna = connect("anna"), bert = connect("bert");
  for (RawClient* client : {anna.get(), bert.get()}) {
    ask(*client);
    EXPECT_EQ(client->receive().code(), 0u);
  }
  std::filesystem::remove(dir_ / "clients/anna.pub");
  std::this_thread::sleep_for(AllowedKeys::kInterval * 2);
  ask(*anna);
  ask(*bert);
  EXPECT_EQ(bert->receive().code(), 0u);
  EXPECT_TRUE(anna->silent(milliseconds(300)));
  const auto again = connect("anna");
  ask(*again);
  EXPECT_TRUE(again->silent(milliseconds(300)));

  std::filesystem::copy(dir_ / "anna.pub", dir_ / "clients");  // allowed again, without a restart
  std::this_thread::sleep_for(AllowedKeys::kInterval * 2);
  ask(*connect("anna"));
  ask(*anna);
  EXPECT_EQ(anna->receive().code(), 0u);
}

TEST_F(KeyedServerTest, AnEmptyFolderAllowsNobodyAndAMissingOneChangesNothing) {
  const auto bert = connect("bert");
  std::filesystem::rename(dir_ / "clients", dir_ / "elsewhere");
  server_->reload();
  ask(*bert);
  EXPECT_EQ(bert->receive().code(), 0u);
  std::filesystem::create_symlink("clients", dir_ / "clients");  // a loop: no file, no folder
  server_->reload();
  ask(*bert);
  EXPECT_EQ(bert->receive().code(), 0u);
  std::filesystem::remove(dir_ / "clients");
  std::filesystem::create_directory(dir_ / "clients");
  server_->reload();
  ask(*bert);
  EXPECT_TRUE(bert->silent(milliseconds(500)));
}

// As Kubernetes mounts and changes a config map: links into a folder that a renamed link replaces.
TEST_F(KeyedServerTest, AMountedConfigMapIsFollowed) {
  namespace fs = std::filesystem;
  server_.reset();
  const fs::path folder = dir_ / "mounted";
  const auto publish = [&](const std::string& version, const std::vector<std::string>& names) {
    fs::create_directories(folder / version);
    for (const std::string& name : names) {
      fs::copy(dir_ / (name + ".pub"), folder / version);
    }
    fs::create_symlink(version, folder / "..data_tmp");
    fs::rename(folder / "..data_tmp", folder / "..data");
    for (const std::string& name : names) {
      const fs::path link = folder / (name + ".pub");
      if (!fs::is_symlink(link)) fs::create_symlink("..data/" + name + ".pub", link);
    }
    std::vector<fs::path> stale;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.is_symlink() && !entry.exists()) stale.push_back(entry.path());
    }
    for (const fs::path& link : stale) fs::remove(link);
  };
  publish("..1", {"anna", "bert"});
  config_.set_clients(folder.string());
  start();
  const auto anna = connect("anna"), bert = connect("bert");
  for (RawClient* client : {anna.get(), bert.get()}) {
    ask(*client);
    EXPECT_EQ(client->receive().code(), 0u);
  }
  std::this_thread::sleep_for(milliseconds(2500));  // what was mounted is no longer news
  publish("..2", {"bert"});
  fs::remove_all(folder / "..1");
  std::this_thread::sleep_for(AllowedKeys::kInterval * 2);
  ask(*anna);
  ask(*bert);
  EXPECT_EQ(bert->receive().code(), 0u);
  EXPECT_TRUE(anna->silent(milliseconds(300)));
}

// ---- loading again

TEST_F(ServerTest, ALoadedBundleServesAndWhatWasAcceptedIsAnsweredByTheOldOne) {
  config_.set_batch_delay_us(
      500000);  // the first request waits in the queue when the new one comes
  start();
  RawClient client(server_->endpoint());
  client.send({infer(1, 1).SerializeAsString(), payload(1)});
  wire::Request info;
  info.set_version(1);
  info.set_kind(wire::Request::INFO);
  info.set_id(2);
  client.send({info.SerializeAsString()});
  EXPECT_EQ(client.receive().id(), 2u);  // so the first has arrived, too
  const std::string old_fingerprint = bundles_.cloud.info.fingerprint;

  bundles_ = test::random_bundles(8, 3, {0, 2});
  write(bundles_, dir_.path());
  ASSERT_NE(bundles_.cloud.info.fingerprint, old_fingerprint);
  EXPECT_TRUE(server_->reload());
  client.send(
      {infer(1, 3).SerializeAsString(), payload(1)});  // must not join the first one's batch
  wire::Request stale = infer(1, 4);
  stale.set_fingerprint(old_fingerprint);
  client.send({stale.SerializeAsString(), payload(1)});

  std::map<uint64_t, wire::Reply> replies;
  for (int i = 0; i < 3; ++i) {
    const wire::Reply reply = client.receive();
    replies[reply.id()] = reply;
  }
  EXPECT_EQ(replies[1].code(), 0u) << replies[1].message();
  EXPECT_EQ(replies[1].fingerprint(), old_fingerprint);
  EXPECT_EQ(replies[3].code(), 0u) << replies[3].message();
  EXPECT_EQ(replies[3].fingerprint(), bundles_.cloud.info.fingerprint);
  EXPECT_EQ(code_from_wire(replies[4].code()), StatusCode::kFingerprintMismatch);
  expect_serving();
}

TEST_F(ServerTest, ADamagedBundleIsNotLoadedAndHarmsNobody) {
  start();
  std::filesystem::resize_file(dir_ / "cloud.h5", 1000);
  EXPECT_FALSE(server_->reload());
  std::filesystem::remove(dir_ / "cloud.h5");
  EXPECT_FALSE(server_->reload());
  expect_serving();
}

// ---- several bundles at once

TEST_F(ServerTest, ServesEachRequestWithTheBundleOfItsFingerprint) {
  namespace fs = std::filesystem;
  fs::create_directory(dir_ / "models");
  fs::rename(dir_ / "cloud.h5", dir_ / "models/old.h5");
  config_.set_bundle((dir_ / "models").string());
  start();
  const auto old_fingerprint = bundles_.cloud.info.fingerprint;
  expect_serving();
  bundles_ = test::random_bundles(8, 3, {0, 2});
  write(bundles_, dir_.path());
  fs::rename(dir_ / "cloud.h5", dir_ / "models/new.h5");
  ASSERT_TRUE(server_->reload());
  expect_serving();
  EXPECT_EQ(server_->info().fingerprint, bundles_.cloud.info.fingerprint) << "the newest is first";

  RawClient client(server_->endpoint());
  const auto code_of = [&](const std::string& fingerprint) {
    wire::Request request = infer(1);
    request.set_fingerprint(fingerprint);
    client.send({request.SerializeAsString(), payload(1)});
    const wire::Reply reply = client.receive();
    if (reply.code() == 0) {
      EXPECT_EQ(reply.fingerprint(), fingerprint);
    }
    return code_from_wire(reply.code());
  };
  const auto info_of = [&](const std::string& fingerprint) {
    wire::Request request;
    request.set_version(1);
    request.set_kind(wire::Request::INFO);
    request.set_fingerprint(fingerprint);
    client.send({request.SerializeAsString()});
    return client.receive().fingerprint();
  };
  const auto new_fingerprint = bundles_.cloud.info.fingerprint;
  EXPECT_EQ(code_of(old_fingerprint), StatusCode::kOk);
  EXPECT_EQ(code_of(new_fingerprint), StatusCode::kOk);
  EXPECT_EQ(info_of(old_fingerprint), old_fingerprint);
  EXPECT_EQ(info_of(new_fingerprint), new_fingerprint);
  EXPECT_EQ(info_of(""), new_fingerprint) << "an edge that does not say which";

  fs::remove(dir_ / "models/old.h5");
  ASSERT_TRUE(server_->reload());
  EXPECT_EQ(code_of(old_fingerprint), StatusCode::kFingerprintMismatch);
  EXPECT_EQ(code_of(new_fingerprint), StatusCode::kOk);
  fs::copy(dir_ / "models/new.h5", dir_ / "models/twin.h5");
  EXPECT_FALSE(server_->reload()) << "the same nets twice";
  expect_serving();
}

// Refused by its size: reading four terabytes would take hours, and all memory.
TEST_F(ServerTest, ABundleThatDoesNotFitIntoMemoryIsNotRead) {
  std::filesystem::create_directory(dir_ / "models");
  std::filesystem::rename(dir_ / "cloud.h5", dir_ / "models/cloud.h5");
  config_.set_bundle((dir_ / "models").string());
  start();
  std::ofstream(dir_ / "models/huge.h5") << "x";
  std::error_code error;
  std::filesystem::resize_file(dir_ / "models/huge.h5", uintmax_t{1} << 42, error);
  if (error) GTEST_SKIP() << "no sparse files here: " << error.message();
  const auto asked = std::chrono::steady_clock::now();
  EXPECT_FALSE(server_->reload());
  EXPECT_LT(std::chrono::steady_clock::now() - asked, std::chrono::seconds(10));
  expect_serving();
}

TEST_F(ServerTest, AnUnexpectedBundleIsNotServed) {
  config_.set_expect_fingerprint("00000000");
  complete(config_);
  EXPECT_THROW(Server server(config_), Error);
  config_.set_expect_fingerprint("00000000," +
                                 to_hex(bundles_.cloud.info.fingerprint).substr(0, 16));
  start();
  const auto right = bundles_;
  bundles_ = test::random_bundles(8, 3, {0, 2});
  write(bundles_, dir_.path());
  EXPECT_FALSE(server_->reload());
  bundles_ = right;
  expect_serving();
}

TEST_F(ServerTest, RepliesComeAsTheyAreAskedFor) {
  start();
  RawClient client(server_->endpoint());
  const auto bytes_of = [&](int dtype) {
    wire::Request request = infer(2);
    request.set_reply_dtype(static_cast<wire::DType>(dtype));
    client.send({request.SerializeAsString(), payload(2)});
    std::string tensor;
    const wire::Reply reply = client.receive(&tensor);
    EXPECT_EQ(reply.code(), 0u);
    EXPECT_EQ(reply.tensor().scale_size(), dtype == wire::INT8 ? 3 * 2 : 0);
    EXPECT_EQ(reply.tensor().dtype(), dtype == 77 || dtype == 0 ? wire::FLOAT32 : dtype);
    return tensor.size();
  };
  EXPECT_EQ(bytes_of(wire::DTYPE_UNSPECIFIED), 3u * 2 * 32 * 4);
  EXPECT_EQ(bytes_of(wire::FLOAT16), 3u * 2 * 32 * 2);
  EXPECT_EQ(bytes_of(wire::INT8), 3u * 2 * 32);
  EXPECT_EQ(bytes_of(77), 3u * 2 * 32 * 4) << "one that this version does not know";
}

// ---- health and metrics

TEST_F(ServerTest, SpeaksHttpToProbesAndPrometheus) {
  config_.set_http("127.0.0.1:0");
  start();
  const auto get = [&](const std::string& path) {
    return test::http_get(server_->http_address(), path);
  };
  EXPECT_EQ(get("/healthz").first, 200);
  EXPECT_EQ(get("/readyz").first, 200);
  EXPECT_EQ(get("/etc/passwd").first, 404);
  for (const char* path : {"/healthz", "/readyz", "/metrics"}) {
    const auto [code, body] = test::http_get(server_->http_address(), path, "HEAD");
    EXPECT_EQ(code, 200) << path;
    EXPECT_EQ(body, "") << path;
  }
  // Each series is there before its first event.
  const std::string fresh = get("/metrics").second;
  for (uint32_t code = 0; code < kStatusCodes; ++code) {
    const std::string zero =
        std::string("ensembler_requests_total{code=\"") + name(code_from_wire(code)) + "\"} 0";
    EXPECT_NE(fresh.find(zero), std::string::npos) << zero << "\n" << fresh;
  }
  for (const Refusal why : kRefusals) {
    const std::string zero = std::string("ensembler_refused_total{reason=\"") + name(why) + "\"} 0";
    EXPECT_NE(fresh.find(zero), std::string::npos) << zero << "\n" << fresh;
  }
  expect_serving();
  RawClient client(server_->endpoint());
  client.send({"rubbish"});
  client.receive();
  server_->reload();
  std::filesystem::remove(dir_ / "cloud.h5");
  server_->reload();

  const auto [status, text] = get("/metrics");
  EXPECT_EQ(status, 200);
  for (const char* wanted :
       {"ensembler_requests_total{code=\"OK\"} 1",
        "ensembler_requests_total{code=\"INVALID_ARGUMENT\"} 1",
        "ensembler_images_total{fingerprint=\"", "\"} 2\n", "ensembler_queue_images 0",
        "ensembler_batch_images_bucket{le=\"2\"} 1", "ensembler_batch_images_bucket{le=\"1\"} 0",
        "ensembler_latency_seconds_count{part=\"total\"} 1",
        "ensembler_latency_seconds_count{part=\"queue\"} 1",
        "ensembler_latency_seconds_count{part=\"compute\"} 1",
        "ensembler_reloads_total{result=\"ok\"} 1", "ensembler_reloads_total{result=\"failed\"} 1",
        "state=\"ready\""}) {
    EXPECT_NE(text.find(wanted), std::string::npos) << wanted << "\n" << text;
  }
  EXPECT_NE(text.find(to_hex(bundles_.cloud.info.fingerprint).substr(0, 16)), std::string::npos);

  server_->request_stop();
  server_->wait();
  EXPECT_EQ(get("/readyz").first, 503);
  EXPECT_EQ(get("/healthz").first, 503);
}

TEST_F(KeyedServerTest, MetricsNameClientsByTheirKeysNameAndSayWhyOthersAreRefused) {
  server_.reset();
  config_.set_http("127.0.0.1:0");
  start();
  const auto anna = connect("anna");
  const std::string fingerprint = bundles_.cloud.info.fingerprint;
  anna->send({infer(2).SerializeAsString(), payload(2)});
  EXPECT_EQ(anna->receive().code(), 0u);
  std::filesystem::remove(dir_ / "clients/bert.pub");
  std::this_thread::sleep_for(AllowedKeys::kInterval * 2);
  const auto bert = connect("bert");
  ask(*bert);
  RawClient plain(server_->endpoint());
  plain.send({"hello"});
  EXPECT_TRUE(bert->silent(milliseconds(300)));
  const std::string text = test::http_get(server_->http_address(), "/metrics").second;
  for (const char* wanted : {"ensembler_client_images_total{client=\"anna\"} 2",
                             "ensembler_client_requests_total{client=\"anna\",code=\"OK\"} 1",
                             "ensembler_client_connections_total{client=\"anna\"} 1"}) {
    EXPECT_NE(text.find(wanted), std::string::npos) << wanted << "\n" << text;
  }
  const auto refused = [&](const char* reason) {
    const std::string series = std::string("ensembler_refused_total{reason=\"") + reason + "\"} ";
    const size_t at = text.find(series);
    return at == std::string::npos ? -1 : std::stoi(text.substr(at + series.size()));
  };
  EXPECT_EQ(refused("key"), 1) << text;
  // Whoever sees first that only one side has keys hangs up.
  EXPECT_GE(refused("plain_text") + refused("handshake"), 1) << text;
  EXPECT_EQ(text.find("bert"), std::string::npos) << "it has no name here any more";
  EXPECT_EQ(text.find(read_public_key(dir_ / "anna.pub")), std::string::npos);
}

// Somebody opens connections and sends a header line now and then, for good: others are answered.
TEST_F(ServerTest, SlowHttpConnectionsFromOneAddressDoNotStopProbes) {
  config_.set_http("127.0.0.1:0");
  start();
  std::vector<int> slow;
  for (int i = 0; i < 300; ++i)
    slow.push_back(test::dial_from("127.0.0.2", server_->http_address()));
  for (int turn = 0; turn < 8; ++turn) {
    for (const int fd : slow) {
      const std::string line = turn == 0 ? "GET /healthz HTTP/1.1\r\n" : "X-more: to come\r\n";
      (void)::send(fd, line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    EXPECT_EQ(test::http_get(server_->http_address(), "/healthz").first, 200) << "turn " << turn;
    std::this_thread::sleep_for(milliseconds(300));
  }
  for (const int fd : slow) ::close(fd);
  expect_serving();
}

TEST_F(ServerTest, HttpTakesNoMoreThanAProbeNeeds) {
  config_.set_http("127.0.0.1:0");
  start();
  const std::string address = server_->http_address();
  for (const std::string& request :
       {"GET /metrics HTTP/1.1\r\nX: " + std::string(200'000, 'h') + "\r\n\r\n",
        "GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n",
        std::string("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123456789"),
        std::string("DELETE /healthz HTTP/1.1\r\nHost: x\r\n\r\n")}) {
    const int fd = test::dial_from("127.0.0.1", address);
    (void)::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    char bytes[64] = "";
    const ssize_t n = ::recv(fd, bytes, sizeof bytes - 1, 0);  // an error of HTTP, or the end
    EXPECT_TRUE(n <= 0 || std::string(bytes).rfind("HTTP/1.1 4", 0) == 0) << bytes;
    ::close(fd);
  }
  EXPECT_EQ(test::http_get(address, "/healthz").first, 200);
}

TEST_F(ServerTest, RefusesBadHttpAddresses) {
  complete(config_);
  for (const char* address : {"nonsense", ":80", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:8x"}) {
    config_.set_http(address);
    EXPECT_THROW(Server server(config_), Error) << address;
  }
  config_.set_http("127.0.0.1:0");
  start();
  config_.set_http(server_->http_address());
  EXPECT_THROW(Server second(config_), Error);  // taken
}

TEST(ServerState, IsNamed) { EXPECT_STREQ(name(Server::State::kDraining), "draining"); }

}  // namespace
}  // namespace ens
