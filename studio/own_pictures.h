// SPDX-License-Identifier: Apache-2.0
// OwnPictures: what visitors bring along, in memory only, for each of them alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

// Thread-safe.
class OwnPictureStore {
 public:
  static constexpr int kSide = 64;                 // what pictures become: the middle square
  static constexpr size_t kMost = 256;             // of one visitor
  static constexpr size_t kFileBytes = 16u << 20;  // of one file
  static constexpr int64_t kPixels = 20'000'000;   // before it is decoded
  static constexpr size_t kVisitors = 64;          // the longest away is forgotten first
  static constexpr std::chrono::hours kKept{12};   // without a request

  // A PNG, JPEG or WebP file, by its content. Nothing of the file but the pixels is kept. Refusal
  // 400, 413 or 415 that says why not; 409 if the visitor has too many.
  void add(const std::string& visitor, const std::string& bytes);
  void clear(const std::string& visitor);
  size_t count(const std::string& visitor);
  // Pictures [first, first + count) of those there are: float32 [n, 3, kSide, kSide] in [0, 1].
  Tensor pictures(const std::string& visitor, size_t first, size_t count);

 private:
  struct Visitor {
    std::vector<std::vector<uint8_t>> pictures;  // 3 x kSide x kSide
    std::chrono::steady_clock::time_point seen;
  };
  Visitor* find(const std::string& visitor);  // null if unknown. With the mutex
  void forget();

  std::mutex mutex_;
  std::map<std::string, Visitor> visitors_;
};

}  // namespace ens
