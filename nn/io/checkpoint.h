// SPDX-License-Identifier: Apache-2.0
// Named tensors and attributes in one HDF5 file, each data set with a SHA-256 of its bytes.
//
// Writing goes to a temporary name in the same folder, is flushed to disk and renamed: a reader
// never sees half a file, and a full disk leaves the old one in place. Reading checks every
// checksum and names the file, the entry and the fault. Functions are safe to call from several
// threads.
//
// The file, which h5dump and h5py open as they are (all numbers little-endian):
//   user block  512 bytes before the HDF5 data: text lines with the length of the file and the
//               SHA-256 of all that follows. It is checked before HDF5 parses anything, so a
//               damaged or cut file never reaches the library, unless it becomes so only then.
//   /           attributes "kind" and "checksum" (SHA-256 over kind, texts, numbers, and each data
//               set's name, dtype, shape and checksum)
//   /texts      one string attribute per text; stored with a final NUL that is not part of it
//   /numbers    one 64-bit integer attribute per number
//   /tensors/.. contiguous data sets, '/' in a name making groups; attributes "dtype" (bfloat16 and
//               float16 are stored as their 16 bits in uint16, float8 as its 8 in uint8) and
//               "sha256" (hex, of the raw bytes)
// The same content gives the same bytes. SHA-256 finds damage; it does not prove who wrote the
// file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nn/core/tensor.h"

namespace ens {

struct Checkpoint {
  std::string kind;                          // "edge", "cloud", "training": a reader asks for one
  std::map<std::string, std::string> texts;  // small attributes: configuration, fingerprints; any
                                             // bytes, up to 16 MiB each
  std::map<std::string, int64_t> numbers;
  std::map<std::string, Tensor> tensors;  // any dtype; written plain, from any device; read on
                                          // the CPU. Names may contain '/' and '.', but no part
                                          // may be empty, "." or "..", and no tensor may have
                                          // the name of another one's folder ("a" and "a/b")
  // Accessors that throw an Error naming the entry and `file` when it is missing.
  const std::string& text(const std::string& name) const;
  int64_t number(const std::string& name) const;
  const Tensor& tensor(const std::string& name) const;
  std::string file;  // set by read_checkpoint, for error messages
};

// `secret`: the file gets mode 0600 before anything is written into it, otherwise 0644. Takes
// memory for about twice the tensors while it runs.
void write_checkpoint(const std::filesystem::path& file, const Checkpoint& checkpoint, bool secret);

// Error if missing, truncated, damaged (checksum), or of another kind; an empty `kind` accepts any.
// Sizes are checked against the file's own size before memory is taken.
Checkpoint read_checkpoint(const std::filesystem::path& file, const std::string& kind);

// SHA-256, as 32 raw bytes, over names, shapes, dtypes and contents of tensors in name order.
std::string digest(const std::map<std::string, Tensor>& tensors);

}  // namespace ens
