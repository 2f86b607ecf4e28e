#include "cloud/frontend.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "proto/keys.h"
#include "proto/tensor_codec.h"

namespace ens {
namespace {

// Whole messages held for one client, each way. Little: a client has few requests under way, and
// one that does not read must not make us hold many answers.
constexpr int kHighWater = 16;

// How often a draining server looks whether it owes no more answers.
constexpr std::chrono::milliseconds kDrainInterval{5};

bool readable(const zmq::socket_t& socket) {
  return (socket.get(zmq::sockopt::events) & ZMQ_POLLIN) != 0;
}

Status bad(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }

}  // namespace

Frontend::Frontend(zmq::context_t& context, const std::string& endpoint,
                   std::shared_ptr<Serving> serving, const std::optional<Security>& security,
                   BatchQueue& queue, Metrics& metrics)
    : serving_(std::move(serving)),
      socket_(context, zmq::socket_type::router),
      queue_(queue),
      outbox_(std::make_shared<Outbox>([this](Outgoing answer) { send(answer); })),
      metrics_(metrics) {
  limit_messages(*serving_);
  socket_.set(zmq::sockopt::rcvhwm, kHighWater);
  socket_.set(zmq::sockopt::sndhwm, kHighWater);
  socket_.set(zmq::sockopt::linger, 1000);         // at the end: to clients that do not read
  socket_.set(zmq::sockopt::handshake_ivl, 5000);  // strangers that connect and say nothing
  socket_.set(zmq::sockopt::heartbeat_ivl, 5000);  // clients that vanished
  socket_.set(zmq::sockopt::heartbeat_timeout, 20000);
  socket_.set(zmq::sockopt::backlog, 1024);
  if (endpoint.find('[') != std::string::npos) socket_.set(zmq::sockopt::ipv6, 1);
  if (security) {
    zap_.emplace(context, security->clients);
    socket_.set(zmq::sockopt::curve_server, 1);
    socket_.set(zmq::sockopt::curve_secretkey, security->server.secret_key.z85());
    socket_.set(zmq::sockopt::zap_domain, "ensembler");
  }
  try {
    socket_.bind(endpoint);
  } catch (const zmq::error_t& error) {
    const bool taken = error.num() == EADDRINUSE;
    fail(std::string("cannot listen: ") + error.what(), endpoint,
         taken ? "another process has this address; choose another port with --bind"
               : "check --bind: tcp://HOST:PORT of this machine");
  }
  endpoint_ = socket_.get(zmq::sockopt::last_endpoint);
}

Frontend::Event::Event() : fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (fd < 0) fail(std::string("no event descriptor: ") + std::strerror(errno));
}
Frontend::Event::~Event() { ::close(fd); }

// Of connections from now on.
void Frontend::limit_messages(const Serving& serving) {
  const int64_t largest = serving.max_request_batch * serving.input.numel() * 4;
  const std::lock_guard lock(socket_mutex_);
  socket_.set(zmq::sockopt::maxmsgsize, std::max<int64_t>(largest, kMaxHeader) + kCurveOverhead);
}

void Frontend::serve(std::shared_ptr<Serving> serving) {
  {
    const std::lock_guard lock(serving_mutex_);
    serving_.swap(serving);
  }
  changed_.store(true);
  wake();
}

std::shared_ptr<Serving> Frontend::serving() const {
  const std::lock_guard lock(serving_mutex_);
  return serving_;
}

void Frontend::reread_keys() {
  reread_keys_.store(true);
  wake();
}

std::map<std::string, int64_t> Frontend::sent() const {
  const std::lock_guard lock(socket_mutex_);
  return sent_;
}

void Frontend::wake() {
  const int saved = errno;  // a signal handler must leave it alone
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.fd, &one, sizeof one);
  errno = saved;
}

// zmq::poll() would touch the socket while another thread sends on it: this waits for the sockets'
// descriptors. They tell once that something happened, so first the sockets are asked.
void Frontend::wait(std::chrono::milliseconds patience) {
  std::array<pollfd, 3> fds = {pollfd{wake_.fd, POLLIN, 0}, {-1, POLLIN, 0}, {-1, POLLIN, 0}};
  bool ready = zap_ && readable(zap_->socket());
  {
    const std::lock_guard lock(socket_mutex_);
    ready = readable(socket_) || ready;
    fds[1].fd = socket_.get(zmq::sockopt::fd);
  }
  if (zap_) fds[2].fd = zap_->socket().get(zmq::sockopt::fd);
  ::poll(fds.data(), fds.size(), ready ? 0 : static_cast<int>(patience.count()));
  uint64_t count;
  [[maybe_unused]] const ssize_t n = ::read(wake_.fd, &count, sizeof count);  // EAGAIN: no wake()
}

void Frontend::run(const std::atomic<bool>& stop, const std::function<void()>& on_drain,
                   std::chrono::milliseconds drain_limit) {
  std::optional<Clock::time_point> give_up;
  while (true) {
    const auto left = [&] {
      return std::chrono::ceil<std::chrono::milliseconds>(*give_up - Clock::now());
    };
    wait(give_up ? std::clamp(left(), std::chrono::milliseconds(0), kDrainInterval)
         : zap_  ? AllowedKeys::kInterval
                 : std::chrono::milliseconds(-1));
    if (changed_.exchange(false)) limit_messages(*serving());
    if (zap_) {
      zap_->keys().refresh(reread_keys_.exchange(false));
      const int64_t before = zap_->refused();
      zap_->answer();
      if (zap_->refused() > before) metrics_.refused_key();
    }
    // A few at a time, so that a flood of requests does not hold up the answers.
    for (int i = 0; i < 64 && receive(); ++i) {
    }
    if (stop.load() && !give_up) {
      give_up = Clock::now() + drain_limit;
      on_drain();
    }
    if (give_up && (outbox_->unanswered() == 0 || Clock::now() >= *give_up)) return;
  }
}

bool Frontend::receive() {
  zmq::message_t peer, header, tensor, rest;
  int frames = 0;
  {
    const std::lock_guard lock(socket_mutex_);
    if (!socket_.recv(peer, zmq::recv_flags::dontwait)) return false;
    // The frames of a message arrive together. Those beyond the second are read to get rid of them.
    for (bool more = peer.more(); more; ++frames) {
      zmq::message_t& frame = frames == 0 ? header : frames == 1 ? tensor : rest;
      if (!socket_.recv(frame, zmq::recv_flags::dontwait)) break;
      more = frame.more();
    }
  }
  if (frames == 0) return true;
  if (zap_ && !zap_->allows(header)) {  // its key was taken away after the handshake
    ++refused_messages_;
    metrics_.refused_key();
    return true;
  }
  handle(std::move(peer), header, tensor, frames);
  return true;
}

void Frontend::handle(zmq::message_t peer, zmq::message_t& header, zmq::message_t& tensor,
                      int frames) {
  const auto now = Clock::now();
  const std::shared_ptr<Serving> serving = this->serving();
  wire::Request request;
  const bool readable = header.size() <= kMaxHeader &&
                        request.ParseFromArray(header.data(), static_cast<int>(header.size()));
  ReplyOnce reply(outbox_, std::move(peer), readable ? request.id() : 0);
  if (!readable) return reply.send(bad("the header frame is not a Request"));
  if (request.version() != kVersion) {
    return reply.send(Status{StatusCode::kVersionMismatch,
                             "protocol version " + std::to_string(request.version()) + " is not " +
                                 std::to_string(kVersion)});
  }
  if (request.kind() == wire::Request::INFO) {
    if (frames != 1) return reply.send(bad("an INFO request has one frame"));
    wire::Reply answer;
    auto& info = *answer.mutable_info();
    info.set_nets(static_cast<uint32_t>(serving->part.size()));
    for (const int net : serving->part) info.add_part(static_cast<uint32_t>(net));
    for (int64_t size : serving->input.dims()) info.add_input_shape(size);
    for (int64_t size : serving->output.dims()) info.add_output_shape(size);
    info.set_max_batch(static_cast<uint32_t>(serving->max_request_batch));
    return reply.send(std::move(answer));
  }
  if (request.kind() != wire::Request::INFER) return reply.send(bad("unknown kind of request"));
  if (frames != 2) return reply.send(bad("an INFER request has two frames"));
  if (request.fingerprint() != serving->info.fingerprint) {
    return reply.send(Status{StatusCode::kFingerprintMismatch,
                             "the edge bundle belongs to other server nets than these"});
  }
  Shape shape;
  Dtype dtype;
  const int rank = serving->input.rank() + 1;
  const int64_t limit =
      std::max(serving->max_request_batch, *std::ranges::max_element(serving->input.dims()));
  if (Status status = check_tensor(request.tensor(), tensor.size(), rank, limit, shape, dtype);
      !status.ok()) {
    return reply.send(status);
  }
  if (!std::ranges::equal(shape.dims().subspan(1), serving->input.dims())) {
    return reply.send(bad("features are " + shape.str() + ", expected " + serving->input.str() +
                          " for each image"));
  }
  if (shape[0] > serving->max_request_batch) {
    return reply.send(bad(std::to_string(shape[0]) + " images in one request, at most " +
                          std::to_string(serving->max_request_batch)));
  }
  Job job{.serving = serving,
          .features = std::move(tensor),
          .encoding = std::move(*request.mutable_tensor()),
          .images = shape[0],
          .arrived = now,
          .deadline = request.timeout_ms() == 0
                          ? Clock::time_point::max()
                          : now + std::chrono::milliseconds(request.timeout_ms()),
          .reply = std::move(reply)};
  if (Status status = queue_.push(job); !status.ok()) job.reply.send(status);
}

void Frontend::send(Outgoing& outgoing) try {
  wire::Reply& header = outgoing.header;
  header.set_version(kVersion);
  if (header.fingerprint().empty()) header.set_fingerprint(serving()->info.fingerprint);
  const bool has_tensor = outgoing.tensor.defined();
  if (has_tensor) {
    Encoded encoded = encode(outgoing.tensor, wire::FLOAT32);  // no copy
    *header.mutable_tensor() = std::move(encoded.info);
    outgoing.tensor = std::move(encoded.frame);
  }
  const auto code = static_cast<StatusCode>(header.code());
  metrics_.answered(code);
  const std::string text = header.SerializeAsString();
  using zmq::send_flags;
  const std::lock_guard lock(socket_mutex_);
  ++sent_[name(code)];
  // ROUTER never blocks: what a slow or vanished client cannot take is dropped.
  socket_.send(outgoing.peer, send_flags::sndmore | send_flags::dontwait);
  socket_.send(zmq::buffer(text),
               (has_tensor ? send_flags::sndmore : send_flags::none) | send_flags::dontwait);
  if (has_tensor) {
    // Zero copy: the message keeps the tensor alive until it has left.
    auto* owner = new Tensor(std::move(outgoing.tensor));
    zmq::message_t frame(
        owner->raw(), owner->bytes(), [](void*, void* hint) { delete static_cast<Tensor*>(hint); },
        owner);
    socket_.send(frame, send_flags::dontwait);
  }
  // Sending may have swallowed the descriptor's news of a request.
  if (readable(socket_)) wake();
} catch (const std::exception& e) {
  spdlog::error("event=answer_lost reason=\"{}\"", e.what());
}

}  // namespace ens
