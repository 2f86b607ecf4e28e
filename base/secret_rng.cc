// SPDX-License-Identifier: Apache-2.0
#include "base/secret_rng.h"

#include <openssl/crypto.h>

#include <cmath>
#include <numbers>
#include <numeric>
#include <span>
#include <utility>

namespace ens {

SecretRng::~SecretRng() {
  OPENSSL_cleanse(words_.data(), sizeof words_);
  OPENSSL_cleanse(&second_, sizeof second_);
}

uint64_t SecretRng::next() {
  if (used_ == words_.size()) {
    stream_.fill({reinterpret_cast<uint8_t*>(words_.data()), sizeof words_});
    used_ = 0;
  }
  return words_[used_++];
}

double SecretRng::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

double SecretRng::normal() {
  if (std::exchange(has_second_, false)) return second_;
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  const double angle = 2 * std::numbers::pi * uniform();
  second_ = radius * std::sin(angle);
  has_second_ = true;
  return radius * std::cos(angle);
}

double SecretRng::laplace() {
  const uint64_t bits = next();
  const double magnitude = -std::log(1 - static_cast<double>(bits >> 11) * 0x1p-53);
  return bits & 1 ? magnitude : -magnitude;
}

uint64_t SecretRng::below(uint64_t n) {
  const uint64_t biased = (0 - n) % n;  // so many of the 2^64 values are left over
  uint64_t value = next();
  while (value < biased) value = next();
  return value % n;
}

std::vector<int64_t> SecretRng::permutation(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[below(static_cast<uint64_t>(i) + 1)]);
  }
  return order;
}

}  // namespace ens
