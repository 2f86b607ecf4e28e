// SPDX-License-Identifier: Apache-2.0
#include "nn/models/torchvision.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/strings.h"

namespace ens {
namespace {

using Weights = std::map<std::string, Tensor>;

constexpr int64_t kVggPool = 7;  // torchvision pools VGG's last map to 7x7, whatever the images

bool is_vgg(const ModelSpec& spec) { return spec.architecture == "vgg16"; }

void check_known(const ModelSpec& spec, const std::string& source) {
  if (is_vgg(spec) || spec.architecture.starts_with("resnet")) return;
  usage_fail("torchvision has no " + spec.architecture, source,
             "use model.architecture resnet18, resnet34 or vgg16");
}

// "conv3" -> "features.7": every convolution has a batch norm and a ReLU behind it, and some a
// pool.
int vgg_index(int conv) {
  constexpr std::array kPoolAfter = {2, 4, 7, 10, 13};
  return 3 * (conv - 1) + static_cast<int>(std::ranges::count_if(
                              kPoolAfter, [&](int after) { return after < conv; }));
}

std::string vgg_name(const std::vector<std::string>& part) {  // conv3 bn weight, fc1 linear bias
  if (part.size() != 3) return "";
  if (part[1] == "linear") {
    return "classifier." + std::to_string(3 * (part[0].back() - '1')) + "." + part[2];
  }
  const int index = vgg_index(std::stoi(part[0].substr(4))) + (part[1] == "bn");
  return "features." + std::to_string(index) + "." + part[2];
}

std::string resnet_name(std::vector<std::string> part) {
  if (part[0] == "stem") return part[1] + "1." + part[2];  // conv1, bn1
  if (part[0] == "fc") return "fc." + part[2];
  part[0] = "layer" + part[0].substr(5);
  if (part[2] == "downsample") part[3] = part[3] == "conv" ? "0" : "1";
  return join(part, ".");
}

// Of torchvision's classifier.0 for images of another size than 224: the linear layer reads 7x7
// means of the map, which it is part of here. weight [O, C * 49] -> [O, C * side * side].
Tensor without_pooling(const Tensor& weight, int64_t side) {
  const int64_t outputs = weight.dim(0), channels = weight.dim(1) / (kVggPool * kVggPool);
  Tensor out = Tensor::zeros({outputs, channels * side * side});
  for (int64_t row = 0; row < outputs * channels; ++row) {
    const float* from = weight.data<float>() + row * kVggPool * kVggPool;
    float* to = out.data<float>() + row * side * side;
    for (int64_t i = 0; i < kVggPool * kVggPool; ++i) {
      const auto begin = [&](int64_t at) { return at * side / kVggPool; };
      const auto end = [&](int64_t at) { return ((at + 1) * side + kVggPool - 1) / kVggPool; };
      const int64_t y = i / kVggPool, x = i % kVggPool;
      const auto count = static_cast<float>((end(y) - begin(y)) * (end(x) - begin(x)));
      for (int64_t v = begin(y); v < end(y); ++v) {
        for (int64_t u = begin(x); u < end(x); ++u) to[v * side + u] += from[i] / count;
      }
    }
  }
  return out;
}

// ---- what is wrong with a file, in the user's words

// Of a key that is missing or fits nothing.
std::string cause(const ModelSpec& spec, const Weights& weights) {
  const auto has = [&](const char* key) { return weights.contains(key); };
  if (has("features.0.weight") && !is_vgg(spec)) {
    return "the weights are of a VGG: --set model.architecture=vgg16";
  }
  if (has("layer1.0.conv1.weight") && is_vgg(spec)) {
    return "the weights are of a ResNet: --set model.architecture=resnet18 or resnet34";
  }
  if (is_vgg(spec)) {
    if (has("features.0.weight") && !has("features.1.running_mean")) {
      return "the weights are of a VGG without batch norm; only vgg16_bn is known";
    }
    return "the weights are of another network than vgg16_bn";
  }
  if (has("layer1.0.conv3.weight")) {
    return "the weights are of a ResNet with bottleneck blocks (50 layers or more); resnet18 and "
           "resnet34 are known";
  }
  if (has("layer1.2.conv1.weight") && spec.architecture == "resnet18") {
    return "the weights are of a ResNet-34: --set model.architecture=resnet34";
  }
  if (!has("layer1.2.conv1.weight") && has("layer1.1.conv1.weight") &&
      spec.architecture == "resnet34") {
    return "the weights are of a ResNet-18: --set model.architecture=resnet18";
  }
  if (has("stem.conv.weight") || has("conv1.conv.weight")) {
    return "the names are this program's own; bundles (edge.h5, cloud.h5) need no import";
  }
  return "the weights are of another network than torchvision's " + spec.architecture;
}

std::string setting(const char* name, int64_t value) {
  return std::string("--set ") + name + "=" + std::to_string(value);
}

// Of a tensor of another shape.
std::string cause(const ModelSpec& spec, const std::string& key, const Shape& found,
                  const Shape& expected) {
  const bool first = key == (is_vgg(spec) ? "features.0.weight" : "conv1.weight");
  const bool last = key.starts_with(is_vgg(spec) ? "classifier.6." : "fc.");
  if (found.rank() == expected.rank()) {
    if (first && found[0] != expected[0]) {
      return "another width: " + setting("model.width", found[0]);
    }
    if (first && found[1] != expected[1]) {
      return "the weights are for images of " + std::to_string(found[1]) +
             " channels, the data has " + std::to_string(expected[1]);
    }
    if (first && !is_vgg(spec)) {
      return "another stem: " + setting("model.stem_kernel", found[2]) +
             (found[2] == 7 ? ", as torchvision's" : "");
    }
    if (last && found[0] != expected[0]) {
      return "the weights are for " + std::to_string(found[0]) + " classes, the data has " +
             std::to_string(expected[0]);
    }
    if (key.starts_with("classifier.0.") && found[0] != expected[0]) {
      return "other hidden layers: " + setting("model.hidden", found[0]);
    }
    if (key == "classifier.0.weight") {
      return "the weights are for images of another size: set data.image_size";
    }
  }
  return cause(spec, Weights{});
}

// What all entries of a classifier are called, and their shapes.
std::vector<NamedTensor> expected_state(const ModelSpec& spec) {
  Rng rng = Rng::blank();
  return build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng)->state();
}

Weights cleaned(const Weights& weights, const std::string& source) {
  Weights clean;
  for (const auto& [name, tensor] : weights) {
    std::string key = name;
    for (bool again = true; again;) {
      again = false;
      for (const char* prefix : {"module.", "_orig_mod."}) {
        if (!key.starts_with(prefix)) continue;
        key = key.substr(std::string(prefix).size());
        again = true;
      }
    }
    if (key.ends_with("num_batches_tracked")) continue;
    if (!clean.emplace(key, tensor).second) usage_fail("'" + key + "' is there twice", source);
  }
  return clean;
}

// In the order of the network: what differs first is the cause of most else.
void check_keys(const ModelSpec& spec, const Weights& weights,
                const std::vector<std::pair<std::string, Shape>>& expected,
                const std::string& source) {
  std::set<std::string> known;
  for (const auto& [key, shape] : expected) {
    known.insert(key);
    const auto found = weights.find(key);
    if (found == weights.end()) {
      usage_fail("'" + key + "' " + shape.str() + " is missing", source, cause(spec, weights));
    }
    if (!(found->second.shape() == shape)) {
      usage_fail("'" + key + "' has the shape " + found->second.shape().str() + ", expected " +
                     shape.str(),
                 source, cause(spec, key, found->second.shape(), shape));
    }
    const std::vector<float> values = found->second.to_vector();
    if (!std::ranges::all_of(values, [](float v) { return std::isfinite(v); })) {
      usage_fail("'" + key + "' holds infinities or NaN", source, "the training has diverged");
    }
    if (key.ends_with("running_var") &&
        std::ranges::any_of(values, [](float v) { return v < 0; })) {
      usage_fail("'" + key + "' holds negative variances", source);
    }
  }
  for (const auto& [key, tensor] : weights) {
    if (!known.contains(key)) {
      usage_fail("'" + key + "' " + tensor.shape().str() + " fits nothing in the model", source,
                 cause(spec, weights));
    }
  }
}

}  // namespace

std::string torchvision_name(const ModelSpec& spec, const std::string& name) {
  const std::vector<std::string> part = split_text(name, '.');
  if (part.size() < 3 || part[1] == "normalize" || part[2] == "calls") return "";
  return is_vgg(spec) ? vgg_name(part) : resnet_name(part);
}

std::vector<NamedTensor> from_torchvision(const ModelSpec& spec, const Weights& weights,
                                          const std::string& source) {
  check_known(spec, source);
  Weights clean = cleaned(weights, source);
  const std::vector<NamedTensor> own = expected_state(spec);
  const int64_t side = spec.image_size / 32;
  std::vector<std::pair<std::string, Shape>> expected;
  for (const NamedTensor& entry : own) {
    const std::string key = torchvision_name(spec, entry.name);
    if (key.empty()) continue;
    Shape shape = entry.tensor.shape();
    const auto found = clean.find(key);
    const int64_t pooled = 8 * spec.width * kVggPool * kVggPool;
    if (key == "classifier.0.weight" && found != clean.end() && found->second.rank() == 2 &&
        found->second.dim(1) == pooled) {
      shape.set(1, pooled);
    }
    expected.emplace_back(key, shape);
    if (is_vgg(spec) && entry.name.ends_with("conv.weight")) {
      expected.emplace_back(key.substr(0, key.size() - 6) + "bias", Shape{shape[0]});
    }
  }
  check_keys(spec, clean, expected, source);

  std::vector<NamedTensor> state;
  for (const NamedTensor& entry : own) {
    const std::string key = torchvision_name(spec, entry.name);
    if (key.empty()) continue;
    Tensor value = clean.at(key).to(Dtype::kF32).clone();
    if (is_vgg(spec) && key.ends_with("running_mean")) {
      const std::string conv =
          torchvision_name(spec, entry.name.substr(0, entry.name.find('.')) + ".conv.weight");
      const std::vector<float> bias =
          clean.at(conv.substr(0, conv.size() - 6) + "bias").to_vector();
      for (size_t i = 0; i < bias.size(); ++i) value.data<float>()[i] -= bias[i];
    }
    if (!(value.shape() == entry.tensor.shape())) value = without_pooling(value, side);
    state.push_back({entry.name, value});
  }
  return state;
}

Weights to_torchvision(const ModelSpec& spec, const std::vector<NamedTensor>& state,
                       const std::string& source) {
  check_known(spec, source);
  Weights weights;
  for (const NamedTensor& entry : state) {
    const std::string key = torchvision_name(spec, entry.name);
    if (key.empty()) continue;
    weights[key] = entry.tensor;
    if (is_vgg(spec) && entry.name.ends_with("conv.weight")) {
      weights[key.substr(0, key.size() - 6) + "bias"] = Tensor::zeros({entry.tensor.dim(0)});
    }
  }
  return weights;
}

}  // namespace ens
