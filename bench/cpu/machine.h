// SPDX-License-Identifier: Apache-2.0
// What the machine can do at most, measured. Every figure is of all compute threads together.
#pragma once

#include <functional>
#include <string>

namespace ens::bench {

// Calls work() again and again for about `seconds`; the quickest call's seconds, which what
// disturbs some of them does not change.
double quickest(double seconds, const std::function<void()>& work);

// Each takes about `seconds`. FLOP/s: float32 multiply-adds in registers; in bfloat16 the same or
// oneDNN's product of matrices, whichever is more, 0 without bfloat16. Bytes/s: reading memory.
double peak_flops(double seconds);
double peak_flops_bf16(double seconds);
double peak_bandwidth(double seconds);

std::string processor();  // "AMD EPYC, 2 threads, avx2"
std::string libraries();  // "oneDNN 2.6.3, g++ 12.2.0"
double resident_peak();   // bytes of this process, highest so far
void reset_resident_peak();

}  // namespace ens::bench
