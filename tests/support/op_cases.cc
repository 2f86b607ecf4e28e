// SPDX-License-Identifier: Apache-2.0
#include "tests/support/op_cases.h"

#include <algorithm>
#include <cmath>
#include <ostream>

namespace ens::test {
namespace {

using naive::Array;
using Vars = const std::vector<Var>&;
using Arrays = const std::vector<Array>&;

Operand parameter(const Shape& shape, Fill fill = Fill::kUniform) { return {shape, fill, true}; }

OpCase conv(const std::string& name, const Shape& x, const Shape& w, bool bias,
            const ConvSpec& spec) {
  OpCase c{"conv2d_" + name, {{x}, parameter(w)}, {}, {}};
  if (bias) c.operands.push_back(parameter({w[0]}));
  c.op = [=](Vars v) { return conv2d(v[0], v[1], bias ? v[2] : Var(), spec); };
  c.naive = [=](Arrays a) { return naive::conv2d(a[0], a[1], bias ? a[2] : Array(), spec); };
  const auto pixels = [&](int axis) {
    return (x[axis] + 2 * spec.padding - spec.dilation * (w[axis] - 1) - 1) / spec.stride + 1;
  };
  c.flops = 2.0 * static_cast<double>(x[0] * pixels(2) * pixels(3) * w.numel());
  return c;
}

OpCase deconv(const std::string& name, const Shape& x, const Shape& w, bool bias,
              const ConvSpec& spec, int output_padding) {
  OpCase c{"conv_transpose2d_" + name, {{x}, parameter(w)}, {}, {}};
  if (bias) c.operands.push_back(parameter({w[1] * spec.groups}));
  c.op = [=](Vars v) {
    return conv_transpose2d(v[0], v[1], bias ? v[2] : Var(), spec, output_padding);
  };
  c.naive = [=](Arrays a) {
    return naive::conv_transpose2d(a[0], a[1], bias ? a[2] : Array(), spec, output_padding);
  };
  c.flops = 2.0 * static_cast<double>(x[0] * x[2] * x[3] * w.numel());
  return c;
}

OpCase dense(const std::string& name, int64_t batch, int64_t in, int64_t out, bool bias) {
  OpCase c{"linear_" + name, {{{batch, in}}, parameter({out, in})}, {}, {}};
  if (bias) c.operands.push_back(parameter({out}));
  c.op = [=](Vars v) { return linear(v[0], v[1], bias ? v[2] : Var()); };
  c.naive = [=](Arrays a) { return naive::linear(a[0], a[1], bias ? a[2] : Array()); };
  c.flops = 2.0 * static_cast<double>(batch * in * out);
  return c;
}

constexpr float kEps = 1e-5f;

OpCase norm_train(const std::string& name, const Shape& x, bool relu) {
  OpCase c{"batch_norm_train_" + name,
           {{x}, parameter({x[1]}, Fill::kPositive), parameter({x[1]})},
           {},
           {},
           10};
  c.op = [=](Vars v) {
    return batch_norm_train(v[0], v[1], v[2], Var(), {.eps = kEps, .relu = relu});
  };
  c.naive = [=](Arrays a) { return naive::batch_norm_train(a[0], a[1], a[2], kEps, relu); };
  return c;
}

// The residual is the last operand.
OpCase norm_residual(const std::string& name, const Shape& x, bool relu) {
  OpCase c = norm_train(name, x, false);
  c.operands.push_back({x});
  c.op = [=](Vars v) {
    return batch_norm_train(v[0], v[1], v[2], v[3], {.eps = kEps, .relu = relu});
  };
  c.naive = [=](Arrays a) {
    const Array y = naive::batch_norm_train(a[0], a[1], a[2], kEps, false);
    return naive::zip(y, a[3], [=](double n, double r) { return relu && n + r < 0 ? 0 : n + r; });
  };
  return c;
}

OpCase norm_eval(const std::string& name, const Shape& x, bool relu) {
  OpCase c{"batch_norm_eval_" + name,
           {{x}, parameter({x[1]}, Fill::kPositive), parameter({x[1]})},
           {},
           {},
           2};
  const Array mean = filled({x[1]}, Fill::kUniform, 91), var = filled({x[1]}, Fill::kPositive, 92);
  c.op = [=](Vars v) {
    return batch_norm_eval(v[0], v[1], v[2], mean.tensor(), var.tensor(), kEps, relu);
  };
  c.naive = [=](Arrays a) {
    return naive::batch_norm_eval(a[0], a[1], a[2], mean, var, kEps, relu);
  };
  return c;
}

OpCase scale_shift(const std::string& name, const Shape& x, bool relu) {
  const Array scale = filled({x[1]}, Fill::kUniform, 93),
              shift = filled({x[1]}, Fill::kUniform, 94);
  return {"channel_affine_" + name,
          {{x}},
          [=](Vars v) { return channel_affine(v[0], scale.tensor(), shift.tensor(), relu); },
          [=](Arrays a) { return naive::channel_affine(a[0], scale, shift, relu); }};
}

OpCase largest(const std::string& name, const Shape& x, const PoolSpec& spec) {
  return {"max_pool_" + name,
          {{x, Fill::kSpread}},
          [=](Vars v) { return max_pool(v[0], spec); },
          [=](Arrays a) { return naive::max_pool(a[0], spec); }};
}

OpCase average(const std::string& name, const Shape& x, const PoolSpec& spec) {
  return {"avg_pool_" + name,
          {{x}},
          [=](Vars v) { return avg_pool(v[0], spec); },
          [=](Arrays a) { return naive::avg_pool(a[0], spec); }};
}

// One operand, element by element.
OpCase each(const std::string& name, const Shape& x, Fill fill, std::function<Var(const Var&)> op,
            std::function<double(double)> f) {
  return {name,
          {{x, fill}},
          [=](Vars v) { return op(v[0]); },
          [=](Arrays a) { return naive::map(a[0], f); }};
}

// Two operands, element by element with broadcasting.
OpCase pair(const std::string& name, const Operand& a, const Operand& b,
            std::function<Var(const Var&, const Var&)> op,
            std::function<double(double, double)> f) {
  return {name,
          {a, b},
          [=](Vars v) { return op(v[0], v[1]); },
          [=](Arrays x) { return naive::zip(x[0], x[1], f); }};
}

OpCase product(const std::string& name, const Shape& a, const Shape& b, bool ta, bool tb) {
  const int r = a.rank();
  return {"matmul_" + name,
          {{a}, {b}},
          [=](Vars v) { return matmul(v[0], v[1], ta, tb); },
          [=](Arrays x) { return naive::matmul(x[0], x[1], ta, tb); },
          1,
          2.0 * static_cast<double>(a.numel() * b[tb ? r - 2 : r - 1])};
}

OpCase exchange(const std::string& name, const Shape& x, const std::vector<int>& order) {
  return {"permute_" + name,
          {{x}},
          [=](Vars v) { return permute(v[0], order); },
          [=](Arrays a) { return naive::permute(a[0], order); }};
}

// lengths may be empty.
SoftmaxMask mask_of(const std::vector<int32_t>& lengths, bool causal) {
  return {lengths.empty() ? Tensor() : Tensor::from_labels(lengths), causal};
}

OpCase distribution(const std::string& name, const Shape& x, const std::vector<int32_t>& lengths,
                    bool causal) {
  return {"softmax_" + name,
          {{x}},
          [=](Vars v) { return softmax(v[0], mask_of(lengths, causal)); },
          [=](Arrays a) { return naive::softmax(a[0], lengths, causal); }};
}

OpCase norm_rows(const std::string& name, const Shape& x) {
  const int64_t width = x[x.rank() - 1];
  return {"layer_norm_" + name,
          {{x}, parameter({width}, Fill::kPositive), parameter({width})},
          [](Vars v) { return layer_norm(v[0], v[1], v[2], kEps); },
          [](Arrays a) { return naive::layer_norm(a[0], a[1], a[2], kEps); },
          10};
}

// q [B,H,Q,D]; k and v [B,H,K,D].
OpCase attend(const std::string& name, const Shape& q, int64_t keys,
              const std::vector<int32_t>& lengths, bool causal) {
  const Shape k{q[0], q[1], keys, q[3]};
  return {"attention_" + name,
          {{q}, {k}, {k}},
          [=](Vars v) { return attention(v[0], v[1], v[2], mask_of(lengths, causal)); },
          [=](Arrays a) { return naive::attention(a[0], a[1], a[2], lengths, causal); },
          2,
          4.0 * static_cast<double>(q.numel() * keys)};
}

OpCase rows_of(const std::string& name, const Shape& table, const std::vector<int32_t>& ids) {
  return {"gather_" + name,
          {{table}},
          [=](Vars v) { return gather(v[0], Tensor::from_labels(ids)); },
          [=](Arrays a) { return naive::gather(a[0], ids); }};
}

OpCase reduction(const std::string& name, const Shape& x, const Shape& to) {
  return {"sum_to_" + name,
          {{x}},
          [=](Vars v) { return sum_to(v[0], to); },
          [=](Arrays a) { return naive::sum_to(a[0], to); }};
}

OpCase gram(const std::string& name, const Shape& x) {
  return {"channel_gram_" + name,
          {{x}},
          [](Vars v) { return channel_gram(v[0]); },
          [](Arrays a) { return naive::channel_gram(a[0]); }};
}

OpCase cross_entropy(const std::string& name, const std::vector<int32_t>& labels, int64_t classes) {
  return {"softmax_cross_entropy_" + name,
          {{{static_cast<int64_t>(labels.size()), classes}}},
          [=](Vars v) { return softmax_cross_entropy(v[0], Tensor::from_labels(labels)); },
          [=](Arrays a) { return naive::softmax_cross_entropy(a[0], labels); }};
}

// Rows that need not sum to 1.
Array soft_labels() { return filled({3, 4}, Fill::kPositive, 95); }

OpCase similarity(const std::string& name, const Shape& x) {
  return {"cosine_similarity_" + name,
          {{x}, {x}},
          [](Vars v) { return cosine_similarity(v[0], v[1]); },
          [](Arrays a) { return naive::cosine_similarity(a[0], a[1]); },
          4};
}

std::vector<OpCase> make_cases() {
  auto plus = [](double a, double b) { return a + b; };
  auto minus = [](double a, double b) { return a - b; };
  auto times = [](double a, double b) { return a * b; };
  auto over = [](double a, double b) { return a / b; };
  const Shape image{2, 5, 4, 3}, wide{2, 16, 5, 5};
  const Fill spread = Fill::kSpread, odd = Fill::kSpreadOdd, far = Fill::kAwayFromZero;
  return {
      // Convolutions: x, w, bias, {stride, padding, dilation, groups}.
      conv("3x3", {2, 3, 6, 6}, {16, 3, 3, 3}, true, {1, 1}),
      conv("3x3_wide", {2, 16, 7, 7}, {24, 16, 3, 3}, false, {1, 1}),
      conv("3x3_blocked", {2, 32, 6, 6}, {32, 32, 3, 3}, false, {1, 1}),
      conv("3x3_stride2", {2, 16, 8, 8}, {32, 16, 3, 3}, false, {2, 1}),
      conv("3x3_stride2_odd_size", {1, 5, 7, 9}, {3, 5, 3, 3}, true, {2, 1}),
      conv("1x1_stride2", {2, 16, 8, 8}, {32, 16, 1, 1}, false, {2, 0}),
      conv("1x1", {3, 24, 5, 5}, {5, 24, 1, 1}, true, {1, 0}),
      conv("5x3_no_padding", {1, 3, 9, 8}, {5, 3, 5, 3}, true, {1, 0}),
      conv("7x7_stride2", {1, 3, 14, 14}, {8, 3, 7, 7}, false, {2, 3}),
      conv("dilated", {2, 5, 9, 9}, {16, 5, 3, 3}, true, {1, 2, 2}),
      conv("dilated_stride2", {1, 3, 11, 11}, {5, 3, 3, 3}, false, {2, 3, 3}),
      conv("groups", {2, 6, 6, 6}, {9, 2, 3, 3}, true, {1, 1, 1, 3}),
      conv("groups_wide", {2, 32, 5, 5}, {48, 16, 3, 3}, false, {1, 1, 1, 2}),
      conv("groups_one_image", {1, 48, 5, 5}, {48, 16, 3, 3}, false, {2, 1, 1, 3}),
      conv("depthwise", {2, 24, 6, 6}, {24, 1, 3, 3}, true, {1, 1, 1, 24}),
      conv("one_pixel", {3, 16, 1, 1}, {16, 16, 3, 3}, true, {1, 1}),
      conv("2x2_map", {3, 16, 2, 2}, {24, 16, 3, 3}, true, {1, 1}),
      conv("2x2_map_odd_channels", {2, 9, 2, 2}, {11, 9, 3, 3}, true, {1, 1}),
      conv("2x2_map_wide", {2, 32, 2, 2}, {48, 32, 3, 3}, false, {1, 1}),
      conv("2x2_map_stride2", {3, 16, 2, 2}, {32, 16, 3, 3}, false, {2, 1}),
      conv("1x4_map", {2, 8, 1, 4}, {16, 8, 3, 3}, false, {1, 1}),
      conv("2x2_map_no_padding", {2, 8, 2, 2}, {16, 8, 2, 2}, true, {1, 0}),
      conv("one_channel", {2, 1, 6, 6}, {1, 1, 3, 3}, true, {1, 1}),
      deconv("2x2_stride2", {2, 16, 4, 4}, {16, 8, 2, 2}, true, {2, 0}, 0),
      deconv("3x3", {2, 5, 5, 5}, {5, 3, 3, 3}, true, {1, 1}, 0),
      deconv("4x4_stride2", {2, 24, 4, 3}, {24, 16, 4, 4}, false, {2, 1}, 0),
      deconv("3x3_output_padding", {2, 16, 4, 4}, {16, 3, 3, 3}, true, {2, 1}, 1),
      deconv("stride3_output_padding2", {1, 3, 3, 4}, {3, 5, 3, 3}, true, {3, 0}, 2),
      deconv("dilated", {1, 5, 5, 5}, {5, 16, 3, 3}, false, {1, 2, 2}, 0),
      deconv("dilated_output_padding", {2, 16, 4, 5}, {16, 3, 3, 3}, true, {2, 1, 2}, 1),
      deconv("from_one_pixel", {2, 16, 1, 1}, {16, 24, 2, 2}, true, {2, 0}, 0),
      deconv("2x2_map", {2, 16, 2, 2}, {16, 8, 3, 3}, false, {1, 1}, 0),
      deconv("groups", {2, 6, 4, 4}, {6, 4, 3, 3}, true, {2, 1, 1, 3}, 1),
      dense("bias", 4, 16, 10, true),
      dense("odd", 3, 5, 3, true),
      dense("no_bias", 7, 24, 33, false),
      dense("one_row", 1, 130, 5, true),

      // Normalisation.
      norm_train("3_channels", {4, 3, 4, 4}, false),
      norm_train("16_channels", {2, 16, 3, 5}, false),
      norm_train("relu", {3, 5, 4, 4}, true),
      norm_train("relu_16", {4, 16, 4, 4}, true),
      norm_train("relu_24", {2, 24, 3, 3}, true),
      norm_train("rows", {9, 5}, false),
      norm_train("rows_relu", {8, 16}, true),
      norm_residual("residual", {3, 16, 4, 4}, false),
      norm_residual("residual_relu", {3, 5, 4, 4}, true),
      norm_residual("residual_relu_16", {3, 16, 3, 3}, true),
      norm_eval("3_channels", {2, 3, 4, 4}, false),
      norm_eval("relu_16", {2, 16, 3, 3}, true),
      norm_eval("rows", {6, 5}, false),
      scale_shift("3_channels", {2, 3, 5, 4}, false),
      scale_shift("relu", {2, 24, 4, 4}, true),
      scale_shift("rows", {5, 7}, true),

      // Pooling: {kernel, stride, padding}.
      largest("2x2", {2, 3, 6, 6}, {2, 2, 0}),
      largest("3x3_stem", {2, 16, 8, 8}, {3, 2, 1}),
      largest("3x3_overlap", {1, 5, 6, 7}, {3, 1, 1}),
      largest("rounds_down", {1, 24, 7, 5}, {2, 2, 0}),
      average("2x2", {2, 16, 6, 6}, {2, 2, 0}),
      average("3x3_padding", {2, 5, 7, 7}, {3, 2, 1}),
      average("overlap", {1, 3, 6, 5}, {3, 1, 1}),
      {"global_avg_pool",
       {{{3, 5, 4, 6}}},
       [](Vars v) { return global_avg_pool(v[0]); },
       [](Arrays a) { return naive::global_avg_pool(a[0]); }},
      {"global_avg_pool_wide",
       {{{2, 32, 2, 2}}},
       [](Vars v) { return global_avg_pool(v[0]); },
       [](Arrays a) { return naive::global_avg_pool(a[0]); }},

      // Elementwise.
      each(
          "affine", image, Fill::kUniform, [](const Var& x) { return affine(x, -1.5f, 0.25f); },
          [](double x) { return -1.5 * x + 0.25; }),
      each(
          "relu", image, far, [](const Var& x) { return relu(x); },
          [](double x) { return x > 0 ? x : 0; }),
      each(
          "relu_wide", wide, far, [](const Var& x) { return relu(x); },
          [](double x) { return x > 0 ? x : 0; }),
      each(
          "leaky_relu", image, far, [](const Var& x) { return leaky_relu(x, 0.2f); },
          [](double x) { return x > 0 ? x : 0.2f * x; }),
      each(
          "sigmoid", image, Fill::kUniform, [](const Var& x) { return sigmoid(x); },
          [](double x) { return 1 / (1 + std::exp(-x)); }),
      each(
          "tanh", {7, 9}, Fill::kUniform, [](const Var& x) { return tanh(x); },
          [](double x) { return std::tanh(x); }),
      each(
          "exp", image, Fill::kUniform, [](const Var& x) { return exp(x); },
          [](double x) { return std::exp(x); }),
      each(
          "log", image, Fill::kPositive, [](const Var& x) { return log(x); },
          [](double x) { return std::log(x); }),
      each(
          "sqrt", image, Fill::kPositive, [](const Var& x) { return sqrt(x); },
          [](double x) { return std::sqrt(x); }),
      each(
          "square", image, Fill::kUniform, [](const Var& x) { return square(x); },
          [](double x) { return x * x; }),
      each(
          "abs", {33}, far, [](const Var& x) { return abs(x); },
          [](double x) { return std::fabs(x); }),
      each(
          "gelu", image, Fill::kUniform, [](const Var& x) { return gelu(affine(x, 3, 0)); },
          [](double x) { return 1.5 * x * std::erfc(-3 * x * M_SQRT1_2); }),
      pair("add", {image}, {image}, add, plus),
      pair("add_channel_broadcast", {wide}, {{1, 16, 1, 1}}, add, plus),
      pair("add_both_broadcast", {{3, 1, 4}}, {{1, 5, 4}}, add, plus),
      pair("add_batch_broadcast", {wide}, {{1, 16, 5, 5}}, add, plus),
      pair("sub", {wide}, {wide}, sub, minus),
      pair("sub_row_broadcast", {{1, 7}}, {{5, 7}}, sub, minus),
      pair("mul", {image}, {image}, mul, times),
      pair("mul_channel_broadcast", {{1, 5, 1, 1}}, {image}, mul, times),
      pair("mul_scalar_broadcast", {{6, 7}}, {{1, 1}}, mul, times),
      pair("div", {image}, {image, Fill::kPositive}, div, over),
      pair("div_column_broadcast", {{4, 6}}, {{4, 1}, Fill::kPositive}, div, over),
      pair("div_numerator_broadcast", {{1, 16, 1, 1}}, {wide, Fill::kPositive}, div, over),
      pair("add_relu", {image, spread}, {image, odd}, add_relu,
           [](double a, double b) { return a + b > 0 ? a + b : 0; }),
      pair("add_relu_wide", {wide, spread}, {wide, odd}, add_relu,
           [](double a, double b) { return a + b > 0 ? a + b : 0; }),

      // Shape.
      {"reshape",
       {{wide}},
       [](Vars v) {
         return reshape(v[0], {8, 10, 10});
       },
       [](Arrays a) {
         return naive::reshape(a[0], {8, 10, 10});
       }},
      {"flatten",
       {{wide}},
       [](Vars v) { return flatten(v[0]); },
       [](Arrays a) {
         return naive::reshape(a[0], {2, 400});
       }},
      {"slice_batch",
       {{{5, 3, 2, 2}}},
       [](Vars v) { return slice(v[0], 0, 1, 3); },
       [](Arrays a) { return naive::slice(a[0], 0, 1, 3); }},
      {"slice_channels",
       {{{2, 24, 3, 3}}},
       [](Vars v) { return slice(v[0], 1, 5, 16); },
       [](Arrays a) { return naive::slice(a[0], 1, 5, 16); }},
      {"slice_width",
       {{wide}},
       [](Vars v) { return slice(v[0], 3, 1, 4); },
       [](Arrays a) { return naive::slice(a[0], 3, 1, 4); }},
      {"concat_features",
       {{{3, 5}}, {{3, 2}}, {{3, 16}}},
       [](Vars v) { return concat(v, 1); },
       [](Arrays a) { return naive::concat(a, 1); }},
      {"concat_channels",
       {{{2, 16, 3, 3}}, {{2, 8, 3, 3}}},
       [](Vars v) { return concat(v, 1); },
       [](Arrays a) { return naive::concat(a, 1); }},
      {"concat_batch",
       {{{1, 3, 2, 4}}, {{2, 3, 2, 4}}},
       [](Vars v) { return concat(v, 0); },
       [](Arrays a) { return naive::concat(a, 0); }},
      {"concat_height",
       {{{2, 16, 1, 4}}, {{2, 16, 3, 4}}},
       [](Vars v) { return concat(v, 2); },
       [](Arrays a) { return naive::concat(a, 2); }},
      {"cast_to_float",
       {{wide}},
       [](Vars v) { return cast(v[0], Dtype::kF32); },
       [](Arrays a) { return a[0]; }},

      exchange("heads", {2, 7, 3, 4}, {0, 2, 1, 3}),
      exchange("transposed", {5, 9}, {1, 0}),
      exchange("reversed", {2, 3, 4, 5}, {3, 2, 1, 0}),
      exchange("to_channels", wide, {0, 2, 3, 1}),
      exchange("one_element_axes", {1, 6, 1, 3}, {2, 3, 0, 1}),
      exchange("nothing", {2, 3, 4}, {0, 1, 2}),

      // Sequences.
      distribution("rows", {3, 5, 9}, {}, false),
      distribution("wide_rows", {2, 3, 40}, {}, false),
      distribution("lengths", {3, 2, 4, 17}, {17, 5, 1}, false),
      distribution("causal", {2, 6, 6}, {}, true),
      distribution("causal_prefix", {2, 3, 8}, {8, 7}, true),
      distribution("nothing_counts", {2, 3, 4}, {0, 2}, false),
      norm_rows("rows", {6, 9}),
      norm_rows("tokens", {3, 5, 32}),
      norm_rows("odd_width", {2, 3, 19}),
      norm_rows("one_row", {1, 48}),
      attend("self", {2, 3, 7, 8}, 7, {}, false),
      attend("causal", {2, 2, 6, 4}, 6, {}, true),
      attend("lengths", {3, 2, 4, 8}, 10, {10, 3, 1}, false),
      attend("one_query", {2, 2, 1, 16}, 9, {4, 9}, false),
      attend("two_keys", {2, 1, 1, 4}, 2, {}, true),

      // Reductions and algebra.
      {"sum",
       {{image}},
       [](Vars v) { return sum(v[0]); },
       [](Arrays a) { return naive::sum(a[0]); }},
      {"mean",
       {{wide}},
       [](Vars v) { return mean(v[0]); },
       [](Arrays a) { return naive::mean(a[0]); }},
      reduction("channels", wide, {1, 16, 1, 1}),
      reduction("batch", image, {1, 5, 4, 3}),
      reduction("pixels", image, {2, 5, 1, 1}),
      reduction("rows", {6, 17}, {1, 17}),
      reduction("columns", {6, 17}, {6, 1}),
      reduction("middle", {3, 4, 5}, {3, 1, 5}),
      reduction("nothing", {3, 4}, {3, 4}),
      {"mean_to",
       {{image}},
       [](Vars v) {
         return mean_to(v[0], {2, 1, 1, 1});
       },
       [](Arrays a) {
         return naive::mean_to(a[0], {2, 1, 1, 1});
       }},
      product("nn", {4, 7}, {7, 5}, false, false),
      product("tn", {7, 4}, {7, 5}, true, false),
      product("nt", {16, 33}, {24, 33}, false, true),
      product("tt", {5, 3}, {6, 5}, true, true),
      product("batch_nn", {3, 4, 7}, {3, 7, 5}, false, false),
      product("batch_tn", {3, 7, 4}, {3, 7, 5}, true, false),
      product("batch_nt", {2, 16, 33}, {2, 24, 33}, false, true),
      product("batch_tt", {2, 5, 3}, {2, 6, 5}, true, true),
      product("batch_of_batches", {2, 3, 4, 6}, {2, 3, 6, 5}, false, false),
      product("batch_vector", {4, 1, 9}, {4, 9, 1}, false, false),
      rows_of("repeated", {5, 7}, {4, 0, 4, 4, 2}),
      rows_of("many", {40, 32},
              [] {
                std::vector<int32_t> ids;
                for (int i = 0; i < 300; ++i) ids.push_back(i * i % 37);
                return ids;
              }()),
      rows_of("one_column", {3, 1}, {2, 2}),
      {"add_position",
       {{{2, 3, 5}}, parameter({4, 5})},
       [](Vars v) { return add_position(v[0], v[1]); },
       [](Arrays a) {
         return naive::zip(a[0], naive::reshape(naive::slice(a[1], 0, 0, 3), {1, 3, 5}),
                           [](double x, double y) { return x + y; });
       }},
      {"log_softmax",
       {{{4, 9}}},
       [](Vars v) { return log_softmax(affine(v[0], 5, 0)); },
       [](Arrays a) {
         return naive::log_softmax(naive::map(a[0], [](double x) { return 5 * x; }));
       },
       5},
      gram("odd", {3, 5, 4, 3}),
      gram("wide", {2, 16, 6, 6}),
      gram("one_position", {7, 6, 1, 1}),

      // Losses.
      similarity("rows", {4, 9}),
      similarity("images", wide),
      cross_entropy("10_classes", {3, 0, 9, 3, 5}, 10),
      cross_entropy("2_classes", {1, 0, 1}, 2),
      {"softmax_cross_entropy_smoothed",
       {{{3, 5}}},
       [](Vars v) {
         return softmax_cross_entropy(v[0], Tensor::from_labels(std::vector{4, 0, 1}),
                                      {.smoothing = 0.1f});
       },
       [](Arrays a) {
         Array t(Shape{3, 5});
         std::ranges::fill(t.v, 0.1 / 5);
         for (const size_t hit : {4, 5, 11}) t.v[hit] += 0.9;
         return naive::soft_cross_entropy(a[0], t);
       },
       2},
      {"softmax_cross_entropy_ignored_rows",
       {{{4, 3}}},
       [](Vars v) {
         return softmax_cross_entropy(v[0], Tensor::from_labels(std::vector{2, 1, 0, 1}),
                                      {.ignore = 1});
       },
       [](Arrays a) {
         Array kept(Shape{2, 3});
         for (size_t i = 0; i < 3; ++i) kept.v[i] = a[0].v[i], kept.v[3 + i] = a[0].v[6 + i];
         return naive::softmax_cross_entropy(kept, {2, 0});
       }},
      {"softmax_cross_entropy_distributions",
       {{{3, 4}}},
       [](Vars v) { return softmax_cross_entropy(v[0], soft_labels().tensor()); },
       [](Arrays a) { return naive::soft_cross_entropy(a[0], soft_labels()); }},
      {"mse",
       {{image}, {image}},
       [](Vars v) { return mse(v[0], v[1]); },
       [](Arrays a) { return naive::mse(a[0], a[1]); }},
      {"l1",
       {{image, spread}, {image, odd}},
       [](Vars v) { return l1(v[0], v[1]); },
       [](Arrays a) { return naive::l1(a[0], a[1]); }},
      {"ssim",
       {{{2, 3, 12, 13}}, {{2, 3, 12, 13}}},
       [](Vars v) { return ssim(v[0], v[1]); },
       [](Arrays a) { return naive::ssim(a[0], a[1]); }},
      {"total_variation",
       {{{2, 3, 5, 6}}},
       [](Vars v) { return total_variation(v[0]); },
       [](Arrays a) { return naive::total_variation(a[0]); }},
      {"total_variation_wide",
       {{{1, 16, 4, 4}}},
       [](Vars v) { return total_variation(v[0]); },
       [](Arrays a) { return naive::total_variation(a[0]); }},
  };
}

bool fits(Layout layout, const Shape& shape) {
  switch (layout) {
    case Layout::kPlain:
      return true;
    case Layout::kChannelsLast:
      return shape.rank() == 4;
    case Layout::kBlocked8:
      return shape.rank() == 4 && shape[1] % 8 == 0;
    case Layout::kBlocked16:
      return shape.rank() == 4 && shape[1] % 16 == 0;
  }
  return false;
}

}  // namespace

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = make_cases();
  return cases;
}

const std::vector<OpCase>& op_perf_cases() {
  const Shape image{32, 64, 32, 32};
  static const std::vector<OpCase> cases{
      conv("stem", {32, 3, 32, 32}, {64, 3, 3, 3}, false, {1, 1}),
      conv("64_channels", {32, 64, 32, 32}, {64, 64, 3, 3}, false, {1, 1}),
      conv("128_stride2", {32, 64, 32, 32}, {128, 64, 3, 3}, false, {2, 1}),
      conv("256_channels", {32, 256, 8, 8}, {256, 256, 3, 3}, false, {1, 1}),
      conv("512_2x2_map", {32, 512, 2, 2}, {512, 512, 3, 3}, false, {1, 1}),
      conv("projection", {32, 64, 32, 32}, {128, 64, 1, 1}, false, {2, 0}),
      deconv("decoder", {32, 64, 16, 16}, {64, 32, 4, 4}, true, {2, 1}, 0),
      dense("classifier", 128, 512, 100, true),
      product("512", {512, 512}, {512, 512}, false, false),
      attend("vit", {64, 3, 65, 64}, 65, {}, false),
      norm_rows("vit", {64, 65, 192}),
      exchange("heads", {64, 65, 3, 64}, {0, 2, 1, 3}),
      each(
          "gelu", {64, 65, 384}, Fill::kUniform, [](const Var& x) { return gelu(x); },
          [](double x) { return 0.5 * x * std::erfc(-x * M_SQRT1_2); }),
      norm_train("relu", image, true),
      norm_residual("residual_relu", image, true),
      norm_eval("relu", image, true),
      largest("2x2", image, {2, 2, 0}),
      {"global_avg_pool",
       {{image}},
       [](Vars v) { return global_avg_pool(v[0]); },
       [](Arrays a) { return naive::global_avg_pool(a[0]); }},
      each(
          "relu", image, Fill::kUniform, [](const Var& x) { return relu(x); },
          [](double x) { return x > 0 ? x : 0; }),
      pair("add", {image}, {image}, add, [](double a, double b) { return a + b; }),
      reduction("channels", image, {1, 64, 1, 1}),
  };
  return cases;
}

std::vector<Array> operand_values(const OpCase& c, Dtype dtype) {
  std::vector<Array> values;
  uint32_t seed = 1;
  for (const Operand& o : c.operands) {
    Array a = filled(o.shape, o.fill, seed++);
    for (double& x : a.v) {
      const auto f = static_cast<float>(x);
      if (dtype == Dtype::kBF16) x = static_cast<float>(BFloat16(f));
      if (dtype == Dtype::kF16) x = static_cast<float>(Float16(f));
    }
    values.push_back(std::move(a));
  }
  return values;
}

std::vector<Var> operand_vars(const OpCase& c, const std::vector<Array>& values, Dtype dtype,
                              Layout layout, Device device) {
  std::vector<Var> vars;
  for (size_t i = 0; i < values.size(); ++i) {
    Tensor t = values[i].tensor().to(device);
    if (!c.operands[i].parameter) {
      t = t.to(dtype);
      if (fits(layout, t.shape())) t = t.with_layout(layout);
    }
    vars.emplace_back(t, true);
  }
  return vars;
}

void PrintTo(const OpCase& c, std::ostream* out) { *out << c.name; }

}  // namespace ens::test
