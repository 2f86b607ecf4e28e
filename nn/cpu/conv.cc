// SPDX-License-Identifier: Apache-2.0
// Convolutions of a training, and the list of implementations (at the end).
//
// oneDNN is asked for one pair of activation formats after the other until it has a generated
// kernel for it: its own choice (format `any`) is often the slower one, and a plain request falls
// to a reference loop where formats do not match. What a tensor's layout cannot express (channels
// padded to a block) lives in a buffer for the length of the call.
#include "nn/cpu/conv.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/block_conv.h"
#include "nn/cpu/cpu_backend.h"
#include "nn/cpu/dense_small_map.h"
#include "nn/cpu/dnnl_compat.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/primitive_cache.h"

namespace ens::cpu {
namespace {

using Tag = dnnl::memory::format_tag;

enum class Pass { kForward, kGradInput, kGradWeight };

struct Conv {
  dnnl::primitive primitive;
  MemoryDesc x, w, y, scratchpad;  // activations or their gradients, as the primitive wants them
};

struct Formats {
  Tag x, y;
};

// Pairs of formats to try, the one that should be quickest first.
std::vector<Formats> candidates(Pass pass, int64_t x_channels, int64_t y_channels, Dtype dtype) {
  const Formats last{Tag::nhwc, Tag::nhwc}, plain{Tag::nchw, Tag::nchw}, any{Tag::any, Tag::any};
  if (isa() == Isa::kBasic) return {plain, last, any};
  const int64_t block = isa() == Isa::kAvx2 ? 8 : 16;
  const Tag blocked = isa() == Isa::kAvx2 ? Tag::nChw8c : Tag::nChw16c;
  const Formats both{blocked, blocked}, image{Tag::nchw, blocked};
  if (dtype == Dtype::kBF16 && isa() == Isa::kAmx) return {last, both, plain, any};
  const bool x_fits = x_channels % block == 0, y_fits = y_channels % block == 0;
  if (x_channels <= 4 && y_fits && pass != Pass::kGradInput) return {image, both, last, plain, any};
  if (x_fits && y_fits) return {both, last, plain, any};
  return {last, both, plain, any};
}

MemoryDesc with_format(const Shape& shape, Dtype dtype, Tag tag) {
  return {to_dims(shape), to_dnnl(dtype), tag};
}

template <typename PrimitiveDesc>
bool generated(const PrimitiveDesc& pd) {
  return std::strstr(pd.impl_info_str(), "ref") == nullptr;
}

ConvDims dims_of(const Shape& x, const Shape& w, const Shape& y, const ConvSpec& spec) {
  ConvDims d;
  d.strides = {spec.stride, spec.stride};
  d.dilates = {spec.dilation - 1, spec.dilation - 1};  // oneDNN counts the gaps
  d.left = {spec.padding, spec.padding};
  for (int axis : {2, 3}) {
    // What oneDNN computes the output's size from; the remainder of the division is padding less.
    const int64_t reach = spec.dilation * (w[axis] - 1) + 1;
    d.right.push_back((y[axis] - 1) * spec.stride + reach - x[axis] - spec.padding);
  }
  return d;
}

std::string describe_conv(const Shape& x, const Shape& w, const Shape& y) {
  return "x " + x.str() + ", w " + w.str() + ", y " + y.str();
}

Conv make_conv(Pass pass, const Shape& x, const Shape& w, const Shape& y, bool bias, Dtype dtype,
               const ConvSpec& spec) {
  const ConvDims d = dims_of(x, w, y, spec);
  const MemoryDesc b = bias ? describe(Shape{w[0]}, Dtype::kF32) : MemoryDesc();
  const Dtype w_dtype = pass == Pass::kGradWeight ? Dtype::kF32 : dtype;
  const MemoryDesc dw = describe_weight(w, w_dtype, spec.groups, true);
  const MemoryDesc forward_w = describe_weight(w, dtype, spec.groups, true);
  // oneDNN 2.6 on AVX2 computes nonsense there: 6 to 12 channels, 16x16 to 8x8 (isa_test found it).
  const bool broken_last =
      pass == Pass::kGradWeight && w[2] * w[3] == 1 && spec.stride > 1 && dtype == Dtype::kF32;
  Conv found;
  for (const Formats& f : candidates(pass, x[1], y[1], dtype)) {
    if (broken_last && f.x == Tag::nhwc) continue;
    const MemoryDesc dx = with_format(x, dtype, f.x), dy = with_format(y, dtype, f.y);
    try {
      const auto hint = conv_forward_pd(dnnl::prop_kind::forward_training, dx, forward_w, b, dy, d,
                                        user_scratchpad());
      bool quick = false;
      if (pass == Pass::kForward) {
        quick = generated(hint);
        if (quick || !found.primitive) {
          found = {dnnl::convolution_forward(hint), hint.src_desc(), hint.weights_desc(),
                   hint.dst_desc(), hint.scratchpad_desc()};
        }
      } else if (pass == Pass::kGradInput) {
        const auto pd = conv_backward_data_pd(dx, dw, dy, d, user_scratchpad(), hint);
        quick = generated(pd);
        if (quick || !found.primitive) {
          found = {dnnl::convolution_backward_data(pd), pd.diff_src_desc(), pd.weights_desc(),
                   pd.diff_dst_desc(), pd.scratchpad_desc()};
        }
      } else {
        const auto pd = conv_backward_weights_pd(dx, dw, dy, d, user_scratchpad(), hint);
        quick = generated(pd);
        if (quick || !found.primitive) {
          found = {dnnl::convolution_backward_weights(pd), pd.src_desc(), pd.diff_weights_desc(),
                   pd.diff_dst_desc(), pd.scratchpad_desc()};
        }
      }
      if (quick) break;
    } catch (const dnnl::error&) {
      // This pair of formats has no implementation: the next one.
    }
  }
  if (!found.primitive) {
    fail(std::string("oneDNN has no ") + name(dtype) + " convolution for " + describe_conv(x, w, y),
         "cpu", "compute in float32");
  }
  return found;
}

const Conv& cached_conv(Pass pass, const ConvProblem& p, bool bias) {
  thread_local PrimitiveCache<Conv> cache;
  Key key(static_cast<int>(pass));
  key.add(p.x);
  key.add(p.w);
  key.add(p.y);
  key.add(bias);
  key.add(p.dtype);
  key.add(p.spec);
  return cache.get(key, [&] { return make_conv(pass, p.x, p.w, p.y, bias, p.dtype, p.spec); });
}

// A tensor as a primitive wants to read it: itself, or a reordered copy.
class Input {
 public:
  Input(const Tensor& t, const MemoryDesc& desc, const MemoryDesc& is)
      : tensor_(t), memory_(bind(desc, t.host())) {
    if (is == desc) return;
    buffer_ = allocate(desc.get_size());
    reorder(is, t.host(), desc, buffer_.get());
    memory_.set_data_handle(buffer_.get());
  }
  Input(const Tensor& t, const MemoryDesc& desc) : Input(t, desc, describe(t)) {}
  const dnnl::memory& memory() const { return memory_; }

 private:
  Tensor tensor_;
  std::shared_ptr<void> buffer_;
  dnnl::memory memory_;
};

// Where a primitive writes an activation; result() is it as a Tensor.
class Output {
 public:
  Output(const Shape& shape, Dtype dtype, const MemoryDesc& desc) : desc_(desc) {
    if (const auto layout = layout_of(desc, shape, dtype)) {
      tensor_ = Tensor::empty(shape, dtype, {}, *layout);
    } else {
      buffer_ = allocate(desc.get_size());
      tensor_ = Tensor::empty(shape, dtype);
    }
  }
  dnnl::memory memory() const { return bind(desc_, buffer_ ? buffer_.get() : tensor_.host()); }
  Tensor result() const {
    if (buffer_) reorder(desc_, buffer_.get(), describe(tensor_), tensor_.host());
    return tensor_;
  }

 private:
  MemoryDesc desc_;
  std::shared_ptr<void> buffer_;
  Tensor tensor_;
};

const void* blocked(const Tensor& t, Tensor& holder) {
  holder = t.with_layout(BlockConv::layout());
  return holder.host();
}

// Our own kernels: forward and towards the input.
Tensor run_block_conv(BlockConv::Pass pass, const ConvProblem& p, const Tensor& in, const Tensor& w,
                      const Tensor& bias, const Shape& out) {
  const BlockConv conv(pass, p.x, p.w, p.y, p.spec, p.dtype, p.dtype);
  Tensor source, y = Tensor::empty(out, in.dtype(), {}, BlockConv::layout());
  const Buffer weight(conv.packed_bytes());
  conv.pack(w.data<float>(), weight.data());
  conv.run(blocked(in, source), weight.data(), bias.defined() ? bias.data<float>() : nullptr,
           nullptr, false, y.host());
  return y;
}

int64_t conv_size(int64_t size, int64_t kernel, const ConvSpec& spec) {
  return (size + 2 * spec.padding - spec.dilation * (kernel - 1) - 1) / spec.stride + 1;
}

Shape conv_shape(const Shape& x, const Shape& w, const ConvSpec& spec) {
  return {x[0], w[0], conv_size(x[2], w[2], spec), conv_size(x[3], w[3], spec)};
}

Tensor block_forward(Backend&, const ConvProblem& p, const Tensor& x, const Tensor& w,
                     const Tensor& bias) {
  return run_block_conv(BlockConv::Pass::kForward, p, x, w, bias, p.y);
}

Tensor block_grad_input(Backend&, const ConvProblem& p, const Tensor& dy, const Tensor& w) {
  return run_block_conv(BlockConv::Pass::kGradInput, p, dy, w, Tensor(), p.x);
}

Tensor block_grad_weight(Backend&, const ConvProblem& p, const Tensor& x, const Tensor& dy) {
  const BlockConv conv(BlockConv::Pass::kGradWeight, p.x, p.w, p.y, p.spec, p.dtype, p.dtype);
  Tensor dw = Tensor::empty(p.w), x_holder, g_holder;
  conv.grad_weight(blocked(x, x_holder), blocked(dy, g_holder), dw.data<float>());
  return dw;
}

Tensor onednn_forward(Backend&, const ConvProblem& p, const Tensor& x, const Tensor& w,
                      const Tensor& bias) {
  const Conv& conv = cached_conv(Pass::kForward, p, bias.defined());
  const Input source(x, conv.x);
  const Input weight(w, conv.w, describe_weight(p.w, Dtype::kF32, p.spec.groups, false));
  const Output y(p.y, p.dtype, conv.y);
  Args args{{DNNL_ARG_SRC, source.memory()},
            {DNNL_ARG_WEIGHTS, weight.memory()},
            {DNNL_ARG_DST, y.memory()}};
  if (bias.defined()) args.emplace(DNNL_ARG_BIAS, bind(bias));
  execute(conv.primitive, conv.scratchpad, std::move(args));
  return y.result();
}

Tensor onednn_grad_input(Backend&, const ConvProblem& p, const Tensor& dy, const Tensor& w) {
  const Conv& conv = cached_conv(Pass::kGradInput, p, false);
  const Input gradient(dy, conv.y);
  const Input weight(w, conv.w, describe_weight(p.w, Dtype::kF32, p.spec.groups, false));
  const Output dx(p.x, p.dtype, conv.x);
  execute(conv.primitive, conv.scratchpad,
          {{DNNL_ARG_DIFF_DST, gradient.memory()},
           {DNNL_ARG_WEIGHTS, weight.memory()},
           {DNNL_ARG_DIFF_SRC, dx.memory()}});
  return dx.result();
}

Tensor onednn_grad_weight(Backend&, const ConvProblem& p, const Tensor& x, const Tensor& dy) {
  const Conv& conv = cached_conv(Pass::kGradWeight, p, false);
  const Input source(x, conv.x);
  const Input gradient(dy, conv.y);
  Tensor dw = Tensor::empty(p.w);
  const MemoryDesc plain = describe_weight(p.w, Dtype::kF32, p.spec.groups, false);
  const bool direct = conv.w == plain;
  const Buffer own(direct ? 1 : conv.w.get_size());
  void* target = direct ? dw.host() : own.data();
  execute(conv.primitive, conv.scratchpad,
          {{DNNL_ARG_SRC, source.memory()},
           {DNNL_ARG_DIFF_DST, gradient.memory()},
           {DNNL_ARG_DIFF_WEIGHTS, bind(conv.w, target)}});
  if (!direct) reorder(conv.w, target, plain, dw.host());
  return dw;
}

const char* block_why_not(const ConvProblem& p) {
  const ConvDtypes dtypes = p.serving ? serving_dtypes(p.dtype) : training_dtypes(p.dtype);
  return BlockConv::why_not(p.w, p.spec, dtypes.activations, dtypes.weights);
}

Tensor dense_forward(Backend& backend, const ConvProblem& p, const Tensor& x, const Tensor& w,
                     const Tensor& bias) {
  return DenseSmallMap(p).forward(backend, x, w, bias);
}

Tensor dense_grad_input(Backend& backend, const ConvProblem& p, const Tensor& dy, const Tensor& w) {
  return DenseSmallMap(p).grad_input(backend, dy, w);
}

Tensor dense_grad_weight(Backend& backend, const ConvProblem& p, const Tensor& x,
                         const Tensor& dy) {
  return DenseSmallMap(p).grad_weight(backend, x, dy);
}

using Kind = ConvImplementation::Kind;

constexpr ConvImplementation kImplementations[] = {
    {Kind::kBlockConv, "block_conv", "our own kernels over blocks of 8 or 16 channels",
     block_why_not, block_forward, block_grad_input, block_grad_weight},
    {Kind::kDenseSmallMap, "dense_small_map", "maps of a few pixels as one matrix product",
     DenseSmallMap::why_not, dense_forward, dense_grad_input, dense_grad_weight},
    {Kind::kOneDnn, "onednn", "the kernel that oneDNN chooses",
     [](const ConvProblem&) -> const char* { return nullptr; }, onednn_forward, onednn_grad_input,
     onednn_grad_weight},
};

std::atomic<const ConvImplementation*> forced_implementation{nullptr};

}  // namespace

ConvDtypes serving_dtypes(Dtype dtype) {
  return {isa() < Isa::kAvx512Bf16 ? Dtype::kF32 : dtype, dtype};
}

ConvDtypes training_dtypes(Dtype dtype) {
  if (through_float32(dtype)) dtype = Dtype::kF32;
  return {dtype, dtype};
}

std::span<const ConvImplementation> conv_implementations() { return kImplementations; }

void force_conv_implementation(std::string_view name) {
  if (name.empty()) {
    forced_implementation = nullptr;
    return;
  }
  std::string known;
  for (const ConvImplementation& i : kImplementations) {
    if (name == i.name) {
      forced_implementation = &i;
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(i.name);
  }
  usage_fail("no convolution implementation is called '" + std::string(name) + "'", "cpu",
             "use one of " + known);
}

const ConvImplementation* forced_conv_implementation() { return forced_implementation; }

const ConvImplementation& choose_conv(const ConvProblem& problem,
                                      const ConvImplementation* forced) {
  if (forced) {
    const char* reason = forced->why_not(problem);
    if (!reason) return *forced;
    usage_fail(std::string(forced->name) + " does not compute the convolution " +
                   describe_conv(problem.x, problem.w, problem.y) + ": " + reason,
               "cpu", "force another implementation, or none");
  }
  return *std::ranges::find_if(kImplementations,
                               [&](const ConvImplementation& i) { return !i.why_not(problem); });
}

std::vector<ConvCandidate> CpuBackend::explain_conv(const ConvProblem& problem) const {
  std::vector<ConvCandidate> candidates;
  const char* chosen = nullptr;
  for (const ConvImplementation& i : kImplementations) {
    const char* reason = i.why_not(problem);
    candidates.push_back({i.name, i.description, reason ? reason : ""});
    if (reason) continue;
    if (chosen) candidates.back().rejected = std::string(chosen) + " comes first";
    if (!chosen) chosen = i.name;
  }
  return candidates;
}

Tensor CpuBackend::conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                          const ConvSpec& spec) {
  prepare_threads();
  const ConvProblem problem{x.shape(), w.shape(), conv_shape(x.shape(), w.shape(), spec), spec,
                            x.dtype()};
  if (problem.y.numel() == 0) return Tensor::empty(problem.y, x.dtype());
  if (through_float32(x.dtype())) return conv2d(x.to(Dtype::kF32), w, bias, spec).to(x.dtype());
  return choose_conv(problem).forward(*this, problem, x, w, bias);
}

Tensor CpuBackend::conv2d_grad_input(const Tensor& dy, const Tensor& w, const ConvSpec& spec,
                                     const Shape& x_shape) {
  prepare_threads();
  if (x_shape.numel() == 0) return Tensor::empty(x_shape, dy.dtype());
  if (through_float32(dy.dtype())) {
    return conv2d_grad_input(dy.to(Dtype::kF32), w, spec, x_shape).to(dy.dtype());
  }
  const ConvProblem problem{x_shape, w.shape(), dy.shape(), spec, dy.dtype()};
  return choose_conv(problem).grad_input(*this, problem, dy, w);
}

Tensor CpuBackend::conv2d_grad_weight(const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                                      const Shape& w_shape) {
  prepare_threads();
  if (x.numel() == 0 || w_shape.numel() == 0) return Tensor::zeros(w_shape);
  if (through_float32(x.dtype())) {
    return conv2d_grad_weight(x.to(Dtype::kF32), dy.to(Dtype::kF32), spec, w_shape);
  }
  const ConvProblem problem{x.shape(), w_shape, dy.shape(), spec, x.dtype()};
  return choose_conv(problem).grad_weight(*this, problem, x, dy.to(x.dtype()));
}

}  // namespace ens::cpu
