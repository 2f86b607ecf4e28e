// SPDX-License-Identifier: Apache-2.0
#include "proto/results.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/files.h"
#include "proto/results.pb.h"

namespace ens::results {
namespace {

namespace fs = std::filesystem;
namespace pb = google::protobuf;
using Field = pb::FieldDescriptor;

constexpr int kFormat = 1;  // the version that is written, and the newest that is read

std::string valid_utf8(const std::string& text) {
  using nlohmann::json;
  return json::parse(json(text).dump(-1, ' ', false, json::error_handler_t::replace));
}

// Removes numbers that are not finite, which JSON cannot hold, and repairs texts.
void clean(pb::Message& message) {
  const pb::Reflection& r = *message.GetReflection();
  std::vector<const Field*> fields;
  r.ListFields(message, &fields);
  for (const Field* f : fields) {
    const int count = f->is_repeated() ? r.FieldSize(message, f) : 0;
    if (f->cpp_type() == Field::CPPTYPE_MESSAGE) {
      if (!f->is_repeated()) clean(*r.MutableMessage(&message, f));
      for (int i = 0; i < count; ++i) clean(*r.MutableRepeatedMessage(&message, f, i));
    } else if (f->cpp_type() == Field::CPPTYPE_STRING) {
      if (!f->is_repeated()) r.SetString(&message, f, valid_utf8(r.GetString(message, f)));
      for (int i = 0; i < count; ++i)
        r.SetRepeatedString(&message, f, i, valid_utf8(r.GetRepeatedString(message, f, i)));
    } else if (f->cpp_type() == Field::CPPTYPE_DOUBLE && f->is_repeated()) {
      std::vector<double> finite;
      for (int i = 0; i < count; ++i) {
        const double value = r.GetRepeatedDouble(message, f, i);
        if (std::isfinite(value)) finite.push_back(value);
      }
      r.ClearField(&message, f);
      for (const double value : finite) r.AddDouble(&message, f, value);
    } else if (f->cpp_type() == Field::CPPTYPE_DOUBLE && !std::isfinite(r.GetDouble(message, f))) {
      r.ClearField(&message, f);
    }
  }
}

pb::util::Status parse(const std::string& text, pb::Message& message) {
  pb::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  return pb::util::JsonStringToMessage(text, &message, options);
}

}  // namespace

std::string to_json(const pb::Message& message, bool indented) {
  const std::unique_ptr<pb::Message> copy(message.New());
  copy->CopyFrom(message);
  clean(*copy);
  pb::util::JsonPrintOptions options;
  options.add_whitespace = indented;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;  // empty lists; single fields are all optional
  std::string out;
  const auto status = pb::util::MessageToJsonString(*copy, &out, options);
  if (!status.ok()) fail("cannot be written as JSON: " + status.ToString(), message.GetTypeName());
  return out;
}

bool from_json(const std::string& text, pb::Message& message, std::string& why) {
  message.Clear();
  const auto status = pb::util::JsonStringToMessage(text, &message);
  if (status.ok()) return true;
  message.Clear();
  why = std::string(status.message());
  return false;
}

void write(const fs::path& file, const pb::Message& message) {
  const std::unique_ptr<pb::Message> copy(message.New());
  copy->CopyFrom(message);
  const Field* format = copy->GetDescriptor()->FindFieldByName("format");
  copy->GetReflection()->SetInt32(copy.get(), format, kFormat);
  write_file_atomically(file, to_json(*copy), /*secret=*/false);
}

void read(const fs::path& file, pb::Message& message) {
  const std::string text = read_file(file);
  message.Clear();
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] != '{')
    fail(file.string() + " does not hold a JSON object");
  FileFormat common;  // ignores all other fields: only the form of the text can be wrong
  if (!parse(text, common).ok()) fail(file.string() + " is not valid JSON (cut off?)");
  if (common.format() > kFormat) {
    throw NewerFormat(Error::Kind::kFailure,
                      fmt::format("{} was written by a newer version (format {}, known is {})",
                                  file.string(), common.format(), kFormat),
                      "", "update this program");
  }
  if (const auto status = parse(text, message); !status.ok()) {
    message.Clear();
    fail(fmt::format("{} is damaged: {}", file.string(), std::string(status.message())));
  }
  clean(message);
}

bool read_if_intact(const fs::path& file, pb::Message& message) {
  try {
    read(file, message);
    return true;
  } catch (const NewerFormat&) {
    throw;
  } catch (const Error&) {
    return false;
  }
}

std::optional<double> number(const pb::Message& message, std::string_view path) {
  const size_t dot = path.find('.');
  const pb::Reflection& r = *message.GetReflection();
  const Field* f = message.GetDescriptor()->FindFieldByName(std::string(path.substr(0, dot)));
  if (!f || f->is_repeated() ||
      (f->cpp_type() == Field::CPPTYPE_MESSAGE) != (dot != std::string_view::npos))
    fail(fmt::format("the schema has no number '{}'", path), message.GetTypeName());
  if (!r.HasField(message, f)) return {};
  if (dot != std::string_view::npos) return number(r.GetMessage(message, f), path.substr(dot + 1));
  if (f->cpp_type() == Field::CPPTYPE_INT32) return r.GetInt32(message, f);
  if (f->cpp_type() == Field::CPPTYPE_DOUBLE) return r.GetDouble(message, f);
  fail(fmt::format("'{}' is no number", path), message.GetTypeName());
}

bool in_effect_one_net(const RunSummary& summary) {
  return std::ranges::any_of(summary.selected_nets(),
                             [](const auto& net) { return net.share() > 0.9; });
}

}  // namespace ens::results
