// SPDX-License-Identifier: Apache-2.0
#include "net/http/server.h"

#include <microhttpd.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/threads.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

constexpr const char* kAddressHint = "write HOST:PORT, as in 127.0.0.1:9464";

std::string_view first(const std::vector<std::pair<std::string, std::string>>& list,
                       std::string_view name) {
  const auto found =
      std::ranges::find(list, name, [](const auto& p) -> std::string_view { return p.first; });
  return found == list.end() ? std::string_view() : std::string_view(found->second);
}

MHD_Result collect(void* list, MHD_ValueKind kind, const char* key, const char* value) {
  std::string name = key ? key : "";
  if (kind == MHD_HEADER_KIND) {
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  static_cast<std::vector<std::pair<std::string, std::string>>*>(list)->emplace_back(
      std::move(name), value ? value : "");
  return MHD_YES;
}

std::string numeric_address(const sockaddr* address) {
  char host[NI_MAXHOST] = "";
  const socklen_t size =
      address->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
  ::getnameinfo(address, size, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  return host;
}

bool is_loopback(const sockaddr* address) {
  const std::string host = numeric_address(address);
  return host == "::1" || host.starts_with("127.");
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const { return first(headers, name); }
std::string_view HttpRequest::argument(std::string_view name) const { return first(query, name); }
int HttpRequest::count(std::string_view name) const {
  return static_cast<int>(
      std::ranges::count(headers, name, [](const auto& p) -> std::string_view { return p.first; }));
}

// ---- streams

struct HttpStream::Impl {
  size_t limit;
  std::string overflow;
  mutable std::mutex mutex;
  std::deque<std::string> waiting;
  size_t sent = 0;                      // of waiting.front()
  MHD_Connection* suspended = nullptr;  // nothing to send: the connection waits for us
  bool closed = false, gone = false;

  void wake() {  // with the mutex
    if (suspended) MHD_resume_connection(std::exchange(suspended, nullptr));
  }
};

HttpStream::HttpStream(size_t limit, std::string overflow) : impl_(std::make_shared<Impl>()) {
  impl_->limit = limit;
  impl_->overflow = std::move(overflow);
}
HttpStream::~HttpStream() { close(); }

bool HttpStream::send(std::string text) {
  std::lock_guard lock(impl_->mutex);
  if (impl_->gone || impl_->closed) return false;
  if (impl_->waiting.size() >= impl_->limit) {
    const bool begun = impl_->sent > 0;  // the rest of a text that was begun still goes out
    impl_->waiting.resize(begun ? 1 : 0);
    text = impl_->overflow;
  }
  impl_->waiting.push_back(std::move(text));
  impl_->wake();
  return true;
}

void HttpStream::close() {
  std::lock_guard lock(impl_->mutex);
  impl_->closed = true;
  impl_->wake();
}

bool HttpStream::open() const {
  std::lock_guard lock(impl_->mutex);
  return !impl_->gone && !impl_->closed;
}

// ---- the server

struct HttpServer::Impl {
  // A request between its first byte and its reply.
  struct Call {
    MHD_Connection* connection;
    std::string body;
    std::optional<HttpRequest> request;  // complete: a handler has it
    std::optional<HttpReply> reply;
    bool failed = false;
    bool head_only = false;
    size_t most = 0;  // bytes of the body
  };
  // What a stream's reply holds on to.
  struct Attached {
    MHD_Connection* connection;
    std::shared_ptr<HttpStream> owner;
    std::shared_ptr<HttpStream::Impl> stream;
  };

  static ssize_t read_stream(void* attached, uint64_t, char* out, size_t size) {
    Attached& a = *static_cast<Attached*>(attached);
    std::lock_guard lock(a.stream->mutex);
    auto& waiting = a.stream->waiting;
    if (waiting.empty()) {
      if (a.stream->closed) return MHD_CONTENT_READER_END_OF_STREAM;
      a.stream->suspended = a.connection;
      MHD_suspend_connection(a.connection);
      return 0;
    }
    const size_t n = std::min(size, waiting.front().size() - a.stream->sent);
    std::memcpy(out, waiting.front().data() + a.stream->sent, n);
    a.stream->sent += n;
    if (a.stream->sent == waiting.front().size()) {
      waiting.pop_front();
      a.stream->sent = 0;
    }
    return static_cast<ssize_t>(n);
  }

  static void forget_stream(void* attached) {
    Attached* a = static_cast<Attached*>(attached);
    {
      std::lock_guard lock(a->stream->mutex);
      a->stream->gone = true;
      a->stream->suspended = nullptr;
      a->stream->waiting.clear();
    }
    delete a;
  }

  MHD_Result answer(MHD_Connection* connection, const HttpReply& reply) {
    MHD_Response* response = nullptr;
    if (reply.stream) {
      {
        std::lock_guard lock(mutex);
        std::erase_if(streams, [](const auto& s) { return s.expired(); });
        streams.push_back(reply.stream);
        if (stopping) reply.stream->close();
      }
      auto* attached = new Attached{connection, reply.stream, reply.stream->impl_};
      response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 8192, &read_stream, attached,
                                                   &forget_stream);
    } else {
      response = MHD_create_response_from_buffer(
          reply.body.size(), const_cast<char*>(reply.body.data()), MHD_RESPMEM_MUST_COPY);
    }
    if (!response) return MHD_NO;
    if (!reply.type.empty())
      MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply.type.c_str());
    for (const auto& [name, value] : reply.headers)
      MHD_add_response_header(response, name.c_str(), value.c_str());
    const MHD_Result result = MHD_queue_response(connection, reply.status, response);
    MHD_destroy_response(response);
    return result;
  }

  // Nothing is thrown through the library.
  static MHD_Result handle(void* self, MHD_Connection* connection, const char* url,
                           const char* method, const char*, const char* data, size_t* size,
                           void** state) {
    try {
      return static_cast<Impl*>(self)->step(connection, url, method, data, size, state);
    } catch (const std::exception&) {
      return MHD_NO;
    }
  }

  // Called when the head has arrived, for each piece of the body, at its end, and again when a
  // handler has replied.
  MHD_Result step(MHD_Connection* connection, const char* url, const char* method, const char* data,
                  size_t* size, void** state) {
    auto* call = static_cast<Call*>(*state);
    if (!call) {
      *state = call = new Call{.connection = connection};
      const auto other = limits.body_bytes_of.find(url);
      call->most = other == limits.body_bytes_of.end() ? limits.body_bytes : other->second;
      set_deadline(connection, Clock::now() + seconds(limits.body_seconds));
      const char* length =
          MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
      uint64_t announced = 0;
      if (length) {
        const char* end = length + std::strlen(length);
        if (std::from_chars(length, end, announced).ptr != end) return MHD_NO;
      }
      if (announced > call->most) {
        return answer(connection, {.status = MHD_HTTP_CONTENT_TOO_LARGE,
                                   .body = "the request is too large\n",
                                   .headers = {{"Connection", "close"}}});
      }
      return MHD_YES;
    }
    if (*size > 0) {
      if (call->body.size() + *size > call->most) return MHD_NO;  // of unannounced length
      call->body.append(data, *size);
      *size = 0;
      return MHD_YES;
    }
    if (call->reply) return answer(connection, *call->reply);
    if (call->failed || call->request) return MHD_NO;
    set_deadline(connection, Clock::time_point::max());
    HttpRequest& r = call->request.emplace();
    call->head_only = std::strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
    r.method = call->head_only ? MHD_HTTP_METHOD_GET : method;
    r.path = url;
    MHD_get_connection_values(connection, MHD_HEADER_KIND, &collect, &r.headers);
    MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, &collect, &r.query);
    r.body = std::move(call->body);
    r.peer = numeric_address(
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
    std::lock_guard lock(mutex);
    if (stopping) return MHD_NO;
    MHD_suspend_connection(connection);
    calls.push_back(call);
    wake.notify_one();
    return MHD_YES;
  }

  void run_handlers() {
    unpin_this_thread();
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return stopping || !calls.empty(); });
      if (calls.empty()) return;
      Call* call = calls.front();
      calls.pop_front();
      const bool refuse = stopping;
      lock.unlock();
      try {
        if (refuse) {
          call->failed = true;
        } else {
          call->reply = handler(*call->request);
          if (call->head_only && call->reply->stream) {  // it would never end
            call->reply->stream->close();
            call->reply->stream.reset();
          }
        }
      } catch (const std::exception&) {
        call->failed = true;
      }
      MHD_resume_connection(call->connection);
      lock.lock();
    }
  }

  static void completed(void* self, MHD_Connection* connection, void** state,
                        MHD_RequestTerminationCode) {
    delete static_cast<Call*>(*state);
    *state = nullptr;
    Impl& impl = *static_cast<Impl*>(self);
    impl.set_deadline(connection, Clock::now() + seconds(impl.limits.idle_seconds) +
                                      seconds(impl.limits.head_seconds));
  }

  // ---- deadlines. The library's own timeout counts from the last byte: one byte a second would
  // hold a connection forever.

  static void notify(void* self, MHD_Connection* connection, void**,
                     MHD_ConnectionNotificationCode what) {
    Impl& impl = *static_cast<Impl*>(self);
    std::lock_guard lock(impl.deadline_mutex);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
      const int fd =
          MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
      impl.deadlines[connection] = {fd, Clock::now() + seconds(impl.limits.head_seconds)};
    } else {
      impl.deadlines.erase(connection);  // before its descriptor is closed
    }
  }

  void set_deadline(MHD_Connection* connection, Clock::time_point when) {
    std::lock_guard lock(deadline_mutex);
    const auto found = deadlines.find(connection);
    if (found != deadlines.end()) found->second.second = when;
  }

  void watch_deadlines() {
    unpin_this_thread();
    std::unique_lock lock(deadline_mutex);
    while (!watch_end.wait_for(lock, std::chrono::milliseconds(250), [&] { return watch_over; })) {
      const Clock::time_point now = Clock::now();
      for (auto& [connection, deadline] : deadlines) {
        if (deadline.second < now) ::shutdown(deadline.first, SHUT_RDWR);  // the library sees it
      }
    }
  }

  HttpLimits limits;
  Handler handler;
  std::string host;
  int port = 0;
  bool loopback = false;
  MHD_Daemon* daemon = nullptr;

  std::mutex mutex;
  std::condition_variable wake;
  std::deque<Call*> calls;
  std::vector<std::weak_ptr<HttpStream>> streams;
  bool stopping = false;
  std::vector<std::thread> threads;

  std::mutex deadline_mutex;
  std::condition_variable watch_end;
  bool watch_over = false;
  std::map<MHD_Connection*, std::pair<int, Clock::time_point>> deadlines;
  std::thread watcher;
};

HttpServer::HttpServer(const std::string& address, const HttpLimits& limits, Handler handler)
    : impl_(std::make_unique<Impl>()) {
  const size_t colon = address.rfind(':');
  const char* end = address.data() + address.size();
  if (colon == std::string::npos || colon == 0 ||
      std::from_chars(address.data() + colon + 1, end, impl_->port).ptr != end ||
      colon + 1 == address.size() || impl_->port < 0 || impl_->port > 65535) {
    usage_fail("'" + address + "' is no address for HTTP", "http", kAddressHint);
  }
  impl_->limits = limits;
  impl_->handler = std::move(handler);
  impl_->host = address.substr(0, colon);
  std::string bind_host = impl_->host;  // without the brackets of an IPv6 address
  if (bind_host.front() == '[' && bind_host.back() == ']') {
    bind_host = bind_host.substr(1, bind_host.size() - 2);
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  if (::getaddrinfo(bind_host.c_str(), std::to_string(impl_->port).c_str(), &hints, &found) != 0) {
    fail("no address of this machine", address, kAddressHint);
  }
  impl_->loopback = is_loopback(found->ai_addr);
  impl_->daemon = MHD_start_daemon(
      MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_ALLOW_SUSPEND_RESUME |
          (found->ai_family == AF_INET6 ? MHD_USE_IPv6 : MHD_NO_FLAG),
      static_cast<uint16_t>(impl_->port), nullptr, nullptr, &Impl::handle, impl_.get(),
      MHD_OPTION_SOCK_ADDR, found->ai_addr, MHD_OPTION_CONNECTION_LIMIT, limits.connections,
      MHD_OPTION_PER_IP_CONNECTION_LIMIT, limits.connections_of_one_address,
      MHD_OPTION_CONNECTION_TIMEOUT, limits.idle_seconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
      limits.head_bytes, MHD_OPTION_NOTIFY_COMPLETED, &Impl::completed, impl_.get(),
      MHD_OPTION_NOTIFY_CONNECTION, &Impl::notify, impl_.get(), MHD_OPTION_END);
  ::freeaddrinfo(found);
  if (!impl_->daemon) fail("cannot listen for HTTP", address, "another process may have this port");
  impl_->port = MHD_get_daemon_info(impl_->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
  for (unsigned i = 0; i < std::max(1u, limits.threads); ++i)
    impl_->threads.emplace_back([this] { impl_->run_handlers(); });
  impl_->watcher = std::thread([this] { impl_->watch_deadlines(); });
}

HttpServer::~HttpServer() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    // The library may not stop while a connection is suspended.
    for (const auto& weak : impl_->streams) {
      if (const auto stream = weak.lock()) stream->close();
    }
  }
  impl_->wake.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
  MHD_stop_daemon(impl_->daemon);
  {
    std::lock_guard lock(impl_->deadline_mutex);
    impl_->watch_over = true;
  }
  impl_->watch_end.notify_all();
  impl_->watcher.join();
}

std::string HttpServer::address() const { return impl_->host + ":" + std::to_string(impl_->port); }
int HttpServer::port() const { return impl_->port; }
bool HttpServer::loopback() const { return impl_->loopback; }

}  // namespace ens
