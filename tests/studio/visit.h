// SPDX-License-Identifier: Apache-2.0
// A studio of its own folder, asked by raw sockets by one signed-in visitor.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "studio/studio.h"
#include "tests/support/http.h"
#include "tests/support/temp_dir.h"

namespace ens::test {

class StudioVisit : public testing::Test {
 protected:
  void SetUp() override {
    if (embedded_pages().empty()) GTEST_SKIP() << "built without the pages (ENS_STUDIO)";
    options_.runs = temp_ / "runs";
    options_.bind = "127.0.0.1:0";
    options_.program = "/bin/false";
    std::filesystem::create_directories(options_.runs);
  }
  void start() {
    studio_ = std::make_unique<Studio>(options_);
    const std::string address = studio_->address();
    host_ = address.substr(7, address.find('/', 7) - 7);
    const size_t token = address.find("#token=");
    cookie_.clear();
    if (token == std::string::npos) return;
    const std::string reply = sign_in_ =
        raw("POST /api/v1/session HTTP/1.1\r\nHost: " + host_ + "\r\nOrigin: http://" + host_ +
            "\r\nX-Ens: 1\r\n" + body("{\"token\":\"" + address.substr(token + 7) + "\"}"));
    const size_t set = reply.find("Set-Cookie: ");
    ASSERT_NE(set, std::string::npos) << reply;
    cookie_ = reply.substr(set + 12, reply.find(';', set) - set - 12);
  }
  static std::string body(const std::string& text, const std::string& type = "application/json") {
    return "Content-Type: " + type + "\r\nContent-Length: " + std::to_string(text.size()) +
           "\r\nConnection: close\r\n\r\n" + text;
  }
  std::string raw(const std::string& request) {
    const int fd = dial_from("127.0.0.1", host_);
    for (size_t sent = 0; sent < request.size();) {  // who refuses may hang up before the end
      const ssize_t n = ::send(fd, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) break;
      sent += static_cast<size_t>(n);
    }
    const std::string got = receive_all(fd);
    ::close(fd);
    return got;
  }
  // Status and body.
  std::pair<int, std::string> ask(const std::string& method, const std::string& path,
                                  const std::string& text = "",
                                  const std::string& type = "application/json") {
    const std::string reply =
        raw(method + " /api/v1/" + path + " HTTP/1.1\r\nHost: " + host_ + "\r\nCookie: " + cookie_ +
            "; " + cookie_.substr(0, cookie_.find('=')) + "-visitor=" + visitor_ +
            "\r\nOrigin: http://" + host_ + "\r\nX-Ens: 1\r\n" + body(text, type));
    everything_ += reply;
    const size_t end = reply.find("\r\n\r\n");
    if (end == std::string::npos) return {0, reply};
    return {std::stoi(reply.substr(9)), reply.substr(end + 4)};
  }
  nlohmann::json get(const std::string& path) {
    const auto [status, text] = ask("GET", path);
    EXPECT_EQ(status, 200) << path << ": " << text;
    return nlohmann::json::parse(text, nullptr, false);
  }

  TempDir temp_;
  StudioOptions options_;
  std::unique_ptr<Studio> studio_;
  std::string host_, cookie_, sign_in_, everything_;
  std::string visitor_ = std::string(32, 'a');
};

}  // namespace ens::test
