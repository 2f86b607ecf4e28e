// SPDX-License-Identifier: Apache-2.0
#include "nn/autograd/ops.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace ens {
namespace {

void require(bool ok, const char* op, const std::string& problem) {
  if (!ok) fail(problem, op);
}

void require_rank(const Var& x, int rank, const char* op) {
  require(x.defined(), op, "an operand is undefined");
  require(x.shape().rank() == rank, op,
          "expected " + std::to_string(rank) + " dimensions, got " + x.shape().str());
}

// A size-[n] float32 parameter.
void require_vector(const Var& v, int64_t n, const char* op) {
  require(v.defined() && v.shape() == Shape{n}, op,
          "expected a parameter of " + std::to_string(n) + " numbers, got " +
              (v.defined() ? v.shape().str() : "none"));
}

Backend& of(const Var& x) { return backend(x.value().device()); }

// The shape whose entries are 1 except the channels: parameters against activations.
Shape channel_shape(const Shape& x) {
  Shape s = x;
  for (int i = 0; i < x.rank(); ++i) {
    if (i != 1) s.set(i, 1);
  }
  return s;
}

// Is there at least one position for the kernel?
bool kernel_fits(int64_t in, int64_t kernel, const ConvSpec& s) {
  return in + 2 * s.padding >= s.dilation * (kernel - 1) + 1;
}

Var unary(const char* op, UnaryOp kind, const Var& x, float a = 0, float b = 0) {
  require(x.defined(), op, "the operand is undefined");
  Tensor y = of(x).unary(kind, x.value(), a, b);
  return Var::make(y, {x}, [x, y, kind, a, b](const Tensor& dy) {
    x.accumulate(of(x).unary_grad(kind, x.value(), y, dy, a, b));
  });
}

void require_broadcast(const char* op, const Var& a, const Var& b) {
  require(a.defined() && b.defined(), op, "an operand is undefined");
  bool ok = a.shape().rank() == b.shape().rank();
  for (int i = 0; ok && i < a.shape().rank(); ++i) {
    ok = a.dim(i) == b.dim(i) || a.dim(i) == 1 || b.dim(i) == 1;
  }
  require(ok, op, "shapes " + a.shape().str() + " and " + b.shape().str() + " do not fit");
}

// The gradient of something broadcast: summed back to the operand's shape and dtype.
Tensor reduced(Backend& be, const Tensor& g, const Tensor& like) {
  if (g.shape() == like.shape()) return g.to(like.dtype());
  return be.sum_to(g, like.shape()).to(like.dtype());
}

// The shape of op(a) op(b); the axes before the matrices are a's.
Shape product_shape(const Shape& a, const Shape& b, bool ta, bool tb) {
  const int r = a.rank();
  Shape shape = a;
  shape.set(r - 2, a[ta ? r - 1 : r - 2]);
  shape.set(r - 1, b[tb ? r - 2 : r - 1]);
  return shape;
}

// op(a) op(b) of plain tensors, in `dtype`.
Tensor product(Backend& be, const Tensor& a, const Tensor& b, bool ta, bool tb, Dtype dtype,
               float alpha = 1.0f) {
  Tensor c = Tensor::empty(product_shape(a.shape(), b.shape(), ta, tb), dtype, a.device());
  be.gemm(ta, tb, alpha, a, b, 0.0f, c);
  return c;
}

}  // namespace

// ---- layers

Var conv2d(const Var& x, const Var& w, const Var& bias, const ConvSpec& spec) {
  require_rank(x, 4, "conv2d");
  require_rank(w, 4, "conv2d");
  require(spec.groups > 0 && spec.stride > 0 && spec.dilation > 0 && spec.padding >= 0, "conv2d",
          "groups, stride and dilation must be positive, padding not negative");
  require(x.dim(1) == w.dim(1) * spec.groups && w.dim(0) % spec.groups == 0, "conv2d",
          "weight " + w.shape().str() + " in " + std::to_string(spec.groups) +
              " groups does not fit input " + x.shape().str());
  require(kernel_fits(x.dim(2), w.dim(2), spec) && kernel_fits(x.dim(3), w.dim(3), spec), "conv2d",
          "the kernel " + w.shape().str() + " is larger than input " + x.shape().str());
  if (bias.defined()) require_vector(bias, w.dim(0), "conv2d");
  const Tensor weight = w.prepare_conv_weight(x.value().dtype());
  Tensor y = of(x).conv2d(x.value(), weight, bias.defined() ? bias.value() : Tensor(), spec);
  return Var::make(y, {x, w, bias}, [x, w, weight, bias, spec](const Tensor& dy) {
    Backend& be = of(x);
    if (x.requires_grad()) {
      x.accumulate(be.conv2d_grad_input(dy, weight, spec, x.shape()).to(x.value().dtype()));
    }
    if (w.requires_grad()) {
      w.accumulate(be.conv2d_grad_weight(x.value(), dy, spec, w.shape()));
    }
    if (bias.requires_grad()) {
      bias.accumulate(be.sum_to(dy, channel_shape(dy.shape())).reshape(bias.shape()));
    }
  });
}

Var conv_transpose2d(const Var& x, const Var& w, const Var& bias, const ConvSpec& spec,
                     int output_padding) {
  require_rank(x, 4, "conv_transpose2d");
  require_rank(w, 4, "conv_transpose2d");
  require(x.dim(1) == w.dim(0) && spec.groups > 0 && w.dim(0) % spec.groups == 0,
          "conv_transpose2d",
          "weight " + w.shape().str() + " does not fit input " + x.shape().str());
  require(spec.stride > 0 && spec.dilation > 0 && spec.padding >= 0 && output_padding >= 0 &&
              output_padding < spec.stride,
          "conv_transpose2d", "output_padding must be below the stride");
  auto size = [&](int64_t in, int64_t kernel) {
    return (in - 1) * spec.stride - 2 * spec.padding + spec.dilation * (kernel - 1) +
           output_padding + 1;
  };
  const Shape out{x.dim(0), w.dim(1) * spec.groups, size(x.dim(2), w.dim(2)),
                  size(x.dim(3), w.dim(3))};
  require(out[2] > 0 && out[3] > 0, "conv_transpose2d", "the output would be empty");
  if (bias.defined()) require_vector(bias, out[1], "conv_transpose2d");
  Backend& be = of(x);
  Tensor y = be.conv2d_grad_input(x.value(), w.value(), spec, out);
  if (bias.defined()) {
    y = be.channel_affine(y, Tensor::full({out[1]}, 1.0f, Dtype::kF32, y.device()), bias.value(),
                          false);
  }
  return Var::make(y, {x, w, bias}, [x, w, bias, spec](const Tensor& dy) {
    Backend& b = of(x);
    if (x.requires_grad()) {
      x.accumulate(b.conv2d(dy, w.value(), Tensor(), spec).to(x.value().dtype()));
    }
    if (w.requires_grad()) w.accumulate(b.conv2d_grad_weight(dy, x.value(), spec, w.shape()));
    if (bias.requires_grad()) {
      bias.accumulate(b.sum_to(dy, channel_shape(dy.shape())).reshape(bias.shape()));
    }
  });
}

Var linear(const Var& x, const Var& w, const Var& bias) {
  if (x.defined() && x.shape().rank() > 2) {
    require_rank(w, 2, "linear");
    Shape out = x.shape();
    const int64_t in = out[out.rank() - 1];
    out.set(out.rank() - 1, w.dim(0));
    return reshape(linear(reshape(x, {in ? x.shape().numel() / in : 0, in}), w, bias), out);
  }
  require_rank(x, 2, "linear");
  require_rank(w, 2, "linear");
  require(x.dim(1) == w.dim(1), "linear",
          "weight " + w.shape().str() + " does not fit input " + x.shape().str());
  if (bias.defined()) require_vector(bias, w.dim(0), "linear");
  Backend& be = of(x);
  const Dtype dtype = x.value().dtype();
  const Tensor wt = w.value().to(dtype);
  Tensor y = Tensor::empty({x.dim(0), w.dim(0)}, dtype, x.value().device());
  be.gemm(false, true, 1.0f, x.value(), wt, 0.0f, y);
  if (bias.defined()) {
    y = be.binary(BinaryOp::kAdd, y, bias.value().to(dtype).reshape({1, w.dim(0)}));
  }
  return Var::make(y, {x, w, bias}, [x, w, wt, bias](const Tensor& dy) {
    Backend& b = of(x);
    if (x.requires_grad()) {
      Tensor dx = Tensor::empty(x.shape(), x.value().dtype(), x.value().device());
      b.gemm(false, false, 1.0f, dy, wt, 0.0f, dx);
      x.accumulate(dx);
    }
    if (w.requires_grad()) {
      Tensor dw = Tensor::empty(w.shape(), Dtype::kF32, x.value().device());
      b.gemm(true, false, 1.0f, dy, x.value(), 0.0f, dw);
      w.accumulate(dw);
    }
    if (bias.requires_grad()) {
      bias.accumulate(b.sum_to(dy, {1, dy.dim(1)}).reshape(bias.shape()));
    }
  });
}

Var batch_norm_train(const Var& x, const Var& gamma, const Var& beta, const Var& residual,
                     const BatchNormSpec& spec) {
  require(x.defined() && (x.shape().rank() == 4 || x.shape().rank() == 2), "batch_norm",
          "expected [B,C,H,W] or [B,C]");
  require_vector(gamma, x.dim(1), "batch_norm");
  require_vector(beta, x.dim(1), "batch_norm");
  const bool adds = residual.defined();
  require(!adds || residual.shape() == x.shape(), "batch_norm",
          "the residual must have the shape of the input");
  BatchNormSaved saved;
  Tensor y = of(x).batch_norm_train(x.value(), gamma.value(), beta.value(),
                                    adds ? residual.value() : Tensor(), spec, saved);
  return Var::make(y, {x, gamma, beta, residual},
                   [x, gamma, beta, residual, y, adds, spec, saved](const Tensor& dy) {
                     BatchNormGrads g = of(x).batch_norm_train_grad(
                         dy, x.value(), y, gamma.value(), beta.value(), adds, spec, saved);
                     x.accumulate(g.x);
                     gamma.accumulate(g.gamma);
                     beta.accumulate(g.beta);
                     residual.accumulate(g.residual);
                   });
}

Var batch_norm_eval(const Var& x, const Var& gamma, const Var& beta, const Tensor& mean,
                    const Tensor& var, float eps, bool relu_after) {
  require(x.defined() && (x.shape().rank() == 4 || x.shape().rank() == 2), "batch_norm",
          "expected [B,C,H,W] or [B,C]");
  require_vector(gamma, x.dim(1), "batch_norm");
  require_vector(beta, x.dim(1), "batch_norm");
  Backend& be = of(x);
  const Device device = x.value().device();
  const Tensor m = mean.to(device), v = var.to(device);
  const Tensor deviation = be.unary(UnaryOp::kSqrt, be.unary(UnaryOp::kAffine, v, 1.0f, eps), 0, 0);
  if (recording() && (gamma.requires_grad() || beta.requires_grad())) {
    // Rarely differentiated: composed from the elementwise operations, in float32.
    const Shape c = channel_shape(x.shape());
    const Dtype dtype = x.value().dtype();
    const Var centred = sub(cast(x, Dtype::kF32), Var(m.reshape(c)));
    const Var scale = div(reshape(gamma, c), Var(deviation.reshape(c)));
    const Var y = add(mul(centred, scale), reshape(beta, c));
    return cast(relu_after ? relu(y) : y, dtype);
  }
  const Tensor scale = be.binary(BinaryOp::kDiv, gamma.value(), deviation);
  const Tensor shift = be.binary(BinaryOp::kSub, beta.value(), be.binary(BinaryOp::kMul, m, scale));
  return channel_affine(x, scale, shift, relu_after);
}

Var channel_affine(const Var& x, const Tensor& scales, const Tensor& shifts, bool relu) {
  require(x.defined() && x.shape().rank() >= 2 && scales.shape() == Shape{x.dim(1)} &&
              shifts.shape() == Shape{x.dim(1)},
          "channel_affine", "expected one scale and one shift for each channel");
  const Device device = x.value().device();
  const Tensor scale = scales.to(device), shift = shifts.to(device);
  Tensor y = of(x).channel_affine(x.value(), scale, shift, relu);
  return Var::make(y, {x}, [x, y, scale, relu](const Tensor& dy) {
    x.accumulate(of(x).channel_affine_grad(dy, y, scale, relu));
  });
}

namespace {
void require_pool(const Var& x, const PoolSpec& s, const char* op) {
  require_rank(x, 4, op);
  require(s.kernel > 0 && s.stride > 0 && s.padding >= 0 && s.padding * 2 <= s.kernel &&
              x.dim(2) + 2 * s.padding >= s.kernel && x.dim(3) + 2 * s.padding >= s.kernel,
          op, "kernel, stride or padding does not fit input " + x.shape().str());
}
}  // namespace

Var max_pool(const Var& x, const PoolSpec& spec) {
  require_pool(x, spec, "max_pool");
  Tensor workspace;
  Tensor y = of(x).max_pool(x.value(), spec, recording() && x.requires_grad(), workspace);
  return Var::make(y, {x}, [x, workspace, spec](const Tensor& dy) {
    x.accumulate(of(x).max_pool_grad(dy, workspace, spec, x.shape()));
  });
}

Var avg_pool(const Var& x, const PoolSpec& spec) {
  require_pool(x, spec, "avg_pool");
  Tensor y = of(x).avg_pool(x.value(), spec);
  return Var::make(y, {x}, [x, spec](const Tensor& dy) {
    x.accumulate(of(x).avg_pool_grad(dy, spec, x.shape()));
  });
}

Var global_avg_pool(const Var& x) {
  require_rank(x, 4, "global_avg_pool");
  return Var::make(of(x).global_avg_pool(x.value()), {x}, [x](const Tensor& dy) {
    x.accumulate(of(x).global_avg_pool_grad(dy, x.shape()));
  });
}

Var dropout(const Var& x, float p, Rng& rng) {
  require(p >= 0 && p < 1, "dropout", "the probability must be in [0, 1)");
  if (p == 0) return x;
  Tensor mask = Tensor::empty(x.shape());
  const float keep = 1.0f / (1.0f - p);
  for (float& m : mask.span<float>()) m = rng.uniform() < p ? 0.0f : keep;
  return mul(x, Var(mask.to(x.value().dtype()).to(x.value().device())));
}

// ---- sequences

namespace {
// The mask on the device of x, whose first axis is the batch.
SoftmaxMask placed(const SoftmaxMask& mask, const Var& x, const char* op) {
  if (!mask.lengths.defined()) return mask;
  require(mask.lengths.dtype() == Dtype::kI32 && mask.lengths.shape() == Shape{x.dim(0)}, op,
          "expected one int32 length for each entry of the batch");
  return {mask.lengths.to(x.value().device()), mask.causal};
}
}  // namespace

Var softmax(const Var& x, const SoftmaxMask& mask) {
  require(x.defined() && x.shape().rank() >= 2, "softmax", "expected [B, .., Q, K]");
  const Tensor y = of(x).softmax(x.value(), placed(mask, x, "softmax"));
  return Var::make(y, {x}, [x, y](const Tensor& dy) { x.accumulate(of(x).softmax_grad(y, dy)); });
}

Var layer_norm(const Var& x, const Var& gamma, const Var& beta, float eps) {
  require(x.defined() && x.shape().rank() >= 1 && x.dim(x.shape().rank() - 1) > 0, "layer_norm",
          "expected [.., D]");
  const int64_t width = x.dim(x.shape().rank() - 1);
  require_vector(gamma, width, "layer_norm");
  require_vector(beta, width, "layer_norm");
  LayerNormSaved saved;
  const Tensor y = of(x).layer_norm(x.value(), gamma.value(), beta.value(), eps, saved);
  return Var::make(y, {x, gamma, beta}, [x, gamma, beta, saved](const Tensor& dy) {
    const LayerNormGrads g = of(x).layer_norm_grad(dy, x.value(), gamma.value(), saved);
    x.accumulate(g.x);
    gamma.accumulate(g.gamma);
    beta.accumulate(g.beta);
  });
}

Var attention(const Var& q, const Var& k, const Var& v, const SoftmaxMask& mask, float p,
              Rng* rng) {
  require_rank(q, 4, "attention");
  require_rank(k, 4, "attention");
  require(v.defined() && v.shape() == k.shape() && q.dim(0) == k.dim(0) && q.dim(1) == k.dim(1) &&
              q.dim(3) == k.dim(3) && q.dim(3) > 0,
          "attention",
          "queries " + q.shape().str() + " do not fit keys " + k.shape().str() + " or the values");
  require(p >= 0 && p < 1 && (p == 0 || rng), "attention",
          "the probability of dropout must be in [0, 1), and dropout needs random numbers");
  const float scale = 1.0f / std::sqrt(static_cast<float>(q.dim(3)));
  const Tensor qv = q.value().plain(), kv = k.value().plain(), vv = v.value().plain();
  const Dtype dtype = qv.dtype();
  Backend& be = of(q);
  const Tensor weights =
      be.softmax(product(be, qv, kv, false, true, dtype, scale), placed(mask, q, "attention"));
  Tensor dropped;  // what the weights are multiplied by
  if (p > 0) {
    Tensor keep = Tensor::empty(weights.shape());
    for (float& m : keep.span<float>()) m = rng->uniform() < p ? 0.0f : 1.0f / (1.0f - p);
    dropped = keep.to(dtype).to(qv.device());
  }
  const auto thinned = [dropped](Backend& b, const Tensor& w) {
    return dropped.defined() ? b.binary(BinaryOp::kMul, w, dropped) : w;
  };
  const Tensor y = product(be, thinned(be, weights), vv, false, false, dtype);
  return Var::make(y, {q, k, v}, [=](const Tensor& given) {
    Backend& b = of(q);
    const Tensor dy = given.to(dtype).plain();
    if (v.requires_grad()) {
      v.accumulate(product(b, thinned(b, weights), dy, true, false, dtype));
    }
    if (!q.requires_grad() && !k.requires_grad()) return;
    const Tensor ds = b.softmax_grad(weights, thinned(b, product(b, dy, vv, false, true, dtype)));
    if (q.requires_grad()) q.accumulate(product(b, ds, kv, false, false, dtype, scale));
    if (k.requires_grad()) k.accumulate(product(b, ds, qv, true, false, dtype, scale));
  });
}

Var gather(const Var& table, const Tensor& given, int32_t none) {
  require_rank(table, 2, "gather");
  require(given.defined() && given.dtype() == Dtype::kI32 && given.rank() >= 1, "gather",
          "the ids must be int32");
  const int64_t rows = table.dim(0);
  if (given.device() == Device{}) {
    for (const int32_t id : given.span<int32_t>()) {
      require(id >= 0 && id < rows, "gather",
              "id " + std::to_string(id) + " is none of " + std::to_string(rows) + " rows");
    }
  }
  const Tensor ids = given.to(table.value().device()).plain().reshape({given.numel()});
  std::vector<int64_t> dims;
  for (int i = 0; i < given.rank(); ++i) dims.push_back(given.dim(i));
  dims.push_back(table.dim(1));
  const Tensor y = of(table).gather(table.value(), ids);
  return Var::make(
      y.reshape(Shape(std::span<const int64_t>(dims))), {table},
      [table, ids, none](const Tensor& dy) {
        const Tensor flat = dy.plain().reshape({ids.numel(), table.dim(1)});
        table.accumulate(
            of(table).gather_grad(flat, ids, table.dim(0), none).to(table.value().dtype()));
      });
}

Var add_position(const Var& x, const Var& positions) {
  require_rank(x, 3, "add_position");
  require_rank(positions, 2, "add_position");
  require(positions.dim(0) >= x.dim(1) && positions.dim(1) == x.dim(2), "add_position",
          "positions " + positions.shape().str() + " do not fit " + x.shape().str());
  return add(x, cast(reshape(slice(positions, 0, 0, x.dim(1)), {1, x.dim(1), x.dim(2)}),
                     x.value().dtype()));
}

Var log_softmax(const Var& x) {
  require(x.defined() && x.shape().rank() >= 1 && x.dim(x.shape().rank() - 1) > 0, "log_softmax",
          "expected [.., K]");
  const int64_t k = x.dim(x.shape().rank() - 1), rows = x.shape().numel() / k;
  Backend& be = of(x);
  const Tensor logits = x.value().plain().reshape({rows, k}).to(Dtype::kF32);
  // The loss of class 0 is log sum exp(x) - x_0.
  const Tensor zeros = Tensor::zeros({rows}, Dtype::kI32, logits.device());
  Tensor probs;
  const Tensor loss = be.softmax_cross_entropy(logits, zeros, {}, probs).reshape({rows, 1});
  const Tensor norm = be.binary(BinaryOp::kAdd, loss, be.slice(logits, 1, 0, 1));
  const Tensor y = be.binary(BinaryOp::kSub, logits, norm).reshape(x.shape());
  return Var::make(y, {x}, [x, probs, rows, k](const Tensor& given) {
    Backend& b = of(x);
    const Tensor dy = given.plain().reshape({rows, k});
    const Tensor part = b.binary(BinaryOp::kMul, probs, b.sum_to(dy, {rows, 1}));
    x.accumulate(b.binary(BinaryOp::kSub, dy, part).reshape(x.shape()).to(x.value().dtype()));
  });
}

// ---- elementwise

Var affine(const Var& x, float a, float b) { return unary("affine", UnaryOp::kAffine, x, a, b); }
Var relu(const Var& x) { return unary("relu", UnaryOp::kRelu, x); }
Var leaky_relu(const Var& x, float slope) {
  return unary("leaky_relu", UnaryOp::kLeakyRelu, x, slope);
}
Var sigmoid(const Var& x) { return unary("sigmoid", UnaryOp::kSigmoid, x); }
Var tanh(const Var& x) { return unary("tanh", UnaryOp::kTanh, x); }
Var exp(const Var& x) { return unary("exp", UnaryOp::kExp, x); }
Var log(const Var& x) { return unary("log", UnaryOp::kLog, x); }
Var sqrt(const Var& x) { return unary("sqrt", UnaryOp::kSqrt, x); }
Var square(const Var& x) { return unary("square", UnaryOp::kSquare, x); }
Var abs(const Var& x) { return unary("abs", UnaryOp::kAbs, x); }
Var gelu(const Var& x) { return unary("gelu", UnaryOp::kGelu, x); }

Var add(const Var& a, const Var& b) {
  require_broadcast("add", a, b);
  Tensor y = of(a).binary(BinaryOp::kAdd, a.value(), b.value());
  return Var::make(y, {a, b}, [a, b](const Tensor& dy) {
    if (a.requires_grad()) a.accumulate(reduced(of(a), dy, a.value()));
    if (b.requires_grad()) b.accumulate(reduced(of(a), dy, b.value()));
  });
}

Var sub(const Var& a, const Var& b) {
  require_broadcast("sub", a, b);
  Tensor y = of(a).binary(BinaryOp::kSub, a.value(), b.value());
  return Var::make(y, {a, b}, [a, b](const Tensor& dy) {
    Backend& be = of(a);
    if (a.requires_grad()) a.accumulate(reduced(be, dy, a.value()));
    if (b.requires_grad()) {
      b.accumulate(reduced(be, be.unary(UnaryOp::kAffine, dy, -1.0f, 0.0f), b.value()));
    }
  });
}

Var mul(const Var& a, const Var& b) {
  require_broadcast("mul", a, b);
  Tensor y = of(a).binary(BinaryOp::kMul, a.value(), b.value());
  return Var::make(y, {a, b}, [a, b](const Tensor& dy) {
    Backend& be = of(a);
    if (a.requires_grad()) {
      a.accumulate(reduced(be, be.binary(BinaryOp::kMul, dy, b.value()), a.value()));
    }
    if (b.requires_grad()) {
      b.accumulate(reduced(be, be.binary(BinaryOp::kMul, dy, a.value()), b.value()));
    }
  });
}

Var div(const Var& a, const Var& b) {
  require_broadcast("div", a, b);
  Tensor y = of(a).binary(BinaryOp::kDiv, a.value(), b.value());
  return Var::make(y, {a, b}, [a, b, y](const Tensor& dy) {
    Backend& be = of(a);
    const Tensor da = be.binary(BinaryOp::kDiv, dy, b.value());
    if (a.requires_grad()) a.accumulate(reduced(be, da, a.value()));
    if (b.requires_grad()) {
      const Tensor db = be.unary(UnaryOp::kAffine, be.binary(BinaryOp::kMul, da, y), -1.0f, 0.0f);
      b.accumulate(reduced(be, db, b.value()));
    }
  });
}

Var add_relu(const Var& a, const Var& b) {
  require(a.defined() && b.defined() && a.shape() == b.shape(), "add_relu",
          "the operands must have one shape");
  Tensor y = of(a).binary(BinaryOp::kAddRelu, a.value(), b.value());
  return Var::make(y, {a, b}, [a, b, y](const Tensor& dy) {
    const Tensor g = of(a).unary_grad(UnaryOp::kRelu, y, y, dy, 0, 0);
    a.accumulate(g);
    b.accumulate(g);
  });
}

// ---- shape

Var reshape(const Var& x, const Shape& shape) {
  require(x.defined() && x.shape().numel() == shape.numel(), "reshape",
          "cannot become " + shape.str());
  return Var::make(x.value().plain().reshape(shape), {x},
                   [x](const Tensor& dy) { x.accumulate(dy.plain().reshape(x.shape())); });
}

Var flatten(const Var& x) {
  require(x.defined() && x.shape().rank() >= 1, "flatten", "expected [B, ...]");
  const int64_t rows = x.dim(0);
  return reshape(x, {rows, rows ? x.shape().numel() / rows : 0});
}

Var slice(const Var& x, int axis, int64_t start, int64_t length) {
  require(x.defined() && axis >= 0 && axis < x.shape().rank() && start >= 0 && length >= 0 &&
              start + length <= x.dim(axis),
          "slice", "the range is outside " + (x.defined() ? x.shape().str() : "nothing"));
  return Var::make(of(x).slice(x.value(), axis, start, length), {x},
                   [x, axis, start](const Tensor& dy) {
                     Tensor dx = Tensor::zeros(x.shape(), dy.dtype(), dy.device());
                     of(x).slice_update(dy, dx, axis, start);
                     x.accumulate(dx);
                   });
}

Var concat(std::span<const Var> parts, int axis) {
  require(!parts.empty() && axis >= 0 && axis < parts[0].shape().rank(), "concat",
          "needs parts and an axis of theirs");
  if (parts.size() == 1) return parts[0];
  Shape shape = parts[0].shape();
  int64_t total = 0;
  for (const Var& p : parts) {
    Shape expected = shape;
    require(p.shape().rank() == shape.rank(), "concat", "parts differ in rank");
    expected.set(axis, p.dim(axis));
    require(p.shape() == expected, "concat",
            "part " + p.shape().str() + " does not fit " + shape.str());
    total += p.dim(axis);
  }
  shape.set(axis, total);
  const Tensor& first = parts[0].value();
  Tensor y = Tensor::empty(shape, first.dtype(), first.device());
  int64_t start = 0;
  for (const Var& p : parts) {
    of(p).slice_update(p.value(), y, axis, start);
    start += p.dim(axis);
  }
  std::vector<Var> inputs(parts.begin(), parts.end());
  return Var::make(y, inputs, [inputs, axis](const Tensor& dy) {
    int64_t at = 0;
    for (const Var& p : inputs) {
      if (p.requires_grad()) p.accumulate(of(p).slice(dy, axis, at, p.dim(axis)));
      at += p.dim(axis);
    }
  });
}

Var cast(const Var& x, Dtype dtype) {
  require(x.defined(), "cast", "the operand is undefined");
  if (x.value().dtype() == dtype) return x;
  return Var::make(x.value().to(dtype), {x},
                   [x](const Tensor& dy) { x.accumulate(dy.to(x.value().dtype())); });
}

Var permute(const Var& x, std::vector<int> order) {
  require(x.defined(), "permute", "the operand is undefined");
  const int rank = x.shape().rank();
  std::vector<int> inverse(static_cast<size_t>(rank), -1);
  for (size_t i = 0; i < order.size() && i < inverse.size(); ++i) {
    if (order[i] >= 0 && order[i] < rank)
      inverse[static_cast<size_t>(order[i])] = static_cast<int>(i);
  }
  require(order.size() == inverse.size() && !std::ranges::count(inverse, -1), "permute",
          "the order must name every axis of " + x.shape().str() + " once");
  return Var::make(of(x).permute(x.value(), order), {x},
                   [x, inverse](const Tensor& dy) { x.accumulate(of(x).permute(dy, inverse)); });
}

// ---- reductions and algebra

Var sum_to(const Var& x, const Shape& shape) {
  require(x.defined() && shape.rank() == x.shape().rank(), "sum_to", "the ranks differ");
  for (int i = 0; i < shape.rank(); ++i) {
    require(shape[i] == x.dim(i) || shape[i] == 1, "sum_to",
            "cannot sum " + x.shape().str() + " to " + shape.str());
  }
  return Var::make(of(x).sum_to(x.value(), shape), {x}, [x](const Tensor& dy) {
    const Tensor& v = x.value();
    const Tensor zeros = Tensor::zeros(v.shape(), Dtype::kF32, v.device());
    x.accumulate(of(x).binary(BinaryOp::kAdd, zeros, dy).to(v.dtype()));
  });
}

Var mean_to(const Var& x, const Shape& shape) {
  const Var total = sum_to(x, shape);
  return affine(total, static_cast<float>(shape.numel()) / static_cast<float>(x.shape().numel()),
                0.0f);
}

namespace {
Shape ones(int rank) {
  std::vector<int64_t> dims(static_cast<size_t>(rank), 1);
  return Shape(std::span<const int64_t>(dims));
}
}  // namespace

Var sum(const Var& x) {
  require(x.defined(), "sum", "the operand is undefined");
  return reshape(sum_to(x, ones(x.shape().rank())), {1});
}

Var mean(const Var& x) {
  require(x.defined() && x.shape().numel() > 0, "mean", "nothing to average");
  return affine(sum(x), 1.0f / static_cast<float>(x.shape().numel()), 0.0f);
}

Var matmul(const Var& a, const Var& b, bool ta, bool tb) {
  require(
      a.defined() && b.defined() && a.shape().rank() >= 2 && a.shape().rank() == b.shape().rank(),
      "matmul", "the operands must have one rank, at least 2");
  const int r = a.shape().rank();
  bool fit = a.dim(ta ? r - 2 : r - 1) == b.dim(tb ? r - 1 : r - 2);
  for (int i = 0; i < r - 2; ++i) fit = fit && a.dim(i) == b.dim(i);
  require(fit, "matmul", "shapes " + a.shape().str() + " and " + b.shape().str() + " do not fit");
  const Tensor av = a.value().plain(), bv = b.value().plain();
  const Tensor y = product(of(a), av, bv, ta, tb, Dtype::kF32);
  return Var::make(y, {a, b}, [a, b, av, bv, ta, tb](const Tensor& dy32) {
    Backend& be = of(a);
    const Tensor dy = dy32.to(av.dtype()).plain();
    if (a.requires_grad()) {
      a.accumulate(ta ? product(be, bv, dy, tb, true, av.dtype())
                      : product(be, dy, bv, false, !tb, av.dtype()));
    }
    if (b.requires_grad()) {
      b.accumulate(tb ? product(be, dy, av, true, ta, bv.dtype())
                      : product(be, av, dy, !ta, false, bv.dtype()));
    }
  });
}

// The weight gradient of a 1x1 convolution of x that receives x itself.
Var channel_gram(const Var& x) {
  require_rank(x, 4, "channel_gram");
  const int64_t c = x.dim(1);
  const Tensor y = of(x).conv2d_grad_weight(x.value(), x.value(), ConvSpec{}, {c, c, 1, 1});
  return Var::make(y.to(Dtype::kF32).plain().reshape({c, c}), {x}, [x, c](const Tensor& dy) {
    Backend& be = of(x);
    // d/dx of sum(dy * x x^T): (dy + dy^T) x, and dy^T = dy^T I.
    Tensor w = dy.plain().clone();
    Tensor one = Tensor::zeros({c, c});
    for (int64_t i = 0; i < c; ++i) one.data<float>()[i * c + i] = 1.0f;
    be.gemm(true, false, 1.0f, dy.plain(), one.to(dy.device()), 1.0f, w);
    x.accumulate(
        be.conv2d(x.value(), w.reshape({c, c, 1, 1}), Tensor(), ConvSpec{}).to(x.value().dtype()));
  });
}

Var maximum(std::span<const Var> scalars) {
  require(!scalars.empty(), "maximum", "needs at least one value");
  return *std::ranges::max_element(scalars, {}, [](const Var& v) { return v.item(); });
}

// ---- losses

Var cosine_similarity(const Var& a, const Var& b) {
  require(a.defined() && b.defined() && a.shape() == b.shape() && a.shape().rank() >= 1,
          "cosine_similarity", "the operands must have one shape [B, ...]");
  const Var x = cast(flatten(a), Dtype::kF32), y = cast(flatten(b), Dtype::kF32);
  const Shape rows{x.dim(0), 1};
  const float tiny = 1e-16f;
  const Var dot = sum_to(mul(x, y), rows);
  const Var norms = sqrt(affine(
      mul(affine(sum_to(square(x), rows), 1.0f, tiny), affine(sum_to(square(y), rows), 1.0f, tiny)),
      1.0f, 1e-30f));
  return reshape(div(dot, norms), {x.dim(0)});
}

Var softmax_cross_entropy(const Var& logits, const Tensor& given, const CrossEntropySpec& spec) {
  const char* op = "softmax_cross_entropy";
  require_rank(logits, 2, op);
  const bool indices = given.dtype() == Dtype::kI32;
  require(indices ? given.shape() == Shape{logits.dim(0)}
                  : given.dtype() == Dtype::kF32 && given.shape() == logits.shape(),
          op, "expected one int32 label or one float32 distribution for each row");
  require(spec.smoothing >= 0 && spec.smoothing < 1, op, "the smoothing must be in [0, 1)");
  const Tensor targets = given.to(logits.value().device()).plain();
  Tensor probs;
  Tensor losses = of(logits).softmax_cross_entropy(logits.value(), targets, spec, probs);
  const Var each = Var::make(losses, {logits}, [logits, targets, spec, probs](const Tensor& dy) {
    logits.accumulate(
        of(logits).softmax_cross_entropy_grad(probs, targets, spec, dy, logits.value().dtype()));
  });
  if (spec.ignore == CrossEntropySpec{}.ignore || !indices) return mean(each);
  const Tensor labels = given.to(Device{});
  const int64_t kept = labels.numel() - std::ranges::count(labels.span<int32_t>(), spec.ignore);
  require(kept > 0, op, "every row is ignored");
  return affine(sum(each), 1.0f / static_cast<float>(kept), 0.0f);
}

Var mse(const Var& a, const Var& b) {
  require(a.defined() && b.defined() && a.shape() == b.shape(), "mse", "shapes differ");
  return mean(square(sub(cast(a, Dtype::kF32), cast(b, Dtype::kF32))));
}

Var l1(const Var& a, const Var& b) {
  require(a.defined() && b.defined() && a.shape() == b.shape(), "l1", "shapes differ");
  return mean(abs(sub(cast(a, Dtype::kF32), cast(b, Dtype::kF32))));
}

Var ssim(const Var& a, const Var& b) {
  constexpr int64_t kWindow = 11;
  constexpr double kSigma = 1.5;
  constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;
  require_rank(a, 4, "ssim");
  require(b.defined() && a.shape() == b.shape(), "ssim", "shapes differ");
  const int64_t h = a.dim(2), w = a.dim(3), planes = a.dim(0) * a.dim(1);
  require(h >= kWindow && w >= kWindow, "ssim",
          "images " + a.shape().str() + " are smaller than the window of 11x11");
  // Row i: the weights of the window at position i along one axis. The window is their outer
  // product, so two matrix products average over it.
  const auto windows = [&](int64_t size) {
    std::vector<double> weights(kWindow);
    double total = 0;
    for (int64_t k = 0; k < kWindow; ++k) {
      const double distance = static_cast<double>(k - kWindow / 2) / kSigma;
      weights[static_cast<size_t>(k)] = std::exp(-0.5 * distance * distance);
      total += weights[static_cast<size_t>(k)];
    }
    Tensor m = Tensor::zeros({size - kWindow + 1, size});
    for (int64_t i = 0; i < m.dim(0); ++i) {
      for (int64_t k = 0; k < kWindow; ++k) {
        m.data<float>()[i * size + i + k] =
            static_cast<float>(weights[static_cast<size_t>(k)] / total);
      }
    }
    return m;
  };
  const Device device = a.value().device();
  const int64_t rows = h - kWindow + 1, columns = w - kWindow + 1;
  const Var across(windows(w).to(device)), down(windows(h).reshape({rows, h, 1, 1}).to(device));
  const auto average = [&](const Var& x) {
    const Var y = matmul(reshape(x, {planes * h, w}), across, false, true);
    return conv2d(reshape(y, {planes, h, columns, 1}), down, Var(), ConvSpec{});
  };
  const Var x = cast(a, Dtype::kF32), y = cast(b, Dtype::kF32);
  const Var mx = average(x), my = average(y), mxx = square(mx), myy = square(my), mxy = mul(mx, my);
  const Var spread = sub(average(add(square(x), square(y))), add(mxx, myy));
  const Var joint = sub(average(mul(x, y)), mxy);
  return mean(div(mul(affine(mxy, 2, kC1), affine(joint, 2, kC2)),
                  mul(affine(add(mxx, myy), 1, kC1), affine(spread, 1, kC2))));
}

Var total_variation(const Var& images) {
  require_rank(images, 4, "total_variation");
  const int64_t h = images.dim(2), w = images.dim(3);
  require(h > 1 && w > 1, "total_variation", "needs at least 2x2 pixels");
  const Var across = sub(slice(images, 3, 1, w - 1), slice(images, 3, 0, w - 1));
  const Var down = sub(slice(images, 2, 1, h - 1), slice(images, 2, 0, h - 1));
  return add(mean(square(across)), mean(square(down)));
}

// ---- helpers without gradients

std::vector<int32_t> argmax_rows(const Tensor& scores) {
  if (scores.rank() != 2 || scores.dim(1) < 1) fail("expected [B, K]", "argmax_rows");
  const std::vector<float> v = scores.to_vector();
  const int64_t k = scores.dim(1);
  std::vector<int32_t> best(static_cast<size_t>(scores.dim(0)));
  for (size_t row = 0; row < best.size(); ++row) {
    const auto begin = v.begin() + static_cast<std::ptrdiff_t>(row) * k;
    best[row] = static_cast<int32_t>(std::max_element(begin, begin + k) - begin);
  }
  return best;
}

TopK top_k(const Tensor& scores, int64_t k) {
  if (scores.rank() != 2 || k < 1 || k > scores.dim(1)) {
    fail("expected [B, K] with K at least " + std::to_string(k), "top_k");
  }
  const std::vector<float> v = scores.to_vector();
  const int64_t columns = scores.dim(1);
  std::vector<int32_t> order(static_cast<size_t>(columns));
  TopK top;
  for (int64_t row = 0; row < scores.dim(0); ++row) {
    const float* s = v.data() + row * columns;
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + k, order.end(),
                      [s](int32_t a, int32_t b) { return s[a] != s[b] ? s[a] > s[b] : a < b; });
    for (int64_t i = 0; i < k; ++i) {
      top.index.push_back(order[static_cast<size_t>(i)]);
      top.score.push_back(s[top.index.back()]);
    }
  }
  return top;
}

double accuracy(const Tensor& logits, const Tensor& labels) {
  const std::vector<int32_t> best = argmax_rows(logits);
  if (labels.shape() != Shape{logits.dim(0)}) fail("expected one label a row", "accuracy");
  const Tensor l = labels.to(Device{});
  int64_t right = 0;
  for (size_t i = 0; i < best.size(); ++i) right += best[i] == l.data<int32_t>()[i];
  return best.empty() ? 0.0 : static_cast<double>(right) / static_cast<double>(best.size());
}

}  // namespace ens
