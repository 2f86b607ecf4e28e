#include "ensemble/protect/draws.h"

#include <cmath>
#include <numbers>

namespace ens::draws {

Rng secret() { return Rng(secure_random(), secure_random()); }

void add_normal(Rng& rng, std::span<float> values, float sigma) {
  constexpr float kUnit = 0x1p-32f;
  for (size_t i = 0; i < values.size(); i += 2) {
    const uint64_t bits = rng.next();
    // (0, 1]: half a step above the 32-bit number, so that the logarithm is finite.
    const float u = (static_cast<float>(bits >> 32) + 0.5f) * kUnit;
    const float angle =
        2 * std::numbers::pi_v<float> * static_cast<float>(static_cast<uint32_t>(bits)) * kUnit;
    const float radius = sigma * std::sqrt(-2.0f * std::log(u));
    values[i] += radius * std::cos(angle);
    if (i + 1 < values.size()) values[i + 1] += radius * std::sin(angle);
  }
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

}  // namespace ens::draws
