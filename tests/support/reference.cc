// SPDX-License-Identifier: Apache-2.0
#include "tests/support/reference.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace ens::test {

Reference::Reference(const std::string& path) : path_(path) {
  const std::string hint = "run tests/nn/modules/make_torch_reference.py";
  std::ifstream file(std::string(ENS_SOURCE_DIR) + "/" + path, std::ios::binary);
  if (!file) fail("cannot read the reference", path, hint);
  std::vector<Shape> shapes;
  std::string line;
  while (std::getline(file, line) && line != "end") {
    std::istringstream fields(line);
    std::string name;
    fields >> name;
    std::vector<int64_t> dims;
    for (int64_t d; fields >> d;) dims.push_back(d);
    order_.push_back(name);
    shapes.emplace_back(std::span<const int64_t>(dims));
  }
  for (size_t i = 0; i < order_.size(); ++i) {
    Tensor t = Tensor::empty(shapes[i]);
    file.read(static_cast<char*>(t.raw()), static_cast<std::streamsize>(t.bytes()));
    if (!file) fail("the reference ends early, at '" + order_[i] + "'", path, hint);
    entries_[order_[i]] = t;
  }
}

Tensor Reference::operator[](const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) fail("no entry '" + name + "'", path_);
  return found->second;
}

std::vector<std::string> Reference::names(const std::string& prefix) const {
  std::vector<std::string> result;
  for (const std::string& name : order_) {
    if (name.starts_with(prefix)) result.push_back(name.substr(prefix.size()));
  }
  return result;
}

Tensor pattern(const std::string& name, const Shape& shape) {
  uint32_t x = 2166136261u;
  for (const char c : name) x = (x ^ static_cast<uint8_t>(c)) * 16777619u;
  Tensor t = Tensor::empty(shape);
  for (float& f : t.span<float>()) {
    x = x * 1664525u + 1013904223u;
    f = static_cast<float>(x >> 8) / 8388608.0f - 1.0f;  // exact in float32
  }
  return t;
}

Tensor init_from_name(const std::string& name, const Shape& shape) {
  Tensor t = pattern(name, shape);
  double scale = 0.2, offset = 0;  // biases, running means
  if (name.ends_with("running_var")) {
    scale = 0.5;
    offset = 1;
  } else if (t.rank() == 1 && name.ends_with("weight")) {
    offset = 1;
  } else if (t.rank() > 1) {
    const double fan = static_cast<double>(t.numel()) / static_cast<double>(t.dim(0));
    scale = static_cast<float>(std::sqrt(6.0 / fan));
  }
  for (float& f : t.span<float>()) f = static_cast<float>(offset + scale * f);
  return t;
}

void init_from_names(const Module& module, const std::string& prefix) {
  for (NamedTensor& entry : module.state()) {
    entry.tensor.copy_from(init_from_name(prefix + "." + entry.name, entry.tensor.shape()));
  }
}

}  // namespace ens::test
