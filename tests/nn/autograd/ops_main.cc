// SPDX-License-Identifier: Apache-2.0
// The tests of operations, and two other uses of their cases:
//   nn_autograd_test --support [FILTER]   which operations each device computes in which dtype
//   nn_autograd_test --perf [FILTER]      how long cases of a network's sizes take
// FILTER: part of a case's name. Operations run forward and backward; --perf times the former, then
// both.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "nn/core/backend.h"
#include "tests/support/compare.h"
#include "tests/support/op_cases.h"

namespace ens::test {
namespace {

constexpr Dtype kDtypes[] = {Dtype::kF32, Dtype::kBF16, Dtype::kF16};
constexpr double kSecondsPerCase = 0.2;
constexpr int kMostRuns = 1000;

std::vector<Device> devices() {
  offer_gpus();
  std::vector<Device> list{Device{}};
  if (has_backend(Device::Type::kCuda)) list.push_back({Device::Type::kCuda, 0});
  return list;
}

// "yes", or why the case does not run, forward and backward.
std::string support(const OpCase& c, Dtype dtype, Device device) try {
  const Var y = c.op(operand_vars(c, operand_values(c, dtype), dtype, Layout::kPlain, device));
  backward_with(y, Tensor::full(y.shape(), 1, y.value().dtype(), device));
  backend(device).synchronize();
  return backend(device).supports(dtype) || dtype == Dtype::kF32 ? "yes" : "yes, slowly";
} catch (const Error& e) {
  return std::string("no: ") + e.what();
}

void print_support(std::string_view filter) {
  for (const Device device : devices()) {
    std::printf("%s: %s\n", device.str().c_str(), backend(device).description().c_str());
    for (const OpCase& c : op_cases()) {
      if (c.name.find(filter) == std::string::npos) continue;
      std::printf("  %-44s", c.name.c_str());
      for (const Dtype dtype : kDtypes) {
        std::printf(" %s %s", name(dtype), support(c, dtype, device).c_str());
        std::printf(dtype == kDtypes[2] ? "\n" : ";");
      }
    }
  }
}

// The fastest of many runs, in seconds.
template <typename F>
double time_of(Device device, F&& run) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  run();  // loads kernels, chooses algorithms
  backend(device).synchronize();
  double best = 1e9;
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < kMostRuns && (i < 3 || seconds_since(begin) < kSecondsPerCase); ++i) {
    const Clock::time_point start = Clock::now();
    run();
    backend(device).synchronize();
    best = std::min(best, seconds_since(start));
  }
  return best;
}

void print_perf(std::string_view filter) {
  for (const Device device : devices()) {
    std::printf("%s: %s\n%-36s %-9s %12s %14s %12s\n", device.str().c_str(),
                backend(device).description().c_str(), "case", "dtype", "forward us", "",
                "with grad us");
    for (const OpCase& c : op_perf_cases()) {
      if (c.name.find(filter) == std::string::npos) continue;
      for (const Dtype dtype : kDtypes) {
        if (!backend(device).supports(dtype)) continue;
        const std::vector<Var> vars =
            operand_vars(c, operand_values(c, dtype), dtype, Layout::kPlain, device);
        Var y = c.op(vars);
        size_t bytes = y.value().bytes();
        for (const Var& v : vars) bytes += v.value().bytes();
        const Tensor dy = Tensor::full(y.shape(), 1, y.value().dtype(), device);
        const double forward = time_of(device, [&] { y = c.op(vars); });
        const double both = time_of(device, [&] { backward_with(c.op(vars), dy); });
        const double rate = (c.flops > 0 ? c.flops : static_cast<double>(bytes)) / forward / 1e9;
        std::printf("%-36s %-9s %12.1f %8.1f %-5s %12.1f\n", c.name.c_str(), name(dtype),
                    1e6 * forward, rate, c.flops > 0 ? "GF/s" : "GB/s", 1e6 * both);
      }
    }
  }
}

}  // namespace
}  // namespace ens::test

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--perf") ens::reexec_with_openmp_settings(argv);
  testing::InitGoogleTest(&argc, argv);
  const std::string_view mode = argc > 1 ? argv[1] : "", filter = argc > 2 ? argv[2] : "";
  if (mode == "--support") {
    ens::test::print_support(filter);
  } else if (mode == "--perf") {
    ens::test::print_perf(filter);
  } else {
    return RUN_ALL_TESTS();
  }
}
