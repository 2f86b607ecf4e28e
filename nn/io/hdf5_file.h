// SPDX-License-Identifier: Apache-2.0
// What all our HDF5 files share: the first block with its checksum, and HDF5's identifiers, errors
// and lock. For those who write such files (nn/io/checkpoint.cc, disguise/set/set.cc); it brings
// HDF5's own header along.
#pragma once

#include <hdf5.h>

#include <filesystem>
#include <mutex>
#include <string>

#include "nn/core/dtype.h"

namespace ens {

inline constexpr size_t kUserBlock = 512;  // HDF5 looks for its data at 0, 512, 1024, ...
inline constexpr char kWriteAgain[] = "copy or write the file again";

// The first 512 bytes of a file of this size: its length, and the SHA-256 (32 raw bytes) of all
// that follows.
std::string user_block(size_t file_size, const std::string& sum);

// Error unless the file's first block is right for the bytes that follow it. To be called before
// HDF5 parses anything.
void check_user_block(const std::filesystem::path& file);

// Held by every function that calls HDF5: the library may be built without thread safety. A thread
// may hold it several times. Also stops HDF5 from printing errors (a setting that belongs to the
// thread in thread-safe builds).
class Hdf5Lock {
 public:
  Hdf5Lock();

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

// The innermost message of HDF5's error stack, such as "bad object header version number".
std::string hdf5_reason();

// For calls that cannot fail except for want of memory.
void must(herr_t status, const std::string& where);

// Owns an HDF5 identifier, and closes it under the lock. `where` names file and entry for the Error
// when it is not valid.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle(hid_t id, Close close, const std::string& where);
  Handle(Handle&& other) noexcept;
  Handle& operator=(Handle&&) = delete;
  ~Handle();
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  Close close_;
};

// Opens a file for reading, once check_user_block() has accepted it.
Handle open_hdf5(const std::filesystem::path& file);

// The type in the file; in memory it is the same, as the machine is little-endian.
hid_t file_type(Dtype dtype);

}  // namespace ens
