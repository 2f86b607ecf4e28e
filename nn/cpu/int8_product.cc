// Exact products of 8-bit integers. A matrix product is a convolution with a kernel of 1x1 over an
// image of one row, whose pixels are the columns of b.
//
// Images are first packed with their padding as planes of cells (nn/cpu/int8_kernels.h), a cell for
// `depth` channels of a pixel. A task then computes some output pixels: it gathers what every tap
// of the kernel reads for 32 of them at a time into a panel, and multiplies that by rows of the
// weight.
//
// The instructions that multiply bytes take an unsigned and a signed factor. Signed columns are
// therefore packed with 128 added, and the sums of a row start at -128 times the sum of its
// weights: right modulo 2^32, hence right.
#include "nn/core/int8_product.h"

#include <algorithm>
#include <vector>

#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/int8_kernels.h"
#include "nn/cpu/simd.h"

namespace ens::cpu {
namespace {

constexpr int64_t kPanelBytes = 1 << 18;   // of a task: they stay in the second level cache
constexpr int64_t kPlanesBytes = 1 << 23;  // of images that are packed at once
constexpr int kChunk = 8;  // pixels that are gathered together if they are neighbours

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One image and the weights, of which every group has its own.
struct Geometry {
  int64_t groups, channels, height, width;  // channels of a group
  int64_t rows;                             // output channels of a group
  int64_t kernel_height, kernel_width, out_height, out_width;
  int64_t stride = 1, padding = 0, dilation = 1;

  int64_t pixels() const { return out_height * out_width; }
  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t padded_width() const { return width + 2 * padding; }
  int64_t plane() const { return (height + 2 * padding) * padded_width(); }  // cells
};

// Elements of a factor, by the index of its channel: `channel_step` apart, neighbours `step`.
struct Source {
  const void* data;
  bool is_unsigned;
  int64_t channel_step, step;
};

template <typename T>
ENS_INLINE uint32_t cell_of(const T* p, int64_t step, int depth, int64_t valid, uint32_t shift) {
  uint32_t cell = 0;
  for (int d = 0; d < depth && d < valid; ++d) {
    const int32_t v = p[d * step];
    cell |= depth == 4 ? (static_cast<uint32_t>(v & 0xff) ^ shift) << 8 * d
                       : static_cast<uint32_t>(v & 0xffff) << 16 * d;
  }
  return cell;
}

// n neighbours of `depth` channels, where those beyond the last may hold anything.
template <typename T>
ENS_CLONES void pack_cells(const T* const* channels, int64_t n, int64_t step, int depth,
                           uint32_t shift, uint32_t* to) {
  if (depth == 4) {
    const T *a = channels[0], *b = channels[1], *c = channels[2], *d = channels[3];
    const uint32_t all = shift * 0x01010101u;
    for (int64_t i = 0; i < n; ++i) {
      const auto byte = [i, step](const T* p) ENS_INLINE_LAMBDA {
        return static_cast<uint32_t>(static_cast<uint8_t>(p[i * step]));
      };
      to[i] = (byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24) ^ all;
    }
  } else {
    const T *a = channels[0], *b = channels[1];
    for (int64_t i = 0; i < n; ++i) {
      to[i] = (static_cast<uint32_t>(a[i * step]) & 0xffff) | static_cast<uint32_t>(b[i * step])
                                                                  << 16;
    }
  }
}

// The weight of all groups, packed for the kernels: in blocks of as many rows as a tile has.
class Rows {
 public:
  Rows(const Int8Kernels& k, const Geometry& g, const Source& w, int64_t row_step, bool shifted)
      : rows_(g.rows), cells_(g.taps() * ceil_div(g.channels, k.depth)) {
    blocks_ = ceil_div(rows_, k.rows);
    height_ = ceil_div(rows_, blocks_);
    packed_ = allocate(static_cast<size_t>(g.groups * rows_ * cells_) * sizeof(uint32_t));
    start_.resize(static_cast<size_t>(g.groups * rows_));
    parallel_for(g.groups * blocks_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        if (w.is_unsigned) {
          pack<uint8_t>(k.depth, g, w, row_step, shifted, i / blocks_, i % blocks_);
        } else {
          pack<int8_t>(k.depth, g, w, row_step, shifted, i / blocks_, i % blocks_);
        }
      }
    });
  }

  int64_t cells() const { return cells_; }
  int64_t blocks() const { return blocks_; }
  int64_t first(int64_t block) const { return block * height_; }
  int64_t count(int64_t block) const { return std::min(height_, rows_ - first(block)); }
  const uint32_t* packed(int64_t group, int64_t block) const {
    return static_cast<const uint32_t*>(packed_.get()) + (group * rows_ + first(block)) * cells_;
  }
  const int32_t* start(int64_t group, int64_t block) const {
    return start_.data() + group * rows_ + first(block);
  }

 private:
  template <typename T>
  void pack(int depth, const Geometry& g, const Source& w, int64_t row_step, bool shifted,
            int64_t group, int64_t block) {
    auto* to = const_cast<uint32_t*>(packed(group, block));
    const int64_t n = count(block);
    for (int64_t r = 0; r < n; ++r) {
      const T* row = static_cast<const T*>(w.data) + (group * rows_ + first(block) + r) * row_step;
      uint32_t sum = 0;
      int64_t cell = 0;
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        for (int64_t c = 0; c < g.channels; c += depth, ++cell) {
          const T* p = row + c * w.channel_step + tap;
          const int64_t valid = g.channels - c;
          to[cell * n + r] = cell_of(p, w.channel_step, depth, valid, 0);
          for (int d = 0; d < depth && d < valid; ++d) {
            sum += static_cast<uint32_t>(p[d * w.channel_step]);
          }
        }
      }
      start_[static_cast<size_t>(group * rows_ + first(block) + r)] =
          shifted ? static_cast<int32_t>(0u - 128u * sum) : 0;
    }
  }

  int64_t rows_, cells_, blocks_, height_;
  std::shared_ptr<void> packed_;
  std::vector<int32_t> start_;
};

// `images` images that lie `image_step` elements apart, as planes of cells.
template <typename T>
void pack_images(const Int8Kernels& k, const Geometry& g, const Source& x, int64_t image_step,
                 int64_t images, bool shifted, uint32_t* planes) {
  const int64_t cells = ceil_div(g.channels, k.depth);
  const uint32_t shift = shifted ? 0x80 : 0;
  parallel_for(images * g.groups * cells, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / (g.groups * cells), group = i / cells % g.groups;
      const int64_t channel = i % cells * k.depth;
      const T* channels[4];
      for (int d = 0; d < k.depth; ++d) {
        const int64_t c = group * g.channels + std::min(channel + d, g.channels - 1);
        channels[d] = static_cast<const T*>(x.data) + image * image_step + c * x.channel_step;
      }
      uint32_t* to = planes + i * g.plane();
      if (g.padding > 0) std::fill_n(to, g.plane(), shift * 0x01010101u);
      to += g.padding * g.padded_width() + g.padding;
      for (int64_t row = 0; row < g.height; ++row, to += g.padded_width()) {
        pack_cells(channels, g.width, x.step, k.depth, shift, to);
        for (int d = 0; d < k.depth; ++d) channels[d] += g.width * x.step;
      }
    }
  });
}

// Where the output pixels of a panel read, in cells from the plane of the first channels.
struct Places {
  int64_t at[kInt8Columns];
  bool neighbours[kInt8Columns / kChunk];
};

Places places_of(const Geometry& g, int64_t image_cells, int64_t first, int64_t most) {
  Places p;
  for (int i = 0; i < kInt8Columns; ++i) {
    const int64_t pixel = std::min(first + i, most - 1);
    const int64_t image = pixel / g.pixels(), at = pixel % g.pixels();
    p.at[i] = image * image_cells + at / g.out_width * g.stride * g.padded_width() +
              at % g.out_width * g.stride;
  }
  for (int i = 0; i < kInt8Columns; i += kChunk) {
    bool all = true;
    for (int k = 1; k < kChunk; ++k) all = all && p.at[i + k] == p.at[i] + k;
    p.neighbours[i / kChunk] = all;
  }
  return p;
}

void gather(const Geometry& g, const Places& p, const uint32_t* planes, int64_t cells,
            uint32_t* to) {
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const uint32_t* from =
        planes + g.dilation * (tap / g.kernel_width * g.padded_width() + tap % g.kernel_width);
    for (int64_t c = 0; c < cells; ++c, from += g.plane()) {
      for (int i = 0; i < kInt8Columns; i += kChunk, to += kChunk) {
        if (p.neighbours[i / kChunk]) {
          std::memcpy(to, from + p.at[i], kChunk * sizeof *to);
        } else {
          for (int k = 0; k < kChunk; ++k) to[k] = from[p.at[i + k]];
        }
      }
    }
  }
}

// y [images][groups * rows][y_step], of which the first g.pixels() are written.
void multiply(const Int8Kernels& k, const Geometry& g, const Rows& rows, bool unsigned_rows,
              const uint32_t* planes, int64_t images, int32_t* y, int64_t y_step) {
  const int64_t cells = ceil_div(g.channels, k.depth), pixels = images * g.pixels();
  const int64_t image_cells = g.groups * cells * g.plane();
  const int64_t panels = ceil_div(pixels, kInt8Columns), panel_cells = rows.cells() * kInt8Columns;
  const int64_t threads = compute_threads();
  const int64_t share = std::clamp<int64_t>(
      std::min<int64_t>(kPanelBytes / (panel_cells * 4), panels * g.groups / (4 * threads)), 1,
      panels);
  const int64_t tasks = ceil_div(panels, share) * g.groups;
  const int64_t splits = std::clamp<int64_t>(threads / tasks, 1, rows.blocks());  // of the rows
  const auto& kernels = k.multiply[unsigned_rows];
  parallel_for(tasks * splits, 1, [&](int64_t begin, int64_t end) {
    const Buffer buffer(static_cast<size_t>(share * panel_cells) * sizeof(uint32_t));
    int32_t tile[kMostInt8Rows * kInt8Columns];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t split = i % splits, group = i / splits % g.groups;
      const int64_t first = i / splits / g.groups * share, last = std::min(first + share, panels);
      for (int64_t p = first; p < last; ++p) {
        const Places places = places_of(g, image_cells, p * kInt8Columns, pixels);
        gather(g, places, planes + group * cells * g.plane(), cells,
               buffer.as<uint32_t>() + (p - first) * panel_cells);
      }
      for (int64_t b = rows.blocks() * split / splits; b < rows.blocks() * (split + 1) / splits;
           ++b) {
        const int64_t count = rows.count(b);
        for (int64_t p = first; p < last; ++p) {
          const int64_t from = p * kInt8Columns, to = std::min(from + kInt8Columns, pixels);
          const auto place = [&](int64_t pixel, int64_t row) {
            const int64_t image = pixel / g.pixels();
            return y + ((image * g.groups + group) * g.rows + rows.first(b) + row) * y_step +
                   pixel % g.pixels();
          };
          const bool whole =
              to - from == kInt8Columns && from / g.pixels() == (to - 1) / g.pixels();
          kernels[count - 1](rows.cells(), rows.packed(group, b),
                             buffer.as<uint32_t>() + (p - first) * panel_cells,
                             rows.start(group, b), whole ? place(from, 0) : tile,
                             whole ? y_step : kInt8Columns);
          if (whole) continue;
          for (int64_t row = 0; row < count; ++row) {
            for (int64_t pixel = from; pixel < to;) {
              const int64_t run = std::min(to - pixel, g.pixels() - pixel % g.pixels());
              std::memcpy(place(pixel, row), tile + row * kInt8Columns + pixel - from,
                          static_cast<size_t>(run) * sizeof(int32_t));
              pixel += run;
            }
          }
        }
      }
    }
  });
}

void multiply_images(const Int8Kernels& k, const Geometry& g, const Rows& rows, bool unsigned_rows,
                     const Source& x, int64_t image_step, int64_t images, bool shifted, int32_t* y,
                     int64_t y_step) {
  const int64_t image_cells = g.groups * ceil_div(g.channels, k.depth) * g.plane();
  const int64_t at_once = std::clamp<int64_t>(kPlanesBytes / (image_cells * 4), 1, images);
  const Buffer planes(static_cast<size_t>(at_once * image_cells) * sizeof(uint32_t));
  for (int64_t first = 0; first < images; first += at_once) {
    const int64_t count = std::min(at_once, images - first);
    Source from = x;
    from.data = static_cast<const uint8_t*>(x.data) + first * image_step;
    if (x.is_unsigned) {
      pack_images<uint8_t>(k, g, from, image_step, count, shifted, planes.as<uint32_t>());
    } else {
      pack_images<int8_t>(k, g, from, image_step, count, shifted, planes.as<uint32_t>());
    }
    multiply(k, g, rows, unsigned_rows, planes.as<uint32_t>(), count,
             y + first * g.groups * g.rows * y_step, y_step);
  }
}

}  // namespace

Tensor CpuBackend::conv2d_s8(const Tensor& x, const Tensor& w, const ConvSpec& spec) {
  const Shape shape = conv2d_s8_shape(x, w, spec);
  const Tensor source = x.plain();
  Tensor y = Tensor::empty(shape, Dtype::kI32);
  if (x.numel() == 0 || w.numel() == 0) y.fill(0);
  if (x.numel() == 0 || w.numel() == 0) return y;
  const Int8Kernels& k = int8_kernels();
  const Geometry g{.groups = spec.groups,
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
  const bool is_unsigned = x.dtype() == Dtype::kU8, shifted = !is_unsigned && k.depth == 4;
  const Rows rows(k, g, {w.host(), false, g.taps(), 1}, w.dim(1) * g.taps(), shifted);
  multiply_images(k, g, rows, false, {source.host(), is_unsigned, g.height * g.width, 1},
                  x.dim(1) * g.height * g.width, x.dim(0), shifted, y.data<int32_t>(), g.pixels());
  return y;
}

Tensor CpuBackend::gemm_s8(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) {
  const Shape shape = gemm_s8_shape(transpose_a, transpose_b, a, b);
  Tensor c = Tensor::empty(shape, Dtype::kI32);
  if (a.numel() == 0 || b.numel() == 0) c.fill(0);
  if (a.numel() == 0 || b.numel() == 0) return c;
  const Int8Kernels& k = int8_kernels();
  const int64_t m = shape[0], n = shape[1], depth = a.dim(transpose_a ? 0 : 1);
  Geometry g{.groups = 1,
             .channels = depth,
             .height = 1,
             .width = n,
             .rows = m,
             .kernel_height = 1,
             .kernel_width = 1,
             .out_height = 1,
             .out_width = n};
  const bool is_unsigned = a.dtype() == Dtype::kU8, shifted = !is_unsigned && k.depth == 4;
  const Source rows_of{a.host(), is_unsigned, transpose_a ? m : 1, 1};
  const Rows rows(k, g, rows_of, transpose_a ? 1 : depth, shifted);
  const Source columns{b.host(), false, transpose_b ? 1 : n, transpose_b ? depth : 1};
  multiply_images(k, g, rows, is_unsigned, columns, 0, 1, shifted, c.data<int32_t>(), n);
  return c;
}

}  // namespace ens::cpu
