// SPDX-License-Identifier: Apache-2.0
#include "studio/site.h"

#include <algorithm>
#include <span>

#include "base/hash.h"
#include "base/strings.h"
#include "nn/core/rng.h"
#include "proto/results.h"
#include "proto/studio.pb.h"

namespace ens {
namespace {

constexpr std::string_view kApi = "/api/v1/";
constexpr const char* kJson = "application/json; charset=utf-8";
constexpr size_t kFailuresAMinute = 10;

// Nothing inline, nothing from elsewhere, in no frame.
const std::vector<std::pair<std::string, std::string>> kHeaders = {
    {"Content-Security-Policy", content_security_policy(/*framed=*/true)},
    {"X-Content-Type-Options", "nosniff"},
    {"Referrer-Policy", "no-referrer"},
    {"Cross-Origin-Opener-Policy", "same-origin"},
    {"Cross-Origin-Resource-Policy", "same-origin"},
};

// The cookie is not the token: who reads one cannot sign in elsewhere with it.
std::string cookie_of(const std::string& token) {
  static constexpr std::string_view kPurpose = "ensembler studio cookie";
  if (token.empty()) return "";
  const auto bytes = [](std::string_view text) {
    return std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  };
  const auto code = hmac_sha256(bytes(token), bytes(kPurpose));
  return to_hex({reinterpret_cast<const char*>(code.data()), code.size()});
}

// The values of all cookies of that name.
std::vector<std::string> cookies(const HttpRequest& request, const std::string& wanted) {
  std::vector<std::string> out;
  for (const auto& [name, value] : request.headers) {
    if (name != "cookie") continue;
    for (const std::string& part : split_text(value, ';')) {
      const std::string cookie = trimmed(part);
      const size_t sign = cookie.find('=');
      if (sign != std::string::npos && cookie.substr(0, sign) == wanted)
        out.push_back(cookie.substr(sign + 1));
    }
  }
  return out;
}

bool is_visitor(const std::string& text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

HttpReply failure_reply(unsigned status, const std::string& what, const std::string& where,
                        const std::string& hint) {
  studio::Failure failure;
  failure.set_what(what);
  if (!where.empty()) failure.set_where(where);
  if (!hint.empty()) failure.set_hint(hint);
  return json_reply(failure, status);
}

}  // namespace

std::string content_security_policy(bool framed) {
  std::string out =
      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src "
      "'self'; base-uri 'none'; form-action 'none'";
  if (framed) out += "; frame-ancestors 'none'";  // means nothing inside a page
  return out;
}

Refusal::Refusal(unsigned status_, const std::string& what, const std::string& where_,
                 const std::string& hint_)
    : Error(Kind::kUsage, what, where_, hint_),
      status(status_),
      what_failed(what),
      where(where_),
      hint(hint_) {}

HttpReply json_reply(const google::protobuf::Message& message, unsigned status) {
  return {.status = status,
          .type = kJson,
          .body = results::to_json(message, /*indented=*/false),
          .headers = {{"Cache-Control", "no-store"}}};
}

void Site::Call::read(google::protobuf::Message& message) const {
  if (!request.header("content-type").starts_with("application/json"))
    throw Refusal(415, "the body is not application/json", "Content-Type");
  std::string why;
  if (!results::from_json(request.body, message, why))
    throw Refusal(400, "the request cannot be read: " + why, "body", "see studio/api.md");
}

Site::Site(SiteOptions options)
    : options_(std::move(options)), cookie_value_(cookie_of(options_.token)) {}

void Site::add(const std::string& method, const std::string& pattern, Action action) {
  routes_.push_back({method, split_text(pattern, '/'), std::move(action)});
}

HttpReply Site::operator()(const HttpRequest& request) {
  HttpReply reply;
  try {
    reply = route(request);
  } catch (const Refusal& refusal) {
    reply = failure_reply(refusal.status, refusal.what_failed, refusal.where, refusal.hint);
  } catch (const Error& error) {
    reply = failure_reply(error.kind() == Error::Kind::kUsage ? 400 : 500, error.what(), "", "");
  } catch (const std::exception& error) {
    reply = failure_reply(500, error.what(), "", "");
  }
  reply.headers.insert(reply.headers.end(), kHeaders.begin(), kHeaders.end());
  return reply;
}

HttpReply Site::route(const HttpRequest& request) {
  // A name of somebody else that leads to this address (DNS rebinding) is not ours.
  const std::string host(request.header("host"));
  if (request.count("host") != 1 || std::ranges::find(options_.hosts, host) == options_.hosts.end())
    throw Refusal(421, "this server does not answer for that host", "Host",
                  "use the address that it printed");
  const bool changes = request.method == "POST" || request.method == "DELETE";
  if (!changes && request.method != "GET") throw Refusal(405, "no such method", request.method);

  if (!request.path.starts_with("/api/")) {
    if (changes) throw Refusal(405, "pages can only be read", request.method);
    const std::string path = request.path == "/" ? "/index.html" : request.path;
    const auto file = std::ranges::find(options_.files, path, &SiteFile::path);
    if (options_.serve_file) {
      if (file == options_.files.end()) throw Refusal(404, "there is no such page", "");
      return {.type = file->type,
              .body = options_.serve_file(path),
              .headers = {{"Cache-Control", "no-store"}}};
    }
    if (file == options_.files.end()) throw Refusal(404, "there is no such page", "");
    // The names of all others hold a hash of what is in them.
    const bool changing = path == "/index.html";
    return {.type = file->type,
            .body = file->bytes,
            .headers = {
                {"Cache-Control", changing ? "no-cache" : "public, max-age=31536000, immutable"}}};
  }
  if (changes) check_origin(request);
  if (request.path == std::string(kApi) + "session") {
    if (request.method != "POST") throw Refusal(405, "sign in with POST", request.method);
    return sign_in(request);
  }
  if (!has_cookie(request))
    throw Refusal(401, "this page is not signed in", "cookie",
                  "open the address that the studio printed, with its token");

  if (!request.path.starts_with(kApi)) throw Refusal(404, "there is no such version", "path");
  const std::vector<std::string> parts = split_text(request.path.substr(kApi.size()), '/');
  bool known = false;
  for (const Route& route : routes_) {
    if (route.pattern.size() != parts.size()) continue;
    Call call{request, {}, {}};
    bool fits = true;
    for (size_t i = 0; i < parts.size() && fits; ++i) {
      if (route.pattern[i] == "*") {
        call.ids.push_back(parts[i]);
      } else {
        fits = route.pattern[i] == parts[i];
      }
    }
    if (!fits) continue;
    known = true;
    if (route.method == request.method) return with_visitor(route, call);
  }
  if (known) throw Refusal(405, "this cannot be done there", request.method);
  throw Refusal(404, "there is nothing at this address", "path");
}

// Whoever comes without a visitor's cookie gets a new one, which ends with the browser.
HttpReply Site::with_visitor(const Route& route, Call& call) const {
  const std::string name = options_.cookie + "-visitor";
  for (const std::string& value : cookies(call.request, name)) {
    if (is_visitor(value)) call.visitor = value;
  }
  if (!call.visitor.empty()) return route.action(call);
  const uint64_t random[2] = {secure_random(), secure_random()};
  call.visitor = to_hex({reinterpret_cast<const char*>(random), sizeof random});
  HttpReply reply = route.action(call);
  reply.headers.emplace_back("Set-Cookie", name + "=" + call.visitor +
                                               "; Path=/; HttpOnly; SameSite=Strict" +
                                               (options_.behind_proxy ? "; Secure" : ""));
  return reply;
}

// What another site's page can send with this browser's cookie lacks at least one of these.
void Site::check_origin(const HttpRequest& request) const {
  const std::string_view origin = request.header("origin");
  const std::string host(request.header("host"));
  const bool ours =
      request.count("origin") == 1 &&
      (origin == "http://" + host || (options_.behind_proxy && origin == "https://" + host));
  if (!ours) throw Refusal(403, "the request comes from another site", "Origin");
  if (request.header("x-ens") != "1") throw Refusal(403, "the header X-Ens is missing", "X-Ens");
}

bool Site::has_cookie(const HttpRequest& request) const {
  return options_.token.empty() ||
         std::ranges::any_of(cookies(request, options_.cookie), [&](const std::string& value) {
           return equal_in_constant_time(value, cookie_value_);
         });
}

HttpReply Site::sign_in(const HttpRequest& request) {
  const auto now = std::chrono::steady_clock::now();
  const auto too_many = [&] {  // with the mutex
    while (!failures_.empty() && now - failures_.front() > std::chrono::minutes(1))
      failures_.pop_front();
    return failures_.size() >= kFailuresAMinute;
  };
  {
    std::lock_guard lock(mutex_);
    if (too_many()) throw Refusal(429, "too many wrong tokens", "token", "wait a minute");
  }
  studio::SignIn message;
  Call{request, {}, {}}.read(message);
  if (!options_.token.empty() && !equal_in_constant_time(message.token(), options_.token)) {
    std::lock_guard lock(mutex_);
    failures_.push_back(now);
    throw Refusal(403, "the token is wrong", "token", "open the address that the studio printed");
  }
  const std::string secure = options_.behind_proxy ? "; Secure" : "";
  return {.status = 204,
          .type = "",
          .headers = {
              {"Set-Cookie", options_.cookie + "=" + cookie_value_ +
                                 "; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000" + secure},
              {"Cache-Control", "no-store"}}};
}

}  // namespace ens
