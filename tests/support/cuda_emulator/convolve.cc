// SPDX-License-Identifier: Apache-2.0
// Convolutions as matrix products over unfolded images, in float32 (or TF32).
#include "tests/support/cuda_emulator/convolve.h"

#include <Eigen/Core>
#include <vector>

namespace ens::emulator {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Calls f(n, c, h, w) in the order of NCHW.
template <typename F>
void for_each(const Image& d, F f) {
  for (int64_t n = 0; n < d.size[0]; ++n)
    for (int64_t c = 0; c < d.size[1]; ++c)
      for (int64_t h = 0; h < d.size[2]; ++h)
        for (int64_t w = 0; w < d.size[3]; ++w) f(n, c, h, w);
}

// All numbers of an operand in NCHW order.
std::vector<float> read(const Convolution& c, const Image& d) {
  check_access(d.data, d.reach(), c.device, c.call);
  const bool rounds = c.tf32 && d.type == CUDA_R_32F;
  std::vector<float> v;
  v.reserve(static_cast<size_t>(d.numel()));
  for_each(d, [&](int64_t n, int64_t ch, int64_t h, int64_t w) {
    const float value = load(d.data, d.type, d.at(n, ch, h, w));
    v.push_back(rounds ? to_tf32(value) : value);
  });
  return v;
}

void write(const Convolution& c, const Image& d, const std::vector<float>& v) {
  for (const Image* operand : {&d, &c.scale, &c.z, &c.bias}) {
    if (operand->numel() > 0) {
      check_access(operand->data, operand->reach(), c.device, c.call);
    }
  }
  size_t i = 0;
  for_each(d, [&](int64_t n, int64_t ch, int64_t h, int64_t w) {
    const auto of = [&](const Image& o) { return load(o.data, o.type, o.at(n, ch, h, w)); };
    float value = v[i++];
    if (c.scale.numel() > 0) value *= of(c.scale);
    if (c.z.numel() > 0) value += of(c.z);
    if (c.bias.numel() > 0) value += of(c.bias);
    if (c.relu) value = value > 0.0f ? value : 0.0f;
    store(d.data, d.type, d.at(n, ch, h, w), value);
  });
}

// Calls f(row of the unfolded image, column, index in the plane) for every tap that meets a pixel.
template <typename F>
void for_taps(const Convolution& c, F f) {
  const int64_t channels = c.w.size[1], kh = c.w.size[2], kw = c.w.size[3];
  const int64_t height = c.x.size[2], width = c.x.size[3], oh = c.y.size[2], ow = c.y.size[3];
  for (int64_t ch = 0, row = 0; ch < channels; ++ch)
    for (int64_t r = 0; r < kh; ++r)
      for (int64_t s = 0; s < kw; ++s, ++row)
        for (int64_t i = 0; i < oh; ++i) {
          const int64_t h = i * c.stride[0] - c.pad[0] + r * c.dilation[0];
          if (h < 0 || h >= height) continue;
          for (int64_t j = 0; j < ow; ++j) {
            const int64_t w = j * c.stride[1] - c.pad[1] + s * c.dilation[1];
            if (w >= 0 && w < width) f(row, i * ow + j, (ch * height + h) * width + w);
          }
        }
}

}  // namespace

cudaDataType_t cuda_type(cudnnDataType_t type) {
  switch (type) {
    case CUDNN_DATA_FLOAT:
      return CUDA_R_32F;
    case CUDNN_DATA_HALF:
      return CUDA_R_16F;
    case CUDNN_DATA_BFLOAT16:
      return CUDA_R_16BF;
    case CUDNN_DATA_FP8_E4M3:
      return CUDA_R_8F_E4M3;
    default:
      die("cuDNN data type " + std::to_string(type) + " is not emulated");
  }
}

bool sizes_fit(const Convolution& c) {
  for (int i = 0; i < 2; ++i) {
    const int64_t room = c.x.size[2 + i] + 2 * c.pad[i] - c.dilation[i] * (c.w.size[2 + i] - 1) - 1;
    if (room < 0 || c.y.size[2 + i] != room / c.stride[i] + 1) return false;
  }
  return c.x.size[0] == c.y.size[0] && c.w.size[0] == c.y.size[1] &&
         c.x.size[1] % c.w.size[1] == 0 && c.w.size[0] % c.groups() == 0;
}

void convolve(const Convolution& c) {
  const int64_t groups = c.groups(), batch = c.x.size[0];
  const int64_t in = c.w.size[1], out = c.w.size[0] / groups;
  const int64_t taps = in * c.w.size[2] * c.w.size[3];
  const int64_t plane_x = c.x.size[2] * c.x.size[3], plane_y = c.y.size[2] * c.y.size[3];
  const auto start = [&](const Image& d, Pass computed_by) {
    return c.pass == computed_by ? std::vector<float>(static_cast<size_t>(d.numel())) : read(c, d);
  };
  std::vector<float> x = start(c.x, Pass::kGradInput);
  std::vector<float> w = start(c.w, Pass::kGradWeight);
  std::vector<float> y = start(c.y, Pass::kForward);
  Matrix unfolded(taps, plane_y);
  for (int64_t n = 0; n < batch; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      float* px = x.data() + (n * groups + g) * in * plane_x;
      Eigen::Map<Matrix> weight(w.data() + g * out * taps, out, taps);
      Eigen::Map<Matrix> result(y.data() + (n * groups + g) * out * plane_y, out, plane_y);
      if (c.pass == Pass::kGradInput) {
        unfolded.noalias() = weight.transpose() * result;
        for_taps(c,
                 [&](int64_t row, int64_t column, int64_t at) { px[at] += unfolded(row, column); });
      } else {
        unfolded.setZero();
        for_taps(c,
                 [&](int64_t row, int64_t column, int64_t at) { unfolded(row, column) = px[at]; });
        if (c.pass == Pass::kForward) {
          result.noalias() = weight * unfolded;
        } else {
          weight.noalias() += result * unfolded.transpose();
        }
      }
    }
  }
  switch (c.pass) {
    case Pass::kForward:
      return write(c, c.y, y);
    case Pass::kGradInput:
      return write(c, c.x, x);
    case Pass::kGradWeight:
      return write(c, c.w, w);
  }
}

}  // namespace ens::emulator
