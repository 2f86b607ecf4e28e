// SPDX-License-Identifier: Apache-2.0
#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

std::string hint_for(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "free some disk space and try again";
    case EFBIG:
      return "the file is larger than this system allows; see ulimit -f";
    case ENOENT:
      return "the folder does not exist; create it or check the path";
    case ENOTDIR:
      return "a part of the path is a file, not a folder; check the path";
    case EACCES:
    case EPERM:
    case EROFS:
      return "the folder is not writable; choose another one or change its permissions";
    case EISDIR:
      return "a folder has that name; choose another name";
    default:
      return "";
  }
}

void flush_folder(const fs::path& file) {
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  const Fd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some file systems cannot flush a folder (EINVAL); the file itself is on disk by now.
  if (!fd || fsync(fd.get()) == 0 || errno == EINVAL || errno == EROFS) return;
  const int error = errno;
  fail(std::string("cannot flush the folder: ") + std::strerror(error), file.string(),
       hint_for(error));
}

// The temporary file: removed unless it was renamed.
struct Temporary {
  std::string name;
  Fd fd;
  bool renamed = false;

  ~Temporary() {
    if (fd && !renamed) unlink(name.c_str());
  }
};

}  // namespace

void write_file_atomically(const fs::path& file, std::string_view bytes, bool secret) {
  auto check = [&](bool ok, const char* what) {
    if (ok) return;
    const int error = errno;
    fail(std::string(what) + ": " + std::strerror(error), file.string(), hint_for(error));
  };

  Temporary temporary;
  temporary.name = file.string() + ".XXXXXX" + std::string(kTemporarySuffix);
  temporary.fd = Fd(mkostemps(temporary.name.data(), static_cast<int>(kTemporarySuffix.size()),
                              O_CLOEXEC));  // creates it with 0600
  check(bool(temporary.fd), "cannot create the file");
  check(write_all(temporary.fd, bytes), "cannot write the file");
  check(fchmod(temporary.fd.get(), secret ? 0600 : 0644) == 0, "cannot set the file's permissions");
  check(fsync(temporary.fd.get()) == 0, "cannot write the file");
  check(rename(temporary.name.c_str(), file.c_str()) == 0, "cannot replace the file");
  temporary.renamed = true;

  flush_folder(file);
}

void refuse_existing(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(file, error))) return;
  usage_fail("there is a file of this name already", file.string(),
             "choose another name, or remove it first");
}

void name_new_file(const fs::path& temporary, const fs::path& file) {
  int done = renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, file.c_str(), RENAME_NOREPLACE);
  if (done != 0 &&
      (errno == EINVAL || errno == ENOSYS)) {  // this file system knows only the plain one
    refuse_existing(file);
    done = rename(temporary.c_str(), file.c_str());
  }
  if (done != 0 && errno == EEXIST) refuse_existing(file);
  if (done != 0) {
    const int error = errno;
    fail(std::string("cannot name the file: ") + std::strerror(error), file.string(),
         hint_for(error));
  }
  flush_folder(file);
}

std::string read_file(const fs::path& file) {
  if (std::optional<std::string> bytes = read_file_if_there(file)) return *std::move(bytes);
  fail("cannot read the file: it is not there", file.string(), "check the path");
}

std::optional<std::string> read_file_if_there(const fs::path& file) {
  std::error_code error;
  if (!fs::exists(file, error)) return std::nullopt;
  if (fs::is_directory(file, error)) fail("this is a folder, not a file", file.string());
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(std::string("cannot open the file: ") + std::strerror(errno), file.string());
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) fail("cannot read the file", file.string());
  return bytes;
}

FileStamp file_stamp(const std::filesystem::path& file) {
  struct stat info;
  if (::stat(file.c_str(), &info) != 0) return {};
  return {info.st_ino, static_cast<uint64_t>(info.st_size),
          info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

}  // namespace ens
