// SPDX-License-Identifier: Apache-2.0
#include "nn/io/onnx.h"

#include <array>
#include <limits>

#include "base/error.h"
#include "base/files.h"
#include "nn/io/onnx.pb.h"

namespace ens {
namespace {

using Kind = GraphStep::Kind;

constexpr int kFloat = 1;  // TensorProto.DataType
constexpr int kIrVersion = 7, kOpset = 13;

void set_shape(const std::string& name, const Shape& one, onnx::ValueInfoProto& value) {
  value.set_name(name);
  auto& tensor = *value.mutable_type()->mutable_tensor_type();
  tensor.set_elem_type(kFloat);
  tensor.mutable_shape()->add_dim()->set_dim_param("batch");
  for (const int64_t dim : one.dims()) tensor.mutable_shape()->add_dim()->set_dim_value(dim);
}

// Appends one net's steps to a model's graph.
class Writer {
 public:
  Writer(const Graph& net, const std::string& number, onnx::GraphProto& graph)
      : net_(net),
        prefix_(number.empty() ? "" : "net" + number + "/"),
        output_("output" + number),
        graph_(graph) {}

  void write(const Tensor& offset) {
    has_offset_ = offset.defined();
    for (const GraphStep& step : net_.steps) write(step);
    if (offset.defined()) node("Add", {value(net_.output), constant(offset)}, output_);
  }

 private:
  std::string value(int index) const {
    if (index == net_.input) return "input";
    if (index == net_.output && !has_offset_) return output_;
    return prefix_ + "value" + std::to_string(index);
  }
  // A name that nothing has yet.
  std::string fresh(const std::string& what) { return prefix_ + what + std::to_string(next_++); }

  onnx::NodeProto& node(const char* op, const std::vector<std::string>& inputs,
                        const std::string& output) {
    onnx::NodeProto& n = *graph_.add_node();
    n.set_op_type(op);
    n.set_name(fresh("node"));
    for (const std::string& input : inputs) n.add_input(input);
    n.add_output(output);
    return n;
  }
  std::string constant(const Tensor& tensor) {
    onnx::TensorProto& t = *graph_.add_initializer();
    t.set_name(fresh("weight"));
    t.set_data_type(kFloat);
    const Tensor values = tensor.to(Device{}).to(Dtype::kF32).plain();
    for (const int64_t dim : values.shape().dims()) t.add_dims(dim);
    t.set_raw_data(values.raw(), values.bytes());
    return t.name();
  }
  std::string constant(float scalar) { return constant(Tensor::from({scalar}, {1})); }
  // One number for each channel, as it is added to values with `rank` axes behind the batch's.
  std::string channels(const Tensor& tensor, int rank) {
    return constant(rank == 3 ? tensor.reshape({tensor.numel(), 1, 1}) : tensor);
  }
  static void attribute(onnx::NodeProto& n, const char* name, const std::vector<int64_t>& values) {
    onnx::AttributeProto& a = *n.add_attribute();
    a.set_name(name);
    a.set_type(onnx::AttributeProto::INTS);
    for (const int64_t v : values) a.add_ints(v);
  }
  static void attribute(onnx::NodeProto& n, const char* name, int64_t v) {
    onnx::AttributeProto& a = *n.add_attribute();
    a.set_name(name);
    a.set_type(onnx::AttributeProto::INT);
    a.set_i(v);
  }
  static void attribute(onnx::NodeProto& n, const char* name, float v) {
    onnx::AttributeProto& a = *n.add_attribute();
    a.set_name(name);
    a.set_type(onnx::AttributeProto::FLOAT);
    a.set_f(v);
  }
  static void window(onnx::NodeProto& n, int64_t height, int64_t width, int64_t stride,
                     int64_t padding) {
    attribute(n, "kernel_shape", std::vector<int64_t>{height, width});
    attribute(n, "strides", std::vector<int64_t>{stride, stride});
    attribute(n, "pads", std::vector<int64_t>(4, padding));
  }

  void write(const GraphStep& s) {
    const int rank = net_.shape(s.input).rank();
    const std::string in = value(s.input), out = value(s.output);
    // What fusion has put behind the step itself, in this order.
    const bool adds = s.residual >= 0, cuts = s.relu;
    std::string own = adds || cuts ? fresh("partial") : out;
    switch (s.kind) {
      case Kind::kConv: {
        std::vector<std::string> inputs{in, constant(s.weight)};
        if (s.bias.defined()) inputs.push_back(constant(s.bias));
        onnx::NodeProto& n = node("Conv", inputs, own);
        window(n, s.weight.dim(2), s.weight.dim(3), s.conv.stride, s.conv.padding);
        attribute(n, "dilations", std::vector<int64_t>(2, s.conv.dilation));
        attribute(n, "group", int64_t{s.conv.groups});
        break;
      }
      case Kind::kLinear: {
        std::vector<std::string> inputs{in, constant(s.weight)};
        if (s.bias.defined()) inputs.push_back(constant(s.bias));
        attribute(node("Gemm", inputs, own), "transB", int64_t{1});
        break;
      }
      case Kind::kChannelAffine: {
        const std::string scaled = fresh("scaled");
        node("Mul", {in, channels(s.weight, rank)}, scaled);
        node("Add", {scaled, channels(s.bias, rank)}, own);
        break;
      }
      case Kind::kActivation:
        activation(s, in, own);
        break;
      case Kind::kAdd:
        node("Add", {in, value(s.residual)}, cuts ? own : out);
        if (cuts) node("Relu", {own}, out);
        return;
      case Kind::kMaxPool:
        window(node("MaxPool", {in}, own), s.pool.kernel, s.pool.kernel, s.pool.stride,
               s.pool.padding);
        break;
      case Kind::kAvgPool:  // without the padding, as ours
        window(node("AveragePool", {in}, own), s.pool.kernel, s.pool.kernel, s.pool.stride,
               s.pool.padding);
        break;
      case Kind::kGlobalAvgPool: {
        const std::string pooled = fresh("pooled");
        node("GlobalAveragePool", {in}, pooled);
        attribute(node("Flatten", {pooled}, own), "axis", int64_t{1});
        break;
      }
      case Kind::kFlatten:
        attribute(node("Flatten", {in}, own), "axis", int64_t{1});
        break;
      case Kind::kTokens:
      case Kind::kLayerNorm:
      case Kind::kAttention:
      case Kind::kFirstToken:
        not_there(s);
    }
    if (adds) {
      const std::string sum = cuts ? fresh("partial") : out;
      node("Add", {own, value(s.residual)}, sum);
      own = sum;
    }
    if (cuts) node("Relu", {own}, out);
  }

  [[noreturn]] static void not_there(const GraphStep& s) {
    usage_fail(std::string("a ") + name(s.kind) + " step of a transformer is not written as ONNX",
               "ONNX", "export as safetensors");
  }

  void activation(const GraphStep& s, const std::string& in, const std::string& out) {
    switch (s.activation) {
      case UnaryOp::kAffine: {
        const std::string scaled = fresh("scaled");
        node("Mul", {in, constant(s.a)}, scaled);
        node("Add", {scaled, constant(s.b)}, out);
        return;
      }
      case UnaryOp::kLeakyRelu:
        attribute(node("LeakyRelu", {in}, out), "alpha", s.a);
        return;
      case UnaryOp::kSquare:
        node("Mul", {in, in}, out);
        return;
      case UnaryOp::kRelu:
        node("Relu", {in}, out);
        return;
      case UnaryOp::kSigmoid:
        node("Sigmoid", {in}, out);
        return;
      case UnaryOp::kTanh:
        node("Tanh", {in}, out);
        return;
      case UnaryOp::kExp:
        node("Exp", {in}, out);
        return;
      case UnaryOp::kLog:
        node("Log", {in}, out);
        return;
      case UnaryOp::kSqrt:
        node("Sqrt", {in}, out);
        return;
      case UnaryOp::kAbs:
        node("Abs", {in}, out);
        return;
      case UnaryOp::kGelu:
        break;
    }
    not_there(s);
  }

  const Graph& net_;
  const std::string prefix_, output_;
  onnx::GraphProto& graph_;
  bool has_offset_ = false;
  int next_ = 0;
};

}  // namespace

void write_onnx(const std::filesystem::path& file, const std::vector<Graph>& nets,
                const OnnxOptions& options) {
  onnx::ModelProto model;
  model.set_ir_version(kIrVersion);
  model.set_producer_name("Ensembler");
  model.add_opset_import()->set_version(kOpset);
  for (const auto& [key, text] : options.metadata) {
    auto& entry = *model.add_metadata_props();
    entry.set_key(key);
    entry.set_value(text);
  }
  onnx::GraphProto& graph = *model.mutable_graph();
  graph.set_name(options.name);
  const Shape& input = nets.at(0).shape(nets[0].input);
  set_shape("input", input, *graph.add_input());
  int64_t parameters = 0;
  for (size_t i = 0; i < nets.size(); ++i) {
    const Graph& net = nets[i];
    const std::string number = nets.size() > 1 ? std::to_string(i) : "";
    if (!(net.shape(net.input) == input)) {
      fail("nets of one model read inputs of one shape", file.string());
    }
    parameters += net.parameters();
    if (parameters > std::numeric_limits<int32_t>::max() / 4 - (1 << 20)) {
      fail("the weights are too large for one ONNX file, which holds 2 GiB", file.string(),
           "export fewer nets into one file");
    }
    set_shape("output" + number, net.shape(net.output), *graph.add_output());
    Writer(net, number, graph).write(options.offset);
  }
  write_file_atomically(file, model.SerializeAsString(), options.secret);
}

}  // namespace ens
