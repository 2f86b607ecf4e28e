// SPDX-License-Identifier: Apache-2.0
// Addresses "tcp://HOST:PORT", and the names in them.
//
// libzmq looks names up in the thread that carries all its connections, and takes one family only.
// Here a name is looked up in a thread of its own, and libzmq gets numbers.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/wake_event.h"

namespace ens {

struct ResolvedAddress {
  std::vector<std::string> endpoints;  // tcp://NUMBER:PORT, best first, both families
  std::string error;                   // why there is none
};

// Whether HOST is a name that must be looked up. Usage Error if it is not an address of ZeroMQ.
bool has_host_name(const std::string& address);

// Looks HOST up in the calling thread, which may take many seconds.
ResolvedAddress resolve(const std::string& address);

// tcp://NUMBER:PORT, as the operating system takes it. Nothing for other addresses.
std::optional<sockaddr_storage> socket_address(const std::string& endpoint);

// resolve() in a thread of its own, which nobody waits for: a lookup cannot be broken off.
class Lookup {
 public:
  // Calls done_event->wake() when it is done.
  Lookup(std::string address, std::shared_ptr<WakeEvent> done_event);

  bool done() const;
  const ResolvedAddress& result() const;  // once it is done

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace ens
