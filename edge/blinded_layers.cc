// SPDX-License-Identifier: Apache-2.0
#include "edge/blinded_layers.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <utility>

#include "base/error.h"
#include "nn/core/rng.h"
#include "offload/host/worker_pool.h"
#include "offload/schemes/products.h"
#include "offload/schemes/schemes.h"
#include "offload/wire/messages.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

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
  if (config.scheme() == "darknight_real") {
    usage_fail(
        "scheme darknight_real does not hide images: workers who pool their shares separate them "
        "(share-ica)",
        "offload.scheme",
        "use darknight_field; the other is for studies: ensembler offload attack");
  }
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

// How many images fit one job of each layer, at most `most`. Usage Error if not one does.
int64_t images_of_a_job(const Int8Net& net, const Scheme& scheme, const EdgeConfig& config) {
  int64_t images = config.batch();
  for (size_t g = 0; g < net.groups.size(); ++g) {
    const Int8Group& group = net.groups[g];
    int64_t largest = group.input.numel(), outputs = 0, work = 0;
    for (const Int8Step& step : group.steps) {
      outputs += output_shape(step.layer, group.input).numel() * 4;  // int32 on the worker
      largest = std::max(largest, padded_size(step.layer, group.input));
      work += multiplications(step.layer, group.input) * scheme.planes();
    }
    largest = std::max(largest, outputs) * scheme.planes();
    const auto refuse = [&](const std::string& takes, int64_t limit) {
      usage_fail("layer " + std::to_string(g + 1) + " takes " + takes +
                     " for one image, and workers take " + std::to_string(limit),
                 config.bundle(), "use a network with smaller images or fewer channels");
    };
    if (largest > kMaxFrameBytes)
      refuse(std::to_string(largest >> 20) + " MB", kMaxFrameBytes >> 20);
    if (work > kMaxJobMultiplications)
      refuse(std::to_string(work >> 30) + " billion multiplications", kMaxJobMultiplications >> 30);
    images = std::min({images, kMaxFrameBytes / largest, kMaxJobMultiplications / work});
  }
  return images;
}

// The workers of the configuration, over the network.
class RemoteWorkers : public BlindedProducts::Workers {
 public:
  RemoteWorkers(const EdgeConfig& config, const Int8Net& net)
      : pool_(workers_of(config), std::chrono::milliseconds(config.offload().timeout_ms())),
        scheme_(scheme_of(config.offload(), pool_.owners())),
        net_(net) {
    for (size_t i = 0; i < session_.size(); i += sizeof(uint64_t)) {
      const uint64_t bits = secure_random();
      std::memcpy(&session_[i], &bits, sizeof bits);
    }
    layers_ = worker_layers(net);
  }

  // Also loads the layers that workers lack.
  Status check() {
    WorkerJob job;
    job.request.set_kind(offload::Request::HELLO);
    for (const auto& layers : layers_)
      job.layers.insert(job.layers.end(), layers.begin(), layers.end());
    return pool_.handshake(job, scheme_->needed());
  }

  Outcome run(int shares, int needed, int at_once, const BlindedProducts::Make& make,
              const BlindedProducts::Judge& judge) override {
    status_ = pool_.run(
        shares, needed, at_once, [&](int share) { return request(make(share)); },
        [&](int share, const WorkerReply& reply) {
          BlindedProducts::Reply products{
              .step = reply.header.step(),
              .share = static_cast<int>(reply.header.share()),
              .frame = {},
              .compute_ms = static_cast<double>(reply.header.compute_us()) / 1000};
          if (reply.has_frame) {
            products.frame = {static_cast<const std::byte*>(reply.frame.data()),
                              reply.frame.size()};
          }
          const std::string wrong = reply.header.session() != session_
                                        ? "returned the products of another job"
                                        : judge(share, products);
          return wrong.empty() ? Status{} : Status{StatusCode::kInternal, wrong};
        });
    if (status_.ok()) return Outcome::kDone;
    const bool again = status_.code == StatusCode::kUnavailable && !pool_.cancelled();
    return again ? Outcome::kTooFew : Outcome::kFailed;
  }

  WorkerPool& pool() { return pool_; }
  Scheme& scheme() { return *scheme_; }
  const Status& status() const { return status_; }  // of the last run()

 private:
  WorkerJob request(const BlindedProducts::Job& asked) const {
    WorkerJob out{.layers = layers_[asked.group]};
    out.request.set_kind(offload::Request::JOB);
    offload::Job& job = *out.request.mutable_job();
    job.set_session(session_);
    job.set_step(asked.step);
    job.set_share(static_cast<uint32_t>(asked.share));
    for (const auto& layer : out.layers) job.add_layer(layer->described.hash());
    job.set_field(wire_field(scheme_->numbers(), scheme_->planes()));
    job.set_is_unsigned(scheme_->numbers() == ShareNumbers::kIntegers && asked.is_unsigned);
    job.add_shape(scheme_->planes());
    job.add_shape(asked.batches);
    for (const int64_t size : net_.groups[asked.group].input.dims()) job.add_shape(size);
    if (asked.data.seed) {
      job.set_seed(asked.data.seed->data(), asked.data.seed->size());
    } else {
      out.frame = asked.data.frame;
    }
    return out;
  }

  WorkerPool pool_;
  const std::unique_ptr<Scheme> scheme_;
  const Int8Net& net_;
  std::string session_ = std::string(16, '\0');
  std::vector<std::vector<std::shared_ptr<const WorkerLayer>>> layers_;  // of each group
  Status status_;
};

BlindedProducts::Options options_of(const OffloadConfig& config) {
  return {.check = config.integrity() == "freivalds",
          .repetitions = config.repetitions(),
          .spare_shares = config.spare_shares(),
          .retries = config.retries()};
}

}  // namespace

struct BlindedLayers::Impl {
  Impl(const EdgeConfig& config, const Int8Net& n)
      : net(n),
        workers(config, n),
        products(n, workers.scheme(), workers, options_of(config.offload())),
        batch(images_of_a_job(n, workers.scheme(), config)) {}

  Status check() {
    const Status status = workers.check();
    checked = status.ok();
    return status;
  }

  Status run(const Tensor& images, Tensor& outputs, Classified& out) {
    const auto start = Clock::now();
    if (!checked) {
      if (Status status = check(); !status.ok()) return status;
    }
    const WorkerTraffic before = workers.pool().traffic();
    const int64_t total = images.dim(0);
    outputs = Tensor::empty(batched(total, net.graph.shape(net.graph.output)));
    products.take_times();
    Status status;
    try {
      for (int64_t first = 0; first < total; first += batch) {
        const int64_t count = std::min(batch, total - first);
        outputs.rows(first, count)
            .copy_from(run_int8(net, images.rows(first, count),
                                [this](size_t g, const Tensor& x) { return products(g, x); }));
      }
    } catch (const BlindedProducts::Failed&) {
      status = workers.status();
    }
    for (std::string& warning : workers.pool().take_warnings())
      out.warnings.push_back(std::move(warning));
    if (!status.ok()) return status;
    const WorkerTraffic after = workers.pool().traffic();
    const BlindedProducts::Times spent = products.take_times();
    const double checks = spent.check_ms + spent.decode_ms;
    EdgeTimes& times = out.times;
    times.bytes_sent += after.sent - before.sent;
    times.bytes_received += after.received - before.received;
    times.wire_ms += spent.wait_ms;
    times.cloud_compute_ms += spent.compute_ms;
    times.tail_ms += checks;
    times.rounds += spent.rounds;
    times.head_ms += ms_since(start) - spent.wait_ms - spent.compute_ms - checks;
    return {};
  }

  const Int8Net& net;
  RemoteWorkers workers;
  BlindedProducts products;
  const int64_t batch;  // images at once
  bool checked = false;
};

BlindedLayers::BlindedLayers(const EdgeConfig& config, const Int8Net& net)
    : impl_(std::make_unique<Impl>(config, net)) {}
BlindedLayers::~BlindedLayers() = default;

Status BlindedLayers::check() { return impl_->check(); }
Status BlindedLayers::run(const Tensor& images, Tensor& outputs, Classified& out) {
  return impl_->run(images, outputs, out);
}
void BlindedLayers::cancel() { impl_->workers.pool().cancel(); }

}  // namespace ens
