// SPDX-License-Identifier: Apache-2.0
// The simulated enclave as a process of its own, with real workers, and with a host and workers
// that lie. What is tested is what it keeps to; it protects nothing from the machine's owner.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "nn/plan/int8_bytes.h"
#include "offload/host/enclave_process.h"
#include "offload/trusted/enclave.h"
#include "offload/trusted/tiled.h"
#include "tests/edge/process.h"
#include "tests/offload/blinded.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

using test::Process;

class EnclaveTest : public testing::Test {
 protected:
  EnclaveTest() : bundle_(test::random_blinded_bundle(3)) { write_keys(dir_ / "host", new_keys()); }

  // A worker process with a key of its own.
  EnclaveProcess::Worker start_worker() {
    const std::string stem = (dir_ / ("worker" + std::to_string(processes_.size()))).string();
    write_keys(stem, new_keys());
    processes_.push_back(std::make_unique<Process>(
        std::vector<std::string>{std::string(ENS_BIN_DIR) + "/ensembler-worker", "--bind",
                                 "tcp://127.0.0.1:*", "--threads", "1", "--secret-key",
                                 stem + ".key", "--clients", (dir_ / "host.pub").string(),
                                 "--ready-file", stem + ".ready"},
        stem));
    const std::string key = read_public_key(stem + ".pub");
    ClientSecurity security{read_secret_key(dir_ / "host.key"), {key}};
    return {test::wait_for_file(stem + ".ready", *processes_.back()), std::move(security),
            key_bytes(key.c_str())};
  }
  std::vector<EnclaveProcess::Worker> start_workers(int count) {
    std::vector<EnclaveProcess::Worker> workers;
    for (int i = 0; i < count; ++i) workers.push_back(start_worker());
    return workers;
  }

  static EnclaveSettings settings(const std::string& scheme, int batch = 1, int noises = 1) {
    EnclaveSettings s;
    scheme.copy(s.scheme, sizeof s.scheme - 1);
    std::string("m31").copy(s.field, sizeof s.field - 1);
    s.mode = scheme.empty() ? EnclaveMode::kInside : EnclaveMode::kShares;
    s.virtual_batch = static_cast<uint32_t>(batch);
    s.noises = static_cast<uint32_t>(noises);
    s.memory_bytes = uint64_t{64} << 20;
    return s;
  }
  std::unique_ptr<EnclaveProcess> start(const EnclaveSettings& s,
                                        const std::vector<EnclaveProcess::Worker>& workers = {}) {
    return std::make_unique<EnclaveProcess>(std::string(ENS_BIN_DIR) + "/ens-trusted", s,
                                            bundle_.net, workers, std::chrono::milliseconds(20000));
  }
  Tensor pixels(int64_t count) const { return test::random_pixels(bundle_.info.model, count, 9); }
  void expect_exact(EnclaveProcess& enclave, int64_t images) {
    const Tensor x = pixels(images);
    EXPECT_EQ(enclave.run(x).to_vector(), run_int8(bundle_.net, x).to_vector());
  }
  // What run() or start() says.
  template <typename F>
  static std::string error_of(F f, Error::Kind kind) {
    try {
      f();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }

  test::TempDir dir_;
  BlindedBundle bundle_;
  std::vector<std::unique_ptr<Process>> processes_;
};

TEST_F(EnclaveTest, EverySchemeGivesTheInt8NetworksOutputsToTheBit) {
  const auto workers = start_workers(4);
  const auto first = [&](size_t n) {
    std::vector<EnclaveProcess::Worker> some;
    for (size_t i = 0; i < n; ++i) {
      ClientSecurity security{read_secret_key(dir_ / "host.key"), workers[i].security->server_keys};
      some.push_back({workers[i].address, std::move(security), workers[i].key});
    }
    return some;
  };
  for (const EnclaveMode mode : {EnclaveMode::kInside, EnclaveMode::kTiled}) {
    EnclaveSettings inside = settings("", 2);
    inside.mode = mode;
    expect_exact(*start(inside), 3);
  }
  const struct {
    const char* scheme;
    int batch, noises;
    size_t workers;
  } cases[] = {{"clear", 2, 1, 1},
               {"slalom", 2, 1, 1},
               {"darknight_field", 1, 1, 2},
               {"darknight_field", 2, 1, 4},
               {"darknight_field", 2, 2, 4},
               {"darknight_real", 2, 1, 3}};  // N(0, 1) noise: exact once it is rounded
  for (const auto& c : cases) {
    SCOPED_TRACE(std::string(c.scheme) + " K=" + std::to_string(c.batch));
    for (const uint32_t sealed : {1, 0}) {
      if (sealed == 0 && c.batch > 1) continue;
      EnclaveSettings s = settings(c.scheme, c.batch, c.noises);
      s.seal = sealed;
      const auto enclave = start(s, first(c.workers));
      if (std::string(c.scheme) == "slalom") enclave->prepare(3);
      expect_exact(*enclave, 5);  // the last virtual batch is not full
      const EnclaveStatistics spent = enclave->statistics();
      EXPECT_EQ(spent.images, 5);
      EXPECT_EQ(spent.seal_ms > 0, sealed == 1);
      EXPECT_GT(spent.peak_bytes, 0u);
      EXPECT_LE(spent.peak_bytes, s.memory_bytes);
    }
  }
}

// One megabyte too little names the layer and what fits; nothing is computed.
TEST_F(EnclaveTest, ABudgetThatIsTooSmallNamesTheLayerAndWhatFits) {
  EnclaveSettings s = settings("", 64);
  const int64_t one = estimate_memory(bundle_.net, nullptr, 1).bytes,
                all = estimate_memory(bundle_.net, nullptr, 64).bytes;
  s.memory_bytes = static_cast<uint64_t>(all) - 1;
  const std::string less = error_of([&] { start(s); }, Error::Kind::kUsage);
  EXPECT_NE(less.find("with virtual_batch = 64"), std::string::npos) << less;
  EXPECT_NE(less.find("virtual_batch = 63 fits"), std::string::npos) << less;
  EXPECT_NE(less.find("layer 1 of 18"), std::string::npos) << less;
  s.memory_bytes = static_cast<uint64_t>(one) - 1;
  const std::string none = error_of([&] { start(s); }, Error::Kind::kUsage);
  EXPECT_NE(none.find("one image takes"), std::string::npos) << none;
  s.memory_bytes = uint64_t{256} << 20;
  expect_exact(*start(s), 3);
}

TEST_F(EnclaveTest, TooFewWorkersAreAUsageErrorThatCounts) {
  const std::string says = error_of(
      [&] { start(settings("darknight_field", 2, 2), start_workers(3)); }, Error::Kind::kUsage);
  EXPECT_NE(says.find("needs 4 workers, there are 3"), std::string::npos) << says;
}

TEST_F(EnclaveTest, ADeadWorkerIsReplacedAndTooFewAreAnError) {
  const auto enclave = start(settings("darknight_field"), start_workers(3));
  expect_exact(*enclave, 2);
  processes_[1]->signal(SIGKILL);
  expect_exact(*enclave, 2);
  processes_[0]->signal(SIGKILL);
  const std::string says = error_of([&] { enclave->run(pixels(1)); }, Error::Kind::kFailure);
  EXPECT_NE(says.find("too few workers"), std::string::npos) << says;
}

TEST_F(EnclaveTest, AKilledEnclaveIsAnErrorOfItsCalls) {
  const auto enclave = start(settings(""));
  expect_exact(*enclave, 1);
  ::kill(enclave->pid(), SIGKILL);
  const std::string says = error_of([&] { enclave->run(pixels(1)); }, Error::Kind::kFailure);
  EXPECT_NE(says.find("has ended"), std::string::npos) << says;
}

// ---- an enclave in a thread, whose host is this test

class HostTest : public EnclaveTest {
 protected:
  HostTest() {
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_), 0);
    enclave_ = std::thread([this] { serve_enclave(ends_[1]); });
  }
  ~HostTest() override {
    ::shutdown(ends_[0], SHUT_RDWR);
    enclave_.join();
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  Frame ask(uint32_t kind, uint32_t number, std::vector<std::byte> data) {
    Frame reply;
    EXPECT_TRUE(send_frame(ends_[0], {.kind = kind, .number = number, .data = std::move(data)}));
    EXPECT_TRUE(receive_frame(ends_[0], reply));
    return reply;
  }
  static std::string text(const Frame& frame) {
    return {reinterpret_cast<const char*>(frame.data.data()), frame.data.size()};
  }
  // Settings for these workers' keys, and the network.
  void begin(EnclaveSettings s, const std::vector<ExchangeKey>& keys) {
    const auto model = to_bytes(bundle_.net);
    std::memset(s.session_key, 7, sizeof s.session_key);
    std::memcpy(s.model_sha256, sha256(model.data(), model.size()).data(), 32);
    s.workers = static_cast<uint32_t>(keys.size());
    s.memory_bytes = uint64_t{1} << 40;  // one process with this test
    std::vector<std::byte> data;
    put(data, s);
    for (const ExchangeKey& key : keys) put(data, key);
    ASSERT_EQ(ask(Frame::kSettings, 0, data).kind, Frame::kDone);
    const Frame reply = ask(Frame::kModel, 0, model);
    ASSERT_EQ(reply.kind, Frame::kDone) << text(reply);
  }
  std::vector<std::byte> sealed_images(int64_t count, uint64_t call = 0) const {
    Seed key;
    key.fill(7);
    const Tensor x = pixels(count);
    const std::string about = call_context("images", call);
    return seal(key, std::as_bytes(std::span(about)),
                {static_cast<const std::byte*>(x.host()), x.bytes()});
  }

  int ends_[2];
  std::thread enclave_;
};

// Nothing would ever be computed with a batch of none, and sums of such counts would wrap.
TEST_F(HostTest, SettingsOutOfRangeAreRefused) {
  for (const uint32_t batch : {0u, 5000u, 0xffffffffu}) {
    EnclaveSettings s = settings("");
    s.virtual_batch = batch;
    std::vector<std::byte> data;
    put(data, s);
    EXPECT_NE(text(ask(Frame::kSettings, 0, data)).find("out of range"), std::string::npos);
  }
}

TEST_F(HostTest, NonsenseOfTheHostIsRefusedAndEndsNothing) {
  EXPECT_EQ(ask(Frame::kImages, 1, {}).kind, Frame::kError);
  EXPECT_EQ(ask(Frame::kModel, 1, {}).kind, Frame::kError);
  EXPECT_EQ(ask(Frame::kSettings, 1, std::vector<std::byte>(7)).kind, Frame::kError);
  EXPECT_EQ(ask(Frame::kPrepare, 1, {}).kind, Frame::kError);
  EXPECT_EQ(ask(Frame::kDone, 1, {}).kind, Frame::kError);
  begin(settings(""), {});
  // Another network than the one that the user's settings name.
  auto other = to_bytes(bundle_.net);
  other[other.size() / 2] ^= std::byte{1};
  EXPECT_NE(text(ask(Frame::kModel, 0, other)).find("not the one"), std::string::npos);
  // Images that the user did not seal, or of another number.
  auto images = sealed_images(2);
  EXPECT_EQ(ask(Frame::kImages, 2, images).kind, Frame::kDone);
  // The same again: a host does not get outputs that it could give for another call's.
  EXPECT_NE(text(ask(Frame::kImages, 2, images)).find("not sealed"), std::string::npos);
  EXPECT_EQ(ask(Frame::kImages, 3, sealed_images(2, 1)).kind, Frame::kError);
  EXPECT_EQ(ask(Frame::kImages, 2, sealed_images(2, 2)).kind, Frame::kDone);
  images[40] ^= std::byte{1};
  EXPECT_NE(text(ask(Frame::kImages, 2, images)).find("not sealed"), std::string::npos);
}

// The host carries shares that it cannot read: without sealing they are planes, which worker and
// host see alike; with it neither the planes nor the seeds are in what it carries. A product that
// it changes or replays is not taken.
TEST_F(HostTest, TheHostCannotReadOrChangeWhatItCarries) {
  const Seed secrets[2] = {Seed{8}, Seed{16}};
  begin(settings("darknight_field"), {public_key(secrets[0]), public_key(secrets[1])});
  ASSERT_TRUE(
      send_frame(ends_[0], {.kind = Frame::kImages, .number = 1, .data = sealed_images(1)}));
  int jobs = 0;
  Frame frame;
  while (receive_frame(ends_[0], frame) && frame.kind == Frame::kJob) {
    ASSERT_LT(frame.number, 2u);
    std::span<const std::byte> data = frame.data;
    JobHeader header;
    ASSERT_TRUE(take(data, header));
    ExchangeKey enclave;
    std::memcpy(enclave.data(), header.seal_key, enclave.size());
    const auto about = seal_context({reinterpret_cast<const char*>(enclave.data()), enclave.size()},
                                    header.step, header.share);
    // The worker can open it, the other worker cannot.
    const auto keys_of = [&](size_t w) {
      return agree(secrets[w], enclave, enclave, public_key(secrets[w]));
    };
    std::vector<std::byte> opened;
    EXPECT_FALSE(unseal(keys_of(1 - frame.number).to_server, about, data, opened));
    ASSERT_TRUE(unseal(keys_of(frame.number).to_server, about, data, opened));
    EXPECT_EQ(opened.size(), header.is_seed ? sizeof(Seed) : opened.size());
    ++jobs;
    // Products that no worker has sealed.
    Frame reply{.kind = Frame::kReply, .number = frame.number, .data = {}};
    put(reply.data,
        ReplyHeader{.ticket = header.ticket, .step = header.step, .share = header.share});
    reply.data.insert(reply.data.end(), opened.begin(), opened.end());
    ASSERT_TRUE(send_frame(ends_[0], reply));
  }
  EXPECT_EQ(jobs, 2);
  EXPECT_EQ(frame.kind, Frame::kError);
  EXPECT_NE(text(frame).find("not sealed by it"), std::string::npos) << text(frame);
}

// A worker that lies is named, and not asked again.
TEST_F(HostTest, AWrongProductIsCaughtAndItsWorkerIsNotAskedAgain) {
  EnclaveSettings s = settings("darknight_field");
  s.seal = 0;
  s.retries = 3;
  begin(s, {ExchangeKey{}, ExchangeKey{}, ExchangeKey{}});
  ASSERT_TRUE(
      send_frame(ends_[0], {.kind = Frame::kImages, .number = 1, .data = sealed_images(1)}));
  std::vector<int> asked(3);
  Frame frame;
  const Field field = Field::named("m31");
  while (receive_frame(ends_[0], frame) && frame.kind == Frame::kJob) {
    std::span<const std::byte> data = frame.data;
    JobHeader header;
    ASSERT_TRUE(take(data, header));
    ++asked[frame.number];
    const Int8Group& group = bundle_.net.groups[header.group];
    Tensor share = Tensor::empty(batched(field.planes() * header.batches, group.input), Dtype::kI8);
    if (header.is_seed) {
      Seed seed;
      std::memcpy(seed.data(), data.data(), seed.size());
      std::vector<uint32_t> residues(static_cast<size_t>(share.numel() / field.planes()));
      expand_seed(seed, field, residues);
      to_planes(field, residues, share.span<int8_t>());
    } else {
      std::memcpy(share.host(), data.data(), share.bytes());
    }
    Frame reply{.kind = Frame::kReply, .number = frame.number, .data = {}};
    put(reply.data,
        ReplyHeader{.ticket = header.ticket, .step = header.step, .share = header.share});
    for (const Int8Step& step : group.steps) {
      std::vector<uint32_t> y = multiply(field, step.layer, share);
      if (frame.number == 1) y[y.size() / 2] = field.add(y[y.size() / 2], 1);
      std::vector<int8_t> planes(y.size() * 4);
      to_planes(field, y, planes);
      const auto bytes = std::as_bytes(std::span(planes));
      reply.data.insert(reply.data.end(), bytes.begin(), bytes.end());
    }
    ASSERT_TRUE(send_frame(ends_[0], reply));
  }
  ASSERT_EQ(frame.kind, Frame::kDone) << text(frame);
  EXPECT_EQ(asked[1], 1);
  EXPECT_EQ(asked[0], static_cast<int>(bundle_.net.groups.size()));
  EXPECT_EQ(asked[2], asked[0]);
}

// ---- parts

TEST(Tiled, GivesTheSameProductsInStripsOfAnySize) {
  Rng rng(4);
  const struct {
    Shape weight, input;
    ConvSpec spec;
  } cases[] = {{{6, 3, 3, 3}, {3, 9, 7}, {.padding = 1}},
               {{6, 3, 3, 3}, {3, 9, 7}, {.stride = 2, .padding = 1}},
               {{4, 1, 3, 3}, {4, 8, 8}, {.stride = 2, .padding = 1, .groups = 4}},
               {{5, 4, 3, 3}, {4, 11, 6}, {.padding = 2, .dilation = 2}},
               {{5, 4, 1, 1}, {4, 5, 6}, {}}};
  for (const auto& c : cases) {
    Int8Layer layer{Tensor::empty(c.weight, Dtype::kI8), c.spec};
    for (int8_t& v : layer.weight.span<int8_t>()) v = static_cast<int8_t>(rng.below(255));
    for (int8_t& v : layer.weight.span<int8_t>()) v = v == -128 ? 0 : v;
    Tensor x = Tensor::empty(batched(2, c.input), Dtype::kU8);
    for (uint8_t& v : x.span<uint8_t>()) v = static_cast<uint8_t>(rng.below(256));
    const Tensor want = multiply(layer, x).plain();
    for (const int64_t bytes : {1, 300, 1 << 20}) {
      const Tensor got = multiply_tiled(layer, x, bytes);
      ASSERT_EQ(got.shape(), want.shape());
      EXPECT_TRUE(std::ranges::equal(got.span<int32_t>(), want.span<int32_t>())) << bytes;
    }
  }
}

TEST_F(EnclaveTest, ANetworkReadsBackFromItsBytesAndFromNoOthers) {
  const auto bytes = to_bytes(bundle_.net);
  EXPECT_EQ(run_int8(int8_net_of(bytes), pixels(2)).to_vector(),
            run_int8(bundle_.net, pixels(2)).to_vector());
  EXPECT_THROW(int8_net_of({}), Error);
  EXPECT_THROW(int8_net_of(std::span(bytes).first(bytes.size() - 1)), Error);
  for (size_t cut = 0; cut < bytes.size(); cut += bytes.size() / 200 + 1)
    EXPECT_THROW(int8_net_of(std::span(bytes).first(cut)), Error);
}

TEST(Seal, OpensWithItsKeyAndContextOnly) {
  const Seed client{8}, server{16}, other{24};
  const ExchangeKey c = public_key(client), s = public_key(server);
  const SealKeys at_client = agree(client, s, c, s), at_server = agree(server, c, c, s);
  EXPECT_EQ(at_client.to_server, at_server.to_server);
  EXPECT_EQ(at_client.to_client, at_server.to_client);
  EXPECT_NE(at_client.to_server, at_client.to_client);
  EXPECT_NE(agree(other, s, public_key(other), s).to_server, at_server.to_server);
  EXPECT_THROW(agree(client, ExchangeKey{}, c, s), Error);  // a point of small order
  const auto about = seal_context("session", 3, 1), elsewhere = seal_context("session", 4, 1);
  const std::string secret = "a share";
  const auto sealed = seal(at_client.to_server, about, std::as_bytes(std::span(secret)));
  EXPECT_EQ(sealed.size(), secret.size() + kSealBytes);
  std::vector<std::byte> plain;
  ASSERT_TRUE(unseal(at_server.to_server, about, sealed, plain));
  EXPECT_EQ(std::memcmp(plain.data(), secret.data(), secret.size()), 0);
  EXPECT_FALSE(unseal(at_server.to_client, about, sealed, plain));
  EXPECT_FALSE(unseal(at_server.to_server, elsewhere, sealed, plain));
  for (size_t i = 0; i < sealed.size(); ++i) {
    auto changed = sealed;
    changed[i] ^= std::byte{1};
    EXPECT_FALSE(unseal(at_server.to_server, about, changed, plain)) << i;
  }
  EXPECT_FALSE(unseal(at_server.to_server, about, std::span(sealed).first(20), plain));
}

}  // namespace
}  // namespace ens
