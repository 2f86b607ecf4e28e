// SPDX-License-Identifier: Apache-2.0
#include "net/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "net/keys.h"

namespace ens {
namespace {

struct HostPort {
  std::string host, port;
};

HostPort split(const std::string& address) {
  const size_t colon = address.rfind(':'), first = sizeof("tcp://") - 1;
  return {address.substr(first, colon - first), address.substr(colon + 1)};
}

}  // namespace

bool has_host_name(const std::string& address) {
  is_loopback(address);  // refuses what is no address
  if (!address.starts_with("tcp://")) return false;
  const std::string host = split(address).host;
  in_addr four;
  return host != "*" && host.find_first_of("[];:") == std::string::npos &&
         ::inet_pton(AF_INET, host.c_str(), &four) != 1;
}

ResolvedAddress resolve(const std::string& address) {
  const auto [host, port] = split(address);
  ResolvedAddress resolved;
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const int code = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (code != 0) {
    resolved.error = "the name '" + host + "' was not found (" + ::gai_strerror(code) + ")";
    return resolved;
  }
  for (const addrinfo* a = found; a; a = a->ai_next) {
    char number[NI_MAXHOST];
    if (::getnameinfo(a->ai_addr, a->ai_addrlen, number, sizeof number, nullptr, 0,
                      NI_NUMERICHOST) != 0) {
      continue;
    }
    const std::string text = number;
    const std::string endpoint =
        "tcp://" + (a->ai_family == AF_INET6 ? "[" + text + "]" : text) + ":" + port;
    if (std::ranges::find(resolved.endpoints, endpoint) == resolved.endpoints.end()) {
      resolved.endpoints.push_back(endpoint);
    }
  }
  ::freeaddrinfo(found);
  if (resolved.endpoints.empty()) resolved.error = "the name '" + host + "' has no address";
  return resolved;
}

std::optional<sockaddr_storage> socket_address(const std::string& endpoint) {
  if (!endpoint.starts_with("tcp://")) return std::nullopt;
  auto [host, port] = split(endpoint);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) return std::nullopt;
  sockaddr_storage address{};
  std::memcpy(&address, found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
  return address;
}

struct Lookup::State {
  std::shared_ptr<WakeEvent> event;
  std::atomic<bool> done{false};
  ResolvedAddress result;

  void finish(ResolvedAddress found) {
    result = std::move(found);
    done.store(true);
    event->wake();
  }
};

Lookup::Lookup(std::string address, std::shared_ptr<WakeEvent> done_event)
    : state_(std::make_shared<State>()) {
  state_->event = std::move(done_event);
  try {
    std::thread([state = state_, address = std::move(address)] {
      state->finish(resolve(address));
    }).detach();
  } catch (const std::system_error& error) {
    state_->finish({{}, std::string("no thread to look the name up: ") + error.what()});
  }
}

bool Lookup::done() const { return state_->done.load(); }
const ResolvedAddress& Lookup::result() const { return state_->result; }

}  // namespace ens
