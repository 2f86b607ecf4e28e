// SPDX-License-Identifier: Apache-2.0
#include "edge/fleet.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "edge/client.h"
#include "net/limits.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;

bool same(const google::protobuf::RepeatedField<int64_t>& sizes, const Shape& shape) {
  return std::ranges::equal(sizes, shape.dims());
}

// The times and bytes of one batch: the slowest of the clouds is the one that was waited for.
void add_times(const std::vector<std::vector<Exchange>>& exchanges, size_t batch,
               EdgeTimes& times) {
  double queue = 0, compute = 0, round_trip = 0;
  for (const std::vector<Exchange>& of_cloud : exchanges) {
    const Exchange& exchange = of_cloud[batch];
    times.bytes_sent += exchange.bytes_sent;
    times.bytes_received += exchange.bytes_received;
    if (exchange.round_trip_ms < round_trip) continue;
    round_trip = exchange.round_trip_ms;
    queue = static_cast<double>(exchange.reply.queue_us()) / 1000;
    compute = static_cast<double>(exchange.reply.compute_us()) / 1000;
  }
  times.cloud_queue_ms += queue;
  times.cloud_compute_ms += compute;
  times.wire_ms += std::max(0.0, round_trip - queue - compute);
}

}  // namespace

struct Fleet::Cloud {
  Cloud(const CloudPart& part, const EdgeConfig& config, int64_t max_reply)
      : link(part, config, max_reply) {}

  Status wrong(const std::string& what) const {
    return {StatusCode::kInternal, "the cloud at " + link.address() + " replied " + what};
  }

  Link link;
  std::vector<int> nets;  // which of the N nets it serves; known once it was asked
};

Fleet::Fleet(const EdgeConfig& config, BundleInfo info, float int8_step)
    : config_(config),
      wire_dtype_(parse_wire_dtype(config.wire_dtype())),
      reply_dtype_(parse_wire_dtype(config.reply_dtype())),
      info_(std::move(info)),
      int8_step_(int8_step),
      output_(body_output_shape(info_.model, info_.split)) {
  const int64_t largest = std::max<int64_t>(
      limits::kMaxReplyHeader, info_.nets * int64_t{config.batch()} * output_.numel() * 4);
  for (const CloudPart& part : parts_of(config)) {
    clouds_.push_back(std::make_unique<Cloud>(part, config, largest));
  }
}
Fleet::~Fleet() = default;

std::string Fleet::addresses() const {
  std::string all;
  for (const auto& cloud : clouds_) all += (all.empty() ? "" : ", ") + cloud->link.address();
  return all;
}

void Fleet::cancel() {
  for (const auto& cloud : clouds_) cloud->link.cancel();
}

Status Fleet::for_each_cloud(const std::function<Status(size_t)>& f) {
  std::vector<Status> results(clouds_.size());
  {
    std::vector<std::jthread> threads;
    for (size_t c = 1; c < clouds_.size(); ++c) {
      threads.emplace_back([&, c] { results[c] = f(c); });
    }
    results[0] = f(0);
  }
  for (Status& result : results) {
    if (!result.ok()) return std::move(result);
  }
  return {};
}

Status Fleet::check_fingerprint(const Cloud& cloud, const wire::Reply& reply) const {
  if (reply.fingerprint() == info_.fingerprint) return {};
  return {StatusCode::kFingerprintMismatch, "the cloud at " + cloud.link.address() +
                                                " serves other server nets than those of " +
                                                config_.bundle()};
}

// ---- what the clouds serve

Status Fleet::ask_info(Cloud& cloud, int64_t& max_batch) {
  std::vector<Exchange> exchanges(1);
  exchanges[0].request.set_kind(wire::Request::INFO);
  exchanges[0].request.set_fingerprint(info_.fingerprint);  // a cloud may serve several bundles
  return cloud.link.run(
      exchanges, [](size_t) { return Status{}; },
      [&](size_t, const WireFrame* frame) {
        return read_info(cloud, exchanges[0].reply, frame != nullptr, max_batch);
      });
}

Status Fleet::read_info(Cloud& cloud, const wire::Reply& reply, bool has_tensor,
                        int64_t& max_batch) {
  if (Status status = check_fingerprint(cloud, reply); !status.ok()) return status;
  const wire::ServerInfo& served = reply.info();
  if (has_tensor || !reply.has_info()) {
    return cloud.wrong("to an INFO request without information");
  }
  cloud.nets.assign(served.part().begin(), served.part().end());
  if (cloud.nets.empty()) {
    if (served.nets() != static_cast<uint32_t>(info_.nets)) {
      return cloud.wrong("that it serves " + std::to_string(served.nets()) + " nets, not " +
                         std::to_string(info_.nets));
    }
    cloud.nets.resize(static_cast<size_t>(info_.nets));  // names none: it serves all of them
    std::iota(cloud.nets.begin(), cloud.nets.end(), 0);
  }
  if (served.nets() != cloud.nets.size()) {
    return cloud.wrong("that it serves " + std::to_string(served.nets()) + " nets, and names " +
                       std::to_string(cloud.nets.size()));
  }
  if (!same(served.input_shape(), smashed_shape(info_.model, info_.split)) ||
      !same(served.output_shape(), output_) || served.max_batch() < 1) {
    return cloud.wrong("with other shapes than this bundle's");
  }
  max_batch = std::min<int64_t>(config_.batch(), served.max_batch());
  return {};
}

Status Fleet::check_coverage() const {
  std::vector<const Cloud*> holder(static_cast<size_t>(info_.nets));
  for (const auto& cloud : clouds_) {
    for (const int net : cloud->nets) {
      if (net < 0 || net >= info_.nets) {
        return cloud->wrong("that it serves net " + std::to_string(net) + " of " +
                            std::to_string(info_.nets));
      }
      const Cloud* other = std::exchange(holder[static_cast<size_t>(net)], cloud.get());
      if (other) {
        return {StatusCode::kInvalidArgument,
                "net " + std::to_string(net) + " is served by " + other->link.address() +
                    " and by " + cloud->link.address() +
                    "; name replicas in one `cloud`, separated by commas"};
      }
    }
  }
  if (const auto gap = std::ranges::find(holder, nullptr); gap != holder.end()) {
    return {StatusCode::kInvalidArgument,
            "no cloud serves net " + std::to_string(gap - holder.begin()) + " of " +
                std::to_string(info_.nets) + "; asked: " + addresses()};
  }
  return {};
}

Status Fleet::check() {
  std::vector<int64_t> max_batch(clouds_.size());
  const auto ask = [&](size_t c) { return ask_info(*clouds_[c], max_batch[c]); };
  if (Status status = for_each_cloud(ask); !status.ok()) return status;
  if (Status status = check_coverage(); !status.ok()) return status;
  request_batch_ = std::ranges::min(max_batch);
  return {};
}

Status Fleet::check_if_needed() {
  return request_batch_ == 0 || check_again_.exchange(false) ? check() : Status{};
}

// ---- features out, outputs back

// The frame's memory may be unaligned.
Status Fleet::read_outputs(const Cloud& cloud, const wire::Reply& reply, const WireFrame* frame,
                           Tensor& outputs) {
  if (Status status = check_fingerprint(cloud, reply); !status.ok()) return status;
  if (!frame) return cloud.wrong("without a tensor");
  // A replica, or a bundle loaded since, may hold other nets of the same shapes.
  const auto same_net = [](int net, uint32_t replied) { return std::cmp_equal(net, replied); };
  const bool all = reply.part().empty() && std::ssize(cloud.nets) == info_.nets;
  if (!all && !std::ranges::equal(cloud.nets, reply.part(), same_net)) {
    check_again_ = true;
    return cloud.wrong("for other nets than it served before");
  }
  const int64_t images = outputs.dim(1);
  Shape shape;
  Dtype dtype;
  const int64_t limit =
      std::max({int64_t{info_.nets}, images, *std::ranges::max_element(output_.dims())});
  if (Status status = check_tensor(reply.tensor(), frame->size(), output_.rank() + 2, limit, shape,
                                   dtype, Scales::kRows);
      !status.ok()) {
    return cloud.wrong("with a bad tensor: " + status.message);
  }
  if (dtype == Dtype::kU8 && reply_dtype_ != wire::INT8) {
    return cloud.wrong("with int8, which nobody asked for");
  }
  if (shape[0] != std::ssize(cloud.nets) || shape[1] != images ||
      !std::ranges::equal(shape.dims().subspan(2), output_.dims())) {
    return cloud.wrong("with shape " + shape.str() + ", not that of " +
                       std::to_string(cloud.nets.size()) + " nets and " + std::to_string(images) +
                       " images");
  }
  Tensor received = Tensor::empty(shape);
  decode(reply.tensor(), frame->data(), received, Scales::kRows);
  if (!all_finite(received)) return cloud.wrong("with elements that are not finite");
  for (size_t i = 0; i < cloud.nets.size(); ++i) {
    outputs.rows(cloud.nets[i], 1).copy_from(received.rows(static_cast<int64_t>(i), 1));
  }
  return {};
}

Status Fleet::run(std::vector<PendingBatch>& batches, EdgeTimes& times) {
  for (PendingBatch& batch : batches) {
    batch.outputs = Tensor::empty(batched(info_.nets, batched(batch.images, output_)));
  }
  std::mutex mutex;  // of the batches but for their outputs, and of times.head_ms
  const auto prepare = [&](PendingBatch& batch, Exchange& exchange) -> Status {
    const std::lock_guard lock(mutex);
    if (!batch.encoded.frame.defined()) {
      const auto begin = Clock::now();
      try {
        const Tensor features = batch.features();
        batch.encoded =
            int8_step_ > 0 ? encode_steps(features, int8_step_) : encode(features, wire_dtype_);
      } catch (const std::exception& error) {
        return {StatusCode::kInternal, error.what()};
      }
      times.head_ms += std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    }
    exchange.features = batch.encoded.frame;
    *exchange.request.mutable_tensor() = batch.encoded.info;
    exchange.request.set_kind(wire::Request::INFER);
    exchange.request.set_fingerprint(info_.fingerprint);
    if (reply_dtype_ != wire::FLOAT32) exchange.request.set_reply_dtype(reply_dtype_);
    return {};
  };
  const auto release = [&](PendingBatch& batch, Exchange& exchange) {
    const std::lock_guard lock(mutex);
    exchange.features = {};
    if (++batch.replies == clouds_.size()) batch.encoded = {};
  };
  std::vector<std::vector<Exchange>> exchanges(clouds_.size());
  const Status status = for_each_cloud([&](size_t c) {
    std::vector<Exchange>& own = exchanges[c];
    own.resize(batches.size());
    return clouds_[c]->link.run(
        own, [&](size_t i) { return prepare(batches[i], own[i]); },
        [&](size_t i, const WireFrame* frame) {
          Status verdict = read_outputs(*clouds_[c], own[i].reply, frame, batches[i].outputs);
          release(batches[i], own[i]);
          return verdict;
        });
  });
  if (!status.ok()) return status;
  for (size_t i = 0; i < batches.size(); ++i) add_times(exchanges, i, times);
  return {};
}

}  // namespace ens
