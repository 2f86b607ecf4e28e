// SPDX-License-Identifier: Apache-2.0
// Elementwise verbs and optimiser steps against scalar formulas in double.
#include <functional>

#include "tests/nn/cpu/naive.h"

namespace ens {
namespace {

struct Unary {
  UnaryOp op;
  const char* label;
  std::function<double(double)> f, df;
  bool positive_only = false;
};

const float kA = 0.3f, kB = -0.7f;

std::vector<Unary> unaries() {
  const double a = static_cast<double>(kA), b = static_cast<double>(kB);
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  return {
      {UnaryOp::kAffine, "affine", [=](double x) { return a * x + b; }, [=](double) { return a; }},
      {UnaryOp::kRelu, "relu", [](double x) { return std::max(x, 0.0); },
       [](double x) { return x > 0 ? 1.0 : 0.0; }},
      {UnaryOp::kLeakyRelu, "leaky_relu", [=](double x) { return x > 0 ? x : a * x; },
       [=](double x) { return x > 0 ? 1.0 : a; }},
      {UnaryOp::kSigmoid, "sigmoid", sigmoid,
       [=](double x) { return sigmoid(x) * (1 - sigmoid(x)); }},
      {UnaryOp::kTanh, "tanh", [](double x) { return std::tanh(x); },
       [](double x) { return 1 - std::tanh(x) * std::tanh(x); }},
      {UnaryOp::kExp, "exp", [](double x) { return std::exp(x); },
       [](double x) { return std::exp(x); }},
      {UnaryOp::kLog, "log", [](double x) { return std::log(x); }, [](double x) { return 1 / x; },
       true},
      {UnaryOp::kSqrt, "sqrt", [](double x) { return std::sqrt(x); },
       [](double x) { return 0.5 / std::sqrt(x); }, true},
      {UnaryOp::kSquare, "square", [](double x) { return x * x; }, [](double x) { return 2 * x; }},
      {UnaryOp::kAbs, "abs", [](double x) { return std::abs(x); },
       [](double x) { return x > 0 ? 1.0 : -1.0; }},
  };
}

TEST(Unary, ValuesAndGradients) {
  Backend& be = cpu_backend();
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    for (Layout layout : all_layouts()) {
      for (const Unary& u : unaries()) {
        const std::string what = std::string(u.label) + " " + name(dtype) + " " + name(layout);
        Tensor x = random_tensor({2, 16, 5, 7}, 1, Dtype::kF32, Layout::kPlain, 0, 2);
        if (u.positive_only) {
          for (float& v : x.span<float>()) v = std::abs(v) + 0.1f;
        }
        x = x.to(dtype).with_layout(layout);
        const Tensor dy = random_tensor(x.shape(), 2, dtype, Layout::kPlain);
        const Values vx = values(x), vdy = values(dy);
        Values want(vx.size()), want_dx(vx.size());
        for (size_t i = 0; i < vx.size(); ++i) {
          want[i] = u.f(vx[i]);
          want_dx[i] = vdy[i] * u.df(vx[i]);
        }
        const Tensor y = be.unary(u.op, x, kA, kB);
        EXPECT_EQ(y.layout(), layout);
        EXPECT_EQ(y.dtype(), dtype);
        expect_near(y, want, dtype == Dtype::kF32 ? 1e-6 : 5e-3, what);
        expect_near(be.unary_grad(u.op, x, y, dy, kA, kB), want_dx,
                    dtype == Dtype::kF32 ? 1e-5 : 2e-2, "gradient of " + what);
      }
    }
  }
}

TEST(Unary, RelativelyExactAndAtTheEnds) {
  Backend& be = cpu_backend();
  std::vector<float> x;
  for (float v = -80; v < 80; v += 0.37f) x.push_back(v);
  for (float v = 1e-6f; v < 1; v *= 1.7f) {
    x.push_back(v);
    x.push_back(-v);
  }
  const Tensor t = Tensor::from(x, {static_cast<int64_t>(x.size())});
  const auto e = be.unary(UnaryOp::kExp, t, 0, 0).to_vector();
  const auto h = be.unary(UnaryOp::kTanh, t, 0, 0).to_vector();
  const auto s = be.unary(UnaryOp::kSigmoid, t, 0, 0).to_vector();
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = static_cast<double>(x[i]);
    EXPECT_NEAR(static_cast<double>(e[i]) / std::exp(v), 1.0, 1e-6) << v;
    EXPECT_NEAR(static_cast<double>(h[i]) / std::tanh(v), 1.0, 1e-6) << v;
    EXPECT_NEAR(static_cast<double>(s[i]) * (1 + std::exp(-v)), 1.0, 1e-6) << v;
  }
  const Tensor ends = Tensor::from({-INFINITY, -200, 0, 200, INFINITY, NAN}, {6});
  const auto exp = be.unary(UnaryOp::kExp, ends, 0, 0).to_vector();
  EXPECT_EQ(exp[0], 0.0f);
  EXPECT_EQ(exp[1], 0.0f);
  EXPECT_EQ(exp[2], 1.0f);
  EXPECT_EQ(exp[3], INFINITY);
  EXPECT_EQ(exp[4], INFINITY);
  EXPECT_TRUE(std::isnan(exp[5]));
  const auto tanh = be.unary(UnaryOp::kTanh, ends, 0, 0).to_vector();
  EXPECT_EQ(tanh[0], -1.0f);
  EXPECT_EQ(tanh[2], 0.0f);
  EXPECT_EQ(tanh[4], 1.0f);
  EXPECT_TRUE(std::isnan(tanh[5]));
  EXPECT_TRUE(std::isnan(be.unary(UnaryOp::kRelu, ends, 0, 0).to_vector()[5]));
  EXPECT_TRUE(std::isnan(be.unary(UnaryOp::kSigmoid, ends, 0, 0).to_vector()[5]));
}

double apply(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSub:
      return a - b;
    case BinaryOp::kMul:
      return a * b;
    case BinaryOp::kDiv:
      return a / b;
    case BinaryOp::kAddRelu:
      return std::max(a + b, 0.0);
  }
  return 0;
}

const std::vector<BinaryOp> kBinaries{BinaryOp::kAdd, BinaryOp::kSub, BinaryOp::kMul,
                                      BinaryOp::kDiv, BinaryOp::kAddRelu};

Tensor away_from_zero(Tensor t) {
  Tensor plain = t.plain().to(Dtype::kF32).clone();
  for (float& v : plain.span<float>()) v = std::copysign(std::abs(v) + 0.5f, v);
  return plain.to(t.dtype()).with_layout(t.layout());
}

TEST(Binary, SameShapeAnyLayouts) {
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
    for (Layout la : all_layouts())
      for (Layout lb : all_layouts())
        for (BinaryOp op : kBinaries) {
          const Tensor a = random_tensor({3, 16, 4, 5}, 1, dtype, la);
          const Tensor b = away_from_zero(random_tensor(a.shape(), 2, dtype, lb));
          const Values va = values(a), vb = values(b);
          Values want(va.size());
          for (size_t i = 0; i < want.size(); ++i) want[i] = apply(op, va[i], vb[i]);
          const Tensor y = cpu_backend().binary(op, a, b);
          EXPECT_EQ(y.layout(), la);
          expect_near(y, want, dtype == Dtype::kF32 ? 1e-6 : 5e-3);
        }
}

TEST(Binary, Broadcasts) {
  const std::vector<std::pair<Shape, Shape>> shapes{{{3, 16, 4, 5}, {1, 16, 1, 1}},
                                                    {{1, 16, 1, 1}, {3, 16, 4, 5}},
                                                    {{3, 16, 4, 5}, {3, 1, 1, 1}},
                                                    {{3, 16, 4, 5}, {1, 16, 4, 5}},
                                                    {{3, 16, 4, 5}, {1, 1, 1, 1}},
                                                    {{3, 16, 4, 1}, {1, 16, 1, 5}},
                                                    {{3, 1, 4, 1}, {1, 16, 1, 5}},
                                                    {{3, 16, 4, 5}, {3, 16, 1, 5}},
                                                    {{1, 16, 4, 5}, {3, 16, 4, 5}},
                                                    {{7, 9}, {7, 1}},
                                                    {{7, 9}, {1, 9}},
                                                    {{7, 1}, {1, 9}},
                                                    {{6}, {1}},
                                                    {{2, 3, 4}, {2, 1, 4}},
                                                    {{1}, {1}}};
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16})
    for (Layout layout : all_layouts())
      for (const auto& [sa, sb] : shapes)
        for (BinaryOp op : kBinaries) {
          const Tensor a = random_tensor(sa, 1, dtype, layout);
          const Tensor b = away_from_zero(random_tensor(sb, 2, dtype, layout));
          Shape shape = sa;
          for (int i = 0; i < sa.rank(); ++i) shape.set(i, std::max(sa[i], sb[i]));
          const Values va = values(a), vb = values(b);
          Values want;
          for (int64_t i = 0; i < shape.numel(); ++i) {
            int64_t rest = i, ia = 0, ib = 0, step_a = 1, step_b = 1;
            for (int axis = shape.rank() - 1; axis >= 0; --axis) {
              const int64_t k = rest % shape[axis];
              rest /= shape[axis];
              ia += (sa[axis] == 1 ? 0 : k) * step_a;
              ib += (sb[axis] == 1 ? 0 : k) * step_b;
              step_a *= sa[axis];
              step_b *= sb[axis];
            }
            want.push_back(apply(op, va[static_cast<size_t>(ia)], vb[static_cast<size_t>(ib)]));
          }
          const Tensor y = cpu_backend().binary(op, a, b);
          EXPECT_EQ(y.shape(), shape);
          expect_near(y, want, dtype == Dtype::kF32 ? 1e-6 : 5e-3, sa.str() + " " + sb.str());
        }
}

TEST(Axpy, AnyLayoutsAndTypes) {
  for (Dtype dx : {Dtype::kF32, Dtype::kBF16})
    for (Dtype dy : {Dtype::kF32, Dtype::kBF16})
      for (Layout lx : all_layouts())
        for (Layout ly : all_layouts()) {
          const Tensor x = random_tensor({2, 16, 3, 3}, 1, dx, lx);
          Tensor y = random_tensor({2, 16, 3, 3}, 2, dy, ly);
          const Values vx = values(x);
          Values want = values(y);
          for (size_t i = 0; i < want.size(); ++i) want[i] -= 1.5 * vx[i];
          cpu_backend().axpy(-1.5f, x, y);
          EXPECT_EQ(y.dtype(), dy);
          EXPECT_EQ(y.layout(), ly);
          expect_near(y, want, dy == Dtype::kF32 ? 1e-6 : 5e-3);
        }
}

TEST(Sgd, MomentumNesterovAndDecay) {
  for (bool nesterov : {false, true})
    for (float momentum : {0.0f, 0.9f})
      for (bool with_buffer : {true, false}) {
        if (!with_buffer && momentum != 0.0f) continue;
        const SgdStep s{momentum, 0.01f, nesterov};
        const Tensor rates = Tensor::from({0.1f, 1, 1}, {3});
        const int64_t n = 1003;
        Tensor p = random_tensor({n}, 1), m = with_buffer ? Tensor::zeros({n}) : Tensor();
        Values want = values(p), v(static_cast<size_t>(n));
        for (uint64_t step = 0; step < 3; ++step) {
          const Tensor g = random_tensor({n}, 10 + step);
          const Values vg = values(g);
          for (size_t i = 0; i < want.size(); ++i) {
            const double d = vg[i] + 0.01 * want[i];
            v[i] = static_cast<double>(momentum) * v[i] + d;
            want[i] -= 0.1 * (nesterov ? d + static_cast<double>(momentum) * v[i] : v[i]);
          }
          const Update update{p, g, m, {}, {}};
          cpu_backend().sgd_step({&update, 1}, rates, s);
        }
        expect_near(p, want, 1e-6);
      }
}

TEST(Adam, PlainDecoupledAndAmsgrad) {
  for (bool decoupled : {false, true})
    for (bool amsgrad : {false, true}) {
      const int64_t n = 517;
      Tensor p = random_tensor({n}, 1), m = Tensor::zeros({n}), v = Tensor::zeros({n});
      Tensor top = amsgrad ? Tensor::zeros({n}) : Tensor();
      Values want = values(p), wm(n), wv(n), wt(n);
      for (int64_t t = 1; t <= 4; ++t) {
        // Shrinking gradients, so that the largest square stays behind.
        const Tensor g = random_tensor({n}, 10 + static_cast<uint64_t>(t), Dtype::kF32,
                                       Layout::kPlain, 0, 1.0f / static_cast<float>(t * t));
        const Values vg = values(g);
        for (size_t i = 0; i < want.size(); ++i) {
          double d = vg[i];
          if (decoupled) {
            want[i] -= 0.01 * 0.1 * want[i];
          } else {
            d += 0.1 * want[i];
          }
          wm[i] = 0.9 * wm[i] + 0.1 * d;
          wv[i] = 0.99 * wv[i] + 0.01 * d * d;
          wt[i] = std::max(wt[i], wv[i]);
          const double square = (amsgrad ? wt[i] : wv[i]) / (1 - std::pow(0.99, t));
          want[i] -= 0.01 * wm[i] / (1 - std::pow(0.9, t)) / (std::sqrt(square) + 1e-8);
        }
        const Update update{p, g, m, v, top};
        const Tensor rates =
            Tensor::from({0.01f, static_cast<float>(1 / (1 - std::pow(0.9, t))),
                          static_cast<float>(1 / std::sqrt(1 - std::pow(0.99, t)))},
                         {3});
        cpu_backend().adam_step({&update, 1}, rates, {0.9f, 0.99f, 1e-8f, 0.1f, decoupled});
      }
      expect_near(p, want, 2e-6);
    }
}

}  // namespace
}  // namespace ens
