// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/program.h"

#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"
#include "nn/cpu/block_conv.h"
#include "nn/cpu/dnnl_compat.h"
#include "nn/cpu/sequence.h"

namespace ens::cpu {

using dnnl::memory;
using Kind = GraphStep::Kind;
using Tag = memory::format_tag;

namespace {

constexpr size_t kAlignment = 64;  // of slots in the arena

class Builder {
 public:
  Builder(const Graph& graph, Dtype dtype, int64_t batch, PackedConstants& constants,
          const ConvImplementation* forced)
      : graph_(graph),
        dtype_(dtype),
        dtypes_(serving_dtypes(dtype)),
        type_(to_dnnl(dtypes_.activations)),
        batch_(batch),
        constants_(constants),
        forced_(forced),
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
    HostStep host;
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
    add_draft({std::move(primitive), {}, std::move(args), std::move(constants)});
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
      case Kind::kTokens:
        return tokens(s);
      case Kind::kLayerNorm:
        return layer_norm(s);
      case Kind::kAttention:
        return attention(s);
      case Kind::kFirstToken:
        return first_token(s);
    }
  }

  std::vector<std::pair<int, memory>> layer_constants(const MemoryDesc& plain_w,
                                                      const MemoryDesc& packed_w) {
    std::vector<std::pair<int, memory>> result{
        {DNNL_ARG_WEIGHTS, constants_.weight(at_, plain_w, packed_w)}};
    if (has_bias()) {
      result.push_back({DNNL_ARG_BIAS, constants_.bias(at_, bias_desc())});
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

  // Measured with oneDNN 2.6 on AVX-512: its own choice for float32 is an NHWC kernel that is
  // slower than the one for blocked channels. For bfloat16 the blocked formats would lose AMX.
  ConvDesc choose_conv_desc(const GraphStep& s) const {
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
    const ConvProblem problem{.x = batched(batch_, graph_.shape(s.input)),
                              .w = weight_shape(),
                              .y = batched(batch_, graph_.shape(s.output)),
                              .spec = s.conv,
                              .dtype = dtype_,
                              .serving = true};
    switch (choose_conv(problem, forced_).kind) {
      case ConvImplementation::Kind::kBlockConv:
        return block_conv(s);
      case ConvImplementation::Kind::kDenseSmallMap:
        // Smaller batches may want oneDNN's form of the weight, which can only be made now.
        if (!DenseSmallMap::serves_every_batch(problem)) onednn_constants(s, choose_conv_desc(s));
        return dense_small_map(s, {problem.x, problem.w, problem.y, problem.spec});
      case ConvImplementation::Kind::kOneDnn:
        return onednn_conv(s);
    }
  }

  std::vector<std::pair<int, memory>> onednn_constants(const GraphStep& s, const ConvDesc& pd) {
    return layer_constants(describe_weight(weight_shape(), Dtype::kF32, s.conv.groups, false),
                           pd.weights_desc());
  }

  void onednn_conv(const GraphStep& s) {
    const ConvDesc pd = choose_conv_desc(s);
    auto constants = onednn_constants(s, pd);
    const Place src = fetch(s.input, pd.src_desc());
    const Place dst = store_sum(s, src, pd.dst_desc());
    add(dnnl::convolution_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}}, std::move(constants));
  }

  void block_conv(const GraphStep& s) {
    const Shape& in = graph_.shape(s.input);
    const Shape& out = graph_.shape(s.output);
    const BlockConv conv(BlockConv::Pass::kForward, batched(batch_, in), weight_shape(),
                         batched(batch_, out), s.conv, dtypes_.activations, dtypes_.weights);
    const Tag tag = BlockConv::layout() == Layout::kBlocked16 ? Tag::nChw16c : Tag::nChw8c;
    const Place src = fetch(s.input, with_tag(in, type_, tag));
    const MemoryDesc desc = with_tag(out, type_, tag);
    std::vector<Arg> args{{DNNL_ARG_SRC, src}};
    std::vector<std::pair<int, memory>> constants{
        {DNNL_ARG_WEIGHTS, constants_.block_weight(at_, conv)}};
    if (has_bias()) {
      constants.push_back({DNNL_ARG_BIAS, constants_.bias(at_, bias_desc())});
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
    // The residual is SRC_1.
    const auto run = [conv, relu = s.relu](const Arguments& at) {
      conv.run(at[DNNL_ARG_SRC], at[DNNL_ARG_WEIGHTS], static_cast<const float*>(at[DNNL_ARG_BIAS]),
               at[DNNL_ARG_SRC_1], relu, at[DNNL_ARG_DST]);
    };
    add_draft({{}, run, std::move(args), std::move(constants)});
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

  void dense_small_map(const GraphStep& s, const DenseSmallMap& map) {
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
        {DNNL_ARG_WEIGHTS, constants_.dense_weight(at_, map, pd.weights_desc())}};
    if (has_bias()) {
      constants.push_back({DNNL_ARG_BIAS, constants_.dense_bias(at_, map, bias_desc())});
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
    // Tokens are rows like images.
    const int64_t rows = batch_ * (in.rank() == 2 ? in[0] : 1);
    const MemoryDesc src_rows({rows, size[1]}, type_, Tag::ab),
        dst_rows({rows, size[0]}, out_type, Tag::ab);
    const auto pd = inner_product_pd(src_rows, MemoryDesc(size, type_, Tag::any),
                                     has_bias() ? bias_desc() : MemoryDesc(), dst_rows,
                                     attributes(false, s.relu));
    const Place src = fetch(s.input, plain(in, type_));
    const Place dst = store(s.output, plain(out, out_type));
    add(dnnl::inner_product_forward(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_SRC, {src_rows, src.slot}}, {DNNL_ARG_DST, {dst_rows, dst.slot}}},
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
         {DNNL_ARG_SCALE, constants_.weight(at_, vector, vector)},
         {DNNL_ARG_SHIFT,
          has_bias() ? constants_.bias(at_, vector) : constants_.filled(channels, 0.0f)}});
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
      case UnaryOp::kGelu:
        algorithm = dnnl::algorithm::eltwise_gelu_erf;
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

  // ---- tokens
  std::vector<std::pair<int, memory>> float_constants(const Shape& bias) {
    const MemoryDesc weight({weight_shape().numel()}, memory::data_type::f32, Tag::a);
    const MemoryDesc plain_bias({bias.numel()}, memory::data_type::f32, Tag::a);
    return {{DNNL_ARG_WEIGHTS, constants_.weight(at_, weight, weight)},
            {DNNL_ARG_BIAS, constants_.bias(at_, plain_bias)}};
  }

  void tokens(const GraphStep& s) {
    const Shape& in = graph_.shape(s.input);
    const Shape& out = graph_.shape(s.output);
    // NHWC images are rows of tokens.
    const Place src =
        fetch(s.input, in.rank() == 3 ? with_tag(in, type_, Tag::nhwc) : plain(in, type_));
    const Place dst = store(s.output, plain(out, type_));
    const TokenShape shape{out[0], out[1]};
    const auto run = [shape, batch = batch_, dtype = dtypes_.activations](const Arguments& at) {
      place_tokens(dtype, at[DNNL_ARG_SRC], static_cast<const float*>(at[DNNL_ARG_WEIGHTS]),
                   static_cast<const float*>(at[DNNL_ARG_BIAS]), at[DNNL_ARG_DST], batch, shape);
    };
    add_draft({{}, run, {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}}, float_constants(out)});
  }

  void layer_norm(const GraphStep& s) {
    const Shape& in = graph_.shape(s.input);
    const Place src = fetch(s.input, plain(in, type_));
    const Place dst = store(s.output, plain(in, type_));
    const auto run = [rows = batch_ * in[0], width = in[1], eps = s.a,
                      dtype = dtypes_.activations](const Arguments& at) {
      layer_norm_rows(dtype, at[DNNL_ARG_SRC], static_cast<const float*>(at[DNNL_ARG_WEIGHTS]),
                      static_cast<const float*>(at[DNNL_ARG_BIAS]), at[DNNL_ARG_DST], rows, width,
                      eps, nullptr, nullptr);
    };
    add_draft({{}, run, {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}}, float_constants({in[1]})});
  }

  void attention(const GraphStep& s) {
    const Shape& out = graph_.shape(s.output);
    const Place src = fetch(s.input, plain(graph_.shape(s.input), type_));
    const Place dst = store(s.output, plain(out, type_));
    const TokenShape shape{out[0], out[1]};
    const auto run = [shape, batch = batch_, heads = s.heads,
                      dtype = dtypes_.activations](const Arguments& at) {
      attend(dtype, at[DNNL_ARG_SRC], at[DNNL_ARG_DST], batch, heads, shape);
    };
    add_draft({{}, run, {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}}, {}});
  }

  void first_token(const GraphStep& s) {
    const Shape& in = graph_.shape(s.input);
    const Place src = fetch(s.input, plain(in, type_));
    const Place dst = store(s.output, plain(graph_.shape(s.output), type_));
    const size_t bytes = static_cast<size_t>(in[1]) * size_of(dtypes_.activations);
    const auto run = [bytes, batch = batch_, tokens = in[0]](const Arguments& at) {
      const auto* from = static_cast<const std::byte*>(at[DNNL_ARG_SRC]);
      auto* to = static_cast<std::byte*>(at[DNNL_ARG_DST]);
      for (int64_t b = 0; b < batch; ++b) {
        std::memcpy(to + static_cast<size_t>(b) * bytes,
                    from + static_cast<size_t>(b * tokens) * bytes, bytes);
      }
    };
    add_draft({{}, run, {{DNNL_ARG_SRC, src}, {DNNL_ARG_DST, dst}}, {}});
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
      Op op{std::move(draft.primitive), std::move(draft.host), {}};
      for (const Arg& arg : draft.args) op.args.push_back({arg.name, memory_for(arg.place)});
      for (const auto& [arg, data] : draft.constants) op.args.push_back({arg, data.get()});
      p.ops.push_back(std::move(op));
    }
    return std::move(p);
  }

  const Graph& graph_;
  const Dtype dtype_;             // asked for
  const ConvDtypes dtypes_;       // in use
  const memory::data_type type_;  // of activations
  const int64_t batch_;
  PackedConstants& constants_;
  const ConvImplementation* const forced_;
  std::vector<std::vector<Place>> values_;  // each value's forms, the first as it was made
  std::vector<int> last_read_;              // value -> the last step that reads it
  size_t at_ = 0;                           // the step being lowered
  std::vector<Draft> drafts_;
  Program program_;
};
}  // namespace

void* Arguments::operator[](int name) const {
  for (const dnnl_exec_arg_t& arg : args_) {
    if (arg.arg == name) return memory(arg.memory, true).get_data_handle();
  }
  return nullptr;
}

Program build_program(const Graph& graph, Dtype dtype, int64_t batch, PackedConstants& constants,
                      const ConvImplementation* forced) {
  return Builder(graph, dtype, batch, constants, forced).build();
}

}  // namespace ens::cpu
