// SPDX-License-Identifier: Apache-2.0
// HttpServer: the one place that speaks HTTP: address, limits, answers. Health and metrics
// (net/http/probes.h) and the studio (studio/site.h) are handlers of it.
//
// One thread reads and writes all connections; handlers run on threads of their own, so that a slow
// one delays no stream and no other client.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ens {

struct HttpRequest {
  std::string method;  // "GET"; a HEAD request arrives as GET
  std::string path;    // percent-decoded, without the query
  std::vector<std::pair<std::string, std::string>> query, headers;  // header names in lower case
  std::string body;
  std::string peer;  // the client's address, without its port

  // The first of that name; empty if there is none.
  std::string_view header(std::string_view name) const;
  std::string_view argument(std::string_view name) const;
  int count(std::string_view header) const;  // how often a header was sent
};

// A reply without an end: whoever holds it sends text until the reader goes away. Thread-safe.
class HttpStream {
 public:
  // At most `limit` texts wait for a slow reader; then all are dropped and `overflow` is sent in
  // their place.
  HttpStream(size_t limit, std::string overflow);
  ~HttpStream();
  bool send(std::string text);  // false if the reader has gone
  void close();                 // after what waits
  bool open() const;

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
  friend class HttpServer;
};

struct HttpReply {
  unsigned status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  std::shared_ptr<HttpStream> stream;  // instead of a body
};

// What one client can take. A connection holds no thread and at most head_bytes + body_bytes.
struct HttpLimits {
  unsigned connections = 64, connections_of_one_address = 16;
  unsigned idle_seconds = 2;                      // without a byte
  unsigned head_seconds = 10, body_seconds = 60;  // for all of it, however slowly it trickles
  size_t head_bytes = 16384;                      // 431 or 414 beyond
  size_t body_bytes = 0;                          // 413 beyond
  std::map<std::string, size_t> body_bytes_of;    // by path, where it is another number
  unsigned threads = 1;                           // that run handlers
};

class HttpServer {
 public:
  // Called by several threads. An exception closes the connection.
  using Handler = std::function<HttpReply(const HttpRequest&)>;
  // "HOST:PORT", port 0 for any free one. Serves on threads of its own until it is destroyed. Error
  // if it cannot listen.
  HttpServer(const std::string& address, const HttpLimits& limits, Handler handler);
  ~HttpServer();

  std::string address() const;  // with the real port
  int port() const;
  bool loopback() const;  // whether it can be reached from this machine alone

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
