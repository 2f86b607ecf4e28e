// SPDX-License-Identifier: Apache-2.0
// Site: what every request of a browser passes before a room sees it: who may ask (token, cookie),
// from where (Host, Origin, X-Ens), and with which headers everything is answered. It knows no
// socket, so that tests and fuzzers can ask it directly.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "net/http/server.h"

namespace google::protobuf {
class Message;
}

namespace ens {

// An answer with another status than 200, as a studio::Failure.
class Refusal : public Error {
 public:
  Refusal(unsigned status, const std::string& what, const std::string& where = "",
          const std::string& hint = "");
  unsigned status;
  std::string what_failed, where, hint;
};

struct SiteFile {
  std::string path, type, bytes;
};

struct SiteOptions {
  std::string token;               // empty: nobody is asked for one (--no-token)
  std::vector<std::string> hosts;  // values of Host that are ours: "127.0.0.1:8080"
  std::string cookie;              // its name
  bool behind_proxy = false;       // an Origin may be https
  std::vector<SiteFile> files;     // "/" is index.html
  std::function<std::string(const std::string&)> serve_file;  // development: by path, or empty
};

class Site {
 public:
  struct Call {
    const HttpRequest& request;
    std::vector<std::string> ids;  // what stood for the '*' of the pattern
    std::string visitor;           // 32 hex digits of a cookie that ends with the browser
    // The body as a message. Refusal 400 if it is none.
    void read(google::protobuf::Message& message) const;
  };
  using Action = std::function<HttpReply(const Call&)>;

  explicit Site(SiteOptions options);

  // "runs/*/curve", below /api/v1; '*' is one part of a path. Not while requests are answered.
  void get(const std::string& pattern, Action action) { add("GET", pattern, std::move(action)); }
  void post(const std::string& pattern, Action action) { add("POST", pattern, std::move(action)); }
  void remove(const std::string& pattern, Action action) {
    add("DELETE", pattern, std::move(action));
  }

  // Never throws. Thread-safe.
  HttpReply operator()(const HttpRequest& request);

 private:
  struct Route {
    std::string method;
    std::vector<std::string> pattern;
    Action action;
  };
  void add(const std::string& method, const std::string& pattern, Action action);
  HttpReply route(const HttpRequest& request);
  HttpReply sign_in(const HttpRequest& request);
  HttpReply with_visitor(const Route& route, Call& call) const;
  void check_origin(const HttpRequest& request) const;
  bool has_cookie(const HttpRequest& request) const;

  const SiteOptions options_;
  const std::string cookie_value_;
  std::vector<Route> routes_;
  std::mutex mutex_;
  std::deque<std::chrono::steady_clock::time_point> failures_;  // of signing in
};

// Nothing inline, nothing from elsewhere; `framed`: with what says that no frame may hold the page.
std::string content_security_policy(bool framed);

// 200 with the message as JSON.
HttpReply json_reply(const google::protobuf::Message& message, unsigned status = 200);

}  // namespace ens
