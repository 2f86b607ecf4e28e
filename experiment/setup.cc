// SPDX-License-Identifier: Apache-2.0
#include "experiment/setup.h"

#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/strings.h"
#include "nn/core/backend.h"

namespace ens {
namespace {

// "0.5,0.4,0.3", or the data's own.
std::vector<float> per_channel(const std::string& text, const std::string& field,
                               const std::vector<float>& own) {
  if (text.empty()) return own;
  std::vector<float> values;
  for (const std::string& part : split_text(text, ',')) {
    const std::string number = trimmed(part);
    float value = 0;
    const char* end = number.data() + number.size();
    const auto [next, error] = std::from_chars(number.data(), end, value);
    const bool usable = std::isfinite(value) && (field == "model.mean" || value > 0);
    if (error != std::errc() || next != end || !usable) {
      usage_fail("'" + part + "' in " + field + " is no possible value", field,
                 "write a number for each channel: 0.5,0.5,0.5");
    }
    values.push_back(value);
  }
  if (values.size() != own.size()) {
    usage_fail(std::to_string(values.size()) + " numbers in " + field + ", and the images have " +
                   std::to_string(own.size()) + " channels",
               field);
  }
  return values;
}

}  // namespace

DataOptions data_options(const RunConfig& config, DataSplit split) {
  const DataConfig& d = config.data();
  DataOptions options;
  options.name = d.name();
  options.root = d.root();
  options.image_size = d.image_size();
  options.limit = split == DataSplit::kTrain ? d.train_limit() : d.test_limit();
  options.label_column = d.label_column();
  options.seed = config.seed();
  options.fit = parse_fit(d.fit(), "data.fit");
  return options;
}

ModelSpec model_spec(const ModelConfig& config) {
  ModelSpec spec;
  spec.architecture = config.architecture();
  spec.width = config.width();
  spec.stem_pool = config.stem_pool();
  spec.stem_kernel = config.stem_kernel();
  spec.hidden = config.hidden();
  spec.head_width = config.head_width();
  spec.sent_channels = config.sent_channels();
  spec.thumbnail = config.thumbnail();
  return spec;
}

ModelSpec model_spec(const RunConfig& config, const Dataset& data) {
  ModelSpec spec = model_spec(config.model());
  spec.classes = static_cast<int>(data.class_names.size());
  spec.channels = data.channels;
  spec.image_size = data.width;
  spec.mean = per_channel(config.model().mean(), "model.mean", data.mean);
  spec.stddev = per_channel(config.model().stddev(), "model.stddev", data.stddev);
  if (data.height != data.width) {
    usage_fail("images of " + data.name + " are not square", "data.image_size",
               "set data.image_size to resize them");
  }
  return spec;
}

Split split_of(const RunConfig& config) {
  return {config.model().head_cells(), config.model().tail_cells()};
}

OptimSpec optim_spec(const TrainConfig& config) {
  OptimSpec spec;
  spec.kind = parse_optimizer(config.optimizer());
  spec.momentum = static_cast<float>(config.momentum());
  spec.weight_decay = static_cast<float>(config.weight_decay());
  spec.beta2 = static_cast<float>(config.beta2());
  spec.eps = static_cast<float>(config.eps());
  spec.amsgrad = spec.kind == OptimSpec::Kind::kAdam;
  return spec;
}

FitOptions fit_options(const TrainConfig& config, const std::string& label) {
  FitOptions options;
  options.label = label;
  options.epochs = config.epochs();
  options.schedule = parse_schedule(config.schedule());
  options.lr = static_cast<float>(config.lr());
  options.step_epochs = config.step_epochs();
  options.warmup = config.warmup();
  options.clip = static_cast<float>(config.clip());
  return options;
}

CrossEntropySpec cross_entropy_spec(const TrainConfig& config) {
  return {.smoothing = static_cast<float>(config.label_smoothing())};
}

std::vector<Device> devices_for(const RunConfig& config) {
  const std::vector<Device> devices = parse_devices(config.device());
  for (const Device& d : devices) backend(d).allow_tf32(config.tf32());
  return devices;
}

}  // namespace ens
