// SPDX-License-Identifier: Apache-2.0
// What kernels of our own need of tensor cores: products of 16-bit elements into float32 and of
// bytes into int32, their operands from shared memory, and copies into that. For .cu files; the
// emulated GPU, which has no such instructions, does the same lane by lane.
#pragma once

#include <cuda_pipeline.h>

#include <cstring>
#include <type_traits>

#include "nn/cuda/kernels.h"

namespace ens::cuda {

#ifndef __CUDA_ARCH__
// What each lane of the warp brings, until the next __syncwarp().
template <typename T>
__device__ const T* exchanged(const T& mine) {
  __shared__ T all[32][32];
  T* const warp = all[threadIdx.x / 32];
  warp[threadIdx.x % 32] = mine;
  __syncwarp();
  return warp;
}
#endif

// d [16][8] += a [16][16] b [16][8], as mma.m16n8k16 spreads them over a warp: lane 4 g + t has of
// a rows g and g + 8, of b column g, of both places 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of the sum; of d
// rows g and g + 8, columns 2 t and 2 t + 1.
template <typename T>
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  struct Operands {
    uint32_t a[4], b[2];
  };
  const Operands* const of = exchanged(Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const auto product = [](uint32_t u, uint32_t v) {
    Vec<T, 2> p, q;
    memcpy(&p, &u, sizeof p);
    memcpy(&q, &v, sizeof q);
    return load(p.v[0]) * load(q.v[0]) + load(p.v[1]) * load(q.v[1]);
  };
  for (int k = 0; k < 4; ++k) {
    const Operands& row = of[g * 4 + k];
    for (int half = 0; half < 2; ++half) {
      for (int column = 0; column < 2; ++column) {
        const uint32_t there = of[(2 * t + column) * 4 + k].b[half];
        d[column] += product(row.a[2 * half], there);
        d[2 + column] += product(row.a[2 * half + 1], there);
      }
    }
  }
  __syncwarp();
#endif
}

// As above, of 8-bit integers: d [16][8] += a [16][32] b [32][8], exact. Four bytes take the place
// of two 16-bit elements, so that load_matrices() serves both.
template <typename A, typename B>
__device__ inline void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4],
                                    const uint32_t (&b)[2]) {
#ifdef __CUDA_ARCH__
#define ENS_MMA(TYPES)                                                      \
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." TYPES               \
               ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
  if constexpr (std::is_unsigned_v<A>) {
    ENS_MMA("u8.s8");
  } else if constexpr (std::is_unsigned_v<B>) {
    ENS_MMA("s8.u8");
  } else {
    ENS_MMA("s8.s8");
  }
#undef ENS_MMA
#else
  struct Operands {
    uint32_t a[4], b[2];
  };
  const Operands* const of = exchanged(Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  const auto product = [](uint32_t u, uint32_t v) {
    Vec<A, 4> p;
    Vec<B, 4> q;
    memcpy(&p, &u, sizeof p);
    memcpy(&q, &v, sizeof q);
    int32_t sum = 0;
    for (int i = 0; i < 4; ++i) sum += p.v[i] * q.v[i];
    return sum;
  };
  for (int k = 0; k < 4; ++k) {
    const Operands& row = of[g * 4 + k];
    for (int half = 0; half < 2; ++half) {
      for (int column = 0; column < 2; ++column) {
        const uint32_t there = of[(2 * t + column) * 4 + k].b[half];
        d[column] += product(row.a[2 * half], there);
        d[2 + column] += product(row.a[2 * half + 1], there);
      }
    }
  }
  __syncwarp();
#endif
}

// Four matrices of 8 rows of 16 bytes in shared memory, each lane naming a row: lanes 0 to 7 those
// of the first. Lane 4 g + t gets of each the t-th 4 bytes of row g: with rows of 16-bit elements
// what multiply_add() wants of an a as [rows 0-7, 8-15] of places 0-7, then of places 8-15, and of
// two b, columns as rows, as places 0-7, 8-15 of one, then of the other.
__device__ inline void load_matrices(uint32_t (&r)[4], const void* row) {
#ifdef __CUDA_ARCH__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#else
  const void* const* const of = exchanged(row);
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    memcpy(&r[i], static_cast<const uint32_t*>(of[8 * i + g]) + t, sizeof r[i]);
  }
  __syncwarp();
#endif
}

// As __pipeline_memcpy_async of 16 bytes, zeros unless `there`, but through the L1 cache: for what
// the block will ask for again.
__device__ inline void copy_through_l1(void* shared, const void* global, bool there) {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "l"(global),
                 "r"(there ? 16 : 0)
               : "memory");
#else
  __pipeline_memcpy_async(shared, global, 16, there ? 0 : 16);
#endif
}

}  // namespace ens::cuda
