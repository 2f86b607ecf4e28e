// SPDX-License-Identifier: Apache-2.0
// Status: how a request ended, on the request path and on the wire. Never thrown.
#pragma once

#include <cstdint>
#include <string>

namespace ens {

// The values travel on the wire (wire.proto mirrors them): never renumber.
enum class StatusCode {
  kOk = 0,
  kInvalidArgument = 1,      // malformed header, wrong shape, dtype, count or size
  kFingerprintMismatch = 2,  // the client was trained with other server nets
  kResourceExhausted = 3,    // queue full: try later
  kDeadlineExceeded = 4,     // the deadline passed before there was a reply
  kUnavailable = 5,          // not reachable, starting or draining
  kVersionMismatch = 6,      // protocol version not understood
  kInternal = 7,             // a defect on the replying side
  kUnauthenticated =
      8,  // no common keys; found by the edge, never sent (such a client gets no reply)
};

constexpr uint32_t kStatusCodes = 9;
const char* name(StatusCode code);          // "OK", "INVALID_ARGUMENT", ...
StatusCode code_from_wire(uint32_t value);  // kInternal for a number this version does not know

struct Status {
  StatusCode code = StatusCode::kOk;
  std::string message;  // for a person; no secrets, no pixel or feature values

  bool ok() const { return code == StatusCode::kOk; }
  std::string str() const;  // "UNAVAILABLE: no reply from tcp://..."
};

}  // namespace ens
