#include "edge/client.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "edge/fleet.h"
#include "edge/probes.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kTop = 5;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::vector<Ranked> best_of(const float* logits, const std::vector<std::string>& names) {
  const size_t classes = names.size();
  std::vector<int> order(classes);
  std::iota(order.begin(), order.end(), 0);
  const size_t count = std::min(kTop, classes);
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(count), order.end(),
                    [&](int a, int b) { return logits[a] > logits[b]; });
  double sum = 0;
  for (size_t i = 0; i < classes; ++i) sum += std::exp(double{logits[i]} - logits[order[0]]);
  std::vector<Ranked> top;
  for (size_t i = 0; i < count; ++i) {
    const int index = order[i];
    const double probability = std::exp(double{logits[index]} - logits[order[0]]) / sum;
    top.push_back({index, names[static_cast<size_t>(index)], static_cast<float>(probability)});
  }
  return top;
}

}  // namespace

struct EdgeClient::Impl {
  explicit Impl(const EdgeConfig& c)
      : config(c),
        pipeline(read_edge_bundle(c.bundle()), c.batch()),
        info(pipeline.info()),
        output(body_output_shape(info.model, info.split)),
        fleet(c, info) {
    if (!c.probes().empty()) probes.emplace(c.probes(), info);
  }

  Status check_images(const Tensor& images) {
    const Shape one = info.model.input_shape();
    if (images.rank() != 4 || images.dtype() != Dtype::kF32 || images.dim(0) < 1 ||
        !std::ranges::equal(images.shape().dims().subspan(1), one.dims())) {
      return {StatusCode::kInvalidArgument, "images are " + images.shape().str() + " " +
                                                name(images.dtype()) + ", expected [B, " +
                                                one.str().substr(1) + " float32"};
    }
    return fleet.check_if_needed();
  }

  // Images in requests of the size that the clouds take.
  std::vector<PendingBatch> batches_of(const Tensor& images) {
    std::vector<PendingBatch> batches;
    const int64_t size = fleet.request_batch();
    for (int64_t first = 0; first < images.dim(0); first += size) {
      const Tensor some = images.rows(first, std::min(size, images.dim(0) - first));
      batches.push_back(
          {.images = some.dim(0), .features = [this, some] { return pipeline.smash(some); }});
    }
    return batches;
  }

  Status classify(const Tensor& images, Classified& out) {
    const auto start = Clock::now();
    if (Status status = check_images(images); !status.ok()) return status;
    std::vector<PendingBatch> batches = batches_of(images);

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

  // The selector comes in only here, after everything was sent: the clouds cannot see how long this
  // takes.
  void finish(const std::vector<PendingBatch>& batches, Classified& out) {
    const auto start = Clock::now();
    int64_t total = 0, first = 0;
    for (const PendingBatch& batch : batches) total += batch.images;
    out.logits = Tensor::empty({total, info.model.classes});
    for (const PendingBatch& batch : batches) {
      out.logits.rows(first, batch.images).copy_from(pipeline.finish(batch.outputs));
      first += batch.images;
    }
    for (int64_t b = 0; b < total; ++b) {
      out.top.push_back(
          best_of(out.logits.data<float>() + b * info.model.classes, pipeline.class_names()));
    }
    out.times.tail_ms = ms_since(start);
  }

  Status record(const Tensor& images, const std::filesystem::path& file) {
    if (Status status = check_images(images); !status.ok()) return status;
    const int64_t total = images.dim(0);
    Tensor features = Tensor::empty(batched(total, smashed_shape(info.model, info.split)));
    std::vector<PendingBatch> batches = batches_of(images);
    int64_t first = 0;
    for (PendingBatch& batch : batches) {
      Tensor some = features.rows(first, batch.images);
      some.copy_from(batch.features());
      batch.features = [some] { return some; };
      first += batch.images;
    }
    EdgeTimes times;
    if (Status status = fleet.run(batches, times); !status.ok()) return status;
    Tensor outputs = Tensor::empty(batched(info.nets, batched(total, output)));
    first = 0;
    for (const PendingBatch& batch : batches) {
      for (int64_t net = 0; net < info.nets; ++net) {
        const int64_t count = batch.images * output.numel();
        std::copy_n(batch.outputs.data<float>() + net * count, count,
                    outputs.data<float>() + (net * total + first) * output.numel());
      }
      first += batch.images;
    }
    Probes(info.fingerprint, features, outputs).write(file);
    return {};
  }

  const EdgeConfig config;
  EdgePipeline pipeline;
  const BundleInfo& info;
  const Shape output;  // of one net, for one image
  Fleet fleet;
  std::optional<Probes> probes;
};

EdgeClient::EdgeClient(const EdgeConfig& config) : impl_(std::make_unique<Impl>(config)) {}
EdgeClient::~EdgeClient() = default;

Status EdgeClient::check() { return impl_->fleet.check(); }

Result<Classified> EdgeClient::classify(const Tensor& images) {
  Result<Classified> result;
  result.status = impl_->classify(images, result.value);
  return result;
}

Status EdgeClient::record_probes(const Tensor& images, const std::filesystem::path& file) {
  return impl_->record(images, file);
}

void EdgeClient::cancel() { impl_->fleet.cancel(); }

const BundleInfo& EdgeClient::info() const { return impl_->info; }
const std::vector<std::string>& EdgeClient::class_names() const {
  return impl_->pipeline.class_names();
}

}  // namespace ens
