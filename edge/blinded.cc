// Blinded inference: the device computes all that is not linear, and codes the inputs of linear
// layers for workers.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <utility>

#include "base/error.h"
#include "edge/session.h"
#include "ensemble/model/blinded_bundle.h"
#include "nn/core/rng.h"
#include "offload/core/freivalds.h"
#include "offload/host/worker_pool.h"
#include "offload/schemes/schemes.h"
#include "offload/schemes/secure_stream.h"
#include "offload/wire/messages.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kChecksOfASecret = 1000;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// A layer's product could not be had; thrown out of run_int8 and caught in classify().
struct ProductFailed {
  Status status;
};

// Without a name of its owner a worker is its own, but two with one server key or one address are
// the same party, or one worker that was named twice.
std::vector<WorkerPool::Worker> workers_of(const EdgeConfig& config) {
  std::vector<WorkerPool::Worker> workers;
  std::map<std::string, std::string> owner_of;  // by server key or, in plain text, by address
  for (const OffloadWorker& w : config.offload().worker()) {
    auto security =
        read_client_security({w.address()}, config.secret_key(), w.server_key(), config.insecure());
    const std::vector<std::string> identities =
        security ? security->server_keys : std::vector<std::string>{w.address()};
    std::string owner = w.owner();
    for (const std::string& identity : identities) {
      if (owner.empty() && owner_of.contains(identity)) owner = owner_of[identity];
    }
    if (owner.empty()) owner = identities.at(0);
    for (const std::string& identity : identities) owner_of.emplace(identity, owner);
    workers.push_back({w.address(), std::move(security), owner});
  }
  if (workers.empty()) {
    usage_fail("no workers for the blinded bundle", config.bundle(),
               "name them: --worker tcp://HOST:PORT, for each");
  }
  return workers;
}

// As many shares as there are owners: all that can ever be sent of one encoding.
std::unique_ptr<Scheme> scheme_of(const OffloadConfig& config, int owners) {
  auto scheme = make_scheme(config.scheme(),
                            {.field = Field::named(config.field()),
                             .virtual_batch = config.virtual_batch(),
                             .noises = config.noises(),
                             .shares = std::max(owners, config.virtual_batch() + config.noises())});
  const int needed = scheme->needed() + config.spare_shares();
  if (owners >= needed) return scheme;
  usage_fail("scheme " + config.scheme() +
                 " with virtual_batch = " + std::to_string(config.virtual_batch()) +
                 ", noises = " + std::to_string(config.noises()) + " and spare_shares = " +
                 std::to_string(config.spare_shares()) + " needs " + std::to_string(needed) +
                 " workers of different owners, there are " + std::to_string(owners),
             "offload.worker", "every share of an input goes to another owner: name more workers");
}

// One group of layers as it is sent and checked.
struct PreparedGroup {
  std::vector<std::shared_ptr<const WorkerLayer>> layers;
  std::vector<Shape> outputs;
  std::vector<Freivalds> checks;  // empty: products are not checked
  int64_t checked = 0;            // with the present secrets
};

class BlindedSession : public EdgeSession {
 public:
  BlindedSession(const EdgeConfig& config, const Checkpoint& checkpoint)
      : config_(config),
        bundle_(read_blinded_bundle(checkpoint)),
        pool_(workers_of(config), std::chrono::milliseconds(config.offload().timeout_ms())),
        scheme_(scheme_of(config.offload(), pool_.owners())) {
    if (!config.probes().empty()) {
      usage_fail("probes are for split inference", "probes",
                 "blinded products are checked (offload.integrity)");
    }
    for (size_t i = 0; i < session_.size(); i += sizeof(uint64_t)) {
      const uint64_t bits = secure_random();
      std::memcpy(&session_[i], &bits, sizeof bits);
    }
    for (size_t g = 0; g < bundle_.net.groups.size(); ++g) prepare(g);
  }

  const BundleInfo& info() const override { return bundle_.info; }
  const std::vector<std::string>& class_names() const override { return bundle_.class_names; }

  // Also loads the layers that workers lack.
  Status check() override {
    WorkerJob job;
    job.request.set_kind(offload::Request::HELLO);
    for (const PreparedGroup& group : groups_)
      job.layers.insert(job.layers.end(), group.layers.begin(), group.layers.end());
    const Status status = pool_.handshake(job, scheme_->needed());
    workers_checked_ = status.ok();
    return status;
  }

  Status classify(const Tensor& images, Classified& out) override {
    const auto start = Clock::now();
    if (Status status = check_images(images, bundle_.info.model); !status.ok()) return status;
    if (!workers_checked_) {
      if (Status status = check(); !status.ok()) return status;
    }
    const WorkerTraffic before = pool_.traffic();
    const int64_t total = images.dim(0);
    Tensor logits = Tensor::empty({total, bundle_.info.model.classes});
    times_ = {};
    try {
      for (int64_t first = 0; first < total; first += batch_) {
        const int64_t count = std::min(batch_, total - first);
        logits.rows(first, count)
            .copy_from(run_int8(bundle_.net, images.rows(first, count),
                                [this](size_t g, const Tensor& x) { return products(g, x); }));
      }
    } catch (const ProductFailed& failure) {
      out.warnings = pool_.take_warnings();
      return failure.status;
    }
    const WorkerTraffic after = pool_.traffic();
    out.warnings = pool_.take_warnings();
    times_.bytes_sent = after.sent - before.sent;
    times_.bytes_received = after.received - before.received;
    times_.total_ms = ms_since(start);
    times_.head_ms = times_.total_ms - times_.wire_ms - times_.cloud_compute_ms - times_.tail_ms;
    out.logits = std::move(logits);
    out.times = times_;
    return {};
  }

  Status record_probes(const Tensor&, const std::filesystem::path&) override {
    return {StatusCode::kInvalidArgument,
            "probes are for split inference; blinded products are checked"};
  }

  void cancel() override { pool_.cancel(); }

 private:
  void prepare(size_t g) {
    const Int8Group& group = bundle_.net.groups[g];
    const Field& field = scheme_->field();
    if (const int64_t largest = group.largest_output(); largest > field.prime() / 2) {
      usage_fail("layer " + std::to_string(g + 1) + " can have sums of " + std::to_string(largest) +
                     ", which the field " + config_.offload().field() + " does not hold",
                 "offload.field", "use m31");
    }
    PreparedGroup prepared;
    int64_t largest = group.input.numel() * scheme_->planes(), outputs = 0;
    for (const Int8Step& step : group.steps) {
      prepared.layers.push_back(
          std::make_shared<WorkerLayer>(WorkerLayer{step.layer, describe(step.layer)}));
      prepared.outputs.push_back(output_shape(step.layer, group.input));
      outputs += prepared.outputs.back().numel() * scheme_->planes() * 4;  // int32 on the worker
      largest = std::max(largest, padded_size(step.layer, group.input) * scheme_->planes());
      if (config_.offload().integrity() == "freivalds") {
        const int repetitions = config_.offload().repetitions() > 0
                                    ? config_.offload().repetitions()
                                    : (field.planes() < 4 ? 2 : 1);
        prepared.checks.emplace_back(field, step.layer.weight, step.layer.conv, repetitions);
      }
    }
    largest = std::max(largest, outputs);
    if (largest > kMaxFrameBytes) {
      usage_fail("layer " + std::to_string(g + 1) + " takes " + std::to_string(largest >> 20) +
                     " MB for one image, and workers take " + std::to_string(kMaxFrameBytes >> 20),
                 config_.bundle(), "use a network with smaller images or fewer channels");
    }
    batch_ = std::clamp<int64_t>(kMaxFrameBytes / largest, 1, batch_);
    groups_.push_back(std::move(prepared));
    draw_secrets(groups_.back());
  }

  void draw_secrets(PreparedGroup& group) {
    for (Freivalds& check : group.checks) check.redraw(secrets_.next());
    group.checked = 0;
  }

  std::vector<Tensor> products(size_t g, const Tensor& x) {
    Status status;
    for (int attempt = 0; attempt <= config_.offload().retries(); ++attempt) {
      // Fresh noise for every attempt: what workers saw of another encoding says nothing about this
      // one.
      const std::unique_ptr<Encoding> encoding = scheme_->encode(x);
      std::vector<int> shares;
      std::vector<std::vector<std::vector<uint32_t>>> outputs;  // [layer][reply]
      status = ask(g, *encoding, x.dtype() == Dtype::kU8, shares, outputs);
      if (status.ok()) {
        const auto start = Clock::now();
        std::vector<Tensor> decoded;
        for (size_t i = 0; i < outputs.size(); ++i) {
          decoded.push_back(encoding->decode(shares, outputs[i], groups_[g].outputs[i]));
        }
        times_.tail_ms += ms_since(start);
        return decoded;
      }
      if (status.code != StatusCode::kUnavailable || pool_.cancelled()) break;
    }
    throw ProductFailed{status};
  }

  // Sends shares of one encoding, and reads and checks needed() products.
  Status ask(size_t g, Encoding& encoding, bool is_unsigned, std::vector<int>& shares,
             std::vector<std::vector<std::vector<uint32_t>>>& outputs) {
    PreparedGroup& group = groups_[g];
    outputs.assign(group.layers.size(), {});
    ++step_;
    ++times_.rounds;
    double making = 0, judging = 0, compute = 0;
    const auto make = [&](int index) {
      const auto start = Clock::now();
      WorkerJob out{.layers = group.layers};
      out.request.set_kind(offload::Request::JOB);
      offload::Job& job = *out.request.mutable_job();
      job.set_session(session_);
      job.set_step(step_);
      job.set_share(static_cast<uint32_t>(index));
      for (const auto& layer : group.layers) job.add_layer(layer->described.hash());
      if (scheme_->blinded()) job.set_field(scheme_->planes() == 4 ? offload::M31 : offload::P24);
      job.set_is_unsigned(!scheme_->blinded() && is_unsigned);
      job.add_shape(scheme_->planes());
      job.add_shape(encoding.groups());
      for (const int64_t size : bundle_.net.groups[g].input.dims()) job.add_shape(size);
      const Share share = encoding.share(index);
      if (share.seed) {
        job.set_seed(share.seed->data(), share.seed->size());
      } else {
        out.frame = share.frame;
      }
      making += ms_since(start);
      return out;
    };
    const auto accept = [&](int index, const WorkerReply& reply) {
      const auto start = Clock::now();
      std::vector<std::vector<uint32_t>> read;
      Status verdict = judge(g, encoding, index, reply, read);
      if (verdict.ok()) {
        shares.push_back(index);
        for (size_t i = 0; i < read.size(); ++i) outputs[i].push_back(std::move(read[i]));
        compute = std::max(compute, static_cast<double>(reply.header.compute_us()) / 1000);
      }
      judging += ms_since(start);
      return verdict;
    };
    const auto start = Clock::now();
    const Status status =
        pool_.run(scheme_->shares(), scheme_->needed(),
                  scheme_->needed() + config_.offload().spare_shares(), make, accept);
    times_.cloud_compute_ms += compute;
    times_.tail_ms += judging;
    times_.wire_ms += std::max(0.0, ms_since(start) - making - judging - compute);
    return status;
  }

  // The products in a reply, if they are right.
  Status judge(size_t g, Encoding& encoding, int index, const WorkerReply& reply,
               std::vector<std::vector<uint32_t>>& read) {
    if (reply.header.session() != session_ || reply.header.step() != step_ ||
        reply.header.share() != static_cast<uint32_t>(index)) {
      return {StatusCode::kInternal, "returned the products of another job"};
    }
    PreparedGroup& group = groups_[g];
    const int64_t count = encoding.groups(), bytes = scheme_->output_bytes();
    int64_t total = 0;
    for (const Shape& output : group.outputs) total += count * output.numel() * bytes;
    if (!reply.has_frame || static_cast<int64_t>(reply.frame.size()) != total) {
      return {StatusCode::kInternal, "returned products of another shape"};
    }
    const auto* from = static_cast<const std::byte*>(reply.frame.data());
    for (size_t i = 0; i < group.outputs.size(); ++i) {
      const bool blinded = scheme_->blinded();
      Tensor frame = Tensor::empty(batched(blinded ? bytes : 1, batched(count, group.outputs[i])),
                                   blinded ? Dtype::kI8 : Dtype::kI32);
      std::memcpy(frame.host(), from, frame.bytes());
      from += frame.bytes();
      if (!encoding.read(frame, read.emplace_back())) {
        return {StatusCode::kInternal, "returned elements outside the field"};
      }
      if (!group.checks.empty() &&
          !group.checks[i].check(encoding.residues(index), bundle_.net.groups[g].input, read.back(),
                                 group.outputs[i], count)) {
        draw_secrets(group);
        return {StatusCode::kInternal,
                "returned a wrong product of layer " + std::to_string(g + 1)};
      }
    }
    if (!group.checks.empty() && ++group.checked >= kChecksOfASecret) draw_secrets(group);
    return {};
  }

  const EdgeConfig config_;
  const BlindedBundle bundle_;
  WorkerPool pool_;
  const std::unique_ptr<Scheme> scheme_;
  SecureStream secrets_;  // of the checks
  std::string session_ = std::string(16, '\0');
  uint64_t step_ = 0;
  bool workers_checked_ = false;
  int64_t batch_ = config_.batch();
  std::vector<PreparedGroup> groups_;
  EdgeTimes times_;
};

}  // namespace

std::unique_ptr<EdgeSession> open_blinded_session(const EdgeConfig& config,
                                                  const Checkpoint& checkpoint) {
  return std::make_unique<BlindedSession>(config, checkpoint);
}

}  // namespace ens
