// SPDX-License-Identifier: Apache-2.0
// SecureStream: the secrets of a scheme. Never linked by a worker.
#pragma once

#include <cstdint>

#include "offload/core/seed.h"

namespace ens {

// Seeds, each the key of a stream of its own for one mask or one secret vector: from ChaCha20,
// keyed from the operating system's cryptographic source. Every key makes one stream, which also
// has the next key (fast key erasure), and no seed is given out twice. One thread at a time.
class SecureStream {
 public:
  SecureStream();
  ~SecureStream();
  SecureStream(const SecureStream&) = delete;
  SecureStream& operator=(const SecureStream&) = delete;

  Seed next();

 private:
  void refill();

  Seed key_;                       // of the next block of seeds
  std::array<Seed, 127> seeds_{};  // drawn ahead; wiped when given out
  size_t used_ = 0;
};

}  // namespace ens
