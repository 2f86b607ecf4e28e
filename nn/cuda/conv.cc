// SPDX-License-Identifier: Apache-2.0
// Convolutions of the training: what cuDNN suggests first for a shape is what computes it, but for
// few channels (im2col.h).
//
// Measuring the suggestions would be a little faster and would let the same seed give other numbers
// in every run. Images and weights are channels-last.
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "nn/cuda/context.h"
#include "nn/cuda/cuda_backend.h"
#include "nn/cuda/dnn_conv.h"
#include "nn/cuda/im2col.h"
#include "nn/cuda/serve_conv.h"

namespace ens::cuda {
namespace {

using Pass = DnnConv::Pass;

constexpr size_t kMostWorkspace = size_t{256} << 20;

const char* name(Pass pass) {
  return pass == Pass::kForward     ? "conv2d"
         : pass == Pass::kGradInput ? "conv2d_grad_input"
                                    : "conv2d_grad_weight";
}

// The engine to compute one convolution: the first suggestion that does not refuse.
class ChosenEngine {
 public:
  explicit ChosenEngine(const DnnConv& conv) : conv_(conv) {}

  // `memory` gets so many bytes of scratch.
  void run(cudnnHandle_t handle, const DnnOperands& operands,
           const std::function<void*(size_t)>& memory) {
    if (plan_ && run(handle, *plan_, operands, memory)) return;
    // Not kept: the suggestions take up a megabyte.
    const DnnEngines engines(conv_, {handle, {}});
    for (int i = 0; i < engines.count(); ++i) {
      auto plan = engines.plan(i);
      if (!plan || plan->workspace() > kMostWorkspace || !run(handle, *plan, operands, memory)) {
        continue;
      }
      plan_ = std::move(plan);
      return;
    }
    fail(std::string("cuDNN has no ") + name(conv_.pass) + " for " + conv_.x.str() + " and " +
             conv_.w.str() + " in " + ens::name(conv_.dtype),
         "CUDA");
  }

 private:
  // False if the engine refuses.
  bool run(cudnnHandle_t handle, const DnnPlan& plan, const DnnOperands& operands,
           const std::function<void*(size_t)>& memory) const {
    void* scratch = plan.workspace() ? memory(plan.workspace()) : nullptr;
    const cudnnStatus_t status = plan.run(handle, operands, scratch);
    // Other reasons will not get better with another engine.
    if (status < CUDNN_STATUS_BAD_PARAM || status >= CUDNN_STATUS_EXECUTION_FAILED ||
        status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
        status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED) {
      check(status, name(conv_.pass));
    }
    return status == CUDNN_STATUS_SUCCESS;
  }

  const DnnConv conv_;
  std::unique_ptr<DnnPlan> plan_;
};

// Each context has its own, as a plan is for one thread at a time; made on first use, never
// forgotten.
ChosenEngine& engine_for(Context& c, const DnnConv& conv) {
  static auto* mutex = new std::mutex;
  static auto* engines =
      new std::map<std::pair<int, std::vector<int64_t>>, std::unique_ptr<ChosenEngine>>;
  std::unique_ptr<ChosenEngine>* engine;
  {
    const std::lock_guard lock(*mutex);
    engine = &(*engines)[{c.id, conv.key()}];
  }
  if (!*engine) *engine = std::make_unique<ChosenEngine>(conv);
  return **engine;
}

// In this form, and where cuDNN's fast kernels want it: at a multiple of 16 bytes.
Tensor prepared(const Tensor& t, Dtype dtype) {
  const bool ready = t.dtype() == dtype && t.layout() == Layout::kChannelsLast;
  if (ready && reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0) return t;
  Tensor r = Tensor::empty(t.shape(), dtype, t.device(), Layout::kChannelsLast);
  r.copy_from(t);
  return r;
}

// One of x, w, y is undefined: the result.
Tensor run(Context& c, const DnnConv& conv, const Tensor& x, const Tensor& w, const Tensor& y) {
  const Device device{Device::Type::kCuda, c.device};
  Tensor result;
  std::vector<Tensor> held;
  const auto memory = [&](const Tensor& t, const Shape& shape) -> const void* {
    if (t.defined()) return read_raw(c, held.emplace_back(prepared(t, conv.dtype)));
    result = Tensor::empty(shape, conv.dtype, device, Layout::kChannelsLast);
    return write_raw(c, result);
  };
  DnnOperands operands;
  operands.x = memory(x, conv.x);
  operands.w = memory(w, conv.w);
  operands.y = memory(y, conv.y);
  ChosenEngine& engine = engine_for(c, conv);
  if (conv.pass == Pass::kGradWeight) {
    // Wanted at the end of the step only.
    engine.run(c.side_stream_dnn(held, result), operands,
               [&](size_t bytes) { return c.allocate_on_side_stream(bytes); });
    return result;
  }
  std::vector<std::shared_ptr<void>> scratch;
  engine.run(c.dnn(), operands,
             [&](size_t bytes) { return scratch.emplace_back(c.allocate(bytes)).get(); });
  return result;
}

Shape conv_shape(const Shape& x, const Shape& w, const ConvSpec& s) {
  const auto size = [&](int axis) {
    return (x[axis] + 2 * s.padding - s.dilation * (w[axis] - 1) - 1) / s.stride + 1;
  };
  return {x[0], w[0], size(2), size(3)};
}

DnnConv convolution(Pass pass, Dtype dtype, bool tf32, const Shape& x, const Shape& w,
                    const Shape& y, const ConvSpec& spec) {
  DnnConv conv;
  conv.pass = pass;
  conv.dtype = dtype;
  conv.tf32 = tf32;
  conv.x = x;
  conv.w = w;
  conv.y = y;
  conv.spec = spec;
  return conv;
}

}  // namespace

Tensor CudaBackend::prepare_conv_weight(const Tensor& w, Dtype activations) {
  return prepared(w, activations);
}

Tensor CudaBackend::conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                           const ConvSpec& spec) {
  const Shape shape = conv_shape(x.shape(), w.shape(), spec);
  if (shape.numel() == 0) return Tensor::empty(shape, x.dtype(), device());
  Context& c = context(device_);
  Tensor y;
  if (uses_im2col(x.shape(), w.shape(), shape, spec)) {
    y = im2col_conv2d(c, x, prepared(w, x.dtype()), spec, shape, tf32_);
  } else {
    y = run(c, convolution(Pass::kForward, x.dtype(), tf32_, x.shape(), w.shape(), shape, spec), x,
            w, Tensor());
  }
  if (!bias.defined()) return y;
  return binary(BinaryOp::kAdd, y, bias.reshape({1, w.dim(0), 1, 1}));
}

Tensor CudaBackend::conv2d_grad_input(const Tensor& dy, const Tensor& w, const ConvSpec& spec,
                                      const Shape& x_shape) {
  if (x_shape.numel() == 0) return Tensor::empty(x_shape, dy.dtype(), device());
  const DnnConv conv =
      convolution(Pass::kGradInput, dy.dtype(), tf32_, x_shape, w.shape(), dy.shape(), spec);
  return run(context(device_), conv, Tensor(), w, dy);
}

Tensor CudaBackend::conv2d_grad_weight(const Tensor& x, const Tensor& dy, const ConvSpec& spec,
                                       const Shape& w_shape) {
  if (x.numel() == 0) return Tensor::zeros(w_shape, Dtype::kF32, device());
  Context& c = context(device_);
  if (uses_im2col(x.shape(), w_shape, dy.shape(), spec)) {
    return im2col_grad_weight(c, x, prepared(dy, x.dtype()), spec, w_shape, tf32_);
  }
  const DnnConv conv =
      convolution(Pass::kGradWeight, x.dtype(), tf32_, x.shape(), w_shape, dy.shape(), spec);
  return run(c, conv, x, Tensor(), dy.to(x.dtype()));
}

std::vector<ConvCandidate> CudaBackend::explain_conv(const ConvProblem& p) const {
  if (!p.serving) {
    const bool few = uses_im2col(p.x, p.w, p.y, p.spec);
    return {
        {"im2col_gemm", "im2col and a matrix product",
         few ? "" : "for up to 4 input channels, and a matrix of a reasonable size"},
        {"cudnn", "the engine that cuDNN suggests first", few ? "im2col_gemm comes first" : ""}};
  }
  NetConv c;
  c.dtype = p.dtype == Dtype::kF8 ? Dtype::kF16 : p.dtype;
  c.float8 = p.dtype == Dtype::kF8;
  c.batch = p.x[0];
  c.c = p.x[1];
  c.h = p.x[2];
  c.w = p.x[3];
  c.o = p.y[1];
  c.oh = p.y[2];
  c.ow = p.y[3];
  c.kh = p.w[2];
  c.kw = p.w[3];
  c.spec = p.spec;
  return explain(c);
}

}  // namespace ens::cuda
