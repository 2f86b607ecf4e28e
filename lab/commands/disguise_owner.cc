// SPDX-License-Identifier: Apache-2.0
// ensembler disguise keygen, apply, rotate, show, inspect: what the owner of images does, and what
// she gives away.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/flags.h"
#include "base/strings.h"
#include "base/threads.h"
#include "disguise/key/key.h"
#include "disguise/owner/apply.h"
#include "disguise/set/set.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/datasets.h"
#include "lab/pictures.h"
#include "lab/scenarios/disguise.h"
#include "nn/data/image.h"
#include "proto/results.h"
#include "proto/studio.pb.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// ---- keygen

struct KeygenFlags {
  ConfigFlags config;
  std::string data_set, out;
};

RunConfig resolve(const ConfigFlags& flags, const std::string& data_set) {
  RunConfig config = flags.given();
  if (!data_set.empty()) config.mutable_data()->set_name(data_set);
  complete(config);
  return config;
}

void keygen(const KeygenFlags& flags) {
  RunConfig config = resolve(flags.config, flags.data_set);
  const std::string none = default_text("disguise.method");
  if ('"' + config.disguise().method() + '"' == none) {
    usage_fail("no method is chosen", "disguise keygen",
               "use --set disguise.method=rmt, or a configuration such as --config disguise-rmt");
  }
  refuse_existing(flags.out);
  config.mutable_data()->set_train_limit(
      std::max<int64_t>(DisguiseKey::samples_needed(config.disguise()), 1));
  config.mutable_data()->set_public_images(0);
  const auto data = shared_dataset(config, DataPart::kTrain);
  const DisguiseKey key = DisguiseKey::make(
      config.disguise(),
      {{data->channels, data->height, data->width}, config.data().fit(), data->class_names},
      config.seed(), key_samples(config.disguise(), *data, mixed_in(config).get()));
  key.write(flags.out);
  fmt::print("{}  secret: keep it on this machine\nkey {}: {} for images of {}\n", flags.out,
             key.id(), key.method(), key.images().shape.shape().str());
  if (key.insecure()) {
    fmt::print(stderr, "warning: the key follows from seed {}: whoever guesses the seed has it\n",
               config.seed());
  }
}

// ---- apply

struct ApplyFlags {
  ConfigFlags config;
  std::string key, data_set, out, test, report;
};

// The settings for the data set, with those of the key; usage Error if they name another method
// than the key's.
RunConfig data_settings(const ConfigFlags& flags, const std::string& data_set,
                        const DisguiseKey& key) {
  RunConfig config = resolve(flags, data_set);
  if (flags.given().disguise().has_method() && config.disguise().method() != key.method()) {
    usage_fail("the configuration says " + config.disguise().method() + ", and the key is for " +
                   key.method(),
               "disguise", "give the key of this configuration, or leave the configuration out");
  }
  *config.mutable_disguise() = key.settings();
  return config;
}

void apply_to(const DisguiseKey& key, const RunConfig& config, const std::string& split,
              const std::string& file, studio::DisguiseReport& report) {
  const auto data = shared_dataset(config, split == "train" ? DataPart::kTrain : DataPart::kTest);
  const auto public_data = mixed_in(config);
  const auto start = std::chrono::steady_clock::now();
  const DisguisedSetInfo info = apply_disguise(key, *data, split, file,
                                               {.crop_padding = config.data().crop_padding(),
                                                .flip = config.data().flip(),
                                                .public_data = public_data.get()});
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("{}: {} rows of {} {}, {} classes, {:.1f} MB, in {:.2f} s; set {} under key {}\n",
             file, info.rows, info.shape.str(), name(info.dtype), info.classes,
             static_cast<double>(fs::file_size(file)) / 1e6, seconds, info.set_id, info.key_id);
  auto& written = *report.add_files();
  written.set_name(fs::path(file).filename());
  written.set_rows(static_cast<double>(info.rows));
  written.set_bytes_before(static_cast<double>(data->count() * data->image_size()));
  written.set_bytes_after(static_cast<double>(fs::file_size(file)));
  written.set_seconds(seconds);
}

void refuse_existing_sets(const ApplyFlags& flags) {
  refuse_existing(flags.out);
  if (!flags.test.empty()) refuse_existing(flags.test);
}

void write_sets(const DisguiseKey& key, const RunConfig& config, const ApplyFlags& flags) {
  studio::DisguiseReport report;
  report.set_data(config.data().name());
  report.set_method(key.method());
  report.set_settings(disguise_settings_for_tables(key.settings()));
  report.set_key_bytes(static_cast<double>(key.derived_bytes()));
  report.set_cores(compute_threads());
  apply_to(key, config, "train", flags.out, report);
  if (const int64_t aside = shared_dataset(config, DataPart::kPublic)->count(); aside > 0) {
    fmt::print(
        stderr,
        "{} training images are not in it: data.public_images sets them aside for attackers\n",
        aside);
  }
  if (!flags.test.empty()) apply_to(key, config, "test", flags.test, report);
  if (!flags.report.empty()) results::write(flags.report, report);
}

void apply(const ApplyFlags& flags) {
  const DisguiseKey key = DisguiseKey::read(flags.key);
  const RunConfig config = data_settings(flags.config, flags.data_set, key);
  refuse_existing_sets(flags);
  write_sets(key, config, flags);
}

// ---- rotate

struct RotateFlags : ApplyFlags {
  std::string new_key;
};

void rotate(const RotateFlags& flags) {
  const DisguiseKey old = DisguiseKey::read(flags.key);
  const RunConfig config = data_settings(flags.config, flags.data_set, old);
  refuse_existing(flags.new_key);
  refuse_existing_sets(flags);
  const auto data = shared_dataset(config, DataPart::kTrain);
  const DisguiseKey key =
      DisguiseKey::make(old.settings(), old.images(), config.seed(),
                        key_samples(old.settings(), *data, mixed_in(config).get()));
  if (key.id() == old.id()) {
    usage_fail("the seed gives the key that is there already", "disguise rotate",
               "use another seed (--set seed=...), or a key without "
               "disguise.insecure_seeded_secrets");
  }
  key.write(flags.new_key);
  fmt::print("{}  secret: keep it on this machine\nkey {} for key {}\n", flags.new_key, key.id(),
             old.id());
  write_sets(key, config, flags);
  fmt::print("models that were trained under key {} need {}: keep it as long as they are asked\n",
             old.id(), flags.key);
}

// ---- pictures

// Each pixel as often as it takes to have this size, which is a multiple of the picture's or a
// little more.
Tensor enlarged(const Tensor& picture, int64_t height, int64_t width) {
  Tensor out = Tensor::empty({picture.dim(0), height, width});
  float* to = out.data<float>();
  const int64_t down = std::max<int64_t>(1, height / picture.dim(1)),
                across = std::max<int64_t>(1, width / picture.dim(2));
  for (int64_t c = 0; c < picture.dim(0); ++c) {
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        const int64_t row = std::min(y / down, picture.dim(1) - 1),
                      column = std::min(x / across, picture.dim(2) - 1);
        *to++ = picture.data<float>()[(c * picture.dim(1) + row) * picture.dim(2) + column];
      }
    }
  }
  return out;
}

int zoom_for(const Tensor& sheet) {
  return static_cast<int>(std::clamp<int64_t>(1024 / std::max(sheet.dim(1), sheet.dim(2)), 1, 8));
}

// ---- show

struct ShowFlags {
  ConfigFlags config;
  std::string key, data_set, out;
  int64_t count = 8;
};

void show(const ShowFlags& flags) {
  const DisguiseKey key = DisguiseKey::read(flags.key);
  RunConfig config = data_settings(flags.config, flags.data_set, key);
  config.mutable_data()->set_test_limit(flags.count);
  const auto data = shared_dataset(config, DataPart::kTest);
  check_images_of(key, *data);
  const Tensor plain = first_pixels(*data, flags.count);
  const auto transform = key.transform();
  FreshRandomness fresh = key.fresh("show");
  const Tensor disguised = transform->apply(plain, fresh);
  const auto [low, high] = range_of(disguised, transform->ciphertext());
  std::vector<Tensor> pictures;
  for (int64_t i = 0; i < plain.dim(0); ++i) {
    const Shape shape = picture_shape(transform->output_shape());
    const auto one = [&](const Tensor& images) {
      return images.rows(i, 1).reshape(Shape(images.shape().dims().subspan(1)));
    };
    pictures.push_back(enlarged(as_picture(one(plain), 0, 255), shape[1], shape[2]));
    pictures.push_back(as_picture(one(disguised).reshape(shape), low, high));
  }
  const Tensor sheet = tiled(pictures, 2);
  write_png(flags.out, sheet, zoom_for(sheet));
  fmt::print("{}: {} images, each beside its disguise under {}\n", flags.out, plain.dim(0),
             key.method());
}

// ---- inspect

struct InspectFlags {
  std::string set, out;
  int64_t count = 16;
};

void inspect(const InspectFlags& flags) {
  const DisguisedSetReader reader(flags.set);
  const DisguisedSetInfo& info = reader.info();
  std::vector<int64_t> of_class(static_cast<size_t>(info.classes));
  for (const int32_t label : reader.labels()) ++of_class[static_cast<size_t>(label)];
  const auto [fewest, most] = std::ranges::minmax(of_class);
  fmt::print("disguised set {} ({}), under key {}\n", info.set_id, info.split, info.key_id);
  for (const std::string& mark : info.marks) fmt::print("MARKED: {}\n", mark);
  fmt::print("{} rows of {} {}, {} classes with {} to {} rows{}, {:.1f} MB\n", info.rows,
             info.shape.str(), name(info.dtype), info.classes, fewest, most,
             info.soft_labels ? " (mixed)" : "",
             static_cast<double>(fs::file_size(flags.set)) / 1e6);
  fmt::print("mean {:.4g}\nstddev {:.4g}\n", fmt::join(info.mean, " "),
             fmt::join(info.stddev, " "));
  fmt::print("method {}\n{}", info.method, info.settings);
  if (flags.out.empty()) return;
  if (info.shape.rank() != 2 && info.shape.rank() != 3)
    usage_fail("rows of shape " + info.shape.str() + " are no pictures", flags.set,
               "leave --out away");
  const Tensor rows = reader.rows(0, std::min(flags.count, info.rows));
  const auto [low, high] = range_of(rows, info.dtype == Dtype::kU8 && info.scale == 1);
  std::vector<Tensor> pictures;
  for (int64_t i = 0; i < rows.dim(0); ++i)
    pictures.push_back(as_picture(rows.rows(i, 1).reshape(picture_shape(info.shape)), low, high));
  const Tensor sheet = tiled(
      pictures,
      std::max<int64_t>(1, static_cast<int64_t>(std::sqrt(static_cast<double>(pictures.size())))));
  write_png(flags.out, sheet, zoom_for(sheet));
  fmt::print("{}: the first {} rows\n", flags.out, rows.dim(0));
}

}  // namespace

void add_disguise_owner_commands(CLI::App& disguise) {
  constexpr char kKey[] = "Key file of `disguise keygen`";
  constexpr char kDataSet[] = "Name of the data set (default: data.name of the configuration)";

  auto making = std::make_shared<KeygenFlags>();
  CLI::App* command = disguise.add_subcommand(
      "keygen", "Make a secret key for the images of a data set (disguise.* settings)");
  making->config.add_to(*command);
  command->add_option("--data-set", making->data_set, kDataSet);
  command->add_option("-o,--out", making->out, "The key file; never written over")->required();
  command->callback([making] { keygen(*making); });

  const auto add_apply_flags = [&](ApplyFlags& flags) {
    flags.config.add_to(*command);
    command->add_option("-k,--key", flags.key, kKey)->required();
    command->add_option("--data-set", flags.data_set, kDataSet);
    command->add_option("-o,--out", flags.out, "The disguised training set; never written over")
        ->required();
    command->add_option("--test", flags.test, "Disguise the test images too, into this file");
    command->add_option("--report", flags.report,
                        "Write what was done into this file: images, seconds, bytes (JSON)");
  };
  auto applying = std::make_shared<ApplyFlags>();
  command = disguise.add_subcommand(
      "apply", "Transform a data set under a key, for the cloud (data.* settings)");
  add_apply_flags(*applying);
  command->callback([applying] { apply(*applying); });

  auto rotating = std::make_shared<RotateFlags>();
  command = disguise.add_subcommand(
      "rotate",
      "Make a new key of an old one's method, and the data set under it; models of the "
      "old key go on needing it");
  add_apply_flags(*rotating);
  command->add_option("--new-key", rotating->new_key, "The new key file; never written over")
      ->required();
  command->callback([rotating] { rotate(*rotating); });

  auto showing = std::make_shared<ShowFlags>();
  command =
      disguise.add_subcommand("show", "Draw test images beside what becomes of them under a key");
  showing->config.add_to(*command);
  command->add_option("-k,--key", showing->key, kKey)->required();
  command->add_option("--data-set", showing->data_set, kDataSet);
  command->add_option("--count", showing->count, "Images")
      ->check(between(1, 1000))
      ->capture_default_str();
  command->add_option("-o,--out", showing->out, "The picture (PNG)")->required();
  command->callback([showing] { show(*showing); });

  auto inspecting = std::make_shared<InspectFlags>();
  command = disguise.add_subcommand(
      "inspect", "Say what everybody can see in a disguised set, without the key");
  command->add_option("SET", inspecting->set, "The disguised set")->required();
  command->add_option("-o,--out", inspecting->out, "Draw its first rows into this picture (PNG)");
  command->add_option("--count", inspecting->count, "So many of them")
      ->check(between(1, 1000))
      ->capture_default_str();
  command->callback([inspecting] { inspect(*inspecting); });
}

}  // namespace ens
