// SPDX-License-Identifier: Apache-2.0
#include "net/http/server.h"

#include <microhttpd.h>
#include <netdb.h>

#include <charconv>
#include <cstring>

#include "base/error.h"

namespace ens {
namespace {

constexpr const char* kAddressHint = "write HOST:PORT, as in 127.0.0.1:9464";
// A probe is one small GET. A connection takes no thread and at most this memory. One address
// cannot take all connections, however slowly it speaks.
constexpr unsigned kConnections = 64, kConnectionsOfOneAddress = 16;
constexpr unsigned kIdleSeconds = 2;
constexpr size_t kConnectionBytes = 16384;

MHD_Result reply(MHD_Connection* connection, unsigned status, const char* type,
                 const std::string& text) {
  MHD_Response* response = MHD_create_response_from_buffer(
      text.size(), const_cast<char*>(text.data()), MHD_RESPMEM_MUST_COPY);
  if (!response) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  const MHD_Result result = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return result;
}

}  // namespace

struct HttpServer::Impl {
  // Nothing is thrown through the library.
  static MHD_Result handle(void* self, MHD_Connection* connection, const char* url,
                           const char* method, const char*, const char*, size_t*, void**) {
    const Pages& pages = static_cast<Impl*>(self)->pages;
    const auto probe = [&](bool good) {
      return reply(connection, good ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "text/plain",
                   good ? "ok\n" : "no\n");
    };
    try {
      // The library leaves out the body of a reply to HEAD.
      if (std::strcmp(method, MHD_HTTP_METHOD_GET) != 0 &&
          std::strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        return reply(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "GET and HEAD only\n");
      }
      if (std::strcmp(url, "/healthz") == 0) return probe(pages.alive());
      if (std::strcmp(url, "/readyz") == 0) return probe(pages.ready());
      if (std::strcmp(url, "/metrics") == 0) {
        return reply(connection, MHD_HTTP_OK, "text/plain; version=0.0.4", pages.metrics());
      }
      return reply(connection, MHD_HTTP_NOT_FOUND, "text/plain", "not here\n");
    } catch (const std::exception&) {
      return MHD_NO;
    }
  }

  Pages pages;
  std::string host;
  int port = 0;
  MHD_Daemon* daemon = nullptr;
};

HttpServer::HttpServer(const std::string& address, Pages pages) : impl_(std::make_unique<Impl>()) {
  const size_t colon = address.rfind(':');
  const char* end = address.data() + address.size();
  if (colon == std::string::npos || colon == 0 ||
      std::from_chars(address.data() + colon + 1, end, impl_->port).ptr != end ||
      colon + 1 == address.size() || impl_->port < 0 || impl_->port > 65535) {
    usage_fail("'" + address + "' is no address for HTTP", "http", kAddressHint);
  }
  impl_->pages = std::move(pages);
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
  impl_->daemon = MHD_start_daemon(
      MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD |
          (found->ai_family == AF_INET6 ? MHD_USE_IPv6 : MHD_NO_FLAG),
      static_cast<uint16_t>(impl_->port), nullptr, nullptr, &Impl::handle, impl_.get(),
      MHD_OPTION_SOCK_ADDR, found->ai_addr, MHD_OPTION_CONNECTION_LIMIT, kConnections,
      MHD_OPTION_PER_IP_CONNECTION_LIMIT, kConnectionsOfOneAddress, MHD_OPTION_CONNECTION_TIMEOUT,
      kIdleSeconds, MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionBytes, MHD_OPTION_END);
  ::freeaddrinfo(found);
  if (!impl_->daemon) fail("cannot listen for HTTP", address, "another process may have this port");
  impl_->port = MHD_get_daemon_info(impl_->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
}

HttpServer::~HttpServer() { MHD_stop_daemon(impl_->daemon); }

std::string HttpServer::address() const { return impl_->host + ":" + std::to_string(impl_->port); }

}  // namespace ens
