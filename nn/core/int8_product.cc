// SPDX-License-Identifier: Apache-2.0
#include "nn/core/int8_product.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace ens {
namespace {

void check_factors(const char* verb, const Tensor& first, const Tensor& second, int64_t terms) {
  const Dtype dtype = first.dtype();
  if ((dtype != Dtype::kI8 && dtype != Dtype::kU8) || second.dtype() != Dtype::kI8) {
    usage_fail(std::string("cannot multiply ") + name(dtype) + " by " + name(second.dtype()), verb,
               "the first factor is int8 or uint8, the second int8");
  }
  const int64_t most = dtype == Dtype::kI8 ? kMaxTermsI8 : kMaxTermsU8;
  if (terms > most) {
    usage_fail("sums of " + std::to_string(terms) + " products of " + name(dtype) +
                   " and int8 may leave int32",
               verb, "split sums longer than " + std::to_string(most));
  }
}

}  // namespace

Shape conv2d_s8_shape(const Tensor& x, const Tensor& w, const ConvSpec& spec) {
  const auto refuse = [&](const std::string& why) {
    usage_fail("no convolution of x " + x.shape().str() + " with w " + w.shape().str() + ": " + why,
               "conv2d_s8");
  };
  if (x.rank() != 4 || w.rank() != 4) refuse("both have four dimensions");
  constexpr int kMost = 32767;  // far beyond any network's, and no size overflows
  if (spec.stride < 1 || spec.dilation < 1 || spec.padding < 0 || spec.groups < 1 ||
      std::max({spec.stride, spec.dilation, spec.padding}) > kMost) {
    refuse(
        "stride, dilation and groups are at least 1, padding at least 0, none but groups above "
        "32767");
  }
  if (w.dim(1) * spec.groups != x.dim(1) || w.dim(0) % spec.groups != 0) {
    refuse("channels do not fit " + std::to_string(spec.groups) + " groups");
  }
  Shape y{x.dim(0), w.dim(0), 0, 0};
  for (int axis : {2, 3}) {
    const int64_t room = x.dim(axis) + 2 * spec.padding - spec.dilation * (w.dim(axis) - 1) - 1;
    if (w.dim(axis) < 1 || room < 0) refuse("the kernel does not fit into the padded image");
    y.set(axis, room / spec.stride + 1);
  }
  check_factors("conv2d_s8", x, w, w.dim(1) * w.dim(2) * w.dim(3));
  return y;
}

Shape gemm_s8_shape(bool transpose_a, bool transpose_b, const Tensor& a, const Tensor& b) {
  const bool matrices = a.rank() == 2 && b.rank() == 2;
  if (!matrices || a.dim(transpose_a ? 0 : 1) != b.dim(transpose_b ? 1 : 0)) {
    usage_fail("no product of a " + a.shape().str() + (transpose_a ? " (transposed)" : "") +
                   " and b " + b.shape().str() + (transpose_b ? " (transposed)" : ""),
               "gemm_s8", "a is [M,K] and b [K,N]");
  }
  check_factors("gemm_s8", a, b, a.dim(transpose_a ? 0 : 1));
  return {a.dim(transpose_a ? 1 : 0), b.dim(transpose_b ? 0 : 1)};
}

}  // namespace ens
