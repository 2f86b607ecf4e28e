#include "nn/data/fetch.h"

#include <archive.h>
#include <archive_entry.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/lock.h"
#include "base/strings.h"
#include "nn/data/dataset.h"
#include "nn/data/fetch_files.h"
#include "nn/data/sentences.h"
#include "nn/data/sources.h"

namespace ens {
namespace data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDiskHint = "check the folder's permissions and the free space";

// A file being written; close() reports what write() could not.
class OutputFile {
 public:
  explicit OutputFile(fs::path path) : path_(std::move(path)), file_(fopen(path_.c_str(), "wb")) {
    if (!file_) broken();
  }
  ~OutputFile() {
    if (file_) fclose(file_);
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* bytes, size_t count) {
    if (fwrite(bytes, 1, count, file_) != count) broken();
  }
  // On the disk when this returns, so that a later rename cannot expose an empty file.
  void close() {
    if (fflush(file_) != 0 || fsync(fileno(file_)) != 0) broken();
    if (fclose(std::exchange(file_, nullptr)) != 0) broken();
  }

 private:
  [[noreturn]] void broken() const {
    const std::string why = std::strerror(errno);
    fail("cannot write file: " + why, path_.string(), kDiskHint);
  }
  fs::path path_;
  FILE* file_;
};

// The algorithm is told by the length of the expected value.
Hash hash_for(const std::string& expected) {
  return Hash(expected.size() == 32 ? Hash::Algorithm::kMd5 : Hash::Algorithm::kSha256);
}

// What libcurl's callbacks share. Nothing may be thrown through C: `error` keeps it for later.
struct Transfer {
  OutputFile out;
  Hash digest;
  FetchProgress state;
  const std::function<void(const FetchProgress&)>& progress;
  std::exception_ptr error;

  template <typename Work>
  bool guarded(const Work& work) {
    try {
      work();
      return true;
    } catch (...) {
      error = std::current_exception();
      return false;
    }
  }
};

size_t on_data(char* bytes, size_t one, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const bool ok = transfer.guarded([&] {
    transfer.out.write(bytes, one * count);
    transfer.digest.add(bytes, one * count);
  });
  return ok ? one * count : 0;
}

int on_progress(void* user, curl_off_t total, curl_off_t done, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (!transfer.progress) return 0;
  if (total > 0) transfer.state.total = total;
  transfer.state.done = done;
  return transfer.guarded([&] { transfer.progress(transfer.state); }) ? 0 : 1;
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

void download(const FetchFile& file, const fs::path& to, const std::string& by_hand,
              const std::function<void(const FetchProgress&)>& progress,
              const FetchLimits& limits) {
  static const CURLcode kReady = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (kReady != CURLE_OK || !curl) fail("libcurl cannot start", file.url);

  Transfer transfer{OutputFile(to),
                    hash_for(file.checksum),
                    {base_name(file.url), 0, file.size},
                    progress,
                    nullptr};
  std::array<char, CURL_ERROR_SIZE> detail{};
  const auto set = [&](CURLoption option, auto value) {
    curl_easy_setopt(curl.get(), option, value);
  };
  set(CURLOPT_URL, file.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 1L);
  set(CURLOPT_MAXREDIRS, 5L);
  set(CURLOPT_FAILONERROR, 1L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_USERAGENT, "ensembler");
  set(CURLOPT_CONNECTTIMEOUT, limits.connect_s);
  set(CURLOPT_LOW_SPEED_TIME, limits.stall_s);
  set(CURLOPT_LOW_SPEED_LIMIT, limits.stall_bytes);
  set(CURLOPT_ERRORBUFFER, detail.data());
  set(CURLOPT_WRITEFUNCTION, on_data);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, on_progress);
  set(CURLOPT_XFERINFODATA, static_cast<void*>(&transfer));
  const CURLcode code = curl_easy_perform(curl.get());
  if (transfer.error) std::rethrow_exception(transfer.error);
  if (code != CURLE_OK) {
    const std::string why = detail[0] ? detail.data() : curl_easy_strerror(code);
    fail("download failed: " + why, file.url, "try again later, or " + by_hand);
  }
  transfer.out.close();
  const std::string got = to_hex(transfer.digest.finish());
  const auto bytes = static_cast<int64_t>(fs::file_size(to));
  if (got != file.checksum || (file.size && bytes != file.size)) {
    fail("download has the wrong contents: " + std::to_string(bytes) + " bytes with checksum " +
             got + " instead of " + (file.size ? std::to_string(file.size) + " with " : "") +
             file.checksum,
         file.url, "try again later, or " + by_hand);
  }
}

[[noreturn]] void archive_broken(archive* reader, const fs::path& file) {
  const char* why = archive_error_string(reader);
  fail(std::string("cannot unpack archive: ") + (why ? why : "unknown reason"), file.string());
}

// Takes the members out of a .tar.gz, by base name: no path in the archive is ever followed.
void unpack(const fs::path& file, const std::vector<std::string>& members, const fs::path& to) {
  const std::unique_ptr<archive, int (*)(archive*)> reader(archive_read_new(), archive_read_free);
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_format_tar(reader.get());
  if (archive_read_open_filename(reader.get(), file.c_str(), 1 << 16) != ARCHIVE_OK) {
    archive_broken(reader.get(), file);
  }
  archive_entry* entry = nullptr;
  int code = 0;
  while ((code = archive_read_next_header(reader.get(), &entry)) == ARCHIVE_OK) {
    const char* path = archive_entry_pathname(entry);
    const std::string name = path ? base_name(path) : "";
    if (archive_entry_filetype(entry) != AE_IFREG ||
        std::ranges::find(members, name) == members.end()) {
      continue;
    }
    OutputFile out(to / name);
    std::vector<char> buffer(1 << 20);
    la_ssize_t got = 0;
    while ((got = archive_read_data(reader.get(), buffer.data(), buffer.size())) > 0) {
      out.write(buffer.data(), static_cast<size_t>(got));
    }
    if (got < 0) archive_broken(reader.get(), file);
    out.close();
  }
  if (code != ARCHIVE_EOF) archive_broken(reader.get(), file);
  for (const std::string& name : members) {
    if (!fs::exists(to / name)) fail("archive does not hold " + name, file.string());
  }
}

void unzip(const fs::path& file, const fs::path& to) {
  const std::vector<uint8_t> bytes = read_file(file, "");
  OutputFile out(to);
  out.write(bytes.data(), bytes.size());
  out.close();
}

// An empty folder for the time of a fetch. What a killed fetch left is removed first; the lock
// makes sure that it is nobody's.
class WorkFolder {
 public:
  explicit WorkFolder(fs::path path) : path_(std::move(path)) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void check_loads(const std::string& name, const fs::path& root) {
  if (name == "multi30k") {
    for (const char* split : {"train", "val", "test_2016_flickr", "test_2017_flickr"}) {
      read_multi30k(root, split, "en-de");
    }
    return;
  }
  DataOptions options;
  options.name = name;
  options.root = root;
  for (const DataSplit split : {DataSplit::kTrain, DataSplit::kTest}) load_dataset(options, split);
}

bool complete(const std::string& name, const fs::path& root) {
  if (!fetched_present(name, root)) return false;
  try {
    check_loads(name, root);
    return true;
  } catch (const Error&) {
    return false;  // damaged: fetch it again
  }
}

std::string by_hand(const FetchFile& file, const fs::path& folder) {
  std::string text = "download " + file.url + " yourself and put ";
  for (size_t i = 0; i < file.members.size(); ++i) text += (i ? ", " : "") + file.members[i];
  if (file.members.empty()) text += "it";
  return text + " into " + folder.string();
}

}  // namespace

void fetch_files(const std::string& name, const std::vector<FetchFile>& files, const fs::path& root,
                 const std::function<void(const FetchProgress&)>& progress,
                 const FetchLimits& limits) {
  try {
    if (complete(name, root)) return;  // needs no right to write
    fs::create_directories(root);
    // Held by one fetch of a set at a time, across threads and processes.
    const FileLock lock = FileLock::wait_for(root / (".lock." + name), 0666);
    if (complete(name, root)) return;  // another fetch may have come first
    // On the same file system as the target, so that a rename is all that is left to do.
    const WorkFolder work(root / (".fetch." + name));
    const fs::path fresh = work.path() / name, target = root / name;
    fs::create_directories(fresh);
    for (const FetchFile& file : files) {
      const fs::path packed = work.path() / base_name(file.url);
      download(file, packed, by_hand(file, target), progress, limits);
      if (file.members.empty()) {
        unzip(packed, fresh / packed.stem());
      } else {
        unpack(packed, file.members, fresh);
      }
      fs::remove(packed);
    }
    check_loads(name, work.path());
    fs::create_directories(target);
    for (const auto& file : fs::directory_iterator(fresh)) {
      fs::rename(file.path(), target / file.path().filename());
    }
  } catch (const fs::filesystem_error& e) {
    fail(e.code().message(), e.path1().string(), kDiskHint);
  }
}

}  // namespace data

namespace {

using data::FetchFile;

// Checksums as published by the authors (CIFAR) and used by torchvision (MNIST, Fashion-MNIST).
const std::map<std::string, std::vector<FetchFile>>& official_files() {
  const std::string cifar = "https://www.cs.toronto.edu/~kriz/";
  const std::string mnist = "https://ossci-datasets.s3.amazonaws.com/mnist/";
  const std::string fashion = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/";
  // The commit whose checksums these are.
  const std::string multi30k =
      "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/"
      "data/task1/raw/";
  static const std::map<std::string, std::vector<FetchFile>> kFiles{
      {"cifar10",
       {{cifar + "cifar-10-binary.tar.gz",
         "c32a1d4ab5d03f1284b67883e8d87530",
         170052171,
         {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
          "data_batch_5.bin", "test_batch.bin", "batches.meta.txt"}}}},
      {"cifar100",
       {{cifar + "cifar-100-binary.tar.gz",
         "03b5dce01913d631647c71ecec9e9cb8",
         0,
         {"train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt"}}}},
      {"mnist",
       {{mnist + "train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"},
        {mnist + "train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"},
        {mnist + "t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"},
        {mnist + "t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"}}},
      {"fashion_mnist",
       {{fashion + "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"},
        {fashion + "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"},
        {fashion + "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"},
        {fashion + "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"}}},
      {"multi30k",
       {{multi30k + "train.en.gz",
         "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"},
        {multi30k + "train.de.gz",
         "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"},
        {multi30k + "val.en.gz",
         "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"},
        {multi30k + "val.de.gz",
         "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"},
        {multi30k + "test_2016_flickr.en.gz",
         "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"},
        {multi30k + "test_2016_flickr.de.gz",
         "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"},
        {multi30k + "test_2017_flickr.en.gz",
         "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074"},
        {multi30k + "test_2017_flickr.de.gz",
         "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee"}}},
  };
  return kFiles;
}

}  // namespace

bool fetched_present(const std::string& name, const std::filesystem::path& root) {
  if (name == "multi30k") return multi30k_present(root);
  DataOptions options;
  options.name = name;
  options.root = root;
  return dataset_present(options);
}

std::vector<std::string> fetchable_datasets() {
  std::vector<std::string> names;
  for (const auto& [name, files] : official_files()) names.push_back(name);
  return names;
}

void fetch_dataset(const std::string& name, const std::filesystem::path& root,
                   const std::function<void(const FetchProgress&)>& progress) {
  const auto it = official_files().find(name);
  if (it == official_files().end()) {
    std::string known;
    for (const std::string& each : fetchable_datasets())
      known += (known.empty() ? "" : ", ") + each;
    const bool made = name == "shapes";
    usage_fail(made ? "shapes is generated and needs no download"
                    : "no address is known for data set \"" + name + "\"",
               "data get", "choose one of " + known);
  }
  data::fetch_files(name, it->second, data_root(root), progress);
}

}  // namespace ens
