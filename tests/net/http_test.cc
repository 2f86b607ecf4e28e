// SPDX-License-Identifier: Apache-2.0
#include "tests/support/http.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "net/http/server.h"

namespace ens {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

void put(int fd, const std::string& bytes) {
  (void)::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

// Until `end` was read, or the connection is closed.
std::string read_until(int fd, const std::string& end) {
  std::string got;
  char bytes[4096];
  while (got.find(end) == std::string::npos) {
    const ssize_t n = ::recv(fd, bytes, sizeof bytes, 0);
    if (n <= 0) break;
    got.append(bytes, static_cast<size_t>(n));
  }
  return got;
}

bool closed(int fd) {
  char bytes[4096];
  ssize_t n;
  while ((n = ::recv(fd, bytes, sizeof bytes, 0)) > 0) {
  }
  return n == 0 || errno == ECONNRESET;
}

HttpReply echo(const HttpRequest& r) {
  return {.body = r.method + " " + r.path + " " + std::string(r.argument("a")) + " " +
                  std::string(r.header("x-test")) + " " + r.body + " " + r.peer};
}

TEST(HttpServer, TellsHandlersWhatWasAsked) {
  HttpServer server("127.0.0.1:0", {.body_bytes = 100}, echo);
  EXPECT_TRUE(server.loopback());
  const int fd = test::dial_from("127.0.0.1", server.address());
  put(fd,
      "POST /x%20y?a=1%2B2&b HTTP/1.1\r\nHost: h\r\nX-TEST: t\r\nContent-Length: 4\r\n"
      "Connection: close\r\n\r\nbody");
  EXPECT_NE(read_until(fd, "127.0.0.1").find("POST /x y 1+2 t body 127.0.0.1"), std::string::npos);
  ::close(fd);
}

TEST(HttpServer, RefusesBodiesThatAreTooLarge) {
  std::atomic<int> asked{0};
  HttpServer server("127.0.0.1:0", {.body_bytes = 100}, [&](const HttpRequest& r) {
    ++asked;
    return echo(r);
  });
  int fd = test::dial_from("127.0.0.1", server.address());
  put(fd, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2147483648\r\n\r\n");
  EXPECT_NE(read_until(fd, "\r\n\r\n").find(" 413 "), std::string::npos);
  ::close(fd);
  // Of a length that is not announced.
  fd = test::dial_from("127.0.0.1", server.address());
  put(fd, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 10; ++i) put(fd, "20\r\n" + std::string(32, 'a') + "\r\n");
  EXPECT_TRUE(closed(fd));
  ::close(fd);
  EXPECT_EQ(asked, 0);
}

// One byte now and then keeps the library's own timeout from passing.
TEST(HttpServer, ClosesWhoeverTakesTooLongForAHead) {
  HttpServer server("127.0.0.1:0", {.idle_seconds = 5, .head_seconds = 1}, echo);
  const int fd = test::dial_from("127.0.0.1", server.address());
  const auto start = Clock::now();
  bool over = false;
  for (int i = 0; i < 40 && !over; ++i) {
    over = ::send(fd, "G", 1, MSG_NOSIGNAL) < 0;
    std::this_thread::sleep_for(100ms);
  }
  EXPECT_TRUE(over);
  EXPECT_LT(Clock::now() - start, 3500ms);
  ::close(fd);
}

TEST(HttpServer, ClosesWhoeverTakesTooLongForABody) {
  HttpServer server("127.0.0.1:0", {.idle_seconds = 5, .body_seconds = 1, .body_bytes = 1000},
                    echo);
  const int fd = test::dial_from("127.0.0.1", server.address());
  put(fd, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n");
  bool over = false;
  for (int i = 0; i < 40 && !over; ++i) {
    over = ::send(fd, "b", 1, MSG_NOSIGNAL) < 0;
    std::this_thread::sleep_for(100ms);
  }
  EXPECT_TRUE(over);
  ::close(fd);
}

TEST(HttpServer, ASlowHandlerDelaysNobodyElse) {
  HttpServer server("127.0.0.1:0", {.threads = 2}, [](const HttpRequest& r) {
    if (r.path == "/slow") std::this_thread::sleep_for(1s);
    return echo(r);
  });
  const int slow = test::dial_from("127.0.0.1", server.address());
  put(slow, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
  std::this_thread::sleep_for(50ms);
  const auto start = Clock::now();
  EXPECT_EQ(test::http_get(server.address(), "/fast").first, 200);
  EXPECT_LT(Clock::now() - start, 700ms);
  EXPECT_NE(read_until(slow, "/slow").find("200"), std::string::npos);
  ::close(slow);
}

TEST(HttpServer, AnExceptionClosesTheConnection) {
  HttpServer server("127.0.0.1:0", {},
                    [](const HttpRequest&) -> HttpReply { throw std::runtime_error("no"); });
  const int fd = test::dial_from("127.0.0.1", server.address());
  put(fd, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_TRUE(closed(fd));
  ::close(fd);
}

class HttpStreams : public testing::Test {
 protected:
  HttpReply open() {
    auto stream = std::make_shared<HttpStream>(4, "overflow\n");
    std::lock_guard lock(mutex_);
    streams_.push_back(stream);
    return {.type = "text/event-stream", .stream = stream};
  }
  std::shared_ptr<HttpStream> last() {
    for (int i = 0; i < 200; ++i) {
      {
        std::lock_guard lock(mutex_);
        if (!streams_.empty()) return streams_.back();
      }
      std::this_thread::sleep_for(10ms);
    }
    return nullptr;
  }
  int dial(const HttpServer& server, const char* method = "GET") {
    const int fd = test::dial_from("127.0.0.1", server.address());
    put(fd, std::string(method) + " / HTTP/1.1\r\nHost: h\r\n\r\n");
    return fd;
  }
  std::mutex mutex_;
  std::vector<std::shared_ptr<HttpStream>> streams_;
};

TEST_F(HttpStreams, DeliverWhatIsSentLater) {
  HttpServer server("127.0.0.1:0", {}, [&](const HttpRequest&) { return open(); });
  const int fd = dial(server);
  const auto stream = last();
  ASSERT_TRUE(stream);
  read_until(fd, "\r\n\r\n");
  std::this_thread::sleep_for(100ms);  // it has nothing to send: it is suspended
  EXPECT_TRUE(stream->send("one\n"));
  EXPECT_NE(read_until(fd, "one\n").find("one"), std::string::npos);
  EXPECT_TRUE(stream->send("two\n"));
  EXPECT_NE(read_until(fd, "two\n").find("two"), std::string::npos);
  stream->close();
  EXPECT_FALSE(stream->send("three\n"));
  EXPECT_NE(read_until(fd, "0\r\n\r\n").find("0\r\n\r\n"), std::string::npos);
  ::close(fd);
}

TEST_F(HttpStreams, ASlowReaderIsToldThatItMissedSomething) {
  HttpServer server("127.0.0.1:0", {}, [&](const HttpRequest&) { return open(); });
  const int fd = dial(server);
  const auto stream = last();
  ASSERT_TRUE(stream);
  const std::string large(1 << 20, 'x');  // more than a socket holds
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(stream->send(large + "\n"));
  const std::string got = read_until(fd, "overflow\n");
  EXPECT_NE(got.find("overflow\n"), std::string::npos);
  EXPECT_LT(got.size(), 20u << 20);
  ::close(fd);
}

TEST_F(HttpStreams, AreNoticedWhenTheirReaderHasGone) {
  HttpServer server("127.0.0.1:0", {}, [&](const HttpRequest&) { return open(); });
  const int fd = dial(server);
  const auto stream = last();
  ASSERT_TRUE(stream);
  ::close(fd);
  bool gone = false;
  for (int i = 0; i < 200 && !gone; ++i) {
    gone = !stream->send("x\n");
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_TRUE(gone);
}

TEST_F(HttpStreams, HeadAsksForNone) {
  HttpServer server("127.0.0.1:0", {}, [&](const HttpRequest&) { return open(); });
  const int fd = dial(server, "HEAD");
  EXPECT_NE(read_until(fd, "\r\n\r\n").find("200"), std::string::npos);
  ::close(fd);
}

TEST_F(HttpStreams, DoNotKeepAServerFromEnding) {
  std::vector<int> readers;
  {
    HttpServer server("127.0.0.1:0", {.threads = 2}, [&](const HttpRequest&) { return open(); });
    for (int i = 0; i < 8; ++i) readers.push_back(dial(server));
    last();
  }
  for (const int fd : readers) {
    EXPECT_TRUE(closed(fd));
    ::close(fd);
  }
}

}  // namespace
}  // namespace ens
