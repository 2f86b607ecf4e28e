// SPDX-License-Identifier: Apache-2.0
// cuDNN's graph interface, as far as one convolution goes and what is fused behind it.
//
// A descriptor is a bag of attributes. Finalising it checks them and closes the bag; whatever uses
// the descriptor later reads them again. Bags hold the bags that they refer to, so that each may be
// destroyed at any time.
#include <cudnn.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/cuda_emulator/convolve.h"

namespace ens::emulator {
namespace {

using Type = cudnnBackendDescriptorType_t;
using Name = cudnnBackendAttributeName_t;
using ValueType = cudnnBackendAttributeType_t;

// ---- answers

// The status that a call returns, and the text for cudnnGetLastErrorString.
struct Refusal {
  cudnnStatus_t status;
  std::string why;
};

[[noreturn]] void refuse(const std::string& why, cudnnStatus_t status = CUDNN_STATUS_BAD_PARAM) {
  throw Refusal{status, why};
}
[[noreturn]] void not_emulated(const std::string& what) {
  die("cuDNN: " + what + " is not emulated");
}

std::string& last_error() {
  static thread_local std::string text;
  return text;
}

template <typename F>
cudnnStatus_t answer(const char* call, F work) {
  try {
    work();
    return CUDNN_STATUS_SUCCESS;
  } catch (const Refusal& r) {
    last_error() = std::string(call) + ": " + r.why;
    return r.status;
  }
}

// ---- descriptors

constexpr int64_t kAny = -1;

struct Attribute {
  Name name;
  ValueType type;
  int64_t count = 1;
  bool required = true;
};

// The operations of the three passes.
struct PassNames {
  Type type;
  Pass pass;
  Name geometry, x, w, y, alpha, beta;
};
constexpr PassNames kPasses[] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, Pass::kForward,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, Pass::kGradInput,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, Pass::kGradWeight,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA}};

const PassNames* pass_of(Type type) {
  const auto* p = std::ranges::find(kPasses, type, &PassNames::type);
  return p == std::end(kPasses) ? nullptr : p;
}

// What can be set. Configurations and engines are filled by cuDNN alone.
const std::vector<Attribute>& attributes_of(Type type) {
  static const auto* all = [] {
    auto* m = new std::map<Type, std::vector<Attribute>>{
        {CUDNN_BACKEND_TENSOR_DESCRIPTOR,
         {{CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE},
          {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4},
          {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4},
          {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64},
          {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64},
          {CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, false}}},
        {CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR,
         {{CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE},
          {CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE},
          {CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64},
          {CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2},
          {CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2},
          {CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2},
          {CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2}}},
        {CUDNN_BACKEND_POINTWISE_DESCRIPTOR,
         {{CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE},
          {CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE}}},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
         {{CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR},
          {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR},
          {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, false},
          {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR}}},
        {CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
         {{CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE},
          {CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, kAny}}},
        {CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
         {{CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR},
          {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE}}},
        {CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, {}},
        {CUDNN_BACKEND_ENGINE_DESCRIPTOR, {}},
        {CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
         {{CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE},
          {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR}}},
        {CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
         {{CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, kAny},
          {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, kAny},
          {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, false}}}};
    for (const PassNames& p : kPasses) {
      auto& list = (*m)[p.type];
      for (const Name part : {p.geometry, p.x, p.w, p.y}) {
        list.push_back({part, CUDNN_TYPE_BACKEND_DESCRIPTOR});
      }
      for (const Name factor : {p.alpha, p.beta}) {
        list.push_back({factor, CUDNN_TYPE_FLOAT, 1, false});
      }
    }
    return m;
  }();
  const auto it = all->find(type);
  if (it == all->end()) not_emulated("descriptor type " + std::to_string(type));
  return it->second;
}

size_t size_of(ValueType type) {
  switch (type) {
    case CUDNN_TYPE_BOOLEAN:
      return sizeof(bool);
    case CUDNN_TYPE_INT64:
      return sizeof(int64_t);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
      return sizeof(void*);
    default:  // enumerations, float
      return 4;
  }
}

struct Program;
struct Engine;

struct Descriptor {
  explicit Descriptor(Type t) : type(t) {}

  struct Value {
    std::vector<char> bytes;
    std::vector<std::shared_ptr<Descriptor>>
        parts;  // in place of bytes, where they are descriptors
  };
  const Type type;
  std::map<Name, Value> values;
  bool finalized = false;
  // Of configurations, engines and plans.
  std::shared_ptr<const Program> program;
  const Engine* engine = nullptr;
  // Of plans.
  int device = 0;
  std::mutex in_use;
};
using DescriptorPtr = std::shared_ptr<Descriptor>;

struct Registry {
  std::mutex mutex;
  std::map<cudnnBackendDescriptor_t, DescriptorPtr> all;
};
Registry& registry() {
  static auto* r = new Registry;
  return *r;
}

DescriptorPtr find(cudnnBackendDescriptor_t handle) {
  if (!handle) refuse("a null descriptor", CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
  const std::lock_guard lock(registry().mutex);
  const auto it = registry().all.find(handle);
  if (it == registry().all.end()) die("cuDNN: a descriptor that was not created, or was destroyed");
  return it->second;
}

const Descriptor& finished(const Descriptor& d, Type type) {
  if (d.type != type) refuse("a descriptor of type " + std::to_string(d.type));
  if (!d.finalized) {
    refuse("descriptor type " + std::to_string(type) + ": not finalised",
           CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
  }
  return d;
}

template <typename T>
std::vector<T> list(const Descriptor& d, Name name) {
  const std::vector<char>& bytes = d.values.at(name).bytes;
  std::vector<T> v(bytes.size() / sizeof(T));
  std::memcpy(v.data(), bytes.data(), bytes.size());
  return v;
}
template <typename T>
T one(const Descriptor& d, Name name) {
  T value;
  std::memcpy(&value, d.values.at(name).bytes.data(), sizeof value);
  return value;
}
template <typename T>
T one_or(const Descriptor& d, Name name, T otherwise) {
  return d.values.contains(name) ? one<T>(d, name) : otherwise;
}
const Descriptor& part(const Descriptor& d, Name name, Type type) {
  return finished(*d.values.at(name).parts.at(0), type);
}

// ---- what descriptors say. Refuses what is malformed; dies for what is not emulated

struct Tensor {
  Image image;
  int64_t id = 0, alignment = 1;
  bool is_virtual = false;
};

Tensor tensor(const Descriptor& d) {
  Tensor t;
  t.image.type = cuda_type(one<cudnnDataType_t>(d, CUDNN_ATTR_TENSOR_DATA_TYPE));
  t.id = one<int64_t>(d, CUDNN_ATTR_TENSOR_UNIQUE_ID);
  t.alignment = one<int64_t>(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
  t.is_virtual = one_or(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, false);
  const auto sizes = list<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
  const auto strides = list<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES);
  for (size_t i = 0; i < 4; ++i) {
    if (sizes[i] < 1 || strides[i] < 1) refuse("a tensor's size or stride below 1");
    t.image.size[i] = sizes[i];
    t.image.stride[i] = sizes[i] == 1 ? 0 : strides[i];  // so that one number stands for all
  }
  if (t.alignment < 1 || t.alignment % static_cast<int64_t>(bytes_of(t.image.type)) != 0) {
    refuse("a tensor's alignment of " + std::to_string(t.alignment));
  }
  return t;
}
Tensor tensor(const Descriptor& of, Name name) {
  return tensor(part(of, name, CUDNN_BACKEND_TENSOR_DESCRIPTOR));
}

void read_geometry(const Descriptor& d, Convolution& c) {
  if (one<cudnnDataType_t>(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) != CUDNN_DATA_FLOAT) {
    not_emulated("a convolution's sum other than float32");
  }
  if (one<cudnnConvolutionMode_t>(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE) != CUDNN_CROSS_CORRELATION) {
    not_emulated("CUDNN_CONVOLUTION, the mirrored one,");
  }
  if (one<int64_t>(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) != 2) {
    not_emulated("a convolution of other than two dimensions");
  }
  const auto read = [&](Name name, int64_t least, int64_t(&values)[2]) {
    std::ranges::copy(list<int64_t>(d, name), values);
    if (std::ranges::min(values) < least) refuse("too small: attribute " + std::to_string(name));
  };
  int64_t pad_after[2];
  read(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 0, c.pad);
  read(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, 0, pad_after);
  read(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 1, c.stride);
  read(CUDNN_ATTR_CONVOLUTION_DILATIONS, 1, c.dilation);
  if (!std::ranges::equal(c.pad, pad_after)) not_emulated("padding that differs by side");
}

struct ConvolutionOperation {
  Convolution what;
  Tensor x, w, y;
};

ConvolutionOperation convolution_operation(const Descriptor& d) {
  const PassNames& names = *pass_of(d.type);
  ConvolutionOperation o{{}, tensor(d, names.x), tensor(d, names.w), tensor(d, names.y)};
  if (one_or(d, names.alpha, 1.0f) != 1 || one_or(d, names.beta, 0.0f) != 0) {
    not_emulated("a convolution's alpha other than 1, or beta other than 0,");
  }
  o.what.call = "cudnnBackendExecute";
  o.what.pass = names.pass;
  read_geometry(part(d, names.geometry, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR), o.what);
  o.what.x = o.x.image;
  o.what.w = o.w.image;
  o.what.y = o.y.image;
  if (!sizes_fit(o.what)) refuse("a convolution's sizes do not fit");
  return o;
}

cudnnPointwiseMode_t pointwise_mode(const Descriptor& d) {
  if (one<cudnnDataType_t>(d, CUDNN_ATTR_POINTWISE_MATH_PREC) != CUDNN_DATA_FLOAT) {
    not_emulated("pointwise arithmetic other than float32");
  }
  const auto mode = one<cudnnPointwiseMode_t>(d, CUDNN_ATTR_POINTWISE_MODE);
  if (mode != CUDNN_POINTWISE_ADD && mode != CUDNN_POINTWISE_MUL &&
      mode != CUDNN_POINTWISE_RELU_FWD) {
    not_emulated("pointwise mode " + std::to_string(mode));
  }
  return mode;
}

struct PointwiseOperation {
  cudnnPointwiseMode_t mode = CUDNN_POINTWISE_ADD;
  Tensor x, y;
  std::optional<Tensor> b;
};

PointwiseOperation pointwise_operation(const Descriptor& d) {
  PointwiseOperation o;
  o.mode = pointwise_mode(
      part(d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_BACKEND_POINTWISE_DESCRIPTOR));
  o.x = tensor(d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
  o.y = tensor(d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
  if (o.mode != CUDNN_POINTWISE_RELU_FWD) {
    if (!d.values.contains(CUDNN_ATTR_OPERATION_POINTWISE_BDESC)) refuse("BDESC is missing");
    o.b = tensor(d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
  }
  return o;
}

// ---- graphs

// A convolution whose operands do not lie anywhere yet.
struct Program {
  struct Operand {
    Image Convolution::*where;
    int64_t id, alignment;
  };
  Convolution what;
  std::vector<Operand> operands;
};

bool same_sizes(const Image& a, const Image& b) { return std::ranges::equal(a.size, b.size); }

bool channels_last(const Image& d) {
  int64_t packed = 1;
  for (const int i : {1, 3, 2, 0}) {
    if (d.size[i] > 1 && d.stride[i] != packed) return false;
    packed *= d.size[i];
  }
  return true;
}

// What the real one finds engines for.
bool types_fit(const Convolution& c) {
  const bool fp8 = c.x.type == CUDA_R_8F_E4M3;
  for (const Image* d : {&c.z, &c.bias}) {
    if (d->numel() > 0 && d->type != c.y.type) return false;
  }
  if (c.w.type != c.x.type || (c.y.type == c.x.type) == fp8) return false;
  if (!fp8) return true;
  return c.pass == Pass::kForward && c.scale.numel() > 0 && c.x.size[1] % 16 == 0 &&
         c.y.size[1] % 16 == 0 && channels_last(c.x) && channels_last(c.w) && channels_last(c.y) &&
         (c.z.numel() == 0 || channels_last(c.z));
}

class Compiler {
 public:
  // Null where the real one has no engine for the graph.
  static std::shared_ptr<const Program> compile(const Descriptor& graph) {
    Compiler c;
    return c.read(graph) && types_fit(c.program_->what) ? c.program_ : nullptr;
  }

 private:
  enum Stage { kConvolution, kScale, kZ, kBias, kRelu };  // each at most once, in this order

  bool read(const Descriptor& graph) {
    std::vector<PointwiseOperation> fused;
    const Descriptor* convolution = nullptr;
    for (const DescriptorPtr& d : graph.values.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).parts) {
      if (!pass_of(d->type)) {
        fused.push_back(pointwise_operation(*d));
      } else if (!convolution) {
        convolution = d.get();
      } else {
        return false;
      }
    }
    if (!convolution) return false;
    const ConvolutionOperation o = convolution_operation(*convolution);
    what() = o.what;
    if (!bind(&Convolution::w, o.w) || !bind(&Convolution::x, o.x)) return false;
    if (what().pass != Pass::kForward) return fused.empty() && bind(&Convolution::y, o.y);
    Tensor last = o.y;
    for (size_t i = 0; i < fused.size(); ++i) {
      const auto next = std::ranges::find(fused, last.id, [](const auto& f) { return f.x.id; });
      if (!last.is_virtual || last.image.type != CUDA_R_32F || next == fused.end() ||
          !fuse(*next)) {
        return false;
      }
      last = next->y;
    }
    return bind(&Convolution::y, last);
  }

  bool fuse(const PointwiseOperation& o) {
    const int64_t channels = what().y.size[1];
    const auto has_sizes = [&](const int64_t(&sizes)[4]) {
      return std::ranges::equal(o.b->image.size, sizes);
    };
    const auto advance = [&](Stage next) { return std::exchange(stage_, next) < next; };
    if (!same_sizes(o.y.image, what().y)) return false;
    switch (o.mode) {
      case CUDNN_POINTWISE_MUL:
        return advance(kScale) && o.b->image.type == CUDA_R_32F &&
               (has_sizes({1, channels, 1, 1}) || has_sizes({1, 1, 1, 1})) &&
               bind(&Convolution::scale, *o.b);
      case CUDNN_POINTWISE_ADD:
        if (stage_ < kZ && same_sizes(o.b->image, what().y)) {
          return advance(kZ) && bind(&Convolution::z, *o.b);
        }
        return advance(kBias) && has_sizes({1, channels, 1, 1}) && bind(&Convolution::bias, *o.b);
      default:
        what().relu = true;
        return advance(kRelu);
    }
  }

  bool bind(Image Convolution::*where, const Tensor& t) {
    what().*where = t.image;
    program_->operands.push_back({where, t.id, t.alignment});
    return !t.is_virtual;
  }

  Convolution& what() { return program_->what; }

  std::shared_ptr<Program> program_ = std::make_shared<Program>();
  Stage stage_ = kConvolution;
};

// ---- engines

struct Engine {
  std::vector<cudnnBackendNumericalNote_t> notes{};
  bool workspace = true;
  bool tf32 = false;
};
const Engine kEngines[] = {
    {},
    {.notes = {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}},
    {.notes = {CUDNN_NUMERICAL_NOTE_TENSOR_CORE}, .tf32 = true},
    {.workspace = false},
};

// The first is not what most programs want, so that they have to read the notes.
std::vector<const Engine*> suggestions(cudnnBackendHeurMode_t mode) {
  switch (mode) {
    case CUDNN_HEUR_MODE_A:
      return {&kEngines[1], &kEngines[2], &kEngines[0]};
    case CUDNN_HEUR_MODE_FALLBACK:
      return {&kEngines[3]};
    default:
      not_emulated("heuristics mode " + std::to_string(mode));
  }
}

size_t workspace_of(const Descriptor& d) {
  return d.engine->workspace ? workspace_for(d.program->what.x) : 0;
}

void fill(cudnnBackendDescriptor_t handle, Type type, std::shared_ptr<const Program> program,
          const Engine* engine) {
  Descriptor& d = *find(handle);
  if (d.type != type) refuse("a descriptor of type " + std::to_string(d.type) + " to be filled");
  d.program = std::move(program);
  d.engine = engine;
  d.finalized = true;
}

// ---- calls

void set(Descriptor& d, Name name, ValueType type, int64_t count, const void* elements) {
  const auto& known = attributes_of(d.type);
  const auto rule = std::ranges::find(known, name, &Attribute::name);
  if (rule == known.end()) {
    not_emulated("attribute " + std::to_string(name) + " of descriptor type " +
                 std::to_string(d.type));
  }
  const std::string which = "attribute " + std::to_string(name);
  if (d.finalized) refuse(which + " set after its descriptor was finalised");
  if (type != rule->type) refuse(which + ": wrong type", CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
  if (count < 1 || !elements || (rule->count != kAny && count != rule->count)) {
    refuse(which + ": wrong number of elements");
  }
  Descriptor::Value value;
  const auto n = static_cast<size_t>(count);
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    const std::span handles(static_cast<const cudnnBackendDescriptor_t*>(elements), n);
    std::ranges::transform(handles, std::back_inserter(value.parts), find);
  } else {
    const auto* bytes = static_cast<const char*>(elements);
    value.bytes.assign(bytes, bytes + n * size_of(type));
  }
  d.values[name] = std::move(value);
}

int handle_device(const Descriptor& d, Name name) {
  const auto handle = one<cudnnHandle_t>(d, name);
  if (!handle) refuse("a null handle", CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
  return handle->device;
}

void finalize(Descriptor& d) {
  if (d.finalized) refuse("a descriptor finalised twice");
  for (const Attribute& a : attributes_of(d.type)) {
    if (a.required && !d.values.contains(a.name)) {
      refuse("attribute " + std::to_string(a.name) + " is missing");
    }
  }
  switch (d.type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      tensor(d);
      break;
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR: {
      Convolution ignored;
      read_geometry(d, ignored);
      break;
    }
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR:
      pointwise_mode(d);
      break;
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
      pointwise_operation(d);
      break;
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
      handle_device(d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE);
      for (const DescriptorPtr& o : d.values.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).parts) {
        const bool operation =
            pass_of(o->type) || o->type == CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR;
        if (!operation || !o->finalized) refuse("a graph of other than finalised operations");
      }
      break;
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
      suggestions(one<cudnnBackendHeurMode_t>(d, CUDNN_ATTR_ENGINEHEUR_MODE));
      d.program = Compiler::compile(
          part(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR));
      break;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: {
      const Descriptor& config =
          part(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
      d.device = handle_device(d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
      d.program = config.program;
      d.engine = config.engine;
      break;
    }
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      if (list<int64_t>(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).size() !=
          list<void*>(d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).size()) {
        refuse("not as many pointers as ids");
      }
      break;
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR:
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
      not_emulated("a configuration or engine that the heuristics did not make");
    default:
      convolution_operation(d);
  }
  d.finalized = true;
}

// Copies what is wanted; how many there are, if nothing is.
template <typename T>
int64_t give(std::span<const T> values, int64_t wanted, void* elements) {
  const auto there = static_cast<int64_t>(values.size());
  if (wanted == 0) return there;
  const int64_t given = std::min(wanted, there);
  std::copy_n(values.data(), given, static_cast<T*>(elements));
  return given;
}

int64_t get(const Descriptor& d, Name name, ValueType type, int64_t wanted, void* elements) {
  const auto expect = [&](Type descriptor, ValueType value) {
    if (d.type != descriptor) refuse("an attribute of another descriptor");
    if (!d.finalized) refuse("not finalised", CUDNN_STATUS_NOT_INITIALIZED);
    if (type != value) refuse("wrong type", CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
    if (wanted < 0 || (wanted > 0 && !elements)) refuse("nowhere to put the elements");
  };
  const auto* handles = static_cast<cudnnBackendDescriptor_t*>(elements);
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {
      expect(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR);
      if (!d.program) return 0;
      const auto all = suggestions(one<cudnnBackendHeurMode_t>(d, CUDNN_ATTR_ENGINEHEUR_MODE));
      const auto there = static_cast<int64_t>(all.size());
      if (wanted == 0) return there;
      const int64_t given = std::min(wanted, there);
      for (int64_t i = 0; i < given; ++i) {
        fill(handles[i], CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, d.program,
             all[static_cast<size_t>(i)]);
      }
      return given;
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE:
      expect(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR);
      if (wanted > 0) fill(*handles, CUDNN_BACKEND_ENGINE_DESCRIPTOR, d.program, d.engine);
      return 1;
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX: {
      expect(CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_TYPE_INT64);
      const int64_t index = d.engine - kEngines;
      return give(std::span(&index, 1), wanted, elements);
    }
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
      expect(CUDNN_BACKEND_ENGINE_DESCRIPTOR, CUDNN_TYPE_NUMERICAL_NOTE);
      return give(std::span(d.engine->notes), wanted, elements);
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: {
      expect(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, CUDNN_TYPE_INT64);
      const auto bytes = static_cast<int64_t>(workspace_of(d));
      return give(std::span(&bytes, 1), wanted, elements);
    }
    default:
      not_emulated("reading attribute " + std::to_string(name));
  }
}

void execute(cudnnHandle_t handle, Descriptor& plan, const Descriptor& pack) {
  finished(plan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  finished(pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  if (!handle) refuse("a null handle", CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
  const std::unique_lock in_use(plan.in_use, std::try_to_lock);
  if (!in_use) die("cudnnBackendExecute: a plan is executed by two threads at the same time");
  const Lock lock(machine());
  if (handle->device != current_device()) die("cudnnBackendExecute: a handle of another device");
  if (handle->device != plan.device) die("cudnnBackendExecute: a plan of another device");
  Convolution c = plan.program->what;
  c.device = handle->device;
  c.tf32 = plan.engine->tf32;
  const auto ids = list<int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const auto pointers = list<void*>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  for (const Program::Operand& o : plan.program->operands) {
    const auto id = std::ranges::find(ids, o.id);
    if (id == ids.end()) refuse("no pointer for the tensor with id " + std::to_string(o.id));
    void* data = pointers[static_cast<size_t>(id - ids.begin())];
    if (reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(o.alignment) != 0) {
      die("cudnnBackendExecute: the tensor with id " + std::to_string(o.id) +
          " does not lie at a multiple of " + std::to_string(o.alignment) + " bytes");
    }
    (c.*o.where).data = data;
  }
  void* workspace = one_or<void*>(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, nullptr);
  const size_t bytes = workspace_of(plan);
  if (bytes > 0 && !workspace) refuse("no workspace for a plan that wants one");
  if (const cudaError_t error =
          enqueue_call(handle->stream, c.call, workspace, bytes, [c] { convolve(c); })) {
    refuse(cudaGetErrorString(error), CUDNN_STATUS_EXECUTION_FAILED);
  }
}

}  // namespace
}  // namespace ens::emulator

using namespace ens::emulator;

// The real one forgets the text, too.
void cudnnGetLastErrorString(char* message, size_t most) {
  if (most == 0) return;
  const size_t length = last_error().copy(message, most - 1);
  message[length] = '\0';
  last_error().clear();
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t* descriptor) {
  return answer("cudnnBackendCreateDescriptor", [&] {
    if (!descriptor) refuse("a null descriptor", CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    attributes_of(type);
    const auto made = std::make_shared<Descriptor>(type);
    const std::lock_guard lock(registry().mutex);
    registry().all[*descriptor = made.get()] = made;
  });
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return answer("cudnnBackendDestroyDescriptor", [&] {
    const DescriptorPtr keep = find(descriptor);  // until the lock is gone
    const std::lock_guard lock(registry().mutex);
    registry().all.erase(descriptor);
  });
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void* elements) {
  return answer("cudnnBackendSetAttribute",
                [&] { set(*find(descriptor), name, type, count, elements); });
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted,
                                       int64_t* count, void* elements) {
  return answer("cudnnBackendGetAttribute", [&] {
    const int64_t given = get(*find(descriptor), name, type, wanted, elements);
    if (count) *count = given;
  });
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  return answer("cudnnBackendFinalize", [&] { finalize(*find(descriptor)); });
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack) {
  return answer("cudnnBackendExecute", [&] { execute(handle, *find(plan), *find(pack)); });
}
