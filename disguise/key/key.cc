// SPDX-License-Identifier: Apache-2.0
#include "disguise/key/key.h"

#include <openssl/crypto.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/secret_rng.h"
#include "base/strings.h"
#include "disguise/key/derive.h"
#include "disguise/key/secret_tensor.h"
#include "nn/core/rng.h"
#include "nn/io/checkpoint.h"
#include "proto/config.h"

namespace ens {

namespace fs = std::filesystem;

namespace {

constexpr char kKind[] = "disguise-key";
constexpr int64_t kVersion = 1;
constexpr int64_t kMasterBytes = 32;
constexpr int64_t kSamples = 2048;

// The settings that the method reads, and those that hold for all.
DisguiseConfig settings_of_method(const DisguiseConfig& all) {
  DisguiseConfig out = all;
  const std::string& method = all.method();
  if (method != "rmt") out.clear_rmt();
  if (method != "aes" && method != "aesctr") out.clear_aes();
  if (method != "dp") out.clear_dp();
  if (method != "neuracrypt") out.clear_neuracrypt();
  if (method != "instahide") out.clear_instahide();
  if (method != "noise") out.clear_sigma();
  return out;
}

// Whether a stored parameter is what a new derivation gives. Machines round the last bit of a float
// differently.
bool same_parameter(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  if (a.dtype() != Dtype::kF32) return CRYPTO_memcmp(a.host(), b.host(), a.bytes()) == 0;
  const auto x = a.span<float>(), y = b.span<float>();
  return std::equal(x.begin(), x.end(), y.begin(),
                    [](float p, float q) { return std::abs(p - q) <= 1e-5f; });
}

}  // namespace

DisguiseKey::DisguiseKey(const DisguiseConfig& settings, const DisguisedImages& images,
                         Tensor master)
    : settings_(settings_of_method(settings)), images_(images), master_(std::move(master)) {
  if (images_.shape.channels < 1 || images_.shape.height < 1 || images_.shape.width < 1) {
    usage_fail("images of an impossible shape", "disguise key");
  }
  if (images_.class_names.size() < 2)
    usage_fail("a classifier needs at least two classes", "disguise key");
  parameters_ = disguise_method(settings_.method()).derive(master_, settings_, images_.shape);
}

DisguiseKey DisguiseKey::make(const DisguiseConfig& settings, const DisguisedImages& images,
                              uint64_t seed, const KeySamples& samples) {
  Tensor master = secret_tensor({kMasterBytes}, Dtype::kU8);
  if (settings.insecure_seeded_secrets()) {
    std::array<uint8_t, sizeof seed> bytes;
    std::memcpy(bytes.data(), &seed, sizeof seed);
    std::ranges::copy(hkdf_sha256(bytes, {}, "ens-disguise/1/insecure/master/0", kMasterBytes),
                      master.data<uint8_t>());
  } else {
    Seed random = secure_seed();
    std::ranges::copy(random, master.data<uint8_t>());
    OPENSSL_cleanse(random.data(), random.size());
  }
  DisguiseKey key(settings, images, std::move(master));
  if (samples_needed(key.settings_) > 0) {
    if (!samples.own.defined() || samples.own.dim(0) < 1) {
      usage_fail("the key of " + key.method() +
                     " holds something of the owner's images, and there "
                     "are none",
                 "disguise key", "name the data set that is to be disguised");
    }
    Parameters all = key.parameters_;
    disguise_method(key.method()).measure(all, key.settings_, images.shape, samples);
    for (auto& [name, tensor] : all) {
      if (!key.parameters_.contains(name)) key.measured_[name] = tensor;
    }
  }
  key.transform();  // refuses what does not fit
  return key;
}

int64_t DisguiseKey::samples_needed(const DisguiseConfig& settings) {
  return disguise_method(settings.method()).measure ? kSamples : 0;
}

void DisguiseKey::write(const fs::path& file) const {
  refuse_existing(file);
  Checkpoint out;
  out.kind = kKind;
  out.texts["settings"] = to_text(settings_);
  out.texts["fit"] = images_.fit;
  out.texts["classes"] = join(images_.class_names, "\n");
  out.numbers["version"] = kVersion;
  out.numbers["channels"] = images_.shape.channels;
  out.numbers["height"] = images_.shape.height;
  out.numbers["width"] = images_.shape.width;
  out.tensors["master"] = master_;
  for (const auto& [name, parameter] : parameters_) out.tensors["parameters/" + name] = parameter;
  for (const auto& [name, tensor] : measured_) out.tensors["measured/" + name] = tensor;
  const uint64_t random = secure_random();
  const fs::path temporary = file.string() + "." +
                             to_hex({reinterpret_cast<const char*>(&random), sizeof random}) +
                             std::string(kTemporarySuffix);
  try {
    write_checkpoint(temporary, out, /*secret=*/true);
    name_new_file(temporary, file);
  } catch (const Error&) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
}

DisguiseKey DisguiseKey::read(const fs::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) == 0 && (info.st_mode & 0077) != 0) {
    usage_fail("others than its owner may use this key file", file.string(),
               "chmod 600 it, and make a new key if they could have read it");
  }
  Checkpoint in = read_checkpoint(file, kKind);
  if (const int64_t version = in.number("version"); version != kVersion) {
    fail("the key has version " + std::to_string(version) + ", and this program reads version " +
             std::to_string(kVersion),
         file.string(), "it was written by a newer version: update the program");
  }
  RunConfig config;
  parse_config("disguise {\n" + in.text("settings") + "\n}", file.string(), config);
  complete(config);
  Tensor& master = in.tensors["master"];
  if (!master.defined() || master.dtype() != Dtype::kU8 ||
      !(master.shape() == Shape{kMasterBytes})) {
    fail("there is no master key of 32 bytes", file.string(),
         "give a file of `ensembler disguise keygen`");
  }
  const DisguisedImages images{
      {static_cast<int>(in.number("channels")), static_cast<int>(in.number("height")),
       static_cast<int>(in.number("width"))},
      in.text("fit"),
      split_text(in.text("classes"), '\n')};
  DisguiseKey key(config.disguise(), images, take_secret(master));
  in.tensors.erase("master");
  if (samples_needed(key.settings_) > 0) {
    constexpr std::string_view kMeasured = "measured/";
    auto next = in.tensors.lower_bound(std::string(kMeasured));
    while (next != in.tensors.end() && next->first.starts_with(kMeasured)) {
      key.measured_[next->first.substr(kMeasured.size())] = take_secret(next->second);
      next = in.tensors.erase(next);
    }
  }
  bool same = in.tensors.size() == key.parameters_.size();
  for (auto& [name, parameter] : key.parameters_) {
    const auto found = in.tensors.find("parameters/" + name);
    same = same && found != in.tensors.end() && same_parameter(found->second, parameter);
    if (same) parameter = take_secret(found->second);
  }
  for (auto& [name, left] : in.tensors) OPENSSL_cleanse(left.host(), left.bytes());
  if (!same) {
    fail("the parameters in the file do not follow from its master key", file.string(),
         "was it made by another version, or put together by hand? Make a new key: ensembler "
         "disguise keygen");
  }
  key.transform();
  return key;
}

std::string DisguiseKey::id() const {
  const std::vector<uint8_t> bytes =
      hkdf_sha256(master_.span<uint8_t>(), {}, "ens-disguise/1/key-id", 8);
  return to_hex({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

int64_t DisguiseKey::derived_bytes() const {
  if (parameters_.empty()) return 0;
  int64_t bytes = kMasterBytes;
  for (const auto* all : {&parameters_, &measured_}) {
    for (const auto& [name, tensor] : *all) bytes += static_cast<int64_t>(tensor.bytes());
  }
  return bytes;
}

std::unique_ptr<Transform> DisguiseKey::transform() const {
  Parameters all = parameters_;
  all.insert(measured_.begin(), measured_.end());
  return disguise_method(settings_.method()).transform(all, settings_, images_.shape);
}

InstahideParameters DisguiseKey::mixing() const {
  return instahide_parameters(measured_, settings_);
}

std::vector<int32_t> DisguiseKey::renamed_classes() const {
  std::vector<int32_t> names(images_.class_names.size());
  std::iota(names.begin(), names.end(), 0);
  if (settings_.permute_labels()) {
    SecretRng rng(derive_seed(master_, settings_.method(), "classes", 0));
    std::ranges::copy(rng.permutation(static_cast<int64_t>(names.size())), names.begin());
  }
  return names;
}

FreshRandomness DisguiseKey::fresh(std::string_view use) const {
  if (!insecure()) return FreshRandomness();
  return FreshRandomness(derive_seed(master_, "insecure", "fresh-" + std::string(use), 0));
}

}  // namespace ens
