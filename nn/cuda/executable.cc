// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/executable.h"

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "nn/core/arena.h"
#include "nn/core/float8.h"
#include "nn/cuda/context.h"
#include "nn/cuda/serve_conv.h"
#include "nn/cuda/serve_kernels.h"
#include "nn/cuda/timing.h"

namespace ens::cuda {
namespace {

using Kind = GraphStep::Kind;

constexpr size_t kAlignment = 256;  // of every value of every net: the libraries' fastest kernels

size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// A value's shape as kernels see it. Tokens [L,D] lie in their own order, like one long vector.
int64_t channels_of(const Shape& one) {
  return one.rank() == 2 ? one.numel() : one.rank() ? one[0] : 1;
}
int64_t pixels_of(const Shape& one) { return one.numel() / std::max<int64_t>(channels_of(one), 1); }

// What a step does, for one net or for all.
struct Op {
  bool per_net = false;
  bool supports_pdl = false;  // one kernel that calls grid_dependency_sync()
  // Launched as a dependent of the kernel before it, which supports it, too: then waiting for that
  // one is waiting for everything before it.
  bool dependent = false;
  std::function<void(Context&, Launch, int64_t net)> run;
};

// The nets for one batch size.
struct Program {
  int64_t batch = 0;
  std::vector<Op> ops;  // they hold what the graph reads
  Tensor scratch;
  std::unique_ptr<Capture::Graph> graph;
};

class CudaExecutable : public Executable {
 public:
  CudaExecutable(const std::vector<Graph>& nets, Dtype dtype, int64_t max_batch, int device,
                 const ServeOptions& options);
  ~CudaExecutable() override;
  Tensor run(const Tensor& input) override;
  size_t weight_bytes() const override;
  size_t arena_bytes() const override { return arena_.bytes() + scratch_.bytes(); }

 private:
  struct StepWeights {
    NetMemory weight, bias;
    NetMemory scales;  // in float8: see NetConv
    int64_t kh = 1, kw = 1;
    std::weak_ptr<DenseSmallMap> dense_small_map;
  };

  void pack_weights(Context& c, const std::vector<Graph>& nets);
  NetMemory pack(Context& c, const std::vector<Tensor>& each);
  void place_values();

  Program& program(Context& c, int64_t batch);
  Program build(Context& c, int64_t batch);
  Op lower(Context& c, size_t step, int64_t batch);
  Op lower_conv(Context& c, size_t step, int64_t batch);
  void enqueue(Context& c, const Program& p, bool dependent) const;
  std::unique_ptr<Capture::Graph> capture(Context& c, const Program& p, bool dependent) const;
  std::byte* scratch(Context& c, size_t bytes);

  Tensor bytes(size_t count) const {
    return Tensor::empty({static_cast<int64_t>(count)}, Dtype::kU8, {Device::Type::kCuda, device_});
  }
  const Shape& shape(int value) const { return graph_.shape(value); }
  // Where a value lies: the input once for all nets.
  NetMemory at(int value) const;
  int64_t numbers(int value, int64_t batch) const { return batch * shape(value).numel(); }

  Graph graph_;  // of each net, without its weights
  const int64_t nets_;
  const bool float8_;
  const Dtype dtype_;  // of activations
  const int64_t max_batch_;
  const int device_;
  const ServeOptions options_;
  const Branches branches_;

  std::vector<Tensor> constants_;  // what `weights_` points to
  std::vector<StepWeights> weights_;
  std::vector<int> root_;        // value -> the value in whose memory it lies
  std::vector<size_t> offsets_;  // of these, in each net's arena
  size_t input_bytes_ = 0, net_bytes_ = 0;
  Tensor arena_;            // the input, then each net's values
  Tensor scratch_;          // for one step at a time
  size_t net_scratch_ = 0;  // while a program is built: what steps done net by net want for each
  std::map<int64_t, Program> programs_;
};

CudaExecutable::CudaExecutable(const std::vector<Graph>& nets, Dtype dtype, int64_t max_batch,
                               int device, const ServeOptions& options)
    : graph_(nets[0]),
      nets_(static_cast<int64_t>(nets.size())),
      float8_(dtype == Dtype::kF8),
      dtype_(float8_ ? Dtype::kF16 : dtype),
      max_batch_(max_batch),
      device_((context(device), device)),  // from here on the thread's current one
      options_(options),
      branches_(nets_) {
  Context& c = context(device);
  for (GraphStep& step : graph_.steps) step.weight = step.bias = Tensor();
  pack_weights(c, nets);
  place_values();
  arena_ = bytes(input_bytes_ + static_cast<size_t>(nets_) * net_bytes_);
  scratch_ = bytes(kAlignment);
  program(c, max_batch);  // shows what cannot be done
}

CudaExecutable::~CudaExecutable() {
  try {  // the graphs may still run, on whatever stream
    Context& c = context(device_);
    write_raw(c, arena_);
    c.synchronize();
  } catch (const Error&) {  // CUDA is gone: so are they
  }
}

NetMemory CudaExecutable::pack(Context& c, const std::vector<Tensor>& each) {
  const size_t stride = rounded(each[0].bytes());
  Tensor block = bytes(stride * each.size());
  const NetMemory memory{write_raw(c, block), stride};
  for (size_t net = 0; net < each.size(); ++net) {
    check(cudaMemcpyAsync(memory.of(static_cast<int64_t>(net)), read_raw(c, each[net]),
                          each[net].bytes(), cudaMemcpyDeviceToDevice, c.stream),
          "cudaMemcpyAsync");
  }
  constants_.push_back(std::move(block));
  return memory;
}

// The weights [o, ...] as Float8s, divided by their channels' scales. Channels last, on the CPU.
Tensor float8_weight(const GraphStep& s, const Float8Scales& scales) {
  Tensor divided = Tensor::empty(s.weight.shape(), Dtype::kF32, {});
  const auto from = s.weight.span<float>();
  const auto to = divided.span<float>();
  const size_t one = from.size() / scales.weight.size();
  for (size_t i = 0; i < from.size(); ++i) to[i] = from[i] / scales.weight[i / one];
  if (divided.rank() == 4) divided = divided.with_layout(Layout::kChannelsLast);
  return divided.to(Dtype::kF8);
}

// As NetConv::scales.
Tensor sum_scales(const Float8Scales& scales) {
  std::vector<float> numbers;
  for (const float weight : scales.weight) numbers.push_back(scales.input * weight);
  numbers.push_back(1 / scales.input);
  return Tensor::from(numbers, {static_cast<int64_t>(numbers.size())});
}

// Convolutions want [o, kh, kw, c] and their bias in the activations' type, as the libraries do.
void CudaExecutable::pack_weights(Context& c, const std::vector<Graph>& nets) {
  const Device here{Device::Type::kCuda, device_};
  for (size_t i = 0; i < graph_.steps.size(); ++i) {
    const GraphStep& first = nets[0].steps[i];
    StepWeights packed;
    if (first.weight.defined()) {
      const bool layer = first.kind == Kind::kConv || first.kind == Kind::kLinear;
      const Dtype type = layer ? dtype_ : Dtype::kF32;
      const bool float8 = float8_ && std::ranges::all_of(nets, [&](const Graph& net) {
                            return takes_float8(net.steps[i]);
                          });
      std::vector<Tensor> weights, biases, scales;
      for (const Graph& net : nets) {
        const GraphStep& s = net.steps[i];
        Tensor weight = s.weight;
        if (float8) {
          const Float8Scales how = float8_scales(s);
          weight = float8_weight(s, how);
          scales.push_back(sum_scales(how).to(here));
        }
        weights.push_back(
            Tensor::empty(s.weight.shape(), float8 ? Dtype::kF8 : type, here,
                          s.kind == Kind::kConv ? Layout::kChannelsLast : Layout::kPlain));
        weights.back().copy_from(weight);
        const Shape shape = s.bias.defined() ? s.bias.shape() : Shape{s.weight.dim(0)};
        biases.push_back(Tensor::zeros(shape, type, here));
        if (s.bias.defined()) biases.back().copy_from(s.bias);
      }
      if (first.kind == Kind::kConv) {
        packed.kh = first.weight.dim(2);
        packed.kw = first.weight.dim(3);
      }
      packed.weight = pack(c, weights);
      packed.bias = pack(c, biases);
      if (float8) packed.scales = pack(c, scales);
    }
    weights_.push_back(std::move(packed));
  }
}

// Once, for the largest batch: smaller values fit where larger ones do.
void CudaExecutable::place_values() {
  const int values = static_cast<int>(graph_.values.size());
  const int steps = static_cast<int>(graph_.steps.size());
  for (int v = 0; v < values; ++v) root_.push_back(v);
  std::vector<Slot> slots(graph_.values.size());
  const auto used = [&](int value, int step) {
    Slot& slot = slots[static_cast<size_t>(root_[static_cast<size_t>(value)])];
    slot.last = std::max(slot.last, step);
  };
  for (int i = 0; i < steps; ++i) {
    const GraphStep& s = graph_.steps[static_cast<size_t>(i)];
    used(s.input, i);
    if (s.residual >= 0) used(s.residual, i);
    const Shape& in = shape(s.input);
    if (s.kind == Kind::kFlatten && (pixels_of(in) == 1 || channels_of(in) == 1)) {
      root_[static_cast<size_t>(s.output)] = root_[static_cast<size_t>(s.input)];
      continue;
    }
    Slot& slot = slots[static_cast<size_t>(s.output)];
    slot.bytes = static_cast<size_t>(numbers(s.output, max_batch_)) * size_of(dtype_);
    slot.first = slot.last = i;
  }
  used(graph_.output, steps);
  net_bytes_ = plan_arena(slots, kAlignment);
  for (const Slot& slot : slots) offsets_.push_back(slot.offset);
  input_bytes_ = rounded(static_cast<size_t>(numbers(graph_.input, max_batch_)) * size_of(dtype_));
}

NetMemory CudaExecutable::at(int value) const {
  const int root = root_[static_cast<size_t>(value)];
  auto* memory = static_cast<std::byte*>(arena_.raw());
  if (root == graph_.input) return {memory, 0};
  return {memory + input_bytes_ + offsets_[static_cast<size_t>(root)], net_bytes_};
}

std::byte* CudaExecutable::scratch(Context& c, size_t wanted) {
  // Programs that were captured with the smaller one keep it.
  if (wanted > scratch_.bytes()) scratch_ = bytes(wanted);
  return write<std::byte>(c, scratch_);
}

Program& CudaExecutable::program(Context& c, int64_t batch) {
  const auto found = programs_.find(batch);
  if (found != programs_.end()) return found->second;
  return programs_.emplace(batch, build(c, batch)).first->second;
}

Program CudaExecutable::build(Context& c, int64_t batch) {
  write_raw(c, arena_);
  net_scratch_ = 0;
  Program p;
  p.batch = batch;
  for (size_t i = 0; i < graph_.steps.size(); ++i) {
    Op op = lower(c, i, batch);
    if (!op.run) continue;
    op.dependent = op.supports_pdl && !p.ops.empty() && p.ops.back().supports_pdl;
    p.ops.push_back(std::move(op));
  }
  if (p.ops.empty()) return p;
  enqueue(c, p, false);  // what is loaded on first use must not be loaded in a capture
  c.synchronize();
  p.graph = capture(c, p, false);
  p.scratch = scratch_;
  if (options_.prefer && !options_.dependent) return p;
  if (std::ranges::none_of(p.ops, &Op::dependent) || !supports_pdl(c)) return p;
  try {
    auto dependent = capture(c, p, true);
    if (!options_.dependent) {
      const std::vector<float> times = times_of({p.graph.get(), dependent.get()}, c);
      if (times[1] >= 0.99f * times[0]) return p;  // no more than chance does
    }
    p.graph = std::move(dependent);
  } catch (const Error&) {  // then without
    if (options_.dependent) throw;
  }
  return p;
}

std::unique_ptr<Capture::Graph> CudaExecutable::capture(Context& c, const Program& p,
                                                        bool dependent) const {
  Capture capture(c);
  enqueue(c, p, dependent);
  return capture.finish();
}

void CudaExecutable::enqueue(Context& c, const Program& p, bool dependent) const {
  for (size_t i = 0; i < p.ops.size();) {
    if (!p.ops[i].per_net) {
      p.ops[i].run(c, {c.stream, dependent && p.ops[i].dependent}, 0);
      ++i;
      continue;
    }
    size_t end = i;
    while (end < p.ops.size() && p.ops[end].per_net) ++end;
    branches_.each(c, nets_, nets_at_once(nets_, p.batch), [&](cudaStream_t stream, int64_t net) {
      for (size_t k = i; k < end; ++k) p.ops[k].run(c, stream, net);
    });
    i = end;
  }
}

Op CudaExecutable::lower(Context& c, size_t index, int64_t batch) {
  const GraphStep& s = graph_.steps[index];
  const StepWeights& w = weights_[index];
  const NetMemory x = at(s.input), y = at(s.output);
  const Shape& in = shape(s.input);
  const Shape& out = shape(s.output);
  const int64_t n = numbers(s.output, batch), nets = nets_;
  const Dtype dtype = dtype_;
  const auto all = [](auto f) {
    return Op{.supports_pdl = true, .run = [f](Context&, Launch how, int64_t) { f(how); }};
  };
  switch (s.kind) {
    case Kind::kConv:
    case Kind::kLinear:
      return lower_conv(c, index, batch);
    case Kind::kChannelAffine:
      return all([=, relu = s.relu, channels = channels_of(in)](Launch how) {
        affine(dtype, x, w.weight, w.bias, y, nets, n, channels, relu, how);
      });
    case Kind::kActivation:
      return all([=, op = s.activation, a = s.a, b = s.b](Launch how) {
        activate(dtype, op, a, b, x, y, nets, n, how);
      });
    case Kind::kAdd:
      return all([=, z = at(s.residual), relu = s.relu](Launch how) {
        add(dtype, x, z, y, nets, n, relu, how);
      });
    case Kind::kMaxPool:
    case Kind::kAvgPool: {
      const PoolShape pool_shape{batch,         in[0],         in[1],         in[2],
                                 out[1],        out[2],        s.pool.kernel, s.pool.kernel,
                                 s.pool.stride, s.pool.padding};
      return all([=, maximum = s.kind == Kind::kMaxPool](Launch how) {
        pool(dtype, maximum, pool_shape, x, y, nets, how);
      });
    }
    case Kind::kGlobalAvgPool: {
      const PoolShape whole{
          batch, in[0], in[1], in[2], 1, 1, static_cast<int>(in[1]), static_cast<int>(in[2]), 1, 0};
      return all([=](Launch how) { pool(dtype, false, whole, x, y, nets, how); });
    }
    case Kind::kFlatten:
      if (y.data == x.data) return {};
      return all([=, channels = channels_of(in), pixels = pixels_of(in)](Launch how) {
        flatten(dtype, x, y, nets, batch, channels, pixels, how);
      });
    case Kind::kTokens:
      return all([=, tokens = out[0], width = out[1]](Launch how) {
        place_tokens(dtype, x, w.weight, w.bias, y, nets, batch, tokens, width, how);
      });
    case Kind::kLayerNorm:
      return all([=, rows = batch * in[0], width = in[1], eps = s.a](Launch how) {
        layer_norm(dtype, x, w.weight, w.bias, y, nets, rows, width, eps, how);
      });
    case Kind::kAttention:
      return all([=, heads = s.heads, tokens = out[0], width = out[1]](Launch how) {
        attention(dtype, x, y, nets, batch, tokens, heads, width, how);
      });
    case Kind::kFirstToken:
      return all([=, tokens = in[0], width = in[1]](Launch how) {
        first_token(dtype, x, y, nets, batch, tokens, width, how);
      });
  }
  return {};
}

Op CudaExecutable::lower_conv(Context& c, size_t index, int64_t batch) {
  const GraphStep& s = graph_.steps[index];
  const Shape& in = shape(s.input);
  const Shape& out = shape(s.output);
  NetConv conv;
  conv.dtype = dtype_;
  conv.tf32 = options_.tf32;
  conv.nets = nets_;
  conv.batch = in.rank() == 2 ? batch * in[0] : batch;  // tokens are rows like images
  conv.c = in.rank() == 2 ? in[1] : in[0];
  conv.o = out.rank() == 2 ? out[1] : out[0];
  if (s.kind == Kind::kConv) {
    conv.h = in[1];
    conv.w = in[2];
    conv.oh = out[1];
    conv.ow = out[2];
    conv.kh = weights_[index].kh;
    conv.kw = weights_[index].kw;
    conv.spec = s.conv;
  }
  conv.relu = s.relu;
  conv.weight = weights_[index].weight;
  conv.bias = weights_[index].bias;
  conv.scales = weights_[index].scales;
  conv.float8 = conv.scales.data != nullptr;
  conv.x = at(s.input);
  if (s.residual >= 0) conv.z = at(s.residual);
  conv.y = at(s.output);
  PreparedConv p = choose(conv, options_.prefer, c, branches_, weights_[index].dense_small_map,
                          [&](size_t wanted) { return scratch(c, wanted); });
  // Nets on parallel branches are at different steps at a time: each has its part of the scratch,
  // whose size is known when all steps are.
  if (p.per_net) net_scratch_ = std::max(net_scratch_, rounded(p.scratch));
  Op op{.per_net = p.per_net, .supports_pdl = p.supports_pdl};
  op.run = [this, run = std::move(p.run), per_net = p.per_net](Context& on, Launch how,
                                                               int64_t net) {
    auto* memory = static_cast<std::byte*>(scratch_.raw());
    run(on, how, net, per_net ? memory + net_scratch_ * net : memory);
  };
  return op;
}

size_t CudaExecutable::weight_bytes() const {
  size_t total = 0;
  for (const Tensor& t : constants_) total += t.bytes();
  for (const StepWeights& w : weights_) {
    if (const auto dense = w.dense_small_map.lock()) total += dense->memory.bytes();
  }
  return total;
}

Tensor CudaExecutable::run(const Tensor& input) {
  Context& c = context(device_);
  const int64_t count = input.dim(0);
  const Program& p = program(c, batch_bucket(count, max_batch_));
  const Shape& in = shape(graph_.input);
  const Shape& out = shape(graph_.output);
  const float* images = read<float>(c, input);
  // The arena also stands for all that only this object knows: weights, scratch, streams.
  write_raw(c, arena_);
  pack_input(dtype_, images, arena_.raw(), count, p.batch, channels_of(in), pixels_of(in),
             c.stream);
  if (p.graph) p.graph->launch(c);
  Tensor result = Tensor::empty(batched(nets_, batched(count, out)), Dtype::kF32, input.device());
  unpack_output(dtype_, at(graph_.output), write<float>(c, result), nets_, count, channels_of(out),
                pixels_of(out), c.stream);
  return result;
}

}  // namespace

std::unique_ptr<Executable> compile_cuda(const std::vector<Graph>& nets, Dtype dtype,
                                         int64_t max_batch, int device,
                                         const ServeOptions& options) {
  if (dtype != Dtype::kF32 && dtype != Dtype::kBF16 && dtype != Dtype::kF16 &&
      dtype != Dtype::kF8) {
    usage_fail(std::string("a GPU does not serve in ") + ens::name(dtype), "compile",
               "use float32, bfloat16, float16 or float8");
  }
  check_compilable(nets, max_batch);
  return std::make_unique<CudaExecutable>(nets, dtype, max_batch, device, options);
}

}  // namespace ens::cuda
