// SPDX-License-Identifier: Apache-2.0
// DisguiseKey: the owner's secret of disguised training, and everything that follows from it. Never
// linked by the cloud's half (disguise/train) nor by attacks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "disguise/transform/instahide.h"
#include "disguise/transform/transform.h"
#include "proto/config.pb.h"

namespace ens {

// The images that a key is for.
struct DisguisedImages {
  ImageShape shape;
  std::string fit;                       // how image files get this shape: data.fit
  std::vector<std::string> class_names;  // at least two
};

// Images of which a key holds something: float32 [B,C,H,W], 0..255.
struct KeySamples {
  Tensor own;     // the owner's
  Tensor others;  // public ones, for methods that mix them in
};

// A master key of 32 bytes and the parameters derived from it: by HKDF-SHA256 with info
// "ens-disguise/1/METHOD/PART/INDEX", which gives the key of a ChaCha20 stream. The
// master key, matrices and cipher keys lie in memory that no core dump shows and that is wiped when
// dropped; permutations are copied into ordinary memory where they are used. Copies share them.
// Immutable; any number of threads.
class DisguiseKey {
 public:
  // A new key. `settings` is a completed DisguiseConfig with a method. With
  // settings.insecure_seeded_secrets the key follows from `seed`, otherwise from the operating
  // system's random source. Usage Error for settings that do not fit the images.
  // Of `samples` a method with batch norm takes statistics, and one that mixes images a pool for
  // queries, which become part of the key; usage Error where samples_needed() says that there have
  // to be some, and there are none.
  static DisguiseKey make(const DisguiseConfig& settings, const DisguisedImages& images,
                          uint64_t seed, const KeySamples& samples = {});
  // How many of the owner's images make() should be given, or as many as there are; 0: none.
  static int64_t samples_needed(const DisguiseConfig& settings);

  // The file: a Checkpoint of kind "disguise-key", mode 0600 from its first byte, never written
  // over. It also has the derived parameters, which are compared with a new derivation when it is
  // read, and those from the owner's images. read(): usage Error if group or others can read the
  // file; Error if it is damaged or if master key and parameters do not belong together.
  void write(const std::filesystem::path& file) const;
  static DisguiseKey read(const std::filesystem::path& file);

  const std::string& method() const { return settings_.method(); }
  // Those of the method, which everybody may know.
  const DisguiseConfig& settings() const { return settings_; }
  const DisguisedImages& images() const { return images_; }
  bool insecure() const { return settings_.insecure_seeded_secrets(); }
  // 16 hex digits that name the key: in sets and models.
  std::string id() const;
  // Of the master key and of what is derived from it, as the owner has to keep or compute them; 0
  // for a method without a key.
  int64_t derived_bytes() const;

  std::unique_ptr<Transform> transform() const;
  // Of method `instahide`: what transform() mixes queries with.
  InstahideParameters mixing() const;
  // What class c is called in sets and models: another one with settings.permute_labels, c without.
  std::vector<int32_t> renamed_classes() const;
  // For the images of one use ("train", "query"): of the operating system, or, of an insecure key,
  // the same for each use.
  FreshRandomness fresh(std::string_view use) const;

 private:
  // Without what comes from the owner's images.
  DisguiseKey(const DisguiseConfig& settings, const DisguisedImages& images, Tensor master);

  DisguiseConfig settings_;
  DisguisedImages images_;
  Tensor master_;                             // uint8 [32]
  std::map<std::string, Tensor> parameters_;  // of the method, from the master key
  std::map<std::string, Tensor> measured_;    // of the method, from the owner's images
};

}  // namespace ens
