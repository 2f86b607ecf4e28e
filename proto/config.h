// SPDX-License-Identifier: Apache-2.0
// Reading, overriding, completing and checking configurations (proto/config.proto).
#pragma once

#include <google/protobuf/message.h>

#include <filesystem>
#include <string>
#include <vector>

#include "proto/config.pb.h"

namespace ens {

// Reads a .txtpb file into `config`. Usage Error with file, line and column for unknown or
// misplaced fields and bad values, and for a setting given under its old and its new name.
void read_config(const std::filesystem::path& file, google::protobuf::Message& config);
void parse_config(const std::string& text, const std::string& source_name,
                  google::protobuf::Message& config);

// Applies "stage1.epochs=3" style overrides. A repeated field is replaced, not appended to. Usage
// Error names the unknown part of the path and the nearest known names.
void apply_overrides(const std::vector<std::string>& assignments,
                     google::protobuf::Message& config);

// Sets the setting at `path` and checks that it is in its range; `value` as behind "--set path=".
// Usage Error, and nothing is changed, if it is not, or if there is no such setting.
void set_checked(const std::string& path, const std::string& value,
                 google::protobuf::Message& config);

// Fills every unset field with its default, then checks ranges (P <= N, sigma >= 0, ...). After
// this every optional field is set, except texts where empty is meaningful. Usage Error names the
// field and what is allowed.
void complete(RunConfig& config);
void complete(CloudConfig& config);
void complete(WorkerConfig& config);
void complete(EdgeConfig& config);

// The clouds of a completed configuration, at least one, each with its server_key.
std::vector<CloudPart> parts_of(const EdgeConfig& config);

// The path of a setting of RunConfig as it is named now: "attack.shadow_epochs" ->
// "attack.shadow.epochs". Other paths are returned as they are.
std::string current_path(const std::string& path);

// The default of a setting of RunConfig, as to_text() writes it ("0.1", "\"auto\""); empty if it
// has none.
std::string default_text(const std::string& path);

// What of a setting in a RunConfig's text, with its value as to_text() writes it, a program of this
// version does not write: "setting 'x.y'", "protection.kind 'xyz'"; empty if it may.
std::string unknown_part(const std::string& path, const std::string& value);

// What a text may be; empty for every text.
std::vector<std::string> choices_of(const schema::Setting& setting);

// What a number may be: "1 to 256", "at least 1"; empty for every value.
std::string range_text(const schema::Setting& setting);

// Sets what the runs of older versions did, where their configuration lacks the setting:
// `data.fit` (image folders were stretched, and the images of all other data sets are square) and
// `data.public_images` (none were set aside).
void complete_old_run(RunConfig& config);

std::string to_text(const google::protobuf::Message& config);  // text format, round-trips

}  // namespace ens
