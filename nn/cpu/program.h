// SPDX-License-Identifier: Apache-2.0
// A network for one batch size as a list of operations over slots of one arena, and how a fused
// graph becomes one. Internal to nn/cpu: executable.cc runs it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "nn/core/arena.h"
#include "nn/core/graph.h"
#include "nn/cpu/conv.h"
#include "nn/cpu/dnnl_util.h"
#include "nn/cpu/packed_constants.h"

namespace ens::cpu {

// The slot of the input; like that of the result it is the caller's memory, not the arena's.
constexpr int kInputSlot = 0;

// An argument that lies in a slot; its address is known only when the arena is.
struct SlotMemory {
  int slot;
  dnnl::memory data;
};

// The memory of operations that are no primitives of oneDNN, by the names that it gives arguments.
class Arguments {
 public:
  explicit Arguments(const std::vector<dnnl_exec_arg_t>& args) : args_(args) {}
  void* operator[](int name) const;  // null: there is none of that name

 private:
  const std::vector<dnnl_exec_arg_t>& args_;
};
using HostStep = std::function<void(const Arguments&)>;

struct Op {
  dnnl::primitive primitive;
  HostStep host;                      // instead of the primitive, if there is one
  std::vector<dnnl_exec_arg_t> args;  // handles are owned by Program::memories and PackedConstants
};

// The network for one batch size: operations in order, over slots.
struct Program {
  int64_t batch = 0;
  std::vector<Op> ops;
  std::vector<Slot> slots;
  std::vector<SlotMemory> memories;
  std::vector<dnnl::memory> input, output;  // those of `memories` that are the caller's
  int output_slot = -1;
  size_t arena_bytes = 0;
  std::byte* base = nullptr;  // the arena for which the addresses are set
};

// Lowers a graph for one batch size and dtype. Packs what the program needs into `constants`, which
// must outlive it. `forced`: as for choose_conv(). The caller holds creation_mutex(). Throws
// dnnl::error, and Usage Error for what oneDNN cannot do.
Program build_program(const Graph& graph, Dtype dtype, int64_t batch, PackedConstants& constants,
                      const ConvImplementation* forced);

}  // namespace ens::cpu
