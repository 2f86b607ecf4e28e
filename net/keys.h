// SPDX-License-Identifier: Apache-2.0
// CURVE keys (libzmq's own: Curve25519), as text files that both programs and `ensembler keys`
// share.
//
// NAME.pub, mode 0644:  one line "<40 characters Z85> NAME"; may be handed to anybody.
// NAME.key, mode 0600:  "public <Z85>" and "secret <Z85>" on lines of their own.
// NAME.device, mode 0600: "device <64 hex digits>", the key from which a device draws the noise of
// a channel (ensemble/protect/channel.h); of no other party.
// An allow list is a file of public lines, or a folder of *.pub files. Lines that begin with '#'
// are comments (no Z85 key begins so). Secret keys never reach a log or an error text, and are
// wiped from our memory when dropped (libzmq keeps its own copy while a socket lives).
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "base/key_stream.h"

namespace ens {

// 40 characters of Z85, wiped on destruction; moves wipe their source.
class SecretKey {
 public:
  SecretKey() = default;
  explicit SecretKey(const char* z85);  // 40 characters
  ~SecretKey();
  SecretKey(SecretKey&& other) noexcept;
  SecretKey& operator=(SecretKey&& other) noexcept;

  const char* z85() const { return text_.data(); }  // NUL-terminated

 private:
  std::array<char, 41> text_{};
};

struct KeyPair {
  std::string public_key;  // Z85
  SecretKey secret_key;
};

KeyPair new_keys();  // Error if this libzmq was built without CURVE

// Writes NAME.pub and NAME.key for stem ".../NAME". Never overwrites: Error if either exists.
void write_keys(const std::filesystem::path& stem, const KeyPair& keys);

// Error (file and problem) if missing, malformed, or readable by others than the owner.
KeyPair read_secret_key(const std::filesystem::path& file);
// Writes a new key to `file`, with random bytes of the operating system. Error if it exists.
void write_device_key(const std::filesystem::path& file);
// Error as read_secret_key().
Seed read_device_key(const std::filesystem::path& file);
std::string read_public_key(const std::filesystem::path& file);
// A file of public keys, or a folder of *.pub files. Error if it has no key, unless it may.
// Key -> its name: what follows the key in its line, else the file's.
std::map<std::string, std::string> read_allowed_keys(const std::filesystem::path& file_or_folder,
                                                     bool may_be_none = false);

// The 32 bytes of a key (Curve25519). Error for what is none.
std::array<uint8_t, 32> key_bytes(const char* z85);

// Whether only this machine can reach the address: loopback TCP, ipc:// or inproc://. Elsewhere
// keys are required. Usage Error if it is not a ZeroMQ address.
bool is_loopback(const std::string& endpoint);

}  // namespace ens
