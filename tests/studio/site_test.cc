// SPDX-License-Identifier: Apache-2.0
// What a request must have, asked without a socket.
#include "studio/site.h"

#include <gtest/gtest.h>

#include <string>

#include "proto/studio.pb.h"

namespace ens {
namespace {

const std::string kToken(64, 'a');

struct SiteTest : testing::Test {
  SiteTest()
      : site({.token = kToken,
              .hosts = {"127.0.0.1:1"},
              .cookie = "ens-studio-1",
              .files = {{"/index.html", "text/html", "page"},
                        {"/app.js", "text/javascript", "js"}}}) {
    site.get("runs/*", [](const Site::Call& call) { return HttpReply{.body = call.ids.at(0)}; });
    site.post("jobs", [](const Site::Call& call) {
      studio::JobRequest request;
      call.read(request);
      return json_reply(request);
    });
    site.get("broken", [](const Site::Call&) -> HttpReply { throw std::runtime_error("odd"); });
  }

  static HttpRequest request(const std::string& method, const std::string& path) {
    HttpRequest r{.method = method, .path = path, .headers = {{"host", "127.0.0.1:1"}}};
    if (method != "GET") {
      r.headers.insert(
          r.headers.end(),
          {{"origin", "http://127.0.0.1:1"}, {"x-ens", "1"}, {"content-type", "application/json"}});
    }
    return r;
  }
  static HttpRequest without(HttpRequest r, const std::string& header) {
    std::erase_if(r.headers, [&](const auto& h) { return h.first == header; });
    return r;
  }
  HttpReply sign_in(const std::string& token) {
    HttpRequest r = request("POST", "/api/v1/session");
    r.body = "{\"token\":\"" + token + "\"}";
    return site(r);
  }
  // As a browser that has signed in.
  HttpRequest signed_in(HttpRequest r) {
    for (const auto& [name, value] : sign_in(kToken).headers) {
      if (name == "Set-Cookie")
        r.headers.emplace_back("cookie", "other=1; " + value.substr(0, value.find(';')));
    }
    return r;
  }

  Site site;
};

TEST_F(SiteTest, ServesPagesToAnybodyAndNothingElse) {
  EXPECT_EQ(site(request("GET", "/")).body, "page");
  EXPECT_EQ(site(request("GET", "/app.js")).body, "js");
  for (const char* path : {"/../etc/passwd", "/app.js/", "/app", "//app.js", "/%2e%2e/x"})
    EXPECT_EQ(site(request("GET", path)).status, 404u) << path;
  EXPECT_EQ(site(request("GET", "/api/v1/runs/1")).status, 401u);
}

TEST_F(SiteTest, EveryAnswerForbidsWhatPagesDoNotNeed) {
  for (const HttpRequest& r : {request("GET", "/"), request("GET", "/none"), request("PUT", "/"),
                               request("GET", "/api/v1/runs/1")}) {
    const HttpReply reply = site(r);
    const auto header = [&](const char* wanted) {
      for (const auto& [name, value] : reply.headers) {
        if (name == wanted) return value;
      }
      return std::string();
    };
    EXPECT_TRUE(
        header("Content-Security-Policy").starts_with("default-src 'none'; script-src 'self'"));
    EXPECT_EQ(header("X-Content-Type-Options"), "nosniff");
    EXPECT_EQ(header("Referrer-Policy"), "no-referrer");
    EXPECT_EQ(header("Cross-Origin-Resource-Policy"), "same-origin");
    EXPECT_EQ(header("Cross-Origin-Opener-Policy"), "same-origin");
  }
}

TEST_F(SiteTest, AnswersForItsOwnNameOnly) {
  HttpRequest r = request("GET", "/");
  for (const char* host : {"evil.example", "127.0.0.1", "127.0.0.1:2", "127.0.0.1:1.evil", ""}) {
    r.headers[0].second = host;
    EXPECT_EQ(site(r).status, 421u) << host;
  }
  EXPECT_EQ(site(without(request("GET", "/"), "host")).status, 421u);
  r = request("GET", "/");
  r.headers.emplace_back("host", "127.0.0.1:1");  // twice
  EXPECT_EQ(site(r).status, 421u);
}

TEST_F(SiteTest, ChangesNeedOurOwnOriginAndHeader) {
  const HttpRequest good = signed_in(request("POST", "/api/v1/jobs"));
  HttpRequest r = good;
  r.body = "{}";
  EXPECT_EQ(site(r).status, 200u);
  for (const char* header : {"origin", "x-ens"}) EXPECT_EQ(site(without(r, header)).status, 403u);
  EXPECT_EQ(site(without(r, "cookie")).status, 401u);
  for (const char* origin :
       {"http://evil.example", "null", "https://127.0.0.1:1", "http://127.0.0.1:2"}) {
    HttpRequest other = without(r, "origin");
    other.headers.emplace_back("origin", origin);
    EXPECT_EQ(site(other).status, 403u) << origin;
  }
}

TEST_F(SiteTest, TheTokenOpensAndNothingLikeIt) {
  EXPECT_EQ(sign_in(kToken).status, 204u);
  for (const std::string& token :
       {std::string(), std::string(64, 'b'), kToken + "a", kToken.substr(1)})
    EXPECT_EQ(sign_in(token).status, 403u);
  EXPECT_EQ(site(signed_in(request("GET", "/api/v1/runs/12"))).body, "12");
  HttpRequest r = request("GET", "/api/v1/runs/12");
  r.headers.emplace_back("cookie", "ens-studio-1=" + kToken);  // the token is not the cookie
  EXPECT_EQ(site(r).status, 401u);
  for (const auto& [name, value] : sign_in(kToken).headers) {
    if (name != "Set-Cookie") continue;
    EXPECT_EQ(value.find(kToken), std::string::npos);
    EXPECT_NE(value.find("; HttpOnly; SameSite=Strict"), std::string::npos);
  }
}

TEST_F(SiteTest, TenWrongTokensAMinuteAndNoMore) {
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sign_in("wrong").status, 403u);
  EXPECT_EQ(sign_in("wrong").status, 429u);
  EXPECT_EQ(sign_in(kToken).status, 429u);
}

TEST_F(SiteTest, BodiesMustBeTheJsonThatIsAskedFor) {
  HttpRequest r = signed_in(request("POST", "/api/v1/jobs"));
  for (const char* body : {"", "nonsense", "[]", "{\"kind\":", "{\"unknown\":1}",
                           "{\"width\":1e99}", "{\"width\":\"x\"}", "{\"kind\":\"NONE\"}"}) {
    r.body = body;
    EXPECT_EQ(site(r).status, 400u) << body;
  }
  r.body = std::string(5000, '[');
  EXPECT_EQ(site(r).status, 400u);
  r.body = "{}";
  EXPECT_EQ(site(without(r, "content-type")).status, 415u);
}

TEST_F(SiteTest, ErrorsAreAnswers) {
  EXPECT_EQ(site(signed_in(request("GET", "/api/v1/broken"))).status, 500u);
  EXPECT_EQ(site(signed_in(request("GET", "/api/v1/none"))).status, 404u);
  EXPECT_EQ(site(signed_in(request("GET", "/api/v2/runs/1"))).status, 404u);
  EXPECT_EQ(site(signed_in(request("DELETE", "/api/v1/runs/1"))).status, 405u);
  EXPECT_EQ(site(request("BREW", "/")).status, 405u);
}

}  // namespace
}  // namespace ens
