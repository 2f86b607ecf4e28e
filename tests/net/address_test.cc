// SPDX-License-Identifier: Apache-2.0
#include "net/address.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "net/client_socket.h"
#include "net/server_socket.h"
#include "proto/wire.pb.h"

namespace ens {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

TEST(Address, ATcpHostThatIsNoNumberIsAName) {
  for (const char* name : {"tcp://localhost:1", "tcp://a.b:80", "tcp://127.evil.example:80"})
    EXPECT_TRUE(has_host_name(name)) << name;
  for (const char* number : {"tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://[fe80::1%lo]:1",
                             "tcp://*:1", "ipc:///tmp/x", "inproc://x"})
    EXPECT_FALSE(has_host_name(number)) << number;
  for (const char* bad : {"nonsense", "tcp://host", "tcp://host:70000", "tcp://host:x"})
    EXPECT_THROW(has_host_name(bad), Error) << bad;
}

TEST(Address, ANameIsResolvedToNumbersAndAMissingOneToAReason) {
  const ResolvedAddress local = resolve("tcp://localhost:4711");
  ASSERT_FALSE(local.endpoints.empty()) << local.error;
  for (const std::string& endpoint : local.endpoints) {
    EXPECT_FALSE(has_host_name(endpoint)) << endpoint;
    EXPECT_TRUE(endpoint.ends_with(":4711"));
    EXPECT_TRUE(socket_address(endpoint).has_value());
  }
  const ResolvedAddress missing = resolve("tcp://no-such-host.invalid:4711");
  EXPECT_TRUE(missing.endpoints.empty());
  EXPECT_NE(missing.error.find("no-such-host.invalid"), std::string::npos) << missing.error;
}

// ---- connecting by name

class NameTest : public testing::Test {
 protected:
  static ClientSocket client(std::vector<std::string> addresses) {
    return {std::move(addresses), std::nullopt, 1 << 20};
  }
  static std::string port(const ServerSocket& server) {
    return server.endpoint().substr(server.endpoint().rfind(':') + 1);
  }
  // Until a message reached the server.
  static bool reaches(ClientSocket& client, ServerSocket& server, milliseconds patience) {
    wire::Request request;
    request.set_id(7);
    Message message;
    bool sent = false;
    for (const auto end = Clock::now() + patience; Clock::now() < end;) {
      while (client.next_event()) {
      }
      sent = sent || client.send(request, {}) > 0;
      (void)client.wait(milliseconds(5), !sent);
      server.wait(milliseconds(5));
      if (server.receive(message)) return true;
    }
    return false;
  }
};

// `localhost` may mean ::1 first, or 127.0.0.1 alone.
TEST_F(NameTest, ANameReachesWhicheverFamilyListens) {
  for (const char* bind : {"tcp://127.0.0.1:*", "tcp://[::1]:*"}) {
    const ResolvedAddress local = resolve("tcp://localhost:1");
    if (std::string(bind).find("::1") != std::string::npos &&
        std::ranges::find(local.endpoints, "tcp://[::1]:1") == local.endpoints.end()) {
      GTEST_SKIP() << "localhost has no IPv6 address here";
    }
    ServerSocket server(bind, std::nullopt, 1 << 20, {});
    ClientSocket edge = client({"tcp://localhost:" + port(server)});
    EXPECT_TRUE(reaches(edge, server, seconds(10))) << bind;
  }
}

TEST_F(NameTest, AServerBindsANameAndAllFamilies) {
  ServerSocket named("tcp://localhost:*", std::nullopt, 1 << 20, {});
  ClientSocket by_name = client({"tcp://localhost:" + port(named)});
  EXPECT_TRUE(reaches(by_name, named, seconds(10)));
  ServerSocket all("tcp://*:*", std::nullopt, 1 << 20, {});
  ClientSocket four = client({"tcp://127.0.0.1:" + port(all)});
  EXPECT_TRUE(reaches(four, all, seconds(10)));
  if (all.endpoint().find('[') == std::string::npos) GTEST_SKIP() << "no IPv6 here";
  ClientSocket six = client({"tcp://[::1]:" + port(all)});
  EXPECT_TRUE(reaches(six, all, seconds(10)));
}

// Opening, going on to the next address, and closing wait for no name server.
TEST_F(NameTest, ANameThatIsNotFoundHoldsNothingUp) {
  ServerSocket server("tcp://127.0.0.1:*", std::nullopt, 1 << 20, {});
  const auto start = Clock::now();
  {
    ClientSocket edge = client({"tcp://no-such-host.invalid:5755", server.endpoint()});
    EXPECT_LT(Clock::now() - start, seconds(1));
    edge.connect_to_next();
    EXPECT_TRUE(reaches(edge, server, seconds(5)));
    edge.connect_to_next();
    EXPECT_FALSE(edge.name_problem().empty());
  }
  EXPECT_LT(Clock::now() - start, seconds(6));
}

// A connection is dropped at any moment of its beginning: libzmq's thread must not wait for us.
TEST_F(NameTest, GoingOnAtAnyMomentLeavesTheNextConnectionGood) {
  ServerSocket server("tcp://127.0.0.1:*", std::nullopt, 1 << 20, {});
  for (int i = 0; i < 20; ++i) {
    ClientSocket edge = client({server.endpoint(), server.endpoint()});
    std::this_thread::sleep_for(std::chrono::microseconds(100 * i));
    edge.connect_to_next();
    ASSERT_TRUE(reaches(edge, server, seconds(5))) << i;
  }
}

TEST_F(NameTest, AWaitIsBrokenOffFromAnotherThread) {
  ClientSocket edge = client({"tcp://no-such-host.invalid:5755"});
  const auto start = Clock::now();
  std::jthread other([&] {
    std::this_thread::sleep_for(milliseconds(50));
    edge.cancel();
  });
  while (!edge.cancelled() && Clock::now() - start < seconds(5)) {
    (void)edge.wait(milliseconds(60000), true);
  }
  EXPECT_LT(Clock::now() - start, seconds(3));
}

}  // namespace
}  // namespace ens
