// fetch_dataset's work against a small HTTP server on the loopback interface.
#include "nn/data/fetch.h"

#include <archive.h>
#include <archive_entry.h>
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "nn/data/dataset.h"
#include "nn/data/fetch_files.h"
#include "tests/nn/data/files.h"
#include "tests/support/listener.h"

namespace ens {
namespace {

using namespace test;
using data::fetch_files;
using data::FetchFile;
using data::FetchLimits;

// Serves one request per connection from a table; everything else is a 404.
class Server {
 public:
  struct Answer {
    Bytes body;
    size_t announced = 0;  // Content-Length; 0: the true one
    bool stall = false;    // keep the connection open after the body
    std::string location;  // redirect
  };

  Server() {
    thread_ = std::thread([this] { serve(); });
  }
  ~Server() {
    shutdown(listener_.fd(), SHUT_RDWR);
    thread_.join();
    for (const int stalled : stalled_) close(stalled);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::string url(const std::string& path) const {
    return "http://127.0.0.1:" + std::to_string(listener_.port()) + path;
  }
  void set(const std::string& path, Answer answer) {
    const std::lock_guard lock(mutex_);
    answers_[path] = std::move(answer);
  }
  int requests() const { return requests_; }

 private:
  void serve() {
    while (true) {
      const int client = accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC);
      if (client < 0) return;
      std::string request;
      char buffer[4096];
      ssize_t got = 0;
      while (request.find("\r\n\r\n") == std::string::npos &&
             (got = read(client, buffer, sizeof buffer)) > 0) {
        request.append(buffer, static_cast<size_t>(got));
      }
      ++requests_;
      const size_t start = request.find(' ') + 1;
      if (answer(client, request.substr(start, request.find(' ', start) - start))) {
        stalled_.push_back(client);
      } else {
        close(client);
      }
    }
  }

  bool answer(int client, const std::string& path) {
    const std::lock_guard lock(mutex_);
    const auto it = answers_.find(path);
    std::string head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    if (it != answers_.end() && !it->second.location.empty()) {
      head = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + it->second.location +
             "\r\n\r\n";
    } else if (it != answers_.end()) {
      const Answer& a = it->second;
      head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " +
             std::to_string(a.announced ? a.announced : a.body.size()) + "\r\n\r\n";
      head.append(a.body.begin(), a.body.end());
    }
    for (size_t sent = 0; sent < head.size();) {
      const ssize_t n = send(client, head.data() + sent, head.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return false;
      sent += static_cast<size_t>(n);
    }
    return it != answers_.end() && it->second.stall;
  }

  const test::Listener listener_;
  std::atomic<int> requests_ = 0;
  std::mutex mutex_;
  std::map<std::string, Answer> answers_;
  std::vector<int> stalled_;
  std::thread thread_;
};

std::string digest(const Bytes& bytes, const EVP_MD* kind) {
  unsigned char value[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  EVP_Digest(bytes.data(), bytes.size(), value, &size, kind, nullptr);
  std::string text;
  for (unsigned i = 0; i < size; ++i) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", value[i]);
    text += hex;
  }
  return text;
}

Bytes tar_gz(const std::map<std::string, Bytes>& files) {
  const TempDir dir;
  archive* out = archive_write_new();
  archive_write_add_filter_gzip(out);
  archive_write_set_format_ustar(out);
  archive_write_open_filename(out, (dir / "x.tar.gz").c_str());
  for (const auto& [name, bytes] : files) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_size(entry, static_cast<la_int64_t>(bytes.size()));
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0644);
    archive_write_header(out, entry);
    archive_write_data(out, bytes.data(), bytes.size());
    archive_entry_free(entry);
  }
  archive_write_close(out);
  archive_write_free(out);
  return read_all(dir / "x.tar.gz");
}

class Fetch : public testing::Test {
 protected:
  void SetUp() override {
    setenv("no_proxy", "*", 1);
    const std::string folder = "cifar-10-batches-bin/";
    for (int i = 1; i <= 5; ++i) {
      content[folder + "data_batch_" + std::to_string(i) + ".bin"] = cifar_batch(i, 2, 10, 1);
    }
    content[folder + "test_batch.bin"] = cifar_batch(0, 2, 10, 1);
    content[folder + "batches.meta.txt"] = Bytes(kCifar10Names.begin(), kCifar10Names.end());
    content[folder + "readme.html"] = Bytes(10, 'x');
    offer();
  }

  // Puts the archive of `content` on the server; the checksum follows.
  void offer() {
    archive = tar_gz(content);
    server.set("/cifar.tar.gz", {archive});
    file.checksum = digest(archive, EVP_md5());
    file.size = static_cast<int64_t>(archive.size());
  }

  void fetch() { fetch_files("cifar10", {file}, root.path(), progress, limits); }

  // The fetch must fail and leave nothing but the lock file; the error gives address and a way out.
  Caught fails() {
    const Caught error = caught([&] { fetch(); });
    EXPECT_TRUE(error.has(file.url)) << error.text;
    EXPECT_TRUE(error.has((root / "cifar10").string())) << error.text;
    EXPECT_EQ(contents(), std::set<std::string>{".lock.cifar10"});
    return error;
  }

  std::set<std::string> contents() const {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(root.path())) {
      names.insert(fs::relative(entry.path(), root.path()).string());
    }
    return names;
  }

  Dataset load(DataSplit split = DataSplit::kTrain) {
    DataOptions options;
    options.root = root.path();
    return load_dataset(options, split);
  }

  TempDir root;
  Server server;
  std::map<std::string, Bytes> content;
  Bytes archive;
  FetchFile file{server.url("/cifar.tar.gz"),
                 "",
                 0,
                 {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                  "data_batch_5.bin", "test_batch.bin", "batches.meta.txt"}};
  std::function<void(const FetchProgress&)> progress;
  FetchLimits limits{.connect_s = 5, .stall_s = 5};
};

TEST_F(Fetch, UnpacksTheSetAndReportsProgress) {
  FetchProgress last;
  progress = [&](const FetchProgress& p) {
    EXPECT_GE(p.done, last.done);
    last = p;
  };
  fetch();
  EXPECT_EQ(load().count(), 10);
  EXPECT_EQ(load(DataSplit::kTest).labels, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(last.file, "cifar.tar.gz");
  EXPECT_EQ(last.done, file.size);
  EXPECT_EQ(last.total, file.size);
  EXPECT_EQ(contents().size(), 9u);  // the lock, the folder, its 7 files; no readme, no archive
}

TEST_F(Fetch, DoesNothingWhenComplete) {
  fetch();
  fetch();
  EXPECT_EQ(server.requests(), 1);
}

TEST_F(Fetch, ReplacesADamagedSetAndKeepsStrangers) {
  write_cifar10(root / "cifar10");
  fs::resize_file(root / "cifar10" / "data_batch_3.bin", 100);
  write_text(root / "cifar10" / "notes.txt", "mine");
  EXPECT_THROW(load(), Error);
  fetch();
  EXPECT_EQ(load().count(), 10);
  EXPECT_EQ(read_all(root / "cifar10" / "notes.txt").size(), 4u);
}

TEST_F(Fetch, AcceptsSha256AndRedirects) {
  file.checksum = digest(archive, EVP_sha256());
  file.url = server.url("/moved");
  server.set("/moved", {.body = {}, .location = "/cifar.tar.gz"});
  // The name of the packed file comes from the address that was asked for.
  fetch();
  EXPECT_EQ(load().count(), 10);
}

TEST_F(Fetch, WrongChecksum) {
  archive[archive.size() / 2] ^= 1;
  server.set("/cifar.tar.gz", {archive});
  const Caught error = fails();
  EXPECT_TRUE(error.has("wrong contents") && error.has(file.checksum)) << error.text;
}

TEST_F(Fetch, WrongSize) {
  file.size += 1;
  EXPECT_TRUE(fails().has("wrong contents"));
}

TEST_F(Fetch, NotFound) {
  file.url = server.url("/elsewhere.tar.gz");
  EXPECT_TRUE(fails().has("404"));
}

TEST_F(Fetch, TransferCutOff) {
  server.set("/cifar.tar.gz",
             {.body = Bytes(archive.begin(), archive.begin() + 500), .announced = archive.size()});
  EXPECT_TRUE(fails().has("download failed"));
}

TEST_F(Fetch, TransferThatStalls) {
  limits.stall_s = 1;
  server.set("/cifar.tar.gz", {.body = Bytes(archive.begin(), archive.begin() + 500),
                               .announced = archive.size(),
                               .stall = true});
  EXPECT_TRUE(fails().has("too slow"));
}

TEST_F(Fetch, NobodyListens) {
  int port = 0;
  {
    const Server gone;
    const std::string url = gone.url("");
    port = std::stoi(url.substr(url.rfind(':') + 1));
  }
  file.url = "http://127.0.0.1:" + std::to_string(port) + "/cifar.tar.gz";
  EXPECT_TRUE(fails().has("download failed"));
}

TEST_F(Fetch, UnknownHost) {
  file.url = "http://no-such-host.invalid/cifar.tar.gz";
  EXPECT_TRUE(fails().has("download failed"));
}

TEST_F(Fetch, OtherProtocolsAreRefused) {
  file.url = "file:///etc/hostname";
  EXPECT_TRUE(fails().has("download failed"));
}

TEST_F(Fetch, ArchiveWithoutAMember) {
  content.erase("cifar-10-batches-bin/data_batch_4.bin");
  offer();
  const Caught error = caught([&] { fetch(); });
  EXPECT_TRUE(error.has("does not hold data_batch_4.bin")) << error.text;
  EXPECT_EQ(contents(), std::set<std::string>{".lock.cifar10"});
}

TEST_F(Fetch, ArchiveCutOffBeforeItWasSummed) {
  content["cifar-10-batches-bin/test_batch.bin"] = Bytes(200000, 'a');
  archive = tar_gz(content);
  archive.resize(archive.size() / 2);
  server.set("/cifar.tar.gz", {archive});
  file.checksum = digest(archive, EVP_md5());
  file.size = 0;
  EXPECT_TRUE(caught([&] { fetch(); }).has("archive"));
  EXPECT_EQ(contents(), std::set<std::string>{".lock.cifar10"});
}

// Right checksum, but not the data that load_dataset wants: nothing may be put in place.
TEST_F(Fetch, ArchiveWithUselessContents) {
  content["cifar-10-batches-bin/data_batch_2.bin"].resize(77);
  offer();
  EXPECT_TRUE(caught([&] { fetch(); }).has("77 bytes"));
  EXPECT_EQ(contents(), std::set<std::string>{".lock.cifar10"});
}

TEST_F(Fetch, PathsInTheArchiveAreNotFollowed) {
  content["../../cifar10/test_batch.bin"] = cifar_batch(5, 1, 10, 1);
  offer();
  fetch();
  EXPECT_EQ(contents().size(), 9u);
  EXPECT_FALSE(fs::exists(root.path().parent_path() / "cifar10"));
}

TEST_F(Fetch, UnzipsIdxFiles) {
  std::vector<FetchFile> files;
  const auto add = [&](const std::string& name, const Bytes& bytes) {
    const Bytes packed = gzip(bytes);
    server.set("/" + name + ".gz", {packed});
    files.push_back({server.url("/" + name + ".gz"), digest(packed, EVP_md5())});
  };
  add("train-images-idx3-ubyte", idx({2, 3, 3}, Bytes(18, 9)));
  add("train-labels-idx1-ubyte", idx({2}, {3, 4}));
  add("t10k-images-idx3-ubyte", idx({1, 3, 3}, Bytes(9, 8)));
  add("t10k-labels-idx1-ubyte", idx({1}, {5}));
  // A damaged plain file would otherwise win over the fresh one.
  write_text(root / "mnist" / "train-images-idx3-ubyte", "damaged");
  fetch_files("mnist", files, root.path(), progress, limits);
  DataOptions options;
  options.name = "mnist";
  options.root = root.path();
  EXPECT_EQ(load_dataset(options, DataSplit::kTrain).pixels, Bytes(18, 9));
  EXPECT_EQ(load_dataset(options, DataSplit::kTest).labels, (std::vector<int32_t>{5}));
}

TEST_F(Fetch, ProgressMayStopIt) {
  progress = [](const FetchProgress&) { fail("stopped by the caller"); };
  EXPECT_TRUE(caught([&] { fetch(); }).has("stopped by the caller"));
  EXPECT_EQ(contents(), std::set<std::string>{".lock.cifar10"});
}

TEST_F(Fetch, LeftoversOfAKilledFetchAreRemoved) {
  write_text(root / ".fetch.cifar10" / "cifar.tar.gz", "half");
  fetch();
  EXPECT_EQ(contents().size(), 9u);
}

TEST_F(Fetch, ThreadsShareOneDownload) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { EXPECT_NO_THROW(fetch()); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(server.requests(), 1);
  EXPECT_EQ(load().count(), 10);
}

TEST_F(Fetch, UnwritableRoot) {
  write_text(root / "file", "x");
  const Caught error =
      caught([&] { fetch_files("cifar10", {file}, root / "file" / "data", progress, limits); });
  EXPECT_TRUE(error.has((root / "file").string())) << error.text;
}

TEST(FetchDataset, KnowsItsSets) {
  const std::vector<std::string> want{"cifar10", "cifar100", "fashion_mnist", "mnist", "multi30k"};
  EXPECT_EQ(fetchable_datasets(), want);
  Caught error = caught([] { fetch_dataset("imagenet", "/nonexistent", {}); });
  EXPECT_EQ(error.kind, Error::Kind::kUsage);
  EXPECT_TRUE(error.has("cifar10, cifar100, fashion_mnist, mnist"));
  error = caught([] { fetch_dataset("shapes", "/nonexistent", {}); });
  EXPECT_TRUE(error.has("generated"));
}

TEST(FetchDataset, LeavesACompleteRealSetAlone) {
  DataOptions options;
  if (!std::getenv("ENS_DATA") || !dataset_present(options)) {
    GTEST_SKIP() << "cifar10 is not in $ENS_DATA";
  }
  EXPECT_NO_THROW(fetch_dataset("cifar10", "", {}));
}

}  // namespace
}  // namespace ens
