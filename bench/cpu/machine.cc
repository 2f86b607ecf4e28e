// SPDX-License-Identifier: Apache-2.0
#include "bench/cpu/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/threads.h"
#include "nn/core/backend.h"
#include "nn/core/tensor.h"

namespace ens::bench {
namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Independent chains of multiply-adds, enough to fill two units with a latency of four or five.
// Each starts from a value of its own, and none from the fixed point 1: the compiler computes equal
// chains once and a constant one never.
template <typename V>
inline __attribute__((always_inline)) float chains(int64_t count) {
  constexpr int kChains = 12;
  V sums[kChains];
  for (int c = 0; c < kChains; ++c) sums[c] = V{} + static_cast<float>(2 + c);
  const V factor = V{} + 0.999f, summand = V{} + 0.001f;
  for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = sums[c] * factor + summand;
  }
  V total{};
  for (int c = 0; c < kChains; ++c) total += sums[c];
  return total[0];
}

typedef float Float16 __attribute__((vector_size(64)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float4 __attribute__((vector_size(16)));
struct Chains {
  float (*run)(int64_t);
  int flops;  // of one step of one chain
};
#if defined(__x86_64__)
__attribute__((target("avx512f"))) float chains16(int64_t n) { return chains<Float16>(n); }
// Chains of AVX512_BF16's multiply-adds.
__attribute__((target("avx512f"))) float chains_bf16(int64_t count) {
  constexpr int kChains = 12;
  Float16 sums[kChains] = {};
  const Float16 ones = Float16{} + std::bit_cast<float>(0x3f803f80);
  for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) {
      __asm__ volatile("vdpbf16ps %1, %1, %0" : "+v"(sums[c]) : "v"(ones));
    }
  }
  return sums[0][0];
}
__attribute__((target("avx2,fma"))) float chains8(int64_t n) { return chains<Float8>(n); }
#endif
float chains4(int64_t n) { return chains<Float4>(n); }

Chains widest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {chains16, 32};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {chains8, 16};
#endif
  return {chains4, 8};
}

float sum_of(const float* p, int64_t n) {
  Float16 sums[4] = {};
  for (int64_t i = 0; i + 64 <= n; i += 64) {
    for (int c = 0; c < 4; ++c) {
      Float16 v;
      std::memcpy(&v, p + i + 16 * c, sizeof v);
      sums[c] += v;
    }
  }
  return (sums[0] + sums[1] + sums[2] + sums[3])[0];
}

volatile float sink;

}  // namespace

double quickest(double seconds, const std::function<void()>& work) {
  double best = 1e30;
  const auto start = Clock::now();
  do {
    const auto begin = Clock::now();
    work();
    best = std::min(best, since(begin));
  } while (since(start) < seconds);
  return best;
}

namespace {

double flops_of(const Chains& chain, double seconds) {
  constexpr int64_t kCount = 1'000'000;
  const int threads = compute_threads();
  const double time = quickest(seconds, [&] {
    parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sink = chain.run(kCount);
    });
  });
  return static_cast<double>(12 * chain.flops * threads * kCount) / time;
}

}  // namespace

double peak_flops(double seconds) { return flops_of(widest(), seconds); }

double peak_flops_bf16(double seconds) {
  Backend& cpu = backend(Device{});
  if (!cpu.supports(Dtype::kBF16)) return 0;
  constexpr int64_t kSize = 2048;
  const Tensor a = Tensor::full({kSize, kSize}, 0.5f, Dtype::kBF16);
  Tensor c = Tensor::empty({kSize, kSize}, Dtype::kBF16);
  const double time = quickest(seconds, [&] { cpu.gemm(false, false, 1.0f, a, a, 0.0f, c); });
  double most = 2.0 * kSize * kSize * kSize / time;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) {
    most = std::max(most, flops_of({chains_bf16, 64}, seconds));
  }
#endif
  return most;
}

double peak_bandwidth(double seconds) {
  constexpr int64_t kNumbers = int64_t{64} << 20;  // 256 MiB: more than any cache
  static const Tensor numbers = Tensor::full({kNumbers}, 1.0f);
  const float* p = numbers.data<float>();
  const int64_t threads = compute_threads();
  const double time = quickest(seconds, [&] {
    parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        sink = sum_of(p + i * (kNumbers / threads), kNumbers / threads);
    });
  });
  return static_cast<double>(kNumbers * static_cast<int64_t>(sizeof(float))) / time;
}

std::string processor() {
  std::string model = "unknown processor";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    model = line.substr(line.find(':') + 2);
    break;
  }
  return model + "; " + backend(Device{}).description();
}

std::string libraries() {
  const dnnl_version_t* v = dnnl_version();
  return fmt::format("oneDNN {}.{}.{}, compiler {}", v->major, v->minor, v->patch, __VERSION__);
}

double resident_peak() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib * 1024;
  }
  return 0;
}

void reset_resident_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace ens::bench
