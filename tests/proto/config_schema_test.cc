// SPDX-License-Identifier: Apache-2.0
// The schema itself: what every field of config.proto must say, and that no default changes unseen.
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "base/error.h"
#include "proto/config.h"
#include "proto/config_manual.h"

namespace ens {
namespace {

using google::protobuf::Descriptor;
using Field = google::protobuf::FieldDescriptor;

// A name of an older version.
bool is_old(const Field& field) { return field.options().HasExtension(schema::moved_to); }

// A setting whose every value is allowed.
bool takes_every_number(const Field& field) { return field.full_name() == "ens.RunConfig.seed"; }

void expect_described(const Field& field) {
  const std::string& name = field.full_name();
  const schema::Setting& options = field.options().GetExtension(schema::field);
  EXPECT_TRUE(options.doc().ends_with('.')) << name << " needs a sentence that says what it is";
  EXPECT_NE(options.has_default_(), options.has_if_unset())
      << name << " needs either a default or what happens without it";
  const bool is_text = field.cpp_type() == Field::CPPTYPE_STRING;
  const bool is_number = !is_text && field.cpp_type() != Field::CPPTYPE_BOOL;
  EXPECT_TRUE(is_text || options.choice_size() == 0) << name << ": choices are for texts";
  EXPECT_TRUE(field.is_repeated() || is_text || options.has_default_()) << name << ": no default";
  if (is_number && !field.is_repeated() && !takes_every_number(field)) {
    ASSERT_TRUE(options.has_low() && options.has_high()) << name << " needs a range";
    EXPECT_LT(options.low(), options.high()) << name;
    const double value = std::stod(options.default_());
    EXPECT_TRUE(value >= options.low() && value <= options.high())
        << name << ": the default " << value << " is not " << range_text(options);
  } else {
    EXPECT_FALSE(options.has_low() || options.has_high()) << name << ": this range is not checked";
  }
}

TEST(ConfigSchema, EveryFieldSaysWhatItIs) {
  const auto* file = RunConfig::descriptor()->file();
  for (int m = 0; m < file->message_type_count(); ++m) {
    const Descriptor& type = *file->message_type(m);
    EXPECT_FALSE(type.options().GetExtension(schema::about).empty())
        << type.name() << " needs (schema.about)";
    for (int i = 0; i < type.field_count(); ++i) {
      const Field& field = *type.field(i);
      if (field.cpp_type() != Field::CPPTYPE_MESSAGE && !is_old(field)) expect_described(field);
    }
  }
}

template <typename Config>
std::string defaults() {
  Config config;
  if constexpr (requires { config.set_bundle(""); }) config.set_bundle("required");
  complete(config);
  return to_text(config);
}

// Whoever changes a default changes it here too, and in the notes of the release.
TEST(ConfigSchema, NoDefaultChangesUnseen) {
  EXPECT_EQ(defaults<RunConfig>(), R"(seed: 1
device: "auto"
dtype: "auto"
data {
  name: "cifar10"
  image_size: 0
  train_limit: 0
  test_limit: 0
  crop_padding: 4
  flip: true
  fit: "crop"
  public_images: 10000
}
model {
  architecture: "resnet18"
  width: 64
  stem_pool: true
  head_cells: 1
  tail_cells: 1
  stem_kernel: 3
  hidden: 0
  head_width: 16
  sent_channels: 8
  thumbnail: 8
}
ensemble {
  nets: 10
  selected: 4
  sigma: 0.1
  lambda: 0.05
  insecure_seeded_secrets: false
  common_head: false
  net_loss: 0
}
stage1 {
  epochs: 6
  batch: 128
  optimizer: "sgd"
  lr: 0.2
  momentum: 0.9
  weight_decay: 0.0005
  schedule: "onecycle"
  side_by_side: 0
  eps: 1e-08
  step_epochs: 0
  warmup: 4000
  beta2: 0.999
  label_smoothing: 0
  clip: 0
}
stage2 {
  epochs: 4
  batch: 128
  optimizer: "sgd"
  lr: 0.2
  momentum: 0.9
  weight_decay: 0.0005
  schedule: "onecycle"
  side_by_side: 0
  eps: 1e-08
  step_epochs: 0
  warmup: 4000
  beta2: 0.999
  label_smoothing: 0
  clip: 0
}
attack {
  public_images: 10000
  scored_images: 256
  observed_features: 9000
  reference_images: 150000
  metric: "default"
  one_per_class: false
  batch: 64
  decoder {
    epochs: 4
    lr: 0.006
    channels: 64
    blocks: 6
    loss: "both"
  }
  shadow {
    epochs: 12
    lr: 0.02
    channels: 0
    layers: 0
    augment: true
    bn_weight: 3
    starts: 8
    start_images: 4000
    seeds: 0
  }
  shadow_subset {
  }
  shadow_enumerate {
    screen_epochs: 1
    screen_images: 2000
    keep: 4
  }
  alignment {
    steps: 1200
    batch: 256
    restarts: 1
  }
  rmle {
    iterations: 500
    lr: 0.1
    tv: 0.03
    l2: 0
  }
  known_pairs {
  }
  tier: "quick"
  seed: 0
  seeds: 0
  public_source: "disjoint"
  candidates: 0
  map_prior {
    steps: 200
    lr: 0.1
    starts: 1
    weight: 1
    blocks: 3
    channels: 32
    epochs: 4
  }
  fora {
    steps: 0
    batch: 64
    restarts: 3
    images: 5000
    lr: 0
    critic_lr: 0.0003
    gradient_penalty: 10
    image_critic: 0.01
  }
  repetition {
    change: "same"
  }
  coalition {
    shards: 2
  }
  match {
    keys: 30
    images: 100
    steps: 80000
    rounds: 3
    round_steps: 2000
  }
  unmix {
    similarity_steps: 2000
    assignment_steps: 2000
    solve_steps: 1000
    channels: 16
  }
  denoise {
    channels: 32
    blocks: 4
    epochs: 4
  }
  model_use {
    steps: 500
  }
  keep_images: false
}
protection {
  kind: "ensembler"
  fresh_noise: false
  dr {
    dropout: 0.3
  }
  shredder {
    noises: 8
    noise_reward: 1
    form: "additive"
  }
  nopeek {
    distance_weight: 0.2
  }
  ressfl {
    adversary_weight: 0.3
  }
  largest {
    fraction: 0.1
  }
  channel {
    bits: 64
    keyed_noise: true
  }
}
tf32: true
offload {
  scheme: "darknight_field"
  virtual_batch: 1
  noises: 1
  spare_shares: 0
  field: "m31"
  integrity: "freivalds"
  repetitions: 0
  timeout_ms: 5000
  retries: 2
  cells: 0
  memory_mb: 128
  seal: true
  noise_mean: 4000
  noise_stddev: 63.25
}
disguise {
  method: "none"
  rmt {
    block: "4x4"
    side: "right"
    share: "position"
    matrix: "orthogonal"
    noise: 0
    noise_law: "uniform"
    noise_place: "before"
    permute: false
  }
  aes {
    unit: "4x4"
    key_bits: "128"
    keys: "one"
  }
  dp {
    cell: 4
    epsilon: 100
  }
  sigma: 0.1
  augment: 1
  permute_labels: false
  store: "float16"
  insecure_seeded_secrets: false
  neuracrypt {
    patch: 4
    width: 256
    depth: 4
  }
  instahide {
    mix: "inside"
    k: 0
    encodings: 10
    queries: "mixed"
    answers: 10
  }
}
text {
  direction: "none"
  tokeniser: "word"
  min_count: 2
  pieces: 8000
  width: 256
  heads: 8
  feed_forward: 512
  encoder_layers: 3
  decoder_layers: 3
  dropout: 0.1
  norm: "post"
  activation: "relu"
  tie: false
  head_layers: 0
  tail: "project"
  generator: "client"
  max_tokens: 512
  extra_tokens: 5
  beam: 1
  length_penalty: 0.6
}
tensorboard: false
)");
  EXPECT_EQ(defaults<CloudConfig>(), R"(bundle: "required"
bind: "tcp://127.0.0.1:5755"
device: "auto"
dtype: "auto"
max_batch: 32
max_request_batch: 256
max_queue: 1024
batch_delay_us: 0
insecure: false
threads: 0
drain_ms: 30000
max_client_rate: 0
max_client_queue: 0
)");
  EXPECT_EQ(defaults<EdgeConfig>(), R"(bundle: "required"
cloud: "tcp://127.0.0.1:5755"
timeout_ms: 5000
wire_dtype: "float32"
batch: 32
insecure: false
probe_rate: 0.02
reply_dtype: "float32"
offload {
  scheme: "darknight_field"
  virtual_batch: 1
  noises: 1
  spare_shares: 0
  field: "m31"
  integrity: "freivalds"
  repetitions: 0
  timeout_ms: 5000
  retries: 2
  cells: 0
  memory_mb: 128
  seal: true
  noise_mean: 4000
  noise_stddev: 63.25
}
)");
}

// The old name of a setting reads the same in a file and with --set as its new name; both at once
// are refused.
TEST(ConfigSchema, OldNamesReadAsTheNewOnes) {
  int tried = 0;
  for (const std::string group : {"attack", "protection"}) {
    const Descriptor* type = RunConfig::descriptor()->FindFieldByName(group)->message_type();
    for (int i = 0; i < type->field_count(); ++i) {
      const Field& field = *type->field(i);
      if (!is_old(field)) continue;
      ++tried;
      EXPECT_TRUE(field.options().deprecated()) << field.full_name();
      ASSERT_NE(field.cpp_type(), Field::CPPTYPE_STRING) << "values are moved as text";
      const std::string path = field.options().GetExtension(schema::moved_to);
      const std::string old = group + "." + field.name();
      const std::string value = field.cpp_type() == Field::CPPTYPE_BOOL ? "false" : "7";
      const std::string old_text = field.name() + ": " + value + "\n";
      const size_t dot = path.find('.');
      const std::string new_text =
          path.substr(0, dot) + " { " + path.substr(dot + 1) + ": " + value + " }\n";
      const auto parsed = [&](const std::string& text) {
        RunConfig config;
        parse_config(group + " { " + text + " }", "t", config);
        return to_text(config);
      };
      const auto set = [](const std::string& assignment) {
        RunConfig config;
        apply_overrides({assignment}, config);
        return to_text(config);
      };
      EXPECT_EQ(current_path(old), group + "." + path);
      EXPECT_EQ(parsed(old_text), parsed(new_text));
      EXPECT_EQ(set(old + "=" + value), parsed(new_text));
      EXPECT_EQ(set(group + "." + path + "=" + value), parsed(new_text));
      EXPECT_THROW(parsed(old_text + new_text), Error) << old;
    }
  }
  EXPECT_EQ(tried, 29);
  EXPECT_EQ(current_path("stage1.epochs"), "stage1.epochs");
  EXPECT_EQ(current_path("attack.nothing"), "attack.nothing");
  // --set still wins over the file, whichever name either uses.
  RunConfig config;
  parse_config("attack { shadow_epochs: 3 pairs: [1, 2] }", "t", config);
  apply_overrides({"attack.shadow.epochs=4", "attack.pairs=5"}, config);
  EXPECT_EQ(config.attack().shadow().epochs(), 4);
  ASSERT_EQ(config.attack().known_pairs().counts_size(), 1);
  EXPECT_EQ(config.attack().known_pairs().counts(0), 5);
}

TEST(ConfigSchema, TheManualIsUpToDate) {
  const std::string path = ENS_SOURCE_DIR "/docs/config.md";
  std::ostringstream stored;
  stored << std::ifstream(path).rdbuf();
  EXPECT_TRUE(stored.str() == config_manual())
      << path << " is not what the schema says; run: ./run ensembler config > docs/config.md";
}

}  // namespace
}  // namespace ens
