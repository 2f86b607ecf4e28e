// SPDX-License-Identifier: Apache-2.0
#include "net/keys.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
constexpr size_t kKeyChars = 40;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";  // which editors put before UTF-8

// Syntax only: every 32 bytes are a key.
bool is_key(const std::string& text) {
  uint8_t raw[32];
  return text.size() == kKeyChars && zmq_z85_decode(raw, text.c_str()) != nullptr;
}

// A new file with exactly this mode, on disk when it returns. Leaves nothing behind on failure.
void create_file(const fs::path& path, mode_t mode, const char* text, size_t size) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!file) {
    fail(std::string("cannot create the key file: ") + strerror(errno), path.string(),
         errno == EEXIST ? "keys are never overwritten; choose another name" : "");
  }
  // The mode is as given, whatever the umask is.
  if (::fchmod(file.get(), mode) != 0 || !write_all(file, {text, size}) ||
      ::fsync(file.get()) != 0) {
    const int error = errno;
    ::unlink(path.c_str());
    fail(std::string("cannot write the key file: ") + strerror(error), path.string());
  }
}

using NamedKeys = std::map<std::string, std::string>;

// A name is shown in logs and metrics.
std::string printable(std::string name) {
  std::ranges::replace_if(
      name, [](unsigned char c) { return c <= ' ' || c == '"' || c == '\\' || c == 0x7f; }, '_');
  return name.substr(0, 64);
}

// "KEY NAME" lines of a file; ignores empty lines and comments.
NamedKeys public_lines(const fs::path& path) {
  std::ifstream in(path);
  if (!in) fail("cannot read the public key file", path.string(), "make keys with: ensembler keys");
  NamedKeys keys;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    if (++number == 1 && line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
    std::istringstream words(line);  // a carriage return is white space, too
    std::string key;
    if (!(words >> key) || key[0] == '#') continue;
    if (!is_key(key)) {
      fail("no public key at the start of the line", path.string() + ":" + std::to_string(number),
           "it must begin with 40 characters, as in a .pub file");
    }
    std::string name;
    if (!(words >> name)) name = path.stem().string();
    keys.emplace(key, printable(name));
  }
  return keys;
}

}  // namespace

SecretKey::SecretKey(const char* z85) { std::copy_n(z85, kKeyChars, text_.begin()); }
SecretKey::~SecretKey() { ::explicit_bzero(text_.data(), text_.size()); }
SecretKey::SecretKey(SecretKey&& other) noexcept { *this = std::move(other); }
SecretKey& SecretKey::operator=(SecretKey&& other) noexcept {
  if (this != &other) {
    text_ = other.text_;
    ::explicit_bzero(other.text_.data(), other.text_.size());
  }
  return *this;
}

KeyPair new_keys() {
  char public_text[kKeyChars + 1], secret_text[kKeyChars + 1];
  if (zmq_curve_keypair(public_text, secret_text) != 0) {
    fail("cannot make keys: this libzmq has no CURVE", "", "install a libzmq built with libsodium");
  }
  KeyPair keys{public_text, SecretKey(secret_text)};
  ::explicit_bzero(secret_text, sizeof(secret_text));
  return keys;
}

void write_keys(const fs::path& stem, const KeyPair& keys) {
  const fs::path public_file = stem.string() + ".pub", secret_file = stem.string() + ".key";
  if (fs::exists(public_file)) {
    fail("the key file exists", public_file.string(),
         "keys are never overwritten; choose another name");
  }
  std::array<char, 256> text{};
  const int size = snprintf(text.data(), text.size(),
                            "# Ensembler secret key. Keep it to yourself.\npublic %s\nsecret %s\n",
                            keys.public_key.c_str(), keys.secret_key.z85());
  try {
    create_file(secret_file, 0600, text.data(), static_cast<size_t>(size));
  } catch (...) {
    ::explicit_bzero(text.data(), text.size());
    throw;
  }
  ::explicit_bzero(text.data(), text.size());
  const std::string line = keys.public_key + " " + stem.filename().string() + "\n";
  try {
    create_file(public_file, 0644, line.c_str(), line.size());
  } catch (...) {
    ::unlink(secret_file.c_str());
    throw;
  }
}

namespace {

// The line that begins with `word` and a space, without them and white space at its end; empty:
// there is none. Wiped on destruction.
class SecretLine {
 public:
  SecretLine(const fs::path& path, const std::string& word, const char* hint) {
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info;
    if (!file || ::fstat(file.get(), &info) != 0) {
      fail(std::string("cannot read the secret key file: ") + strerror(errno), path.string(), hint);
    }
    if (path.extension() == ".pub") {
      fail("this is a public key", path.string(), "give the .key file that was made with it");
    }
    // A file of somebody else's may be meant for us through its group, as orchestrators mount
    // secrets.
    const mode_t allowed = info.st_uid == ::geteuid() ? 0 : 040;
    if ((info.st_mode & 077 & ~allowed) != 0) {
      fail("the secret key file can be read by others", path.string(),
           "chmod 600 it, or make new keys");
    }
    // Read by hand into one buffer: streams would leave copies in memory.
    ssize_t size = 0, n = 0;
    while (size < static_cast<ssize_t>(bytes_.size()) - 1 &&
           (n = ::read(file.get(), bytes_.data() + size,
                       bytes_.size() - 1 - static_cast<size_t>(size))) > 0) {
      size += n;
    }
    for (char* line = bytes_.data(); line;) {
      char* end = strchr(line, '\n');
      if (end) *end = '\0';
      for (char* last = line + strlen(line); last > line && isspace(last[-1]);) *--last = '\0';
      if (strncmp(line, word.c_str(), word.size()) == 0 && line[word.size()] == ' ') {
        text_ = line + word.size() + 1;
      }
      line = end ? end + 1 : nullptr;
    }
  }
  ~SecretLine() { ::explicit_bzero(bytes_.data(), bytes_.size()); }
  SecretLine(const SecretLine&) = delete;
  SecretLine& operator=(const SecretLine&) = delete;

  std::string_view text() const { return text_; }

 private:
  std::array<char, 1024> bytes_{};
  std::string_view text_;
};

}  // namespace

KeyPair read_secret_key(const fs::path& path) {
  const SecretLine line(path, "secret", "make keys with: ensembler keys");
  KeyPair keys;
  if (line.text().size() == kKeyChars) keys.secret_key = SecretKey(line.text().data());
  // The public half is computed, not believed.
  char public_text[kKeyChars + 1];
  if (keys.secret_key.z85()[0] == '\0' ||
      zmq_curve_public(public_text, keys.secret_key.z85()) != 0) {
    fail("not a secret key file", path.string(),
         "it needs a line 'secret ...'; see ensembler keys");
  }
  keys.public_key = public_text;
  return keys;
}

void write_device_key(const fs::path& path) {
  Seed key = secure_seed();
  std::array<char, 192> text{};
  int size =
      snprintf(text.data(), text.size(), "# Ensembler device key. Keep it to yourself.\ndevice ");
  for (const uint8_t byte : key) {
    size += snprintf(text.data() + size, text.size() - static_cast<size_t>(size), "%02x", byte);
  }
  text[static_cast<size_t>(size++)] = '\n';
  const auto wipe = [&] {
    ::explicit_bzero(text.data(), text.size());
    ::explicit_bzero(key.data(), key.size());
  };
  try {
    create_file(path, 0600, text.data(), static_cast<size_t>(size));
  } catch (...) {
    wipe();
    throw;
  }
  wipe();
}

Seed read_device_key(const fs::path& path) {
  const SecretLine line(path, "device", "make a key with: ensembler keys device");
  Seed key{};
  bool good = line.text().size() == 2 * key.size();
  for (size_t i = 0; good && i < key.size(); ++i) {
    const char* digits = line.text().data() + 2 * i;
    good = std::from_chars(digits, digits + 2, key[i], 16).ptr == digits + 2;
  }
  if (!good) {
    fail("not a device key file", path.string(),
         "it needs a line 'device' with 64 hex digits; see ensembler keys device");
  }
  return key;
}

std::string read_public_key(const fs::path& path) {
  const auto keys = public_lines(path);
  if (keys.size() != 1) {
    fail("expected one public key, found " + std::to_string(keys.size()), path.string());
  }
  return keys.begin()->first;
}

NamedKeys read_allowed_keys(const fs::path& path, bool may_be_none) {
  NamedKeys keys;
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::directory_iterator(path)) {
      if (entry.path().extension() == ".pub") keys.merge(public_lines(entry.path()));
    }
  } else {
    keys = public_lines(path);
  }
  if (keys.empty() && !may_be_none) {
    fail("no public key of any client", path.string(), "put the clients' .pub lines there");
  }
  return keys;
}

std::array<uint8_t, 32> key_bytes(const char* z85) {
  std::array<uint8_t, 32> raw;
  if (std::strlen(z85) != kKeyChars || !zmq_z85_decode(raw.data(), z85))
    fail("that is no key", "keys");
  return raw;
}

bool is_loopback(const std::string& endpoint) {
  const size_t scheme_end = endpoint.find("://");
  const std::string scheme = endpoint.substr(0, scheme_end);
  if (scheme == "ipc" || scheme == "inproc") return true;
  const size_t colon = endpoint.rfind(':');
  if (scheme_end == std::string::npos || scheme != "tcp" || colon < scheme_end + 4) {
    usage_fail("'" + endpoint + "' is not an address", "", "write tcp://HOST:PORT");
  }
  const std::string host = endpoint.substr(scheme_end + 3, colon - scheme_end - 3);
  const std::string port = endpoint.substr(colon + 1);  // libzmq would take 70000 for 4464
  const bool digits = !port.empty() && port.size() <= 5 &&
                      port.find_first_not_of("0123456789") == std::string::npos;
  if (port != "*" && (!digits || std::stoi(port) > 65535)) {
    usage_fail("'" + port + "' is not a port", endpoint, "use 1 to 65535");
  }
  // Dotted numbers only: "127.evil.example" is a name like any other.
  const bool numeric = host.find_first_not_of("0123456789.") == std::string::npos;
  return host == "localhost" || host == "[::1]" || host == "::1" || host == "lo" ||
         (numeric && host.compare(0, 4, "127.") == 0);
}

}  // namespace ens
