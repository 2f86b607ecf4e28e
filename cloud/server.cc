#include "cloud/server.h"

#include <spdlog/spdlog.h>

#include <cstring>
#include <thread>

#include "cloud/batch_queue.h"
#include "cloud/frontend.h"
#include "cloud/lanes.h"
#include "nn/core/error.h"

namespace ens {
namespace {

using std::chrono::microseconds;

constexpr std::chrono::seconds kDrainLimit{30};

std::optional<Security> read_security(const CloudConfig& config) {
  const bool local = is_loopback(config.bind());
  if (config.secret_key().empty()) {
    if (!local && !config.insecure()) {
      usage_fail("refusing to serve plain text outside loopback", config.bind(),
                 "set --secret-key and --clients (ensembler keys), or --insecure");
    }
    return std::nullopt;
  }
  return Security{read_secret_key(config.secret_key()), read_allowed_keys(config.clients())};
}

Dtype serving_dtype(const std::string& text, Device device) {
  if (text != "auto") return parse_dtype(text);
  return backend(device).supports(Dtype::kBF16) ? Dtype::kBF16 : Dtype::kF32;
}

// The requests of a batch as one tensor. Message memory may be unaligned: bytes are copied.
Tensor merge(const std::vector<Job>& jobs, const Shape& input) {
  int64_t images = 0;
  for (const Job& job : jobs) images += job.images;
  std::vector<int64_t> dims = {images};
  dims.insert(dims.end(), input.dims().begin(), input.dims().end());
  Tensor merged = Tensor::empty(Shape(std::span<const int64_t>(dims)));
  int64_t first = 0;
  for (const Job& job : jobs) {
    Tensor rows = merged.rows(first, job.images);
    first += job.images;
    Tensor staged = job.dtype == Dtype::kF32 ? rows : Tensor::empty(rows.shape(), job.dtype);
    std::memcpy(staged.raw(), job.features.data(), staged.bytes());
    if (job.dtype != Dtype::kF32) rows.copy_from(staged);
  }
  return merged;
}

// answers [N, B, ...] -> those of images [first, first+count) of all N nets.
Tensor pick(const Tensor& answers, int64_t first, int64_t count) {
  if (count == answers.dim(1)) return answers;
  Shape shape = answers.shape();
  shape.set(1, count);
  Tensor out = Tensor::empty(shape);
  const size_t image_bytes = answers.bytes() / static_cast<size_t>(answers.dim(0) * answers.dim(1));
  for (int64_t net = 0; net < answers.dim(0); ++net) {
    std::memcpy(static_cast<std::byte*>(out.raw()) + static_cast<size_t>(net * count) * image_bytes,
                static_cast<const std::byte*>(answers.raw()) +
                    static_cast<size_t>(net * answers.dim(1) + first) * image_bytes,
                static_cast<size_t>(count) * image_bytes);
  }
  return out;
}

}  // namespace

const char* name(Server::State state) {
  switch (state) {
    case Server::State::kStarting:
      return "starting";
    case Server::State::kReady:
      return "ready";
    case Server::State::kDraining:
      return "draining";
    case Server::State::kStopped:
      return "stopped";
  }
  return "?";
}

struct Server::Impl {
  explicit Impl(const CloudConfig& c)
      : security(read_security(c)),
        bundle(read_cloud_bundle(c.bundle())),
        device(parse_device(c.device())),
        dtype(serving_dtype(c.dtype(), device)),
        input(smashed_shape(bundle.info.model, bundle.info.split)),
        lanes(bundle, device, dtype, c.max_batch(), c.threads()),
        queue({c.max_batch(), c.max_queue(), microseconds(c.batch_delay_us())}),
        outbox(std::make_shared<Outbox>()),
        frontend(context, c.bind(),
                 Served{bundle.info.fingerprint, bundle.info.nets, input,
                        answer_shape(bundle.info.model, bundle.info.split), c.max_request_batch()},
                 security, queue, outbox) {
    bundle.bodies.clear();  // the plans hold their own copies
    spdlog::info(
        "serving nets={} data={} fingerprint={} device={} dtype={} lanes={} max_batch={} "
        "curve={}",
        bundle.info.nets, bundle.info.data, fingerprint_hex().substr(0, 16), device.str(),
        ens::name(dtype), lanes.count(), c.max_batch(), security.has_value());
  }

  std::string fingerprint_hex() const {
    std::string hex;
    for (unsigned char byte : bundle.info.fingerprint) hex += fmt::format("{:02x}", byte);
    return hex;
  }

  void set(State next) {
    state.store(next);
    state.notify_all();
    spdlog::info("state={}", ens::name(next));
  }

  void serve() {
    try {
      frontend.run(
          stop, [this] { set(State::kDraining), queue.close(); }, kDrainLimit);
    } catch (const std::exception& e) {
      error = e.what();
      spdlog::error("the frontend failed: {}", e.what());
    }
    queue.abandon();  // nothing is left unless the drain took too long
    for (const auto& [code, count] : frontend.sent())
      spdlog::info("answers code={} count={}", code, count);
    if (frontend.refused()) spdlog::info("refused keys count={}", frontend.refused());
    set(State::kStopped);
  }

  void compute() {
    for (auto jobs = queue.next(); !jobs.empty(); jobs = queue.next()) {
      try {
        answer(jobs);
      } catch (const std::exception& e) {
        spdlog::error("a batch failed: {}", e.what());
        for (Job& job : jobs) {
          job.reply.send(
              Status{StatusCode::kInternal, "the computation failed; see the cloud's log"});
        }
      }
    }
  }

  void answer(std::vector<Job>& jobs) {
    const auto begin = Clock::now();
    const Tensor answers = lanes.run(merge(jobs, input));
    const auto compute_time = Clock::now() - begin;
    int64_t first = 0;
    for (Job& job : jobs) {
      wire::Reply header;
      header.set_queue_us(static_cast<uint64_t>(
          std::chrono::duration_cast<microseconds>(begin - job.arrived).count()));
      header.set_compute_us(
          static_cast<uint64_t>(std::chrono::duration_cast<microseconds>(compute_time).count()));
      job.reply.send(std::move(header), pick(answers, first, job.images));
      first += job.images;
    }
  }

  const std::optional<Security> security;
  CloudBundle bundle;
  const Device device;
  const Dtype dtype;
  const Shape input;
  Lanes lanes;
  zmq::context_t context;
  BatchQueue queue;
  std::shared_ptr<Outbox> outbox;
  Frontend frontend;
  std::atomic<bool> stop{false};
  std::atomic<State> state{State::kStarting};
  std::string error;  // written before kStopped
  std::jthread frontend_thread, compute_thread;
};

Server::Server(const CloudConfig& config) : impl_(std::make_unique<Impl>(config)) {}

Server::~Server() {
  if (state() == State::kStarting) return;
  request_stop();
  for (State now = state(); now != State::kStopped; now = state()) impl_->state.wait(now);
}

void Server::start() {
  if (state() != State::kStarting) usage_fail("a server starts once");
  impl_->set(State::kReady);
  impl_->compute_thread = std::jthread([this] { impl_->compute(); });
  impl_->frontend_thread = std::jthread([this] { impl_->serve(); });
}

void Server::request_stop() {
  impl_->stop.store(true);
  impl_->outbox->wake();
}

void Server::wait() {
  if (state() == State::kStarting) return;
  for (State now = state(); now != State::kStopped; now = state()) impl_->state.wait(now);
  if (!impl_->error.empty()) fail(impl_->error, "serving");
}

Server::State Server::state() const { return impl_->state.load(); }
std::string Server::endpoint() const { return impl_->frontend.endpoint(); }
const BundleInfo& Server::info() const { return impl_->bundle.info; }

}  // namespace ens
