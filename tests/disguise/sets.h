// SPDX-License-Identifier: Apache-2.0
// Disguised sets of pictures that are easy to learn, for tests of what reads them.
#pragma once

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "disguise/set/set.h"
#include "nn/core/rng.h"

namespace ens::test {

struct Pictures {
  Tensor rows;  // float32 [B, shape...], 0 to 255
  std::vector<int32_t> labels;
};

// Each class has a picture of its own, which its images show behind noise.
inline Pictures pictures(int64_t count, const Shape& shape, int classes, const std::string& split) {
  Tensor prototypes = Tensor::empty(batched(classes, shape));
  Rng(1).fill_uniform(prototypes.span<float>(), 60.0f, 195.0f);
  Pictures out{Tensor::empty(batched(count, shape)), {}};
  Rng rng(2, split);
  rng.fill_uniform(out.rows.span<float>(), -60.0f, 60.0f);
  const int64_t size = shape.numel();
  for (int64_t i = 0; i < count; ++i) {
    const auto label = static_cast<int32_t>(rng.below(static_cast<uint64_t>(classes)));
    out.labels.push_back(label);
    const float* own = prototypes.data<float>() + label * size;
    for (int64_t k = 0; k < size; ++k) out.rows.data<float>()[i * size + k] += own[k];
  }
  return out;
}

inline DisguisedSetInfo set_facts(int64_t rows, const std::string& split) {
  DisguisedSetInfo info;
  info.method = "rmt";
  info.settings = "rmt { block: \"4x4\" }";
  info.shape = {3, 32, 32};
  info.rows = rows;
  info.classes = 10;
  info.key_id = "0011223344556677";
  info.set_id = split == "train" ? "0000000000000001" : "0000000000000002";
  info.split = split;
  return info;
}

inline void write_rows(const std::filesystem::path& file, const DisguisedSetInfo& info,
                       const Tensor& rows, const std::vector<int32_t>& labels) {
  DisguisedSetWriter writer(file, info);
  writer.add(rows, labels);
  writer.finish();
}

inline void write_pictures(const std::filesystem::path& file, const DisguisedSetInfo& info) {
  const Pictures p = pictures(info.rows, info.shape, info.classes, info.split);
  write_rows(file, info, p.rows, p.labels);
}

inline void write_pictures(const std::filesystem::path& file, int64_t rows,
                           const std::string& split, const Shape& shape = {3, 32, 32}) {
  DisguisedSetInfo info = set_facts(rows, split);
  info.shape = shape;
  write_pictures(file, info);
}

// Gram-Schmidt on the rows of an n x n matrix.
inline void orthonormalise(float* matrix, int n) {
  for (int i = 0; i < n; ++i) {
    for (int pass = 0; pass < 2; ++pass) {
      for (int j = 0; j < i; ++j) {
        double dot = 0;
        for (int k = 0; k < n; ++k) dot += double{matrix[i * n + k]} * matrix[j * n + k];
        for (int k = 0; k < n; ++k) {
          matrix[i * n + k] -= static_cast<float>(dot * matrix[j * n + k]);
        }
      }
    }
    double norm = 0;
    for (int k = 0; k < n; ++k) norm += double{matrix[i * n + k]} * matrix[i * n + k];
    for (int k = 0; k < n; ++k) matrix[i * n + k] /= static_cast<float>(std::sqrt(norm));
  }
}

}  // namespace ens::test
