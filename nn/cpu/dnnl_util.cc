// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/dnnl_util.h"

#include "base/error.h"
#include "base/threads.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/dnnl_compat.h"
#include "nn/cpu/primitive_cache.h"

namespace ens::cpu {

using Tag = dnnl::memory::format_tag;

dnnl::engine& engine() {
  static auto* e = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *e;
}

dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}

std::recursive_mutex& creation_mutex() {
  static auto* m = new std::recursive_mutex;
  return *m;
}

Isa isa() {
  static const Isa found = [] {
#if defined(__x86_64__)
    const auto bits = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    const auto has = [bits](dnnl::cpu_isa level) {
      return (bits & static_cast<unsigned>(level)) == static_cast<unsigned>(level);
    };
    if (has(dnnl::cpu_isa::avx512_core_amx)) return Isa::kAmx;
    if (has(dnnl::cpu_isa::avx512_core_bf16)) return Isa::kAvx512Bf16;
    if (has(dnnl::cpu_isa::avx512_core_vnni)) return Isa::kAvx512Vnni;
    if (has(dnnl::cpu_isa::avx512_core)) return Isa::kAvx512;
    if (has(dnnl::cpu_isa::avx2)) return Isa::kAvx2;
#endif
    return Isa::kBasic;
  }();
  return found;
}

const char* isa_name() {
  switch (isa()) {
    case Isa::kAmx:
      return "avx512_core_amx";
    case Isa::kAvx512Bf16:
      return "avx512_core_bf16";
    case Isa::kAvx512Vnni:
      return "avx512_core_vnni";
    case Isa::kAvx512:
      return "avx512_core";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kBasic:
      break;
  }
#if defined(__aarch64__)
  return "aarch64";
#else
  return "baseline";
#endif
}

Layout preferred_layout(const Shape& shape, Dtype dtype) {
  if (shape.rank() != 4) return Layout::kPlain;
  const int64_t channels = shape[1];
  if (isa() == Isa::kBasic || channels == 1) return Layout::kPlain;
  if (dtype == Dtype::kBF16 && isa() == Isa::kAmx) return Layout::kChannelsLast;
  if (dtype != Dtype::kF32 && dtype != Dtype::kBF16) return Layout::kPlain;
  if (channels <= 4) return Layout::kPlain;
  if (isa() == Isa::kAvx2) return channels % 8 == 0 ? Layout::kBlocked8 : Layout::kChannelsLast;
  return channels % 16 == 0 ? Layout::kBlocked16 : Layout::kChannelsLast;
}

dnnl::memory::data_type to_dnnl(Dtype dtype) {
  using Type = dnnl::memory::data_type;
  switch (dtype) {
    case Dtype::kF32:
      return Type::f32;
    case Dtype::kBF16:
      return Type::bf16;
    case Dtype::kU8:
      return Type::u8;
    case Dtype::kI8:
      return Type::s8;
    case Dtype::kI32:
      return Type::s32;
    case Dtype::kF16:
    case Dtype::kF8:
      break;
  }
  fail(std::string("oneDNN cannot compute in ") + name(dtype), "cpu", "use float32 or bfloat16");
}

dnnl::memory::dims to_dims(const Shape& shape) {
  return {shape.dims().begin(), shape.dims().end()};
}

MemoryDesc describe(const Shape& shape, Dtype dtype, Layout layout) {
  static constexpr Tag kPlainTags[] = {Tag::a,    Tag::a,     Tag::ab,    Tag::abc,
                                       Tag::abcd, Tag::abcde, Tag::abcdef};
  if (shape.rank() == 0) return {{1}, to_dnnl(dtype), Tag::a};
  Tag tag = kPlainTags[shape.rank()];
  if (layout == Layout::kChannelsLast) tag = Tag::nhwc;
  if (layout == Layout::kBlocked8) tag = Tag::nChw8c;
  if (layout == Layout::kBlocked16) tag = Tag::nChw16c;
  return {to_dims(shape), to_dnnl(dtype), tag};
}

MemoryDesc describe_any(const Shape& shape, Dtype dtype) {
  return {to_dims(shape), to_dnnl(dtype), Tag::any};
}

MemoryDesc describe_weight(const Shape& shape, Dtype dtype, int groups, bool any) {
  if (groups == 1) return {to_dims(shape), to_dnnl(dtype), any ? Tag::any : Tag::oihw};
  return {{groups, shape[0] / groups, shape[1], shape[2], shape[3]},
          to_dnnl(dtype),
          any ? Tag::any : Tag::goihw};
}

std::optional<Layout> layout_of(const MemoryDesc& desc, const Shape& shape, Dtype dtype) {
  for (Layout layout :
       {Layout::kPlain, Layout::kChannelsLast, Layout::kBlocked8, Layout::kBlocked16}) {
    if (layout != Layout::kPlain && shape.rank() != 4) break;
    if (layout == Layout::kBlocked8 && shape[1] % 8 != 0) continue;
    if (layout == Layout::kBlocked16 && shape[1] % 16 != 0) continue;
    if (desc == describe(shape, dtype, layout)) return layout;
  }
  return std::nullopt;
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

void execute(const dnnl::primitive& primitive, const MemoryDesc& scratchpad, Args args,
             void* buffer) {
  prepare_threads();
  const size_t bytes = scratchpad.get_size();
  std::optional<Buffer> own;
  if (bytes > 0) {
    if (!buffer) buffer = own.emplace(bytes).data();
    args.insert_or_assign(DNNL_ARG_SCRATCHPAD, bind(scratchpad, buffer));
  }
  primitive.execute(stream(), args);
  stream().wait();
}

void Key::add(const MemoryDesc& desc) {
  visit_fields(desc, [this](const auto& value) { add(value); });
}

void reorder(const MemoryDesc& from, const void* source, const MemoryDesc& to, void* target) {
  struct Prepared {
    dnnl::reorder primitive;
    MemoryDesc scratchpad;
  };
  thread_local PrimitiveCache<Prepared> cache;
  Key key(0);
  key.add(from);
  key.add(to);
  const Prepared& p = cache.get(key, [&] {
    const dnnl::reorder::primitive_desc pd(engine(), from, engine(), to, user_scratchpad());
    return Prepared{dnnl::reorder(pd), pd.scratchpad_desc()};
  });
  execute(
      p.primitive, p.scratchpad,
      {{DNNL_ARG_FROM, bind(from, const_cast<void*>(source))}, {DNNL_ARG_TO, bind(to, target)}});
}

}  // namespace ens::cpu
