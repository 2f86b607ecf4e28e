// SPDX-License-Identifier: Apache-2.0
#include "net/keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>

#include "base/error.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

class Keys : public testing::Test {
 protected:
  static std::string contents(const fs::path& file) {
    std::ifstream in(file);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static mode_t mode(const fs::path& file) {
    struct stat info {};
    ::stat(file.c_str(), &info);
    return info.st_mode & 0777;
  }
  static void write(const fs::path& file, const std::string& text, mode_t mode = 0600) {
    std::ofstream(file) << text;
    ::chmod(file.c_str(), mode);
  }
  static std::set<std::string> keys_of(const std::map<std::string, std::string>& named) {
    std::set<std::string> keys;
    for (const auto& [key, name] : named) keys.insert(key);
    return keys;
  }

  test::TempDir dir_;
};

TEST_F(Keys, FilesRoundTripWithTheRightModes) {
  const KeyPair keys = new_keys();
  const mode_t old = ::umask(0);  // whatever the user's umask
  write_keys(dir_ / "me", keys);
  ::umask(old);
  EXPECT_EQ(mode(dir_ / "me.key"), 0600u);
  EXPECT_EQ(mode(dir_ / "me.pub"), 0644u);
  EXPECT_EQ(read_public_key(dir_ / "me.pub"), keys.public_key);
  const KeyPair read = read_secret_key(dir_ / "me.key");
  EXPECT_STREQ(read.secret_key.z85(), keys.secret_key.z85());
  EXPECT_EQ(read.public_key, keys.public_key);
  EXPECT_EQ(contents(dir_ / "me.pub").find(keys.secret_key.z85()), std::string::npos);
  EXPECT_EQ(contents(dir_ / "me.pub"), keys.public_key + " me\n");
}

TEST_F(Keys, DeviceKeysRoundTripAndAreNobodyElses) {
  write_device_key(dir_ / "door.device");
  EXPECT_EQ(mode(dir_ / "door.device"), 0600u);
  const Seed key = read_device_key(dir_ / "door.device");
  EXPECT_EQ(read_device_key(dir_ / "door.device"), key);
  EXPECT_NE(key, Seed{});
  EXPECT_THROW(write_device_key(dir_ / "door.device"), Error);
  write_device_key(dir_ / "other.device");
  EXPECT_NE(read_device_key(dir_ / "other.device"), key);

  ::chmod((dir_ / "door.device").c_str(), 0640);
  const std::string others = test::error_of([&] { read_device_key(dir_ / "door.device"); });
  EXPECT_NE(others.find("can be read by others"), std::string::npos) << others;
  const std::string missing = test::error_of([&] { read_device_key(dir_ / "none.device"); });
  EXPECT_NE(missing.find("ensembler keys device"), std::string::npos) << missing;
  for (const std::string& text :
       {std::string("device 12\n"), "device " + std::string(64, 'g') + "\n",
        "device " + std::string(66, '0') + "\n", std::string(), std::string(2000, 'x')}) {
    write(dir_ / "bad.device", text);
    const std::string bad = test::error_of([&] { read_device_key(dir_ / "bad.device"); });
    EXPECT_NE(bad.find("not a device key file"), std::string::npos) << bad;
    if (text.size() > 8) EXPECT_EQ(bad.find(text.substr(7, 40)), std::string::npos) << bad;
  }
}

TEST_F(Keys, TwoPairsDiffer) { EXPECT_NE(new_keys().public_key, new_keys().public_key); }

TEST_F(Keys, NothingIsOverwritten) {
  write_keys(dir_ / "me", new_keys());
  const std::string before = contents(dir_ / "me.key");
  EXPECT_NE(test::error_of([&] { write_keys(dir_ / "me", new_keys()); }).find("me.pub"),
            std::string::npos);
  fs::remove(dir_ / "me.pub");
  EXPECT_NE(test::error_of([&] { write_keys(dir_ / "me", new_keys()); }).find("me.key"),
            std::string::npos);
  EXPECT_EQ(contents(dir_ / "me.key"), before);
  EXPECT_FALSE(fs::exists(dir_ / "me.pub"));
}

TEST_F(Keys, MovedAndDestroyedSecretsAreWiped) {
  alignas(SecretKey) std::array<std::byte, sizeof(SecretKey)> memory;
  auto* key = new (memory.data()) SecretKey(std::string(40, 'x').c_str());
  SecretKey other = std::move(*key);
  EXPECT_EQ(key->z85()[0], '\0');
  *key = std::move(other);
  EXPECT_STREQ(key->z85(), std::string(40, 'x').c_str());
  key->~SecretKey();
  EXPECT_EQ(std::count(memory.begin(), memory.end(), std::byte{'x'}), 0);
}

TEST_F(Keys, BadSecretFilesAreRefusedWithoutShowingThem) {
  const std::string secret = new_keys().secret_key.z85();
  write(dir_ / "open.key", "secret " + secret + "\n", 0640);
  const std::string open = test::error_of([&] { read_secret_key(dir_ / "open.key"); });
  EXPECT_NE(open.find("read by others"), std::string::npos);
  for (const std::string& text :
       {std::string(""), std::string("secret \n"), "secret " + secret.substr(1) + "\n",
        "secret " + secret + "x\n", secret + "\n", std::string(100000, 'a')}) {
    write(dir_ / "bad.key", text);
    const std::string error = test::error_of([&] { read_secret_key(dir_ / "bad.key"); });
    EXPECT_NE(error.find("bad.key"), std::string::npos);
    EXPECT_EQ(error.find(secret.substr(1, 20)), std::string::npos) << "shows the key";
  }
  write(dir_ / "other.pub", std::string(40, 'p') + " me\n", 0644);
  const std::string other = test::error_of([&] { read_secret_key(dir_ / "other.pub"); });
  EXPECT_NE(other.find("this is a public key"), std::string::npos) << other;
  EXPECT_NE(test::error_of([&] { read_secret_key(dir_ / "none.key"); }).find("none.key"),
            std::string::npos);
  // A secret file named where a public one belongs.
  write_keys(dir_ / "me", new_keys());
  const std::string mixed = test::error_of([&] { read_public_key(dir_ / "me.key"); });
  EXPECT_NE(mixed.find("me.key:2"), std::string::npos) << mixed;
}

TEST_F(Keys, AllowListsAreFilesOrFolders) {
  const std::string a = new_keys().public_key, b = new_keys().public_key;
  write(dir_ / "list", "# clients\n\n" + a + " camera 1\n  " + b + "\n");
  EXPECT_EQ(keys_of(read_allowed_keys(dir_ / "list")), (std::set<std::string>{a, b}));
  fs::create_directory(dir_ / "clients");
  EXPECT_NE(test::error_of([&] { read_allowed_keys(dir_ / "clients"); }).find("no public key"),
            std::string::npos);
  write(dir_ / "clients" / "a.pub", a + " a\n");
  write(dir_ / "clients" / "b.pub", b + " b\n");
  write(dir_ / "clients" / "README", "not a key\n");
  EXPECT_EQ(keys_of(read_allowed_keys(dir_ / "clients")), (std::set<std::string>{a, b}));
  write(dir_ / "clients" / "c.pub", "oops\n");
  EXPECT_NE(test::error_of([&] { read_allowed_keys(dir_ / "clients"); }).find("c.pub:1"),
            std::string::npos);
}

TEST_F(Keys, LoopbackIsOnlyLoopback) {
  for (const char* address : {"tcp://127.0.0.1:1", "tcp://127.8.9.10:*", "tcp://localhost:5755",
                              "tcp://[::1]:5", "tcp://lo:5", "ipc:///tmp/x", "inproc://x"}) {
    EXPECT_TRUE(is_loopback(address)) << address;
  }
  for (const char* address : {"tcp://*:5755", "tcp://0.0.0.0:1", "tcp://10.0.0.1:1", "tcp://eth0:1",
                              "tcp://127.example.org:1", "tcp://localhost.example.org:1",
                              "tcp://[::]:5", "tcp://128.0.0.1:1"}) {
    EXPECT_FALSE(is_loopback(address)) << address;
  }
  for (const char* address : {"", "127.0.0.1:5", "http://127.0.0.1:5", "tcp://127.0.0.1", "tcp://",
                              "tcp://127.0.0.1:70000", "tcp://127.0.0.1:", "tcp://127.0.0.1:x"}) {
    EXPECT_THROW(is_loopback(address), Error) << address;
  }
}

// As editors of other systems leave them.
TEST_F(Keys, CarriageReturnsSpacesAndAByteOrderMarkDoNotMatter) {
  const KeyPair keys = new_keys();
  write_keys(dir_ / "phone", keys);
  std::string secret = contents(dir_ / "phone.key"), crlf;
  for (const char c : secret) crlf += c == '\n' ? std::string(" \r\n") : std::string(1, c);
  write(dir_ / "crlf.key", crlf);
  const KeyPair read = read_secret_key(dir_ / "crlf.key");
  EXPECT_EQ(read.public_key, keys.public_key);
  EXPECT_STREQ(read.secret_key.z85(), keys.secret_key.z85());
  write(dir_ / "crlf.pub", "\xef\xbb\xbf" + keys.public_key + " phone\r\n");
  EXPECT_EQ(read_public_key(dir_ / "crlf.pub"), keys.public_key);
  write(dir_ / "list", "# ours\r\n" + keys.public_key + "\r\n\r\n");
  EXPECT_EQ(keys_of(read_allowed_keys(dir_ / "list")), std::set<std::string>{keys.public_key});
}

// Logs and metrics show names, so a name cannot be anything.
TEST_F(Keys, NamesComeFromTheLineOrTheFileAndAreHarmless) {
  const std::string a = new_keys().public_key, b = new_keys().public_key, c = new_keys().public_key;
  fs::create_directory(dir_ / "named");
  write(dir_ / "named/a.pub", a + " anna\n");
  write(dir_ / "named/bert.pub", b + "\n");
  write(dir_ / "named/c.pub", c + " x\"\x1b[31m\\" + std::string(100, 'y') + "\n");
  auto names = read_allowed_keys(dir_ / "named");
  EXPECT_EQ(names[a], "anna");
  EXPECT_EQ(names[b], "bert");
  EXPECT_EQ(names[c], "x__[31m_" + std::string(56, 'y'));
}

}  // namespace
}  // namespace ens
