// SPDX-License-Identifier: Apache-2.0
#include "tests/support/naive.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ens::naive {
namespace {

// Row-major position of `index` (one entry per axis) in an array of `shape`; an axis of size 1
// repeats, which is broadcasting.
size_t position(const Shape& shape, const std::vector<int64_t>& index) {
  int64_t p = 0;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const int64_t i = shape[axis] == 1 ? 0 : index[static_cast<size_t>(axis)];
    p = p * shape[axis] + i;
  }
  return static_cast<size_t>(p);
}

// Calls f(index) for every element of `shape` in row-major order.
template <typename F>
void for_each(const Shape& shape, F f) {
  std::vector<int64_t> index(static_cast<size_t>(shape.rank()), 0);
  for (int64_t n = shape.numel(); n > 0; --n) {
    f(index);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      if (++index[static_cast<size_t>(axis)] < shape[axis]) break;
      index[static_cast<size_t>(axis)] = 0;
    }
  }
}

// Values per channel: B * (everything after axis 1).
int64_t inner(const Shape& s) { return s.numel() / (s[0] * s[1]); }

}  // namespace

Array::Array(const Tensor& t) : shape(t.shape()) {
  for (float f : t.to_vector()) v.push_back(f);
}

double& Array::at(int64_t n, int64_t c, int64_t h, int64_t w) {
  return v[static_cast<size_t>(((n * shape[1] + c) * shape[2] + h) * shape[3] + w)];
}

double Array::at(int64_t n, int64_t c, int64_t h, int64_t w) const {
  return const_cast<Array*>(this)->at(n, c, h, w);
}

Tensor Array::tensor() const {
  std::vector<float> f(v.begin(), v.end());
  return Tensor::from(f, shape);
}

Array conv2d(const Array& x, const Array& w, const Array& bias, const ConvSpec& s) {
  const int64_t kh = w.shape[2], kw = w.shape[3];
  const int64_t out_h = (x.shape[2] + 2 * s.padding - s.dilation * (kh - 1) - 1) / s.stride + 1;
  const int64_t out_w = (x.shape[3] + 2 * s.padding - s.dilation * (kw - 1) - 1) / s.stride + 1;
  const int64_t per_group = w.shape[0] / s.groups;
  Array y(Shape{x.shape[0], w.shape[0], out_h, out_w});
  for_each(y.shape, [&](const std::vector<int64_t>& i) {
    const int64_t o = i[1], group = o / per_group;
    double total = bias.empty() ? 0.0 : bias.v[static_cast<size_t>(o)];
    for (int64_t c = 0; c < w.shape[1]; ++c) {
      for (int64_t r = 0; r < kh; ++r) {
        for (int64_t q = 0; q < kw; ++q) {
          const int64_t h = i[2] * s.stride - s.padding + r * s.dilation;
          const int64_t l = i[3] * s.stride - s.padding + q * s.dilation;
          if (h < 0 || h >= x.shape[2] || l < 0 || l >= x.shape[3]) continue;
          total += w.at(o, c, r, q) * x.at(i[0], group * w.shape[1] + c, h, l);
        }
      }
    }
    y.at(i[0], o, i[2], i[3]) = total;
  });
  return y;
}

Array conv_transpose2d(const Array& x, const Array& w, const Array& bias, const ConvSpec& s,
                       int output_padding) {
  const int64_t kh = w.shape[2], kw = w.shape[3], per_group = x.shape[1] / s.groups;
  auto size = [&](int64_t in, int64_t kernel) {
    return (in - 1) * s.stride - 2 * s.padding + s.dilation * (kernel - 1) + output_padding + 1;
  };
  Array y(Shape{x.shape[0], w.shape[1] * s.groups, size(x.shape[2], kh), size(x.shape[3], kw)});
  // Each input pixel paints the kernel into the output.
  for_each(x.shape, [&](const std::vector<int64_t>& i) {
    const double value = x.at(i[0], i[1], i[2], i[3]);
    for (int64_t o = 0; o < w.shape[1]; ++o) {
      for (int64_t r = 0; r < kh; ++r) {
        for (int64_t q = 0; q < kw; ++q) {
          const int64_t h = i[2] * s.stride - s.padding + r * s.dilation;
          const int64_t l = i[3] * s.stride - s.padding + q * s.dilation;
          if (h < 0 || h >= y.shape[2] || l < 0 || l >= y.shape[3]) continue;
          y.at(i[0], i[1] / per_group * w.shape[1] + o, h, l) += value * w.at(i[1], o, r, q);
        }
      }
    }
  });
  if (!bias.empty()) {
    for_each(y.shape, [&](const std::vector<int64_t>& i) {
      y.at(i[0], i[1], i[2], i[3]) += bias.v[static_cast<size_t>(i[1])];
    });
  }
  return y;
}

Array linear(const Array& x, const Array& w, const Array& bias) {
  Array y = matmul(x, w, false, true);
  if (bias.empty()) return y;
  return zip(y, reshape(bias, {1, bias.shape[0]}), [](double a, double b) { return a + b; });
}

Array batch_norm_train(const Array& x, const Array& gamma, const Array& beta, double eps, bool relu,
                       Array* mean_out, Array* var_out) {
  const int64_t channels = x.shape[1], hw = inner(x.shape);
  Array m(Shape{channels}), v(Shape{channels});
  for (int64_t c = 0; c < channels; ++c) {
    auto each = [&](auto f) {
      for (int64_t n = 0; n < x.shape[0]; ++n) {
        for (int64_t i = 0; i < hw; ++i) f(x.v[static_cast<size_t>((n * channels + c) * hw + i)]);
      }
    };
    const double count = static_cast<double>(x.shape[0] * hw);
    double total = 0, squares = 0;
    each([&](double value) { total += value; });
    const double average = total / count;
    each([&](double value) { squares += (value - average) * (value - average); });
    m.v[static_cast<size_t>(c)] = average;
    v.v[static_cast<size_t>(c)] = squares / count;
  }
  Array y = batch_norm_eval(x, gamma, beta, m, v, eps, relu);
  if (mean_out) *mean_out = m;
  if (var_out) *var_out = v;
  return y;
}

Array batch_norm_eval(const Array& x, const Array& gamma, const Array& beta, const Array& mean,
                      const Array& var, double eps, bool relu) {
  Array scale(gamma.shape), shift(gamma.shape);
  for (size_t c = 0; c < scale.size(); ++c) {
    scale.v[c] = gamma.v[c] / std::sqrt(var.v[c] + eps);
    shift.v[c] = beta.v[c] - mean.v[c] * scale.v[c];
  }
  return channel_affine(x, scale, shift, relu);
}

Array channel_affine(const Array& x, const Array& scale, const Array& shift, bool relu) {
  Array y(x.shape);
  const int64_t hw = inner(x.shape);
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t c = static_cast<size_t>(static_cast<int64_t>(i) / hw % x.shape[1]);
    y.v[i] = x.v[i] * scale.v[c] + shift.v[c];
    if (relu && y.v[i] < 0) y.v[i] = 0;
  }
  return y;
}

namespace {

// f(window values inside the image) -> result.
Array pool(const Array& x, const PoolSpec& s,
           const std::function<double(const std::vector<double>&)>& f) {
  Array y(Shape{x.shape[0], x.shape[1], (x.shape[2] + 2 * s.padding - s.kernel) / s.stride + 1,
                (x.shape[3] + 2 * s.padding - s.kernel) / s.stride + 1});
  for_each(y.shape, [&](const std::vector<int64_t>& i) {
    std::vector<double> window;
    for (int64_t r = 0; r < s.kernel; ++r) {
      for (int64_t q = 0; q < s.kernel; ++q) {
        const int64_t h = i[2] * s.stride - s.padding + r, l = i[3] * s.stride - s.padding + q;
        if (h >= 0 && h < x.shape[2] && l >= 0 && l < x.shape[3]) {
          window.push_back(x.at(i[0], i[1], h, l));
        }
      }
    }
    y.at(i[0], i[1], i[2], i[3]) = f(window);
  });
  return y;
}

double average(const std::vector<double>& values) {
  double total = 0;
  for (double value : values) total += value;
  return total / static_cast<double>(values.size());
}

}  // namespace

Array max_pool(const Array& x, const PoolSpec& spec) {
  return pool(x, spec, [](const std::vector<double>& w) { return *std::ranges::max_element(w); });
}

Array avg_pool(const Array& x, const PoolSpec& spec) { return pool(x, spec, average); }

Array global_avg_pool(const Array& x) {
  return reshape(mean_to(x, {x.shape[0], x.shape[1], 1, 1}), {x.shape[0], x.shape[1]});
}

Array map(const Array& x, const std::function<double(double)>& f) {
  Array y = x;
  for (double& value : y.v) value = f(value);
  return y;
}

Array zip(const Array& a, const Array& b, const std::function<double(double, double)>& f) {
  Shape shape = a.shape;
  for (int i = 0; i < shape.rank(); ++i) shape.set(i, std::max(a.shape[i], b.shape[i]));
  Array y(shape);
  size_t at = 0;
  for_each(shape, [&](const std::vector<int64_t>& i) {
    y.v[at++] = f(a.v[position(a.shape, i)], b.v[position(b.shape, i)]);
  });
  return y;
}

Array reshape(const Array& x, const Shape& shape) {
  Array y = x;
  y.shape = shape;
  return y;
}

Array slice(const Array& x, int axis, int64_t start, int64_t length) {
  Shape shape = x.shape;
  shape.set(axis, length);
  Array y(shape);
  size_t at = 0;
  for_each(shape, [&](std::vector<int64_t> i) {
    i[static_cast<size_t>(axis)] += start;
    int64_t p = 0;
    for (int k = 0; k < shape.rank(); ++k) p = p * x.shape[k] + i[static_cast<size_t>(k)];
    y.v[at++] = x.v[static_cast<size_t>(p)];
  });
  return y;
}

Array concat(const std::vector<Array>& parts, int axis) {
  Shape shape = parts[0].shape;
  int64_t total = 0;
  for (const Array& p : parts) total += p.shape[axis];
  shape.set(axis, total);
  Array y(shape);
  size_t at = 0;
  for_each(shape, [&](std::vector<int64_t> i) {
    size_t k = 0;
    int64_t& along = i[static_cast<size_t>(axis)];
    while (along >= parts[k].shape[axis]) along -= parts[k++].shape[axis];
    int64_t p = 0;
    for (int d = 0; d < shape.rank(); ++d) {
      p = p * parts[k].shape[d] + i[static_cast<size_t>(d)];
    }
    y.v[at++] = parts[k].v[static_cast<size_t>(p)];
  });
  return y;
}

Array sum_to(const Array& x, const Shape& shape) {
  Array y(shape);
  size_t at = 0;
  for_each(x.shape, [&](const std::vector<int64_t>& i) { y.v[position(shape, i)] += x.v[at++]; });
  return y;
}

Array mean_to(const Array& x, const Shape& shape) {
  const double count = static_cast<double>(x.size()) / static_cast<double>(shape.numel());
  return map(sum_to(x, shape), [count](double value) { return value / count; });
}

Array sum(const Array& x) {
  Array y(Shape{1});
  for (double value : x.v) y.v[0] += value;
  return y;
}

Array mean(const Array& x) {
  const double count = static_cast<double>(x.size());
  return map(sum(x), [count](double value) { return value / count; });
}

Array matmul(const Array& a, const Array& b, bool ta, bool tb) {
  const int r = a.shape.rank();
  const int64_t m = a.shape[ta ? r - 1 : r - 2], depth = a.shape[ta ? r - 2 : r - 1];
  const int64_t n = b.shape[tb ? r - 2 : r - 1];
  Shape shape = a.shape;
  shape.set(r - 2, m);
  shape.set(r - 1, n);
  Array y(shape);
  for (int64_t batch = 0; batch < shape.numel() / (m * n); ++batch) {
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double total = 0;
        for (int64_t k = 0; k < depth; ++k) {
          total += a.v[static_cast<size_t>(batch * m * depth + (ta ? k * m + i : i * depth + k))] *
                   b.v[static_cast<size_t>(batch * n * depth + (tb ? j * depth + k : k * n + j))];
        }
        y.v[static_cast<size_t>((batch * m + i) * n + j)] = total;
      }
    }
  }
  return y;
}

Array permute(const Array& x, const std::vector<int>& order) {
  Shape shape = x.shape;
  for (size_t i = 0; i < order.size(); ++i) shape.set(static_cast<int>(i), x.shape[order[i]]);
  Array y(shape);
  for (int64_t to = 0; to < shape.numel(); ++to) {
    std::vector<int64_t> at(order.size());  // in x
    int64_t rest = to;
    for (size_t i = order.size(); i-- > 0;) {
      const int64_t size = shape[static_cast<int>(i)];
      at[static_cast<size_t>(order[i])] = rest % size;
      rest /= size;
    }
    int64_t from = 0;
    for (size_t i = 0; i < at.size(); ++i) from = from * x.shape[static_cast<int>(i)] + at[i];
    y.v[static_cast<size_t>(to)] = x.v[static_cast<size_t>(from)];
  }
  return y;
}

Array softmax(const Array& x, const std::vector<int32_t>& lengths, bool causal) {
  const int r = x.shape.rank();
  const int64_t keys = x.shape[r - 1], queries = x.shape[r - 2];
  const int64_t of_batch = x.shape.numel() / x.shape[0] / keys;
  Array y(x.shape);
  for (int64_t row = 0; row < x.shape.numel() / keys; ++row) {
    const auto counts = [&](int64_t k) {
      if (!lengths.empty() && k >= lengths[static_cast<size_t>(row / of_batch)]) return false;
      return !causal || k <= row % queries + keys - queries;
    };
    double total = 0;
    for (int64_t k = 0; k < keys; ++k) {
      if (counts(k)) total += std::exp(x.v[static_cast<size_t>(row * keys + k)]);
    }
    for (int64_t k = 0; k < keys; ++k) {
      const auto i = static_cast<size_t>(row * keys + k);
      if (counts(k)) y.v[i] = std::exp(x.v[i]) / total;
    }
  }
  return y;
}

Array layer_norm(const Array& x, const Array& gamma, const Array& beta, double eps) {
  const size_t n = gamma.size();
  Array y(x.shape);
  for (size_t row = 0; row < x.size() / n; ++row) {
    const double* v = &x.v[row * n];
    double mean = 0, var = 0;
    for (size_t i = 0; i < n; ++i) mean += v[i] / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) var += (v[i] - mean) * (v[i] - mean) / static_cast<double>(n);
    for (size_t i = 0; i < n; ++i) {
      y.v[row * n + i] = gamma.v[i] * (v[i] - mean) / std::sqrt(var + eps) + beta.v[i];
    }
  }
  return y;
}

Array attention(const Array& q, const Array& k, const Array& v, const std::vector<int32_t>& lengths,
                bool causal) {
  const double scale = 1 / std::sqrt(static_cast<double>(q.shape[3]));
  const Array scores = map(matmul(q, k, false, true), [=](double s) { return s * scale; });
  return matmul(softmax(scores, lengths, causal), v, false, false);
}

Array gather(const Array& table, const std::vector<int32_t>& ids) {
  const auto width = static_cast<size_t>(table.shape[1]);
  Array y(Shape{static_cast<int64_t>(ids.size()), table.shape[1]});
  for (size_t i = 0; i < ids.size(); ++i) {
    for (size_t d = 0; d < width; ++d) {
      y.v[i * width + d] = table.v[static_cast<size_t>(ids[i]) * width + d];
    }
  }
  return y;
}

Array log_softmax(const Array& x) {
  const auto k = static_cast<size_t>(x.shape[1]);
  Array y(x.shape);
  for (size_t row = 0; row < y.size(); row += k) {
    double total = 0;
    for (size_t i = 0; i < k; ++i) total += std::exp(x.v[row + i]);
    for (size_t i = 0; i < k; ++i) y.v[row + i] = x.v[row + i] - std::log(total);
  }
  return y;
}

Array channel_gram(const Array& x) {
  const int64_t c = x.shape[1];
  Array y(Shape{c, c});
  for (int64_t n = 0; n < x.shape[0]; ++n) {
    for (int64_t i = 0; i < c; ++i) {
      for (int64_t j = 0; j < c; ++j) {
        for (int64_t h = 0; h < x.shape[2]; ++h) {
          for (int64_t w = 0; w < x.shape[3]; ++w) {
            y.v[static_cast<size_t>(i * c + j)] += x.at(n, i, h, w) * x.at(n, j, h, w);
          }
        }
      }
    }
  }
  return y;
}

Array cosine_similarity(const Array& a, const Array& b) {
  Array y(Shape{a.shape[0]});
  const size_t row = a.size() / y.size();
  for (size_t n = 0; n < y.size(); ++n) {
    double dot = 0, aa = 0, bb = 0;
    for (size_t i = n * row; i < (n + 1) * row; ++i) {
      dot += a.v[i] * b.v[i];
      aa += a.v[i] * a.v[i];
      bb += b.v[i] * b.v[i];
    }
    y.v[n] = aa == 0 || bb == 0 ? 0.0 : dot / std::sqrt(aa * bb);
  }
  return y;
}

Array softmax_cross_entropy(const Array& logits, const std::vector<int32_t>& labels) {
  const size_t k = static_cast<size_t>(logits.shape[1]);
  Array y(Shape{1});
  for (size_t n = 0; n < labels.size(); ++n) {
    const double* row = &logits.v[n * k];
    const double largest = *std::max_element(row, row + k);
    double total = 0;
    for (size_t j = 0; j < k; ++j) total += std::exp(row[j] - largest);
    y.v[0] += std::log(total) + largest - row[static_cast<size_t>(labels[n])];
  }
  y.v[0] /= static_cast<double>(labels.size());
  return y;
}

Array soft_cross_entropy(const Array& logits, const Array& targets) {
  const auto k = static_cast<size_t>(logits.shape[1]), rows = static_cast<size_t>(logits.shape[0]);
  Array y(Shape{1});
  for (size_t n = 0; n < rows; ++n) {
    double total = 0;
    for (size_t j = 0; j < k; ++j) total += std::exp(logits.v[n * k + j]);
    for (size_t j = 0; j < k; ++j) {
      y.v[0] -= targets.v[n * k + j] * (logits.v[n * k + j] - std::log(total));
    }
  }
  y.v[0] /= static_cast<double>(rows);
  return y;
}

Array mse(const Array& a, const Array& b) {
  return mean(zip(a, b, [](double p, double q) { return (p - q) * (p - q); }));
}

Array l1(const Array& a, const Array& b) {
  return mean(zip(a, b, [](double p, double q) { return std::fabs(p - q); }));
}

Array total_variation(const Array& x) {
  double across = 0, down = 0, n_across = 0, n_down = 0;
  for_each(x.shape, [&](const std::vector<int64_t>& i) {
    const double here = x.at(i[0], i[1], i[2], i[3]);
    if (i[3] + 1 < x.shape[3]) {
      across += std::pow(x.at(i[0], i[1], i[2], i[3] + 1) - here, 2);
      ++n_across;
    }
    if (i[2] + 1 < x.shape[2]) {
      down += std::pow(x.at(i[0], i[1], i[2] + 1, i[3]) - here, 2);
      ++n_down;
    }
  });
  Array y(Shape{1});
  y.v[0] = across / n_across + down / n_down;
  return y;
}

Array ssim(const Array& a, const Array& b) {
  const auto weight = [](int64_t k) { return std::exp(-0.5 * (k - 5) * (k - 5) / 2.25); };
  double norm = 0, total = 0, count = 0;
  for (int64_t k = 0; k < 121; ++k) norm += weight(k / 11) * weight(k % 11);
  for_each({a.shape[0], a.shape[1], a.shape[2] - 10, a.shape[3] - 10},
           [&](const std::vector<int64_t>& i) {
             double x = 0, y = 0, xx = 0, yy = 0, xy = 0;
             for (int64_t k = 0; k < 121; ++k) {
               const double p = a.at(i[0], i[1], i[2] + k / 11, i[3] + k % 11);
               const double q = b.at(i[0], i[1], i[2] + k / 11, i[3] + k % 11);
               const double g = weight(k / 11) * weight(k % 11) / norm;
               x += g * p, y += g * q, xx += g * p * p, yy += g * q * q, xy += g * p * q;
             }
             total += (2 * x * y + 1e-4) * (2 * (xy - x * y) + 9e-4) /
                      ((x * x + y * y + 1e-4) * (xx - x * x + yy - y * y + 9e-4));
             ++count;
           });
  Array out(Shape{1});
  out.v[0] = total / count;
  return out;
}

}  // namespace ens::naive
