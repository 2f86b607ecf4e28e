#include "edge/client.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

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

struct EdgeClient::Impl {
  explicit Impl(const EdgeConfig& c)
      : config(c),
        pipeline(read_edge_bundle(c.bundle()), c.batch()),
        info(pipeline.info()),
        answer(answer_shape(info.model, info.split)),
        link(c, std::max(kMaxHeader, info.nets * int64_t{c.batch()} * answer.numel() * 4)) {}

  // What every reply must say.
  Status check_reply(const wire::Reply& reply) const {
    if (reply.fingerprint() == info.fingerprint) return {};
    return {StatusCode::kFingerprintMismatch, "the cloud at " + config.cloud() +
                                                  " serves other server nets than those of " +
                                                  config.bundle()};
  }

  Status wrong(const std::string& what) const {
    return {StatusCode::kInternal, "the cloud at " + config.cloud() + " answered " + what};
  }

  Status check() {
    std::vector<Call> calls(1);
    calls[0].request.set_kind(wire::Request::INFO);
    return link.exchange(
        calls, [](size_t) {},
        [&](size_t, const zmq::message_t* frame) -> Status {
          const wire::Reply& reply = calls[0].reply;
          if (Status status = check_reply(reply); !status.ok()) return status;
          const wire::ServerInfo& served = reply.info();
          if (frame || !reply.has_info()) return wrong("an INFO request without information");
          if (served.nets() != static_cast<uint32_t>(info.nets)) {
            return wrong("that it serves " + std::to_string(served.nets()) + " nets, not " +
                         std::to_string(info.nets));
          }
          if (!same(served.input_shape(), smashed_shape(info.model, info.split)) ||
              !same(served.output_shape(), answer) || served.max_batch() < 1) {
            return wrong("with other shapes than this bundle's");
          }
          request_batch = std::min<int64_t>(config.batch(), served.max_batch());
          return {};
        });
  }

  // A tensor frame -> answers [N, images, ...]. Message memory may be unaligned: bytes are copied.
  Status read_answers(const wire::Reply& reply, const zmq::message_t* frame, int64_t images,
                      Tensor& answers) const {
    if (Status status = check_reply(reply); !status.ok()) return status;
    if (!frame) return wrong("without a tensor");
    Shape shape;
    Dtype dtype;
    const int64_t limit =
        std::max({int64_t{info.nets}, images, *std::ranges::max_element(answer.dims())});
    if (Status status =
            check_tensor(reply.tensor(), frame->size(), answer.rank() + 2, limit, shape, dtype);
        !status.ok()) {
      return wrong("with a bad tensor: " + status.message);
    }
    if (dtype == Dtype::kU8) return wrong("with int8, which is for features only");
    if (shape[0] != info.nets || shape[1] != images ||
        !std::ranges::equal(shape.dims().subspan(2), answer.dims())) {
      return wrong("with shape " + shape.str() + ", not that of " + std::to_string(info.nets) +
                   " nets and " + std::to_string(images) + " images");
    }
    answers = Tensor::empty(shape, dtype);
    std::memcpy(answers.raw(), frame->data(), frame->size());
    if (!all_finite(answers)) return wrong("with numbers that are not finite");
    answers = answers.to(Dtype::kF32);
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
    std::vector<Call> calls(static_cast<size_t>((total + request_batch - 1) / request_batch));
    std::vector<Tensor> answers(calls.size());
    EdgeTimes& times = out.times;
    const auto prepare = [&](size_t i) {
      const auto begin = Clock::now();
      Call& call = calls[i];
      Encoded encoded =
          encode(pipeline.smash(images.rows(static_cast<int64_t>(i) * request_batch, count_of(i))),
                 parse_wire_dtype(config.wire_dtype()));
      call.payload = std::move(encoded.frame);
      call.request.set_kind(wire::Request::INFER);
      call.request.set_fingerprint(info.fingerprint);
      *call.request.mutable_tensor() = std::move(encoded.info);
      times.head_ms += ms_since(begin);
    };
    const auto accept = [&](size_t i, const zmq::message_t* frame) -> Status {
      Status status = read_answers(calls[i].reply, frame, count_of(i), answers[i]);
      calls[i].payload = {};
      return status;
    };
    if (Status status = link.exchange(calls, prepare, accept); !status.ok()) return status;

    for (const Call& call : calls) {
      const double queue = static_cast<double>(call.reply.queue_us()) / 1000;
      const double compute = static_cast<double>(call.reply.compute_us()) / 1000;
      times.cloud_queue_ms += queue;
      times.cloud_compute_ms += compute;
      times.wire_ms += std::max(0.0, call.round_trip_ms - queue - compute);
      times.bytes_sent += call.bytes_sent;
      times.bytes_received += call.bytes_received;
    }
    // The selector comes in only now, when nothing more is sent: the cloud cannot see how long this
    // takes.
    const auto tail_start = Clock::now();
    out.logits = Tensor::empty({total, info.model.classes});
    for (size_t i = 0; i < calls.size(); ++i) {
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
  EdgePipeline pipeline;
  const BundleInfo& info;
  const Shape answer;  // of one net, for one image
  Link link;
  int64_t request_batch = 0;  // images in one request; 0: the cloud has not been asked yet
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
