// SPDX-License-Identifier: Apache-2.0
#include "studio/hub.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/http.h"

namespace ens {
namespace {

struct HubTest : testing::Test {
  // Readers come from several addresses: one may hold no more than 16 connections.
  int listen(const std::string& last = "", int reader = 0) {
    const int fd = test::dial_from("127.0.0." + std::to_string(1 + reader / 16), server.address());
    const std::string request = "GET /?after=" + last + " HTTP/1.1\r\nHost: h\r\n\r\n";
    (void)::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    return fd;
  }
  static std::string read_until(int fd, const std::string& end) {
    std::string got;
    char bytes[4096];
    while (got.find(end) == std::string::npos) {
      const ssize_t n = ::recv(fd, bytes, sizeof bytes, 0);
      if (n <= 0) break;
      got.append(bytes, static_cast<size_t>(n));
    }
    return got;
  }
  static std::string id_before(const std::string& text, const std::string& data) {
    const size_t at = text.rfind("id: ", text.find(data));
    return text.substr(at + 4, text.find('\n', at) - at - 4);
  }
  void publish(int n) {
    studio::Event event;
    event.set_indexed(n);
    hub.publish(event);
  }

  Hub hub;
  HttpServer server{"127.0.0.1:0", {.threads = 2}, [this](const HttpRequest& r) {
                      return hub.open(std::string(r.argument("after")));
                    }};
};

TEST_F(HubTest, APageThatWasAwayIsSentWhatItMissed) {
  int fd = listen();
  read_until(fd, "event: hello");
  publish(1);
  const std::string first = read_until(fd, "\"indexed\":1}");
  const std::string id = id_before(first, "\"indexed\":1}");
  ::close(fd);
  for (int n = 2; n < 5; ++n) publish(n);
  fd = listen(id);
  const std::string missed = read_until(fd, "\"indexed\":4}");
  EXPECT_EQ(missed.find("\"indexed\":1}"), std::string::npos);
  EXPECT_LT(missed.find("\"indexed\":2}"), missed.find("\"indexed\":3}"));
  EXPECT_EQ(missed.find("reset"), std::string::npos);
  publish(5);
  EXPECT_NE(read_until(fd, "\"indexed\":5}").find("\"indexed\":5}"), std::string::npos);
  ::close(fd);
}

TEST_F(HubTest, WhoMissedTooMuchOrKnowsAnotherServerStartsAnew) {
  publish(1);
  int fd = listen();
  const std::string hello = read_until(fd, "event: hello");
  const std::string id = id_before(hello, "event: hello");
  ::close(fd);
  for (size_t n = 0; n <= Hub::kReplayed; ++n) publish(2);
  for (const std::string& last : {id, std::string("other-3"), std::string("x"), id + "0000000"}) {
    fd = listen(last);
    EXPECT_NE(read_until(fd, "event: reset").find("event: reset"), std::string::npos) << last;
    ::close(fd);
  }
}

TEST_F(HubTest, ManyReadersHearTheSame) {
  std::vector<int> readers;
  for (int i = 0; i < 60; ++i) readers.push_back(listen("", i));
  for (const int fd : readers) read_until(fd, "event: hello");
  publish(7);
  for (const int fd : readers) {
    EXPECT_NE(read_until(fd, "\"indexed\":7}").find("\"indexed\":7}"), std::string::npos);
    ::close(fd);
  }
}

}  // namespace
}  // namespace ens
