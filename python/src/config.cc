// SPDX-License-Identifier: Apache-2.0
// Configurations: the schema as data, and RunConfig by paths.
#include "proto/config.h"

#include <google/protobuf/descriptor.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/strings.h"
#include "lab/config_flags.h"
#include "python/src/call.h"
#include "python/src/rooms.h"

namespace ens::python {
namespace {

namespace pb = google::protobuf;
using Field = pb::FieldDescriptor;

const char* type_name(const Field& field) {
  switch (field.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return "bool";
    case Field::CPPTYPE_STRING:
      return "str";
    case Field::CPPTYPE_DOUBLE:
    case Field::CPPTYPE_FLOAT:
      return "float";
    default:
      return "int";
  }
}

// The current settings of a message: each a dictionary, groups with "fields".
py::list fields_of(const pb::Descriptor& type) {
  py::list fields;
  for (int i = 0; i < type.field_count(); ++i) {
    const Field& field = *type.field(i);
    if (field.options().HasExtension(schema::moved_to)) continue;
    py::dict out;
    out["name"] = field.name();
    if (const pb::Descriptor* group = field.message_type()) {
      if (field.is_repeated()) continue;
      out["doc"] = group->options().GetExtension(schema::about);
      out["fields"] = fields_of(*group);
    } else {
      const schema::Setting& setting = field.options().GetExtension(schema::field);
      out["doc"] = setting.doc();
      out["type"] = type_name(field);
      out["repeated"] = field.is_repeated();
      out["default"] =
          setting.has_default_() ? py::object(py::str(setting.default_())) : py::none();
      out["if_unset"] = setting.if_unset();
      out["range"] = range_text(setting);
      out["choices"] = choices_of(setting);
    }
    fields.append(out);
  }
  return fields;
}

py::object scalar(const pb::Message& message, const Field& field) {
  const auto* reflection = message.GetReflection();
  switch (field.cpp_type()) {
    case Field::CPPTYPE_BOOL:
      return py::bool_(reflection->GetBool(message, &field));
    case Field::CPPTYPE_INT32:
      return py::int_(reflection->GetInt32(message, &field));
    case Field::CPPTYPE_INT64:
      return py::int_(reflection->GetInt64(message, &field));
    case Field::CPPTYPE_UINT64:
      return py::int_(reflection->GetUInt64(message, &field));
    case Field::CPPTYPE_DOUBLE:
      return py::float_(reflection->GetDouble(message, &field));
    case Field::CPPTYPE_STRING:
      return py::str(reflection->GetString(message, &field));
    default:
      fail("'" + field.full_name() + "' has a type that Python's side does not know");
  }
}

py::list list(const pb::Message& message, const Field& field) {
  const auto* reflection = message.GetReflection();
  py::list out;
  for (int i = 0; i < reflection->FieldSize(message, &field); ++i) {
    if (field.cpp_type() == Field::CPPTYPE_STRING) {
      out.append(reflection->GetRepeatedString(message, &field, i));
    } else if (field.cpp_type() == Field::CPPTYPE_INT64) {
      out.append(reflection->GetRepeatedInt64(message, &field, i));
    } else if (field.cpp_type() == Field::CPPTYPE_INT32) {
      out.append(reflection->GetRepeatedInt32(message, &field, i));
    } else {
      fail("'" + field.full_name() + "' has a type that Python's side does not know");
    }
  }
  return out;
}

// The value at `path`, None if it is not set.
py::object get(const RunConfig& config, const std::string& path) {
  const pb::Message* message = &config;
  const Field* field = nullptr;
  for (const std::string& part : split_text(path, '.')) {
    if (field) message = &message->GetReflection()->GetMessage(*message, field);
    field = message->GetDescriptor()->FindFieldByName(part);
    if (!field) usage_fail("unknown field '" + part + "'", path);
  }
  if (field->is_repeated()) return list(*message, *field);
  if (!message->GetReflection()->HasField(*message, field)) return py::none();
  return scalar(*message, *field);
}

}  // namespace

void register_config(py::module_& m) {
  m.def("schema", [] { return fields_of(*RunConfig::descriptor()); });
  m.def("nearest_word", [](const std::string& word, const std::vector<std::string>& known) {
    return nearest_word(word, known);
  });
  m.def("find_config", [](const std::string& name) { return find_config(name).string(); });
  py::class_<RunConfig>(m, "RunConfig")
      .def(py::init<>())
      .def("read", [](RunConfig& c, const std::string& file) { read_config(file, c); })
      .def("parse", [](RunConfig& c, const std::string& text) { parse_config(text, "text", c); })
      .def("set", [](RunConfig& c, const std::string& path,
                     const std::string& value) { set_checked(path, value, c); })
      .def("get", get)
      .def("text", [](const RunConfig& c) { return to_text(c); })
      .def("copy", [](const RunConfig& c) { return RunConfig(c); })
      .def("completed", [](const RunConfig& c) {
        RunConfig all = c;
        complete(all);
        return all;
      });
}

}  // namespace ens::python
