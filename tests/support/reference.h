// SPDX-License-Identifier: Apache-2.0
// Numbers computed elsewhere (PyTorch), stored beside the tests that compare with them.
//
// The file: text lines "name dim dim ...", a line "end", then the float32 values of all entries, in
// order, little-endian, row-major. Written by tests/nn/modules/make_torch_reference.py.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "nn/modules/module.h"

namespace ens::test {

class Reference {
 public:
  // `path` is relative to the project's root. Error if the file is missing or malformed.
  explicit Reference(const std::string& path);

  // Error naming the entry if there is none.
  Tensor operator[](const std::string& name) const;
  bool has(const std::string& name) const { return entries_.contains(name); }
  double number(const std::string& name) const { return (*this)[name].item(); }
  // Names that start with `prefix`, in the file's order, the prefix removed.
  std::vector<std::string> names(const std::string& prefix) const;

 private:
  std::string path_;
  std::vector<std::string> order_;
  std::map<std::string, Tensor> entries_;
};

// What the script's pattern() makes: numbers in [-1, 1) from a linear congruential sequence seeded
// by the FNV-1a hash of `name`. So inputs and weights need not be stored.
Tensor pattern(const std::string& name, const Shape& shape);

// One entry of what the script's init() makes, from its whole name.
Tensor init_from_name(const std::string& name, const Shape& shape);

// What the script's init() does: fills parameters and buffers from "prefix.name", each kind in its
// usual range.
void init_from_names(const Module& module, const std::string& prefix);

}  // namespace ens::test
