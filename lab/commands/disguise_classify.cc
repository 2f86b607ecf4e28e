// SPDX-License-Identifier: Apache-2.0
// ensembler disguise classify: the owner's queries, to a model on this machine or to a cloud that
// serves it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "disguise/key/key.h"
#include "disguise/owner/apply.h"
#include "disguise/owner/queries.h"
#include "disguise/train/model.h"
#include "edge/client.h"
#include "edge/whole_net.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBatch = 256;  // images at a time

struct ClassifyFlags {
  ConfigFlags config;
  std::string key, model, data_set, remote, server_key, secret_key;
  std::vector<std::string> inputs;
  bool insecure = false, resize = false;
};

// The model, here or at the cloud, asked in the owner's words.
class Classifier {
 public:
  Classifier(const DisguiseKey& key, const ClassifyFlags& flags)
      : model_(read_disguised_model(flags.model)),
        queries_(key, model_.key_id, model_.row(), flags.model) {
    if (flags.remote.empty()) return;
    EdgeConfig config;
    config.set_bundle(flags.model);
    config.set_cloud(flags.remote);
    config.set_insecure(flags.insecure);
    if (!flags.server_key.empty()) config.set_server_key(flags.server_key);
    if (!flags.secret_key.empty()) config.set_secret_key(flags.secret_key);
    complete(config);
    cloud_.emplace(config, model_.info);
  }

  // images [B, C, H, W] in [0, 1] -> logits [B, K], in the order of the key's classes.
  Tensor operator()(const Tensor& images) {
    const Tensor rows = queries_.disguise(images);
    if (!cloud_) return queries_.own_classes(classify_disguised(model_, rows));
    EdgeTimes times;
    const Result<Tensor> logits = cloud_->classify(rows, times);
    if (!logits.status.ok()) fail(logits.status.str());
    return queries_.own_classes(logits.value);
  }

 private:
  DisguisedModel model_;
  DisguisedQueries queries_;
  std::optional<WholeNetClient> cloud_;
};

std::vector<fs::path> files_of(const std::vector<std::string>& inputs) {
  std::vector<fs::path> files;
  for (const std::string& input : inputs) {
    std::error_code ignored;  // what is wrong with a file is found when it is read
    if (!fs::is_directory(input, ignored)) {
      files.emplace_back(input);
      continue;
    }
    const std::vector<fs::path> inside = list_images(input);
    if (inside.empty()) fail("no image in the folder", input);
    files.insert(files.end(), inside.begin(), inside.end());
  }
  return files;
}

void classify_files(const DisguiseKey& key, const ClassifyFlags& flags, Classifier& classifier) {
  const ImageShape& shape = key.images().shape;
  const ImageFit fit = parse_fit(key.images().fit, flags.key);
  const std::vector<fs::path> files = files_of(flags.inputs);
  int64_t unread = 0;
  for (const fs::path& file : files) {
    Tensor image;
    try {
      image = read_image(file, shape.channels, shape.height, shape.width, !flags.resize, fit);
    } catch (const Error& error) {  // the others may still be good
      fmt::print(stderr, "ensembler: {}\n", error.what());
      ++unread;
      continue;
    }
    const Tensor logits = classifier(image.reshape(batched(1, image.shape())));
    fmt::print("{}\n", file.string());
    for (const Ranked& r : top_classes(logits.span<float>(), 5, key.images().class_names)) {
      fmt::print("  {:5.1f} %  {}\n", 100 * r.probability, r.label);
    }
  }
  if (unread > 0)
    fail(fmt::format("{} of {} images could not be read", unread, files.size()),
         "disguise classify");
}

void classify_data_set(const DisguiseKey& key, const ClassifyFlags& flags, Classifier& classifier) {
  RunConfig config = flags.config.given();
  config.mutable_data()->set_name(flags.data_set);
  complete(config);
  const auto data = shared_dataset(config, DataPart::kTest);
  check_images_of(key, *data);
  const auto start = std::chrono::steady_clock::now();
  int64_t right = 0;
  for (int64_t first = 0; first < data->count(); first += kBatch) {
    const int64_t count = std::min(kBatch, data->count() - first),
                  classes = std::ssize(key.images().class_names);
    const Tensor logits = classifier(images_of(*data, first, count));
    for (int64_t i = 0; i < count; ++i) {
      const float* of_image = logits.data<float>() + i * classes;
      right += std::max_element(of_image, of_image + classes) - of_image ==
               data->labels[static_cast<size_t>(first + i)];
    }
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("accuracy {:.2f} % on {} test images of {}, {:.0f} images/s\n",
             100.0 * static_cast<double>(right) / static_cast<double>(data->count()), data->count(),
             data->name, static_cast<double>(data->count()) / seconds);
}

void classify(const ClassifyFlags& flags) {
  if (flags.inputs.empty() == flags.data_set.empty()) {
    usage_fail("nothing to classify, or two things", "disguise classify",
               "name images and folders, or --data-set NAME");
  }
  const DisguiseKey key = DisguiseKey::read(flags.key);
  Classifier classifier(key, flags);
  if (flags.data_set.empty()) {
    classify_files(key, flags, classifier);
  } else {
    classify_data_set(key, flags, classifier);
  }
}

}  // namespace

void add_disguise_classify_command(CLI::App& disguise) {
  auto flags = std::make_shared<ClassifyFlags>();
  CLI::App* command = disguise.add_subcommand(
      "classify", "Classify images: only what the key makes of them reaches the model");
  flags->config.add_to(*command);
  command->add_option("inputs", flags->inputs, "Image files, or folders of them");
  command->add_option("-k,--key", flags->key, "Key file of `disguise keygen`")->required();
  command->add_option("-m,--model", flags->model, "model.h5 of `disguise train`")->required();
  command->add_option("--data-set", flags->data_set,
                      "Classify a data set's test images and print the accuracy");
  command->add_flag("--resize", flags->resize,
                    "Make images of another size fit, as data.fit said when the key was made");
  command->add_option(
      "--remote", flags->remote,
      "Address of an ensembler-cloud that serves the model; without it, the model computes here");
  command->add_option("--server-key", flags->server_key, "The cloud's public key (NAME.pub)");
  command->add_option("--secret-key", flags->secret_key, "This client's secret key (NAME.key)");
  command->add_flag("--insecure", flags->insecure, "Allow plain text outside loopback");
  command->callback([flags] { classify(*flags); });
}

}  // namespace ens
