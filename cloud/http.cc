#include "cloud/http.h"

#include <httplib.h>

#include <charconv>
#include <thread>

#include "nn/core/error.h"

namespace ens {
namespace {

constexpr const char* kAsAddress = "write HOST:PORT, as in 127.0.0.1:9464";

}  // namespace

struct HttpServer::Impl {
  httplib::Server server;
  std::string host;
  int port = 0;
  std::thread thread;
};

HttpServer::HttpServer(const std::string& address, Pages pages) : impl_(std::make_unique<Impl>()) {
  const size_t colon = address.rfind(':');
  const char* end = address.data() + address.size();
  if (colon == std::string::npos || colon == 0 ||
      std::from_chars(address.data() + colon + 1, end, impl_->port).ptr != end ||
      colon + 1 == address.size() || impl_->port < 0 || impl_->port > 65535) {
    usage_fail("'" + address + "' is no address for HTTP", "http", kAsAddress);
  }
  impl_->host = address.substr(0, colon);
  std::string bind_host = impl_->host;  // without the brackets of an IPv6 address
  if (bind_host.front() == '[' && bind_host.back() == ']') {
    bind_host = bind_host.substr(1, bind_host.size() - 2);
  }

  httplib::Server& server = impl_->server;
  // The library's own choice lets two processes share a port, each getting some of the questions.
  server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  // A probe is one small GET: strangers get neither memory nor threads out of it.
  server.new_task_queue = [] { return new httplib::ThreadPool(2); };
  server.set_payload_max_length(1024);
  server.set_read_timeout(2);
  server.set_write_timeout(2);
  server.set_keep_alive_timeout(2);
  server.set_keep_alive_max_count(100);
  const auto probe = [](std::function<bool()> good) {
    return [good](const httplib::Request&, httplib::Response& response) {
      const bool ok = good();
      response.status = ok ? 200 : 503;
      response.set_content(ok ? "ok\n" : "no\n", "text/plain");
    };
  };
  server.Get("/healthz", probe(pages.alive));
  server.Get("/readyz", probe(pages.ready));
  server.Get("/metrics", [text = std::move(pages.metrics)](const httplib::Request&,
                                                           httplib::Response& response) {
    response.set_content(text(), "text/plain; version=0.0.4");
  });

  const bool bound = impl_->port == 0 ? (impl_->port = server.bind_to_any_port(bind_host)) > 0
                                      : server.bind_to_port(bind_host, impl_->port);
  if (!bound) fail("cannot listen for HTTP", address, "another process may have this port");
  impl_->thread = std::thread([&server] { server.listen_after_bind(); });
  while (!server.is_running()) std::this_thread::yield();
}

HttpServer::~HttpServer() {
  impl_->server.stop();
  impl_->thread.join();
}

std::string HttpServer::address() const { return impl_->host + ":" + std::to_string(impl_->port); }

}  // namespace ens
