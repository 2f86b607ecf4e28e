// SPDX-License-Identifier: Apache-2.0
#include "ensemble/protect/draws.h"

#include <cmath>
#include <cstring>
#include <numbers>
#include <vector>

namespace ens {

Draws Draws::secret(std::span<const Seed> seeds) {
  Draws draws(Rng(secure_random(), secure_random()));
  draws.seeds_ = seeds;
  draws.secret_ = true;
  return draws;
}

Seed Draws::seed(int64_t image) {
  if (!seeds_.empty()) return seeds_[static_cast<size_t>(image)];
  if (secret_) return secure_seed();
  Seed seed;
  for (size_t i = 0; i < seed.size(); i += sizeof(uint64_t)) {
    const uint64_t bits = rng.next();
    std::memcpy(&seed[i], &bits, sizeof bits);
  }
  return seed;
}

namespace draws {
namespace {

// next() gives 64 random bits.
template <typename F>
void add_normal(F next, std::span<float> values, float sigma) {
  constexpr float kUnit = 0x1p-32f;
  for (size_t i = 0; i < values.size(); i += 2) {
    const uint64_t bits = next();
    // (0, 1]: half a step above the 32-bit number, so that the logarithm is finite.
    const float u = (static_cast<float>(bits >> 32) + 0.5f) * kUnit;
    const float angle =
        2 * std::numbers::pi_v<float> * static_cast<float>(static_cast<uint32_t>(bits)) * kUnit;
    const float radius = sigma * std::sqrt(-2.0f * std::log(u));
    values[i] += radius * std::cos(angle);
    if (i + 1 < values.size()) values[i + 1] += radius * std::sin(angle);
  }
}

}  // namespace

void add_normal(Rng& rng, std::span<float> values, float sigma) {
  add_normal([&] { return rng.next(); }, values, sigma);
}

void add_normal(KeyStream stream, std::span<float> values) {
  std::vector<uint64_t> bits((values.size() + 1) / 2);
  stream.fill({reinterpret_cast<uint8_t*>(bits.data()), bits.size() * sizeof(uint64_t)});
  size_t at = 0;
  add_normal([&] { return bits[at++]; }, values, 1);
}

void drop(Rng& rng, std::span<float> values, float p) {
  const auto limit = static_cast<uint64_t>(static_cast<double>(p) * 0x1p32);
  const float keep = 1.0f / (1.0f - p);
  for (size_t i = 0; i < values.size(); i += 2) {
    const uint64_t bits = rng.next();
    values[i] *= (bits >> 32) < limit ? 0.0f : keep;
    if (i + 1 < values.size()) values[i + 1] *= (bits & 0xffffffff) < limit ? 0.0f : keep;
  }
}

}  // namespace draws
}  // namespace ens
