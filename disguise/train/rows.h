// SPDX-License-Identifier: Apache-2.0
// The rows of a disguised set's file, as batches (internal to this folder).
#pragma once

#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "disguise/set/set.h"
#include "nn/data/loader.h"

namespace ens {

// Holds the chunks of the file that are mixed at a time, `open_bytes` of float32 rows but at least
// two chunks: a larger set is read once an epoch, a smaller one once. The order of an epoch depends
// on it, so trainings take the default.
class SetRows : public RowSource {
 public:
  explicit SetRows(const DisguisedSetReader& set, int64_t open_bytes = int64_t{256} << 20);
  std::string name() const override { return set_.file(); }
  int64_t count() const override { return set_.info().rows; }
  int64_t chunk() const override;
  int64_t open_chunks() const override { return open_chunks_; }
  Batch read(std::span<const LoadedRow> rows) override;

 private:
  const float* row(int64_t index);

  struct Chunk {
    int64_t index;
    Tensor rows;
  };
  const DisguisedSetReader& set_;
  const std::vector<int32_t> labels_;
  const Tensor soft_labels_;
  const int64_t open_chunks_;
  std::list<Chunk> recent_;  // the latest first
  std::unordered_map<int64_t, std::list<Chunk>::iterator> by_index_;
};

}  // namespace ens
