#include "edge/link.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/strings.h"
#include "nn/core/rng.h"
#include "proto/keys.h"

namespace ens {
namespace {

using std::chrono::milliseconds;

constexpr uint32_t kVersion = 1;
constexpr size_t kWindow = 2;  // one computes on the edge while one is in the cloud
// A cloud may vanish in mid handshake, and one that restarts behind a relay looks like a wrong key:
// tried again until the time is up, and so often is no accident.
constexpr int kHandshakeTries = 3;
constexpr milliseconds kFirstPause{20}, kLongestPause{1000};
constexpr milliseconds kReplicaPatience{500};  // for a connection, before the next one is tried

std::vector<std::string> split_addresses(const std::string& text) {
  std::vector<std::string> addresses = split_text(text, ',');
  if (addresses.empty()) usage_fail("no address", "cloud", "write tcp://HOST:PORT");
  return addresses;
}

std::optional<KeyPair> own_keys(const EdgeConfig& config,
                                const std::vector<std::string>& addresses) {
  if (!config.secret_key().empty()) return read_secret_key(config.secret_key());
  for (const std::string& address : addresses) {
    if (!is_loopback(address) && !config.insecure()) {
      usage_fail("refusing to send plain text outside loopback", address,
                 "set --server-key and --secret-key (ensembler keys), or --insecure");
    }
  }
  return std::nullopt;
}

}  // namespace

Link::Link(const CloudPart& part, const EdgeConfig& config, int64_t max_reply)
    : addresses_(split_addresses(part.cloud())),
      timeout_(config.timeout_ms()),
      encrypted_(!config.secret_key().empty()),
      socket_(context_, zmq::socket_type::dealer),
      monitor_(context_, zmq::socket_type::pair) {
  const auto keys = own_keys(config, addresses_);
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::immediate, 1);  // nothing waits in a socket without a connection
  socket_.set(zmq::sockopt::maxmsgsize, max_reply + kCurveOverhead);
  socket_.set(zmq::sockopt::sndhwm, 16);
  socket_.set(zmq::sockopt::rcvhwm, 16);
  socket_.set(zmq::sockopt::reconnect_ivl, 50);
  socket_.set(zmq::sockopt::reconnect_ivl_max, 1000);
  socket_.set(zmq::sockopt::handshake_ivl, 2000);
  socket_.set(zmq::sockopt::heartbeat_ivl, 2000);  // a cloud that vanished without a word
  socket_.set(zmq::sockopt::heartbeat_timeout, 10000);
  if (part.cloud().find('[') != std::string::npos) socket_.set(zmq::sockopt::ipv6, 1);
  if (keys) {
    socket_.set(zmq::sockopt::curve_serverkey, read_public_key(part.server_key()));
    socket_.set(zmq::sockopt::curve_publickey, keys->public_key);
    socket_.set(zmq::sockopt::curve_secretkey, keys->secret_key.z85());
  }
  // The monitor tells a refused key from a cloud that is not there.
  constexpr int kEvents = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED |
                          ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                          ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                          ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;
  constexpr const char* kMonitor = "inproc://monitor";
  if (zmq_socket_monitor(socket_.handle(), kMonitor, kEvents) != 0) {
    fail(std::string("cannot watch the connection: ") + zmq_strerror(zmq_errno()));
  }
  monitor_.set(zmq::sockopt::linger, 0);
  monitor_.connect(kMonitor);
  try {
    for (const std::string& address : addresses_) {  // so that a typing error shows at once
      socket_.connect(address);
      if (address != addresses_[0]) socket_.disconnect(address);
    }
  } catch (const zmq::error_t& error) {
    usage_fail(std::string("bad cloud address: ") + error.what(), part.cloud(),
               "write tcp://HOST:PORT");
  }
}

Status Link::exchange(std::vector<Call>& calls, const std::function<void(size_t)>& prepare,
                      const std::function<Status(size_t, const zmq::message_t*)>& accept) {
  std::vector<Open> open;
  size_t next = 0, done = 0;
  if (std::exchange(given_up_, false)) {
    reconnect();
    failed_handshakes_ = 0;
  }
  while (done < calls.size()) {
    if (open.size() < kWindow && next < calls.size()) {
      prepare(next);
      const auto now = Clock::now();
      open.push_back({.index = next++, .id = next_id_++, .deadline = now + timeout_, .due = now});
    }
    bool blocked = false;  // something is due, but there is no connection
    const bool more = open.size() < kWindow && next < calls.size();
    auto wake = more ? Clock::now() : Clock::time_point::max();
    for (Open& o : open) {
      const auto now = Clock::now();
      if (now >= o.deadline) {
        given_up_ = !ready_;
        return out_of_time(o);
      }
      if (now >= o.due && !send(calls[o.index], o)) blocked = true;
      wake = std::min({wake, o.deadline, o.due > now ? o.due : o.deadline});
    }
    zmq::pollitem_t items[] = {
        {socket_.handle(), 0, static_cast<short>(ZMQ_POLLIN | (blocked ? ZMQ_POLLOUT : 0)), 0},
        {monitor_.handle(), 0, ZMQ_POLLIN, 0}};
    if (!ready_ && addresses_.size() > 1) {
      wake = std::min<Clock::time_point>(wake, connecting_since_ + kReplicaPatience);
    }
    const auto patience = std::chrono::ceil<milliseconds>(wake - Clock::now());
    try {
      zmq::poll(items, 2, std::max(patience, milliseconds(0)));
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) return {StatusCode::kInternal, error.what()};
    }
    // Answers first: a cloud that answered and closed has answered.
    if (Status status = receive(calls, open, done, accept); !status.ok()) return status;
    if (Status status = watch_connection(open); !status.ok()) {
      given_up_ = true;
      return status;
    }
    if (!ready_ && Clock::now() - connecting_since_ > kReplicaPatience) {
      move_on(open, {StatusCode::kUnavailable, "cannot reach " + address()});
    }
  }
  return {};
}

// libzmq does not try again after what it takes for a protocol error; by the next call the cloud
// may have been mended, or this client's key allowed.
void Link::reconnect() {
  try {
    socket_.disconnect(address());
  } catch (const zmq::error_t&) {  // it had given up itself
  }
  ready_ = handshaking_ = reached_ = false;
  at_ = (at_ + 1) % addresses_.size();
  socket_.connect(address());
  connecting_since_ = Clock::now();
}

void Link::move_on(std::vector<Open>& open, const Status& why) {
  if (addresses_.size() == 1) return;
  for (Open& o : open) {
    if (o.sent) postpone(o, why);
  }
  reconnect();
}

bool Link::send(Call& call, Open& open) {
  using zmq::send_flags;
  const auto now = Clock::now();
  wire::Request& request = call.request;
  request.set_version(kVersion);
  request.set_id(open.id);
  if (request.kind() == wire::Request::INFER) {
    const auto left = std::chrono::ceil<milliseconds>(open.deadline - now);
    // The first attempt has all the time there is: what is sent does not depend on how long
    // anything took here.
    request.set_timeout_ms(static_cast<uint32_t>((open.attempts == 0 ? timeout_ : left).count()));
  }
  const std::string header = request.SerializeAsString();
  const bool has_payload = call.payload.defined();
  const auto flags = has_payload ? send_flags::sndmore : send_flags::none;
  if (!socket_.send(zmq::buffer(header), flags | send_flags::dontwait)) return false;
  size_t bytes = header.size();
  if (has_payload) {
    auto* owner = new Tensor(call.payload);  // alive until libzmq has sent it; no copy
    bytes += owner->bytes();
    zmq::message_t frame(
        owner->raw(), owner->bytes(), [](void*, void* hint) { delete static_cast<Tensor*>(hint); },
        owner);
    socket_.send(frame, send_flags::dontwait);
  }
  call.bytes_sent += static_cast<int64_t>(bytes);
  ++open.attempts;
  open.sent = true;
  open.sent_at = now;
  // One silent loss is mended: without a word by half time the request is sent again.
  open.due = open.attempts == 1 ? now + timeout_ / 2 : open.deadline;
  return true;
}

void Link::postpone(Open& open, Status why) {
  open.sent = false;
  open.last = std::move(why);
  const auto pause = std::min(kLongestPause, kFirstPause * (1 << std::min(open.attempts, 10)));
  // Half of it at random, so that many edges do not come back all at once.
  const auto jitter = milliseconds(secure_random() % static_cast<uint64_t>(pause.count() / 2 + 1));
  open.due = Clock::now() + pause / 2 + jitter;
}

Status Link::receive(std::vector<Call>& calls, std::vector<Open>& open, size_t& done,
                     const std::function<Status(size_t, const zmq::message_t*)>& accept) {
  while (true) {
    zmq::message_t header, tensor, rest;
    if (!socket_.recv(header, zmq::recv_flags::dontwait)) return {};
    int frames = 1;
    for (bool more = header.more(); more; ++frames) {
      zmq::message_t& frame = frames == 1 ? tensor : rest;
      if (!socket_.recv(frame, zmq::recv_flags::dontwait)) break;
      more = frame.more();
    }
    wire::Reply reply;
    if (frames > 2 || !reply.ParseFromArray(header.data(), static_cast<int>(header.size()))) {
      return {StatusCode::kInternal, address() + " answered with something that is no Reply"};
    }
    const auto it = std::ranges::find(open, reply.id(), &Open::id);
    if (it == open.end()) continue;  // late, repeated, or not ours
    ready_ = true;
    Call& call = calls[it->index];
    call.bytes_received += static_cast<int64_t>(header.size() + tensor.size());
    if (reply.version() != kVersion) {
      return {StatusCode::kVersionMismatch, "the cloud speaks protocol version " +
                                                std::to_string(reply.version()) + ", not " +
                                                std::to_string(kVersion)};
    }
    const Status status{code_from_wire(reply.code()), reply.message()};
    switch (status.code) {
      case StatusCode::kOk:
        break;
      case StatusCode::kResourceExhausted:
      case StatusCode::kUnavailable:
        if (it->sent) {  // else another replica has it already
          postpone(*it, status);
          move_on(open, status);
        }
        continue;
      case StatusCode::kDeadlineExceeded:
        it->last = status;  // perhaps an earlier attempt's: ours may still be under way
        continue;
      default:
        return status;
    }
    call.round_trip_ms =
        std::chrono::duration<double, std::milli>(Clock::now() - it->sent_at).count();
    call.reply = std::move(reply);
    if (Status verdict = accept(it->index, frames == 2 ? &tensor : nullptr); !verdict.ok()) {
      return verdict;
    }
    open.erase(it);
    ++done;
  }
}

Status Link::watch_connection(std::vector<Open>& open) {
  zmq::message_t event, endpoint;
  while (monitor_.recv(event, zmq::recv_flags::dontwait)) {
    if (event.more()) (void)monitor_.recv(endpoint, zmq::recv_flags::dontwait);
    uint16_t what = 0;
    if (event.size() < sizeof what) continue;
    std::memcpy(&what, event.data(), sizeof what);
    switch (what) {
      case ZMQ_EVENT_CONNECTED:
        reached_ = true;
        handshaking_ = true;
        break;
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        ready_ = true;
        handshaking_ = false;
        failed_handshakes_ = 0;
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return {StatusCode::kUnauthenticated,
                "the cloud at " + address() +
                    " does not allow this client's key; add its .pub file "
                    "to the cloud's --clients"};
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:   // such as keys on one side only
      case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:  // a key that is wrong, or a cloud that goes away
      case ZMQ_EVENT_DISCONNECTED:
        if (std::exchange(handshaking_, false)) ++failed_handshakes_;
        if (what == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL) return broken_handshake();
        if (!std::exchange(ready_, false)) break;
        connecting_since_ = Clock::now();
        for (Open& o : open) {
          if (o.sent)
            postpone(o, {StatusCode::kUnavailable, "lost the connection to " + address()});
        }
        break;
      default:
        break;
    }
  }
  return {};
}

Status Link::broken_handshake() const {
  return {
      StatusCode::kUnauthenticated,
      address() + (encrypted_ ? " breaks off the key exchange: --server-key is not its key, this "
                                "client's key is not allowed there, or it serves plain text"
                              : " breaks off the greeting: it expects encryption (set "
                                "--server-key and --secret-key), or is no ensembler-cloud")};
}

Status Link::out_of_time(const Open& open) const {
  const std::string waited = " within " + std::to_string(timeout_.count()) + " ms";
  if (open.last.ok() && failed_handshakes_ >= kHandshakeTries) return broken_handshake();
  if (!reached_) {
    return {StatusCode::kUnavailable,
            "cannot reach " + address() + waited + "; is ensembler-cloud running there?"};
  }
  if (!open.last.ok()) {
    return {open.last.code, open.last.message + "; no answer" + waited + ", tried " +
                                std::to_string(open.attempts) + " times"};
  }
  if (failed_handshakes_ > 0 || !ready_) {
    return {StatusCode::kUnavailable, "no handshake with " + address() + waited +
                                          "; is it an ensembler-cloud, and are the keys right?"};
  }
  return {StatusCode::kDeadlineExceeded, "no answer from " + address() + waited};
}

}  // namespace ens
