// SPDX-License-Identifier: Apache-2.0
#include "nn/core/int8_layer.h"

#include "base/error.h"

namespace ens {

Shape output_shape(const Int8Layer& layer, const Shape& input) {
  const Tensor& w = layer.weight;
  const auto refuse = [&] {
    usage_fail("weights " + w.shape().str() + " do not take an input of shape " + input.str(),
               "int8 layer");
  };
  if (w.rank() == 2) {
    if (input.rank() != 1 || input[0] != w.dim(1)) refuse();
    return {w.dim(0)};
  }
  const ConvSpec& c = layer.conv;
  if (input.rank() != 3 || input[0] != w.dim(1) * c.groups) refuse();
  Shape out{w.dim(0), 0, 0};
  for (const int axis : {1, 2}) {
    const int64_t room = input[axis] + 2 * c.padding - c.dilation * (w.dim(axis + 1) - 1) - 1;
    if (room < 0) refuse();
    out.set(axis, room / c.stride + 1);
  }
  return out;
}

Tensor multiply(const Int8Layer& layer, const Tensor& x) {
  Backend& be = backend(x.device());
  if (x.dtype() == Dtype::kF32) {
    const Tensor w = layer.weight.to(x.device()).to(Dtype::kF32);
    if (w.rank() == 4) return be.conv2d(x, w, {}, layer.conv);
    Tensor y = Tensor::empty({x.dim(0), w.dim(0)}, Dtype::kF32, x.device());
    be.gemm(false, true, 1, x, w, 0, y);
    return y;
  }
  return layer.weight.rank() == 2 ? be.gemm_s8(false, true, x, layer.weight)
                                  : be.conv2d_s8(x, layer.weight, layer.conv);
}

}  // namespace ens
