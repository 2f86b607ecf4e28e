#include "edge/client.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "edge/link.h"
#include "edge/probes.h"
#include "nn/core/rng.h"
#include "proto/tensor_codec.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kMaxHeader = 64 << 10;
constexpr size_t kTop = 5;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool same(const google::protobuf::RepeatedField<int64_t>& sizes, const Shape& shape) {
  return std::ranges::equal(sizes, shape.dims());
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

// One cloud, and which of the N nets it serves: all of them, if there is one cloud only.
struct Peer {
  Peer(const CloudPart& part, const EdgeConfig& config, int64_t max_reply)
      : link(part, config, max_reply) {}
  Link link;
  std::vector<int> nets;  // known once it was asked
};

struct EdgeClient::Impl {
  explicit Impl(const EdgeConfig& c)
      : config(c),
        wire_dtype(parse_wire_dtype(c.wire_dtype())),
        pipeline(read_edge_bundle(c.bundle()), c.batch()),
        info(pipeline.info()),
        answer(answer_shape(info.model, info.split)) {
    if (!c.probes().empty()) probes.emplace(c.probes(), info);
    const int64_t largest =
        std::max(kMaxHeader, info.nets * int64_t{c.batch()} * answer.numel() * 4);
    for (const CloudPart& part : parts_of(c)) {
      peers.push_back(std::make_unique<Peer>(part, c, largest));
    }
  }

  // What every reply must say.
  Status check_reply(const Peer& peer, const wire::Reply& reply) const {
    if (reply.fingerprint() == info.fingerprint) return {};
    return {StatusCode::kFingerprintMismatch, "the cloud at " + peer.link.address() +
                                                  " serves other server nets than those of " +
                                                  config.bundle()};
  }

  static Status wrong(const Peer& peer, const std::string& what) {
    return {StatusCode::kInternal, "the cloud at " + peer.link.address() + " answered " + what};
  }

  // Runs f on every peer at once. The first peer's failure in the order of the configuration, if
  // any.
  Status each(const std::function<Status(size_t)>& f) {
    std::vector<Status> results(peers.size());
    {
      std::vector<std::jthread> threads;
      for (size_t p = 1; p < peers.size(); ++p) {
        threads.emplace_back([&, p] { results[p] = f(p); });
      }
      results[0] = f(0);
    }
    for (Status& result : results) {
      if (!result.ok()) return std::move(result);
    }
    return {};
  }

  Status ask_info(Peer& peer, int64_t& most) {
    std::vector<Call> calls(1);
    calls[0].request.set_kind(wire::Request::INFO);
    return peer.link.exchange(
        calls, [](size_t) {},
        [&](size_t, const zmq::message_t* frame) -> Status {
          const wire::Reply& reply = calls[0].reply;
          if (Status status = check_reply(peer, reply); !status.ok()) return status;
          const wire::ServerInfo& served = reply.info();
          if (frame || !reply.has_info()) {
            return wrong(peer, "an INFO request without information");
          }
          peer.nets.assign(served.part().begin(), served.part().end());
          if (peer.nets.empty()) {
            if (served.nets() != static_cast<uint32_t>(info.nets)) {
              return wrong(peer, "that it serves " + std::to_string(served.nets()) + " nets, not " +
                                     std::to_string(info.nets));
            }
            peer.nets.resize(static_cast<size_t>(info.nets));  // says no more than: all of them
            std::iota(peer.nets.begin(), peer.nets.end(), 0);
          }
          if (served.nets() != peer.nets.size()) {
            return wrong(peer, "that it serves " + std::to_string(served.nets()) +
                                   " nets, and names " + std::to_string(peer.nets.size()));
          }
          if (!same(served.input_shape(), smashed_shape(info.model, info.split)) ||
              !same(served.output_shape(), answer) || served.max_batch() < 1) {
            return wrong(peer, "with other shapes than this bundle's");
          }
          most = std::min<int64_t>(config.batch(), served.max_batch());
          return {};
        });
  }

  Status check() {
    std::vector<int64_t> most(peers.size());
    if (Status status = each([&](size_t p) { return ask_info(*peers[p], most[p]); });
        !status.ok()) {
      return status;
    }
    std::vector<const Peer*> holder(static_cast<size_t>(info.nets));
    for (const auto& peer : peers) {
      for (const int net : peer->nets) {
        if (net < 0 || net >= info.nets) {
          return wrong(*peer, "that it serves net " + std::to_string(net) + " of " +
                                  std::to_string(info.nets));
        }
        if (const Peer* other = std::exchange(holder[static_cast<size_t>(net)], peer.get())) {
          return {StatusCode::kInvalidArgument,
                  "net " + std::to_string(net) + " is served by " + other->link.address() +
                      " and by " + peer->link.address() +
                      "; name replicas in one `cloud`, separated by commas"};
        }
      }
    }
    if (const auto gap = std::ranges::find(holder, nullptr); gap != holder.end()) {
      return {StatusCode::kInvalidArgument,
              "no cloud serves net " + std::to_string(gap - holder.begin()) + " of " +
                  std::to_string(info.nets) + "; asked: " + addresses()};
    }
    request_batch = std::ranges::min(most);
    return {};
  }

  std::string addresses() const {
    std::string all;
    for (const auto& peer : peers) all += (all.empty() ? "" : ", ") + peer->link.address();
    return all;
  }

  // A tensor frame -> the peer's rows of answers [N, images, ...]. Message memory may be unaligned.
  Status read_answers(const Peer& peer, const wire::Reply& reply, const zmq::message_t* frame,
                      Tensor& answers) {
    if (Status status = check_reply(peer, reply); !status.ok()) return status;
    if (!frame) return wrong(peer, "without a tensor");
    // A replica, or what was loaded since, may be another part: same shapes, other nets.
    const auto same_net = [](int net, uint32_t answered) { return std::cmp_equal(net, answered); };
    const bool all = reply.part().empty() && std::ssize(peer.nets) == info.nets;
    if (!all && !std::ranges::equal(peer.nets, reply.part(), same_net)) {
      ask_again = true;
      return wrong(peer, "for other nets than it served before");
    }
    const int64_t images = answers.dim(1);
    Shape shape;
    Dtype dtype;
    const int64_t limit =
        std::max({int64_t{info.nets}, images, *std::ranges::max_element(answer.dims())});
    if (Status status =
            check_tensor(reply.tensor(), frame->size(), answer.rank() + 2, limit, shape, dtype);
        !status.ok()) {
      return wrong(peer, "with a bad tensor: " + status.message);
    }
    if (dtype == Dtype::kU8) return wrong(peer, "with int8, which is for features only");
    if (shape[0] != std::ssize(peer.nets) || shape[1] != images ||
        !std::ranges::equal(shape.dims().subspan(2), answer.dims())) {
      return wrong(peer, "with shape " + shape.str() + ", not that of " +
                             std::to_string(peer.nets.size()) + " nets and " +
                             std::to_string(images) + " images");
    }
    Tensor received = Tensor::empty(shape);
    decode(reply.tensor(), frame->data(), received);
    if (!all_finite(received)) return wrong(peer, "with numbers that are not finite");
    for (size_t i = 0; i < peer.nets.size(); ++i) {
      answers.rows(peer.nets[i], 1).copy_from(received.rows(static_cast<int64_t>(i), 1));
    }
    return {};
  }

  // One request to all clouds at once.
  struct Request {
    Request(int64_t images, std::function<Tensor()> features_, const Impl& impl)
        : features(std::move(features_)),
          answers(Tensor::empty(batched(impl.info.nets, batched(images, impl.answer)))) {}
    std::function<Tensor()> features;  // called when the first cloud is ready for them
    Tensor answers;                    // [N, images, ...]
    Encoded encoded;                   // while a cloud may still ask for it again
    size_t answered = 0;               // clouds
  };

  Status ask(std::vector<Request>& requests, EdgeTimes& times) {
    std::mutex mutex;
    const auto prepare = [&](Request& request, Call& call) {
      const std::lock_guard lock(mutex);
      if (!request.encoded.frame.defined()) {
        const auto begin = Clock::now();
        request.encoded = encode(request.features(), wire_dtype);
        times.head_ms += ms_since(begin);
      }
      call.payload = request.encoded.frame;
      *call.request.mutable_tensor() = request.encoded.info;
      call.request.set_kind(wire::Request::INFER);
      call.request.set_fingerprint(info.fingerprint);
    };
    const auto release = [&](Request& request, Call& call) {
      const std::lock_guard lock(mutex);
      call.payload = {};
      if (++request.answered == peers.size()) request.encoded = {};
    };
    std::vector<std::vector<Call>> calls(peers.size());
    Status status = each([&](size_t p) {
      calls[p].resize(requests.size());
      return peers[p]->link.exchange(
          calls[p], [&](size_t i) { prepare(requests[i], calls[p][i]); },
          [&](size_t i, const zmq::message_t* frame) {
            Status verdict = read_answers(*peers[p], calls[p][i].reply, frame, requests[i].answers);
            release(requests[i], calls[p][i]);
            return verdict;
          });
    });
    if (!status.ok()) return status;
    for (size_t i = 0; i < requests.size(); ++i) {
      // The slowest of the clouds is the one that was waited for.
      double queue = 0, compute = 0, round_trip = 0;
      for (const std::vector<Call>& of_peer : calls) {
        const Call& call = of_peer[i];
        times.bytes_sent += call.bytes_sent;
        times.bytes_received += call.bytes_received;
        if (call.round_trip_ms < round_trip) continue;
        round_trip = call.round_trip_ms;
        queue = static_cast<double>(call.reply.queue_us()) / 1000;
        compute = static_cast<double>(call.reply.compute_us()) / 1000;
      }
      times.cloud_queue_ms += queue;
      times.cloud_compute_ms += compute;
      times.wire_ms += std::max(0.0, round_trip - queue - compute);
    }
    return {};
  }

  Status check_images(const Tensor& images) {
    const Shape one = info.model.input_shape();
    if (images.rank() != 4 || images.dtype() != Dtype::kF32 || images.dim(0) < 1 ||
        !std::ranges::equal(images.shape().dims().subspan(1), one.dims())) {
      return {StatusCode::kInvalidArgument, "images are " + images.shape().str() + " " +
                                                name(images.dtype()) + ", expected [B, " +
                                                one.str().substr(1) + " float32"};
    }
    if (request_batch == 0 || ask_again.exchange(false)) return check();
    return {};
  }

  std::vector<Request> requests_for(const Tensor& images) {
    std::vector<Request> requests;
    for (int64_t first = 0; first < images.dim(0); first += request_batch) {
      const Tensor part = images.rows(first, std::min(request_batch, images.dim(0) - first));
      requests.emplace_back(
          part.dim(0), [this, part] { return pipeline.smash(part); }, *this);
    }
    return requests;
  }

  Status classify(const Tensor& images, Classified& out) {
    const auto start = Clock::now();
    if (Status status = check_images(images); !status.ok()) return status;
    const int64_t total = images.dim(0);
    std::vector<Request> requests = requests_for(images);

    // A probe has the size of another request, and any place among them.
    std::optional<size_t> probe_at;
    Tensor right;
    if (probes && static_cast<double>(secure_random() >> 11) * 0x1p-53 < config.probe_rate()) {
      Probes::Sample probe = probes->draw(requests[0].answers.dim(1));
      probe_at = secure_random() % (requests.size() + 1);
      right = probe.answers;
      requests.emplace(
          requests.begin() + static_cast<ptrdiff_t>(*probe_at), right.dim(1),
          [features = probe.features] { return features; }, *this);
    }
    if (Status status = ask(requests, out.times); !status.ok()) return status;
    if (probe_at) {
      if (Status status = Probes::check(requests[*probe_at].answers, right); !status.ok()) {
        return {status.code, status.message + " (" + addresses() + ")"};
      }
      requests.erase(requests.begin() + static_cast<ptrdiff_t>(*probe_at));
    }

    // The selector comes in only now, when nothing more is sent: the clouds cannot see how long
    // this takes.
    const auto tail_start = Clock::now();
    out.logits = Tensor::empty({total, info.model.classes});
    int64_t first = 0;
    for (const Request& request : requests) {
      const int64_t count = request.answers.dim(1);
      out.logits.rows(first, count).copy_from(pipeline.finish(request.answers));
      first += count;
    }
    for (int64_t b = 0; b < total; ++b) {
      out.top.push_back(
          best_of(out.logits.data<float>() + b * info.model.classes, pipeline.class_names()));
    }
    out.times.tail_ms = ms_since(tail_start);
    out.times.total_ms = ms_since(start);
    return {};
  }

  Status record(const Tensor& images, const std::filesystem::path& file) {
    if (Status status = check_images(images); !status.ok()) return status;
    const int64_t total = images.dim(0);
    Tensor features = Tensor::empty(batched(total, smashed_shape(info.model, info.split)));
    std::vector<Request> requests;
    for (int64_t first = 0; first < total; first += request_batch) {
      const int64_t count = std::min(request_batch, total - first);
      Tensor part = features.rows(first, count);
      part.copy_from(pipeline.smash(images.rows(first, count)));
      requests.emplace_back(
          count, [part] { return part; }, *this);
    }
    EdgeTimes times;
    if (Status status = ask(requests, times); !status.ok()) return status;
    Tensor answers = Tensor::empty(batched(info.nets, batched(total, answer)));
    int64_t first = 0;
    for (const Request& request : requests) {
      const int64_t count = request.answers.dim(1);
      for (int64_t net = 0; net < info.nets; ++net) {
        std::copy_n(request.answers.data<float>() + net * count * answer.numel(),
                    count * answer.numel(),
                    answers.data<float>() + (net * total + first) * answer.numel());
      }
      first += count;
    }
    Probes(info.fingerprint, features, answers).write(file);
    return {};
  }

  const EdgeConfig config;
  const wire::DType wire_dtype;
  EdgePipeline pipeline;
  const BundleInfo& info;
  const Shape answer;  // of one net, for one image
  std::vector<std::unique_ptr<Peer>> peers;
  std::optional<Probes> probes;
  int64_t request_batch = 0;  // images in one request; 0: the clouds have not been asked yet
  std::atomic<bool> ask_again{false};  // what they serve, before the next request
};

EdgeClient::EdgeClient(const EdgeConfig& config) : impl_(std::make_unique<Impl>(config)) {}
EdgeClient::~EdgeClient() = default;

Status EdgeClient::check() { return impl_->check(); }

Result<Classified> EdgeClient::classify(const Tensor& images) {
  Result<Classified> result;
  result.status = impl_->classify(images, result.value);
  return result;
}

Status EdgeClient::record_probes(const Tensor& images, const std::filesystem::path& file) {
  return impl_->record(images, file);
}

const BundleInfo& EdgeClient::info() const { return impl_->info; }
const std::vector<std::string>& EdgeClient::class_names() const {
  return impl_->pipeline.class_names();
}

}  // namespace ens
