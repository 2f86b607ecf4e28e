// Matrix fragments of 16 x 16 x 16, float16 or bfloat16 into float32. A thread holds what it needs
// for its part of the sums, half a row: another distribution than the hardware's, so only loading,
// filling, multiplying and storing mean the same.
#pragma once

#include "tests/support/cuda_emulator/device.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

namespace emulated {
inline int row() { return ens::emulator::current_lane() / 2; }
inline int column() { return ens::emulator::current_lane() % 2 * 8; }
}  // namespace emulated

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static_assert(M == 16 && N == 16 && K == 16, "other shapes are not emulated");
  static constexpr int kNumbers = std::is_same_v<Use, matrix_a>   ? 16      // a row
                                  : std::is_same_v<Use, matrix_b> ? 16 * 8  // eight columns
                                                                  : 8;      // half a row
  static constexpr int num_elements = kNumbers;
  T x[kNumbers];
};

template <typename Use, typename T, typename Layout, typename V>
void fill_fragment(fragment<Use, 16, 16, 16, T, Layout>& f, const V& value) {
  for (T& x : f.x) x = value;
}

template <typename T, typename Layout>
void load_matrix_sync(fragment<matrix_a, 16, 16, 16, T, Layout>& f, const T* p, unsigned ld) {
  ens::emulator::check_fragment(p, ld * sizeof(T));
  for (unsigned k = 0; k < 16; ++k) {
    const auto r = static_cast<unsigned>(emulated::row());
    f.x[k] = std::is_same_v<Layout, row_major> ? p[r * ld + k] : p[k * ld + r];
  }
  __syncwarp();
}
template <typename T, typename Layout>
void load_matrix_sync(fragment<matrix_b, 16, 16, 16, T, Layout>& f, const T* p, unsigned ld) {
  ens::emulator::check_fragment(p, ld * sizeof(T));
  for (unsigned j = 0; j < 8; ++j) {
    const auto c = static_cast<unsigned>(emulated::column()) + j;
    for (unsigned k = 0; k < 16; ++k) {
      f.x[j * 16 + k] = std::is_same_v<Layout, row_major> ? p[k * ld + c] : p[c * ld + k];
    }
  }
  __syncwarp();
}

template <typename T, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
              const fragment<matrix_a, 16, 16, 16, T, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, T, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& c) {
  float left[16];
  for (int k = 0; k < 16; ++k) left[k] = static_cast<float>(a.x[k]);
  for (int j = 0; j < 8; ++j) {
    float sum = c.x[j];
    for (int k = 0; k < 16; ++k) sum += left[k] * static_cast<float>(b.x[j * 16 + k]);
    d.x[j] = sum;
  }
}

inline void store_matrix_sync(float* p, const fragment<accumulator, 16, 16, 16, float>& f,
                              unsigned ld, layout_t layout) {
  ens::emulator::check_fragment(p, ld * sizeof(float));
  const auto r = static_cast<unsigned>(emulated::row());
  for (unsigned j = 0; j < 8; ++j) {
    const auto c = static_cast<unsigned>(emulated::column()) + j;
    p[layout == mem_row_major ? r * ld + c : c * ld + r] = f.x[j];
  }
  __syncwarp();
}

}  // namespace nvcuda::wmma
