// SPDX-License-Identifier: Apache-2.0
// oneDNN in the terms of this project: engine, streams, descriptors, and how a primitive is
// run. Only nn/cpu includes this. What differs between oneDNN 2.x and 3.x is in dnnl_compat.h.
//
// Threads. By default a primitive may only run on the thread that made it, because its scratchpad
// belongs to that thread. Every primitive made here therefore uses `user_scratchpad()`, and
// execute() lends it a buffer from the allocator: then it may run on any thread, several at a time.
// A primitive is made for omp_get_max_threads() threads; caches must have that number in their key.
#pragma once

#include <cstdint>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <string>
#include <unordered_map>

#include "nn/core/dtype.h"
#include "nn/core/shape.h"
#include "nn/core/tensor.h"

namespace ens::cpu {

using MemoryDesc = dnnl::memory::desc;
using Args = std::unordered_map<int, dnnl::memory>;

dnnl::engine& engine();  // the process's one CPU engine
dnnl::stream& stream();  // this thread's stream, in order

// Held while making primitives (and their descriptors). oneDNN 2.6 now and then generates code that
// computes nonsense when several threads do so at once: seen with bfloat16 on AVX-512, in 10 of 40
// runs of a test that starts four networks on four threads, and in none with this lock.
std::recursive_mutex& creation_mutex();

// What the processor offers, as far as oneDNN uses it.
enum class Isa { kBasic, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };  // kBasic: also aarch64
Isa isa();
const char* isa_name();  // "avx512_core_amx"
// Whether convolutions and matrix products of this dtype must be computed in float32 and rounded:
// oneDNN has none in bfloat16 below AVX-512. Slow, but right on every processor.
inline bool through_float32(Dtype dtype) { return dtype == Dtype::kBF16 && isa() < Isa::kAvx512; }

// The layout in which 4-D activations of this shape are quickest, which convolutions return:
// nChw16c or nChw8c where the vector unit has that width and C is a multiple of it, NHWC for
// bfloat16 with AMX (blocked formats lose AMX) and for other channel counts, plain for images.
Layout preferred_layout(const Shape& shape, Dtype dtype);

dnnl::memory::data_type to_dnnl(Dtype dtype);  // Error for kF16, which oneDNN 2.x has not
dnnl::memory::dims to_dims(const Shape& shape);

MemoryDesc describe(const Shape& shape, Dtype dtype, Layout layout = Layout::kPlain);
MemoryDesc describe_any(const Shape& shape, Dtype dtype);  // oneDNN chooses the format
inline MemoryDesc describe(const Tensor& t) { return describe(t.shape(), t.dtype(), t.layout()); }
// A convolution's weight [O, C/groups, kh, kw] with the group axis oneDNN wants:
// [groups, O/groups, C/groups, kh, kw] if groups > 1. `any`: oneDNN chooses the format.
MemoryDesc describe_weight(const Shape& shape, Dtype dtype, int groups, bool any);
// The Layout that `desc` is for a tensor of `shape`, if it is one (no padding).
std::optional<Layout> layout_of(const MemoryDesc& desc, const Shape& shape, Dtype dtype);

inline dnnl::memory bind(const MemoryDesc& desc, void* data) {
  return dnnl::memory(desc, engine(), data);
}
inline dnnl::memory bind(const Tensor& t) { return bind(describe(t), t.host()); }

// Attributes with scratchpad mode `user`. Start every primitive's attributes from this.
dnnl::primitive_attr user_scratchpad();

// Runs a primitive on this thread's stream and waits for it. `scratchpad` is
// primitive_desc.scratchpad_desc(); the buffer comes from the allocator, unless `buffer` is given.
void execute(const dnnl::primitive& primitive, const MemoryDesc& scratchpad, Args args,
             void* buffer = nullptr);

// Copies between descriptors of the same sizes; converts format and type. The primitive is cached
// per thread.
void reorder(const MemoryDesc& from, const void* source, const MemoryDesc& to, void* target);

}  // namespace ens::cpu
