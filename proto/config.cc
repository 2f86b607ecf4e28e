#include "proto/config.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <regex>
#include <span>
#include <sstream>

#include "base/error.h"
#include "base/strings.h"

namespace ens {
namespace {

namespace pb = google::protobuf;
using Field = pb::FieldDescriptor;

// ---- unknown names: suggest what was meant

std::string suggestion(const pb::Descriptor& type, const std::string& unknown) {
  std::vector<std::string> known;
  for (int i = 0; i < type.field_count(); ++i) known.push_back(type.field(i)->name());
  const std::string nearest = nearest_word(unknown, known);
  return nearest.empty() ? "known fields: " + join(known) : "did you mean '" + nearest + "'?";
}

// ---- parsing

// Keeps the first error, with its place.
class FirstError : public pb::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (!message_.empty()) return;
    message_ = message;
    line_ = line + 1;
    column_ = column + 1;
  }
  const std::string& message() const { return message_; }
  std::string place(const std::string& source) const {
    return line_ > 0 ? fmt::format("{}:{}:{}", source, line_, column_) : source;
  }

 private:
  std::string message_;
  int line_ = 0, column_ = 0;
};

// ---- paths such as "stage1.lr"

struct Target {
  pb::Message* message;
  const Field* field;
};

Target locate(pb::Message& root, const std::string& path, const std::string& context) {
  pb::Message* message = &root;
  std::istringstream parts(path);
  std::string part;
  const Field* field = nullptr;
  while (std::getline(parts, part, '.')) {
    if (field) {
      if (field->cpp_type() != Field::CPPTYPE_MESSAGE || field->is_repeated()) {
        usage_fail("'" + field->name() + "' has no fields of its own", context);
      }
      message = message->GetReflection()->MutableMessage(message, field);
    }
    field = message->GetDescriptor()->FindFieldByName(part);
    if (!field) {
      usage_fail("unknown field '" + part + "'", context,
                 suggestion(*message->GetDescriptor(), part));
    }
  }
  if (!field) usage_fail("missing field name", context, "write path=value");
  return {message, field};
}

// Sets a scalar, or appends to a repeated field.
void put(const Target& target, const std::string& value, const std::string& context) {
  const auto* reflection = target.message->GetReflection();
  if (target.field->cpp_type() == Field::CPPTYPE_STRING) {
    if (target.field->is_repeated()) {
      reflection->AddString(target.message, target.field, value);
    } else {
      reflection->SetString(target.message, target.field, value);
    }
    return;
  }
  if (target.field->cpp_type() == Field::CPPTYPE_MESSAGE) {
    usage_fail("'" + target.field->name() + "' is a group of fields", context,
               "name one of them; " + suggestion(*target.field->message_type(), ""));
  }
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFieldValueFromString(value, target.field, target.message)) {
    usage_fail("'" + value + "' is not a value for '" + target.field->name() + "'" +
                   (error.message().empty() ? "" : ": " + error.message()),
               context, std::string("expected ") + target.field->cpp_type_name());
  }
}

// ---- defaults and ranges

// One line per field. `fallback` nullptr: stays unset. `choices`: words separated by '|'; a word
// ending in '*' allows anything after it.
struct Rule {
  const char* path;
  const char* fallback;
  double low = 0, high = 0;
  const char* choices = nullptr;
};

constexpr double kMany = 1e15;  // "all there are"
constexpr const char* kDevices = "auto|cpu|cuda|cuda:*";
constexpr const char* kDtypes = "auto|float32|bfloat16";

constexpr Rule kRunRules[] = {
    {"seed", "1", 0, 18446744073709551615.0},
    {"device", "auto", 0, 0, kDevices},
    {"dtype", "auto", 0, 0, kDtypes},
    {"tf32", "true"},
    {"data.name", "cifar10", 0, 0, "cifar10|cifar100|mnist|fashion_mnist|shapes|folder:*"},
    {"data.root", nullptr},
    {"data.image_size", "0", 0, 1024},
    {"data.train_limit", "0", 0, kMany},
    {"data.test_limit", "0", 0, kMany},
    {"data.label_column", nullptr},
    {"data.crop_padding", "4", 0, 64},
    {"data.flip", "true"},
    {"model.architecture", "resnet18", 0, 0, "resnet18|vgg16|he19"},
    {"model.width", "64", 1, 1024},
    {"model.stem_pool", "true"},
    {"model.head_cells", "1", 1, 64},
    {"model.tail_cells", "1", 1, 64},
    {"ensemble.nets", "10", 1, 256},
    {"ensemble.selected", "4", 1, 256},
    {"ensemble.sigma", "0.1", 0, 1000},
    {"ensemble.lambda", "0.05", 0, 1000},
    {"ensemble.insecure_seeded_secrets", "false"},
    {"attack.public_images", "10000", 1, kMany},
    {"attack.scored_images", "256", 1, kMany},
    {"attack.shadow_epochs", "12", 1, 100000},
    {"attack.decoder_epochs", "6", 1, 100000},
    {"attack.decoder_channels", "64", 1, 4096},
    {"attack.batch", "64", 2, 65536},
    {"attack.lr", "0.004", 0, 100},
    {"attack.shadow_channels", "0", 0, 4096},
    {"attack.shadow_layers", "0", 0, 8},
    {"attack.shadow_augment", "true"},
    {"attack.observed_features", "9000", 1, kMany},
    {"attack.metric", "default", 0, 0, "default|he19"},
    {"attack.one_per_class", "false"},
    {"attack.restarts", "1", 1, 100},
    {"attack.screen_epochs", "1", 1, 100000},
    {"attack.screen_images", "2000", 1, kMany},
    {"attack.keep", "4", 1, 10000},
    {"attack.alignment_steps", "1200", 1, 1e7},
    {"attack.alignment_batch", "256", 8, 65536},
    {"attack.rmle_iterations", "500", 1, 1e7},
    {"attack.rmle_lr", "0.1", 0, 100},
    {"attack.rmle_tv", "0.03", 0, 1e9},
    {"attack.rmle_l2", "0", 0, 1e9},
    {"attack.shadow_lr", "0.02", 0, 100},
    {"attack.shadow_bn_weight", "3", 0, 1e6},
    {"attack.shadow_starts", "8", 1, 1000},
    {"attack.shadow_start_images", "4000", 1, kMany},
    {"attack.reference_images", "150000", 0, kMany},
    {"protection.kind", "auto", 0, 0,
     "auto|none|additive|shredder|random|single|dr_single|dr_ensemble|nopeek|ressfl|ensembler"},
    {"protection.fresh_noise", "false"},
    {"protection.dropout", "0.3", 0, 0.95},
    {"protection.noise_bank", "8", 1, 1000},
    {"protection.noise_reward", "1", 0, 1000},
    {"protection.distance_weight", "0.2", 0, 1000},
    {"protection.adversary_weight", "0.3", 0, 1000},
};

constexpr Rule kTrainRules[] = {
    {"epochs", "6", 1, 100000},
    {"batch", "128", 2, 65536},
    {"optimizer", "sgd", 0, 0, "sgd|adam|adamw"},
    {"lr", "0.2", 0, 100},
    {"momentum", "0.9", 0, 1},
    {"weight_decay", "0.0005", 0, 1},
    {"schedule", "onecycle", 0, 0, "onecycle|cosine|step|constant"},
    {"side_by_side", "0", 0, 256},
    {"eps", "1e-8", 0, 1},
    {"step_epochs", "0", 0, 100000},
};

constexpr Rule kCloudRules[] = {
    {"bundle", nullptr},
    {"bind", "tcp://127.0.0.1:5755"},
    {"device", "auto", 0, 0, kDevices},
    {"dtype", "auto", 0, 0, "auto|float32|bfloat16|float16|float8"},
    {"max_batch", "32", 1, 4096},
    {"max_request_batch", "256", 1, 4096},
    {"max_queue", "1024", 1, 1e9},
    {"batch_delay_us", "0", 0, 1000000},
    {"secret_key", nullptr},
    {"clients", nullptr},
    {"insecure", "false"},
    {"threads", "0", 0, 1024},
    {"http", nullptr},
    {"drain_ms", "30000", 0, 3600000},
};

constexpr Rule kEdgeRules[] = {
    {"bundle", nullptr},
    {"cloud", "tcp://127.0.0.1:5755"},
    {"server_key", nullptr},
    {"secret_key", nullptr},
    {"timeout_ms", "5000", 1, 3600000},
    {"wire_dtype", "float32", 0, 0, "float32|float16|int8"},
    {"batch", "32", 1, 4096},
    {"insecure", "false"},
    {"probes", nullptr},
    {"probe_rate", "0.02", 0, 1},
};

double number_of(const Target& target) {
  const auto* reflection = target.message->GetReflection();
  switch (target.field->cpp_type()) {
    case Field::CPPTYPE_INT32:
      return reflection->GetInt32(*target.message, target.field);
    case Field::CPPTYPE_INT64:
      return static_cast<double>(reflection->GetInt64(*target.message, target.field));
    case Field::CPPTYPE_UINT64:
      return static_cast<double>(reflection->GetUInt64(*target.message, target.field));
    case Field::CPPTYPE_DOUBLE:
      return reflection->GetDouble(*target.message, target.field);
    default:
      fail("a rule for '" + target.field->full_name() + "' has an unexpected type");
  }
}

bool matches(const std::string& value, const char* choices) {
  std::istringstream words(choices);
  for (std::string word; std::getline(words, word, '|');) {
    if (word.back() == '*') {
      word.pop_back();
      if (value.size() > word.size() && value.compare(0, word.size(), word) == 0) return true;
    } else if (value == word) {
      return true;
    }
  }
  return false;
}

void apply_rules(std::span<const Rule> rules, const std::string& prefix, pb::Message& root) {
  for (const Rule& rule : rules) {
    const std::string full = prefix + rule.path;
    const Target target = locate(root, rule.path, full);
    if (rule.fallback &&
        !target.message->GetReflection()->HasField(*target.message, target.field)) {
      put(target, rule.fallback, full);
    }
    if (target.field->cpp_type() == Field::CPPTYPE_STRING) {
      const std::string value =
          target.message->GetReflection()->GetString(*target.message, target.field);
      if (rule.choices && !matches(value, rule.choices)) {
        usage_fail(full + " = '" + value + "' is not known", "",
                   "use one of " + std::string(rule.choices));
      }
    } else if (target.field->cpp_type() != Field::CPPTYPE_BOOL) {
      const double value = number_of(target);
      if (!(value >= rule.low && value <= rule.high)) {  // also false for NaN
        usage_fail(fmt::format("{} = {} is out of range", full, value), "",
                   rule.high >= kMany ? fmt::format("use at least {}", rule.low)
                                      : fmt::format("use {} to {}", rule.low, rule.high));
      }
    }
  }
}

void complete_stage(TrainConfig& stage, const char* prefix, int epochs) {
  if (!stage.has_epochs()) stage.set_epochs(epochs);
  if (!stage.has_lr() && stage.has_optimizer() && stage.optimizer() != "sgd") stage.set_lr(1e-3);
  apply_rules(kTrainRules, prefix, stage);
}

// Settles `kind`, and clears what the kind does not use: two configurations that differ only there
// are the same experiment.
void complete_protection(RunConfig& config) {
  ProtectionConfig& protection = *config.mutable_protection();
  EnsembleConfig& ensemble = *config.mutable_ensemble();
  if (protection.kind() == "auto") {
    protection.set_kind(ensemble.nets() > 1    ? "ensembler"
                        : ensemble.sigma() > 0 ? "single"
                                               : "none");
  }
  const std::string& kind = protection.kind();
  if (kind == "ensembler" || kind == "dr_ensemble") {
    if (ensemble.nets() < 2) {
      usage_fail("protection.kind = '" + kind + "' needs several server nets", "",
                 "set ensemble.nets to 2 or more");
    }
    if (kind == "dr_ensemble") ensemble.set_selected(ensemble.nets());
  } else {
    ensemble.set_nets(1);
    ensemble.set_selected(1);
  }
  if (kind != "ensembler") ensemble.set_lambda(0);
  if (kind == "none" || kind == "random" || kind == "nopeek" || kind == "ressfl") {
    ensemble.set_sigma(0);
  }
}

}  // namespace

void parse_config(const std::string& text, const std::string& source_name, pb::Message& config) {
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFromString(text, &config)) return;
  std::string hint;
  static const std::regex kUnknown("Message type \"(.*)\" has no field named \"(.*)\"\\.");
  if (std::smatch match; std::regex_match(error.message(), match, kUnknown)) {
    if (const auto* type =
            config.GetDescriptor()->file()->pool()->FindMessageTypeByName(match[1])) {
      usage_fail("unknown field '" + match[2].str() + "' in " + type->name(),
                 error.place(source_name), suggestion(*type, match[2]));
    }
  }
  usage_fail(error.message(), error.place(source_name), "see proto/config.proto for the fields");
}

void read_config(const std::filesystem::path& file, pb::Message& config) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf())) {
    fail("cannot read the configuration", file.string(), "check the path and its permissions");
  }
  parse_config(text.str(), file.string(), config);
}

void apply_overrides(const std::vector<std::string>& assignments, pb::Message& config) {
  for (const std::string& assignment : assignments) {
    const std::string context = "--set " + assignment;
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos) usage_fail("no '=' found", context, "write path=value");
    const std::string value = assignment.substr(equals + 1);
    const Target target = locate(config, assignment.substr(0, equals), context);
    if (!target.field->is_repeated()) {
      put(target, value, context);
      continue;
    }
    target.message->GetReflection()->ClearField(target.message, target.field);
    std::istringstream items(value);
    for (std::string item; std::getline(items, item, ',');) put(target, item, context);
  }
}

void complete(RunConfig& config) {
  // The default of P adapts to a small N; a P that was asked for does not.
  auto& ensemble = *config.mutable_ensemble();
  if (!ensemble.has_selected() && ensemble.has_nets()) {
    ensemble.set_selected(std::clamp(ensemble.nets(), 1, 4));
  }
  apply_rules(kRunRules, "", config);
  complete_stage(*config.mutable_stage1(), "stage1.", 6);
  complete_stage(*config.mutable_stage2(), "stage2.", 4);
  if (ensemble.selected() > ensemble.nets()) {
    usage_fail(fmt::format("ensemble.selected = {} is more than ensemble.nets = {}",
                           ensemble.selected(), ensemble.nets()),
               "", fmt::format("use 1 to {}", ensemble.nets()));
  }
  complete_protection(config);
}

void complete(CloudConfig& config) {
  apply_rules(kCloudRules, "", config);
  if (config.bundle().empty()) usage_fail("bundle is not set", "", "use --bundle cloud.h5");
  if (config.max_queue() < config.max_request_batch()) {
    usage_fail(fmt::format("max_queue = {} cannot hold one request of max_request_batch = {}",
                           config.max_queue(), config.max_request_batch()),
               "", "raise max_queue");
  }
  if (config.secret_key().empty() != config.clients().empty()) {
    usage_fail("secret_key and clients belong together", "",
               "set both (encrypted, only those clients) or neither");
  }
}

void complete(EdgeConfig& config) {
  apply_rules(kEdgeRules, "", config);
  if (config.bundle().empty()) usage_fail("bundle is not set", "", "use --bundle edge.h5");
  for (const CloudPart& part : parts_of(config)) {
    if (config.secret_key().empty() != part.server_key().empty()) {
      usage_fail("server_key and secret_key belong together", "",
                 "set both (encrypted) or neither");
    }
    if (part.cloud().empty())
      usage_fail("a part has no cloud", "", "set part { cloud: 'tcp://...' }");
  }
}

std::vector<CloudPart> parts_of(const EdgeConfig& config) {
  std::vector<CloudPart> parts(config.part().begin(), config.part().end());
  if (parts.empty()) parts.emplace_back().set_cloud(config.cloud());
  for (CloudPart& part : parts) {
    if (!part.has_server_key()) part.set_server_key(config.server_key());
  }
  return parts;
}

std::string to_text(const pb::Message& config) {
  std::string text;
  pb::TextFormat::PrintToString(config, &text);
  return text;
}

}  // namespace ens
