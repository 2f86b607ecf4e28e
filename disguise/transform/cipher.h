// SPDX-License-Identifier: Apache-2.0
// OpenSSL's AES (internal to this folder).
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>

struct evp_cipher_ctx_st;

namespace ens {

enum class AesMode { kEcb, kCtr };

// Of one thread.
class AesCipher {
 public:
  // key: 16 or 32 bytes, else Error. start: the 16 bytes of the first counter block; kEcb has none.
  AesCipher(AesMode mode, std::span<const uint8_t> key, std::span<const uint8_t> start = {});
  // In place; with kEcb whole blocks of 16 bytes.
  void encrypt(std::span<uint8_t> bytes);

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
};

// What the body of a parallel_for(), which must not throw, could not do: the first exception.
class FirstFailure {
 public:
  template <typename F>
  void guard(F&& f) {
    try {
      f();
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr failure_;
};

// A pixel as a byte: rounded to the nearest of 0..255, never wrapped.
uint8_t as_byte(float pixel);

}  // namespace ens
