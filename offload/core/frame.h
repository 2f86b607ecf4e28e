// SPDX-License-Identifier: Apache-2.0
// What host and simulated enclave say to each other over their socket: a fixed header, little
// endian, and bytes. Neither trusts the other: lengths are checked before memory is taken.
//
// The enclave protects nothing from the machine's owner: it is a process like any other, which
// keeps to what it would see if it were one (docs/offload.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "offload/core/scheme.h"

namespace ens {

struct Frame {
  enum Kind : uint32_t {
    // Host to enclave; each is answered by kDone or kError.
    kSettings = 1,  // EnclaveSettings, then a worker's key for each
    kModel,         // an int8 network (nn/plan/int8_bytes.h), whose SHA-256 the settings name
    kImages,        // number: how many; sealed by the user, float32. Answered by sealed outputs
    kPrepare,       // number: images to compute ahead for
    kStatistics,    // answered by EnclaveStatistics
    kStop,
    // While images are computed.
    kJob,    // enclave to host: number: worker; JobHeader, then the share
    kReply,  // host to enclave: number: worker; ReplyHeader, then the products
    // Enclave to host.
    kDone,
    kError,  // number: 1, a usage error; a text
  };
  uint32_t kind = 0;
  uint32_t number = 0;
  std::vector<std::byte> data;
};
inline constexpr int64_t kMaxEnclaveFrame = int64_t{512} << 20;

// False: the other side has closed, or sent what is no frame. A frame for which there is no memory
// is received as kind 0, without its bytes.
bool send_frame(int socket, const Frame& frame);
bool receive_frame(int socket, Frame& frame);

// How images are computed.
enum class EnclaveMode : uint32_t {
  kInside,  // everything in the enclave
  kTiled,   // the same, convolutions by strips of output rows
  kShares,  // linear layers by workers, on shares
};

struct EnclaveSettings {
  uint8_t session_key[32];  // of the user's images and their outputs
  uint8_t model_sha256[32];
  char scheme[32] = "";
  char field[8] = "";
  EnclaveMode mode = EnclaveMode::kInside;
  uint32_t virtual_batch = 1, noises = 1, spare_shares = 0, repetitions = 0, retries = 0;
  uint32_t check = 1, seal = 1;
  uint32_t workers = 0;
  uint64_t memory_bytes = 0;
  double noise_mean = 0, noise_stddev = 1;
};

// One job: how its share is sent on. The share: 32 bytes of a seed, or planes; sealed or not.
struct JobHeader {
  uint64_t ticket = 0;  // echoed in the reply's header
  uint64_t step = 0;
  uint32_t group = 0, share = 0;
  int64_t batches = 0;
  uint32_t planes = 0;
  ShareNumbers numbers = ShareNumbers::kIntegers;
  uint32_t is_seed = 0, is_unsigned = 0, is_sealed = 0;
  uint8_t seal_key[32] = {};  // the enclave's public key
};
struct ReplyHeader {
  uint64_t ticket = 0;
  uint64_t step = 0;
  uint32_t share = 0;
  uint32_t failed = 0;  // a text follows
  double compute_ms = 0;
};

struct EnclaveStatistics {
  uint64_t peak_bytes = 0;       // the kernel's: growth of resident memory since the settings
  uint64_t allocator_bytes = 0;  // the most that tensors held at once
  double prepare_ms = 0, encode_ms = 0, wait_ms = 0, compute_ms = 0, check_ms = 0, decode_ms = 0,
         seal_ms = 0, total_ms = 0;
  int64_t images = 0, rounds = 0;
};

// What a share or its products are about, for sealing: the same on both sides.
std::vector<std::byte> seal_context(std::string_view session, uint64_t step, uint32_t share);

// The same for the images or outputs ("images", "outputs") of the call with that number, from 0: so
// that the outputs of one call are not taken for another's.
std::string call_context(const std::string& what, uint64_t call);

// Fixed structures as bytes.
template <typename T>
void put(std::vector<std::byte>& out, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto* from = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), from, from + sizeof value);
}
// Takes it from the front. False: there are fewer bytes.
template <typename T>
bool take(std::span<const std::byte>& from, T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (from.size() < sizeof value) return false;
  std::memcpy(&value, from.data(), sizeof value);
  from = from.subspan(sizeof value);
  return true;
}

}  // namespace ens
