// SPDX-License-Identifier: Apache-2.0
#include "proto/config.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <memory>
#include <regex>
#include <sstream>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "base/strings.h"
#include "proto/protections.h"

namespace ens {
namespace {

namespace pb = google::protobuf;
using Field = pb::FieldDescriptor;

// A name of an older version (schema.moved_to).
bool is_old(const Field& field) { return field.options().HasExtension(schema::moved_to); }

// ---- unknown names: suggest what was meant

std::string suggestion(const pb::Descriptor& type, const std::string& unknown) {
  std::vector<std::string> known;
  for (int i = 0; i < type.field_count(); ++i) {
    if (!is_old(*type.field(i))) known.push_back(type.field(i)->name());
  }
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
  if (is_old(*field)) {
    return locate(*message, field->options().GetExtension(schema::moved_to), context);
  }
  return {message, field};
}

// A setting of RunConfig; null if there is none of that path.
const Field* find_field(const std::string& path) {
  const pb::Descriptor* type = RunConfig::descriptor();
  const Field* field = nullptr;
  for (const std::string& part : split_text(path, '.')) {
    if (!type || !(field = type->FindFieldByName(part))) return nullptr;
    type = field->message_type();
  }
  return field;
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

// ---- settings of older versions

// Moves what was read under an old name, in `message` and the messages in it.
void move_old_settings(pb::Message& message, const std::string& source) {
  const auto* reflection = message.GetReflection();
  std::vector<const Field*> fields;
  reflection->ListFields(message, &fields);
  for (const Field* field : fields) {
    if (field->cpp_type() == Field::CPPTYPE_MESSAGE && !field->is_repeated()) {
      move_old_settings(*reflection->MutableMessage(&message, field), source);
    }
    if (!is_old(*field)) continue;
    const std::string& path = field->options().GetExtension(schema::moved_to);
    const Target target = locate(message, path, source);
    const auto* there = target.message->GetReflection();
    if (target.field->is_repeated() ? there->FieldSize(*target.message, target.field) > 0
                                    : there->HasField(*target.message, target.field)) {
      usage_fail("'" + field->name() + "' is the old name of '" + path + "', and both are set",
                 source, "keep the new one");
    }
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      std::string value;
      pb::TextFormat::PrintFieldValueToString(message, field, field->is_repeated() ? i : -1,
                                              &value);
      put(target, value, source);
    }
    reflection->ClearField(&message, field);
  }
}

// ---- defaults and ranges: the options of the fields (proto/options.proto)

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
      fail("'" + target.field->full_name() + "' has a range and is no number");
  }
}

// A choice that ends in '*' allows anything, but not nothing, after it.
bool matches(const std::string& value, const std::string& choice) {
  if (!choice.ends_with('*')) return value == choice;
  const std::string_view start = std::string_view(choice).substr(0, choice.size() - 1);
  return value.size() > start.size() && value.starts_with(start);
}

void check(const Target& target, const schema::Setting& setting, const std::string& path) {
  if (const auto choices = choices_of(setting); !choices.empty()) {
    const std::string value =
        target.message->GetReflection()->GetString(*target.message, target.field);
    if (std::ranges::none_of(choices, [&](const auto& c) { return matches(value, c); })) {
      usage_fail(path + " = '" + value + "' is not known", "", "use one of " + join(choices));
    }
  } else if (setting.has_low()) {
    const double value = number_of(target);
    if (!(value >= setting.low() && value <= setting.high())) {  // also false for NaN
      usage_fail(fmt::format("{} = {} is out of range", path, value), "",
                 "use " + range_text(setting));
    }
  }
}

// Of all fields of `message` and of the messages in it; repeated fields are left alone.
void fill_and_check(pb::Message& message, const std::string& prefix) {
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const Field* field = message.GetDescriptor()->field(i);
    if (field->is_repeated() || is_old(*field)) continue;
    const std::string path = prefix + field->name();
    if (field->cpp_type() == Field::CPPTYPE_MESSAGE) {
      fill_and_check(*reflection->MutableMessage(&message, field), path + ".");
      continue;
    }
    const schema::Setting& options = field->options().GetExtension(schema::field);
    const Target target{&message, field};
    if (options.has_default_() && !reflection->HasField(message, field)) {
      put(target, options.default_(), path);
    }
    check(target, options, path);
  }
}

// What depends on the stage or on other fields, so that the schema cannot say it.
void set_stage_defaults(RunConfig& config) {
  if (!config.stage2().has_epochs()) config.mutable_stage2()->set_epochs(4);
  for (TrainConfig* stage : {config.mutable_stage1(), config.mutable_stage2()}) {
    if (!stage->has_lr() && stage->has_optimizer() && stage->optimizer() != "sgd") {
      stage->set_lr(1e-3);
    }
  }
}

// Settles `kind`, and clears what the kind does not use: two configurations that differ only there
// are the same experiment.
void complete_protection(RunConfig& config) {
  ProtectionConfig& protection = *config.mutable_protection();
  EnsembleConfig& ensemble = *config.mutable_ensemble();
  if (!find_protection(protection.kind())) protection.set_kind(automatic_kind(ensemble));
  const ProtectionInfo& kind = protection_info(protection.kind());
  if (kind.nets == ServerNets::kOne) {
    ensemble.set_nets(1);
    ensemble.set_selected(1);
  } else if (ensemble.nets() < 2 && kind.nets != ServerNets::kShared) {
    usage_fail("protection.kind = '" + kind.kind + "' needs several server nets", "",
               "set ensemble.nets to 2 or more");
  }
  if (trains_jointly(config)) ensemble.set_selected(ensemble.nets());
  if (kind.nets != ServerNets::kSelected) {
    ensemble.set_common_head(false);
    ensemble.set_net_loss(0);
  }
  if (kind.nets != ServerNets::kSelected) ensemble.set_lambda(0);
  if (!kind.noise) ensemble.set_sigma(0);
}

bool is_text(const RunConfig& config) {
  return config.text().has_direction() &&
         '"' + config.text().direction() + '"' != default_text("text.direction");
}

void check_text(const RunConfig& config) {
  const TextConfig& text = config.text();
  if (is_text(config) != (config.data().name() == "multi30k")) {
    usage_fail(is_text(config) ? "'" + config.data().name() + "' has no sentences to translate"
                               : "multi30k has sentences, and no direction of translation is set",
               "", "set data.name=multi30k and text.direction=en-de together");
  }
  if (!is_text(config)) return;
  if (text.width() % text.heads() != 0) {
    usage_fail(fmt::format("text.width = {} is no multiple of text.heads = {}", text.width(),
                           text.heads()));
  }
  const int layers = std::min(text.encoder_layers(), text.decoder_layers());
  if (text.head_layers() >= layers) {
    usage_fail(fmt::format("text.head_layers = {} leaves the cloud no layer of its {}",
                           text.head_layers(), layers),
               "", fmt::format("use 0 to {}", layers - 1));
  }
}

template <typename Config>
void check_server_keys(const Config& config) {
  if (config.secret_key().empty() != config.clients().empty()) {
    usage_fail("secret_key and clients belong together", "",
               "set both (encrypted, only those clients) or neither");
  }
}

}  // namespace

void parse_config(const std::string& text, const std::string& source_name, pb::Message& config) {
  FirstError error;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFromString(text, &config)) {
    move_old_settings(config, source_name);
    return;
  }
  std::string hint;
  static const std::regex kUnknown("Message type \"(.*)\" has no field named \"(.*)\"\\.");
  if (std::smatch match; std::regex_match(error.message(), match, kUnknown)) {
    if (const auto* type =
            config.GetDescriptor()->file()->pool()->FindMessageTypeByName(match[1])) {
      usage_fail("unknown field '" + match[2].str() + "' in " + type->name(),
                 error.place(source_name), suggestion(*type, match[2]));
    }
  }
  usage_fail(error.message(), error.place(source_name), "see docs/config.md for the fields");
}

void read_config(const std::filesystem::path& file, pb::Message& config) {
  std::string text = read_file(file);
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // some editors begin files with it
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  parse_config(text, file.string(), config);
}

void complete_old_run(RunConfig& config) {
  DataConfig& data = *config.mutable_data();
  if (!data.has_fit()) data.set_fit(data.name().starts_with("folder:") ? "stretch" : "crop");
  if (!data.has_public_images()) data.set_public_images(0);
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

void set_checked(const std::string& path, const std::string& value, pb::Message& config) {
  const std::unique_ptr<pb::Message> changed(config.New());
  changed->CopyFrom(config);
  apply_overrides({path + "=" + value}, *changed);
  const Target target = locate(*changed, path, path);
  if (!target.field->is_repeated()) {
    check(target, target.field->options().GetExtension(schema::field), path);
  }
  config.CopyFrom(*changed);
}

void complete(RunConfig& config) {
  // The default of P adapts to a small N; a P that was asked for does not.
  auto& ensemble = *config.mutable_ensemble();
  if (!ensemble.has_selected() && ensemble.has_nets()) {
    ensemble.set_selected(std::clamp(ensemble.nets(), 1, 4));
  }
  set_stage_defaults(config);
  if (is_text(config) && !config.data().has_name()) config.mutable_data()->set_name("multi30k");
  fill_and_check(config, "");
  check_text(config);
  if (ensemble.selected() > ensemble.nets()) {
    usage_fail(fmt::format("ensemble.selected = {} is more than ensemble.nets = {}",
                           ensemble.selected(), ensemble.nets()),
               "", fmt::format("use 1 to {}", ensemble.nets()));
  }
  complete_protection(config);
}

void complete(CloudConfig& config) {
  fill_and_check(config, "");
  if (config.bundle().empty()) usage_fail("bundle is not set", "", "use --bundle cloud.h5");
  if (config.max_queue() < config.max_request_batch()) {
    usage_fail(fmt::format("max_queue = {} cannot hold one request of max_request_batch = {}",
                           config.max_queue(), config.max_request_batch()),
               "", "raise max_queue");
  }
  if (config.max_client_queue() > 0 && config.max_client_queue() < config.max_request_batch()) {
    usage_fail(
        fmt::format("max_client_queue = {} cannot hold one request of max_request_batch = {}",
                    config.max_client_queue(), config.max_request_batch()),
        "", "raise max_client_queue");
  }
  check_server_keys(config);
}

void complete(WorkerConfig& config) {
  fill_and_check(config, "");
  check_server_keys(config);
}

void complete(EdgeConfig& config) {
  fill_and_check(config, "");
  if (config.bundle().empty()) usage_fail("bundle is not set", "", "use --bundle edge.h5");
  const bool blinded = config.offload().worker_size() > 0 && config.part_size() == 0;
  for (const CloudPart& part : blinded ? std::vector<CloudPart>() : parts_of(config)) {
    if (config.secret_key().empty() != part.server_key().empty()) {
      usage_fail("server_key and secret_key belong together", "",
                 "set both (encrypted) or neither");
    }
    if (part.cloud().empty())
      usage_fail("a part has no cloud", "", "set part { cloud: 'tcp://...' }");
  }
  for (OffloadWorker& worker : *config.mutable_offload()->mutable_worker()) {
    if (worker.address().empty()) {
      usage_fail("a worker has no address", "offload.worker",
                 "set worker { address: 'tcp://...' }");
    }
    if (worker.server_key().empty()) worker.set_server_key(config.server_key());
    if (config.secret_key().empty() != worker.server_key().empty()) {
      usage_fail("server_key and secret_key belong together", "offload.worker",
                 "set both (encrypted) or neither");
    }
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

std::string current_path(const std::string& path) {
  const Field* field = find_field(path);
  if (!field || !is_old(*field)) return path;
  return path.substr(0, path.rfind('.') + 1) + field->options().GetExtension(schema::moved_to);
}

std::string default_text(const std::string& path) {
  const Field* field = find_field(path);
  if (!field || !field->options().GetExtension(schema::field).has_default_()) return "";
  const std::unique_ptr<pb::Message> message(
      pb::MessageFactory::generated_factory()->GetPrototype(field->containing_type())->New());
  put({message.get(), field}, field->options().GetExtension(schema::field).default_(), path);
  std::string text;
  pb::TextFormat::PrintFieldValueToString(*message, field, -1, &text);
  return text;
}

std::string unknown_part(const std::string& path, const std::string& value) {
  const Field* field = find_field(path);
  if (!field) return "setting '" + path + "'";
  const auto choices = choices_of(field->options().GetExtension(schema::field));
  const std::string text = value.size() < 2 ? "" : value.substr(1, value.size() - 2);  // quoted
  const bool known = choices.empty() ||
                     std::ranges::any_of(choices, [&](const auto& c) { return matches(text, c); });
  return known ? "" : path + " '" + text + "'";
}

std::vector<std::string> choices_of(const schema::Setting& setting) {
  std::vector<std::string> choices(setting.choice().begin(), setting.choice().end());
  if (setting.choices_from() == "proto/schemes.inc") {
#define SCHEME(name, title, meaning) choices.push_back(#name);
#include "proto/schemes.inc"
#undef SCHEME
  } else if (setting.choices_from() == "proto/disguises.inc") {
#define DISGUISE(name, title, keyed, meaning) choices.push_back(#name);
#include "proto/disguises.inc"
#undef DISGUISE
  } else if (setting.has_choices_from()) {
    for (const ProtectionInfo& protection : protections()) choices.push_back(protection.kind);
  }
  return choices;
}

std::string range_text(const schema::Setting& setting) {
  if (!setting.has_low()) return "";
  constexpr double kMany = 1e15;  // in place of "all there are"
  return setting.high() < kMany ? fmt::format("{} to {}", setting.low(), setting.high())
                                : fmt::format("at least {}", setting.low());
}

std::string to_text(const pb::Message& config) {
  std::string text;
  pb::TextFormat::PrintToString(config, &text);
  return text;
}

}  // namespace ens
