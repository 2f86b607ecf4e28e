#include "nn/cpu/executable.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "nn/core/arena.h"
#include "nn/cpu/allocator.h"
#include "nn/cpu/block_conv.h"
#include "nn/cpu/dnnl_compat.h"
#include "nn/cpu/dnnl_util.h"

namespace ens {

using namespace cpu;
using dnnl::memory;
using Kind = GraphStep::Kind;
using Tag = memory::format_tag;

namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kWorthMoving = size_t{4} << 20;  // weights of a network, in bytes

// The batch from which small maps are computed as one matrix product (SmallMap). With fewer images
// the time goes into reading weights, of which the matrix has more.
constexpr int64_t kSpreadFrom = 8;

// How a convolution over a map of a few pixels is one matrix product: input pixel p reaches output
// pixel q through kernel position taps[q][p] (row-major), or -1 for none.
struct SmallMap {
  std::vector<std::vector<int64_t>> taps;
  int64_t outputs() const { return static_cast<int64_t>(taps.size()); }
  int64_t inputs() const { return static_cast<int64_t>(taps[0].size()); }
};

// The 2x2 maps at the end of a ResNet on 32x32 images: nearly every output pixel depends on every
// input pixel, most kernel positions of a direct convolution meet padding, and oneDNN's kernels are
// far from their best. Written out as a matrix [output pixels * O, input pixels * C] the weight is
// 16/9 of its size (nothing is gained from more than twice), and the product runs near the peak.
std::optional<SmallMap> small_map(const ConvSpec& spec, const Shape& weight, const Shape& in,
                                  const Shape& out) {
  const int64_t pairs = in[1] * in[2] * out[1] * out[2];
  if (spec.groups != 1 || pairs > 2 * weight[2] * weight[3]) return std::nullopt;
  SmallMap map;
  int64_t valid = 0;
  for (int64_t q = 0; q < out[1] * out[2]; ++q) {
    map.taps.emplace_back();
    for (int64_t p = 0; p < in[1] * in[2]; ++p) {
      const int64_t row = p / in[2] + spec.padding - q / out[2] * spec.stride;
      const int64_t column = p % in[2] + spec.padding - q % out[2] * spec.stride;
      const bool meets = row >= 0 && column >= 0 && row % spec.dilation == 0 &&
                         column % spec.dilation == 0 && row / spec.dilation < weight[2] &&
                         column / spec.dilation < weight[3];
      map.taps.back().push_back(meets ? row / spec.dilation * weight[3] + column / spec.dilation
                                      : -1);
      valid += meets;
    }
  }
  if (4 * valid < 3 * pairs) return std::nullopt;
  return map;
}

// Every form this network's constants are wanted in, each packed once and then shared by all batch
// sizes. The first is made from the graph's tensors, which are let go after that; later ones from
// the first.
class Constants {
 public:
  explicit Constants(const Graph& graph) {
    for (const GraphStep& s : graph.steps) {
      layers_.push_back({s.weight.shape(), s.bias.defined(), {s.weight, s.bias}, {}});
    }
  }

  const Shape& weight_shape(size_t step) const { return layers_[step].weight_shape; }
  bool has_bias(size_t step) const { return layers_[step].has_bias; }

  // The constant's place in its step: two as spread out for a SmallMap, one as BlockConv packs it.
  enum Which { kWeight = 0, kBias = 1, kSpreadWeight = 2, kSpreadBias = 3, kBlockWeight = 4 };

  // `plain` describes the graph's tensor; `wanted` the format. The memory lives as long as *this.
  memory get(size_t step, Which which, const MemoryDesc& plain, const MemoryDesc& wanted) {
    std::vector<Packed>& packed = layers_[step].packed[which];
    for (const Packed& p : packed) {
      if (p.desc == wanted) return p.data;
    }
    return add(packed,
               packed.empty() ? bind(plain, layers_[step].source[which].host()) : packed[0].data,
               wanted);
  }

  // The weight [O, C, kh, kw] as a matrix `wanted` of [q * O + o, p * C + c].
  memory get_spread(size_t step, const SmallMap& map, const MemoryDesc& wanted) {
    std::vector<Packed>& packed = layers_[step].packed[kSpreadWeight];
    for (const Packed& p : packed) {
      if (p.desc == wanted) return p.data;
    }
    if (!packed.empty()) return add(packed, packed[0].data, wanted);
    const Tensor& weight = layers_[step].source[kWeight];
    const int64_t channels = weight.dim(1), area = weight.dim(2) * weight.dim(3);
    const MemoryDesc plain({weight.dim(0) * map.outputs(), channels * map.inputs()},
                           memory::data_type::f32, Tag::ab);
    Buffer matrix(plain.get_size());
    const float* w = weight.data<float>();
    float* out = matrix.as<float>();
    for (const auto& row : map.taps) {
      for (int64_t o = 0; o < weight.dim(0); ++o) {
        for (int64_t tap : row) {
          for (int64_t c = 0; c < channels; ++c) {
            *out++ = tap < 0 ? 0.0f : w[(o * channels + c) * area + tap];
          }
        }
      }
    }
    return add(packed, bind(plain, matrix.data()), wanted);
  }

  memory get_block(size_t step, const BlockConv& conv) {
    std::vector<Packed>& packed = layers_[step].packed[kBlockWeight];
    if (!packed.empty()) return packed[0].data;
    packed.push_back(
        make({{static_cast<int64_t>(conv.packed_bytes())}, memory::data_type::u8, Tag::a}));
    conv.pack(layers_[step].source[kWeight].data<float>(), packed[0].storage.get());
    return packed[0].data;
  }

  // The bias [O] once per output pixel: [q * O + o].
  memory get_spread_bias(size_t step, const SmallMap& map, const MemoryDesc& plain) {
    std::vector<Packed>& packed = layers_[step].packed[kSpreadBias];
    if (!packed.empty()) return packed[0].data;
    const memory once = get(step, kBias, plain, plain);
    const auto* bias = static_cast<const float*>(once.get_data_handle());
    std::vector<float> all;
    for (size_t q = 0; q < map.taps.size(); ++q) {
      all.insert(all.end(), bias, bias + layers_[step].weight_shape[0]);
    }
    const MemoryDesc wanted({static_cast<int64_t>(all.size())}, memory::data_type::f32, Tag::a);
    return add(packed, bind(wanted, all.data()), wanted);
  }

  // A vector of n equal float32 numbers.
  memory filled(int64_t n, float value) {
    Packed& p = filled_[{n, value}];
    if (!p.storage) {
      p = make({{n}, memory::data_type::f32, Tag::a});
      std::fill_n(static_cast<float*>(p.storage.get()), n, value);
    }
    return p.data;
  }

  // Lets go of the graph's tensors, and moves what is packed so far together, in the order of use:
  // few images read all of it once, and wait less in large pages.
  void settle() {
    size_t total = 0;
    const auto each = [this](auto&& f) {
      for (Layer& layer : layers_) {
        for (std::vector<Packed>& forms : layer.packed) {
          for (Packed& p : forms)
            f(p, (p.desc.get_size() + kAlignment - 1) / kAlignment * kAlignment);
        }
      }
    };
    each([&](Packed&, size_t bytes) { total += bytes; });
    if (total >= kWorthMoving) {
      const std::shared_ptr<void> room = allocate(total);
      auto* to = static_cast<std::byte*>(room.get());
      each([&](Packed& p, size_t bytes) {
        std::memcpy(to, p.storage.get(), p.desc.get_size());
        p.storage = std::shared_ptr<void>(room, to);
        p.data.set_data_handle(to);  // in every copy of this handle
        to += bytes;
      });
    }
    for (Layer& layer : layers_) layer.source = {};
  }
  size_t bytes() const { return bytes_; }

 private:
  struct Packed {
    MemoryDesc desc;
    std::shared_ptr<void> storage;
    memory data;
  };
  struct Layer {
    Shape weight_shape;
    bool has_bias;
    std::array<Tensor, 2> source;
    std::array<std::vector<Packed>, 5> packed;
  };

  Packed make(const MemoryDesc& desc) {
    Packed p{desc, allocate(desc.get_size()), {}};
    p.data = bind(desc, p.storage.get());
    bytes_ += desc.get_size();
    return p;
  }

  memory add(std::vector<Packed>& packed, const memory& source, const MemoryDesc& wanted) {
    Packed p = make(wanted);  // not in the list yet, where `source` may be
    reorder(source.get_desc(), source.get_data_handle(), wanted, p.storage.get());
    packed.push_back(std::move(p));
    return packed.back().data;
  }

  std::vector<Layer> layers_;
  std::map<std::pair<int64_t, float>, Packed> filled_;
  size_t bytes_ = 0;
};

// The slot of the input; like that of the result it is the caller's memory, not the arena's.
constexpr int kInputSlot = 0;

// An argument that lies in a slot; its address is known only when the arena is.
struct SlotMemory {
  int slot;
  memory data;
};

// A convolution by our own kernels; its arguments are those of oneDNN's, and SRC_1 for what is
// added.
struct BlockStep {
  BlockConv conv;
  bool relu;
  void run(const std::vector<dnnl_exec_arg_t>& args) const {
    const auto data = [&](int name) -> void* {
      for (const dnnl_exec_arg_t& arg : args) {
        if (arg.arg == name) return memory(arg.memory, true).get_data_handle();
      }
      return nullptr;
    };
    conv.run(data(DNNL_ARG_SRC), data(DNNL_ARG_WEIGHTS),
             static_cast<const float*>(data(DNNL_ARG_BIAS)), data(DNNL_ARG_SRC_1), relu,
             data(DNNL_ARG_DST));
  }
};

struct Op {
  dnnl::primitive primitive;
  std::shared_ptr<const BlockStep> block;  // instead of the primitive, if there is one
  std::vector<dnnl_exec_arg_t> args;       // handles are owned by Program::memories and Constants
};

// The network for one batch size: operations in order, over slots.
struct Program {
  int64_t batch = 0;
  std::vector<Op> ops;
  std::vector<Slot> slots;
  std::vector<SlotMemory> memories;
  std::vector<memory> input, output;  // those of `memories` that are the caller's
  int output_slot = -1;
  size_t arena_bytes = 0;
  std::byte* base = nullptr;  // the arena for which the addresses are set
};

struct Precision {
  Dtype computed, weights;
};

class Builder {
 public:
  Builder(const Graph& graph, Precision precision, int64_t batch, Constants& constants)
      : graph_(graph),
        type_(to_dnnl(precision.computed)),
        precision_(precision),
        batch_(batch),
        constants_(constants),
        values_(graph.values.size()),
        last_read_(graph.values.size(), -1) {
    const int steps = static_cast<int>(graph.steps.size());
    for (int i = 0; i < steps; ++i) {
      last_read_[graph.steps[i].input] = i;
      if (graph.steps[i].residual >= 0) last_read_[graph.steps[i].residual] = i;
    }
    last_read_[graph.output] = steps;
  }

  Program build() {
    const MemoryDesc input = plain(graph_.shape(graph_.input), memory::data_type::f32);
    new_slot(input);  // kInputSlot
    values_[graph_.input].push_back({input, kInputSlot});
    for (at_ = 0; at_ < graph_.steps.size(); ++at_) lower(graph_.steps[at_]);

    // The result: in the caller's tensor from the start if it is computed in that form.
    const MemoryDesc result = plain(graph_.shape(graph_.output), memory::data_type::f32);
    const Place made = values_[graph_.output][0];
    if (made.desc == result && made.slot != kInputSlot) {
      program_.output_slot = made.slot;
    } else {
      program_.output_slot = new_slot(result);
      add_reorder(made, {result, program_.output_slot});
    }
    return finish();
  }

 private:
  struct Place {  // one form in which a value is stored
    MemoryDesc desc;
    int slot;
  };
  struct Arg {
    int name;  // DNNL_ARG_...
    Place place;
  };
  struct Draft {
    dnnl::primitive primitive;
    std::shared_ptr<const BlockStep> block;
    std::vector<Arg> args;
    std::vector<std::pair<int, memory>> constants;
  };

  // ---- descriptors
  memory::dims dims(const Shape& one) const {
    memory::dims d{batch_};
    d.insert(d.end(), one.dims().begin(), one.dims().end());
    return d;
  }
  MemoryDesc with_tag(const Shape& one, memory::data_type type, Tag tag) const {
    return MemoryDesc(dims(one), type, tag);
  }
  MemoryDesc plain(const Shape& one, memory::data_type type) const {
    static constexpr Tag kPlain[] = {Tag::a, Tag::ab, Tag::abc, Tag::abcd, Tag::abcde, Tag::abcdef};
    return with_tag(one, type, kPlain[one.rank()]);
  }

  // ---- slots and operations
  int new_slot(const MemoryDesc& desc) {
    const int now = static_cast<int>(drafts_.size());
    program_.slots.push_back({desc.get_size(), now, now});
    return static_cast<int>(program_.slots.size()) - 1;
  }

  void add(dnnl::primitive primitive, const MemoryDesc& scratchpad, std::vector<Arg> args,
           std::vector<std::pair<int, memory>> constants = {}) {
    if (scratchpad.get_size() > 0) {
      args.push_back({DNNL_ARG_SCRATCHPAD, {scratchpad, new_slot(scratchpad)}});
    }
    add_draft({std::move(primitive), nullptr, std::move(args), std::move(constants)});
  }
  void add_draft(Draft draft) {
    for (const Arg& arg : draft.args) {
      program_.slots[arg.place.slot].last = static_cast<int>(drafts_.size());
    }
    drafts_.push_back(std::move(draft));
  }

  void add_reorder(const Place& from, const Place& to) {
    const dnnl::reorder::primitive_desc pd(engine(), from.desc, engine(), to.desc,
                                           user_scratchpad());
    add(dnnl::reorder(pd), pd.scratchpad_desc(), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  }

  // The value in the form `desc`, converted if it is not there yet.
  Place fetch(int value, const MemoryDesc& desc) {
    for (const Place& p : values_[value]) {
      if (p.desc == desc) return p;
    }
    const Place from = values_[value][0];
    const Place to{desc, new_slot(desc)};
    add_reorder(from, to);
    values_[value].push_back(to);
    return to;
  }
  const Place& any_form(int value) const { return values_[value][0]; }

  // Whether this step may overwrite the value: nobody reads it later, and it is not the caller's.
  bool dies_here(int value, const Place& place) const {
    return last_read_[value] == static_cast<int>(at_) && place.slot != kInputSlot;
  }

  Place store(int value, const MemoryDesc& desc) { return store(value, desc, new_slot(desc)); }
  Place store(int value, const MemoryDesc& desc, int slot) {
    values_[value].push_back({desc, slot});
    return values_[value].back();
  }
  // For elementwise steps: the result in place of the operand where that is possible.
  Place store_over(const GraphStep& s, const Place& operand) {
    if (dies_here(s.input, operand)) return store(s.output, operand.desc, operand.slot);
    return store(s.output, operand.desc);
  }

  std::string where() const {
    return std::string("CPU, ") + name(graph_.steps[at_].kind) + " step " + std::to_string(at_);
  }

  // ---- steps
  void lower(const GraphStep& s) {
    switch (s.kind) {
      case Kind::kConv:
        return conv(s);
      case Kind::kLinear:
        return linear(s);
      case Kind::kChannelAffine:
        return channel_affine(s);
      case Kind::kActivation:
        return activation(s);
      case Kind::kAdd:
        return binary_add(s);
      case Kind::kMaxPool:
        return pool(s, dnnl::algorithm::pooling_max, s.pool);
      case Kind::kAvgPool:
        return pool(s, dnnl::algorithm::pooling_avg_exclude_padding, s.pool);
      case Kind::kGlobalAvgPool:
        return global_pool(s);
      case Kind::kFlatten:
        return flatten(s);
    }
  }

  std::vector<std::pair<int, memory>> layer_constants(const MemoryDesc& plain_w,
                                                      const MemoryDesc& packed_w) {
    std::vector<std::pair<int, memory>> result{
        {DNNL_ARG_WEIGHTS, constants_.get(at_, Constants::kWeight, plain_w, packed_w)}};
    if (has_bias()) {
      const MemoryDesc bias = bias_desc();
      result.push_back({DNNL_ARG_BIAS, constants_.get(at_, Constants::kBias, bias, bias)});
    }
    return result;
  }
  const Shape& weight_shape() const { return constants_.weight_shape(at_); }
  bool has_bias() const { return constants_.has_bias(at_); }
  MemoryDesc bias_desc() const {
    return MemoryDesc({weight_shape()[0]}, memory::data_type::f32, Tag::a);
  }
  static dnnl::primitive_attr attributes(bool sum, bool relu) {
    dnnl::primitive_attr attr = user_scratchpad();
    dnnl::post_ops ops;
    if (sum) ops.append_sum(1.0f);
    if (relu) append_eltwise(ops, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
    attr.set_post_ops(ops);
    return attr;
  }

  using ConvDesc = dnnl::convolution_forward::primitive_desc;

  // What BlockConv does not serve. Measured with oneDNN 2.6 on AVX-512: its own choice for float32
  // is an NHWC kernel that is slower than the one for blocked channels. For bfloat16 the blocked
  // formats would lose AMX.
  ConvDesc choose_conv(const GraphStep& s) const {
    const Shape& in = graph_.shape(s.input);
    const Shape& out = graph_.shape(s.output);
    const bool f32 = type_ == memory::data_type::f32;
    const bool try_blocked = f32 && isa() >= Isa::kAvx512 && out[0] % 16 == 0;
    const memory::dim padding = s.conv.padding, stride = s.conv.stride, gap = s.conv.dilation - 1;
    const ConvDims size{{stride, stride}, {gap, gap}, {padding, padding}, {padding, padding}};
    const MemoryDesc weight =
        describe_weight(weight_shape(), f32 ? Dtype::kF32 : Dtype::kBF16, s.conv.groups, true);
    const MemoryDesc bias = has_bias() ? bias_desc() : MemoryDesc();
    ConvDesc best;
    for (bool blocked : {true, false}) {
      if (blocked && !try_blocked) continue;
      const Tag src = blocked && in[0] % 16 == 0 ? Tag::nChw16c : Tag::any;
      const ConvDesc pd =
          conv_forward_pd(dnnl::prop_kind::forward_inference, with_tag(in, type_, src), weight,
                          bias, with_tag(out, type_, blocked ? Tag::nChw16c : Tag::any), size,
                          attributes(s.residual >= 0, s.relu), true);
      if (!pd) continue;
      best = pd;
      if (!std::string(pd.impl_info_str()).starts_with("ref")) break;
    }
    if (!best) usage_fail("oneDNN has no such convolution", where());
    return best;
  }

  void conv(const GraphStep& s) {
    if (BlockConv::applies(weight_shape(), s.conv, precision_.computed, precision_.weights)) {
      return block_conv(s);
    }
    const auto map =
        small_map(s.conv, weight_shape(), graph_.shape(s.input), graph_.shape(s.output));
    const bool always =
        map && map->outputs() * map->inputs() <= weight_shape()[2] * weight_shape()[3];
    if (always) return small_conv(s, *map);
    const ConvDesc pd = choose_conv(s);
    auto constants = layer_constants(
        describe_weight(weight_shape(), Dtype::kF32, s.conv.groups, false), pd.weights_desc());
    // Small batches will want the weight just packed, and cannot get it from the matrix.
    if (map && batch_ >= kSpreadFrom) return small_conv(s, *map);
    const Place src = fetch(s.input, pd.src_desc());
    const Place dst = store_sum(s, src, pd.dst_desc());
    add(dnnl::convolution_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}}, std::move(constants));
  }

  void block_conv(const GraphStep& s) {
    const Shape& in = graph_.shape(s.input);
    const Shape& out = graph_.shape(s.output);
    const BlockConv conv(BlockConv::Pass::kForward, batched(batch_, in), weight_shape(),
                         batched(batch_, out), s.conv, precision_.computed, precision_.weights);
    const Tag tag = BlockConv::layout() == Layout::kBlocked16 ? Tag::nChw16c : Tag::nChw8c;
    const Place src = fetch(s.input, with_tag(in, type_, tag));
    const MemoryDesc desc = with_tag(out, type_, tag);
    std::vector<Arg> args{{DNNL_ARG_SRC, src}};
    std::vector<std::pair<int, memory>> constants{
        {DNNL_ARG_WEIGHTS, constants_.get_block(at_, conv)}};
    if (has_bias()) {
      constants.push_back(
          {DNNL_ARG_BIAS, constants_.get(at_, Constants::kBias, bias_desc(), bias_desc())});
    }
    if (s.residual >= 0) {
      const Place residual = fetch(s.residual, desc);
      args.push_back({DNNL_ARG_SRC_1, residual});
      const bool over = dies_here(s.residual, residual) && residual.slot != src.slot;
      args.push_back(
          {DNNL_ARG_DST, over ? store(s.output, desc, residual.slot) : store(s.output, desc)});
    } else {
      args.push_back({DNNL_ARG_DST, store(s.output, desc)});
    }
    add_draft({{},
               std::make_shared<const BlockStep>(BlockStep{conv, s.relu}),
               std::move(args),
               std::move(constants)});
  }

  // Where a convolution writes. A residual is added in place: over the residual itself if this is
  // its last use, else over a copy.
  Place store_sum(const GraphStep& s, const Place& src, const MemoryDesc& desc) {
    if (s.residual < 0) return store(s.output, desc);
    const Place residual = fetch(s.residual, desc);
    if (dies_here(s.residual, residual) && residual.slot != src.slot) {
      return store(s.output, desc, residual.slot);
    }
    const Place dst = store(s.output, desc);
    add_reorder(residual, dst);
    return dst;
  }

  void small_conv(const GraphStep& s, const SmallMap& map) {
    const Shape& in = graph_.shape(s.input);
    const Shape& out = graph_.shape(s.output);
    const MemoryDesc src_rows({batch_, in.numel()}, type_, Tag::ab);
    const MemoryDesc dst_rows({batch_, out.numel()}, type_, Tag::ab);
    const MemoryDesc bias({out.numel()}, memory::data_type::f32, Tag::a);
    const auto pd = inner_product_pd(
        src_rows, MemoryDesc({out.numel(), in.numel()}, type_, Tag::any),
        has_bias() ? bias : MemoryDesc(), dst_rows, attributes(s.residual >= 0, s.relu));
    // NHWC images are the rows.
    const Place src = fetch(s.input, with_tag(in, type_, Tag::nhwc));
    const Place dst = store_sum(s, src, with_tag(out, type_, Tag::nhwc));
    std::vector<std::pair<int, memory>> constants{
        {DNNL_ARG_WEIGHTS, constants_.get_spread(at_, map, pd.weights_desc())}};
    if (has_bias()) {
      constants.push_back({DNNL_ARG_BIAS, constants_.get_spread_bias(at_, map, bias_desc())});
    }
    add(dnnl::inner_product_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, {src_rows, src.slot}}, {DNNL_ARG_DST, {dst_rows, dst.slot}}},
        std::move(constants));
  }

  void linear(const GraphStep& s) {
    const memory::dims size{weight_shape()[0], weight_shape()[1]};
    const Shape& in = graph_.shape(s.input);
    const Shape& out = graph_.shape(s.output);
    // The network's result needs no rounding to bfloat16 on its way out.
    const auto out_type = s.output == graph_.output ? memory::data_type::f32 : type_;
    const auto pd = inner_product_pd(plain(in, type_), MemoryDesc(size, type_, Tag::any),
                                     has_bias() ? bias_desc() : MemoryDesc(), plain(out, out_type),
                                     attributes(false, s.relu));
    const Place src = fetch(s.input, pd.src_desc());
    const Place dst = store(s.output, pd.dst_desc());
    add(dnnl::inner_product_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}},
        layer_constants(MemoryDesc(size, memory::data_type::f32, Tag::ab), pd.weights_desc()));
  }

  // x * scale + shift is a batch norm with mean 0, variance 1 and epsilon 0.
  void channel_affine(const GraphStep& s) {
    const Place src = any_form(s.input);
    const int64_t channels = graph_.shape(s.input)[0];
    auto flags = dnnl::normalization_flags::use_global_stats |
                 dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
    const auto pd = batch_norm_inference_pd(src.desc, 0.0f, flags, attributes(false, s.relu));
    const Place dst = store_over(s, src);
    const MemoryDesc vector({channels}, memory::data_type::f32, Tag::a);
    add(dnnl::batch_normalization_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}},
        {{DNNL_ARG_MEAN, constants_.filled(channels, 0.0f)},
         {DNNL_ARG_VARIANCE, constants_.filled(channels, 1.0f)},
         {DNNL_ARG_SCALE, constants_.get(at_, Constants::kWeight, vector, vector)},
         {DNNL_ARG_SHIFT, has_bias() ? constants_.get(at_, Constants::kBias, vector, vector)
                                     : constants_.filled(channels, 0.0f)}});
  }

  void activation(const GraphStep& s) {
    float a = 0, b = 0;
    dnnl::algorithm algorithm = dnnl::algorithm::undef;
    switch (s.activation) {
      case UnaryOp::kAffine:
        algorithm = dnnl::algorithm::eltwise_linear;
        a = s.a;
        b = s.b;
        break;
      case UnaryOp::kRelu:
        algorithm = dnnl::algorithm::eltwise_relu;
        break;
      case UnaryOp::kLeakyRelu:
        algorithm = dnnl::algorithm::eltwise_relu;
        a = s.a;
        break;
      case UnaryOp::kSigmoid:
        algorithm = dnnl::algorithm::eltwise_logistic;
        break;
      case UnaryOp::kTanh:
        algorithm = dnnl::algorithm::eltwise_tanh;
        break;
      case UnaryOp::kExp:
        algorithm = dnnl::algorithm::eltwise_exp;
        break;
      case UnaryOp::kLog:
        algorithm = dnnl::algorithm::eltwise_log;
        break;
      case UnaryOp::kSqrt:
        algorithm = dnnl::algorithm::eltwise_sqrt;
        break;
      case UnaryOp::kSquare:
        algorithm = dnnl::algorithm::eltwise_square;
        break;
      case UnaryOp::kAbs:
        algorithm = dnnl::algorithm::eltwise_abs;
        break;
    }
    const Place src = any_form(s.input);
    const auto pd = eltwise_pd(algorithm, src.desc, a, b, user_scratchpad());
    const Place dst = store_over(s, src);
    add(dnnl::eltwise_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}});
  }

  void binary_add(const GraphStep& s) {
    const Place a = any_form(s.input);
    const Place b = fetch(s.residual, a.desc);
    const auto pd =
        binary_pd(dnnl::algorithm::binary_add, a.desc, b.desc, a.desc, attributes(false, s.relu));
    const Place dst = store_over(s, a);
    add(dnnl::binary(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC_0, a}, {DNNL_ARG_SRC_1, b}, {DNNL_ARG_DST, dst}});
  }

  dnnl::pooling_forward::primitive_desc pooling(const MemoryDesc& src, const memory::dims& out,
                                                dnnl::algorithm algorithm,
                                                const memory::dims& stride,
                                                const memory::dims& kernel,
                                                memory::dim padding) const {
    const MemoryDesc dst(out, data_type_of(src), Tag::any);
    return pooling_pd(algorithm, src, dst, stride, kernel, {padding, padding}, user_scratchpad());
  }

  void pool(const GraphStep& s, dnnl::algorithm algorithm, const PoolSpec& spec) {
    const Place src = any_form(s.input);
    const auto pd = pooling(src.desc, dims(graph_.shape(s.output)), algorithm,
                            {spec.stride, spec.stride}, {spec.kernel, spec.kernel}, spec.padding);
    const Place dst = store(s.output, pd.dst_desc());
    add(dnnl::pooling_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}});
  }

  void global_pool(const GraphStep& s) {
    const Shape& in = graph_.shape(s.input);
    const Shape out{in[0], 1, 1};
    const Place src = any_form(s.input);
    const auto pd = pooling(src.desc, dims(out), dnnl::algorithm::pooling_avg_exclude_padding,
                            {in[1], in[2]}, {in[1], in[2]}, 0);
    Place dst{pd.dst_desc(), new_slot(pd.dst_desc())};
    add(dnnl::pooling_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}});
    const MemoryDesc flat = plain(graph_.shape(s.output), data_type_of(src.desc));
    // One pixel: without padded channels every format is [B, C] in memory.
    if (dst.desc.get_size() != flat.get_size()) {
      const MemoryDesc nchw = plain(out, data_type_of(src.desc));
      const Place unpadded{nchw, new_slot(nchw)};
      add_reorder(dst, unpadded);
      dst = unpadded;
    }
    store(s.output, flat, dst.slot);
  }

  void flatten(const GraphStep& s) {
    const Place src = any_form(s.input);
    const MemoryDesc flat = plain(graph_.shape(s.output), data_type_of(src.desc));
    const int slot = new_slot(flat);
    add_reorder(src, {plain(graph_.shape(s.input), data_type_of(src.desc)), slot});
    store(s.output, flat, slot);
  }

  // ---- from drafts to a program
  Program finish() {
    Program& p = program_;
    p.batch = batch_;
    p.arena_bytes = plan_arena(p.slots, kAlignment, p.output_slot);
    auto memory_for = [&](const Place& place) {
      for (const SlotMemory& m : p.memories) {
        if (m.slot == place.slot && m.data.get_desc() == place.desc) return m.data.get();
      }
      p.memories.push_back({place.slot, memory(place.desc, engine(), DNNL_MEMORY_NONE)});
      const memory& m = p.memories.back().data;
      if (place.slot == kInputSlot) p.input.push_back(m);
      if (place.slot == p.output_slot) p.output.push_back(m);
      return m.get();
    };
    for (Draft& draft : drafts_) {
      Op op{std::move(draft.primitive), std::move(draft.block), {}};
      for (const Arg& arg : draft.args) op.args.push_back({arg.name, memory_for(arg.place)});
      for (const auto& [arg, data] : draft.constants) op.args.push_back({arg, data.get()});
      p.ops.push_back(std::move(op));
    }
    return std::move(p);
  }

  const Graph& graph_;
  const memory::data_type type_;
  const Precision precision_;
  const int64_t batch_;
  Constants& constants_;
  std::vector<std::vector<Place>> values_;  // each value's forms, the first as it was made
  std::vector<int> last_read_;              // value -> the last step that reads it
  size_t at_ = 0;                           // the step being lowered
  std::vector<Draft> drafts_;
  Program program_;
};

class CpuNet {
 public:
  CpuNet(const Graph& graph, Precision precision, int64_t max_batch)
      : graph_(graph), precision_(precision), max_batch_(max_batch), constants_(graph) {
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
    return Builder(graph_, precision_, batch, constants_).build();
  }

  Graph graph_;  // without its weights
  const Precision precision_;
  const int64_t max_batch_;
  Constants constants_;
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
    if (op.block) {
      op.block->run(op.args);
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
  CpuExecutable(const std::vector<Graph>& nets, Precision precision, int64_t max_batch)
      : output_(nets[0].shape(nets[0].output)) {
    for (const Graph& net : nets) {
      nets_.push_back(std::make_unique<CpuNet>(net, precision, max_batch));
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
  if (max_batch < 1) {
    usage_fail("the maximal batch must be at least 1, not " + std::to_string(max_batch), "compile");
  }
  for (const Shape& one : nets.at(0).values) {
    if (one.rank() >= Shape::kMaxRank - 1) {
      usage_fail("no room for the axes of nets and batch in a value of shape " + one.str(),
                 "compile");
    }
  }
  const Precision precision{isa() < Isa::kAvx512Bf16 ? Dtype::kF32 : dtype, dtype};
  return std::make_unique<CpuExecutable>(nets, precision, max_batch);
} catch (const dnnl::error& e) {
  fail(std::string("oneDNN cannot prepare this network: ") + e.what(), "CPU executable");
}

}  // namespace ens
