// SPDX-License-Identifier: Apache-2.0
#include "nn/core/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace ens {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

uint64_t hash(std::string_view text) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325ull;
  for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ull;
  return h;
}

}  // namespace

Rng::Rng(uint64_t seed, uint64_t stream) {
  state_.key = mix(mix(seed + 0x9e3779b97f4a7c15ull) ^ mix(stream + 0xd1b54a32d192ed03ull));
}

Rng::Rng(uint64_t seed, std::string_view stream_name) : Rng(seed, hash(stream_name)) {}

Rng Rng::blank() {
  Rng rng;
  rng.blank_ = true;
  return rng;
}

uint64_t Rng::next() { return mix(state_.key + 0x9e3779b97f4a7c15ull * ++state_.counter); }

double Rng::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

uint64_t Rng::below(uint64_t n) {
  if (n == 0) fail("Rng::below needs a positive bound");
  const uint64_t limit = -n % n;  // 2^64 mod n: values below it would bias the result
  uint64_t value = next();
  while (value < limit) value = next();
  return value % n;
}

double Rng::normal() {
  // Box-Muller; one value per call keeps the state to a single counter.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

void Rng::fill_normal(std::span<float> out, float mean, float stddev) {
  if (blank_) return;
  for (float& value : out) value = mean + stddev * static_cast<float>(normal());
}

void Rng::fill_uniform(std::span<float> out, float low, float high) {
  if (blank_) return;
  for (float& value : out) value = low + (high - low) * static_cast<float>(uniform());
}

std::vector<int64_t> Rng::permutation(int64_t n) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(order[i], order[static_cast<int64_t>(below(static_cast<uint64_t>(i) + 1))]);
  }
  return order;
}

uint64_t secure_random() {
  uint64_t value = 0;
  if (getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value)) {
    fail("the operating system gave no random bytes", "getrandom");
  }
  return value;
}

Seed secure_seed() {
  Seed seed;
  for (size_t i = 0; i < seed.size(); i += sizeof(uint64_t)) {
    const uint64_t bits = secure_random();
    std::memcpy(&seed[i], &bits, sizeof bits);
  }
  return seed;
}

}  // namespace ens
