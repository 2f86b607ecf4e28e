// Convolutions: cuDNN's classic calls, which cuDNN 9 calls deprecated, so they stay in this file.
//
// For every shape cuDNN's heuristics are asked once; the answer is kept for all threads. Images and
// weights are channels-last; where cuDNN has no way for that (it depends on groups, dilation, type
// and GPU) the same is tried with plain ones.
#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "nn/core/error.h"
#include "nn/cuda/context.h"
#include "nn/cuda/cuda_backend.h"

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace ens::cuda {
namespace {

constexpr size_t kMostWorkspace = size_t{256} << 20;

enum class Kind { kForward, kGradInput, kGradWeight };

const char* name(Kind kind) {
  return kind == Kind::kForward     ? "conv2d"
         : kind == Kind::kGradInput ? "conv2d_grad_input"
                                    : "conv2d_grad_weight";
}

struct Shapes {
  Kind kind;
  Dtype dtype;
  int device;
  bool tf32;
  Shape x, w, y;
  ConvSpec spec;

  auto key() const {
    std::vector<int64_t> k{static_cast<int64_t>(kind),
                           static_cast<int64_t>(dtype),
                           device,
                           tf32,
                           spec.stride,
                           spec.padding,
                           spec.dilation,
                           spec.groups};
    for (const Shape* s : {&x, &w, &y}) k.insert(k.end(), s->dims().begin(), s->dims().end());
    return k;
  }
};

// A way to do it. Immutable once made.
struct Choice {
  int algorithm;
  size_t workspace;
  cudnnMathType_t math;
};

cudnnDataType_t to_dnn(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return CUDNN_DATA_FLOAT;
    case Dtype::kBF16:
      return CUDNN_DATA_BFLOAT16;
    case Dtype::kF16:
      return CUDNN_DATA_HALF;
    default:
      fail(std::string("activations cannot be ") + ens::name(dtype), "CUDA");
  }
}

class Plan {
 public:
  Plan(const Shapes& shapes, Layout layout, cudnnHandle_t handle)
      : layout_(layout), kind_(shapes.kind) {
    const auto format = layout == Layout::kChannelsLast ? CUDNN_TENSOR_NHWC : CUDNN_TENSOR_NCHW;
    const cudnnDataType_t type = to_dnn(shapes.dtype);
    const auto n = [](const Shape& s, int i) { return static_cast<int>(s[i]); };
    const auto image = [&](cudnnTensorDescriptor_t* d, const Shape& s) {
      check(cudnnCreateTensorDescriptor(d), "cudnnCreateTensorDescriptor");
      check(cudnnSetTensor4dDescriptor(*d, format, type, n(s, 0), n(s, 1), n(s, 2), n(s, 3)),
            "cudnnSetTensor4dDescriptor");
    };
    image(&x_, shapes.x);
    image(&y_, shapes.y);
    check(cudnnCreateFilterDescriptor(&w_), "cudnnCreateFilterDescriptor");
    check(cudnnSetFilter4dDescriptor(w_, type, format, n(shapes.w, 0), n(shapes.w, 1),
                                     n(shapes.w, 2), n(shapes.w, 3)),
          "cudnnSetFilter4dDescriptor");
    const cudnnMathType_t math = shapes.dtype != Dtype::kF32 ? CUDNN_TENSOR_OP_MATH
                                 : shapes.tf32               ? CUDNN_DEFAULT_MATH
                                                             : CUDNN_FMA_MATH;
    describe(shapes.spec, math);
    find(handle, math);
  }

  ~Plan() {
    for (auto [math, d] : descriptors_) cudnnDestroyConvolutionDescriptor(d);
    if (w_) cudnnDestroyFilterDescriptor(w_);
    if (y_) cudnnDestroyTensorDescriptor(y_);
    if (x_) cudnnDestroyTensorDescriptor(x_);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  Layout layout() const { return layout_; }

  // out: the operand that kind_ names. False if no choice that is left works for it.
  bool run(Context& c, const void* x, const void* w, const void* y) {
    for (size_t i = first_; i < choices_.size(); ++i) {
      const Choice& choice = choices_[i];
      const auto memory = choice.workspace ? c.allocate(choice.workspace) : nullptr;
      const cudnnStatus_t status = run(c.dnn(), choice, memory.get(), x, w, y);
      if (status == CUDNN_STATUS_SUCCESS) {
        first_ = i;  // those before have refused
        return true;
      }
      // Others of its reasons, above all a failed launch, will not get better with another choice.
      if (status < CUDNN_STATUS_BAD_PARAM || status >= CUDNN_STATUS_EXECUTION_FAILED) {
        check(status, name(kind_));
      }
    }
    return false;
  }

 private:
  void describe(const ConvSpec& s, cudnnMathType_t math) {
    // One descriptor for each math type, because choices run on several threads.
    for (const cudnnMathType_t m : {math, CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH,
                                    CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION}) {
      if (descriptors_.contains(m)) continue;
      cudnnConvolutionDescriptor_t d = nullptr;
      check(cudnnCreateConvolutionDescriptor(&d), "cudnnCreateConvolutionDescriptor");
      descriptors_[m] = d;
      check(cudnnSetConvolution2dDescriptor(d, s.padding, s.padding, s.stride, s.stride, s.dilation,
                                            s.dilation, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
            "cudnnSetConvolution2dDescriptor");
      check(cudnnSetConvolutionGroupCount(d, s.groups), "cudnnSetConvolutionGroupCount");
      check(cudnnSetConvolutionMathType(d, m), "cudnnSetConvolutionMathType");
    }
  }

  // cuDNN's choices, the fastest first; those whose result depends on the order of the threads only
  // after the others.
  void find(cudnnHandle_t handle, cudnnMathType_t math) {
    const auto ask = [&]<typename Perf>(auto&& query, Perf) {
      Perf found[16];
      int count = 0;
      if (query(16, &count, found) != CUDNN_STATUS_SUCCESS) return;
      std::stable_partition(found, found + count,
                            [](const Perf& p) { return p.determinism == CUDNN_DETERMINISTIC; });
      for (int i = 0; i < count; ++i) {
        const Perf& p = found[i];
        if (p.status != CUDNN_STATUS_SUCCESS || p.memory > kMostWorkspace) continue;
        // Heuristics may offer a way with less exact numbers than asked for.
        if (math == CUDNN_FMA_MATH && p.mathType != CUDNN_FMA_MATH &&
            p.mathType != CUDNN_DEFAULT_MATH) {
          continue;
        }
        choices_.push_back({static_cast<int>(p.algo), p.memory,
                            math == CUDNN_FMA_MATH ? CUDNN_FMA_MATH : p.mathType});
      }
    };
    const cudnnConvolutionDescriptor_t d = descriptors_.at(math);
    switch (kind_) {
      case Kind::kForward:
        return ask(
            [&](int n, int* count, cudnnConvolutionFwdAlgoPerf_t* p) {
              return cudnnGetConvolutionForwardAlgorithm_v7(handle, x_, w_, d, y_, n, count, p);
            },
            cudnnConvolutionFwdAlgoPerf_t{});
      case Kind::kGradInput:
        return ask(
            [&](int n, int* count, cudnnConvolutionBwdDataAlgoPerf_t* p) {
              return cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, w_, y_, d, x_, n, count,
                                                                 p);
            },
            cudnnConvolutionBwdDataAlgoPerf_t{});
      case Kind::kGradWeight:
        return ask(
            [&](int n, int* count, cudnnConvolutionBwdFilterAlgoPerf_t* p) {
              return cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, x_, y_, d, w_, n, count,
                                                                   p);
            },
            cudnnConvolutionBwdFilterAlgoPerf_t{});
    }
  }

  cudnnStatus_t run(cudnnHandle_t handle, const Choice& choice, void* memory, const void* x,
                    const void* w, const void* y) const {
    const float one = 1.0f, zero = 0.0f;
    const cudnnConvolutionDescriptor_t d = descriptors_.at(choice.math);
    switch (kind_) {
      case Kind::kForward:
        return cudnnConvolutionForward(handle, &one, x_, x, w_, w, d,
                                       static_cast<cudnnConvolutionFwdAlgo_t>(choice.algorithm),
                                       memory, choice.workspace, &zero, y_, const_cast<void*>(y));
      case Kind::kGradInput:
        return cudnnConvolutionBackwardData(
            handle, &one, w_, w, y_, y, d,
            static_cast<cudnnConvolutionBwdDataAlgo_t>(choice.algorithm), memory, choice.workspace,
            &zero, x_, const_cast<void*>(x));
      case Kind::kGradWeight:
        return cudnnConvolutionBackwardFilter(
            handle, &one, x_, x, y_, y, d,
            static_cast<cudnnConvolutionBwdFilterAlgo_t>(choice.algorithm), memory,
            choice.workspace, &zero, w_, const_cast<void*>(w));
    }
    return CUDNN_STATUS_BAD_PARAM;
  }

  Layout layout_;
  Kind kind_;
  cudnnTensorDescriptor_t x_ = nullptr, y_ = nullptr;
  cudnnFilterDescriptor_t w_ = nullptr;
  std::map<cudnnMathType_t, cudnnConvolutionDescriptor_t> descriptors_;
  std::vector<Choice> choices_;
  std::atomic<size_t> first_ = 0;
};

// The plan of these shapes in this layout; made on first use, never forgotten.
Plan& plan_for(Context& c, const Shapes& shapes, Layout layout) {
  static auto* mutex = new std::mutex;
  static auto* plans = new std::map<std::pair<std::vector<int64_t>, Layout>, std::unique_ptr<Plan>>;
  std::lock_guard lock(*mutex);
  auto& plan = (*plans)[{shapes.key(), layout}];
  if (!plan) plan = std::make_unique<Plan>(shapes, layout, c.dnn());
  return *plan;
}

// In this form, and where cuDNN's fast kernels want it: at a multiple of 16 bytes.
Tensor prepared(const Tensor& t, Dtype dtype, Layout layout) {
  const bool ready = t.dtype() == dtype && t.layout() == layout;
  if (ready && reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0) return t;
  Tensor r = Tensor::empty(t.shape(), dtype, t.device(), layout);
  r.copy_from(t);
  return r;
}

// One of x, w, y is undefined: the result.
Tensor run(Context& c, const Shapes& shapes, const Tensor& x, const Tensor& w, const Tensor& y) {
  const Device device{Device::Type::kCuda, c.device};
  for (const Layout layout : {Layout::kChannelsLast, Layout::kPlain}) {
    Plan& plan = plan_for(c, shapes, layout);
    const auto operand = [&](const Tensor& t, const Shape& shape) {
      return t.defined() ? prepared(t, shapes.dtype, layout)
                         : Tensor::empty(shape, shapes.dtype, device, layout);
    };
    const Tensor px = operand(x, shapes.x), pw = operand(w, shapes.w), py = operand(y, shapes.y);
    const auto memory = [&](const Tensor& t, const Tensor& given) {
      return given.defined() ? read_raw(c, t) : write_raw(c, t);
    };
    if (plan.run(c, memory(px, x), memory(pw, w), memory(py, y))) {
      return !x.defined() ? px : !w.defined() ? pw : py;
    }
  }
  fail(std::string("cuDNN has no ") + name(shapes.kind) + " for " + shapes.x.str() + " and " +
           shapes.w.str() + " in " + ens::name(shapes.dtype),
       "CUDA");
}

Shape conv_shape(const Shape& x, const Shape& w, const ConvSpec& s) {
  const auto size = [&](int axis) {
    return (x[axis] + 2 * s.padding - s.dilation * (w[axis] - 1) - 1) / s.stride + 1;
  };
  return {x[0], w[0], size(2), size(3)};
}

}  // namespace

Tensor CudaBackend::conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                           const ConvSpec& spec) {
  Context& c = context(device_);
  const Shapes shapes{Kind::kForward,
                      x.dtype(),
                      device_,
                      tf32_,
                      x.shape(),
                      w.shape(),
                      conv_shape(x.shape(), w.shape(), spec),
                      spec};
  if (shapes.y.numel() == 0) return Tensor::empty(shapes.y, x.dtype(), device());
  Tensor y = run(c, shapes, x, w, Tensor());
  if (!bias.defined()) return y;
  return binary(BinaryOp::kAdd, y, bias.reshape({1, w.dim(0), 1, 1}));
}

Tensor CudaBackend::conv2d_grad_input(const Tensor& dy, const Tensor& w, const ConvSpec& spec,
                                      const Shape& x_shape) {
  Context& c = context(device_);
  if (x_shape.numel() == 0) return Tensor::empty(x_shape, dy.dtype(), device());
  const Shapes shapes{Kind::kGradInput, dy.dtype(), device_,    tf32_,
                      x_shape,          w.shape(),  dy.shape(), spec};
  return run(c, shapes, Tensor(), w, dy);
}

Tensor CudaBackend::conv2d_grad_weight(const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                                       const Shape& w_shape) {
  Context& c = context(device_);
  if (x.numel() == 0) return Tensor::zeros(w_shape, Dtype::kF32, device());
  const Shapes shapes{Kind::kGradWeight, x.dtype(), device_,    tf32_,
                      x.shape(),         w_shape,   dy.shape(), spec};
  const Tensor dw = run(c, shapes, x, Tensor(), dy.to(x.dtype()));
  Tensor result = Tensor::empty(w_shape, Dtype::kF32, device());
  result.copy_from(dw);
  return result;
}

}  // namespace ens::cuda
