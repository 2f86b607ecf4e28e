// SPDX-License-Identifier: Apache-2.0
// The JSON files of runs, attacks, serving and sweeps (proto/results.proto): written whole or not
// at all, read strictly. Keys that the schema does not know are ignored; files of a newer version
// are refused.
#pragma once

#include <google/protobuf/message.h>

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace ens::results {

class RunSummary;

// The file is intact, but of a version that this program does not know.
class NewerFormat : public Error {
 public:
  using Error::Error;
};

// Numbers that are not finite are left out: they are not known. Bytes that are not UTF-8 (command
// lines may hold some) become U+FFFD.
std::string to_json(const google::protobuf::Message& message, bool indented = true);
// The reverse, for what others send: unknown keys are an error too. False, and why, if it is no
// JSON of such a message.
bool from_json(const std::string& text, google::protobuf::Message& message, std::string& why);
// The file also gets the version of its format.
void write(const std::filesystem::path& file, const google::protobuf::Message& message);

// Error that names the file and what is wrong with it: it cannot be read, is no JSON object, or a
// field has the wrong type. NewerFormat if a newer program has written it.
void read(const std::filesystem::path& file, google::protobuf::Message& message);
// The same, but false if the file is missing or damaged; `message` is empty then. Still
// NewerFormat: nobody may take such a file for a damaged one and replace it.
bool read_if_intact(const std::filesystem::path& file, google::protobuf::Message& message);

// A number by its path in the schema ("split.head"); nothing if it is not known. Error if the
// schema has no such number.
std::optional<double> number(const google::protobuf::Message& message, std::string_view path);

// Whether of several selected nets one has more than nine tenths of the logits' variance.
bool in_effect_one_net(const RunSummary& summary);

}  // namespace ens::results
