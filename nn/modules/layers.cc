// SPDX-License-Identifier: Apache-2.0
#include "nn/modules/layers.h"

#include <cmath>

#include "base/error.h"

namespace ens {
namespace {

constexpr float kNormEps = 1e-5f;
constexpr float kNormMomentum = 0.1f;
thread_local BatchNormProbe* t_probe = nullptr;

Tensor normal_weight(const Shape& shape, double stddev, Rng& rng) {
  Tensor w = Tensor::empty(shape);
  rng.fill_normal(w.span<float>(), 0.0f, static_cast<float>(stddev));
  return w;
}

Tensor uniform_weight(const Shape& shape, double bound, Rng& rng) {
  Tensor w = Tensor::empty(shape);
  rng.fill_uniform(w.span<float>(), static_cast<float>(-bound), static_cast<float>(bound));
  return w;
}

GraphStep step(GraphStep::Kind kind, int input) {
  GraphStep s;
  s.kind = kind;
  s.input = input;
  return s;
}

}  // namespace

// ---- Sequential

Sequential& Sequential::push(ModulePtr module) {
  return push(std::to_string(order_.size()), std::move(module));
}

Sequential& Sequential::push(std::string name, ModulePtr module) {
  add_module(std::move(name), module);
  order_.push_back(std::move(module));
  return *this;
}

Var Sequential::forward(const Var& x) {
  Var y = x;
  for (const ModulePtr& m : order_) y = m->forward(y);
  return y;
}

int Sequential::lower(Graph& graph, int input) const {
  for (const ModulePtr& m : order_) input = m->lower(graph, input);
  return input;
}

// ---- convolutions

Conv2d::Conv2d(int64_t in, int64_t out, int kernel, const ConvSpec& spec, bool bias, Rng& rng)
    : spec_(spec) {
  const Shape shape{out, in / spec.groups, kernel, kernel};
  const double fan_out = static_cast<double>(out) / spec.groups * kernel * kernel;
  weight_ = add_parameter("weight", normal_weight(shape, std::sqrt(2.0 / fan_out), rng));
  if (bias) bias_ = add_parameter("bias", Tensor::zeros({out}));
}

Var Conv2d::forward(const Var& x) { return conv2d(x, weight_, bias_, spec_); }

int Conv2d::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kConv, input);
  s.weight = weight_.value();
  if (bias_.defined()) s.bias = bias_.value();
  s.conv = spec_;
  return graph.append(std::move(s));
}

ConvTranspose2d::ConvTranspose2d(int64_t in, int64_t out, int kernel, const ConvSpec& spec,
                                 int output_padding, bool bias, Rng& rng)
    : spec_(spec), output_padding_(output_padding) {
  const Shape shape{in, out / spec.groups, kernel, kernel};
  // Each output pixel gathers about kernel^2 / stride^2 taps of every input channel.
  const double fan_in =
      static_cast<double>(in) / spec.groups * kernel * kernel / (spec.stride * spec.stride);
  weight_ = add_parameter("weight", normal_weight(shape, std::sqrt(2.0 / fan_in), rng));
  if (bias) bias_ = add_parameter("bias", Tensor::zeros({out}));
}

Var ConvTranspose2d::forward(const Var& x) {
  return conv_transpose2d(x, weight_, bias_, spec_, output_padding_);
}

// ---- linear

Linear::Linear(int64_t in, int64_t out, bool bias, Rng& rng) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  weight_ = add_parameter("weight", uniform_weight({out, in}, bound, rng));
  if (bias) bias_ = add_parameter("bias", Tensor::zeros({out}));
}

Var Linear::forward(const Var& x) { return linear(x, weight_, bias_); }

int Linear::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kLinear, input);
  s.weight = weight_.value();
  if (bias_.defined()) s.bias = bias_.value();
  return graph.append(std::move(s));
}

// ---- normalisation

BatchNorm::BatchNorm(int64_t channels, bool relu, bool affine) : relu_(relu) {
  gamma_ = add_parameter("weight", Tensor::full({channels}, 1.0f));
  beta_ = add_parameter("bias", Tensor::zeros({channels}));
  gamma_.set_requires_grad(affine);
  beta_.set_requires_grad(affine);
  mean_ = Tensor::zeros({channels});
  var_ = Tensor::full({channels}, 1.0f);
  add_buffer("running_mean", mean_);
  add_buffer("running_var", var_);
}

Var BatchNorm::forward(const Var& x) {
  if (!training()) {
    if (t_probe) t_probe->entries_.push_back({x, mean_, var_});
    return batch_norm_eval(x, gamma_, beta_, mean_, var_, kNormEps, relu_);
  }
  return batch_norm_train(x, gamma_, beta_, Var(), spec(relu_));
}

Var BatchNorm::add_relu(const Var& x, const Var& residual) {
  if (relu_) fail("the normalisation before a residual must not end in a ReLU", "BatchNorm");
  if (!training()) return ens::add_relu(forward(x), residual);
  return batch_norm_train(x, gamma_, beta_, residual, spec(true));
}

BatchNormSpec BatchNorm::spec(bool relu) const {
  return {kNormEps, relu, mean_, var_, kNormMomentum};
}

int BatchNorm::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kChannelAffine, input);
  const auto g = gamma_.value().to_vector(), b = beta_.value().to_vector();
  const auto m = mean_.to_vector(), v = var_.to_vector();
  std::vector<float> scale(g.size()), shift(g.size());
  for (size_t i = 0; i < g.size(); ++i) {
    scale[i] = g[i] / std::sqrt(v[i] + kNormEps);
    shift[i] = b[i] - m[i] * scale[i];
  }
  const Shape shape{static_cast<int64_t>(g.size())};
  s.weight = Tensor::from(scale, shape);
  s.bias = Tensor::from(shift, shape);
  const int out = graph.append(std::move(s));
  if (!relu_) return out;
  return graph.append(step(GraphStep::Kind::kActivation, out));  // ReLU is the default
}

BatchNormProbe::BatchNormProbe() : before_(t_probe) { t_probe = this; }
BatchNormProbe::~BatchNormProbe() { t_probe = before_; }

Normalize::Normalize(const std::vector<float>& mean, const std::vector<float>& stddev) {
  if (mean.empty() || mean.size() != stddev.size()) {
    fail("needs one mean and one standard deviation for each channel", "Normalize");
  }
  std::vector<float> scale(mean.size()), shift(mean.size());
  for (size_t i = 0; i < mean.size(); ++i) {
    if (!(stddev[i] > 0)) fail("standard deviations must be positive", "Normalize");
    scale[i] = 1.0f / stddev[i];
    shift[i] = -mean[i] / stddev[i];
  }
  const Shape shape{static_cast<int64_t>(mean.size())};
  scale_ = Tensor::from(scale, shape);
  shift_ = Tensor::from(shift, shape);
  add_buffer("scale", scale_);
  add_buffer("shift", shift_);
}

Var Normalize::forward(const Var& x) { return channel_affine(x, scale_, shift_); }

int Normalize::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kChannelAffine, input);
  s.weight = scale_;
  s.bias = shift_;
  return graph.append(std::move(s));
}

// ---- activations, pools

Var Activation::forward(const Var& x) {
  switch (op_) {
    case UnaryOp::kAffine:
      return affine(x, a_, b_);
    case UnaryOp::kRelu:
      return relu(x);
    case UnaryOp::kLeakyRelu:
      return leaky_relu(x, a_);
    case UnaryOp::kSigmoid:
      return sigmoid(x);
    case UnaryOp::kTanh:
      return tanh(x);
    case UnaryOp::kExp:
      return exp(x);
    case UnaryOp::kLog:
      return log(x);
    case UnaryOp::kSqrt:
      return sqrt(x);
    case UnaryOp::kSquare:
      return square(x);
    case UnaryOp::kAbs:
      return abs(x);
  }
  fail("unknown activation", "Activation");
}

int Activation::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kActivation, input);
  s.activation = op_;
  s.a = a_;
  s.b = b_;
  return graph.append(std::move(s));
}

Var MaxPool::forward(const Var& x) { return max_pool(x, spec_); }
int MaxPool::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kMaxPool, input);
  s.pool = spec_;
  return graph.append(std::move(s));
}

Var AvgPool::forward(const Var& x) { return avg_pool(x, spec_); }
int AvgPool::lower(Graph& graph, int input) const {
  GraphStep s = step(GraphStep::Kind::kAvgPool, input);
  s.pool = spec_;
  return graph.append(std::move(s));
}

Var GlobalAvgPool::forward(const Var& x) { return global_avg_pool(x); }
int GlobalAvgPool::lower(Graph& graph, int input) const {
  return graph.append(step(GraphStep::Kind::kGlobalAvgPool, input));
}

Var Flatten::forward(const Var& x) { return flatten(x); }
int Flatten::lower(Graph& graph, int input) const {
  return graph.append(step(GraphStep::Kind::kFlatten, input));
}

Dropout::Dropout(float p, Rng& rng) : p_(p), key_(rng.next()) {
  add_host_counter("calls", counter_);
}

Var Dropout::forward(const Var& x) {
  if (!training()) return x;
  Rng rng(key_, static_cast<uint64_t>(counter_.item()));
  counter_.fill(counter_.item() + 1);
  return dropout(x, p_, rng);
}

int Dropout::lower(Graph&, int input) const { return input; }

// ---- ResNet's basic block

BasicBlock::BasicBlock(std::shared_ptr<Conv2d> conv1, std::shared_ptr<Conv2d> conv2,
                       int64_t channels) {
  conv1_ = add("conv1", std::move(conv1));
  norm1_ = add("bn1", std::make_shared<BatchNorm>(channels, true));
  conv2_ = add("conv2", std::move(conv2));
  norm2_ = add("bn2", std::make_shared<BatchNorm>(channels));
}

// The weights are drawn in the order of the list's elements.
BasicBlock::BasicBlock(int64_t in, int64_t out, int stride, Rng& rng)
    : BasicBlock{std::make_shared<Conv2d>(in, out, 3, ConvSpec{stride, 1}, false, rng),
                 std::make_shared<Conv2d>(out, out, 3, ConvSpec{1, 1}, false, rng), out} {
  if (stride != 1 || in != out) {
    conv_short_ = add("downsample.conv",
                      std::make_shared<Conv2d>(in, out, 1, ConvSpec{stride, 0}, false, rng));
    norm_short_ = add("downsample.bn", std::make_shared<BatchNorm>(out));
  }
}

std::shared_ptr<BasicBlock> BasicBlock::separable(int64_t channels, Rng& rng) {
  ConvSpec depthwise{1, 1};
  depthwise.groups = static_cast<int>(channels);
  const auto conv1 = std::make_shared<Conv2d>(channels, channels, 3, depthwise, false, rng);
  const auto conv2 = std::make_shared<Conv2d>(channels, channels, 1, ConvSpec{}, false, rng);
  return std::shared_ptr<BasicBlock>(new BasicBlock(conv1, conv2, channels));
}

Var BasicBlock::forward(const Var& x) {
  const Var y = conv2_->forward(norm1_->forward(conv1_->forward(x)));
  const Var shortcut = conv_short_ ? norm_short_->forward(conv_short_->forward(x)) : x;
  return norm2_->add_relu(y, shortcut);
}

int BasicBlock::lower(Graph& graph, int input) const {
  GraphStep sum = step(GraphStep::Kind::kAdd, -1);
  sum.residual = conv_short_ ? norm_short_->lower(graph, conv_short_->lower(graph, input)) : input;
  sum.input =
      norm2_->lower(graph, conv2_->lower(graph, norm1_->lower(graph, conv1_->lower(graph, input))));
  return graph.append(step(GraphStep::Kind::kActivation, graph.append(std::move(sum))));
}

}  // namespace ens
