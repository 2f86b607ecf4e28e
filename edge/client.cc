// SPDX-License-Identifier: Apache-2.0
#include "edge/client.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "edge/blinded_layers.h"
#include "edge/fleet.h"
#include "edge/probes.h"
#include "edge/session.h"
#include "ensemble/model/blinded_bundle.h"
#include "net/keys.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kTop = 5;
constexpr std::chrono::milliseconds kLookInterval{500};  // at the bundle's file
constexpr std::chrono::seconds kRetryReload{5};          // of a file that could not be used

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Split inference: a bundle, and the links to the clouds that serve its server nets; to workers as
// well, if they compute the layers of its first cells.
class SplitSession : public EdgeSession {
 public:
  SplitSession(const EdgeConfig& c, const Checkpoint& checkpoint)
      : config(c),
        pipeline(read_edge_bundle(checkpoint), c.batch(), device_key(c)),
        output(body_output_shape(info().model, info().split)),
        fleet(c, info(), pipeline.channel() ? pipeline.channel()->int8_step : 0) {
    if (pipeline.channel() && pipeline.channel()->keyed && c.device_key().empty()) {
      usage_fail("the noise of this bundle comes from a device's key, and there is none",
                 c.bundle(), "make one with ensembler keys device, and name it with --device-key");
    }
    if (!c.probes().empty()) probes.emplace(c.probes(), info());
    if (pipeline.blinded()) {
      blinded.emplace(c, *pipeline.blinded());
    } else if (c.offload().worker_size() > 0) {
      usage_fail("workers are for blinded inference, and this bundle is not for that", c.bundle(),
                 "make one with ensembler offload pack");
    }
  }

  const BundleInfo& info() const override { return pipeline.info(); }
  const std::vector<std::string>& class_names() const override { return pipeline.class_names(); }
  Status check() override {
    if (Status status = fleet.check(); !status.ok() || !blinded) return status;
    return blinded->check();
  }
  void cancel() override {
    fleet.cancel();
    if (blinded) blinded->cancel();
  }

  Status classify(const Tensor& images, Classified& out) override {
    const auto start = Clock::now();
    Tensor input;
    if (Status status = head_input(images, input, out); !status.ok()) return status;
    std::vector<PendingBatch> batches = batches_of(input);

    // A probe has the size of another request, and any place among them.
    std::optional<size_t> probe_at;
    Tensor right;
    if (probes && static_cast<double>(secure_random() >> 11) * 0x1p-53 < config.probe_rate()) {
      Probes::Sample probe = probes->draw(batches[0].images);
      probe_at = secure_random() % (batches.size() + 1);
      right = probe.outputs;
      batches.insert(
          batches.begin() + static_cast<ptrdiff_t>(*probe_at),
          {.images = right.dim(1), .features = [features = probe.features] { return features; }});
    }
    if (Status status = fleet.run(batches, out.times); !status.ok()) return status;
    if (probe_at) {
      if (Status status = Probes::check(batches[*probe_at].outputs, right); !status.ok()) {
        return {status.code, status.message + " (" + fleet.addresses() + ")"};
      }
      batches.erase(batches.begin() + static_cast<ptrdiff_t>(*probe_at));
    }
    finish(batches, out);
    out.times.total_ms = ms_since(start);
    return {};
  }

  Status record_probes(const Tensor& images, const std::filesystem::path& file) override {
    Tensor input;
    Classified blinded_part;
    if (Status status = head_input(images, input, blinded_part); !status.ok()) return status;
    const int64_t total = images.dim(0);
    Tensor features = Tensor::empty(batched(total, smashed_shape(info().model, info().split)));
    std::vector<PendingBatch> batches = batches_of(input);
    int64_t first = 0;
    for (PendingBatch& batch : batches) {
      Tensor some = features.rows(first, batch.images);
      some.copy_from(batch.features());
      batch.features = [some] { return some; };
      first += batch.images;
    }
    EdgeTimes times;
    if (Status status = fleet.run(batches, times); !status.ok()) return status;
    Tensor outputs = Tensor::empty(batched(info().nets, batched(total, output)));
    first = 0;
    for (const PendingBatch& batch : batches) {
      for (int64_t net = 0; net < info().nets; ++net) {
        const int64_t count = batch.images * output.numel();
        std::copy_n(batch.outputs.data<float>() + net * count, count,
                    outputs.data<float>() + (net * total + first) * output.numel());
      }
      first += batch.images;
    }
    Probes(info().fingerprint, features, outputs).write(file);
    return {};
  }

 private:
  // Checks the images, and the clouds if they have not been. What the head reads: the images, or
  // what the blinded cells make of them.
  Status head_input(const Tensor& images, Tensor& input, Classified& out) {
    if (Status status = check_images(images, info().model); !status.ok()) return status;
    if (Status status = fleet.check_if_needed(); !status.ok()) return status;
    input = images;
    return blinded ? blinded->run(images, input, out) : Status{};
  }

  // Images in requests of the size that the clouds take.
  std::vector<PendingBatch> batches_of(const Tensor& input) {
    std::vector<PendingBatch> batches;
    const int64_t size = fleet.request_batch();
    for (int64_t first = 0; first < input.dim(0); first += size) {
      const Tensor some = input.rows(first, std::min(size, input.dim(0) - first));
      batches.push_back(
          {.images = some.dim(0), .features = [this, some] { return pipeline.smash(some); }});
    }
    return batches;
  }

  // The selector comes in only here, after everything was sent: the clouds cannot see how long this
  // takes.
  void finish(const std::vector<PendingBatch>& batches, Classified& out) {
    const auto start = Clock::now();
    int64_t total = 0, first = 0;
    for (const PendingBatch& batch : batches) total += batch.images;
    out.logits = Tensor::empty({total, info().model.classes});
    for (const PendingBatch& batch : batches) {
      out.logits.rows(first, batch.images).copy_from(pipeline.finish(batch.outputs));
      first += batch.images;
    }
    out.times.tail_ms += ms_since(start);
  }

  static std::optional<Seed> device_key(const EdgeConfig& c) {
    if (c.device_key().empty()) return std::nullopt;
    return read_device_key(c.device_key());
  }

  const EdgeConfig config;
  EdgePipeline pipeline;
  const Shape output;  // of one net, for one image
  Fleet fleet;
  std::optional<BlindedLayers> blinded;
  std::optional<Probes> probes;
};

std::unique_ptr<EdgeSession> open_session(const EdgeConfig& config) {
  const Checkpoint checkpoint = read_checkpoint(config.bundle(), "edge");
  return is_blinded_bundle(checkpoint) ? open_blinded_session(config, checkpoint)
                                       : open_split_session(config, checkpoint);
}

// A session, and the file that it is of.
struct Loaded {
  explicit Loaded(const EdgeConfig& config)
      : stamp(file_stamp(config.bundle())), session(open_session(config)) {}

  const FileStamp stamp;  // before it was read
  const std::unique_ptr<EdgeSession> session;
};

}  // namespace

std::vector<Ranked> top_classes(std::span<const float> logits, size_t k,
                                const std::vector<std::string>& names) {
  std::vector<int> order(names.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t count = std::min(k, order.size());
  const auto at = [&](int index) { return logits[static_cast<size_t>(index)]; };
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(),
                    [&](int a, int b) { return at(a) > at(b); });
  const double largest = at(order[0]);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  std::vector<Ranked> top;
  for (size_t i = 0; i < count; ++i) {
    top.push_back({order[i], names[static_cast<size_t>(order[i])],
                   static_cast<float>(std::exp(at(order[i]) - largest) / sum)});
  }
  return top;
}

std::unique_ptr<EdgeSession> open_split_session(const EdgeConfig& config,
                                                const Checkpoint& checkpoint) {
  return std::make_unique<SplitSession>(config, checkpoint);
}

struct EdgeClient::Impl {
  explicit Impl(const EdgeConfig& c) : config(c), loaded(std::make_unique<Loaded>(c)) {}

  Status reload() {
    tried = file_stamp(config.bundle());
    next_try = Clock::now() + kRetryReload;
    std::unique_ptr<Loaded> next;
    try {
      next = std::make_unique<Loaded>(config);
    } catch (const std::exception& error) {
      return {StatusCode::kInvalidArgument, error.what()};
    }
    const ModelSpec& before = loaded->session->info().model;
    const ModelSpec& after = next->session->info().model;
    if (after.input_shape() != before.input_shape() || after.classes != before.classes) {
      return {StatusCode::kInvalidArgument,
              config.bundle() + " has other images or classes than the bundle in use; start again"};
    }
    if (Status status = next->session->check(); !status.ok()) return status;
    const std::lock_guard lock(mutex);
    if (cancelled) next->session->cancel();
    loaded.swap(next);
    return {};
  }

  std::optional<Status> reload_if_changed(bool now) {
    const auto time = Clock::now();
    if (requested.exchange(false)) return reload();
    if (!now && time < next_look) return std::nullopt;
    next_look = time + kLookInterval;
    const FileStamp stamp = file_stamp(config.bundle());
    if (stamp == FileStamp{} || stamp == loaded->stamp) return std::nullopt;
    if (!now && stamp == tried && time < next_try) return std::nullopt;
    return reload();
  }

  const EdgeConfig config;
  std::atomic<bool> requested{false};
  FileStamp tried;  // by the latest reload
  Clock::time_point next_look, next_try;
  std::mutex mutex;  // of the two below, for cancel()
  std::unique_ptr<Loaded> loaded;
  bool cancelled = false;
};

EdgeClient::EdgeClient(const EdgeConfig& config) : impl_(std::make_unique<Impl>(config)) {}
EdgeClient::~EdgeClient() = default;

Status EdgeClient::check() { return impl_->loaded->session->check(); }

Result<Classified> EdgeClient::classify(const Tensor& images) {
  Result<Classified> result;
  EdgeSession& session = *impl_->loaded->session;
  result.status = session.classify(images, result.value);
  if (!result.status.ok()) return result;
  const std::span<const float> logits = result.value.logits.span<float>();
  const size_t classes = session.class_names().size();
  for (size_t first = 0; first < logits.size(); first += classes) {
    result.value.top.push_back(
        top_classes(logits.subspan(first, classes), kTop, session.class_names()));
  }
  return result;
}

Status EdgeClient::record_probes(const Tensor& images, const std::filesystem::path& file) {
  return impl_->loaded->session->record_probes(images, file);
}

Status EdgeClient::reload() { return impl_->reload(); }
std::optional<Status> EdgeClient::reload_if_changed(bool now) {
  return impl_->reload_if_changed(now);
}
void EdgeClient::request_reload() { impl_->requested.store(true); }

Result<Classified> EdgeClient::classify_latest(
    const Tensor& images, const std::function<void(const Status&)>& on_reload) {
  if (const auto reloaded = reload_if_changed()) on_reload(*reloaded);
  Result<Classified> result = classify(images);
  if (result.status.code != StatusCode::kFingerprintMismatch) return result;
  // The clouds have retired the bundle: a new one may be there already.
  const auto reloaded = reload_if_changed(/*now=*/true);
  if (!reloaded) return result;
  on_reload(*reloaded);
  return reloaded->ok() ? classify(images) : result;
}

void EdgeClient::cancel() {
  const std::lock_guard lock(impl_->mutex);
  impl_->cancelled = true;
  impl_->loaded->session->cancel();
}

const BundleInfo& EdgeClient::info() const { return impl_->loaded->session->info(); }
const std::vector<std::string>& EdgeClient::class_names() const {
  return impl_->loaded->session->class_names();
}

}  // namespace ens
