// SPDX-License-Identifier: Apache-2.0
// Every image of a batch with random numbers of its own, on all threads (internal to this folder).
#pragma once

#include <span>
#include <vector>

#include "base/secret_rng.h"
#include "base/threads.h"
#include "disguise/transform/transform.h"

namespace ens {

// Calls f(values, rng) for the values of each item along axis 0. What it draws does not depend on
// the number of threads. f must not throw.
template <typename F>
void for_each_image(Tensor& batch, FreshRandomness& fresh, F f) {
  if (batch.numel() == 0) return;
  std::vector<Seed> seeds(static_cast<size_t>(batch.dim(0)));
  for (Seed& seed : seeds) seed = fresh.next();
  const int64_t size = batch.numel() / batch.dim(0);
  float* values = batch.data<float>();
  parallel_for(batch.dim(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      SecretRng rng(seeds[static_cast<size_t>(b)]);
      f(std::span<float>(values + b * size, static_cast<size_t>(size)), rng);
    }
  });
}

}  // namespace ens
