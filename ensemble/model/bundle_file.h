// SPDX-License-Identifier: Apache-2.0
// How both bundles lie in a Checkpoint (internal to this folder).
//
// Public facts are numbers and texts; weights are tensors "<part>/<name in the module>".
#pragma once

#include <string>

#include "ensemble/model/bundle.h"
#include "nn/io/checkpoint.h"
#include "nn/plan/int8.h"

namespace ens::bundle_file {

constexpr int64_t kFormat = 2;         // of bundles that its programs can read: most are
constexpr int64_t kFormatOfSteps = 3;  // of edge bundles with a protection that format 2 cannot say
constexpr int64_t kFormatBlinded = 4;  // of edge files of blinded inference (blinded_bundle.h)
// Of bundles of a model that older programs would build otherwise; the protection as in format 3.
constexpr int64_t kFormatOfModels = 5;
constexpr int64_t kFormatBlindedCells = 6;  // of edge bundles whose first cells are blinded
// Of whole networks (h = t = 0), whose images need not be square.
constexpr int64_t kFormatWhole = 7;

void put_info(Checkpoint& checkpoint, const BundleInfo& info);
// What to say of a bundle that needs a newer program, and why: with the version that wrote it, if
// it says so.
std::string written_by_newer(const Checkpoint& checkpoint, const std::string& reason);
// Error if a fact is missing or impossible.
BundleInfo get_info(const Checkpoint& checkpoint);

// One name a line. Error for a name that is empty or has a line break; in a file, unless there is
// one for each class.
void put_class_names(Checkpoint& checkpoint, const std::vector<std::string>& names,
                     const std::filesystem::path& file);
std::vector<std::string> get_class_names(const Checkpoint& checkpoint, const ModelSpec& model);

// "body/007" for part "body" and index 7: name order is index order.
std::string body_name(size_t index);

void put_module(Checkpoint& checkpoint, const std::string& part, const Module& module);
// Loads every "<part>/..." tensor into the module, freezes it and sets evaluation mode. Returns how
// many tensors there were; Error if one is missing, extra or of the wrong shape.
size_t get_module(const Checkpoint& checkpoint, const std::string& part, Module& module);

// The first cells of the model as an int8 network: "steps/0007/weight", ... get_int8_net() returns
// how many tensors there were; Error if one is missing or impossible.
void put_int8_net(Checkpoint& checkpoint, const Int8Net& net);
size_t get_int8_net(const Checkpoint& checkpoint, const ModelSpec& model, int cells, Int8Net& net);

// Error unless the file has exactly `expected` tensors: a bundle holds nothing beyond its parts.
void check_count(const Checkpoint& checkpoint, size_t expected);

}  // namespace ens::bundle_file
