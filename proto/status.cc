#include "proto/status.h"

namespace ens {

const char* name(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case StatusCode::kFingerprintMismatch:
      return "FINGERPRINT_MISMATCH";
    case StatusCode::kResourceExhausted:
      return "RESOURCE_EXHAUSTED";
    case StatusCode::kDeadlineExceeded:
      return "DEADLINE_EXCEEDED";
    case StatusCode::kUnavailable:
      return "UNAVAILABLE";
    case StatusCode::kVersionMismatch:
      return "VERSION_MISMATCH";
    case StatusCode::kInternal:
      return "INTERNAL";
    case StatusCode::kUnauthenticated:
      return "UNAUTHENTICATED";
  }
  return "INTERNAL";
}

StatusCode code_from_wire(uint32_t value) {
  return value <= static_cast<uint32_t>(StatusCode::kUnauthenticated)
             ? static_cast<StatusCode>(value)
             : StatusCode::kInternal;
}

std::string Status::str() const {
  return message.empty() ? name(code) : std::string(name(code)) + ": " + message;
}

}  // namespace ens
