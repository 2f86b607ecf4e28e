// SPDX-License-Identifier: Apache-2.0
// The specification's faults between real processes: strangers, clocks, damaged files; and that the
// cloud cannot see the selector.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "net/keys.h"
#include "nn/data/image.h"
#include "proto/wire.pb.h"
#include "tests/edge/serving.h"
#include "tests/edge/strangers.h"
#include "tests/edge/tcp_proxy.h"

namespace ens {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::Args;
using test::Process;
using test::TcpProxy;
using test::Traffic;

// ---- strangers, and clients gone wrong

struct Scene {
  const char* act;
  int times = 3;
  int held = 0;  // connections that must stand at the end, before it is judged
};

void PrintTo(const Scene& scene, std::ostream* out) { *out << scene.act; }

class StrangerTest : public test::ServingTest, public testing::WithParamInterface<Scene> {
 protected:
  static int64_t status_of(pid_t pid, const std::string& field) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(in, line);) {
      if (line.rfind(field + ":", 0) == 0) return std::stoll(line.substr(field.size() + 1));
    }
    return -1;
  }
};

TEST_P(StrangerTest, HarmsNobody) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < 4096) GTEST_SKIP() << "only " << limit.rlim_max << " descriptors here";
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  for (const char* name : {"cloud", "friend"}) write_keys(dir_ / name, new_keys());
  start_cloud("tcp://127.0.0.1:*",
              {"--secret-key", path("cloud.key"), "--clients", path("friend.pub"), "--http",
               "127.0.0.1:0", "--set", "max_request_batch=64", "--set", "max_queue=64"});
  EdgeConfig config = edge_config();
  config.set_server_key(path("cloud.pub"));
  config.set_secret_key(path("friend.key"));
  const test::Target target{endpoint_,
                            http(),
                            read_public_key(dir_ / "cloud.pub"),
                            std::make_shared<const KeyPair>(read_secret_key(dir_ / "friend.key")),
                            bundles_.cloud.info.fingerprint,
                            smashed_shape(bundles_.cloud.info.model, bundles_.cloud.info.split),
                            64};
  Traffic traffic(config, bundles_);
  traffic.expect_answers(2);
  const int64_t before = status_of(cloud_->pid(), "VmRSS");
  Rng rng(3);
  test::Held held;
  for (int i = 0; i < GetParam().times; ++i) {
    test::act(GetParam().act).run(target, rng, held);
    traffic.expect_answers(1);
  }
  EXPECT_GE(held.count(), static_cast<size_t>(GetParam().held));
  traffic.expect_answers(2);
  const int64_t after = status_of(cloud_->pid(), "VmRSS");
#ifdef __SANITIZE_ADDRESS__
  const int64_t allowed = 512 * 1024;  // it keeps what was freed
#else
  const int64_t allowed = 128 * 1024;
#endif
  EXPECT_LT(after, before + allowed) << "KiB: " << before << " before";
  traffic.stop();
  EXPECT_TRUE(cloud_->running());
  cloud_->signal(SIGTERM);
  EXPECT_EQ(cloud_->wait(), 0) << cloud_->err();
}

INSTANTIATE_TEST_SUITE_P(
    Acts, StrangerTest,
    testing::Values(Scene{"noise"}, Scene{"half a greeting"}, Scene{"half a handshake", 20},
                    Scene{"a frame of 2^62 bytes"}, Scene{"idle connections", 20, 1000},
                    Scene{"no key"}, Scene{"a wrong key"}, Scene{"garbage"}, Scene{"2 GiB shape"},
                    Scene{"oversized frame"}, Scene{"half a message"}, Scene{"never reads"},
                    Scene{"slow headers", 4}, Scene{"HTTP rubbish"}),
    [](const auto& param) {
      std::string name = param.param.act;
      std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
      return name;
    });

// ---- replays

class ReplayTest : public test::ServingTest {
 protected:
  // The lines of /metrics that count what was answered.
  static std::string answered(const std::string& http) {
    const int fd = test::dial(http);
    const std::string ask = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    (void)::send(fd, ask.data(), ask.size(), MSG_NOSIGNAL);
    std::string text = read_all(fd), lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      if (line.rfind("ensembler_requests_total", 0) == 0) lines += line + "\n";
    }
    return lines;
  }
  // Until the other side ends or is silent.
  static std::string read_all(int fd) {
    const timeval patience{1, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    std::string text;
    char bytes[4096];
    for (ssize_t n = 0; (n = ::recv(fd, bytes, sizeof bytes, 0)) > 0;)
      text.append(bytes, static_cast<size_t>(n));
    ::close(fd);
    return text;
  }
};

// Somebody on the path keeps what an allowed client sent, and sends it again.
TEST_F(ReplayTest, RecordedTrafficGetsNothing) {
  for (const char* name : {"cloud", "friend"}) write_keys(dir_ / name, new_keys());
  start_cloud("tcp://127.0.0.1:*", {"--secret-key", path("cloud.key"), "--clients",
                                    path("friend.pub"), "--http", "127.0.0.1:0"});
  TcpProxy wire(endpoint_);
  wire.record();
  EdgeConfig config = edge_config();
  config.set_cloud(wire.endpoint());
  config.set_server_key(path("cloud.pub"));
  config.set_secret_key(path("friend.key"));
  const Tensor images = test::random_images(bundles_.edge.info.model, 4, 3);
  ASSERT_TRUE(EdgeClient(config).classify(images).status.ok());
  ASSERT_EQ(wire.recorded().size(), 1u);
  const std::string stream = wire.recorded()[0];
  EXPECT_EQ(stream.find(std::string("\x0a\x20", 2) + bundles_.cloud.info.fingerprint),
            std::string::npos)
      << "plain text on the wire";
  const std::string before = answered(http());
  ASSERT_NE(before.find("OK"), std::string::npos) << before;
  for (int i = 0; i < 3; ++i) {
    const int fd = test::dial(endpoint_);
    ASSERT_GE(fd, 0);
    (void)::send(fd, stream.data(), stream.size(), MSG_NOSIGNAL);
    // The cloud's greeting (64 bytes) and WELCOME (170) at most: no READY, no answer.
    EXPECT_LE(read_all(fd).size(), 64u + 2 + 168);
  }
  EXPECT_EQ(answered(http()), before);
}

// ---- clocks

class ClockTest : public test::ServingTest {
 protected:
  void SetUp() override {
    ::setenv("ENS_CLOCK_OFFSET", path("offset").c_str(), 1);
    ::setenv("LD_PRELOAD", (std::string(ENS_BIN_DIR) + "/../lib/libclock_jump.so").c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("LD_PRELOAD");
    ::unsetenv("ENS_CLOCK_OFFSET");
  }
  void jump(int64_t to) {
    std::ofstream(path("offset.new")) << to;
    std::filesystem::rename(path("offset.new"), path("offset"));
  }
};

TEST_F(ClockTest, TheCloudsWallClockJumpsInMidTraffic) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers want to be loaded first";
#endif
  jump(0);
  for (const char* name : {"cloud", "friend"}) write_keys(dir_ / name, new_keys());
  std::filesystem::create_directory(dir_ / "clients");
  std::filesystem::copy(dir_ / "friend.pub", dir_ / "clients");
  start_cloud("tcp://127.0.0.1:*", {"--secret-key", path("cloud.key"), "--clients", path("clients"),
                                    "--set", "batch_delay_us=2000"});
  EdgeConfig config = edge_config();
  config.set_server_key(path("cloud.pub"));
  config.set_secret_key(path("friend.key"));
  config.set_timeout_ms(5000);
  {
    Traffic traffic(config, bundles_);
    constexpr int64_t kYear = 365 * 86400;
    for (const int64_t to : {kYear, -kYear, int64_t{3}, int64_t{-3}, 40 * kYear, int64_t{0}}) {
      jump(to);
      traffic.expect_answers(3);
    }
    traffic.stop();
  }
  // The log shows that the clock did jump.
  jump(40LL * 365 * 86400);
  cloud_->signal(SIGHUP);
  const auto end = std::chrono::steady_clock::now() + seconds(20);
  while (cloud_->err().find("\n206") == std::string::npos && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(milliseconds(20));
  EXPECT_NE(cloud_->err().find("\n206"), std::string::npos) << cloud_->err();
  // Keys are still followed.
  std::filesystem::remove(dir_ / "clients/friend.pub");
  std::this_thread::sleep_for(milliseconds(1200));
  config.set_timeout_ms(500);
  EXPECT_FALSE(EdgeClient(config).check().ok());
}

TEST_F(ClockTest, TheEdgesWallClockJumpsInMidCall) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers want to be loaded first";
#endif
  jump(0);
  start_cloud();
  std::filesystem::create_directory(dir_ / "pictures");
  const Tensor images = test::random_images(bundles_.edge.info.model, 40, 9);
  for (int i = 0; i < 40; ++i) {
    write_png(dir_ / "pictures" / ("p" + std::to_string(i) + ".png"),
              images.rows(i, 1).reshape({3, 16, 16}));
  }
  auto process = edge({"--json", "--timeout-ms", "5000", path("pictures")});
  for (int i = 0; process->running(); ++i) {
    jump(i % 2 ? -1'000'000 : 1'000'000);
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(process->wait(), 0) << process->err();
  const std::string out = process->out();
  EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), 40);
}

// ---- damaged files

class DamagedFileTest : public test::ServingTest {};

TEST_F(DamagedFileTest, ProgramsRefuseDamagedBundlesWithTheirNameAndWhatIsWrong) {
  write_png(dir_ / "good.png",
            test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
  for (const std::string which : {"cloud.h5", "edge.h5"}) {
    std::string whole;
    {
      std::ifstream in(dir_ / which, std::ios::binary);
      whole.assign(std::istreambuf_iterator<char>(in), {});
    }
    Rng rng(17);
    for (int i = 0; i < 12; ++i) {
      std::string bytes = whole;
      const size_t at = i < 2 ? static_cast<size_t>(i) * 600 : rng.below(whole.size());
      const bool cut = i % 2 == 0;
      if (cut) {
        bytes.resize(at);
      } else {
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8)));
      }
      std::ofstream(dir_ / which, std::ios::binary) << bytes;
      auto process =
          which == "cloud.h5"
              ? run("ensembler-cloud", {"--bundle", path(which), "--bind", "tcp://127.0.0.1:*"})
              : run("ensembler-edge", {"--bundle", path(which), path("good.png")});
      SCOPED_TRACE(which + (cut ? " cut at " : " flipped at ") + std::to_string(at));
      expect_refused(*process, 1, which);
    }
    std::ofstream(dir_ / which, std::ios::binary) << whole;
  }
}

// ---- secrecy: what a cloud receives

// What a client sent over one connection, as ZMTP 3 frames without heartbeats.
std::vector<std::string> zmtp_frames(const std::string& stream) {
  std::vector<std::string> frames;
  size_t at = 0;
  const auto take = [&](size_t size) {
    std::string bytes = stream.substr(at, size);
    at = std::min(stream.size(), at + size);
    return bytes;
  };
  frames.push_back(take(64));  // the greeting
  while (at < stream.size()) {
    const std::string flags = take(1);
    uint64_t size = 0;
    for (const char c : take(flags[0] & 2 ? 8 : 1)) size = size << 8 | static_cast<uint8_t>(c);
    const std::string body = take(size);
    if (body.size() < size) break;  // the connection ended there
    if (flags[0] & 4 && (body.starts_with("\4PING") || body.starts_with("\4PONG"))) continue;
    frames.push_back(flags + body);
  }
  return frames;
}

// The header of a request as a test can compare it: a repeated one has less time left.
std::string without_time(const std::string& frame) {
  wire::Request request;
  if (frame.empty() || frame[0] & 4 || !request.ParseFromString(frame.substr(1))) return frame;
  if (request.version() != 1) return frame;
  request.clear_timeout_ms();
  return request.SerializeAsString();
}

class SecrecyTest : public test::ServingTest {
 protected:
  using Heard = std::vector<std::vector<std::string>>;  // connection, frame

  // Two clouds with two nets each and a relay in front of each; a client that has `selected`.
  // Everything that the relays passed on, cloud by cloud.
  std::vector<Heard> hear(
      const std::vector<int>& selected,
      const std::function<void(const EdgeConfig&, std::vector<TcpProxy*>)>& use) {
    test::Bundles bundles = test::random_bundles(5, 4, selected);
    bundles.edge.head = bundles_.edge.head;
    bundles.edge.protection = bundles_.edge.protection;
    write(bundles, dir_.path());
    selector_ = selected;
    EdgeConfig config;
    config.set_bundle(path("edge.h5"));
    config.set_timeout_ms(60000);
    config.set_batch(4);
    std::vector<std::unique_ptr<Process>> clouds;
    std::vector<std::unique_ptr<TcpProxy>> relays;
    std::vector<TcpProxy*> pointers;
    for (const std::vector<int>& nets : {std::vector<int>{0, 1}, {2, 3}}) {
      const std::string name = "part" + std::to_string(++started_), ready = path(name + ".ready");
      write_part(dir_ / (name + ".h5"), bundles.cloud, nets);
      clouds.push_back(run("ensembler-cloud",
                           {"--bundle", path(name + ".h5"), "--bind", "tcp://127.0.0.1:*",
                            "--ready-file", ready, "--set", "dtype=float32", "--threads", "1"}));
      relays.push_back(std::make_unique<TcpProxy>(wait_for_file(ready, *clouds.back())));
      relays.back()->record();
      pointers.push_back(relays.back().get());
      config.add_part()->set_cloud(relays.back()->endpoint());
    }
    complete(config);
    use(config, pointers);
    std::vector<Heard> heard;
    for (const auto& relay : relays) {
      Heard of_cloud;
      for (const std::string& stream : relay->recorded()) of_cloud.push_back(zmtp_frames(stream));
      heard.push_back(std::move(of_cloud));
    }
    return heard;
  }

  std::vector<int> selector_;
};

const std::vector<std::vector<int>> kSelectors = {{0}, {1, 3}, {2}, {0, 1, 2, 3}};

TEST_F(SecrecyTest, SeveralCloudsReceiveTheSameBytesWhateverIsSelected) {
  const Tensor images = test::random_images(bundles_.edge.info.model, 10, 3);
  for (const char* dtype : {"float32", "int8"}) {
    std::vector<std::vector<Heard>> heard;
    std::vector<std::vector<float>> logits;
    for (const auto& selected : kSelectors) {
      heard.push_back(hear(selected, [&](EdgeConfig config, auto) {
        config.set_wire_dtype(dtype);
        EdgeClient client(config);
        for (int i = 0; i < 3; ++i) {
          const auto result = client.classify(images);
          ASSERT_TRUE(result.status.ok()) << result.status.str();
          if (i == 0) logits.push_back(result.value.logits.to_vector());
        }
      }));
      ASSERT_EQ(heard.back().size(), 2u);
      for (const Heard& cloud : heard.back()) {
        ASSERT_EQ(cloud.size(), 1u) << "one connection";
        // Greeting, READY, INFO, and header and features of three requests for each call. In front
        // of each message libzmq puts nothing.
        EXPECT_EQ(cloud[0].size(), 2u + 1 + 3 * 3 * 2);
      }
      EXPECT_TRUE(heard.back() == heard.front()) << "a cloud can tell the selectors apart";
    }
    for (size_t i = 1; i < logits.size(); ++i) {
      float most = 0;
      for (size_t k = 0; k < logits[i].size(); ++k)
        most = std::max(most, std::abs(logits[i][k] - logits[0][k]));
      EXPECT_GT(most, 1e-2) << "selector " << i << " makes no difference: the test is blind";
    }
  }
}

TEST_F(SecrecyTest, TheCInterfaceSendsTheSameBytes) {
  const Tensor images = test::random_images(bundles_.edge.info.model, 6, 3);
  std::ofstream(path("images.raw"), std::ios::binary)
      .write(static_cast<const char*>(images.raw()), static_cast<std::streamsize>(images.bytes()));
  std::vector<std::vector<Heard>> heard;
  for (const auto& selected : kSelectors) {
    heard.push_back(hear(selected, [&](const EdgeConfig& config, auto) {
      auto process =
          run("c_client", {config.ShortDebugString(), "6", path("images.raw"), path("logits.raw")});
      ASSERT_EQ(process->wait(), 0) << process->err();
    }));
    for (auto& cloud : heard.back()) {
      ASSERT_EQ(cloud.size(), 1u);
      EXPECT_EQ(cloud[0].size(), 2u + 1 + 2 * 2);
    }
    EXPECT_TRUE(heard.back() == heard.front()) << "a cloud can tell the selectors apart";
  }
}

// A connection breaks in the middle of a request, which is sent again over a new one.
TEST_F(SecrecyTest, WhatIsSentAgainIsTheSameToo) {
  const Tensor images = test::random_images(bundles_.edge.info.model, 4, 3);
  std::vector<std::vector<Heard>> heard;
  for (const auto& selected : kSelectors) {
    heard.push_back(hear(selected, [&](const EdgeConfig& config, std::vector<TcpProxy*> relays) {
      EdgeClient client(config);
      ASSERT_TRUE(client.check().ok());
      for (int i = 0; i < 3; ++i) {
        relays[static_cast<size_t>(i % 2)]->cut_after(9000);  // of 16 KiB and a header
        const auto result = client.classify(images);
        ASSERT_TRUE(result.status.ok()) << result.status.str();
      }
    }));
    for (Heard& cloud : heard.back()) {
      for (auto& connection : cloud) {
        for (std::string& frame : connection) frame = without_time(frame);
      }
    }
    ASSERT_EQ(heard.back()[0].size(), 3u) << "two breaks, three connections";
    ASSERT_EQ(heard.back()[1].size(), 2u);
    EXPECT_TRUE(heard.back() == heard.front()) << "a cloud can tell the selectors apart";
  }
}

// Probes come at random places: compared call by call, without the order in a call.
TEST_F(SecrecyTest, ProbesTellNothingEither) {
  const Tensor images = test::random_images(bundles_.edge.info.model, 4, 3);
  const Tensor known = test::random_images(bundles_.edge.info.model, 1, 8);
  constexpr int kCalls = 6;
  std::vector<std::vector<std::multiset<std::string>>> heard;
  for (const auto& selected : kSelectors) {
    const auto clouds = hear(selected, [&](EdgeConfig config, auto) {
      ASSERT_TRUE(EdgeClient(config).record_probes(known, path("probes.h5")).ok());
      config.set_probes(path("probes.h5"));
      config.set_probe_rate(1);
      EdgeClient client(config);
      for (int i = 0; i < kCalls; ++i) {
        const auto result = client.classify(images);
        ASSERT_TRUE(result.status.ok()) << result.status.str();
      }
    });
    std::vector<std::multiset<std::string>> calls;
    for (const Heard& cloud : clouds) {
      ASSERT_EQ(cloud.size(), 2u);  // the one that recorded, and the one that is watched
      const auto& frames = cloud[1];
      ASSERT_EQ(frames.size(), 3u + kCalls * 4);
      for (size_t at = 3; at < frames.size(); at += 4) {
        // Headers and sizes in order; the two tensors in either.
        EXPECT_EQ(frames[at + 1].size(), frames[at + 3].size());
        calls.push_back({frames[at], frames[at + 1], frames[at + 2], frames[at + 3]});
      }
    }
    heard.push_back(std::move(calls));
    EXPECT_TRUE(heard.back() == heard.front()) << "a cloud can tell the selectors apart";
  }
}

}  // namespace
}  // namespace ens
