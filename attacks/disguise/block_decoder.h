// SPDX-License-Identifier: Apache-2.0
// Networks between images and disguised rows whose weights differ from block to block, as the
// matrices of a key do (internal to this folder).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "attacks/core/decoder.h"
#include "attacks/disguise/views.h"

namespace ens {

// A linear map of every block to the block at its place, with weights of its own for each: maps
// [B,C,H,W] -> [B,C',H',W'], both cut into the same grid of blocks.
class BlockLinear : public Module {
 public:
  // `from`, `to`: of one map. Blocks are about 4x4 pixels of the smaller map.
  BlockLinear(const Shape& from, const Shape& to, Rng& rng);
  Var forward(const Var& x) override;
  // Every block becomes itself, of maps [B,C,H,W] that are not larger on the other side.
  void start_as_identity();
  // Of the elements of each block of outputs [B,C',H',W'], over the batch: [t,D',D'].
  Var covariance_of(const Var& outputs) const;
  // "" or why the two cannot be cut into one grid.
  static std::string no_grid_reason(const Shape& from, const Shape& to);

 private:
  Var cut(const Var& x, const Shape& shape) const;  // [B,C,H,W] -> [t,B,D]

  const Shape from_, to_;
  int64_t rows_, columns_;
  Var weight_, bias_;  // [t,D,D'], [t,1,D']
};

// Rows, in deviations of what the cloud has, to images: a map of blocks, then the house's decoder.
class BlockDecoder : public Module {
 public:
  BlockDecoder(const Shape& row, const Shape& image, const DecoderConfig& settings, Rng& rng);
  Var forward(const Var& rows) override;

 private:
  std::shared_ptr<BlockLinear> blocks_;
  std::shared_ptr<Decoder> decoder_;
};

// The rows' scale, for networks: (row - mean) / deviation over all elements.
struct RowScale {
  float mean = 0, deviation = 1;
  explicit RowScale(const Tensor& rows);
  Tensor apply(const Tensor& rows) const;  // on the CPU
};

// Trains one on public images, as attack.decoder says. `rows` maps images [B,C,H,W] in [0, 1] to
// scaled rows, on any device, without gradients.
std::shared_ptr<BlockDecoder> train_block_decoder(
    const Shape& row, const Shape& image, const AttackContext& context, const Dataset& data,
    const std::function<Tensor(const Tensor& images)>& rows, uint64_t seed,
    const std::string& label);
// Scaled rows -> images [B,C,H,W] in [0, 1], on the CPU; in batches.
Tensor decode_rows(BlockDecoder& decoder, const Shape& image, const AttackContext& context,
                   const Tensor& rows);

}  // namespace ens
