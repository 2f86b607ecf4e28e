// Random numbers by the block, for protections and their training (internal to this folder).
#pragma once

#include <span>

#include "nn/core/rng.h"

namespace ens::draws {

// A generator that nobody can predict: seeded from the operating system's cryptographic source.
Rng secret();

// Adds N(0, sigma^2) to each value: Box-Muller in float32, both numbers of a pair used, the tails
// reaching 6.7 sigma.
void add_normal(Rng& rng, std::span<float> values, float sigma);

// Multiplies each value by 0 with probability p, else by 1/(1-p); 0 <= p < 1.
void drop(Rng& rng, std::span<float> values, float p);

}  // namespace ens::draws
