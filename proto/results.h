// The JSON files of runs, attacks, serving and sweeps (proto/results.proto): written whole or not
// at all, read strictly. Keys that the schema does not know are ignored.
#pragma once

#include <google/protobuf/message.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace ens::results {

// Numbers that are not finite are left out: they are not known. Bytes that are not UTF-8 (command
// lines may hold some) become U+FFFD.
std::string to_json(const google::protobuf::Message& message);
void write(const std::filesystem::path& file, const google::protobuf::Message& message);

// Error that names the file and what is wrong with it: it cannot be read, is no JSON object, or a
// field has the wrong type.
void read(const std::filesystem::path& file, google::protobuf::Message& message);
// The same, but false if the file is missing or damaged; `message` is empty then.
bool read_if_intact(const std::filesystem::path& file, google::protobuf::Message& message);

// A number by its path in the schema ("split.head"); nothing if it is not known. Error if the
// schema has no such number.
std::optional<double> number(const google::protobuf::Message& message, std::string_view path);

}  // namespace ens::results
