// SPDX-License-Identifier: Apache-2.0
#include "nn/plan/int8_bytes.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "base/error.h"

namespace ens {
namespace {

[[noreturn]] void damaged() { fail("the bytes are no int8 network", "int8 network"); }

class Writer {
 public:
  template <typename T>
  void number(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    out.insert(out.end(), from, from + sizeof value);
  }
  void shape(const Shape& shape) {
    number<int64_t>(shape.rank());
    for (const int64_t size : shape.dims()) number(size);
  }
  void tensor(const Tensor& tensor) {
    number<uint8_t>(tensor.defined());
    if (!tensor.defined()) return;
    shape(tensor.shape());
    const auto* from = static_cast<const std::byte*>(tensor.host());
    out.insert(out.end(), from, from + tensor.bytes());
  }
  std::vector<std::byte> out;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : left_(bytes) {}

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  int64_t between(int64_t low, int64_t high) {
    const auto value = number<int64_t>();
    if (value < low || value > high) damaged();
    return value;
  }
  Shape shape() {
    std::vector<int64_t> sizes(static_cast<size_t>(between(0, 5)));
    int64_t count = 1;
    for (int64_t& size : sizes) {
      size = between(1, kMost / count);
      count *= size;
    }
    return Shape(sizes);
  }
  Tensor tensor(Dtype dtype) {
    const auto there = number<uint8_t>();
    if (there > 1) damaged();
    if (!there) return {};
    const Shape of = shape();
    const auto bytes = take(static_cast<size_t>(of.numel()) * size_of(dtype));
    Tensor out = Tensor::empty(of, dtype);
    std::memcpy(out.host(), bytes.data(), bytes.size());
    return out;
  }
  bool done() const { return left_.empty(); }

 private:
  static constexpr int64_t kMost = int64_t{1} << 31;
  std::span<const std::byte> take(size_t size) {
    if (size > left_.size()) damaged();
    const auto front = left_.first(size);
    left_ = left_.subspan(size);
    return front;
  }
  std::span<const std::byte> left_;
};

}  // namespace

std::vector<std::byte> to_bytes(const Int8Net& net) {
  Writer w;
  w.number<int64_t>(std::ssize(net.graph.values));
  for (const Shape& value : net.graph.values) w.shape(value);
  w.number<int64_t>(net.graph.input);
  w.number<int64_t>(net.graph.output);
  w.number<int64_t>(std::ssize(net.graph.steps));
  for (const GraphStep& s : net.graph.steps) {
    for (const int v :
         {static_cast<int>(s.kind), s.input, s.output, s.residual, s.conv.stride, s.conv.padding,
          s.conv.dilation, s.conv.groups, s.pool.kernel, s.pool.stride, s.pool.padding,
          static_cast<int>(s.activation), static_cast<int>(s.relu)})
      w.number<int64_t>(v);
    w.number(s.a);
    w.number(s.b);
    w.tensor(s.weight);
    w.tensor(s.bias);
  }
  // Which steps form a group follows from the graph.
  for (const Int8Group& group : net.groups) {
    w.number(group.input_scale);
    for (const Int8Step& step : group.steps) {
      w.tensor(step.layer.weight);
      for (const float scale : step.scales) w.number(scale);
    }
  }
  return std::move(w.out);
}

Int8Net int8_net_of(std::span<const std::byte> bytes) {
  Reader r(bytes);
  Int8Net net;
  Graph& graph = net.graph;
  const int64_t values = r.between(1, 1 << 20);
  for (int64_t i = 0; i < values; ++i) graph.values.push_back(r.shape());
  const auto value = [&](int64_t low = 0) { return static_cast<int>(r.between(low, values - 1)); };
  const auto small = [&](int64_t low, int64_t high) {
    return static_cast<int>(r.between(low, high));
  };
  graph.input = value();
  graph.output = value();
  const int64_t steps = r.between(1, 1 << 20);
  for (int64_t i = 0; i < steps; ++i) {
    GraphStep s{};
    s.kind = static_cast<GraphStep::Kind>(small(0, static_cast<int>(GraphStep::Kind::kFlatten)));
    s.input = value();
    s.output = value();
    s.residual = value(-1);
    s.conv = {small(1, 4096), small(0, 4096), small(1, 4096), small(1, 1 << 20)};
    s.pool = {small(0, 4096), small(0, 4096), small(0, 4096)};
    s.activation = static_cast<UnaryOp>(small(0, static_cast<int>(UnaryOp::kAbs)));
    s.relu = small(0, 1) != 0;
    s.a = r.number<float>();
    s.b = r.number<float>();
    s.weight = r.tensor(Dtype::kF32);
    s.bias = r.tensor(Dtype::kF32);
    graph.steps.push_back(s);
  }
  net.groups = int8_groups(graph);
  for (Int8Group& group : net.groups) {
    group.input_scale = r.number<float>();
    if (!(std::isfinite(group.input_scale) && group.input_scale > 0)) damaged();
    for (Int8Step& step : group.steps) {
      step.layer.weight = r.tensor(Dtype::kI8);
      const Tensor& w = step.layer.weight;
      if (!w.defined() || (w.rank() != 4 && w.rank() != 2)) damaged();
      for (int64_t o = 0; o < w.dim(0); ++o) step.scales.push_back(r.number<float>());
    }
  }
  if (net.groups.empty() || !r.done()) damaged();
  return net;
}

}  // namespace ens
