// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/serve_conv.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"
#include "nn/cuda/conv_grouped_gemm.h"
#include "nn/cuda/conv_small_batch.h"
#include "nn/cuda/dnn_conv.h"
#include "nn/cuda/timing.h"

namespace ens::cuda {
namespace {

constexpr size_t kProductScratch = 32 << 20;    // cuBLAS's, for sums split over blocks
constexpr size_t kMostWorkspace = 64 << 20;     // cuDNN's, for one net
constexpr size_t kMostGathered = 256ull << 20;  // bytes; beyond, gathering costs more than it saves
constexpr int kProductVariants = 3, kCudnnVariants = 8;

Tensor bytes_on(const Context& c, size_t bytes) {
  return Tensor::empty({static_cast<int64_t>(bytes)}, Dtype::kU8, {Device::Type::kCuda, c.device});
}
size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

struct ConvChoice {
  ConvAlgorithm algorithm = ConvAlgorithm::kNaive;
  int variant = 0;    // of a tile, or a place among a library's suggestions
  int64_t batch = 0;  // at which it was measured
};

// What several algorithms have in common; made when it is first wanted.
struct Parts {
  std::weak_ptr<DenseSmallMap>& dense_small_map;  // where the layer keeps its matrix
  std::unique_ptr<DnnEngines> engines;
};

// ---- cuDNN

// While it lives, the context's handle works on another stream than the context's.
class DnnOnStream {
 public:
  DnnOnStream(Context& c, cudaStream_t stream) : c_(c) {
    check(cudnnSetStream(c.dnn(), stream), "cudnnSetStream");
  }
  ~DnnOnStream() { cudnnSetStream(c_.dnn(), c_.stream); }
  DnnOnStream(const DnnOnStream&) = delete;
  DnnOnStream& operator=(const DnnOnStream&) = delete;

 private:
  Context& c_;
};

DnnConv dnn_conv(const NetConv& c) {
  DnnConv d;
  d.dtype = c.dtype;
  d.float8 = c.float8;
  d.tf32 = c.tf32;
  d.x = {c.batch, c.c, c.h, c.w};
  d.w = {c.o, c.c / c.spec.groups, c.kh, c.kw};
  d.y = {c.batch, c.o, c.oh, c.ow};
  d.spec = c.spec;
  d.z = c.z.data != nullptr;
  d.bias = true;
  d.relu = c.relu;
  return d;
}

std::optional<PreparedConv> prepare_cudnn(const NetConv& c, int variant, Context& context,
                                          Parts& parts) {
  if (!parts.engines) {
    parts.engines = std::make_unique<DnnEngines>(dnn_conv(c), DnnTarget{context.dnn(), {}});
  }
  if (variant >= parts.engines->count()) return std::nullopt;
  const std::shared_ptr<const DnnPlan> plan = parts.engines->plan(variant);
  if (!plan || plan->workspace() > kMostWorkspace) return std::nullopt;
  const size_t rounded_x = c.float8 ? rounded(static_cast<size_t>(c.batch * c.h * c.w * c.c)) : 0;
  return PreparedConv{.per_net = true,
                      .scratch = rounded_x + plan->workspace(),
                      .run = [=](Context& on, Launch how, int64_t net, std::byte* scratch) {
                        DnnOperands operands{c.x.of(net), c.weight.of(net), c.y.of(net),
                                             c.z.of(net), c.bias.of(net),   c.scales.of(net)};
                        if (c.float8) {
                          round_to_float8(c, net, scratch, how.stream);
                          operands.x = scratch;
                        }
                        const DnnOnStream here(on, how.stream);
                        check(plan->run(on.dnn(), operands, scratch + rounded_x),
                              "cudnnBackendExecute");
                      }};
}

// ---- cuBLASLt: y[net] = weight[net] x[net] + bias[net], + z[net], then ReLU, for all nets

cublasLtHandle_t lt_handle(int device) {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t>* handles = new std::map<int, cublasLtHandle_t>;
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = (*handles)[device];
  if (!handle) check(cublasLtCreate(&handle), "cublasLtCreate");
  return handle;
}

// In the row order of our memory: y [rows, columns] = x [rows, depth] * weight [columns, depth]^T.
// cuBLAS counts along columns, so to it y is [columns, rows].
struct Product {
  Dtype dtype;
  bool tf32;
  int64_t nets, rows, columns, depth;
  bool relu;
  NetMemory x, weight, bias, z, y;
};

class ProductPlan {
 public:
  explicit ProductPlan(const Product& p) : p_(p) {
    const bool f32 = p.dtype == Dtype::kF32;
    type_ = f32 ? CUDA_R_32F : p.dtype == Dtype::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
    check(
        cublasLtMatmulDescCreate(
            &desc_, f32 && p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE,
        p.relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS);
    set<const void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.data);
    set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, numbers(p.bias));
    weight_ = layout(p.depth, p.columns, p.weight);
    x_ = layout(p.depth, p.rows, p.x);
    z_ = layout(p.columns, p.rows, p.z.data ? p.z : p.y);
    y_ = layout(p.columns, p.rows, p.y);
  }
  ~ProductPlan() {
    for (cublasLtMatrixLayout_t l : {weight_, x_, z_, y_}) {
      if (l) cublasLtMatrixLayoutDestroy(l);
    }
    if (desc_) cublasLtMatmulDescDestroy(desc_);
  }
  ProductPlan(const ProductPlan&) = delete;
  ProductPlan& operator=(const ProductPlan&) = delete;

  // Takes cuBLAS's `variant`-th suggestion. False if it has fewer.
  bool choose(int variant, int device) {
    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const size_t most = kProductScratch;
    const cublasStatus_t limited = cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
    std::array<cublasLtMatmulHeuristicResult_t, kProductVariants> results{};
    int found = 0;
    const cublasStatus_t status =
        limited != CUBLAS_STATUS_SUCCESS
            ? limited
            : cublasLtMatmulAlgoGetHeuristic(lt_handle(device), desc_, weight_, x_, z_, y_,
                                             preference, kProductVariants, results.data(), &found);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_SUCCESS || variant >= found) return false;
    const auto& result = results[static_cast<size_t>(variant)];
    if (result.state != CUBLAS_STATUS_SUCCESS) return false;
    algorithm_ = result.algo;
    workspace_ = result.workspaceSize;
    return true;
  }
  size_t workspace() const { return workspace_; }

  // x: where Product::x is, if not known before.
  void run(int device, cudaStream_t stream, const void* x, std::byte* scratch) const {
    const float one = 1, sum = p_.z.data ? 1 : 0;
    check(cublasLtMatmul(lt_handle(device), desc_, &one, p_.weight.data, weight_, x, x_, &sum,
                         p_.z.data ? p_.z.data : p_.y.data, z_, p_.y.data, y_, &algorithm_, scratch,
                         workspace_, stream),
          "cublasLtMatmul");
  }

 private:
  int64_t numbers(const NetMemory& m) const {
    return static_cast<int64_t>(m.stride / size_of(p_.dtype));
  }
  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    check(cublasLtMatmulDescSetAttribute(desc_, attribute, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }
  cublasLtMatrixLayout_t layout(int64_t rows, int64_t columns, const NetMemory& m) const {
    cublasLtMatrixLayout_t l = nullptr;
    check(cublasLtMatrixLayoutCreate(&l, type_, static_cast<uint64_t>(rows),
                                     static_cast<uint64_t>(columns), rows),
          "cublasLtMatrixLayoutCreate");
    const int32_t nets = static_cast<int32_t>(p_.nets);
    const int64_t stride = numbers(m);
    check(
        cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &nets, sizeof nets),
        "cublasLtMatrixLayoutSetAttribute");
    check(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                           sizeof stride),
          "cublasLtMatrixLayoutSetAttribute");
    return l;
  }

  const Product p_;
  cudaDataType_t type_;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t weight_ = nullptr, x_ = nullptr, z_ = nullptr, y_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  size_t workspace_ = 0;
};

// The input's pixels as the rows of a product: as they are, or gathered into scratch.
std::optional<PreparedConv> prepare_im2col_gemm(const NetConv& c, int variant, Context& context) {
  if (c.spec.groups != 1 || c.float8) return std::nullopt;
  const bool as_is = c.pointwise();
  const int64_t inputs = c.x.stride ? c.nets : 1;
  const size_t one = rounded(static_cast<size_t>(c.rows() * c.depth()) * size_of(c.dtype));
  const size_t gathered = as_is ? 0 : one * static_cast<size_t>(inputs);
  const NetMemory x = as_is ? c.x : NetMemory{nullptr, c.x.stride ? one : 0};
  const auto plan = std::make_shared<ProductPlan>(Product{
      c.dtype, c.tf32, c.nets, c.rows(), c.o, c.depth(), c.relu, x, c.weight, c.bias, c.z, c.y});
  if (!plan->choose(variant, context.device)) return std::nullopt;
  return PreparedConv{.scratch = gathered + plan->workspace(),
                      .run = [=](Context& on, Launch how, int64_t, std::byte* scratch) {
                        if (!as_is) im2col(c, {scratch, x.stride}, inputs, how.stream);
                        plan->run(on.device, how.stream, as_is ? x.data : scratch,
                                  scratch + gathered);
                      }};
}

// ---- maps of few pixels

// Whether nearly every output pixel depends on every input pixel, as with 3x3 kernels on the 2x2
// maps at the end of a ResNet: then most positions of a direct convolution meet padding (20 of 36),
// and the weight as one matrix from input image to output image has 16/9 of its elements.
bool is_dense_small_map(const NetConv& c) {
  const int64_t in = c.h * c.w, out = c.oh * c.ow;
  if (c.spec.groups != 1 || in * out > 2 * c.kh * c.kw || in * out == 1) return false;
  int64_t meets = 0;
  for (int64_t q = 0; q < out; ++q) {
    for (int64_t p = 0; p < in; ++p) {
      const int64_t u = p / c.w - (q / c.ow * c.spec.stride - c.spec.padding);
      const int64_t v = p % c.w - (q % c.ow * c.spec.stride - c.spec.padding);
      meets += u >= 0 && v >= 0 && u % c.spec.dilation == 0 && v % c.spec.dilation == 0 &&
               u / c.spec.dilation < c.kh && v / c.spec.dilation < c.kw;
    }
  }
  return 4 * meets >= 3 * in * out;
}

std::shared_ptr<DenseSmallMap> dense_small_map_weight(const NetConv& c, Context& context,
                                                      std::weak_ptr<DenseSmallMap>& cache) {
  if (auto there = cache.lock()) return there;
  auto made = std::make_shared<DenseSmallMap>();
  const size_t out = static_cast<size_t>(c.oh * c.ow * c.o);
  const size_t bias = rounded(out * size_of(c.dtype));
  const size_t matrix = rounded(out * static_cast<size_t>(c.h * c.w * c.c) * size_of(c.dtype));
  made->memory = bytes_on(context, (matrix + bias) * static_cast<size_t>(c.nets));
  auto* memory = write<std::byte>(context, made->memory);
  made->matrix = {memory, matrix};
  made->bias = {memory + matrix * static_cast<size_t>(c.nets), bias};
  expand_weight(c, made->matrix, made->bias, context.stream);
  cache = made;
  return made;
}

std::optional<PreparedConv> prepare_dense_small_map(const NetConv& c, int variant, Context& context,
                                                    std::weak_ptr<DenseSmallMap>& cache) {
  if (!is_dense_small_map(c) || c.float8) return std::nullopt;
  const auto weight = dense_small_map_weight(c, context, cache);
  const auto plan = std::make_shared<ProductPlan>(
      Product{c.dtype, c.tf32, c.nets, c.batch, c.oh * c.ow * c.o, c.h * c.w * c.c, c.relu, c.x,
              weight->matrix, weight->bias, c.z, c.y});
  if (!plan->choose(variant, context.device)) return std::nullopt;
  return PreparedConv{
      .scratch = plan->workspace(),
      .run = [plan, weight, x = c.x.data](Context& on, Launch how, int64_t, std::byte* scratch) {
        plan->run(on.device, how.stream, x, scratch);
      }};
}

// ---- our own kernels

std::optional<PreparedConv> prepare_grouped_gemm(const NetConv& c, int variant, Context& context) {
  if (!can_do_grouped_gemm(c) || !suits_grouped_gemm(c, variant)) return std::nullopt;
  Tensor counters =
      bytes_on(context, static_cast<size_t>(grouped_gemm_counters(c, variant)) * sizeof(int32_t));
  check(cudaMemsetAsync(write_raw(context, counters), 0, counters.bytes(), context.stream),
        "cudaMemsetAsync");
  return PreparedConv{.supports_pdl = true,
                      .scratch = grouped_gemm_scratch(c, variant),
                      .run = [=](Context&, Launch how, int64_t, std::byte* scratch) {
                        conv_grouped_gemm(c, variant, scratch,
                                          static_cast<int32_t*>(counters.raw()), how);
                      }};
}

std::optional<PreparedConv> prepare_small_batch(const NetConv& c, int variant) {
  if (variant >= kSmallBatchVariants || !can_do_small_batch(c) || !suits_small_batch(c, variant))
    return std::nullopt;
  return PreparedConv{.supports_pdl = true, .run = [=](Context&, Launch how, int64_t, std::byte*) {
                        conv_small_batch(c, variant, how);
                      }};
}

// ---- the choice

// Empty if this algorithm cannot compute the convolution.
std::optional<PreparedConv> prepare(const NetConv& c, const ConvChoice& choice, Context& context,
                                    Parts& parts) {
  switch (choice.algorithm) {
    case ConvAlgorithm::kSmallBatchTensorCore:
      return prepare_small_batch(c, choice.variant);
    case ConvAlgorithm::kGroupedImplicitGemm:
      return prepare_grouped_gemm(c, choice.variant, context);
    case ConvAlgorithm::kDenseSmallMap:
      return prepare_dense_small_map(c, choice.variant, context, parts.dense_small_map);
    case ConvAlgorithm::kIm2colGemm:
      return prepare_im2col_gemm(c, choice.variant, context);
    case ConvAlgorithm::kCudnn:
      return prepare_cudnn(c, choice.variant, context, parts);
    case ConvAlgorithm::kNaive:
      return PreparedConv{
          .supports_pdl = true,
          .run = [c](Context&, Launch how, int64_t, std::byte*) { conv_naive(c, how); }};
  }
  return std::nullopt;
}

// With few images the time goes into launches and into reading weights. One launch for all nets
// saves the former, and splitting the sums over the whole GPU speeds up the latter. With many
// images cuDNN has kernels for newer tensor cores that ours do not use.
constexpr int64_t kOurKernelsUpTo = 64;
constexpr const char* kLargeBatch = "the batch is above 64, where cuDNN uses newer tensor cores";

const char* small_batch_why_not(const NetConv& c) {
  if (c.batch > kOurKernelsUpTo) return kLargeBatch;
  if (can_do_small_batch(c)) return nullptr;
  return "needs float16 or bfloat16, input channels in multiples of 32, output channels of 16, and "
         "no groups";
}

const char* grouped_gemm_why_not(const NetConv& c) {
  if (c.batch > kOurKernelsUpTo && !c.float8) return kLargeBatch;
  if (can_do_grouped_gemm(c)) return nullptr;
  return "needs a 16-bit dtype, channels in multiples of 8 (float8: 16), and no groups";
}

const char* dense_small_map_why_not(const NetConv& c) {
  if (c.float8) return "has no float8 form";
  if (!is_dense_small_map(c)) return "the map has too many pixels, or the convolution has groups";
  // 9/4 fewer products on 2x2 maps for 16/9 of the weights.
  return c.batch < 4 ? "the batch is below 4: reading the larger weight is all the time" : nullptr;
}

const char* im2col_gemm_why_not(const NetConv& c) {
  if (c.float8) return "has no float8 form";
  if (c.spec.groups != 1) return "the convolution has groups";
  if (c.pointwise()) return nullptr;
  // im2col writes and reads each pixel kh * kw times: nothing for large maps.
  const int64_t elements = c.rows() * c.depth() * (c.x.stride ? c.nets : 1);
  return static_cast<size_t>(elements) * size_of(c.dtype) > kMostGathered
             ? "im2col would write more than 256 MiB"
             : nullptr;
}

// Best first. Those without a reason are timed on the device, in all their variants.
struct ConvImplementation {
  ConvAlgorithm algorithm;
  const char* name;
  const char* description;
  const char* (*why_not)(const NetConv&);
  int (*variants)(const NetConv&);
};

constexpr ConvImplementation kImplementations[] = {
    {ConvAlgorithm::kSmallBatchTensorCore, "small_batch_tensor_core",
     "our own kernel for few pixels, one launch for all nets", small_batch_why_not,
     [](const NetConv&) { return kSmallBatchVariants; }},
    {ConvAlgorithm::kGroupedImplicitGemm, "grouped_implicit_gemm",
     "our own tensor-core kernel, one launch for all nets", grouped_gemm_why_not,
     [](const NetConv&) { return kGroupedGemmVariants; }},
    {ConvAlgorithm::kDenseSmallMap, "dense_small_map",
     "maps of a few pixels as one batched matrix product", dense_small_map_why_not,
     [](const NetConv&) { return kProductVariants; }},
    {ConvAlgorithm::kIm2colGemm, "im2col_gemm", "im2col and one batched matrix product",
     im2col_gemm_why_not, [](const NetConv&) { return kProductVariants; }},
    // cuDNN compiles its float8 engines when a plan is made.
    {ConvAlgorithm::kCudnn, "cudnn", "cuDNN, net by net on parallel branches",
     [](const NetConv&) -> const char* { return nullptr; },
     [](const NetConv& c) { return c.float8 ? 2 : kCudnnVariants; }},
    {ConvAlgorithm::kNaive, "naive", "plain loops",
     [](const NetConv&) { return "only where nothing else computes the convolution"; },
     [](const NetConv&) { return 1; }},
};

std::vector<ConvChoice> candidates(const NetConv& c) {
  std::vector<ConvChoice> list;
  for (const ConvImplementation& i : kImplementations) {
    if (i.why_not(c)) continue;
    for (int v = 0; v < i.variants(c); ++v) list.push_back({i.algorithm, v});
  }
  return list;
}

// What the speed of a convolution depends on.
std::vector<int64_t> form_of(const NetConv& c, int device) {
  int64_t octave = 1;
  while (octave < c.batch) octave *= 2;
  return {device,
          static_cast<int64_t>(c.dtype),
          c.float8,
          c.tf32,
          c.nets,
          octave,
          c.c,
          c.h,
          c.w,
          c.o,
          c.kh,
          c.kw,
          c.spec.stride,
          c.spec.padding,
          c.spec.dilation,
          c.spec.groups,
          c.relu,
          c.z.data != nullptr,
          c.x.stride != 0};
}

struct Measured {
  std::mutex mutex;
  std::map<std::vector<int64_t>, ConvChoice> choices;
};
Measured& measured() {
  static Measured* m = new Measured;
  return *m;
}

void run_all(const PreparedConv& p, const NetConv& c, Context& context, const Branches& branches,
             std::byte* scratch) {
  if (!p.per_net) return p.run(context, context.stream, 0, scratch);
  branches.each(context, c.nets, nets_at_once(c.nets, c.batch),
                [&](cudaStream_t stream, int64_t net) {
                  p.run(context, stream, net, scratch + rounded(p.scratch) * net);
                });
}

size_t scratch_of_all(const PreparedConv& p, const NetConv& c) {
  return p.per_net ? rounded(p.scratch) * static_cast<size_t>(c.nets) : p.scratch;
}

// As part of a graph, between two other kernels, and with the weights not in the cache, as in use.
// What the neighbours are there is not known: our own kernels
// are given the benefit of programmatic dependent launch.
float time_of(const PreparedConv& p, const NetConv& c, Context& context, const Branches& branches,
              std::byte* scratch) {
  run_all(p, c, context, branches, scratch);  // loads what is loaded on first use
  const bool dependent = p.supports_pdl && supports_pdl(context);
  PreparedConv between = p;
  between.run = [&](Context& on, Launch how, int64_t net, std::byte* memory) {
    const NetMemory y{c.y.of(net), c.y.stride};
    const auto neighbour = [&](bool is_dependent) {
      activate(c.dtype, UnaryOp::kRelu, 0, 0, y, y, p.per_net ? 1 : c.nets,
               std::min<int64_t>(c.rows() * c.o, 1 << 14), {how.stream, is_dependent});
    };
    neighbour(false);
    p.run(on, {how.stream, dependent}, net, memory);
    neighbour(dependent);
  };
  Capture capture(context);
  run_all(between, c, context, branches, scratch);
  return times_of({capture.finish().get()}, context)[0];
}

bool captures_dependent_launches(Context& c) {
  Tensor numbers = bytes_on(c, 256);
  const NetMemory memory{write_raw(c, numbers), 0};
  try {
    Capture capture(c);
    for (const bool dependent : {false, true}) {
      activate(Dtype::kF32, UnaryOp::kRelu, 0, 0, memory, memory, 1, 64, {c.stream, dependent});
    }
    capture.finish()->launch(c);
    c.synchronize();
    return true;
  } catch (const Error&) {  // drivers before CUDA 12.3's
    return false;
  }
}

}  // namespace

const char* name(ConvAlgorithm algorithm) {
  return std::ranges::find(kImplementations, algorithm, &ConvImplementation::algorithm)->name;
}

std::vector<ConvCandidate> explain(const NetConv& conv) {
  std::vector<ConvCandidate> list;
  for (const ConvImplementation& i : kImplementations) {
    const char* reason = i.why_not(conv);
    list.push_back({i.name, i.description, reason ? reason : ""});
  }
  return list;
}

Branches::Branches(int64_t count)
    : streams_(static_cast<size_t>(count)), done_(static_cast<size_t>(count)) {
  check(cudaEventCreateWithFlags(&begun_, cudaEventDisableTiming), "cudaEventCreate");
  for (cudaEvent_t& e : done_) {
    check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreate");
  }
  for (cudaStream_t& s : streams_) {
    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreate");
  }
}

Branches::~Branches() {
  for (cudaStream_t s : streams_) cudaStreamDestroy(s);
  for (cudaEvent_t e : done_) cudaEventDestroy(e);
  if (begun_) cudaEventDestroy(begun_);
}

void Branches::each(Context& c, int64_t nets, int64_t at_once,
                    const std::function<void(cudaStream_t, int64_t)>& f) const {
  const size_t used =
      static_cast<size_t>(std::min({at_once, nets, static_cast<int64_t>(streams_.size())}));
  if (used <= 1) {
    for (int64_t net = 0; net < nets; ++net) f(c.stream, net);
    return;
  }
  check(cudaEventRecord(begun_, c.stream), "cudaEventRecord");
  for (size_t s = 0; s < used; ++s) {
    check(cudaStreamWaitEvent(streams_[s], begun_, 0), "cudaStreamWaitEvent");
  }
  for (int64_t net = 0; net < nets; ++net) f(streams_[static_cast<size_t>(net) % used], net);
  for (size_t s = 0; s < used; ++s) {
    check(cudaEventRecord(done_[s], streams_[s]), "cudaEventRecord");
    check(cudaStreamWaitEvent(c.stream, done_[s], 0), "cudaStreamWaitEvent");
  }
}

bool supports_pdl(Context& c) {
  static std::mutex mutex;
  static std::map<int, bool>* known = new std::map<int, bool>;
  const std::lock_guard lock(mutex);
  const auto found = known->find(c.device);
  if (found != known->end()) return found->second;
  return (*known)[c.device] = kernels_support_pdl() && captures_dependent_launches(c);
}

PreparedConv choose(const NetConv& c, std::optional<ConvAlgorithm> prefer, Context& context,
                    const Branches& branches, std::weak_ptr<DenseSmallMap>& dense_small_map,
                    const std::function<std::byte*(size_t)>& scratch) {
  const std::vector<int64_t> form = form_of(c, context.device);
  std::vector<ConvChoice> list;  // tried in this order
  if (prefer) {
    for (int v = 0; v < kGroupedGemmVariants; ++v) list.push_back({*prefer, v});
  } else {
    const std::lock_guard lock(measured().mutex);
    const auto known = measured().choices.find(form);
    if (known != measured().choices.end()) list.push_back(known->second);
  }
  bool measure = list.empty();
  if (!measure && !prefer && list[0].algorithm == ConvAlgorithm::kCudnn &&
      list[0].batch != c.batch) {
    // cuDNN's suggestions come in another order for another batch.
    measure = true;
    list.clear();
    for (int v = 0; v < kCudnnVariants; ++v) list.push_back({ConvAlgorithm::kCudnn, v});
  } else {
    const std::vector<ConvChoice> all = candidates(c);
    list.insert(list.end(), all.begin(), all.end());
  }
  list.push_back({ConvAlgorithm::kNaive, 0});

  std::optional<PreparedConv> best;
  ConvChoice best_choice;
  float best_time = std::numeric_limits<float>::infinity();
  Parts parts{dense_small_map, {}};
  for (const ConvChoice& choice : list) {
    if (best && choice.algorithm == ConvAlgorithm::kNaive) continue;
    try {
      std::optional<PreparedConv> p = prepare(c, choice, context, parts);
      if (!p) {
        // What was measured for the octave may not suit this batch.
        if (!prefer && &choice == &list.front()) measure = true;
        continue;
      }
      std::byte* memory = scratch(scratch_of_all(*p, c));
      if (!measure) {
        run_all(*p, c, context, branches, memory);
        return std::move(*p);
      }
      const float time = time_of(*p, c, context, branches, memory);
      if (best && time >= best_time) continue;
      best = std::move(p);
      best_choice = {choice.algorithm, choice.variant, c.batch};
      best_time = time;
    } catch (const Error&) {
      // A library refuses some shapes only when it is called. Direct loops have no excuse.
      if (choice.algorithm == ConvAlgorithm::kNaive) throw;
    }
  }
  if (!best) fail("no algorithm computes this convolution", "CUDA executable");
  const std::lock_guard lock(measured().mutex);
  measured().choices[form] = best_choice;
  return std::move(*best);
}

}  // namespace ens::cuda
