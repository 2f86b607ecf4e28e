// SPDX-License-Identifier: Apache-2.0
#include "proto/status.h"

namespace ens {

const char* name(StatusCode code) {
  constexpr const char* kNames[] = {"OK",
                                    "INVALID_ARGUMENT",
                                    "FINGERPRINT_MISMATCH",
                                    "RESOURCE_EXHAUSTED",
                                    "DEADLINE_EXCEEDED",
                                    "UNAVAILABLE",
                                    "VERSION_MISMATCH",
                                    "INTERNAL",
                                    "UNAUTHENTICATED"};
  return kNames[static_cast<size_t>(code)];
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
