// Convolutions.
//
// oneDNN is asked for one pair of activation formats after the other until it has a generated
// kernel for it: its own choice (format `any`) is often the slower one, and a plain request falls
// to a reference loop where formats do not match. What a tensor's layout cannot express (channels
// padded to a block) lives in a buffer for the length of the call.
#include <cstring>
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

const Conv& cached_conv(Pass pass, const Shape& x, const Shape& w, const Shape& y, bool bias,
                        Dtype dtype, const ConvSpec& spec) {
  thread_local PrimitiveCache<Conv> cache;
  Key key(static_cast<int>(pass));
  key.add(x);
  key.add(w);
  key.add(y);
  key.add(bias);
  key.add(dtype);
  key.add(spec);
  return cache.get(key, [&] { return make_conv(pass, x, w, y, bias, dtype, spec); });
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
Tensor block_conv(const BlockConv& conv, const Tensor& in, const Tensor& w, const Tensor& bias,
                  const Shape& out) {
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

}  // namespace

Tensor CpuBackend::conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                          const ConvSpec& spec) {
  prepare_threads();
  const Shape shape = conv_shape(x.shape(), w.shape(), spec);
  if (shape.numel() == 0) return Tensor::empty(shape, x.dtype());
  if (through_float32(x.dtype())) return conv2d(x.to(Dtype::kF32), w, bias, spec).to(x.dtype());
  if (BlockConv::applies(w.shape(), spec, x.dtype(), x.dtype())) {
    return block_conv(
        {BlockConv::Pass::kForward, x.shape(), w.shape(), shape, spec, x.dtype(), x.dtype()}, x, w,
        bias, shape);
  }
  if (const DenseSmallMap small(x.shape(), w.shape(), shape, spec); small.applies()) {
    return small.forward(*this, x, w, bias);
  }
  const Conv& conv =
      cached_conv(Pass::kForward, x.shape(), w.shape(), shape, bias.defined(), x.dtype(), spec);
  const Input source(x, conv.x);
  const Input weight(w, conv.w, describe_weight(w.shape(), Dtype::kF32, spec.groups, false));
  const Output y(shape, x.dtype(), conv.y);
  Args args{{DNNL_ARG_SRC, source.memory()},
            {DNNL_ARG_WEIGHTS, weight.memory()},
            {DNNL_ARG_DST, y.memory()}};
  if (bias.defined()) args.emplace(DNNL_ARG_BIAS, bind(bias));
  execute(conv.primitive, conv.scratchpad, std::move(args));
  return y.result();
}

Tensor CpuBackend::conv2d_grad_input(const Tensor& dy, const Tensor& w, const ConvSpec& spec,
                                     const Shape& x_shape) {
  prepare_threads();
  if (x_shape.numel() == 0) return Tensor::empty(x_shape, dy.dtype());
  if (through_float32(dy.dtype())) {
    return conv2d_grad_input(dy.to(Dtype::kF32), w, spec, x_shape).to(dy.dtype());
  }
  if (BlockConv::applies(w.shape(), spec, dy.dtype(), dy.dtype())) {
    return block_conv(
        {BlockConv::Pass::kGradInput, x_shape, w.shape(), dy.shape(), spec, dy.dtype(), dy.dtype()},
        dy, w, Tensor(), x_shape);
  }
  if (const DenseSmallMap small(x_shape, w.shape(), dy.shape(), spec); small.applies()) {
    return small.grad_input(*this, dy, w);
  }
  const Conv& conv =
      cached_conv(Pass::kGradInput, x_shape, w.shape(), dy.shape(), false, dy.dtype(), spec);
  const Input gradient(dy, conv.y);
  const Input weight(w, conv.w, describe_weight(w.shape(), Dtype::kF32, spec.groups, false));
  const Output dx(x_shape, dy.dtype(), conv.x);
  execute(conv.primitive, conv.scratchpad,
          {{DNNL_ARG_DIFF_DST, gradient.memory()},
           {DNNL_ARG_WEIGHTS, weight.memory()},
           {DNNL_ARG_DIFF_SRC, dx.memory()}});
  return dx.result();
}

Tensor CpuBackend::conv2d_grad_weight(const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                                      const Shape& w_shape) {
  prepare_threads();
  if (x.numel() == 0 || w_shape.numel() == 0) return Tensor::zeros(w_shape);
  if (through_float32(x.dtype())) {
    return conv2d_grad_weight(x.to(Dtype::kF32), dy.to(Dtype::kF32), spec, w_shape);
  }
  const Tensor g = dy.to(x.dtype());
  if (BlockConv::applies(w_shape, spec, x.dtype(), x.dtype())) {
    const BlockConv conv(BlockConv::Pass::kGradWeight, x.shape(), w_shape, g.shape(), spec,
                         x.dtype(), x.dtype());
    Tensor dw = Tensor::empty(w_shape), x_holder, g_holder;
    conv.grad_weight(blocked(x, x_holder), blocked(g, g_holder), dw.data<float>());
    return dw;
  }
  if (const DenseSmallMap small(x.shape(), w_shape, g.shape(), spec); small.applies()) {
    return small.grad_weight(*this, x, g);
  }
  const Conv& conv =
      cached_conv(Pass::kGradWeight, x.shape(), w_shape, g.shape(), false, x.dtype(), spec);
  const Input source(x, conv.x);
  const Input gradient(g, conv.y);
  Tensor dw = Tensor::empty(w_shape);
  const MemoryDesc plain = describe_weight(w_shape, Dtype::kF32, spec.groups, false);
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

}  // namespace ens::cpu
