// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/executable.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/packed_constants.h"
#include "nn/cpu/program.h"

namespace ens {

using namespace cpu;
using dnnl::memory;

namespace {

class CpuNet {
 public:
  CpuNet(const Graph& graph, Dtype dtype, int64_t max_batch)
      : graph_(graph), dtype_(dtype), max_batch_(max_batch), constants_(graph) {
    // The largest batch now: it shows what oneDNN cannot do, packs the weights, sizes the arena.
    program(max_batch);
    constants_.settle();
    for (GraphStep& step : graph_.steps) step.weight = step.bias = Tensor();
  }

  Tensor run(const Tensor& input);
  size_t weight_bytes() const { return constants_.bytes(); }
  size_t arena_bytes() const { return arena_bytes_; }

 private:
  Program& program(int64_t batch);
  Program build(int64_t batch) {
    std::lock_guard lock(creation_mutex());
    return build_program(graph_, dtype_, batch, constants_, forced_);
  }

  Graph graph_;  // without its weights
  const Dtype dtype_;
  const int64_t max_batch_;
  PackedConstants constants_;
  const ConvImplementation* const forced_ = forced_conv_implementation();
  // By batch size and OpenMP threads: a primitive made for few threads must not run with more.
  std::map<std::pair<int64_t, int>, Program> programs_;
  size_t arena_bytes_ = 0;
};

Program& CpuNet::program(int64_t batch) {
  const std::pair key{batch, compute_threads()};
  const auto found = programs_.find(key);
  Program& p =
      found != programs_.end() ? found->second : programs_.emplace(key, build(batch)).first->second;
  arena_bytes_ = std::max(arena_bytes_, p.arena_bytes);
  return p;
}

Tensor CpuNet::run(const Tensor& input) try {
  prepare_threads();
  const int64_t count = input.dim(0);
  Program& p = program(batch_bucket(count, max_batch_));

  // From the cache, for this run only: nets that one thread runs in turn share it.
  const Buffer arena(p.arena_bytes);
  if (p.base != arena.data()) {
    p.base = arena.as<std::byte>();
    for (SlotMemory& m : p.memories) {
      if (m.slot != p.output_slot) {
        m.data.set_data_handle(p.base + p.slots[static_cast<size_t>(m.slot)].offset);
      }
    }
  }

  void* source = input.host();
  if (count < p.batch) {  // the missing images are zeros
    const size_t one = input.bytes() / static_cast<size_t>(count);
    std::byte* staged = p.base + p.slots[kInputSlot].offset;
    std::memcpy(staged, source, input.bytes());
    std::memset(staged + input.bytes(), 0, one * static_cast<size_t>(p.batch - count));
    source = staged;
  }
  for (memory& m : p.input) m.set_data_handle(source);

  const Shape& one = graph_.shape(graph_.output);
  std::vector<int64_t> shape{p.batch};
  shape.insert(shape.end(), one.dims().begin(), one.dims().end());
  Tensor result = Tensor::empty(Shape(shape));
  for (memory& m : p.output) m.set_data_handle(result.host());

  for (const Op& op : p.ops) {
    if (op.host) {
      op.host(Arguments(op.args));
      continue;
    }
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(op.primitive.get(), stream().get(), static_cast<int>(op.args.size()),
                               op.args.data()),
        "a primitive failed");
  }
  stream().wait();
  return count == p.batch ? result : result.rows(0, count);
} catch (const dnnl::error& e) {
  fail(std::string("oneDNN failed: ") + e.what(), "CPU executable");
}

// The nets, one after another.
class CpuExecutable : public Executable {
 public:
  CpuExecutable(const std::vector<Graph>& nets, Dtype dtype, int64_t max_batch)
      : output_(nets[0].shape(nets[0].output)) {
    for (const Graph& net : nets) {
      nets_.push_back(std::make_unique<CpuNet>(net, dtype, max_batch));
    }
  }

  Tensor run(const Tensor& input) override {
    const int64_t nets = static_cast<int64_t>(nets_.size());
    const Shape one = batched(input.dim(0), output_);
    if (nets == 1) return nets_[0]->run(input).reshape(batched(1, one));
    Tensor results = Tensor::empty(batched(nets, one));
    for (int64_t i = 0; i < nets; ++i) {
      results.rows(i, 1).reshape(one).copy_from(nets_[static_cast<size_t>(i)]->run(input));
    }
    return results;
  }
  size_t weight_bytes() const override { return sum(&CpuNet::weight_bytes); }
  size_t arena_bytes() const override { return sum(&CpuNet::arena_bytes); }

 private:
  size_t sum(size_t (CpuNet::*bytes)() const) const {
    size_t total = 0;
    for (const auto& net : nets_) total += ((*net).*bytes)();
    return total;
  }

  const Shape output_;
  std::vector<std::unique_ptr<CpuNet>> nets_;
};

}  // namespace

std::unique_ptr<Executable> compile_cpu(const std::vector<Graph>& nets, Dtype dtype,
                                        int64_t max_batch) try {
  if (dtype != Dtype::kF32 && dtype != Dtype::kBF16) {
    usage_fail(std::string("the CPU does not serve in ") + name(dtype), "compile",
               "use float32 or bfloat16");
  }
  check_compilable(nets, max_batch);
  return std::make_unique<CpuExecutable>(nets, dtype, max_batch);
} catch (const dnnl::error& e) {
  fail(std::string("oneDNN cannot prepare this network: ") + e.what(), "CPU executable");
}

}  // namespace ens
