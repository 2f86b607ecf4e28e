// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/dnn_conv.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "nn/cuda/context.h"

namespace ens::cuda {
namespace {

// Names of the operands in a graph.
enum Id : int64_t { kX = 1, kW, kY, kScale, kZ, kBias, kFirstBetween };

// A wrong call of ours throws; it is an Error and not an assertion, because what is wrong may be
// cuDNN's version.
template <typename T>
void set(const DnnDescriptor& d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         std::span<const T> values) {
  check(cudnnBackendSetAttribute(d.get(), name, type, static_cast<int64_t>(values.size()),
                                 values.data()),
        "cudnnBackendSetAttribute");
}
template <typename T>
void set(const DnnDescriptor& d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         T value) {
  set(d, name, type, std::span<const T>(&value, 1));
}
void set(const DnnDescriptor& d, cudnnBackendAttributeName_t name, const DnnDescriptor& part) {
  set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, part.get());
}
void finalize(const DnnDescriptor& d) {
  check(cudnnBackendFinalize(d.get()), "cudnnBackendFinalize");
}

cudnnDataType_t dnn_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return CUDNN_DATA_FLOAT;
    case Dtype::kBF16:
      return CUDNN_DATA_BFLOAT16;
    case Dtype::kF16:
      return CUDNN_DATA_HALF;
    case Dtype::kF8:
      return CUDNN_DATA_FP8_E4M3;
    default:
      fail(std::string("activations cannot be ") + name(dtype), "CUDA");
  }
}

DnnDescriptor tensor(int64_t id, const Shape& shape, cudnnDataType_t type, bool between = false) {
  DnnDescriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const std::array<int64_t, 4> sizes{shape[0], shape[1], shape[2], shape[3]};
  const std::array<int64_t, 4> strides{shape[1] * shape[2] * shape[3], 1, shape[3] * shape[1],
                                       shape[1]};
  set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type);
  set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, std::span<const int64_t>(sizes));
  set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, std::span<const int64_t>(strides));
  set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, id);
  set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, int64_t{16});
  set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, between);
  finalize(d);
  return d;
}

DnnDescriptor geometry(const ConvSpec& s) {
  DnnDescriptor d(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const auto both = [&](cudnnBackendAttributeName_t name, int value) {
    const std::array<int64_t, 2> v{value, value};
    set(d, name, CUDNN_TYPE_INT64, std::span<const int64_t>(v));
  };
  set(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  set(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION);
  set(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, int64_t{2});
  both(CUDNN_ATTR_CONVOLUTION_DILATIONS, s.dilation);
  both(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, s.stride);
  both(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, s.padding);
  both(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, s.padding);
  finalize(d);
  return d;
}

// The attributes of one pass's operation.
struct PassNames {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t geometry, x, w, y, alpha, beta;
};
PassNames names_of(DnnConv::Pass pass) {
  switch (pass) {
    case DnnConv::Pass::kForward:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case DnnConv::Pass::kGradInput:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    case DnnConv::Pass::kGradWeight:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  }
  fail("unknown pass of a convolution", "CUDA");
}

// Describes a convolution and what is fused behind it.
class GraphBuilder {
 public:
  GraphBuilder(const DnnConv& conv, std::vector<DnnDescriptor>& parts)
      : conv_(conv), parts_(parts), fused_(conv.float8 + conv.z + conv.bias + conv.relu) {}

  // The finalised graph; its parts are in `parts`.
  DnnDescriptor build(cudnnHandle_t handle) {
    parts_.reserve(32);  // references into it stay
    const Shape channels{1, conv_.y[1], 1, 1};
    convolve();
    if (conv_.float8) pointwise(CUDNN_POINTWISE_MUL, &operand(kScale, channels, Dtype::kF32));
    if (conv_.z) pointwise(CUDNN_POINTWISE_ADD, &operand(kZ, conv_.y, conv_.dtype));
    if (conv_.bias) pointwise(CUDNN_POINTWISE_ADD, &operand(kBias, channels, conv_.dtype));
    if (conv_.relu) pointwise(CUDNN_POINTWISE_RELU_FWD, nullptr);
    DnnDescriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (handle) set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle);
    set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
        std::span<const cudnnBackendDescriptor_t>(operations_));
    finalize(graph);
    return graph;
  }

 private:
  const DnnDescriptor& keep(DnnDescriptor d) { return parts_.emplace_back(std::move(d)); }
  const DnnDescriptor& operand(int64_t id, const Shape& shape, Dtype dtype) {
    return keep(tensor(id, shape, dnn_type(dtype)));
  }
  // Where the next operation writes: y if it is the last, else float32 elements that exist only
  // inside the kernel.
  const DnnDescriptor& next() {
    if (fused_ == done_) return operand(kY, conv_.y, conv_.dtype);
    return keep(tensor(kFirstBetween + done_++, conv_.y, CUDNN_DATA_FLOAT, true));
  }
  void add(DnnDescriptor operation) {
    finalize(operation);
    operations_.push_back(keep(std::move(operation)).get());
  }

  void convolve() {
    const PassNames names = names_of(conv_.pass);
    DnnDescriptor op(names.type);
    set(op, names.geometry, keep(geometry(conv_.spec)));
    const Dtype factors = conv_.float8 ? Dtype::kF8 : conv_.dtype;
    set(op, names.x, operand(kX, conv_.x, factors));
    set(op, names.w, operand(kW, conv_.w, factors));
    last_ = &next();
    set(op, names.y, *last_);
    set(op, names.alpha, CUDNN_TYPE_FLOAT, 1.0f);
    set(op, names.beta, CUDNN_TYPE_FLOAT, 0.0f);
    add(std::move(op));
  }

  void pointwise(cudnnPointwiseMode_t mode, const DnnDescriptor* second) {
    DnnDescriptor what(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(what, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, mode);
    set(what, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
    finalize(what);
    DnnDescriptor op(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, keep(std::move(what)));
    set(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, *last_);
    if (second) set(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *second);
    last_ = &next();
    set(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, *last_);
    add(std::move(op));
  }

  const DnnConv& conv_;
  std::vector<DnnDescriptor>& parts_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  const DnnDescriptor* last_ = nullptr;
  const int fused_;  // operations behind the convolution
  int done_ = 0;     // of them, those whose input is described
};

// cuDNN's suggestions in one mode; none where it cannot tell.
std::vector<DnnDescriptor> suggestions(const DnnDescriptor& graph, const DnnDescriptor* gpu,
                                       cudnnBackendHeurMode_t mode) {
  const DnnDescriptor h(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set(h, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  set(h, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
#if CUDNN_VERSION >= 90800
  if (gpu) set(h, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *gpu);
#endif
  if (cudnnBackendFinalize(h.get()) != CUDNN_STATUS_SUCCESS) return {};
  const auto get = [&](int64_t wanted, void* configs) {
    int64_t count = 0;
    check(cudnnBackendGetAttribute(h.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, wanted, &count, configs),
          "cudnnBackendGetAttribute");
    return static_cast<size_t>(count);
  };
  std::vector<DnnDescriptor> configs;
  std::vector<cudnnBackendDescriptor_t> handles;
  const size_t offered = get(0, nullptr);
  for (size_t i = 0; i < offered; ++i) {
    handles.push_back(configs.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).get());
  }
  if (offered > 0) {
    const size_t got = get(static_cast<int64_t>(offered), handles.data());
    while (configs.size() > got) configs.pop_back();
  }
  return configs;
}

std::vector<cudnnBackendNumericalNote_t> notes_of(const DnnDescriptor& config) {
  const DnnDescriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t handle = engine.get();
  int64_t count = 0;
  check(cudnnBackendGetAttribute(config.get(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &handle),
        "cudnnBackendGetAttribute");
  std::vector<cudnnBackendNumericalNote_t> notes(CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  check(cudnnBackendGetAttribute(engine.get(), CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                 CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count,
                                 notes.data()),
        "cudnnBackendGetAttribute");
  notes.resize(static_cast<size_t>(count));
  return notes;
}

}  // namespace

std::vector<int64_t> DnnConv::key() const {
  std::vector<int64_t> k{static_cast<int64_t>(pass),
                         static_cast<int64_t>(dtype),
                         float8,
                         tf32,
                         spec.stride,
                         spec.padding,
                         spec.dilation,
                         spec.groups,
                         z,
                         bias,
                         relu};
  for (const Shape* s : {&x, &w, &y}) k.insert(k.end(), s->dims().begin(), s->dims().end());
  return k;
}

DnnDescriptor::DnnDescriptor(cudnnBackendDescriptorType_t type) {
  check(cudnnBackendCreateDescriptor(type, &d_), "cudnnBackendCreateDescriptor");
}
DnnDescriptor::~DnnDescriptor() {
  if (d_) cudnnBackendDestroyDescriptor(d_);
}
DnnDescriptor::DnnDescriptor(DnnDescriptor&& other) noexcept : d_(std::exchange(other.d_, {})) {}

DnnEngines::DnnEngines(const DnnConv& conv, const DnnTarget& target)
    : conv_(conv), handle_(target.handle) {
  if (!handle_) {
#if CUDNN_VERSION >= 90800
    gpu_ = std::make_unique<DnnDescriptor>(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    set(*gpu_, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
        std::span<const char>(target.properties.c_str(), target.properties.size() + 1));
    finalize(*gpu_);
#else
    fail("this cuDNN knows only GPUs that are there", "cuDNN", "use cuDNN 9.8 or newer");
#endif
  }
  DnnDescriptor graph = GraphBuilder(conv_, parts_).build(handle_);
  std::vector<DnnDescriptor> later;
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    for (DnnDescriptor& config : suggestions(graph, gpu_.get(), mode)) {
      const auto notes = notes_of(config);
      const auto has = [&](cudnnBackendNumericalNote_t note) {
        return std::ranges::find(notes, note) != notes.end();
      };
      if (conv_.dtype == Dtype::kF32 && (has(CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) ||
                                         (!conv_.tf32 && has(CUDNN_NUMERICAL_NOTE_TENSOR_CORE)))) {
        continue;
      }
      const bool last = has(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) ||
                        has(CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION);
      (last ? later : configs_).push_back(std::move(config));
    }
  }
  for (DnnDescriptor& config : later) configs_.push_back(std::move(config));
  parts_.push_back(std::move(graph));
}

std::unique_ptr<DnnPlan> DnnEngines::plan(int i) const {
  DnnDescriptor d(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  set(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configs_.at(static_cast<size_t>(i)));
  if (handle_) set(d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle_);
#if CUDNN_VERSION >= 90800
  if (gpu_) set(d, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *gpu_);
#endif
  if (cudnnBackendFinalize(d.get()) != CUDNN_STATUS_SUCCESS) return nullptr;
  int64_t workspace = 0, count = 0;
  check(cudnnBackendGetAttribute(d.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                 CUDNN_TYPE_INT64, 1, &count, &workspace),
        "cudnnBackendGetAttribute");
  return std::unique_ptr<DnnPlan>(new DnnPlan(conv_, std::move(d), static_cast<size_t>(workspace)));
}

cudnnStatus_t DnnPlan::run(cudnnHandle_t handle, const DnnOperands& o, void* workspace) const {
  std::vector<int64_t> ids{kX, kW, kY};
  std::vector<const void*> where{o.x, o.w, o.y};
  const auto add = [&](bool there, int64_t id, const void* data) {
    if (!there) return;
    ids.push_back(id);
    where.push_back(data);
  };
  add(scale_, kScale, o.scale);
  add(z_, kZ, o.z);
  add(bias_, kBias, o.bias);
  const DnnDescriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, std::span<const int64_t>(ids));
  set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
      std::span<const void* const>(where));
  set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace);
  finalize(pack);
  return cudnnBackendExecute(handle, plan_.get(), pack.get());
}

}  // namespace ens::cuda
