// SPDX-License-Identifier: Apache-2.0
// ens-soak: clouds and edges under mixed load while everything around them goes wrong.
//
//   build/cpu/bin/ens-soak --seconds 600 [--run runs/mine]      after ./run build; ./run soak does
//   both
//
// Two parts of the nets with two replicas each, four ensembler-cloud processes with CURVE. Against
// them: edges of every kind (EdgeClient, EdgeStream, the C interface in processes of its own), all
// types on the wire, batches of 1 to 64, some with hardly any time, some behind links that are
// slow, stall or break. Meanwhile, at random from a fixed seed: clouds are killed, stopped,
// drained, reloaded (also with damaged and with other bundles), a key is taken away and given back,
// and strangers do what strangers do (tests/edge/strangers.h).
//
// What must hold, or the exit code is 1:
//   - every answer is that of the image that was sent, by the modules themselves (expected_logits);
//   - every call ends in its time, with an answer or an error;
//   - errors are of a kind that the faults explain, and end once they do;
//   - a key that is taken away gets no answer;
//   - clouds end with 0 when told to, and never by themselves;
//   - resident memory of the two clouds that are never killed and of the edges does not grow: the
//     median of the last quarter of the time is at most 5 % and 4 MiB above that of the second
//     quarter (judged from 120 s on);
//   - when all have gone, the clouds hold as many descriptors as before the first came.
#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <deque>
#include <fstream>
#include <map>
#include <mutex>
#include <numeric>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/flags.h"
#include "base/program.h"
#include "edge/client.h"
#include "edge/stream.h"
#include "net/keys.h"
#include "nn/core/rng.h"
#include "nn/data/dataset.h"
#include "nn/data/loader.h"
#include "tests/edge/process.h"
#include "tests/edge/strangers.h"
#include "tests/edge/tcp_proxy.h"
#include "tests/ensemble/bundles.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using test::Process;

constexpr milliseconds kSlack{2000};  // of this machine, beyond a call's own time
constexpr int kMostImages = 64;       // in one call

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void pause(milliseconds time) { std::this_thread::sleep_for(time); }

int64_t between(Rng& rng, int64_t least, int64_t most) {
  return least + static_cast<int64_t>(rng.below(static_cast<uint64_t>(most - least + 1)));
}

// Outside the range from which the system takes ports for others.
int free_port(Rng& rng) {
  while (true) {
    const int port = static_cast<int>(between(rng, 15000, 30000));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool good = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    ::close(fd);
    if (good) return port;
  }
}

// ---- what is watched

struct Usage {
  double at;  // seconds since the start
  int64_t kib, descriptors;
};

Usage usage_of(pid_t pid, double at) {
  Usage usage{at, 0, 0};
  const std::string folder = "/proc/" + std::to_string(pid);
  std::ifstream status(folder + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) usage.kib = std::stoll(line.substr(6));
  }
  if (DIR* dir = ::opendir((folder + "/fd").c_str())) {
    while (::readdir(dir)) ++usage.descriptors;
    ::closedir(dir);
    usage.descriptors -= 2;  // . and ..
  }
  return usage;
}

int64_t median_kib(const std::vector<Usage>& all, double from, double to) {
  std::vector<int64_t> values;
  for (const Usage& u : all) {
    if (u.at >= from && u.at < to) values.push_back(u.kib);
  }
  if (values.empty()) return 0;
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

// Everything that must not happen, and what did.
class Ledger {
 public:
  struct Row {
    int64_t calls = 0, images = 0, right = 0;
    std::map<StatusCode, int64_t> errors;
    double worst_over_ms = 0;  // the longest that a call ran beyond its own time
  };
  void fault(const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (faults_.size() < 20) std::printf("FAILED: %s\n", text.c_str()), std::fflush(stdout);
    faults_.push_back(text);
  }
  void count(const std::string& kind, const Status& status, int64_t images, double over_ms) {
    const std::lock_guard lock(mutex_);
    Row& row = rows_[kind];
    ++row.calls;
    row.images += images;
    row.worst_over_ms = std::max(row.worst_over_ms, over_ms);
    if (status.ok()) {
      row.right += images;
    } else {
      ++row.errors[status.code];
    }
  }
  void did(const std::string& what) {
    const std::lock_guard lock(mutex_);
    ++done_[what];
  }
  std::map<std::string, Row> rows() const { return rows_; }
  std::map<std::string, int64_t> done() const { return done_; }
  const std::vector<std::string>& faults() const { return faults_; }

 private:
  std::mutex mutex_;
  std::map<std::string, Row> rows_;
  std::map<std::string, int64_t> done_;
  std::vector<std::string> faults_;
};

// ---- images and their right answers

struct Pool {
  Tensor images, logits;  // [K, C, H, W], [K, classes]
  float largest = 0;      // logit
  float apart = 0;        // two images' logits, at least

  float tolerance(const std::string& dtype) const {
    return largest * (dtype == "int8" ? 5e-2f : dtype == "float16" ? 5e-3f : 1e-4f);
  }
};

float distance(const float* a, const float* b, int64_t n) {
  float most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

// Blobs of colour: uniform noise would look all the same to a network.
Tensor drawn_images(const ModelSpec& spec, int64_t count, uint64_t seed) {
  Tensor images = test::random_images(spec, count, seed);
  Rng rng(seed, "blobs");
  const int64_t size = spec.image_size;
  float* pixel = images.data<float>();
  for (int64_t plane = 0; plane < count * spec.channels; ++plane) {
    const auto x = static_cast<float>(rng.below(static_cast<uint64_t>(size)));
    const auto y = static_cast<float>(rng.below(static_cast<uint64_t>(size)));
    const auto base = static_cast<float>(rng.below(100)) / 100;
    for (int64_t i = 0; i < size * size; ++i, ++pixel) {
      const float dx = static_cast<float>(i % size) - x, dy = static_cast<float>(i / size) - y;
      const float blob = std::exp(-(dx * dx + dy * dy) / static_cast<float>(size));
      *pixel = 0.2f * *pixel + 0.4f * base + 0.4f * blob;
    }
  }
  return images;
}

// Up to kMostImages images that no tolerance confuses: swapped answers must be seen.
Pool make_pool(const test::Bundles& bundles) {
  const ModelSpec& model = bundles.edge.info.model;
  DataOptions options;
  options.name = bundles.edge.info.data;
  options.image_size = model.image_size;
  options.limit = 256;
  const bool real = options.name != "random" && dataset_present(options);
  const Tensor images = real ? images_of(load_dataset(options, DataSplit::kTest), 0, 256)
                             : drawn_images(model, 256, 1);
  const Tensor logits = test::expected_logits(bundles, images);
  const int64_t classes = model.classes;
  const float* values = logits.data<float>();
  Pool pool;
  for (int64_t i = 0; i < logits.numel(); ++i)
    pool.largest = std::max(pool.largest, std::abs(values[i]));
  std::vector<int64_t> kept;
  pool.apart = INFINITY;
  for (int64_t i = 0; i < images.dim(0) && std::ssize(kept) < kMostImages; ++i) {
    float nearest = INFINITY;
    for (const int64_t k : kept)
      nearest = std::min(nearest, distance(values + i * classes, values + k * classes, classes));
    if (nearest < 3 * pool.tolerance("int8")) continue;
    if (!kept.empty()) pool.apart = std::min(pool.apart, nearest);
    kept.push_back(i);
  }
  if (kept.size() < 8) fail("the answers to these images are too much alike", "soak");
  pool.images = Tensor::empty(batched(std::ssize(kept), model.input_shape()));
  pool.logits = Tensor::empty({std::ssize(kept), classes});
  for (int64_t k = 0; k < std::ssize(kept); ++k) {
    pool.images.rows(k, 1).copy_from(images.rows(kept[static_cast<size_t>(k)], 1));
    pool.logits.rows(k, 1).copy_from(logits.rows(kept[static_cast<size_t>(k)], 1));
  }
  std::printf("%lld %s images; answers are at least %.1f tolerances of int8 apart\n",
              static_cast<long long>(kept.size()), real ? options.name.c_str() : "drawn",
              static_cast<double>(pool.apart / pool.tolerance("int8")));
  return pool;
}

// ---- clouds

struct Cloud {
  std::string name, bundle, endpoint, http;
  bool mortal = false;  // is killed and drained; the others live from the beginning to the end
  std::unique_ptr<Process> process;
  std::vector<Usage> usage;
  int64_t descriptors_before = 0;
  int starts = 0;
};

struct Options {
  std::string run;
  double seconds = 600;
  uint64_t seed = 1;
};

class Soak {
 public:
  explicit Soak(const Options& options) : options_(options), rng_(options.seed, "soak") {
    const fs::path run = options.run;
    if (run.empty()) {
      bundles_ = std::make_unique<test::Bundles>(test::random_bundles(5));
      write(*bundles_, dir_.path());
    } else {
      bundles_ = std::make_unique<test::Bundles>(
          test::Bundles{read_cloud_bundle(run / "cloud.h5"), read_edge_bundle(run / "edge.h5")});
      fs::copy(run / "edge.h5", dir_ / "edge.h5");
    }
    pool_ = make_pool(*bundles_);
    const int nets = bundles_->edge.info.nets;
    if (nets < 2) fail("two parts need two nets", "soak");
    std::vector<int> all(static_cast<size_t>(nets));
    std::iota(all.begin(), all.end(), 0);
    const auto middle = all.begin() + (nets + 1) / 2;
    write_part(dir_ / "part0.h5", bundles_->cloud, {all.begin(), middle});
    write_part(dir_ / "part1.h5", bundles_->cloud, {middle, all.end()});
    // What another training would give: the same shapes, other weights.
    CloudBundle other = read_cloud_bundle(run.empty() ? dir_ / "cloud.h5" : run / "cloud.h5");
    for (const auto& body : other.bodies) {
      for (NamedTensor& buffer : body->buffers()) {
        if (buffer.name.find("running_mean") == std::string::npos) continue;
        for (float& value : buffer.tensor.span<float>()) value += 1;
      }
    }
    write_cloud_bundle(dir_ / "other.h5", other);
    write_part(dir_ / "other0.h5", other, {all.begin(), middle});
    write_part(dir_ / "other1.h5", other, {middle, all.end()});
    for (const char* name : {"cloud", "phone", "guest"}) write_keys(dir_ / name, new_keys());
    fs::create_directory(dir_ / "clients");
    for (const char* name : {"phone.pub", "guest.pub"}) fs::copy(dir_ / name, dir_ / "clients");
    for (const int i : {0, 1, 2, 3}) {
      Cloud cloud;
      cloud.name = "part " + std::to_string(i / 2) + ", replica " + std::to_string(i % 2);
      cloud.bundle = path("cloud" + std::to_string(i) + ".h5");
      cloud.mortal = i == 1 || i == 2;
      cloud.endpoint = "tcp://127.0.0.1:" + std::to_string(free_port(rng_));
      cloud.http = "127.0.0.1:" + std::to_string(free_port(rng_));
      clouds_[static_cast<size_t>(i)] = std::move(cloud);
      put_bundle(static_cast<size_t>(i), "part" + std::to_string(i / 2) + ".h5");
    }
    for (size_t i = 0; i < clouds_.size(); ++i) start(i);
    for (Cloud& cloud : clouds_)
      proxies_.push_back(std::make_unique<test::TcpProxy>(cloud.endpoint));
  }

  // Whether all held.
  bool run();

 private:
  std::string path(const std::string& name) const { return (dir_ / name).string(); }

  // By rename, as an operator should.
  void put_bundle(size_t i, const std::string& file) {
    fs::copy(dir_ / file, clouds_[i].bundle + ".tmp", fs::copy_options::overwrite_existing);
    fs::rename(clouds_[i].bundle + ".tmp", clouds_[i].bundle);
  }

  void start(size_t i) {
    Cloud& cloud = clouds_[i];
    const std::string stem = "cloud" + std::to_string(i) + "-" + std::to_string(cloud.starts++);
    const std::string ready = path(stem + ".ready");
    auto process = std::make_unique<Process>(
        std::vector<std::string>{std::string(ENS_BIN_DIR) + "/ensembler-cloud",
                                 "--bundle",
                                 cloud.bundle,
                                 "--bind",
                                 cloud.endpoint,
                                 "--http",
                                 cloud.http,
                                 "--secret-key",
                                 path("cloud.key"),
                                 "--clients",
                                 path("clients"),
                                 "--threads",
                                 "1",
                                 "--set",
                                 "dtype=float32",
                                 "--set",
                                 "max_request_batch=64",
                                 "--set",
                                 "max_queue=256",
                                 "--ready-file",
                                 ready},
        dir_ / stem);
    if (wait_for_file(ready, *process) != cloud.endpoint) {
      fault(cloud.name + " does not start: " + process->err());
    }
    const std::lock_guard lock(clouds_mutex_);
    cloud.process = std::move(process);
  }

  void signal(size_t i, int number) {
    const std::lock_guard lock(clouds_mutex_);
    clouds_[i].process->signal(number);
  }

  // Ends it, and says what its exit code should have been.
  void end(size_t i, int signal, int code) {
    Cloud& cloud = clouds_[i];
    const std::unique_ptr<Process> process = [&] {
      const std::lock_guard lock(clouds_mutex_);
      return std::move(cloud.process);
    }();
    process->signal(signal);
    const int got = process->wait();
    if (got != code) {
      fault(cloud.name + " ended with " + std::to_string(got) + ": " + process->err());
    }
  }

  EdgeConfig edge_config(const std::string& dtype, int timeout_ms, bool far = false,
                         const std::string& key = "phone") {
    EdgeConfig config;
    config.set_bundle(path("edge.h5"));
    config.set_secret_key(path(key + ".key"));
    config.set_server_key(path("cloud.pub"));
    config.set_wire_dtype(dtype);
    config.set_timeout_ms(timeout_ms);
    config.set_batch(kMostImages);
    for (const size_t part : {size_t{0}, size_t{2}}) {
      const auto at = [&](size_t i) { return far ? proxies_[i]->endpoint() : clouds_[i].endpoint; };
      config.add_part()->set_cloud(at(part) + "," + at(part + 1));
    }
    complete(config);
    return config;
  }

  void fault(const std::string& text) { ledger_.fault(text); }
  bool over() const { return stop_.load(); }

  // Some of the pool's images, and which.
  Tensor pick(Rng& rng, int64_t count, std::vector<int64_t>& which) const {
    Tensor images = Tensor::empty(batched(count, bundles_->edge.info.model.input_shape()));
    which.clear();
    for (int64_t i = 0; i < count; ++i) {
      which.push_back(static_cast<int64_t>(rng.below(static_cast<uint64_t>(pool_.images.dim(0)))));
      images.rows(i, 1).copy_from(pool_.images.rows(which.back(), 1));
    }
    return images;
  }

  // One call is over.
  void judge(const std::string& kind, const std::string& dtype, const Status& status,
             const float* logits, const std::vector<int64_t>& which, double ms, double limit_ms,
             bool hasty) {
    const auto images = std::ssize(which);
    ledger_.count(kind, status, images, ms - limit_ms);
    if (ms > limit_ms + static_cast<double>(kSlack.count())) {
      fault(kind + ": a call took " + std::to_string(ms) + " ms of " + std::to_string(limit_ms) +
            ": " + status.str());
    }
    if (!status.ok()) {
      if (status.code == StatusCode::kInternal || status.code == StatusCode::kInvalidArgument ||
          status.code == StatusCode::kVersionMismatch) {
        fault(kind + ": " + status.str());
      }
      if (calm_ && !hasty) fault(kind + ": all is well again, but " + status.str());
      return;
    }
    const int64_t classes = pool_.logits.dim(1);
    for (int64_t i = 0; i < images; ++i) {
      const float off =
          distance(logits + i * classes,
                   pool_.logits.data<float>() + which[static_cast<size_t>(i)] * classes, classes);
      if (!(off <= pool_.tolerance(dtype))) {
        fault(kind + ": a wrong answer, off by " + std::to_string(off));
        return;
      }
    }
  }

  struct Kind {
    const char* name;
    const char* dtype;
    int64_t least, most;  // images in a call
    int timeout_ms;
    bool far = false;    // behind the proxies
    bool hasty = false;  // may fail for want of time at any time
    double probes = 0;
    const char* key = "phone";
  };
  void call(const Kind& kind, Rng rng);
  void stream(const Kind& kind, Rng rng);
  void call_from_c(const Kind& kind, Rng rng);

  void break_things(Rng rng);
  void be_strange(Rng rng);
  void watch();
  bool report(double seconds);

  const Options options_;
  Rng rng_;
  test::TempDir dir_;
  std::unique_ptr<test::Bundles> bundles_;
  Pool pool_;
  std::array<Cloud, 4> clouds_;
  std::mutex clouds_mutex_;  // their processes
  std::vector<std::unique_ptr<test::TcpProxy>> proxies_;
  Ledger ledger_;
  std::atomic<bool> stop_{false}, faults_over_{false}, calm_{false}, stop_watching_{false};
  // When the guest's key was taken away, and when it may be back: no answer to what began between.
  std::atomic<int64_t> revoked_ns_{0};
  Clock::time_point start_;  // of the faults
  std::vector<Usage> own_usage_;
};

// ---- edges

void Soak::call(const Kind& kind, Rng rng) {
  EdgeConfig config = edge_config(kind.dtype, kind.timeout_ms, kind.far, kind.key);
  if (kind.probes > 0) {
    config.set_probes(path("probes.h5"));
    config.set_probe_rate(kind.probes);
  }
  EdgeClient client(config);
  bool known = false;  // once the clouds were asked what they serve, a call is one request
  std::vector<int64_t> which;
  while (!over()) {
    const Tensor images = pick(rng, between(rng, kind.least, kind.most), which);
    const int64_t revoked = revoked_ns_;
    const auto begin = Clock::now();
    const bool guest = std::string(kind.key) == "guest";
    const bool barred =
        guest && revoked > 0 && (begin.time_since_epoch().count() - revoked) > 1'000'000'000;
    const Result<Classified> result = client.classify(images);
    const double ms = seconds_since(begin) * 1000;
    // A probe in the same call may have its turn after the other request: both have their time.
    const int requests = (known ? 1 : 2) + (kind.probes > 0 ? 1 : 0);
    judge(kind.name, kind.dtype, result.status,
          result.status.ok() ? result.value.logits.data<float>() : nullptr, which, ms,
          requests * kind.timeout_ms, kind.hasty);
    known = known || result.status.ok();
    if (barred && revoked_ns_ == revoked && result.status.ok()) {
      fault("the guest was answered without an allowed key");
    }
    pause(milliseconds(between(rng, 0, 60)));
  }
}

void Soak::stream(const Kind& kind, Rng rng) {
  EdgeStream stream(edge_config(kind.dtype, kind.timeout_ms, kind.far), /*window=*/128);
  struct Waiting {
    std::future<Result<Classified>> future;
    std::vector<int64_t> which;
    Clock::time_point begin;
  };
  std::deque<Waiting> waiting;
  auto last = Clock::now();  // when the one before was answered: calls go one after the other
  const auto settle = [&] {
    Waiting w = std::move(waiting.front());
    waiting.pop_front();
    const auto since = std::max(last, w.begin);
    const milliseconds limit(2 * kind.timeout_ms);  // it may have to ask what is served
    if (w.future.wait_for(limit + 5 * kSlack) != std::future_status::ready) {
      fault(std::string(kind.name) + ": a future is never ready");
      std::exit(1);  // its destructor would wait for good
    }
    const Result<Classified> result = w.future.get();
    last = Clock::now();
    judge(kind.name, kind.dtype, result.status,
          result.status.ok() ? result.value.logits.data<float>() : nullptr, w.which,
          std::chrono::duration<double, std::milli>(last - since).count(),
          static_cast<double>(limit.count()), kind.hasty);
  };
  while (!over()) {
    Waiting w;
    w.begin = Clock::now();
    w.future = stream.submit(pick(rng, between(rng, kind.least, kind.most), w.which));
    waiting.push_back(std::move(w));
    while (waiting.size() > 12 || (!waiting.empty() && waiting.front().future.wait_for(milliseconds(
                                                           0)) == std::future_status::ready)) {
      settle();
    }
    pause(milliseconds(between(rng, 0, 30)));
  }
  while (!waiting.empty()) settle();
}

void Soak::call_from_c(const Kind& kind, Rng rng) {
  std::string config = edge_config(kind.dtype, kind.timeout_ms, kind.far).ShortDebugString();
  const std::string stem = path(std::string("c-") + kind.dtype + (kind.far ? "-far" : ""));
  std::vector<int64_t> which;
  while (!over()) {
    const int64_t count = between(rng, kind.least, kind.most);
    const Tensor images = pick(rng, count, which);
    std::ofstream(stem + ".images", std::ios::binary)
        .write(static_cast<const char*>(images.raw()),
               static_cast<std::streamsize>(images.bytes()));
    const auto begin = Clock::now();
    Process process({std::string(ENS_BIN_DIR) + "/c_client", config, std::to_string(count),
                     stem + ".images", stem + ".logits"},
                    stem);
    const int code = process.wait();
    const double ms = seconds_since(begin) * 1000;
    std::vector<float> logits(static_cast<size_t>(count * pool_.logits.dim(1)));
    Status status{static_cast<StatusCode>(code), process.err()};
    if (code < 0 || code > static_cast<int>(StatusCode::kUnauthenticated)) {
      status.code = StatusCode::kInternal;
    } else if (code == 0) {
      std::ifstream in(stem + ".logits", std::ios::binary);
      in.read(reinterpret_cast<char*>(logits.data()),
              static_cast<std::streamsize>(logits.size() * 4));
      if (!in) status = {StatusCode::kInternal, "no logits"};
    }
    // A process each time: it starts, asks what is served, then classifies.
    judge(kind.name, kind.dtype, status, logits.data(), which, ms, 2 * kind.timeout_ms, kind.hasty);
    pause(milliseconds(between(rng, 50, 300)));
  }
}

// ---- what goes wrong

void Soak::break_things(Rng rng) {
  while (!faults_over_) {
    const auto any = static_cast<size_t>(rng.below(clouds_.size()));
    const size_t mortal = rng.below(2) ? 1 : 2;
    const std::string right = "part" + std::to_string(any / 2) + ".h5";
    switch (rng.below(11)) {
      case 0:
        end(mortal, SIGKILL, 128 + SIGKILL);
        pause(milliseconds(between(rng, 0, 1500)));
        start(mortal);
        ledger_.did("cloud killed and started again");
        break;
      case 1:
        end(mortal, SIGTERM, 0);
        pause(milliseconds(between(rng, 0, 500)));
        start(mortal);
        ledger_.did("cloud drained and started again");
        break;
      case 2:
        signal(any, SIGSTOP);
        pause(milliseconds(between(rng, 50, 2500)));
        signal(any, SIGCONT);
        ledger_.did("cloud stopped and continued");
        break;
      case 3:
        signal(any, SIGHUP);
        ledger_.did("bundle loaded again");
        break;
      case 4: {
        put_bundle(any, right);
        const auto size = fs::file_size(clouds_[any].bundle);
        if (rng.below(2)) {
          fs::resize_file(clouds_[any].bundle, rng.below(size));
        } else {
          std::fstream file(clouds_[any].bundle, std::ios::in | std::ios::out | std::ios::binary);
          file.seekp(static_cast<std::streamoff>(rng.below(size)));
          file.put(static_cast<char>(rng.next()));
        }
        signal(any, SIGHUP);
        pause(milliseconds(between(rng, 100, 600)));
        put_bundle(any, right);
        ledger_.did("damaged bundle loaded again");
        break;
      }
      case 5:
        put_bundle(any, "other" + std::to_string(any / 2) + ".h5");
        signal(any, SIGHUP);
        pause(milliseconds(between(rng, 100, 600)));
        put_bundle(any, right);
        signal(any, SIGHUP);
        ledger_.did("other training's bundle for a while");
        break;
      case 6:
        fs::remove(dir_ / "clients/guest.pub");
        revoked_ns_ = Clock::now().time_since_epoch().count();
        pause(milliseconds(between(rng, 500, 3000)));
        revoked_ns_ = 0;
        fs::copy(dir_ / "guest.pub", dir_ / "clients");
        ledger_.did("key taken away and given back");
        break;
      case 7:
        proxies_[any]->set_rate(between(rng, 20'000, 300'000));
        pause(milliseconds(between(rng, 200, 3000)));
        proxies_[any]->set_rate(0);
        ledger_.did("slow link");
        break;
      case 8:
        proxies_[any]->stall(true);
        pause(milliseconds(between(rng, 200, 2500)));
        proxies_[any]->stall(false);
        ledger_.did("link stalled");
        break;
      case 9:
        proxies_[any]->cut();
        ledger_.did("link broken");
        break;
      default:
        proxies_[any]->cut_after(between(rng, 0, 200'000));
        ledger_.did("link broken in mid message");
    }
    pause(milliseconds(between(rng, 50, 1000)));
  }
  for (auto& proxy : proxies_) proxy->set_rate(0), proxy->stall(false), proxy->cut_after(-1);
}

void Soak::be_strange(Rng rng) {
  test::Held held;
  const auto allowed = std::make_shared<const KeyPair>(read_secret_key(dir_ / "phone.key"));
  const BundleInfo& info = bundles_->edge.info;
  while (!faults_over_) {
    const Cloud& cloud = clouds_[rng.below(clouds_.size())];
    const test::Target target{cloud.endpoint,
                              cloud.http,
                              read_public_key(dir_ / "cloud.pub"),
                              allowed,
                              info.fingerprint,
                              smashed_shape(info.model, info.split),
                              64};
    const test::Act& act = test::acts()[rng.below(test::acts().size())];
    act.run(target, rng, held);
    ledger_.did(std::string("stranger: ") + act.name);
    if (held.count() > 400 || rng.below(8) == 0) held.let_go();
    pause(milliseconds(between(rng, 20, 400)));
  }
}

void Soak::watch() {
  const milliseconds every(options_.seconds < 60 ? 200 : 1000);
  while (!stop_watching_) {
    const double now = seconds_since(start_);
    own_usage_.push_back(usage_of(::getpid(), now));
    {
      const std::lock_guard lock(clouds_mutex_);
      for (Cloud& cloud : clouds_) {
        if (!cloud.process) continue;
        if (!cloud.process->running()) {
          fault(cloud.name + " has ended by itself: " + cloud.process->err());
          continue;
        }
        cloud.usage.push_back(usage_of(cloud.process->pid(), now));
      }
    }
    pause(every);
  }
}

// ---- all together

bool Soak::run() {
  {  // probes, while the clouds are to be trusted
    EdgeClient client(edge_config("float32", 20000));
    const Status status = client.record_probes(pool_.images, path("probes.h5"));
    if (!status.ok()) fail(status.str(), "soak");
  }
  pause(milliseconds(1000));
  for (Cloud& cloud : clouds_) {
    cloud.descriptors_before = usage_of(cloud.process->pid(), 0).descriptors;
  }
  const Kind calls[] = {
      {"EdgeClient float32, 1 to 8 images", "float32", 1, 8, 4000},
      {"EdgeClient float16, 1 to 64", "float16", 1, 64, 4000},
      {"EdgeClient int8, probes in a fifth", "int8", 1, 32, 4000, false, false, 0.2},
      {"EdgeClient float32, 1 to 40 ms to live", "float32", 1, 2, 10, false, true},
      {"EdgeClient float16, broken links", "float16", 1, 16, 3000, true},
      {"EdgeClient float32, key comes and goes", "float32", 1, 4, 2000, false, false, 0, "guest"}};
  const Kind streams[] = {{"EdgeStream float32", "float32", 1, 4, 4000},
                          {"EdgeStream int8, broken links", "int8", 1, 8, 3000, true}};
  const Kind from_c[] = {{"C interface float32", "float32", 1, 16, 4000},
                         {"C interface int8, broken links", "int8", 1, 8, 3000, true}};
  start_ = Clock::now();
  std::jthread watcher([this] { watch(); });
  std::vector<std::jthread> edges;
  const auto launch = [&](void (Soak::*work)(const Kind&, Rng), const Kind& kind) {
    edges.emplace_back([this, work, kind, rng = Rng(options_.seed, kind.name)] {
      try {
        (this->*work)(kind, rng);
      } catch (const std::exception& e) {
        fault(std::string(kind.name) + " has ended: " + e.what());
      }
    });
  };
  for (const Kind& kind : calls) launch(&Soak::call, kind);
  for (const Kind& kind : streams) launch(&Soak::stream, kind);
  for (const Kind& kind : from_c) launch(&Soak::call_from_c, kind);
  {
    std::jthread strangers([this] { be_strange(Rng(options_.seed, "strangers")); });
    std::jthread breaker([this] {
      try {
        break_things(Rng(options_.seed, "faults"));
      } catch (const std::exception& e) {
        fault(std::string("the soak itself: ") + e.what());
      }
    });
    while (seconds_since(start_) < options_.seconds) pause(milliseconds(50));
    faults_over_ = true;
  }
  const double seconds = seconds_since(start_);
  pause(milliseconds(8000));  // reconnects, the time of calls that began in trouble, handshakes
  calm_ = true;
  pause(milliseconds(4000));
  stop_ = true;
  edges.clear();
  stop_watching_ = true;
  watcher.join();
  for (Cloud& cloud : clouds_) {
    const auto end = Clock::now() + std::chrono::seconds(30);  // heartbeats, handshakes
    int64_t now = 0;
    while ((now = usage_of(cloud.process->pid(), 0).descriptors) > cloud.descriptors_before &&
           Clock::now() < end) {
      pause(milliseconds(100));
    }
    if (now > cloud.descriptors_before) {
      fault(cloud.name + " holds " + std::to_string(now) + " descriptors, " +
            std::to_string(cloud.descriptors_before) + " before the first client");
    }
  }
  for (size_t i = 0; i < clouds_.size(); ++i) end(i, SIGTERM, 0);
  return report(seconds);
}

bool Soak::report(double seconds) {
  std::printf("\n%-42s %7s %8s %8s %9s  %s\n", "edge", "calls", "images", "right", "over ms",
              "errors");
  Ledger::Row sum;
  for (const auto& [kind, row] : ledger_.rows()) {
    std::string errors;
    for (const auto& [code, count] : row.errors) {
      errors += std::string(errors.empty() ? "" : ", ") + name(code) + " " + std::to_string(count);
      sum.errors[code] += count;
    }
    std::printf("%-42s %7lld %8lld %8lld %9.0f  %s\n", kind.c_str(),
                static_cast<long long>(row.calls), static_cast<long long>(row.images),
                static_cast<long long>(row.right), std::max(0.0, row.worst_over_ms),
                errors.c_str());
    sum.calls += row.calls, sum.images += row.images, sum.right += row.right;
    sum.worst_over_ms = std::max(sum.worst_over_ms, row.worst_over_ms);
    if (row.right == 0 && kind.find("to live") == std::string::npos) {
      fault(kind + " was never answered");
    }
  }
  std::printf("%-42s %7lld %8lld %8lld %9.0f\n\n", "all", static_cast<long long>(sum.calls),
              static_cast<long long>(sum.images), static_cast<long long>(sum.right),
              std::max(0.0, sum.worst_over_ms));
  for (const auto& [what, count] : ledger_.done()) {
    std::printf("%-42s %7lld\n", what.c_str(), static_cast<long long>(count));
  }
  std::printf("\n%-42s %7s %10s %10s %8s %8s\n", "memory (MiB) and descriptors", "starts",
              "2nd quart", "last quart", "most", "most fd");
  const auto usage_row = [&](const std::string& what, int starts, const std::vector<Usage>& usage,
                             bool judged) {
    const int64_t early = median_kib(usage, seconds / 4, seconds / 2),
                  late = median_kib(usage, seconds * 3 / 4, seconds);
    int64_t most = 0, descriptors = 0;
    for (const Usage& u : usage) {
      most = std::max(most, u.kib);
      descriptors = std::max(descriptors, u.descriptors);
    }
    std::printf("%-42s %7d %10.1f %10.1f %8.1f %8lld\n", what.c_str(), starts,
                static_cast<double>(early) / 1024, static_cast<double>(late) / 1024,
                static_cast<double>(most) / 1024, static_cast<long long>(descriptors));
    if (judged && seconds >= 120 &&
        static_cast<double>(late) > 1.05 * static_cast<double>(early) + 4096) {
      fault(what + ": memory grows");
    }
  };
  for (const Cloud& cloud : clouds_)
    usage_row(cloud.name, cloud.starts, cloud.usage, !cloud.mortal);
  usage_row("edges and strangers (this process)", 1, own_usage_, true);
  std::printf("\n%.0f s of faults, seed %llu: %s\n", seconds,
              static_cast<unsigned long long>(options_.seed),
              ledger_.faults().empty()
                  ? "all held"
                  : (std::to_string(ledger_.faults().size()) + " FAILED").c_str());
  return ledger_.faults().empty();
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"Clouds and edges under mixed load while everything around them goes wrong.",
               "ens-soak"};
  app.add_option("--seconds", options.seconds, "of faults")->capture_default_str();
  app.add_option("--seed", options.seed, "of faults and load")->capture_default_str();
  app.add_option("--run", options.run, "a finished run's bundles; default small random ones");
  parse_flags(app, argc, argv);
  return Soak(options).run() ? 0 : 1;
}

}  // namespace
}  // namespace ens

int main(int argc, char** argv) {
  return ens::run_program("ens-soak", argv, [&] { return ens::run(argc, argv); });
}
