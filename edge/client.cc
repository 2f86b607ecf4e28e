#include "edge/client.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "edge/link.h"
#include "nn/core/error.h"
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
    const int64_t largest = std::max(kMaxHeader, info.nets * int64_t{c.batch()} * answer.numel() * 4);
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
              return wrong(peer, "that it serves " + std::to_string(served.nets()) +
                                     " nets, not " + std::to_string(info.nets));
            }
            peer.nets.resize(static_cast<size_t>(info.nets));  // says no more than: all of them
            std::iota(peer.nets.begin(), peer.nets.end(), 0);
          }
          if (served.nets() != peer.nets.size()) {
            return wrong(peer, "that it serves " + std::to_string(served.nets()) + " nets, and names " +
                                   std::to_string(peer.nets.size()));
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
    if (Status status = each([&](size_t p) { return ask_info(*peers[p], most[p]); }); !status.ok()) {
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
                      Tensor& answers) const {
    if (Status status = check_reply(peer, reply); !status.ok()) return status;
    if (!frame) return wrong(peer, "without a tensor");
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

  Status classify(const Tensor& images, Classified& out) {
    const auto start = Clock::now();
    const Shape one = info.model.input_shape();
    if (images.rank() != 4 || images.dtype() != Dtype::kF32 || images.dim(0) < 1 ||
        !std::ranges::equal(images.shape().dims().subspan(1), one.dims())) {
      return {StatusCode::kInvalidArgument, "images are " + images.shape().str() + " " +
                                                name(images.dtype()) + ", expected [B, " +
                                                one.str().substr(1) + " float32"};
    }
    if (request_batch == 0) {
      if (Status status = check(); !status.ok()) return status;
    }
    const int64_t total = images.dim(0);
    const auto count_of = [&](size_t i) {
      return std::min(request_batch, total - static_cast<int64_t>(i) * request_batch);
    };
    const auto requests = static_cast<size_t>((total + request_batch - 1) / request_batch);
    std::vector<Tensor> answers(requests);
    for (size_t i = 0; i < requests; ++i) {
      std::vector<int64_t> dims = {info.nets, count_of(i)};
      dims.insert(dims.end(), answer.dims().begin(), answer.dims().end());
      answers[i] = Tensor::empty(Shape(std::span<const int64_t>(dims)));
    }
    EdgeTimes& times = out.times;

    // Every cloud gets the same features, computed when the first of them is ready for them.
    std::mutex mutex;
    std::vector<Encoded> features(requests);
    std::vector<size_t> users(requests, peers.size());  // clouds that have not answered yet
    const auto prepare = [&](size_t i, Call& call) {
      const std::lock_guard lock(mutex);
      if (!features[i].frame.defined()) {
        const auto begin = Clock::now();
        features[i] =
            encode(pipeline.smash(images.rows(static_cast<int64_t>(i) * request_batch, count_of(i))),
                   wire_dtype);
        times.head_ms += ms_since(begin);
      }
      call.payload = features[i].frame;
      *call.request.mutable_tensor() = features[i].info;
      call.request.set_kind(wire::Request::INFER);
      call.request.set_fingerprint(info.fingerprint);
    };
    const auto release = [&](size_t i, Call& call) {
      const std::lock_guard lock(mutex);
      call.payload = {};
      if (--users[i] == 0) features[i] = {};
    };
    std::vector<std::vector<Call>> calls(peers.size());
    Status status = each([&](size_t p) {
      calls[p].resize(requests);
      return peers[p]->link.exchange(
          calls[p], [&](size_t i) { prepare(i, calls[p][i]); },
          [&](size_t i, const zmq::message_t* frame) {
            Status verdict = read_answers(*peers[p], calls[p][i].reply, frame, answers[i]);
            release(i, calls[p][i]);
            return verdict;
          });
    });
    if (!status.ok()) return status;

    for (size_t i = 0; i < requests; ++i) {
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
    // The selector comes in only now, when nothing more is sent: the clouds cannot see how long this
    // takes.
    const auto tail_start = Clock::now();
    out.logits = Tensor::empty({total, info.model.classes});
    for (size_t i = 0; i < requests; ++i) {
      out.logits.rows(static_cast<int64_t>(i) * request_batch, count_of(i))
          .copy_from(pipeline.finish(answers[i]));
    }
    for (int64_t b = 0; b < total; ++b) {
      out.top.push_back(
          best_of(out.logits.data<float>() + b * info.model.classes, pipeline.class_names()));
    }
    times.tail_ms = ms_since(tail_start);
    times.total_ms = ms_since(start);
    return {};
  }

  const EdgeConfig config;
  const wire::DType wire_dtype;
  EdgePipeline pipeline;
  const BundleInfo& info;
  const Shape answer;  // of one net, for one image
  std::vector<std::unique_ptr<Peer>> peers;
  int64_t request_batch = 0;  // images in one request; 0: the clouds have not been asked yet
};

EdgeClient::EdgeClient(const EdgeConfig& config) : impl_(std::make_unique<Impl>(config)) {}
EdgeClient::~EdgeClient() = default;

Status EdgeClient::check() { return impl_->check(); }

Result<Classified> EdgeClient::classify(const Tensor& images) {
  Result<Classified> result;
  result.status = impl_->classify(images, result.value);
  return result;
}

const BundleInfo& EdgeClient::info() const { return impl_->info; }
const std::vector<std::string>& EdgeClient::class_names() const {
  return impl_->pipeline.class_names();
}

}  // namespace ens
