// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/block_conv.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kNone = std::numeric_limits<int64_t>::min();

// Which form (block_conv.h) is used, by output pixels and images; see choose().
constexpr int64_t kSmallMap = 36;     // fewer pixels: by pixel,
constexpr int64_t kManyImages = 4;    // where there are so many images
constexpr int64_t kWinogradMap = 16;  // from so many pixels up: Winograd

constexpr int64_t kCopyBytes = 256 << 10;  // of the input in a piece, by pixel
constexpr int64_t kTiles = 64;             // in a piece: enough to be worth reading the weight for
constexpr int64_t kPositions = 16;         // of a tile
constexpr int64_t kChunk = 8;              // input channels whose weights are packed at once

// Divides the pieces of work over the threads. Calls f(begin, end, split) for ranges of pieces. If
// there are at least as many pieces as threads, each thread gets whole pieces and split(n, g) calls
// g(0, n). Otherwise one thread walks the pieces, and split(n, g) divides [0, n) over all threads.
template <typename F>
void over_pieces(int64_t pieces, F&& f) {
  if (pieces >= compute_threads()) {
    parallel_for(pieces, 1, [&](int64_t begin, int64_t end) {
      f(begin, end, [](int64_t n, auto g) { g(int64_t{0}, n); });
    });
  } else {
    f(int64_t{0}, pieces, [](int64_t n, auto g) { parallel_for(n, 1, std::move(g)); });
  }
}

// GgG', the form of a 3x3 kernel in which its products with a tile's 16 positions are summed.
void winograd_weight(const float* g, float* to) {
  float rows[4][3];
  for (int j = 0; j < 3; ++j) {
    const float a = g[j], b = g[3 + j], c = g[6 + j];
    rows[0][j] = a;
    rows[1][j] = (a + b + c) / 2;
    rows[2][j] = (a - b + c) / 2;
    rows[3][j] = c;
  }
  for (int i = 0; i < 4; ++i, to += 4) {
    const auto [a, b, c] = rows[i];
    to[0] = a;
    to[1] = (a + b + c) / 2;
    to[2] = (a - b + c) / 2;
    to[3] = c;
  }
}

// G'uG, the same back.
void winograd_weight_gradient(const float* u, float* to) {
  float rows[3][4];
  for (int j = 0; j < 4; ++j) {
    const float plus = (u[4 + j] + u[8 + j]) / 2, minus = (u[4 + j] - u[8 + j]) / 2;
    rows[0][j] = u[j] + plus;
    rows[1][j] = minus;
    rows[2][j] = u[12 + j] + plus;
  }
  for (int i = 0; i < 3; ++i, to += 3) {
    const auto [a, b, c, d] = rows[i];
    to[0] = a + (b + c) / 2;
    to[1] = (b - c) / 2;
    to[2] = d + (b + c) / 2;
  }
}

}  // namespace

bool BlockConv::available(Dtype dtype, Dtype packed) { return block_kernels(dtype, packed); }

Layout BlockConv::layout() {
  return block_kernels(Dtype::kF32, Dtype::kF32)->lanes == 16 ? Layout::kBlocked16
                                                              : Layout::kBlocked8;
}

const char* BlockConv::why_not(const Shape& w, const ConvSpec& spec, Dtype dtype, Dtype packed) {
  const BlockKernels* kernels = block_kernels(dtype, packed);
  if (!kernels && dtype == Dtype::kF32) return "needs AVX-512, or AVX2 with FMA";
  if (!kernels && isa() == Isa::kAmx) return "oneDNN's bfloat16 kernels for AMX are faster";
  if (!kernels) return "needs AVX512_BF16";
  if (spec.groups != 1) return "the convolution has groups";
  if (w[0] % kernels->lanes == 0 && w[1] % kernels->lanes == 0) return nullptr;
  return kernels->lanes == 16 ? "the channels are not multiples of 16"
                              : "the channels are not multiples of 8";
}

BlockConv::BlockConv(Pass pass, const Shape& x, const Shape& w, const Shape& y,
                     const ConvSpec& spec, Dtype dtype, Dtype packed)
    : pass_(pass),
      spec_(spec),
      packed_(packed),
      kernels_(*block_kernels(dtype, packed)),
      size_(size_of(dtype)),
      lanes_(kernels_.lanes),
      cell_(lanes_),
      batch_(x[0]),
      taps_(w[2] * w[3]),
      kernel_{w[2], w[3]} {
  const bool back = pass == Pass::kGradInput;
  const Shape& from = back ? y : x;
  const Shape& to = back ? x : y;
  inputs_ = from[1];
  outputs_ = to[1];
  vectors_ = outputs_ % (2 * lanes_) == 0 ? 2 : 1;
  for (int axis : {0, 1}) {
    in_[axis] = from[2 + axis];
    out_[axis] = to[2 + axis];
  }
  // Sums over pixels: one instruction takes those of two images.
  if (pass == Pass::kGradWeight) cell_ *= kernels_.depth;
  form_ = choose();
  results_ = out_[0] * out_[1];
  switch (form_) {
    case Form::kFramed:
      at_once_ = cell_ / lanes_;
      break;
    case Form::kByPixel: {
      const auto image = static_cast<int64_t>(bytes(inputs_ * in_[0] * in_[1]));
      at_once_ = std::max<int64_t>(kCopyBytes / image, kernels_.rows);
      break;
    }
    case Form::kWinograd: {
      // Sums are many where channels are: more tiles for each time they are read and written.
      const bool sums = pass == Pass::kGradWeight;
      const int64_t tiles = sums ? kTiles * std::max<int64_t>(inputs_ / 128, 1) : kTiles;
      const int64_t rows = (out_[0] + 1) / 2, columns = (out_[1] + 1) / 2;
      strips_ = std::min(rows, std::max<int64_t>(rows * columns / (2 * tiles), 1));
      tile_rows_ = (rows + strips_ - 1) / strips_;
      strips_ = (rows + tile_rows_ - 1) / tile_rows_;
      tiles_ = tile_rows_ * columns;
      at_once_ = std::max<int64_t>(strips_ > 1 ? 1 : tiles / tiles_, 1) * (cell_ / lanes_);
      break;
    }
  }
  at_once_ = std::min(batch_, at_once_);
  const int64_t goes = (batch_ + at_once_ - 1) / at_once_;
  if (form_ != Form::kFramed) at_once_ = (batch_ + goes - 1) / goes;
  pieces_ = goes * strips_;
  switch (form_) {
    case Form::kFramed:
      plan_framed();
      break;
    case Form::kByPixel:
      plan_by_pixel();
      break;
    case Form::kWinograd:
      plan_winograd();
      break;
  }
}

BlockConv::Piece BlockConv::piece(int64_t index) const {
  const int64_t first = index / strips_ * at_once_, row = index % strips_ * tile_rows_;
  return {first, std::min(at_once_, batch_ - first), row,
          std::min(tile_rows_, (out_[0] + 1) / 2 - row)};
}

WinogradMap BlockConv::strip_of(WinogradMap map, const Piece& piece) {
  map.first_tile_row = piece.tile_row;
  map.tile_rows = piece.tile_rows;
  return map;
}

// Neighbours in the sums over pixels: images of a pixel, or tiles.
int64_t BlockConv::cells(const Piece& piece) const {
  const int64_t depth = cell_ / lanes_, images = (piece.count + depth - 1) / depth;
  return images * (form_ == Form::kWinograd ? piece.tile_rows * tiles_out_.tile_columns : 1);
}

BlockConv::Form BlockConv::choose() const {
  const int64_t pixels = out_[0] * out_[1];
  // Whatever the batch: the weight is packed once for all of them.
  if (kernel_[0] == 3 && kernel_[1] == 3 && spec_.stride == 1 && spec_.dilation == 1 &&
      pixels >= kWinogradMap) {
    return Form::kWinograd;
  }
  return pixels >= kSmallMap || batch_ < kManyImages ? Form::kFramed : Form::kByPixel;
}

// Forward, output pixel q meets input pixel q * stride - padding + k * dilation; the gradient goes
// the other way, from the output's pixels back to the input's.
int64_t BlockConv::source(int64_t out, int64_t k) const {
  if (pass_ != Pass::kGradInput) return out * spec_.stride - spec_.padding + k * spec_.dilation;
  const int64_t distance = out + spec_.padding - k * spec_.dilation;
  return distance % spec_.stride ? kNone : distance / spec_.stride;
}

// Pixels of the output whose coordinates have the same remainders (of the stride, going back) meet
// the same kernel positions.
void BlockConv::plan_framed() {
  const int64_t period = pass_ == Pass::kGradInput ? spec_.stride : 1;
  const int64_t step = pass_ == Pass::kGradInput ? 1 : spec_.stride;
  for (int axis : {0, 1}) {
    for (int64_t q = 0; q < out_[axis]; ++q) {
      for (int64_t k = 0; k < kernel_[axis]; ++k) {
        const int64_t p = source(q, k);
        if (p == kNone) continue;
        frame_[axis][0] = std::max(frame_[axis][0], -p);
        frame_[axis][1] = std::max(frame_[axis][1], p - in_[axis] + 1);
      }
    }
  }
  const int64_t width = frame_[1][0] + in_[1] + frame_[1][1];
  positions_ = (frame_[0][0] + in_[0] + frame_[0][1]) * width;
  for (int64_t y0 = 0; y0 < std::min(period, out_[0]); ++y0) {
    for (int64_t x0 = 0; x0 < std::min(period, out_[1]); ++x0) {
      Group group;
      for (int64_t ky = 0; ky < kernel_[0]; ++ky) {
        for (int64_t kx = 0; kx < kernel_[1]; ++kx) {
          const int64_t y = source(y0, ky), x = source(x0, kx);
          if (y == kNone || x == kNone) continue;
          group.taps.push_back(
              {((y + frame_[0][0]) * width + x + frame_[1][0]) * cell_, ky * kernel_[1] + kx});
        }
      }
      for (int64_t y = y0; y < out_[0]; y += period) {
        for (int64_t x = x0; x < out_[1]; x += period) {
          group.rows.push_back(
              {(y / period * step * width + x / period * step) * cell_, (y * out_[1] + x) * cell_});
        }
      }
      groups_.push_back(std::move(group));
    }
  }
  if (pass_ != Pass::kGradWeight) return;
  const Group& all = groups_.front();
  run_length_ = out_[1];
  x_step_ = spec_.stride * cell_;
  runs_.resize(static_cast<size_t>(taps_));
  for (const Tap& tap : all.taps) {
    for (int64_t y = 0; y < out_[0]; ++y) {
      const Row& first = all.rows[static_cast<size_t>(y * out_[1])];
      runs_[static_cast<size_t>(tap.index)].push_back({tap.from + first.from, first.to});
    }
  }
}

void BlockConv::plan_by_pixel() {
  // Images of one pixel in the copied input; two of them are one cell where sums go over pixels.
  const int64_t depth = cell_ / lanes_, cells = (at_once_ + depth - 1) / depth;
  positions_ = in_[0] * in_[1] * cells;
  run_length_ = cells;
  x_step_ = cell_;
  runs_.resize(static_cast<size_t>(taps_));
  for (int64_t y = 0; y < out_[0]; ++y) {
    for (int64_t x = 0; x < out_[1]; ++x) {
      const int64_t q = y * out_[1] + x;
      Group group;
      for (int64_t ky = 0; ky < kernel_[0]; ++ky) {
        for (int64_t kx = 0; kx < kernel_[1]; ++kx) {
          const int64_t from_y = source(y, ky), from_x = source(x, kx);
          if (from_y < 0 || from_y >= in_[0] || from_x < 0 || from_x >= in_[1]) continue;
          const int64_t from = (from_y * in_[1] + from_x) * cells * cell_;
          const int64_t tap = ky * kernel_[1] + kx;
          group.taps.push_back({from, tap});
          runs_[static_cast<size_t>(tap)].push_back({from, q * cells * cell_});
        }
      }
      for (int64_t i = 0; i < at_once_; ++i) {
        group.rows.push_back({i * lanes_, (i * outputs_ * results_ + q * lanes_)});
      }
      groups_.push_back(std::move(group));
    }
  }
}

void BlockConv::plan_winograd() {
  taps_ = kPositions;
  const int64_t depth = cell_ / lanes_, all = tiles_ * ((at_once_ + depth - 1) / depth);
  positions_ = results_ = all;
  // Going back the kernel is turned round, and meets what lies as far on the other side.
  const int64_t padding = pass_ == Pass::kGradInput ? 2 - spec_.padding : spec_.padding;
  const int64_t columns = (out_[1] + 1) / 2;
  // A cache line more than full: at a power of two, 16 positions of a tile would share a cache set.
  const auto stride = [&](int64_t channels, size_t size) {
    return channels / lanes_ * all * cell_ + static_cast<int64_t>(64 / size);
  };
  const int64_t in = stride(inputs_, size_);
  const int64_t out = stride(outputs_, pass_ == Pass::kGradWeight ? size_ : sizeof(float));
  tiles_in_ = {in_[0], in_[1], padding, columns, 0, 0, in};
  tiles_out_ = {out_[0], out_[1], 0, columns, 0, 0, out};
  x_step_ = cell_;
  for (int64_t p = 0; p < kPositions; ++p) {
    runs_.push_back({{p * in, p * out}});
    Group group;
    group.taps.push_back({p * in, p});
    for (int64_t t = 0; t < all; ++t) group.rows.push_back({t * lanes_, p * out + t * lanes_});
    groups_.push_back(std::move(group));
  }
}

size_t BlockConv::copy_bytes() const {
  return bytes(form_ == Form::kWinograd ? kPositions * tiles_in_.stride
                                        : inputs_ / lanes_ * positions_ * cell_);
}

// The order in which multiply() goes past the weights: [panel of outputs][kernel position][input]
// [outputs of the panel], or with the kernel position first (Winograd).
int64_t BlockConv::weight_at(int64_t panel, int64_t tap) const {
  const int64_t panels = outputs_ / this->panel();
  return (form_ == Form::kWinograd ? tap * panels + panel : panel * taps_ + tap) * inputs_ *
         this->panel();
}

// Calls f(panel, input, tile) for every kChunk inputs of every panel, on all threads. The tile is
// room for their weights, small enough for the nearest cache: in one order or the other most steps
// through a whole kernel would miss.
template <typename F>
void BlockConv::for_chunks(F f) const {
  parallel_for(outputs_ / panel(), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> tile(static_cast<size_t>(taps_ * kChunk * panel()));
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t i = 0; i < inputs_; i += kChunk) f(p, i, tile.data());
    }
  });
}

// Where one instruction takes two inputs, their weights for an output are neighbours.
void BlockConv::pack(const float* w, void* packed) const {
  const bool back = pass_ == Pass::kGradInput, winograd = form_ == Form::kWinograd;
  const int64_t area = kernel_[0] * kernel_[1], depth = kernels_.depth, wide = panel();
  const int64_t per_output = back ? area : inputs_ * area;
  const int64_t per_input = back ? outputs_ * area : area;
  for_chunks([&](int64_t p, int64_t first, float* tile) {
    float turned[9], positions[kPositions];
    for (int64_t o = 0; o < wide; ++o) {
      const int64_t place = kernels_.alternate ? o % lanes_ * vectors_ + o / lanes_ : o * depth;
      for (int64_t i = 0; i < kChunk; ++i) {
        const float* from = w + (p * wide + o) * per_output + (first + i) * per_input;
        if (winograd && back) {
          std::reverse_copy(from, from + area, turned);
          from = turned;
        }
        if (winograd) {
          winograd_weight(from, positions);
          from = positions;
        }
        float* to = tile + i / depth * depth * wide + place + i % depth;
        for (int64_t t = 0; t < taps_; ++t, to += kChunk * wide) *to = from[t];
      }
    }
    for (int64_t t = 0; t < taps_; ++t, tile += kChunk * wide) {
      const int64_t to = weight_at(p, t) + first * wide;
      if (packed_ == Dtype::kBF16) {
        to_bfloat16(tile, kChunk * wide, static_cast<BFloat16*>(packed) + to);
      } else {
        std::copy_n(tile, kChunk * wide, static_cast<float*>(packed) + to);
      }
    }
  });
}

void BlockConv::unpack(const float* sums, float* w) const {
  const int64_t wide = panel(), area = kernel_[0] * kernel_[1];
  for_chunks([&](int64_t p, int64_t first, float* tile) {
    for (int64_t t = 0; t < taps_; ++t) {
      std::copy_n(sums + weight_at(p, t) + first * wide, kChunk * wide, tile + t * kChunk * wide);
    }
    float positions[kPositions];
    for (int64_t o = 0; o < wide; ++o) {
      float* to = w + ((p * wide + o) * inputs_ + first) * area;
      for (int64_t i = 0; i < kChunk; ++i, to += area) {
        const float* from = tile + i * wide + o;
        float* target = form_ == Form::kWinograd ? positions : to;
        for (int64_t t = 0; t < taps_; ++t, from += kChunk * wide) target[t] = *from;
        if (form_ == Form::kWinograd) winograd_weight_gradient(positions, to);
      }
    }
  });
}

// One block of an image (of two, pixel by pixel, where sums go over pixels) with its frame.
void BlockConv::gather_frame(const Bytes* in, const Bytes* second, Bytes* to) const {
  const size_t cell = bytes(cell_), row = bytes(in_[1] * lanes_);
  const auto zeros = [&](int64_t n) {
    std::memset(to, 0, static_cast<size_t>(n) * cell);
    to += static_cast<size_t>(n) * cell;
  };
  const int64_t width = frame_[1][0] + in_[1] + frame_[1][1];
  zeros(frame_[0][0] * width + frame_[1][0]);
  for (int64_t y = 0; y < in_[0]; ++y) {
    if (cell_ == lanes_) {
      std::memcpy(to, in, row);
    } else {
      kernels_.interleave(in, second, in_[1], to, cell_);
      if (second) second += row;
    }
    in += row;
    to += static_cast<size_t>(in_[1]) * cell;
    if (y + 1 < in_[0]) zeros(frame_[1][1] + frame_[1][0]);
  }
  zeros(frame_[1][1] + frame_[0][1] * width);
}

// One block of channels of `count` images, `image` bytes apart, as [pixel][cells of images].
void BlockConv::gather_pixels(const Bytes* from, int64_t count, size_t image, int64_t pixels,
                              Bytes* to) const {
  const int64_t step = run_length_ * cell_;  // from one pixel to the next
  if (cell_ != lanes_) {
    for (int64_t i = 0; i < count; i += 2, from += 2 * image, to += bytes(cell_)) {
      kernels_.interleave(from, i + 1 < count ? from + image : nullptr, pixels, to, step);
    }
    return;
  }
  const size_t cell = bytes(cell_);
  for (int64_t i = 0; i < count; ++i, from += image) {
    for (int64_t p = 0; p < pixels; ++p) {
      std::memcpy(to + bytes(p * step) + static_cast<size_t>(i) * cell,
                  from + static_cast<size_t>(p) * cell, cell);
    }
  }
}

// Blocks [block_begin, block_end) of a piece in the form of the plan, in `copy` or, where they have
// it already, in place; block 0 would be at the result.
const std::byte* BlockConv::gather(const Bytes* in, const Piece& piece, int64_t block_begin,
                                   int64_t block_end, Bytes* copy) const {
  const int64_t pixels = in_[0] * in_[1], count = piece.count, depth = cell_ / lanes_;
  const size_t image = bytes(inputs_ * pixels);
  in += static_cast<size_t>(piece.first) * image;
  if (form_ == Form::kFramed && positions_ == pixels && depth == 1) return in;
  const WinogradMap map = strip_of(tiles_in_, piece);
  for (int64_t b = block_begin; b < block_end; ++b) {
    const Bytes* from = in + bytes(b * pixels * lanes_);
    Bytes* to = copy + bytes(b * positions_ * cell_);
    switch (form_) {
      case Form::kFramed:
        gather_frame(from, count > 1 ? from + image : nullptr, to);
        break;
      case Form::kByPixel:
        gather_pixels(from, count, image, pixels, to);
        break;
      case Form::kWinograd:
        for (int64_t i = 0; i < count; ++i, from += image) {
          const auto transform = pass_ == Pass::kGradWeight
                                     ? kernels_.winograd_input_cells[i % depth]
                                     : kernels_.winograd_input;
          transform(map, from, to + bytes(i / depth * tiles_ * cell_));
        }
        break;
    }
  }
  return copy;
}

void BlockConv::multiply_group(const Group& group, const Bytes* from, int64_t count, int64_t panel,
                               const Bytes* packed, const float* bias, const Bytes* sum, bool relu,
                               Bytes* out) const {
  constexpr int64_t kMostTaps = 64;
  int64_t tap_from[kMostTaps], tap_weight[kMostTaps];
  std::vector<int64_t> many;
  const auto taps = static_cast<int64_t>(group.taps.size());
  int64_t *froms = tap_from, *weights = tap_weight;
  if (taps > kMostTaps) {
    many.resize(static_cast<size_t>(2 * taps));
    froms = many.data();
    weights = froms + taps;
  }
  for (int64_t t = 0; t < taps; ++t) {
    const Tap& tap = group.taps[static_cast<size_t>(t)];
    froms[t] = tap.from;
    weights[t] = weight_at(panel, tap.index);
  }
  const bool winograd = form_ == Form::kWinograd;
  const size_t out_size = winograd ? sizeof(float) : size_;
  const BlockProduct product{from,
                             inputs_ / lanes_,
                             positions_ * lanes_,
                             froms,
                             weights,
                             taps,
                             packed,
                             bias ? bias + panel * this->panel() : nullptr,
                             relu,
                             results_ * lanes_};
  const auto& kernels = (winograd ? kernels_.multiply_to_float : kernels_.multiply)[vectors_ - 1];
  // As evenly as possible: five rows keep the processor as busy as six, one does not.
  const int64_t rows = form_ == Form::kFramed ? static_cast<int64_t>(group.rows.size()) : count;
  const int64_t parts = (rows + kernels_.rows - 1) / kernels_.rows;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
    int64_t row[BlockKernels::kMostRows];
    void* to[BlockKernels::kMostRows];
    const void* add[BlockKernels::kMostRows];
    for (int64_t r = begin; r < end; ++r) {
      const Row& place = group.rows[static_cast<size_t>(r)];
      const size_t at =
          static_cast<size_t>(place.to + panel * vectors_ * results_ * lanes_) * out_size;
      row[r - begin] = place.from;
      to[r - begin] = out + at;
      add[r - begin] = sum + (sum ? at : 0);
    }
    kernels[end - begin - 1](product, row, to, sum ? add : nullptr);
  }
}

// Panels [panel_begin, panel_end) of a piece (Winograd: of its tiles).
void BlockConv::multiply(const Bytes* from, const Piece& piece, int64_t panel_begin,
                         int64_t panel_end, const Bytes* packed, const float* bias,
                         const Bytes* sum, bool relu, Bytes* out) const {
  if (form_ == Form::kWinograd) {  // a position's tiles stay near while all weights go past
    for (const Group& group : groups_) {
      for (int64_t p = panel_begin; p < panel_end; ++p) {
        multiply_group(group, from, cells(piece), p, packed, nullptr, nullptr, false, out);
      }
    }
    return;
  }
  for (int64_t p = panel_begin; p < panel_end; ++p) {  // a panel's weights, while all pixels do
    for (const Group& group : groups_) {
      multiply_group(group, from, piece.count, p, packed, bias, sum, relu, out);
    }
  }
}

void BlockConv::from_tiles(const float* tiles, const Piece& piece, int64_t block_begin,
                           int64_t block_end, const float* bias, const Bytes* sum, bool relu,
                           Bytes* out) const {
  const int64_t pixels = out_[0] * out_[1];
  const WinogradMap map = strip_of(tiles_out_, piece);
  for (int64_t b = block_begin; b < block_end; ++b) {
    for (int64_t i = 0; i < piece.count; ++i) {
      const size_t at = bytes((i * outputs_ + b * lanes_) * pixels);
      kernels_.winograd_output(map, tiles + (b * results_ + i * tiles_) * lanes_,
                               bias ? bias + b * lanes_ : nullptr, sum ? sum + at : nullptr, relu,
                               out + at);
    }
  }
}

void BlockConv::run(const void* in, const void* packed, const float* bias, const void* sum,
                    bool relu, void* out) const {
  const int64_t panels = outputs_ / panel(), blocks = inputs_ / lanes_;
  const size_t image = bytes(outputs_ * out_[0] * out_[1]);
  const bool winograd = form_ == Form::kWinograd;
  const auto* weight = static_cast<const Bytes*>(packed);
  over_pieces(pieces_, [&](int64_t begin, int64_t end, auto split) {
    const Buffer copy(copy_bytes());
    const Buffer tiles(
        winograd ? static_cast<size_t>(kPositions * tiles_out_.stride) * sizeof(float) : 1);
    for (int64_t i = begin; i < end; ++i) {
      const Piece now = piece(i);
      const size_t offset = static_cast<size_t>(now.first) * image;
      const Bytes* add = sum ? static_cast<const Bytes*>(sum) + offset : nullptr;
      Bytes* to = static_cast<Bytes*>(out) + offset;
      const Bytes* from = nullptr;
      split(blocks, [&](int64_t b, int64_t e) {
        const Bytes* place = gather(static_cast<const Bytes*>(in), now, b, e, copy.as<Bytes>());
        if (b == 0) from = place;
      });
      split(panels, [&](int64_t b, int64_t e) {
        multiply(from, now, b, e, weight, bias, add, relu, winograd ? tiles.as<Bytes>() : to);
      });
      if (!winograd) continue;
      split(outputs_ / lanes_, [&](int64_t b, int64_t e) {
        from_tiles(tiles.as<float>(), now, b, e, bias, add, relu, to);
      });
    }
  });
}

// Adds what one block of input channels in the copied input gives to the sums of some kernel
// positions, which lie as packed weights do.
void BlockConv::add_block(const Bytes* from, const Bytes* dy, int64_t block, int64_t tap_begin,
                          int64_t tap_end, int64_t length, int64_t dy_stride, float* sums) const {
  const int64_t panels = outputs_ / panel();
  for (int64_t p = 0; p < panels; ++p) {
    for (int64_t t = tap_begin; t < tap_end; ++t) {
      const std::vector<BlockRun>& runs = runs_[static_cast<size_t>(t)];
      kernels_.multiply_transposed[vectors_ - 1](
          from + bytes(block * positions_ * cell_), dy + bytes(p * vectors_ * dy_stride),
          runs.data(), static_cast<int64_t>(runs.size()), length, x_step_, dy_stride,
          sums + weight_at(p, t) + block * lanes_ * panel());
    }
  }
}

// A piece, with sums of the calling thread's own.
void BlockConv::add_framed(const Bytes* x, const Bytes* dy, const Piece& piece, Bytes* x_copy,
                           Bytes* dy_copy, float* sums) const {
  const int64_t blocks = inputs_ / lanes_, pixels = out_[0] * out_[1];
  const size_t image = bytes(outputs_ * pixels);
  const Bytes* from = gather(x, piece, 0, blocks, x_copy);
  const Bytes* gradient = dy + static_cast<size_t>(piece.first) * image;
  if (cell_ != lanes_) {
    kernels_.interleave(gradient, piece.count > 1 ? gradient + image : nullptr,
                        outputs_ / lanes_ * pixels, dy_copy, cell_);
    gradient = dy_copy;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    add_block(from, gradient, b, 0, taps_, run_length_, pixels * cell_, sums);
  }
}

// The same in tiles: the gradient of each position's product.
void BlockConv::add_tiles(const Bytes* x, const Bytes* dy, const Piece& piece, Bytes* x_copy,
                          Bytes* dy_copy, float* sums) const {
  const int64_t blocks = inputs_ / lanes_, pixels = out_[0] * out_[1], depth = cell_ / lanes_;
  const Bytes* from = gather(x, piece, 0, blocks, x_copy);
  const WinogradMap map = strip_of(tiles_out_, piece);
  for (int64_t b = 0; b < outputs_ / lanes_; ++b) {
    for (int64_t i = 0; i < piece.count; ++i) {
      kernels_.winograd_gradient_cells[i % depth](
          map, dy + bytes(((piece.first + i) * outputs_ + b * lanes_) * pixels),
          dy_copy + bytes((b * results_ + i / depth * tiles_) * cell_));
    }
  }
  for (int64_t t = 0; t < kPositions; ++t) {
    for (int64_t b = 0; b < blocks; ++b) {
      add_block(from, dy_copy, b, t, t + 1, cells(piece), results_ * cell_, sums);
    }
  }
}

// A piece on all threads: each has some blocks of input channels of its own, so that nobody writes
// to the same sums.
void BlockConv::add_by_pixel(const Bytes* x, const Bytes* dy, const Piece& piece, Bytes* x_copy,
                             Bytes* dy_copy, float* sums) const {
  const int64_t pixels = out_[0] * out_[1], positions = pixels * run_length_;
  const size_t image = bytes(outputs_ * pixels);
  parallel_for(outputs_ / lanes_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const Bytes* from =
          dy + static_cast<size_t>(piece.first) * image + bytes(b * lanes_ * pixels);
      gather_pixels(from, piece.count, image, pixels, dy_copy + bytes(b * positions * cell_));
    }
  });
  parallel_for(inputs_ / lanes_, 1, [&](int64_t begin, int64_t end) {
    const Bytes* from = gather(x, piece, begin, end, x_copy);
    for (int64_t b = begin; b < end; ++b) {
      add_block(from, dy_copy, b, 0, taps_, cells(piece), positions * cell_, sums);
    }
  });
}

void BlockConv::grad_weight(const void* x, const void* dy, float* dw) const {
  const auto* from = static_cast<const Bytes*>(x);
  const auto* gradient = static_cast<const Bytes*>(dy);
  const auto numbers = static_cast<size_t>(weights());
  const bool all_on_each = form_ == Form::kByPixel;  // all threads on each piece
  const int64_t threads = all_on_each ? 1 : std::min<int64_t>(compute_threads(), pieces_);
  const auto add = form_ == Form::kFramed     ? &BlockConv::add_framed
                   : form_ == Form::kWinograd ? &BlockConv::add_tiles
                                              : &BlockConv::add_by_pixel;
  const int64_t dy_numbers = form_ == Form::kFramed ? outputs_ * results_ * (cell_ / lanes_)
                             : form_ == Form::kWinograd
                                 ? kPositions * tiles_out_.stride
                                 : outputs_ / lanes_ * results_ * run_length_ * cell_;
  const Buffer all(static_cast<size_t>(threads) * numbers * sizeof(float));
  std::memset(all.data(), 0, static_cast<size_t>(threads) * numbers * sizeof(float));
  auto* sums = all.as<float>();
  const auto add_pieces = [&](int64_t begin, int64_t end, float* own) {
    const Buffer x_copy(copy_bytes()), dy_copy(bytes(dy_numbers));
    for (int64_t i = begin; i < end; ++i) {
      (this->*add)(from, gradient, piece(i), x_copy.as<Bytes>(), dy_copy.as<Bytes>(), own);
    }
  };
  if (all_on_each) {
    add_pieces(0, pieces_, sums);
  } else {
    parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        add_pieces(pieces_ * t / threads, pieces_ * (t + 1) / threads,
                   sums + static_cast<size_t>(t) * numbers);
      }
    });
  }
  for (int64_t t = 1; t < threads; ++t) {
    const float* others = sums + static_cast<size_t>(t) * numbers;
    parallel_for(weights(), 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums[i] += others[i];
    });
  }
  unpack(sums, dw);
}

}  // namespace ens::cpu
