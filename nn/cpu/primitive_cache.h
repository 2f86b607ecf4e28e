// SPDX-License-Identifier: Apache-2.0
// A per-thread store of prepared oneDNN primitives, so that code is generated once per shape.
#pragma once

#include <omp.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <type_traits>
#include <unordered_map>

#include "nn/core/backend.h"
#include "nn/cpu/dnnl_util.h"

namespace ens::cpu {

// Everything a primitive depends on, as bytes. The number of threads is always part of it.
class Key {
 public:
  explicit Key(int kind) {
    add(kind);
    add(omp_get_max_threads());
  }
  template <typename T>
  void add(const T& value) {
    static_assert(std::has_unique_object_representations_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void add(const Shape& shape) {
    add(shape.rank());
    for (int64_t size : shape.dims()) add(size);
  }
  void add(const ConvSpec& spec) {
    for (int value : {spec.stride, spec.padding, spec.dilation, spec.groups}) add(value);
  }
  void add(const MemoryDesc& desc);  // sizes, type and format
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

template <typename Prepared>
class PrimitiveCache {
 public:
  // The entry of `key`, made by make() if there is none. Valid until the next call.
  template <typename Make>
  const Prepared& get(const Key& key, Make&& make) {
    auto found = entries_.find(key.bytes());
    if (found == entries_.end()) {
      if (entries_.size() >= kMost) entries_.clear();  // ever new shapes: start again
      std::lock_guard lock(creation_mutex());
      found = entries_.emplace(key.bytes(), make()).first;
    }
    return found->second;
  }

 private:
  static constexpr size_t kMost = 1000;
  std::unordered_map<std::string, Prepared> entries_;
};

}  // namespace ens::cpu
