// SPDX-License-Identifier: Apache-2.0
// Blinded inference through real worker processes, and through workers that fail or lie.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <latch>
#include <set>
#include <thread>

#include "base/error.h"
#include "edge/client.h"
#include "ensemble/model/edge_bundle.h"
#include "nn/io/checkpoint.h"
#include "offload/core/field.h"
#include "offload/core/nonces.h"
#include "tests/edge/process.h"
#include "tests/ensemble/bundles.h"
#include "tests/offload/blinded.h"
#include "tests/offload/uniform.h"
#include "tests/support/http.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

using test::Process;
using test::ThreadWorker;

class BlindedTest : public testing::Test {
 protected:
  BlindedTest() : bundle_(test::random_blinded_bundle(3)) {
    watch_nonces(true);
    write_blinded_bundle(path("blinded.h5"), bundle_);
  }

  std::string path(const std::string& name) const { return (dir_ / name).string(); }

  // Starts a process and waits until it is ready; its address.
  std::string start_worker(std::vector<std::string> more = {},
                           const std::string& bind = "tcp://127.0.0.1:*") {
    const std::string ready = path("ready" + std::to_string(workers_.size()));
    std::filesystem::remove(ready);
    std::vector<std::string> args = {std::string(ENS_BIN_DIR) + "/ensembler-worker",
                                     "--bind",
                                     bind,
                                     "--ready-file",
                                     ready,
                                     "--threads",
                                     "1"};
    args.insert(args.end(), more.begin(), more.end());
    workers_.push_back(
        std::make_unique<Process>(args, path("worker" + std::to_string(workers_.size()))));
    return test::wait_for_file(ready, *workers_.back());
  }

  EdgeConfig config(const std::vector<std::string>& workers,
                    const std::string& settings = "") const {
    EdgeConfig config;
    config.set_bundle(path("blinded.h5"));
    for (const std::string& address : workers)
      config.mutable_offload()->add_worker()->set_address(address);
    config.mutable_offload()->set_timeout_ms(20000);
    EdgeConfig more;
    parse_config("offload { " + settings + " }", "test", more);
    config.MergeFrom(more);
    complete(config);
    return config;
  }

  // Of two workers with keys a and b, and a client with key edge: made where they do not exist.
  EdgeConfig config_with_keys(const std::vector<std::string>& workers) const {
    for (const std::string name : {"a", "b", "edge"}) {
      if (!std::filesystem::exists(path(name + ".pub"))) write_keys(path(name), new_keys());
    }
    EdgeConfig with_keys = config(workers);
    with_keys.mutable_offload()->mutable_worker(0)->set_server_key(path("a.pub"));
    with_keys.mutable_offload()->mutable_worker(1)->set_server_key(path("b.pub"));
    with_keys.set_secret_key(path("edge.key"));
    complete(with_keys);
    return with_keys;
  }

  Tensor pixels(int64_t count, uint64_t seed = 9) const {
    return test::random_pixels(bundle_.info.model, count, seed);
  }

  // Classifies with the int8 network's own logits, to the bit.
  void expect_exact(EdgeClient& client, const Tensor& images, Classified* out = nullptr) {
    const auto result = client.classify(images);
    ASSERT_TRUE(result.status.ok()) << result.status.str();
    EXPECT_EQ(result.value.logits.to_vector(), run_int8(bundle_.net, images).to_vector());
    if (out) *out = result.value;
  }

  test::TempDir dir_;
  BlindedBundle bundle_;
  std::vector<std::unique_ptr<Process>> workers_;
};

TEST_F(BlindedTest, RealWorkersGiveTheInt8NetworksLogitsToTheBit) {
  std::vector<std::string> workers;
  for (int i = 0; i < 5; ++i) workers.push_back(start_worker());
  const auto first = [&](size_t n) {
    return std::vector<std::string>(workers.begin(), workers.begin() + static_cast<ptrdiff_t>(n));
  };
  const struct {
    size_t workers;
    const char* settings;
  } cases[] = {{2, ""},
               {2, "field: 'p24' integrity: 'freivalds'"},
               {2, "integrity: 'none'"},
               {3, "noises: 2"},
               {4, "virtual_batch: 2 noises: 1 spare_shares: 1"},
               {5, "virtual_batch: 3 noises: 2"},
               {1, "scheme: 'slalom'"},
               {2, "scheme: 'slalom' field: 'p24' spare_shares: 1"},
               {1, "scheme: 'clear'"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.settings);
    EdgeClient client(config(first(c.workers), c.settings));
    for (const int64_t images : {1, 5}) {
      Classified out;
      expect_exact(client, pixels(images), &out);
      EXPECT_EQ(out.times.rounds, static_cast<int64_t>(bundle_.net.groups.size()));
      EXPECT_TRUE(out.warnings.empty());
    }
  }
  // ResNet-18 has 21 layers; each of its three strided shortcuts shares an upload.
  EXPECT_EQ(bundle_.net.groups.size(), 18u);
}

// The first cells through workers, the rest of the head here, the bodies in a cloud: as the modules
// compute it.
TEST_F(BlindedTest, TheFirstCellsAreBlindedAndTheRestIsSplitInference) {
  const std::vector<std::string> workers = {start_worker(), start_worker()};
  for (const int cells : {1, 2}) {
    SCOPED_TRACE(cells);
    test::Bundles bundles = test::random_bundles(5, 4, {1, 3}, 4, 1, /*head=*/2);
    const ModelSpec& model = bundles.edge.info.model;
    blind_cells(bundles.edge, cells, test::random_images(model, 16, 1));
    test::write(bundles, dir_.path());
    const std::string ready = path("cloud" + std::to_string(cells));
    Process cloud(
        {std::string(ENS_BIN_DIR) + "/ensembler-cloud", "--bundle", path("cloud.h5"), "--bind",
         "tcp://127.0.0.1:*", "--ready-file", ready, "--threads", "1", "--set", "dtype=float32"},
        ready);
    EdgeConfig with_cells = config(workers);
    with_cells.set_bundle(path("edge.h5"));
    with_cells.set_cloud(test::wait_for_file(ready, cloud));
    with_cells.set_batch(4);
    EdgeClient client(with_cells);
    ASSERT_TRUE(client.check().ok());
    const Tensor images = test::random_images(model, 7, 2);
    const Tensor read = run_int8(bundles.edge.blinded->net, images);
    const auto want = test::expected_logits(bundles, read).to_vector();
    const auto result = client.classify(images);
    ASSERT_TRUE(result.status.ok()) << result.status.str();
    const auto got = result.value.logits.to_vector();
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i], want[i], 1e-3 * (1 + std::abs(want[i])));
    // A stage of two blocks has four convolutions, each a round; images go in batches of four.
    EXPECT_EQ(result.value.times.rounds, cells == 1 ? 2 : 10);

    // Without workers, and with one that is gone for good.
    EdgeConfig alone = with_cells;
    alone.mutable_offload()->clear_worker();
    EXPECT_THROW(EdgeClient{alone}, Error);
    EdgeConfig gone = with_cells;
    gone.mutable_offload()->mutable_worker(1)->set_address("tcp://127.0.0.1:1");
    EdgeClient fails(gone);
    EXPECT_EQ(fails.classify(images).status.code, StatusCode::kUnavailable);
  }
  // A head has no more cells than it has.
  test::Bundles bundles = test::random_bundles(5);
  EXPECT_THROW(blind_cells(bundles.edge, 2, test::random_images(bundles.edge.info.model, 1, 1)),
               Error);
}

// The C interface opens this kind of bundle like any other.
TEST_F(BlindedTest, ACProgramClassifiesThroughTwoWorkers) {
  const std::string a = start_worker(), b = start_worker();
  const Tensor images = pixels(3);
  std::ofstream(path("images.raw"), std::ios::binary)
      .write(static_cast<const char*>(images.raw()), static_cast<std::streamsize>(images.bytes()));
  const std::string config = "bundle: '" + path("blinded.h5") + "' offload { worker { address: '" +
                             a + "' } worker { address: '" + b + "' } }";
  Process program({std::string(ENS_BIN_DIR) + "/c_client", config, "3", path("images.raw"),
                   path("logits.raw"), "reload"},
                  path("c_client"));
  ASSERT_EQ(program.wait(), 0) << program.err();
  EXPECT_EQ(program.out(), bundle_.class_names[0] + "\n");
  const auto want = run_int8(bundle_.net, images).to_vector();
  std::vector<float> got(want.size());
  std::ifstream(path("logits.raw"), std::ios::binary)
      .read(reinterpret_cast<char*>(got.data()), static_cast<std::streamsize>(got.size() * 4));
  EXPECT_EQ(got, want);
}

TEST_F(BlindedTest, AWorkerTellsItsHealthAndMetrics) {
  const std::vector<std::string> workers = {start_worker({"--http", "127.0.0.1:0"}),
                                            start_worker()};
  const std::string http = test::http_address(*workers_[0]);
  EXPECT_EQ(test::http_get(http, "/healthz").first, 200);
  EXPECT_EQ(test::http_get(http, "/readyz").first, 200);
  const auto metrics = [&] { return test::http_get(http, "/metrics").second; };
  const std::string fresh = metrics();
  EXPECT_NE(fresh.find("ensembler_requests_total{code=\"INVALID_ARGUMENT\"} 0"), std::string::npos);
  EXPECT_NE(fresh.find("ensembler_worker_weights_bytes 0"), std::string::npos) << fresh;
  EdgeClient client(config(workers));
  expect_exact(client, pixels(2));
  const std::string text = metrics();
  int64_t weights = 0;
  for (const Int8Group& group : bundle_.net.groups) {
    for (const Int8Step& step : group.steps) weights += step.layer.weight.numel();
  }
  for (const std::string& wanted : std::vector<std::string>{
           "ensembler_worker_job_seconds_count " + std::to_string(bundle_.net.groups.size()),
           "ensembler_connections 1", "ensembler_worker_sent_bytes_total "}) {
    EXPECT_NE(text.find(wanted), std::string::npos) << wanted << "\n" << text;
  }
  const std::string kept = "ensembler_worker_weights_bytes ";
  const size_t at = text.find("\n" + kept);
  ASSERT_NE(at, std::string::npos) << text;
  EXPECT_EQ(static_cast<int64_t>(std::stod(text.substr(at + 1 + kept.size()))), weights);
}

TEST_F(BlindedTest, ABundleReadsBackAndAnotherIsRefused) {
  const BlindedBundle back = read_blinded_bundle(path("blinded.h5"));
  EXPECT_EQ(back.info.fingerprint, bundle_.info.fingerprint);
  EXPECT_EQ(back.class_names, bundle_.class_names);
  EXPECT_EQ(run_int8(back.net, pixels(2)).to_vector(),
            run_int8(bundle_.net, pixels(2)).to_vector());
  const auto error_of = [&](const auto& read) {
    try {
      read();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(error_of([&] { read_edge_bundle(path("blinded.h5")); }).find("blinded inference"),
            std::string::npos);
  const auto changed = [&](const std::function<void(Checkpoint&)>& change) {
    Checkpoint file = read_checkpoint(path("blinded.h5"), "edge");
    change(file);
    write_checkpoint(path("changed.h5"), file, false);
    return error_of([&] { read_blinded_bundle(path("changed.h5")); });
  };
  EXPECT_EQ(changed([](Checkpoint&) {}), "no error");
  for (const char* name : {"steps/0001/weight", "steps/0001/scales", "steps/0001/input_scale"}) {
    EXPECT_NE(changed([&](Checkpoint& c) { c.tensors.erase(name); }).find(name), std::string::npos);
    EXPECT_NE(changed([&](Checkpoint& c) { c.tensors[name] = Tensor::zeros({7}); }).find(name),
              std::string::npos);
  }
  EXPECT_NE(
      changed([](Checkpoint& c) { c.tensors["more"] = Tensor::zeros({1}); }).find("tensors where"),
      std::string::npos);
  EXPECT_NE(changed([](Checkpoint& c) { c.numbers["format"] = 2; }).find("no bundle of blinded"),
            std::string::npos);
}

// What travels does not depend on the pictures' values.
TEST_F(BlindedTest, SizesDoNotDependOnTheImages) {
  const std::vector<std::string> workers = {start_worker(), start_worker()};
  std::set<std::pair<int64_t, int64_t>> sizes;
  for (const float value : {0.0f, 0.5f, 1.0f}) {
    EdgeClient client(config(workers));
    ASSERT_TRUE(client.check().ok());
    Classified out;
    expect_exact(client, Tensor::full(batched(2, bundle_.info.model.input_shape()), value), &out);
    // The header's compute_us is a number of variable length: rounded away.
    sizes.insert({out.times.bytes_sent, out.times.bytes_received / 1000});
  }
  EXPECT_EQ(sizes.size(), 1u);
}

TEST_F(BlindedTest, ProgramClassifiesThroughTwoWorkersWithKeys) {
  for (const std::string name : {"a", "b", "edge"}) write_keys(path(name), new_keys());
  const auto start = [&](const std::string& name) {
    return start_worker({"--secret-key", path(name + ".key"), "--clients", path("edge.pub")});
  };
  EdgeConfig with_keys = config_with_keys({start("a"), start("b")});
  EdgeClient client(with_keys);
  expect_exact(client, pixels(1));
  // The worker has one of several keys, whichever of them is tried first.
  write_keys(path("other"), new_keys());
  EdgeConfig several = with_keys;
  const auto worker = [&](int i) { return several.mutable_offload()->mutable_worker(i); };
  worker(0)->set_server_key(path("other.pub") + "," + path("a.pub"));
  EdgeClient either(several);
  expect_exact(either, pixels(1));
  worker(0)->set_server_key(path("other.pub"));
  EdgeClient wrong(several);
  const Status refused = wrong.check();
  EXPECT_EQ(refused.code, StatusCode::kUnauthenticated);
  EXPECT_NE(refused.message.find("wrong key?"), std::string::npos) << refused.message;
  // Another client's key is refused, and named so.
  write_keys(path("stranger"), new_keys());
  with_keys.set_secret_key(path("stranger.key"));
  EdgeClient stranger(with_keys);
  EXPECT_EQ(stranger.check().code, StatusCode::kUnauthenticated);
}

TEST_F(BlindedTest, AKilledWorkerIsReplacedByOneThatHasNoShare) {
  const std::vector<std::string> workers = {start_worker(), start_worker(), start_worker()};
  EdgeClient client(config(workers));
  expect_exact(client, pixels(2));
  workers_[0]->signal(SIGKILL);
  Classified out;
  expect_exact(client, pixels(2, 10), &out);
  ASSERT_FALSE(out.warnings.empty());
  EXPECT_NE(out.warnings[0].find(workers[0]), std::string::npos) << out.warnings[0];
  // Two of three were left, which decode; one does not, and there are no partial outputs.
  workers_[1]->signal(SIGKILL);
  const auto result = client.classify(pixels(1));
  EXPECT_EQ(result.status.code, StatusCode::kUnavailable) << result.status.str();
  EXPECT_FALSE(result.value.logits.defined());
  EXPECT_TRUE(result.value.top.empty());
}

TEST_F(BlindedTest, AStoppedWorkerCostsOneTimeout) {
  const std::vector<std::string> workers = {start_worker(), start_worker(), start_worker()};
  EdgeClient client(config(workers, "timeout_ms: 700"));
  expect_exact(client, pixels(1));
  workers_[1]->signal(SIGSTOP);
  const auto start = std::chrono::steady_clock::now();
  Classified out;
  expect_exact(client, pixels(1, 11), &out);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  ASSERT_FALSE(out.warnings.empty());
  EXPECT_NE(out.warnings[0].find(workers[1]), std::string::npos) << out.warnings[0];
  workers_[1]->signal(SIGCONT);
}

TEST_F(BlindedTest, ARestartedWorkerIsLoadedAgain) {
  const std::vector<std::string> workers = {start_worker(), start_worker()};
  EdgeClient client(config(workers, "retries: 20"));
  expect_exact(client, pixels(1));
  workers_[0]->signal(SIGKILL);
  workers_[0]->wait();
  ASSERT_EQ(start_worker({}, workers[0]), workers[0]);
  expect_exact(client, pixels(1, 12));
}

// Keys on one side only are named however long the link has been idle; once the worker has keys as
// well, the same session reaches it.
TEST_F(BlindedTest, KeysOnOneSideOnlyAreNamedAndRecoveredFrom) {
  const std::vector<std::string> workers = {start_worker(), start_worker()};
  EdgeClient client(config_with_keys(workers));
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // the links have seen the refusal
  const Status status = client.check();
  EXPECT_EQ(status.code, StatusCode::kUnauthenticated);
  EXPECT_NE(status.message.find("keys on one side only"), std::string::npos) << status.message;
  for (size_t i = 0; i < 2; ++i) {
    workers_[i]->signal(SIGKILL);
    workers_[i]->wait();
    start_worker({"--secret-key", path(i == 0 ? "a.key" : "b.key"), "--clients", path("edge.pub")},
                 workers[i]);
  }
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!client.check().ok() && std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  expect_exact(client, pixels(1));
}

// A connection that cannot be opened is an error of the call, not the end of the program.
TEST_F(BlindedTest, RunningOutOfDescriptorsIsSurvived) {
  EdgeClient client(config_with_keys(
      {start_worker(),
       start_worker()}));  // opens its connections again and again: keys on one side only
  EXPECT_EQ(client.check().code, StatusCode::kUnauthenticated);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{3, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  const Status status = client.check();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(status.code, StatusCode::kUnavailable);
  EXPECT_NE(status.message.find("Too many open files"), std::string::npos) << status.message;
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  EXPECT_EQ(client.check().code, StatusCode::kUnauthenticated);
}

TEST_F(BlindedTest, EachLayerHasTheTimeoutForItself) {
  const auto slow_uplink = [](const offload::Request& request, JobReply&) {
    if (request.kind() == offload::Request::LOAD)
      std::this_thread::sleep_for(std::chrono::milliseconds(60));
  };
  ThreadWorker a(slow_uplink), b(slow_uplink);
  EdgeClient client(config({a.endpoint(), b.endpoint()}, "timeout_ms: 1000"));
  const Status status = client.check();  // 42 exchanges
  EXPECT_TRUE(status.ok()) << status.str();
}

TEST_F(BlindedTest, ASlowWorkerIsNotSentSharesWhileItOwesAReply) {
  std::latch release(1);
  ThreadWorker a([](auto&, auto&) {}), b([](auto&, auto&) {});
  ThreadWorker slow([&](const offload::Request& request, JobReply&) {
    if (request.kind() == offload::Request::JOB) release.wait();
  });
  EdgeClient client(config({a.endpoint(), b.endpoint(), slow.endpoint()}, "spare_shares: 1"));
  ASSERT_TRUE(client.check().ok());
  expect_exact(client, pixels(1));
  release.count_down();
  ASSERT_TRUE(client.check().ok());  // its reply comes after those to all jobs that wait
  EXPECT_EQ(slow.jobs(), 1);
  expect_exact(client, pixels(1));  // it has caught up
  ASSERT_TRUE(client.check().ok());
  EXPECT_GT(slow.jobs(), 1);
}

TEST_F(BlindedTest, ACancelledSessionSendsNoMoreShares) {
  ThreadWorker a([](auto&, auto&) {}), b([](auto&, auto&) {});
  EdgeClient client(config({a.endpoint(), b.endpoint()}, "retries: 1000"));
  expect_exact(client, pixels(1));
  const int64_t before = a.jobs();
  client.cancel();
  EXPECT_EQ(client.classify(pixels(1)).status.code, StatusCode::kUnavailable);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LE(a.jobs(), before + 1);
}

TEST_F(BlindedTest, TooFewOwnersAreAUsageErrorThatCounts) {
  const auto expect_refused = [&](const EdgeConfig& config, const std::string& says) {
    try {
      EdgeClient client(config);
      ADD_FAILURE() << "opened";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
    }
  };
  expect_refused(config({}), "--worker");
  expect_refused(config({"tcp://127.0.0.1:1"}), "needs 2 workers of different owners, there are 1");
  expect_refused(config({"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"}, "noises: 3 virtual_batch: 2"),
                 "needs 5 workers");
  EdgeConfig one_owner = config({"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"});
  for (OffloadWorker& worker : *one_owner.mutable_offload()->mutable_worker())
    worker.set_owner("one");
  expect_refused(one_owner, "there are 1");
  // One worker named twice, and two of whoever holds one secret key: one party that would see all.
  expect_refused(config({"tcp://127.0.0.1:1", "tcp://127.0.0.1:1"}), "there are 1");
  write_keys(path("shared"), new_keys());
  EdgeConfig one_key = config({"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"});
  for (OffloadWorker& worker : *one_key.mutable_offload()->mutable_worker())
    worker.set_server_key(path("shared.pub"));
  one_key.set_secret_key(path("shared.key"));
  expect_refused(one_key, "there are 1");
  write_keys(path("next"), new_keys());  // while a key is replaced
  one_key.mutable_offload()->mutable_worker(0)->set_server_key(path("next.pub") + "," +
                                                               path("shared.pub"));
  expect_refused(one_key, "there are 1");
}

// ---- workers that lie

// What a worker can do to its products.
struct Lie {
  const char* name;
  std::function<void(JobReply& reply)> tell;
  bool late = false;  // cannot be told from a worker that fails: it is asked again after a while
};

void PrintTo(const Lie& lie, std::ostream* out) { *out << lie.name; }

class LiesTest : public BlindedTest, public testing::WithParamInterface<Lie> {};

TEST_P(LiesTest, AreCaughtNamedAndComputedElsewhere) {
  std::atomic<int64_t> told{0};
  std::atomic<bool> spare_fails{false};
  ThreadWorker honest([](auto&, auto&) {});
  ThreadWorker spare([&](auto&, JobReply& reply) {
    if (spare_fails) reply.header.set_code(static_cast<uint32_t>(StatusCode::kInternal));
  });
  ThreadWorker liar([&](const offload::Request& request, JobReply& reply) {
    if (request.kind() != offload::Request::JOB || reply.header.code() != 0) return;
    if (++told == 7) GetParam().tell(reply);  // after some that are right
  });
  EdgeClient client(
      config({honest.endpoint(), liar.endpoint(), spare.endpoint()}, "timeout_ms: 1000"));
  Classified out;
  expect_exact(client, pixels(3), &out);
  ASSERT_EQ(out.warnings.size(), 1u);
  EXPECT_NE(out.warnings[0].find(liar.endpoint()), std::string::npos) << out.warnings[0];
  if (GetParam().late) return;
  // It is not asked again, even where the call fails without it.
  spare_fails = true;
  EXPECT_EQ(client.classify(pixels(1)).status.code, StatusCode::kUnavailable);
  EXPECT_EQ(told, 7);
}

const Lie kLies[] = {
    {"OneElement", [](JobReply& r) { r.tensor.span<int8_t>()[5] ^= 1; }},
    {"OnePlane",
     [](JobReply& r) {
       const auto all = r.tensor.span<int8_t>();
       for (int8_t& d : all.first(all.size() / 4)) d ^= 2;
     }},
    {"Zeros", [](JobReply& r) { std::ranges::fill(r.tensor.span<int8_t>(), int8_t{0}); }},
    {"OutsideTheField",
     [](JobReply& r) { std::ranges::fill(r.tensor.span<int8_t>(), int8_t{-128}); }},
    {"TooShort", [](JobReply& r) { r.tensor = r.tensor.rows(0, r.tensor.numel() - 1); }},
    {"TooLong", [](JobReply& r) { r.tensor = Tensor::zeros({r.tensor.numel() + 1}, Dtype::kI8); }},
    {"NoFrame", [](JobReply& r) { r.tensor = Tensor(); }},
    {"AnotherShare", [](JobReply& r) { r.header.set_share(r.header.share() + 1); }},
    {"AnotherStep", [](JobReply& r) { r.header.set_step(r.header.step() - 1); }},
    {"AnotherSession", [](JobReply& r) { r.header.set_session("0123456789abcdef"); }},
    {"AnotherVersion", [](JobReply& r) { r.header.set_version(99); }, true},
    {"NoReply", [](JobReply& r) { r.header.set_version(0); }, true},
    {"AnotherId", [](JobReply& r) { r.header.set_id(r.header.id() + 1000); }, true},
};
INSTANTIATE_TEST_SUITE_P(Each, LiesTest, testing::ValuesIn(kLies),
                         [](const auto& test) { return std::string(test.param.name); });

// A right product of an earlier job, sent again: wrong here.
TEST_F(BlindedTest, AReplayedProductIsCaught) {
  Tensor earlier;
  int64_t jobs = 0;
  ThreadWorker honest([](auto&, auto&) {}), spare([](auto&, auto&) {});
  ThreadWorker liar([&](const offload::Request& request, JobReply& reply) {
    if (request.kind() != offload::Request::JOB || reply.header.code() != 0) return;
    // Layers 2 and 3 have the same shapes.
    if (++jobs == 2) earlier = reply.tensor.clone();
    if (jobs == 4) reply.tensor = earlier;
  });
  EdgeClient client(config({honest.endpoint(), liar.endpoint(), spare.endpoint()}));
  Classified out;
  expect_exact(client, pixels(1), &out);
  ASSERT_EQ(out.warnings.size(), 1u);
  EXPECT_NE(out.warnings[0].find("wrong product"), std::string::npos) << out.warnings[0];
}

// All workers use the same other weights W': a valid codeword, which only the check of each product
// sees.
TEST_F(BlindedTest, WorkersThatAllUseTheSameOtherWeightsAreCaught) {
  const auto other = [](const offload::Request& request, JobReply& reply) {
    if (request.kind() != offload::Request::JOB || reply.header.code() != 0) return;
    // Twice the product: that of 2 W, in the field.
    const Field field = Field::named("m31");
    std::vector<uint32_t> residues;
    const auto digits = reply.tensor.span<int8_t>();
    // One layer at a time would need its size; jobs of one layer are enough.
    if (request.job().layer_size() > 1) return;
    residues.resize(digits.size() / 4);
    if (!from_planes(field, digits, residues)) return;
    for (uint32_t& v : residues) v = field.add(v, v);
    to_planes(field, residues, digits);
  };
  ThreadWorker a(other), b(other), c(other);
  const std::vector<std::string> workers = {a.endpoint(), b.endpoint(), c.endpoint()};
  EdgeClient client(config(workers));
  const auto result = client.classify(pixels(1));
  EXPECT_EQ(result.status.code, StatusCode::kUnavailable);
  EXPECT_NE(result.status.message.find("wrong product"), std::string::npos)
      << result.status.message;
  // Unchecked they are believed: the check is what catches them.
  EdgeClient unchecked(config(workers, "integrity: 'none'"));
  const auto believed = unchecked.classify(pixels(1));
  ASSERT_TRUE(believed.status.ok());
  EXPECT_NE(believed.value.logits.to_vector(), run_int8(bundle_.net, pixels(1)).to_vector());
}

TEST_F(BlindedTest, AWorkerOfAnotherVersionIsNamed) {
  ThreadWorker a([](auto&, JobReply& reply) { reply.header.set_version(7); });
  ThreadWorker b([](auto&, auto&) {});
  EdgeClient client(config({a.endpoint(), b.endpoint()}));
  const Status status = client.check();
  EXPECT_EQ(status.code, StatusCode::kVersionMismatch);
  EXPECT_NE(status.message.find(a.endpoint()), std::string::npos) << status.message;
}

// ---- what workers see

// Recorded by real workers: the residues of black, white, constant and random images are uniform in
// their top and bottom bits, and in pairs of neighbours; p-values of all runs are uniform. In clear
// they are nothing like it.
TEST_F(BlindedTest, RecordedSharesAreUniformWhateverTheImages) {
  const Field field = Field::named("m31");
  const std::string seen_by_b = path("b");
  const std::vector<std::string> workers = {start_worker(), start_worker({"--record", seen_by_b})};
  std::vector<double> top, bottom, pairs;
  int64_t residues_seen = 0;
  size_t files = 0;
  const auto read_new = [&](auto use) {
    std::vector<std::filesystem::path> all;
    for (const auto& entry : std::filesystem::directory_iterator(seen_by_b))
      all.push_back(entry.path());
    std::ranges::sort(all);
    for (; files < all.size(); ++files) use(read_checkpoint(all[files], "share").tensor("share"));
  };
  EdgeClient client(config(workers, "integrity: 'none'"));
  for (int run = 0; run < 20; ++run) {
    Tensor images = pixels(16, static_cast<uint64_t>(run));
    if (run % 4 < 3) images.fill(static_cast<float>(run % 4) / 2);  // black, grey, white
    expect_exact(client, images);
    std::vector<int64_t> high(256), low(256), pair(256);
    read_new([&](const Tensor& share) {
      std::vector<uint32_t> r(static_cast<size_t>(share.numel()) / 4);
      ASSERT_TRUE(from_planes(field, share.span<int8_t>(), r));
      residues_seen += std::ssize(r);
      for (size_t i = 0; i < r.size(); ++i) {
        ++high[r[i] >> 23];
        ++low[r[i] & 255];
        if (i % 2 == 1) ++pair[(r[i - 1] >> 27) * 16 + (r[i] >> 27)];
      }
    });
    top.push_back(test::uniform_p(high));
    bottom.push_back(test::uniform_p(low));
    pairs.push_back(test::uniform_p(pair));
  }
  EXPECT_GT(residues_seen, 1'000'000);
  for (const auto& p : {top, bottom, pairs}) EXPECT_GT(test::ks_p(p), 1e-3);

  // The test can fail: in clear the same statistics see the images at once.
  EdgeClient clear(config({workers[1]}, "scheme: 'clear'"));
  expect_exact(clear, pixels(16));
  std::vector<int64_t> bytes(256);
  read_new([&](const Tensor& share) {
    for (int64_t i = 0; i < share.numel(); ++i)
      ++bytes[static_cast<const uint8_t*>(share.raw())[i]];
  });
  EXPECT_LT(test::uniform_p(bytes), 1e-9);
}

// A scheme that is known to be broken, with the attack that breaks it.
TEST_F(BlindedTest, DarKnightOverRealNumbersIsRefusedByName) {
  try {
    EdgeClient edge(config({"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"}, "scheme: 'darknight_real'"));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("share-ica"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace ens
