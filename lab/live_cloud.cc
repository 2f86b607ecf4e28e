// SPDX-License-Identifier: Apache-2.0
#include "lab/live_cloud.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/process.h"
#include "base/statistics.h"
#include "base/strings.h"
#include "base/threads.h"
#include "edge/client.h"
#include "lab/config_flags.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPause{500};
constexpr std::chrono::seconds kWatched{5}, kKept{60}, kStart{20};

struct Sample {
  Clock::time_point when;
  EdgeTimes times;
};

}  // namespace

struct LiveCloud::Impl {
  Impl(fs::path r, LiveCloudSettings s, const Tensor& i)
      : run(std::move(r)), settings(std::move(s)), image(i.reshape(batched(1, i.shape())).clone()) {
    thread = std::thread([this] {
      unpin_this_thread();
      work();
    });
  }
  ~Impl() {
    {
      std::lock_guard lock(mutex);
      over = true;
    }
    wake.notify_all();
    thread.join();
  }

  // The address of a cloud of this run alone.
  std::string start_own() {
    const fs::path ready =
        fs::temp_directory_path() / ("ens-live-" + std::to_string(secure_random()) + ".ready");
    own.emplace(std::vector<std::string>{(program_folder() / "ensembler-cloud").string(),
                                         "--bundle", (run / "cloud.h5").string(), "--bind",
                                         "tcp://127.0.0.1:*", "--ready-file", ready.string()},
                Process::Options{.out_file = "/dev/null",
                                 .err_file = "/dev/null",
                                 .err_append = true,
                                 .no_input = true,
                                 .own_group = true});
    const auto until = Clock::now() + kStart;
    std::string address;
    while (own->running() && Clock::now() < until && !stopping()) {
      address = trimmed(read_file_if_there(ready).value_or(""));
      if (!address.empty()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    std::error_code ignored;
    fs::remove(ready, ignored);
    if (address.empty()) {
      own.reset();
      fail("the cloud did not start", "ensembler-cloud",
           "see `ensembler-cloud --bundle RUN/cloud.h5`");
    }
    return address;
  }

  bool stopping() {
    std::lock_guard lock(mutex);
    return over;
  }

  void ask(std::optional<EdgeClient>& client) {
    if (own && !own->running()) {
      client.reset();
      own.reset();
    }
    if (!client) {
      EdgeConfig config;
      config.set_bundle((run / "edge.h5").string());
      config.set_cloud(settings.address.empty() ? start_own() : settings.address);
      if (!settings.server_key.empty()) config.set_server_key(settings.server_key);
      if (!settings.secret_key.empty()) config.set_secret_key(settings.secret_key);
      config.set_insecure(settings.insecure);
      config.set_timeout_ms(2000);
      complete(config);
      client.emplace(config);
    }
    const Result<Classified> answer = client->classify(image);
    std::lock_guard lock(mutex);
    if (answer.status.ok()) {
      samples.push_back({Clock::now(), answer.value.times});
      problem.clear();
    } else {
      problem = answer.status.message;
    }
  }

  void work() {
    std::optional<EdgeClient> client;
    std::unique_lock lock(mutex);
    while (!over) {
      if (Clock::now() - watched > kWatched) {
        wake.wait(lock);
        continue;
      }
      lock.unlock();
      try {
        ask(client);
      } catch (const std::exception& error) {
        std::lock_guard again(mutex);
        problem = error.what();
      }
      lock.lock();
      wake.wait_for(lock, kPause, [&] { return over; });
    }
    lock.unlock();
    client.reset();
    own.reset();
  }

  const fs::path run;
  const LiveCloudSettings settings;
  const Tensor image;
  std::mutex mutex;
  std::condition_variable wake;
  bool over = false;
  Clock::time_point watched{};
  std::deque<Sample> samples;
  std::string problem;
  std::optional<Process> own;
  std::thread thread;
};

LiveCloud::LiveCloud(fs::path run, LiveCloudSettings settings, const Tensor& image)
    : impl_(std::make_unique<Impl>(std::move(run), std::move(settings), image)) {}
LiveCloud::~LiveCloud() = default;

LiveCloud::View LiveCloud::view() {
  std::lock_guard lock(impl_->mutex);
  const auto now = Clock::now();
  impl_->watched = now;
  impl_->wake.notify_all();
  auto& samples = impl_->samples;
  View out;
  out.own = impl_->settings.address.empty();
  out.problem = impl_->problem;
  if (samples.empty()) return out;
  out.age = std::chrono::duration<double>(now - samples.back().when).count();
  // The last ones stay, however old, until newer ones come.
  while (samples.size() > 1 && samples.back().when - samples.front().when > kKept)
    samples.pop_front();
  out.answers = static_cast<int>(samples.size());
  const auto part = [&](auto of) {
    std::vector<double> values;
    for (const Sample& sample : samples) values.push_back(of(sample.times));
    return Percentiles{percentile(values, 0.5), percentile(values, 0.95)};
  };
  out.edge = part([](const EdgeTimes& t) { return t.head_ms + t.tail_ms; });
  out.wire = part([](const EdgeTimes& t) { return t.wire_ms; });
  out.queue = part([](const EdgeTimes& t) { return t.cloud_queue_ms; });
  out.compute = part([](const EdgeTimes& t) { return t.cloud_compute_ms; });
  out.total = part([](const EdgeTimes& t) { return t.total_ms; });
  return out;
}

}  // namespace ens
