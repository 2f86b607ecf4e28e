// SPDX-License-Identifier: Apache-2.0
// What two trainings came to.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nn/io/checkpoint.h"

namespace ens::test {

inline std::map<std::string, std::vector<float>> weights(const std::filesystem::path& file) {
  std::map<std::string, std::vector<float>> all;
  for (const auto& [name, tensor] : read_checkpoint(file, "").tensors) {
    all[name] = tensor.to_vector();
  }
  return all;
}

inline void expect_same_run(const std::filesystem::path& a, const std::filesystem::path& b) {
  EXPECT_EQ(weights(a / "edge.h5"), weights(b / "edge.h5"));
  EXPECT_EQ(weights(a / "cloud.h5"), weights(b / "cloud.h5"));
}

}  // namespace ens::test
