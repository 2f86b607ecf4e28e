// SPDX-License-Identifier: Apache-2.0
// Exact products of 8-bit integers beside float32: the convolutions of ResNet-18 with 64 channels
// and more, four int8 planes of an input (a field of 31 bits) against the input in float32, in
// turns.
#pragma once

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "base/statistics.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"

namespace ens::bench {

struct PlanesTime {
  std::string convolution;
  double float_ms, planes_ms, ratio;  // medians over the rounds, of the ratio too
};

inline std::vector<PlanesTime> time_planes(Device device) {
  constexpr int kRounds = 7, kPlanes = 4;
  constexpr double kSeconds = 0.03;  // of each in a round, at least
  constexpr int64_t kBatch = 16;
  Backend& be = backend(device);
  be.allow_tf32(false);
  const ConvSpec spec{.padding = 1};
  std::vector<PlanesTime> rows;
  for (const auto& [channels, size] :
       {std::pair<int64_t, int64_t>{64, 32}, {128, 16}, {256, 8}, {512, 4}}) {
    Rng rng(1);
    const auto floats = [&](const Shape& shape) {
      Tensor t = Tensor::empty(shape);
      rng.fill_uniform(t.span<float>(), -1, 1);
      return t.to(device);
    };
    const auto bytes = [&](const Shape& shape) {
      Tensor t = Tensor::empty(shape, Dtype::kI8);
      for (int8_t& v : t.span<int8_t>()) v = static_cast<int8_t>(rng.next());
      return t.to(device);
    };
    const Shape weight{channels, channels, 3, 3};
    Tensor x = floats({kBatch, channels, size, size});
    const Tensor w = floats(weight);
    x = x.with_layout(be.conv2d(x, w, Tensor(), spec).layout());  // as between layers
    const Tensor planes = bytes({kPlanes * kBatch, channels, size, size}), w8 = bytes(weight);
    const auto time = [&](const auto& run) {
      using Clock = std::chrono::steady_clock;
      const auto begin = Clock::now();
      double seconds = 0;
      for (int runs = 1;; ++runs) {
        run();
        be.synchronize();
        seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        if (seconds >= kSeconds) return 1e3 * seconds / runs;
      }
    };
    std::vector<double> in_float, in_planes, ratios;
    for (int round = 0; round <= kRounds; ++round) {
      const double f = time([&] { be.conv2d(x, w, Tensor(), spec); });
      const double p = time([&] { be.conv2d_s8(planes, w8, spec); });
      if (round == 0) continue;
      in_float.push_back(f);
      in_planes.push_back(p);
      ratios.push_back(p / f);
    }
    rows.push_back({std::to_string(channels) + " channels at " + std::to_string(size) + "x" +
                        std::to_string(size) + ", batch " + std::to_string(kBatch),
                    percentile(in_float, 0.5), percentile(in_planes, 0.5),
                    percentile(ratios, 0.5)});
  }
  return rows;
}

}  // namespace ens::bench
