// What the machine can do at most, measured. Every figure is of all compute threads together.
#pragma once

#include <functional>
#include <string>

namespace ens::bench {

// Calls work() again and again for about `seconds`; the quickest call's seconds, which what
// disturbs some of them does not change.
double quickest(double seconds, const std::function<void()>& work);

// Each takes about `seconds`.
double peak_flops(double seconds);  // float32 multiply-adds in registers, FLOP/s
double peak_flops_bf16(
    double seconds);  // the same, or in oneDNN's product of matrices; 0: no bfloat16
double peak_bandwidth(double seconds);  // reading memory, bytes/s

std::string processor();  // "AMD EPYC, 2 threads, avx2"
std::string libraries();  // "oneDNN 2.6.3, g++ 12.2.0"
double resident_peak();   // bytes of this process, highest so far
void reset_resident_peak();

}  // namespace ens::bench
