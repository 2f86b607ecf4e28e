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
      if (type.field(i)->cpp_type() != Field::CPPTYPE_MESSAGE) expect_described(*type.field(i));
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
}
model {
  architecture: "resnet18"
  width: 64
  stem_pool: true
  head_cells: 1
  tail_cells: 1
}
ensemble {
  nets: 10
  selected: 4
  sigma: 0.1
  lambda: 0.05
  insecure_seeded_secrets: false
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
}
attack {
  public_images: 10000
  scored_images: 256
  shadow_epochs: 12
  decoder_epochs: 6
  batch: 64
  lr: 0.004
  shadow_channels: 0
  shadow_layers: 0
  shadow_augment: true
  observed_features: 9000
  metric: "default"
  one_per_class: false
  restarts: 1
  screen_epochs: 1
  screen_images: 2000
  keep: 4
  alignment_steps: 1200
  alignment_batch: 256
  rmle_iterations: 500
  rmle_lr: 0.1
  rmle_tv: 0.03
  rmle_l2: 0
  shadow_lr: 0.02
  shadow_bn_weight: 3
  shadow_starts: 8
  shadow_start_images: 4000
  decoder_channels: 64
  reference_images: 150000
}
protection {
  kind: "ensembler"
  fresh_noise: false
  dropout: 0.3
  noise_bank: 8
  noise_reward: 1
  distance_weight: 0.2
  adversary_weight: 0.3
}
tf32: true
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
)");
  EXPECT_EQ(defaults<EdgeConfig>(), R"(bundle: "required"
cloud: "tcp://127.0.0.1:5755"
timeout_ms: 5000
wire_dtype: "float32"
batch: 32
insecure: false
probe_rate: 0.02
)");
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
