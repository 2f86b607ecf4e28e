// SPDX-License-Identifier: Apache-2.0
// Exact products of 8-bit integers. A matrix product is a convolution with a kernel of 1x1 over an
// image of one row, whose pixels are the columns of b.
//
// Images are first packed with their padding as planes of cells (nn/cpu/int8_kernels.h), a cell for
// `depth` channels of a pixel. A panel is what 32 output pixels read: where these are neighbours,
// with a stride of 1, kernels read the planes themselves; elsewhere the panel is gathered (im2col).
//
// The instructions that multiply bytes take an unsigned and a signed factor. Signed columns are
// therefore packed with 128 added, and the sums of a row start at -128 times the sum of its
// weights: right modulo 2^32, hence right.
#include "nn/core/int8_product.h"

#include <omp.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/int8_kernels.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kPanelBytes = 1 << 18;   // that a task gathers: they stay in the L2 cache
constexpr int64_t kPlanesBytes = 1 << 20;  // of images that are packed at once, for each thread
constexpr int kChunks = kInt8Columns / kInt8Chunk;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t team() { return omp_in_parallel() ? 1 : compute_threads(); }  // of a parallel_for from here

// One image and the weights, of which every group has its own.
struct Geometry {
  int depth;                                  // of cells
  int64_t groups, channels, height, width;    // channels of a group
  int64_t rows, kernel_height, kernel_width;  // rows: output channels of a group
  int64_t out_height, out_width;
  int64_t stride = 1, padding = 0, dilation = 1;

  int64_t pixels() const { return out_height * out_width; }
  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t cells() const { return ceil_div(channels, depth); }  // of a tap
  int64_t padded_width() const { return width + 2 * padding; }
  int64_t plane() const { return (height + 2 * padding) * padded_width(); }  // in cells
  int64_t image() const { return groups * cells() * plane(); }
};

typedef uint8_t Bytes __attribute__((vector_size(16)));

// to[i] = the cell of channels[0][i * step] and so on.
template <typename T>
ENS_CLONES void pack_cells(const T* const* channels, int64_t n, int64_t step, int depth,
                           uint32_t shift, uint32_t* to) {
  const T *a = channels[0], *b = channels[1];
  if (depth == 2) {
    for (int64_t i = 0; i < n; ++i) {
      to[i] = (static_cast<uint32_t>(a[i * step]) & 0xffff) | static_cast<uint32_t>(b[i * step])
                                                                  << 16;
    }
    return;
  }
  const T *c = channels[2], *d = channels[3];
  const uint32_t all = shift * 0x01010101u;
  int64_t i = 0;
  for (; b == a + 1 && c == a + 2 && d == a + 3 && i < n; ++i) {  // a cell lies there already
    uint32_t cell;
    std::memcpy(&cell, a + i * step, sizeof cell);
    to[i] = cell ^ all;
  }
  for (; step == 1 && i + 16 <= n; i += 16) {
    const auto load = [i](const T* p) ENS_INLINE_LAMBDA {
      Bytes v;
      std::memcpy(&v, p + i, sizeof v);
      return v;
    };
    const Bytes va = load(a), vb = load(b), vc = load(c), vd = load(d);
    const auto low = [](Bytes u, Bytes v) ENS_INLINE_LAMBDA {
      return __builtin_shufflevector(u, v, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    };
    const auto high = [](Bytes u, Bytes v) ENS_INLINE_LAMBDA {
      return __builtin_shufflevector(u, v, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                     31);
    };
    const Bytes ac0 = low(va, vc), ac1 = high(va, vc), bd0 = low(vb, vd), bd1 = high(vb, vd);
    const Bytes cells[] = {low(ac0, bd0), high(ac0, bd0), low(ac1, bd1), high(ac1, bd1)};
    for (int k = 0; k < 4; ++k) {
      const Bytes shifted = cells[k] ^ static_cast<uint8_t>(shift);
      std::memcpy(to + i + 4 * k, &shifted, sizeof shifted);
    }
  }
  for (; i < n; ++i) {
    const auto byte = [i, step](const T* p) ENS_INLINE_LAMBDA {
      return static_cast<uint32_t>(static_cast<uint8_t>(p[i * step]));
    };
    to[i] = (byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24) ^ all;
  }
}

template <typename T>
ENS_CLONES uint32_t sum_of(const T* p, int64_t n, int64_t step) {
  uint32_t sum = 0;
  if (step == 1) {
    for (int64_t i = 0; i < n; ++i) sum += static_cast<uint32_t>(p[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) sum += static_cast<uint32_t>(p[i * step]);
  }
  return sum;
}

// `n` rows of a weight, cell by cell. From `rows` on `readable` elements may be read.
template <typename T>
void pack_rows(const Geometry& g, const T* rows, int64_t n, int64_t row_step, int64_t channel_step,
               int64_t readable, uint32_t* to) {
  // A run of cells, packed at once: all taps of some channels, or of 1x1 kernels more channels.
  constexpr int64_t kMost = 16;
  const bool along = g.taps() == 1 && channel_step == 1;
  const int64_t pitch = along ? kMost : ceil_div(g.taps(), kMost) * kMost;
  std::vector<uint32_t> line(static_cast<size_t>(n * pitch));
  for (int64_t c = 0, used; c < g.channels; c += used * g.depth) {
    used = along ? std::clamp<int64_t>((g.channels - c) / g.depth, 1, kMost) : 1;
    const int64_t run = along ? used : g.taps();
    for (int64_t r = 0; r < n; ++r) {
      const T* channels[4];
      for (int d = 0; d < 4; ++d) {
        channels[d] = rows + r * row_step + std::min(c + d, g.channels - 1) * channel_step;
      }
      // What follows the taps in memory is packed with them where that is quicker.
      const bool fits = run > 4 && !along && channels[3] - rows + pitch <= readable;
      pack_cells(channels, fits ? pitch : run, along ? g.depth : 1, g.depth, 0,
                 line.data() + r * pitch);
    }
    const int64_t valid = g.channels - c;
    const uint32_t mask = valid >= g.depth ? ~0u : (1u << 32 / g.depth * valid) - 1;
    for (int64_t i = 0; i < run; ++i) {
      uint32_t* cell = to + (c / g.depth + (along ? i : i * g.cells())) * n;
      for (int64_t r = 0; r < n; ++r) cell[r] = line[static_cast<size_t>(r * pitch + i)] & mask;
    }
  }
}

// The weight of all groups, packed for the kernels: in blocks of as many rows as a tile has.
class Rows {
 public:
  // Of rows that lie `row_step` apart. `shifted`: 128 was added to the columns.
  template <typename T>
  Rows(const Int8Kernels& k, const Geometry& g, const T* w, int64_t row_step, int64_t channel_step,
       bool shifted)
      : rows_(g.rows),
        cells_(g.taps() * g.cells()),
        blocks_(ceil_div(rows_, k.rows)),
        height_(ceil_div(rows_, blocks_)),
        packed_(static_cast<size_t>(g.groups * rows_ * cells_) * sizeof(uint32_t)),
        start_(static_cast<size_t>(g.groups * rows_)) {
    const int64_t terms = g.channels * g.taps();
    parallel_for(g.groups * blocks_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = place(i / blocks_, i % blocks_), n = count(i % blocks_);
        const T* from = w + row * row_step;
        pack_rows(g, from, n, row_step, channel_step, g.groups * rows_ * terms - row * row_step,
                  packed_.as<uint32_t>() + row * cells_);
        for (int64_t r = 0; r < n && shifted; ++r) {
          const uint32_t sum = sum_of(from + r * row_step, terms, row_step == 1 ? channel_step : 1);
          start_[static_cast<size_t>(row + r)] = static_cast<int32_t>(0u - 128u * sum);
        }
      }
    });
  }

  int64_t cells() const { return cells_; }
  int64_t blocks() const { return blocks_; }
  int64_t first(int64_t block) const { return block * height_; }
  int64_t count(int64_t block) const { return std::min(height_, rows_ - first(block)); }
  const uint32_t* packed(int64_t group, int64_t block) const {
    return packed_.as<uint32_t>() + place(group, block) * cells_;
  }
  const int32_t* start(int64_t group, int64_t block) const {
    return start_.data() + place(group, block);
  }

 private:
  int64_t place(int64_t group, int64_t block) const { return group * rows_ + first(block); }

  int64_t rows_, cells_, blocks_, height_;
  Buffer packed_;
  std::vector<int32_t> start_;
};

// `images` images [groups * channels][height][width] as planes of cells.
template <typename T>
void pack_images(const Geometry& g, const T* x, int64_t images, uint32_t shift, uint32_t* planes) {
  const int64_t map = g.height * g.width;
  parallel_for(images * g.groups * g.cells(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / g.cells(), channel = i % g.cells() * g.depth;  // of all images
      const T* channels[4];
      for (int d = 0; d < g.depth; ++d) {
        channels[d] = x + (group * g.channels + std::min(channel + d, g.channels - 1)) * map;
      }
      uint32_t* to = planes + i * g.plane();
      if (g.padding == 0) {
        pack_cells(channels, map, 1, g.depth, shift, to);
        continue;
      }
      std::fill_n(to, g.plane(), shift * 0x01010101u);
      to += g.padding * g.padded_width() + g.padding;
      for (int64_t row = 0; row < g.height; ++row, to += g.padded_width()) {
        pack_cells(channels, g.width, 1, g.depth, shift, to);
        for (int d = 0; d < g.depth; ++d) channels[d] += g.width;
      }
    }
  });
}

typedef uint32_t Words __attribute__((vector_size(16)));

// Four cells of each of four columns that lie `step` bytes apart, a line of `to` for each cell.
ENS_INLINE void transpose_cells(const int8_t* columns, int64_t step, uint32_t all, uint32_t* to,
                                int64_t to_step) {
  Words in[4];
  for (int i = 0; i < 4; ++i) {
    std::memcpy(&in[i], columns + i * step, sizeof in[i]);
    in[i] ^= all;
  }
  const Words a = __builtin_shufflevector(in[0], in[1], 0, 4, 1, 5);
  const Words b = __builtin_shufflevector(in[2], in[3], 0, 4, 1, 5);
  const Words c = __builtin_shufflevector(in[0], in[1], 2, 6, 3, 7);
  const Words d = __builtin_shufflevector(in[2], in[3], 2, 6, 3, 7);
  const Words out[] = {
      __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
      __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_step, &out[i], sizeof out[i]);
}

// `width` columns of a matrix b, from its element x on: of b or, `step` apart, of its
// transposition.
void pack_columns(const Geometry& g, const int8_t* x, bool transposed, int64_t step, uint32_t shift,
                  uint32_t* planes) {
  parallel_for(ceil_div(g.width, 16), 1, [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(end * 16, g.width);
    for (int64_t first = begin * 16; first < last; first += 16) {
      const int64_t n = std::min<int64_t>(16, last - first);
      int64_t c = 0;
      for (; transposed && g.depth == 4 && n == 16 && c + 16 <= g.channels; c += 16) {
        for (int64_t i = first; i < first + n; i += 4) {
          transpose_cells(x + i * step + c, step, shift * 0x01010101u,
                          planes + c / g.depth * g.width + i, g.width);
        }
      }
      for (; c < g.channels; c += g.depth) {
        const int8_t* channels[4];
        for (int d = 0; d < g.depth; ++d) {
          const int64_t channel = std::min(c + d, g.channels - 1);
          channels[d] = transposed ? x + first * step + channel : x + channel * step + first;
        }
        pack_cells(channels, n, transposed ? step : 1, g.depth, shift,
                   planes + c / g.depth * g.width + first);
      }
    }
  });
}

// Output pixels, and where they read in cells from the plane of the first channels.
struct Panel {
  int64_t first, count;  // pixels of all images, counted together
  int64_t at[kInt8Columns];
  bool neighbours[kChunks];  // of each chunk
  bool direct = true;        // kernels can read the planes
};

Panel panel_at(const Geometry& g, int64_t first, int64_t pixels) {
  Panel p;
  p.first = first;
  p.count = std::min<int64_t>(kInt8Columns, pixels - first);
  int64_t image = first / g.pixels(), row = first % g.pixels() / g.out_width;
  int64_t column = first % g.out_width;
  for (int i = 0; i < kInt8Columns; ++i) {
    p.at[i] = image * g.image() + (row * g.padded_width() + column) * g.stride;
    if (i + 1 >= p.count) continue;  // the last one again
    if (++column < g.out_width) continue;
    column = 0;
    if (++row < g.out_height) continue;
    row = 0;
    ++image;
  }
  for (int i = 0; i < kInt8Columns; ++i) {
    if (i % kInt8Chunk == 0) p.neighbours[i / kInt8Chunk] = true;
    if (i % 16 == 0 || p.at[i] == p.at[i - 1] + 1) continue;
    p.direct = false;
    if (i % kInt8Chunk != 0) p.neighbours[i / kInt8Chunk] = false;
  }
  return p;
}

void gather(const Geometry& g, const Panel& p, const std::vector<int64_t>& taps,
            const uint32_t* planes, uint32_t* to) {
  for (const int64_t tap : taps) {
    const uint32_t* from = planes + tap;
    for (int64_t c = 0; c < g.cells(); ++c, from += g.plane()) {
      for (int i = 0; i < kInt8Columns; i += kInt8Chunk, to += kInt8Chunk) {
        if (p.neighbours[i / kInt8Chunk]) {
          std::memcpy(to, from + p.at[i], kInt8Chunk * sizeof *to);
        } else {
          for (int k = 0; k < kInt8Chunk; ++k) to[k] = from[p.at[i + k]];
        }
      }
    }
  }
}

// Where a panel's sums go: y is [images][planes][step].
class Output {
 public:
  Output(const Geometry& g, const Panel& p, int32_t* y, int64_t step)
      : pixels_(g.pixels()),
        first_(p.first % pixels_),
        count_(p.count),
        step_(step),
        planes_(g.groups * g.rows),
        y_(y + p.first / pixels_ * planes_ * step_),
        whole_(count_ == kInt8Columns && first_ + count_ <= pixels_) {}

  void compute(Int8Multiply kernel, const Int8Panel& x, const uint32_t* rows, const int32_t* start,
               int64_t plane, int64_t height) const {
    if (whole_) return kernel(x, rows, start, y_ + plane * step_ + first_, step_);
    int32_t tile[kMostInt8Rows * kInt8Columns];
    kernel(x, rows, start, tile, kInt8Columns);
    for (int64_t r = 0; r < height; ++r) {
      const int32_t* from = tile + r * kInt8Columns;
      int32_t* image = y_ + (plane + r) * step_;
      for (int64_t done = 0, at = first_; done < count_; at = 0, image += planes_ * step_) {
        const int64_t n = std::min(count_ - done, pixels_ - at);
        std::copy_n(from + done, n, image + at);
        done += n;
      }
    }
  }

 private:
  int64_t pixels_, first_, count_, step_, planes_;
  int32_t* y_;
  bool whole_;  // 32 pixels of one image
};

// y [images][groups * rows][step], of which the first g.pixels() are written.
void multiply(const Geometry& g, const Rows& rows, const Int8Multiply* kernels,
              const uint32_t* planes, int64_t images, int32_t* y, int64_t step) {
  const int64_t pixels = images * g.pixels(), panels = ceil_div(pixels, kInt8Columns);
  const int64_t panel_cells = rows.cells() * kInt8Columns, threads = team();
  // A task computes some panels, for some blocks of rows where there are fewer panels than threads.
  const int64_t share = std::clamp<int64_t>(
      std::min<int64_t>(kPanelBytes / (panel_cells * 4), panels / (4 * threads)), 1, panels);
  const int64_t tasks = ceil_div(panels, share), units = g.groups * rows.blocks();
  const int64_t splits = std::clamp<int64_t>(ceil_div(threads, tasks), 1, units);
  std::vector<int64_t> taps;
  for (int64_t t = 0; t < g.taps(); ++t) {
    taps.push_back(g.dilation * (t / g.kernel_width * g.padded_width() + t % g.kernel_width));
  }
  const int64_t only = 0;  // the one tap of a gathered panel
  parallel_for(tasks * splits, 1, [&](int64_t begin, int64_t end) {
    const Buffer gathered(static_cast<size_t>(share * panel_cells) * sizeof(uint32_t));
    std::vector<Panel> panel;
    std::vector<Output> output;
    std::vector<Int8Panel> columns(static_cast<size_t>(share));
    for (int64_t i = begin; i < end; ++i) {
      panel.clear();
      output.clear();
      for (int64_t p = i / splits * share; p < std::min((i / splits + 1) * share, panels); ++p) {
        panel.push_back(panel_at(g, p * kInt8Columns, pixels));
        output.emplace_back(g, panel.back(), y, step);
      }
      const int64_t first = units * (i % splits) / splits, last = units * (i % splits + 1) / splits;
      for (int64_t unit = first; unit < last; ++unit) {
        const int64_t group = unit / rows.blocks(), block = unit % rows.blocks();
        for (size_t p = 0; p < panel.size(); ++p) {
          Int8Panel& x = columns[p];
          if (unit == first || block == 0) {
            const uint32_t* from = planes + group * g.cells() * g.plane();
            if (panel[p].direct) {
              x = {from, {}, g.taps(), g.cells(), g.plane(), taps.data()};
              for (int c = 0; c < kChunks; ++c) x.at[c] = panel[p].at[c * kInt8Chunk];
            } else {
              uint32_t* to = gathered.as<uint32_t>() + static_cast<int64_t>(p) * panel_cells;
              gather(g, panel[p], taps, from, to);
              x = {to, {}, 1, rows.cells(), kInt8Columns, &only};
              for (int c = 0; c < kChunks; ++c) x.at[c] = c * kInt8Chunk;
            }
          }
          const int64_t height = rows.count(block);
          output[p].compute(kernels[height - 1], x, rows.packed(group, block),
                            rows.start(group, block), group * g.rows + rows.first(block), height);
        }
      }
    }
  });
}

// How many images, or columns, of so many cells are packed at once.
int64_t at_once(int64_t cells, int64_t most) {
  return std::clamp<int64_t>(team() * kPlanesBytes / (cells * 4), 1, most);
}

template <typename T>
void convolve(const Int8Kernels& k, const Geometry& g, const Tensor& x, const Tensor& w,
              Tensor& y) {
  const bool shifted = k.depth == 4 && std::is_signed_v<T>;
  const Rows rows(k, g, w.data<int8_t>(), g.channels * g.taps(), g.taps(), shifted);
  const auto run = [&](int64_t begin, int64_t end) {
    const int64_t step = at_once(g.image(), end - begin);
    const Buffer planes(static_cast<size_t>(step * g.image()) * sizeof(uint32_t));
    for (int64_t first = begin; first < end; first += step) {
      const int64_t count = std::min(step, end - first);
      pack_images(g, x.rows(first, count).data<T>(), count, shifted ? 0x80 : 0,
                  planes.as<uint32_t>());
      multiply(g, rows, k.multiply[0], planes.as<uint32_t>(), count,
               y.rows(first, count).data<int32_t>(), g.pixels());
    }
  };
  // Threads with images of their own need not wait for each other.
  const int64_t images = x.dim(0);
  if (images % team() == 0 || images > 8 * team()) {
    parallel_for(images, 1, [&](int64_t begin, int64_t end) { run(begin, end); });
  } else {
    run(0, images);
  }
}

}  // namespace

Tensor CpuBackend::conv2d_s8(const Tensor& x, const Tensor& w, const ConvSpec& spec) {
  const Shape shape = conv2d_s8_shape(x, w, spec);
  Tensor y = Tensor::empty(shape, Dtype::kI32);
  if (x.numel() == 0 || w.numel() == 0) y.fill(0);
  if (x.numel() == 0 || w.numel() == 0) return y;
  const Int8Kernels& k = int8_kernels();
  const Geometry g{.depth = k.depth,
                   .groups = spec.groups,
                   .channels = w.dim(1),
                   .height = x.dim(2),
                   .width = x.dim(3),
                   .rows = w.dim(0) / spec.groups,
                   .kernel_height = w.dim(2),
                   .kernel_width = w.dim(3),
                   .out_height = shape[2],
                   .out_width = shape[3],
                   .stride = spec.stride,
                   .padding = spec.padding,
                   .dilation = spec.dilation};
  if (x.dtype() == Dtype::kU8) {
    convolve<uint8_t>(k, g, x.plain(), w, y);
  } else {
    convolve<int8_t>(k, g, x.plain(), w, y);
  }
  return y;
}

Tensor CpuBackend::gemm_s8(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) {
  const Shape shape = gemm_s8_shape(transpose_a, transpose_b, a, b);
  Tensor c = Tensor::empty(shape, Dtype::kI32);
  if (a.numel() == 0 || b.numel() == 0) c.fill(0);
  if (a.numel() == 0 || b.numel() == 0) return c;
  const Int8Kernels& k = int8_kernels();
  const int64_t m = shape[0], n = shape[1], depth = a.numel() / m;
  Geometry g{.depth = k.depth,
             .groups = 1,
             .channels = depth,
             .height = 1,
             .width = n,
             .rows = m,
             .kernel_height = 1,
             .kernel_width = 1,
             .out_height = 1,
             .out_width = n};
  const bool is_unsigned = a.dtype() == Dtype::kU8, shifted = k.depth == 4 && !is_unsigned;
  const int64_t row_step = transpose_a ? 1 : depth, channel_step = transpose_a ? m : 1;
  const Rows rows = is_unsigned ? Rows(k, g, a.data<uint8_t>(), row_step, channel_step, shifted)
                                : Rows(k, g, a.data<int8_t>(), row_step, channel_step, shifted);
  const int64_t step = std::min(n, at_once(g.cells(), n) / 16 * 16 + 16);
  const Buffer planes(static_cast<size_t>(step * g.cells()) * sizeof(uint32_t));
  for (int64_t first = 0; first < n; first += step) {
    g.width = g.out_width = std::min(step, n - first);
    pack_columns(g, b.data<int8_t>() + (transpose_b ? first * depth : first), transpose_b,
                 transpose_b ? depth : n, shifted ? 0x80 : 0, planes.as<uint32_t>());
    multiply(g, rows, k.multiply[is_unsigned], planes.as<uint32_t>(), 1, c.data<int32_t>() + first,
             n);
  }
  return c;
}

}  // namespace ens::cpu
