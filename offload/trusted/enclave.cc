// SPDX-License-Identifier: Apache-2.0
#include "offload/trusted/enclave.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "nn/core/rng.h"
#include "nn/cpu/allocator.h"
#include "nn/plan/int8_bytes.h"
#include "offload/core/assignment.h"
#include "offload/core/seal.h"
#include "offload/schemes/products.h"
#include "offload/schemes/schemes.h"
#include "offload/trusted/tiled.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kStripBytes = int64_t{1} << 20;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <size_t N>
std::string text_of(const char (&field)[N]) {
  return {field, strnlen(field, N)};
}

// The host is gone, or sends no frames any more: there is nobody to tell.
struct HostGone {};

// The workers, by way of the host. Which worker gets which share is decided here, and each share is
// sealed for its worker: the host can delay and drop, and no more.
class RelayedWorkers : public BlindedProducts::Workers {
 public:
  RelayedWorkers(int socket, const EnclaveSettings& settings, std::span<const std::byte> keys,
                 const Scheme& scheme)
      : socket_(socket), sealed_(settings.seal != 0), scheme_(scheme) {
    public_ = public_key(secret_);
    for (uint32_t w = 0; w < settings.workers; ++w) {
      ExchangeKey key;
      if (!take(keys, key)) usage_fail("the settings name fewer keys than workers", "enclave");
      Worker& worker = workers_.emplace_back();
      if (sealed_) worker.keys = agree(secret_, key, public_, key);
    }
  }

  Outcome run(int shares, int needed, int at_once, const BlindedProducts::Make& make,
              const BlindedProducts::Judge& judge) override {
    std::vector<int> owners, order;
    for (int w = 0; w < static_cast<int>(workers_.size()); ++w) {
      owners.push_back(w);
      if (!workers_[static_cast<size_t>(w)].rejected) order.push_back(w);
    }
    std::ranges::stable_partition(order,
                                  [&](int w) { return !workers_[static_cast<size_t>(w)].failed; });
    ShareAssignment assignment(owners, order, shares);
    std::map<uint32_t, std::pair<uint64_t, int>> pending;  // worker -> ticket, share
    const auto send_next = [&] {
      const auto next = assignment.next();
      if (!next) return;
      const auto worker = static_cast<uint32_t>(next->worker);
      pending[worker] = {++ticket_, next->share};
      send(worker, make(next->share));
    };
    for (int i = 0; i < std::max(needed, at_once); ++i) send_next();
    int accepted = 0;
    while (accepted < needed) {
      if (static_cast<int>(pending.size()) < needed - accepted) return Outcome::kTooFew;
      Frame frame;
      if (!receive_frame(socket_, frame)) throw HostGone{};
      if (frame.kind == 0) throw std::bad_alloc();  // there was no room for it
      std::span<const std::byte> data = frame.data;
      ReplyHeader header;
      const auto at = pending.find(frame.number);
      if (frame.kind != Frame::kReply || !take(data, header) || at == pending.end() ||
          at->second.first != header.ticket) {
        continue;  // to an earlier job, or nonsense of the host's
      }
      const int share = at->second.second;
      pending.erase(at);
      Worker& worker = workers_[frame.number];
      std::string wrong;
      worker.failed = header.failed != 0;
      if (worker.failed) {
        wrong = text_of(data);
      } else {
        std::vector<std::byte> opened;
        if (sealed_) {
          const auto start = Clock::now();
          const bool good =
              unseal(worker.keys.to_client, about(header.step, header.share), data, opened);
          seal_ms += ms_since(start);
          if (!good) wrong = "returned what is not sealed by it";
          data = opened;
        }
        if (wrong.empty()) {
          wrong = judge(share, {.step = header.step,
                                .share = static_cast<int>(header.share),
                                .frame = data,
                                .compute_ms = header.compute_ms});
          worker.rejected = !wrong.empty();
        }
      }
      if (wrong.empty()) {
        ++accepted;
        continue;
      }
      reasons += "worker " + std::to_string(frame.number + 1) + ": " + wrong + "; ";
      send_next();
    }
    return Outcome::kDone;
  }

  double seal_ms = 0;
  std::string reasons;  // why products were not accepted

 private:
  struct Worker {
    SealKeys keys{};
    bool rejected = false;  // it lied
    bool failed = false;    // the last time: it is asked after the others
  };

  std::vector<std::byte> about(uint64_t step, uint32_t share) const {
    return seal_context({reinterpret_cast<const char*>(public_.data()), public_.size()}, step,
                        share);
  }

  void send(uint32_t worker, const BlindedProducts::Job& job) {
    JobHeader header{.ticket = ticket_,
                     .step = job.step,
                     .group = static_cast<uint32_t>(job.group),
                     .share = static_cast<uint32_t>(job.share),
                     .batches = job.batches,
                     .planes = static_cast<uint32_t>(scheme_.planes()),
                     .numbers = scheme_.numbers(),
                     .is_seed = job.data.seed.has_value(),
                     .is_unsigned = job.is_unsigned,
                     .is_sealed = sealed_};
    std::memcpy(header.seal_key, public_.data(), public_.size());
    const std::span<const std::byte> plain =
        job.data.seed ? std::as_bytes(std::span(*job.data.seed))
                      : std::span(static_cast<const std::byte*>(job.data.frame.host()),
                                  job.data.frame.bytes());
    Frame frame{.kind = Frame::kJob, .number = worker, .data = {}};
    put(frame.data, header);
    if (sealed_) {
      const auto start = Clock::now();
      const auto sealed =
          seal(workers_[worker].keys.to_server, about(job.step, header.share), plain);
      seal_ms += ms_since(start);
      frame.data.insert(frame.data.end(), sealed.begin(), sealed.end());
    } else {
      frame.data.insert(frame.data.end(), plain.begin(), plain.end());
    }
    if (!send_frame(socket_, frame)) throw HostGone{};
  }

  const int socket_;
  const bool sealed_;
  const Scheme& scheme_;
  Seed secret_ = secure_seed();  // of this session
  ExchangeKey public_;
  std::vector<Worker> workers_;
  uint64_t ticket_ = 0;
};

class Enclave {
 public:
  explicit Enclave(int socket) : socket_(socket) {}

  // False: the host wants it to stop.
  bool answer(const Frame& frame) {
    switch (frame.kind) {
      case Frame::kSettings:
        set_up(frame.data);
        return done({});
      case Frame::kModel:
        load(frame.data);
        return done({});
      case Frame::kPrepare:
        prepare(frame.number);
        return done({});
      case Frame::kImages:
        return done(compute(frame.data, frame.number));
      case Frame::kStatistics:
        return done(statistics());
      case Frame::kStop:
        return false;
      case Frame::kReply:
        return true;  // to a job that is over
      case 0:
        usage_fail("the frame does not fit the simulated enclave's memory", "offload.memory_mb",
                   "use fewer images at once, or more memory");
      default:
        usage_fail("the host asks for what there is not", "enclave");
    }
  }

 private:
  bool done(std::vector<std::byte> data) {
    if (!send_frame(socket_, {.kind = Frame::kDone, .number = 0, .data = std::move(data)}))
      throw HostGone{};
    return true;
  }

  void set_up(std::span<const std::byte> data) {
    EnclaveSettings s;
    if (settings_ || !take(data, s)) usage_fail("settings come once, first", "enclave");
    constexpr uint32_t kMost = 4096;
    if (s.virtual_batch < 1 || std::max({s.virtual_batch, s.noises, s.spare_shares, s.repetitions,
                                         s.retries, s.workers}) > kMost) {
      usage_fail("the settings are out of range", "enclave", "use 1 to " + std::to_string(kMost));
    }
    settings_ = s;
    worker_keys_.assign(data.begin(), data.end());
    std::memcpy(session_key_.data(), s.session_key, session_key_.size());
  }

  const EnclaveSettings& settings() const {
    if (!settings_) usage_fail("settings come first", "enclave");
    return *settings_;
  }

  void load(std::span<const std::byte> data) {
    const EnclaveSettings& s = settings();
    if (std::memcmp(sha256(data.data(), data.size()).data(), s.model_sha256, 32) != 0)
      usage_fail("the network is not the one that the settings name", "enclave");
    net_ = int8_net_of(data);
    if (s.mode == EnclaveMode::kShares) {
      scheme_ =
          make_scheme(text_of(s.scheme),
                      {.field = Field::named(text_of(s.field)),
                       .virtual_batch = static_cast<int>(s.virtual_batch),
                       .noises = static_cast<int>(s.noises),
                       .shares = static_cast<int>(std::max(s.workers, s.virtual_batch + s.noises)),
                       .noise_mean = s.noise_mean,
                       .noise_stddev = s.noise_stddev});
      const int needed = scheme_->needed() + static_cast<int>(s.spare_shares);
      if (static_cast<int>(s.workers) < needed) {
        usage_fail("scheme " + text_of(s.scheme) + " needs " + std::to_string(needed) +
                       " workers, there are " + std::to_string(s.workers),
                   "offload", "name more workers");
      }
      workers_.emplace(socket_, s, worker_keys_, *scheme_);
      products_.emplace(net_, *scheme_, *workers_,
                        BlindedProducts::Options{.check = s.check != 0,
                                                 .repetitions = static_cast<int>(s.repetitions),
                                                 .spare_shares = static_cast<int>(s.spare_shares),
                                                 .retries = static_cast<int>(s.retries)});
    }
    refuse_what_does_not_fit();
    cpu::limit_memory(s.memory_bytes);
  }

  // Before anything is computed: which layer is too large, and what would fit.
  void refuse_what_does_not_fit() {
    const int64_t budget = static_cast<int64_t>(settings().memory_bytes);
    const auto needs = [&](int64_t images) { return estimate_memory(net_, scheme_.get(), images); };
    const MemoryEstimate all = needs(settings().virtual_batch);
    if (all.bytes <= budget) return;
    int64_t fits = settings().virtual_batch;
    while (fits > 0 && needs(fits).bytes > budget) --fits;
    const std::string where =
        "layer " + std::to_string(all.group + 1) + " of " + std::to_string(net_.groups.size());
    usage_fail(where + " takes " + std::to_string(all.bytes >> 20) +
                   " MB with virtual_batch = " + std::to_string(settings().virtual_batch) +
                   ", and the simulated enclave has " + std::to_string(budget >> 20) + " MB",
               "offload.memory_mb",
               fits > 0 ? "virtual_batch = " + std::to_string(fits) + " fits"
                        : "one image takes " + std::to_string((needs(1).bytes >> 20) + 1) +
                              " MB: raise it");
  }

  void prepare(int64_t images) {
    if (!scheme_) usage_fail("there is nothing to prepare", "enclave");
    const auto start = Clock::now();
    scheme_->prepare(images);
    statistics_.prepare_ms += ms_since(start);
  }

  std::vector<std::byte> compute(std::span<const std::byte> sealed, int64_t images) {
    if (net_.groups.empty()) usage_fail("a network comes first", "enclave");
    const auto start = Clock::now();
    const std::string inputs = call_context("images", calls_);
    const std::string outputs = call_context("outputs", calls_);
    std::vector<std::byte> opened;
    if (!unseal(session_key_, std::as_bytes(std::span(inputs)), sealed, opened))
      usage_fail("the images are not sealed by the user", "enclave");
    ++calls_;
    const Shape one = net_.graph.shape(net_.graph.input);
    if (images < 1 || std::ssize(opened) != images * one.numel() * 4)
      usage_fail("the images have another shape than the network's", "enclave");
    const Shape result = net_.graph.shape(net_.graph.output);
    Tensor y = Tensor::empty(batched(images, result));
    const int64_t at_once = settings().virtual_batch;
    for (int64_t first = 0; first < images; first += at_once) {
      const int64_t count = std::min(at_once, images - first);
      Tensor x = Tensor::empty(batched(count, one));
      std::memcpy(x.host(), opened.data() + first * one.numel() * 4, x.bytes());
      y.rows(first, count).copy_from(run(x));
    }
    auto out = seal(session_key_, std::as_bytes(std::span(outputs)),
                    {static_cast<const std::byte*>(y.host()), y.bytes()});
    statistics_.total_ms += ms_since(start);
    statistics_.images += images;
    return out;
  }

  Tensor run(const Tensor& images) {
    size_t group = 0;  // that is computed, for the message
    try {
      return run_int8(net_, images, [&](size_t g, const Tensor& x) {
        group = g;
        if (products_) return (*products_)(g, x);
        std::vector<Tensor> all;
        for (const Int8Step& step : net_.groups[g].steps) {
          all.push_back(settings().mode == EnclaveMode::kTiled
                            ? multiply_tiled(step.layer, x, kStripBytes)
                            : multiply(step.layer, x));
        }
        return all;
      });
    } catch (const BlindedProducts::Failed&) {
      fail("too few workers have returned right products: " + std::exchange(workers_->reasons, {}),
           "simulated enclave");
    } catch (const std::bad_alloc&) {
      usage_fail("layer " + std::to_string(group + 1) + " of " +
                     std::to_string(net_.groups.size()) +
                     " does not fit the simulated enclave's memory",
                 "offload.memory_mb", "use a smaller virtual_batch");
    }
  }

  std::vector<std::byte> statistics() {
    EnclaveStatistics out = std::exchange(statistics_, {});
    out.allocator_bytes = cpu::memory_use().peak;
    if (products_) {
      const BlindedProducts::Times t = products_->take_times();
      out.encode_ms = t.encode_ms;
      out.wait_ms = t.wait_ms;
      out.compute_ms = t.compute_ms;
      out.check_ms = t.check_ms;
      out.decode_ms = t.decode_ms;
      out.rounds = t.rounds;
      out.seal_ms = std::exchange(workers_->seal_ms, 0);
    }
    std::vector<std::byte> bytes;
    put(bytes, out);
    return bytes;
  }

  const int socket_;
  std::optional<EnclaveSettings> settings_;
  std::vector<std::byte> worker_keys_;
  Seed session_key_{};
  uint64_t calls_ = 0;  // with images that the user sealed
  Int8Net net_;
  std::unique_ptr<Scheme> scheme_;
  std::optional<RelayedWorkers> workers_;
  std::optional<BlindedProducts> products_;
  EnclaveStatistics statistics_;
};

}  // namespace

MemoryEstimate estimate_memory(const Int8Net& net, const Scheme* scheme, int64_t images) {
  const Graph& graph = net.graph;
  int64_t weights = 0;
  for (const Int8Group& group : net.groups) {
    for (const Int8Step& step : group.steps) {
      // Checks hold a combination of the output channels as well, in 4 bytes.
      const int64_t size = step.layer.weight.numel();
      weights += size + (scheme ? 4 * size / step.layer.weight.dim(0) : 0);
    }
  }
  std::vector<size_t> last_reader(graph.values.size(), 0);
  for (size_t i = 0; i < graph.steps.size(); ++i) {
    for (const int value : {graph.steps[i].input, graph.steps[i].residual})
      if (value >= 0) last_reader[static_cast<size_t>(value)] = i;
  }
  std::map<size_t, size_t> group_of;
  for (size_t g = 0; g < net.groups.size(); ++g) group_of[net.groups[g].steps[0].step] = g;
  MemoryEstimate most;
  int64_t live = graph.shape(graph.input).numel() * 4 * images;
  size_t group = 0;
  for (size_t i = 0; i < graph.steps.size(); ++i) {
    const GraphStep& s = graph.steps[i];
    int64_t now = live + graph.shape(s.output).numel() * 4 * images;
    if (const auto at = group_of.find(i); at != group_of.end()) {
      group = at->second;
      const Int8Group& g = net.groups[group];
      int64_t outputs = 0;
      for (const Int8Step& step : g.steps)
        outputs += graph.shape(graph.steps[step.step].output).numel();
      const int64_t inputs = g.input.numel();
      now += images * (inputs + 4 * outputs);  // integers in, sums out
      if (scheme) {
        const int64_t batches = (images + scheme->inputs() - 1) / scheme->inputs();
        const int64_t shares = scheme->needed(), p = scheme->share_bytes();
        // Residues of inputs, noises and shares; one share as it is sent; products as they came and
        // as residues.
        now += batches * (inputs * (4 * (shares + scheme->inputs()) + 3 * p) +
                          outputs * (4 * shares + 3 * p));
      }
    }
    if (now > most.bytes) most = {now, group};
    live += graph.shape(s.output).numel() * 4 * images;
    for (const int value : {s.input, s.residual}) {
      if (value >= 0 && last_reader[static_cast<size_t>(value)] == i)
        live -= graph.shape(value).numel() * 4 * images;
    }
  }
  most.bytes += weights;
  return most;
}

void serve_enclave(int socket) {
  Enclave enclave(socket);
  Frame frame;
  while (receive_frame(socket, frame)) {
    const auto refuse = [&](bool usage, const std::string& what) {
      Frame answer{.kind = Frame::kError, .number = usage ? 1u : 0u, .data = {}};
      for (const char c : what) answer.data.push_back(static_cast<std::byte>(c));
      return send_frame(socket, answer);
    };
    bool going = true;
    try {
      going = enclave.answer(frame);
    } catch (const HostGone&) {
      return;
    } catch (const Error& error) {
      going = refuse(error.kind() == Error::Kind::kUsage, error.what());
    } catch (const std::bad_alloc&) {
      going = refuse(true, "the simulated enclave's memory is used up: raise offload.memory_mb");
    }
    if (!going) return;
    frame.data = {};  // not kept: it may have been the network
  }
}

}  // namespace ens
