// SPDX-License-Identifier: Apache-2.0
#include "tests/nn/plan/reference.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace ens::test {
namespace {

using Kind = GraphStep::Kind;
using Numbers = std::vector<double>;

double apply(UnaryOp op, double x, double a, double b) {
  switch (op) {
    case UnaryOp::kAffine:
      return a * x + b;
    case UnaryOp::kRelu:
      return x > 0 ? x : 0;
    case UnaryOp::kLeakyRelu:
      return x > 0 ? x : a * x;
    case UnaryOp::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case UnaryOp::kTanh:
      return std::tanh(x);
    case UnaryOp::kExp:
      return std::exp(x);
    case UnaryOp::kLog:
      return std::log(x);
    case UnaryOp::kSqrt:
      return std::sqrt(x);
    case UnaryOp::kSquare:
      return x * x;
    case UnaryOp::kAbs:
      return std::abs(x);
  }
  return NAN;
}

Numbers conv(const GraphStep& s, const Numbers& x, const Shape& in, const Shape& out) {
  const auto w = s.weight.span<float>();
  const int64_t per_group = s.weight.dim(1), kh = s.weight.dim(2), kw = s.weight.dim(3);
  Numbers y;
  for (int64_t o = 0; o < out[0]; ++o) {
    const int64_t first = o / (out[0] / s.conv.groups) * per_group;
    for (int64_t i = 0; i < out[1]; ++i) {
      for (int64_t j = 0; j < out[2]; ++j) {
        double sum = s.bias.defined() ? s.bias.span<float>()[o] : 0;
        for (int64_t c = 0; c < per_group; ++c) {
          for (int64_t u = 0; u < kh; ++u) {
            for (int64_t v = 0; v < kw; ++v) {
              const int64_t row = i * s.conv.stride - s.conv.padding + u * s.conv.dilation;
              const int64_t col = j * s.conv.stride - s.conv.padding + v * s.conv.dilation;
              if (row < 0 || row >= in[1] || col < 0 || col >= in[2]) continue;
              sum += x[((first + c) * in[1] + row) * in[2] + col] *
                     w[((o * per_group + c) * kh + u) * kw + v];
            }
          }
        }
        y.push_back(sum);
      }
    }
  }
  return y;
}

Numbers pool(const GraphStep& s, const Numbers& x, const Shape& in, const Shape& out) {
  Numbers y;
  for (int64_t c = 0; c < out[0]; ++c) {
    for (int64_t i = 0; i < out[1]; ++i) {
      for (int64_t j = 0; j < out[2]; ++j) {
        double largest = -INFINITY, sum = 0;
        int count = 0;
        for (int u = 0; u < s.pool.kernel; ++u) {
          for (int v = 0; v < s.pool.kernel; ++v) {
            const int64_t row = i * s.pool.stride - s.pool.padding + u;
            const int64_t col = j * s.pool.stride - s.pool.padding + v;
            if (row < 0 || row >= in[1] || col < 0 || col >= in[2]) continue;
            const double value = x[(c * in[1] + row) * in[2] + col];
            largest = std::max(largest, value);
            sum += value;
            ++count;
          }
        }
        y.push_back(s.kind == Kind::kMaxPool ? largest : sum / count);
      }
    }
  }
  return y;
}

Numbers step(const GraphStep& s, const Graph& graph, const Numbers& x) {
  const Shape& in = graph.shape(s.input);
  const Shape& out = graph.shape(s.output);
  switch (s.kind) {
    case Kind::kConv:
      return conv(s, x, in, out);
    case Kind::kLinear: {
      Numbers y;
      for (int64_t o = 0; o < out[0]; ++o) {
        double sum = s.bias.defined() ? s.bias.span<float>()[o] : 0;
        for (int64_t i = 0; i < in[0]; ++i) sum += x[i] * s.weight.span<float>()[o * in[0] + i];
        y.push_back(sum);
      }
      return y;
    }
    case Kind::kChannelAffine: {
      Numbers y = x;
      const int64_t pixels = in.numel() / in[0];
      for (int64_t i = 0; i < in.numel(); ++i) {
        y[i] = x[i] * s.weight.span<float>()[i / pixels] + s.bias.span<float>()[i / pixels];
      }
      return y;
    }
    case Kind::kActivation: {
      Numbers y = x;
      for (double& v : y) v = apply(s.activation, v, s.a, s.b);
      return y;
    }
    case Kind::kAdd:
      return x;  // the sum with the residual is taken below
    case Kind::kMaxPool:
    case Kind::kAvgPool:
      return pool(s, x, in, out);
    case Kind::kGlobalAvgPool: {
      Numbers y(in[0], 0);
      const int64_t pixels = in[1] * in[2];
      for (int64_t i = 0; i < in.numel(); ++i) y[i / pixels] += x[i] / pixels;
      return y;
    }
    case Kind::kFlatten:
      return x;
  }
  return {};
}

}  // namespace

std::vector<double> interpret(const Graph& graph, const Tensor& input,
                              const std::function<void(const GraphStep&, Numbers&)>& read) {
  Numbers result;
  const int64_t size = graph.shape(graph.input).numel();
  const auto numbers = input.span<float>();
  for (int64_t b = 0; b < input.dim(0); ++b) {
    std::vector<Numbers> values(graph.values.size());
    values[graph.input].assign(numbers.begin() + b * size, numbers.begin() + (b + 1) * size);
    for (const GraphStep& s : graph.steps) {
      Numbers x = values[s.input];
      if (read) read(s, x);
      Numbers y = step(s, graph, x);
      if (s.residual >= 0) {
        for (size_t i = 0; i < y.size(); ++i) y[i] += values[s.residual][i];
      }
      if (s.relu) {
        for (double& v : y) v = std::max(v, 0.0);
      }
      values[s.output] = std::move(y);
    }
    const Numbers& y = values[graph.output];
    result.insert(result.end(), y.begin(), y.end());
  }
  return result;
}

Tensor Net::random(const Shape& shape, float stddev, float mean) {
  Tensor t = Tensor::empty(shape);
  rng_.fill_normal(t.span<float>(), mean, stddev);
  return t;
}

int Net::conv(int x, int64_t channels, int kernel, const ConvSpec& spec, bool bias) {
  GraphStep s{Kind::kConv};
  s.input = x;
  s.conv = spec;
  const int64_t in = graph.shape(x)[0] / spec.groups;
  s.weight = random({channels, in, kernel, kernel},
                    1.0f / std::sqrt(static_cast<float>(in * kernel * kernel)));
  if (bias) s.bias = random({channels}, 0.1f);
  return append(std::move(s));
}

int Net::linear(int x, int64_t features, bool bias) {
  GraphStep s{Kind::kLinear};
  s.input = x;
  const int64_t in = graph.shape(x)[0];
  s.weight = random({features, in}, 1.0f / std::sqrt(static_cast<float>(in)));
  if (bias) s.bias = random({features}, 0.1f);
  return append(std::move(s));
}

int Net::affine(int x) {
  GraphStep s{Kind::kChannelAffine};
  s.input = x;
  s.weight = random({graph.shape(x)[0]}, 0.2f, 1.0f);
  s.bias = random({graph.shape(x)[0]}, 0.2f);
  return append(std::move(s));
}

int Net::activation(int x, UnaryOp op, float a, float b) {
  GraphStep s{Kind::kActivation};
  s.input = x;
  s.activation = op;
  s.a = a;
  s.b = b;
  return append(std::move(s));
}

int Net::add(int x, int y) {
  GraphStep s{Kind::kAdd};
  s.input = x;
  s.residual = y;
  return append(std::move(s));
}

int Net::max_pool(int x, const PoolSpec& spec) {
  GraphStep s{Kind::kMaxPool};
  s.input = x;
  s.pool = spec;
  return append(std::move(s));
}

int Net::avg_pool(int x, const PoolSpec& spec) {
  GraphStep s{Kind::kAvgPool};
  s.input = x;
  s.pool = spec;
  return append(std::move(s));
}

int Net::global_avg_pool(int x) {
  GraphStep s{Kind::kGlobalAvgPool};
  s.input = x;
  return append(std::move(s));
}

int Net::flatten(int x) {
  GraphStep s{Kind::kFlatten};
  s.input = x;
  return append(std::move(s));
}

int Net::res_block(int x, int64_t channels, int stride) {
  const bool same = stride == 1 && graph.shape(x)[0] == channels;
  int y = relu(affine(conv(x, channels, 3, {stride, 1, 1, 1}, false)));
  y = affine(conv(y, channels, 3, {1, 1, 1, 1}, false));
  const int shortcut = same ? x : affine(conv(x, channels, 1, {stride, 0, 1, 1}, false));
  return relu(add(y, shortcut));
}

Tensor random_batch(int64_t batch, const Shape& one, uint64_t seed) {
  std::vector<int64_t> dims{batch};
  dims.insert(dims.end(), one.dims().begin(), one.dims().end());
  Tensor t = Tensor::empty(Shape(dims));
  Rng rng(seed);
  rng.fill_normal(t.span<float>(), 0, 1);
  return t;
}

}  // namespace ens::test
