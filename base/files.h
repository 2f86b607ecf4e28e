// SPDX-License-Identifier: Apache-2.0
// Files that are read whole, and replaced whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace ens {

// Endings of the temporary files below. One is left behind only when the process is killed in the
// middle; whoever owns the folder may delete it (RunDir does).
inline constexpr std::string_view kTemporarySuffix = ".tmp";

// Replaces `file` by `bytes`: writes a temporary file in the same folder, flushes it to disk,
// renames it and flushes the folder. A reader sees the old file or the new one, never a part. On an
// Error (disk full, folder missing or not writable) the temporary is removed and the old file
// intact. The file gets 0600 if `secret`, otherwise 0644, whatever the umask; it is 0600 while
// being written. Safe to call from several threads and processes.
void write_file_atomically(const std::filesystem::path& file, std::string_view bytes, bool secret);

// For files that are never replaced: usage Error if there is something of this name.
void refuse_existing(const std::filesystem::path& file);
// Gives a finished file, in the same folder, its name, and flushes the folder. Usage Error, and
// nothing is changed, if another one has the name by now; Error if the folder cannot be written.
void name_new_file(const std::filesystem::path& temporary, const std::filesystem::path& file);

// The bytes of a file or a pipe. Error if it is not there, is a folder or cannot be read.
std::string read_file(const std::filesystem::path& file);
// The same; empty if there is no such file.
std::optional<std::string> read_file_if_there(const std::filesystem::path& file);

// What changes when a file is replaced or written to. All zero if there is no such file.
struct FileStamp {
  uint64_t inode = 0, size = 0;
  int64_t written_ns = 0;
  bool operator==(const FileStamp&) const = default;
};
FileStamp file_stamp(const std::filesystem::path& file);

}  // namespace ens
