// SPDX-License-Identifier: Apache-2.0
#include "disguise/key/derive.h"

#include <openssl/crypto.h>

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>

#include "base/error.h"
#include "base/hash.h"
#include "base/secret_rng.h"
#include "disguise/key/secret_tensor.h"
#include "disguise/transform/aes.h"
#include "disguise/transform/baselines.h"
#include "disguise/transform/neuracrypt.h"
#include "disguise/transform/rmt.h"

namespace ens {

Seed derive_seed(const Tensor& master, const std::string& method, const std::string& part,
                 int64_t index) {
  const std::string info = "ens-disguise/1/" + method + "/" + part + "/" + std::to_string(index);
  std::vector<uint8_t> bytes = hkdf_sha256(master.span<uint8_t>(), {}, info, sizeof(Seed));
  Seed seed;
  std::ranges::copy(bytes, seed.begin());
  OPENSSL_cleanse(bytes.data(), bytes.size());
  return seed;
}

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

void wipe(Matrix& matrix) {
  OPENSSL_cleanse(matrix.data(), sizeof(double) * static_cast<size_t>(matrix.size()));
}

Matrix gaussian_matrix(SecretRng& rng, int64_t n) {
  Matrix out(n, n);
  for (int64_t i = 0; i < out.size(); ++i) out.data()[i] = rng.normal();
  return out;
}

// Uniformly distributed (Haar): the Q of a Gaussian matrix, with the signs that make R's diagonal
// positive (Mezzadri 2007).
Matrix orthogonal_matrix(SecretRng& rng, int64_t n) {
  Matrix gaussian = gaussian_matrix(rng, n);
  const Eigen::HouseholderQR<Eigen::Ref<Matrix>> qr(gaussian);  // in place
  Matrix q = qr.householderQ();
  for (int64_t j = 0; j < n; ++j) {
    if (gaussian(j, j) < 0) q.col(j) *= -1;
  }
  wipe(gaussian);
  return q;
}

constexpr double kMaxCondition = 100;
constexpr int64_t kMaxGaussian =
    96;  // of larger ones, fewer than 2 in 100 have such a condition number

Matrix well_conditioned_matrix(SecretRng& rng, int64_t n) {
  while (true) {
    Matrix matrix = gaussian_matrix(rng, n);
    const Eigen::VectorXd values = matrix.bdcSvd().singularValues();
    if (values[0] <= kMaxCondition * values[n - 1]) return matrix;
  }
}

// "4x2" -> 4 and 2: the schema allows nothing else.
std::pair<int, int> sides(const std::string& text) {
  int height = 0, width = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), height);
  std::from_chars(end + (error == std::errc()), text.data() + text.size(), width);
  return {height, width};
}

// ---- rmt

RmtParameters rmt_settings(const RmtConfig& settings) {
  RmtParameters p;
  std::tie(p.block_height, p.block_width) = sides(settings.block());
  p.side = settings.side() == "full"   ? RmtSide::kFull
           : settings.side() == "left" ? RmtSide::kLeft
                                       : RmtSide::kRight;
  p.noise = settings.noise();
  p.noise_law = settings.noise_law() == "uniform"   ? NoiseLaw::kUniform
                : settings.noise_law() == "centred" ? NoiseLaw::kCentred
                                                    : NoiseLaw::kGaussian;
  p.noise_after = settings.noise_place() == "after";
  return p;
}

Parameters derive_rmt(const Tensor& master, const DisguiseConfig& settings,
                      const ImageShape& image) {
  const RmtConfig& rmt = settings.rmt();
  const RmtParameters p = rmt_settings(rmt);
  const BlockGrid grid{image, p.block_height, p.block_width};
  const int64_t n = rmt_matrix_size(grid, p.side),
                count = rmt.share() == "all" ? 1 : grid.positions();
  const bool orthogonal = rmt.matrix() == "orthogonal";
  if (!orthogonal && n > kMaxGaussian) {
    usage_fail("a Gaussian matrix of " + std::to_string(n) + " x " + std::to_string(n) +
                   " hardly ever has a condition number of at most 100",
               "disguise.rmt.matrix", "use orthogonal matrices, or smaller blocks");
  }
  Parameters out;
  Tensor& matrices = out["matrices"] = secret_tensor({count, n, n}, Dtype::kF32);
  for (int64_t i = 0; i < count; ++i) {
    SecretRng rng(derive_seed(master, "rmt", "matrix", i));
    Matrix matrix = orthogonal ? orthogonal_matrix(rng, n) : well_conditioned_matrix(rng, n);
    std::copy_n(matrix.data(), n * n, matrices.data<float>() + i * n * n);
    wipe(matrix);
  }
  if (rmt.permute()) {
    Tensor& permutation = out["permutation"] = secret_tensor({grid.positions()}, Dtype::kI32);
    SecretRng rng(derive_seed(master, "rmt", "permutation", 0));
    std::ranges::copy(rng.permutation(grid.positions()), permutation.data<int32_t>());
  }
  return out;
}

std::unique_ptr<Transform> transform_rmt(const Parameters& parameters,
                                         const DisguiseConfig& settings, const ImageShape& image) {
  RmtParameters p = rmt_settings(settings.rmt());
  p.matrices = parameters.at("matrices");
  if (const auto found = parameters.find("permutation"); found != parameters.end()) {
    const auto order = found->second.span<int32_t>();
    p.permutation.assign(order.begin(), order.end());
  }
  return rmt_transform(image, p);
}

// ---- aes, aesctr

Tensor derive_aes_keys(const Tensor& master, const char* method, int64_t count,
                       const AesConfig& settings) {
  const int64_t bytes = settings.key_bits() == "256" ? 32 : 16;
  Tensor keys = secret_tensor({count, bytes}, Dtype::kU8);
  for (int64_t k = 0; k < count; ++k) {
    Seed seed = derive_seed(master, method, "key", k);
    std::copy_n(seed.begin(), bytes, keys.data<uint8_t>() + k * bytes);
    OPENSSL_cleanse(seed.data(), seed.size());
  }
  return keys;
}

AesParameters aes_settings(const AesConfig& settings) {
  AesParameters p;
  std::tie(p.unit_height, p.unit_width) = sides(settings.unit());
  p.keys = settings.keys() == "one"        ? AesKeys::kOne
           : settings.keys() == "position" ? AesKeys::kPosition
                                           : AesKeys::kChannel;
  return p;
}

Parameters derive_aes(const Tensor& master, const DisguiseConfig& settings,
                      const ImageShape& image) {
  const AesParameters p = aes_settings(settings.aes());
  const BlockGrid grid{image, p.unit_height, p.unit_width};
  const int64_t count = p.keys == AesKeys::kOne        ? 1
                        : p.keys == AesKeys::kPosition ? grid.positions()
                                                       : image.channels;
  return {{"keys", derive_aes_keys(master, "aes", count, settings.aes())}};
}

std::unique_ptr<Transform> transform_aes(const Parameters& parameters,
                                         const DisguiseConfig& settings, const ImageShape& image) {
  AesParameters p = aes_settings(settings.aes());
  p.key_bytes = parameters.at("keys");
  return aes_transform(image, p);
}

Parameters derive_aesctr(const Tensor& master, const DisguiseConfig& settings, const ImageShape&) {
  return {{"keys", derive_aes_keys(master, "aesctr", 1, settings.aes())}};
}

std::unique_ptr<Transform> transform_aesctr(const Parameters& parameters, const DisguiseConfig&,
                                            const ImageShape& image) {
  const Tensor& keys = parameters.at("keys");
  return aesctr_transform(image, keys.reshape({keys.dim(1)}));
}

// ---- neuracrypt

NeuracryptParameters neuracrypt_form(const DisguiseConfig& settings, const ImageShape& image) {
  const NeuracryptConfig& s = settings.neuracrypt();
  return neuracrypt_form(image, s.patch(), s.width(), s.depth());
}

Parameters derive_neuracrypt(const Tensor& master, const DisguiseConfig& settings,
                             const ImageShape& image) {
  NeuracryptParameters form = neuracrypt_form(settings, image);
  Parameters out;
  for (const NeuracryptPart& part : random_parts(form)) {
    Tensor& values = out[part.name] = secret_tensor(part.tensor->shape(), Dtype::kF32);
    SecretRng rng(derive_seed(master, "neuracrypt", part.name, 0));
    for (float& v : values.span<float>()) {
      v = static_cast<float>(part.bound > 0 ? part.bound * (2 * rng.uniform() - 1) : rng.normal());
    }
  }
  return out;
}

NeuracryptParameters neuracrypt_parameters(const Parameters& parameters,
                                           const DisguiseConfig& settings,
                                           const ImageShape& image) {
  NeuracryptParameters p = neuracrypt_form(settings, image);
  for (const NeuracryptPart& part : random_parts(p)) *part.tensor = parameters.at(part.name);
  return p;
}

void measure_neuracrypt(Parameters& parameters, const DisguiseConfig& settings,
                        const ImageShape& image, const KeySamples& samples) {
  NeuracryptParameters p = neuracrypt_parameters(parameters, settings, image);
  if (!p.mean.defined()) return;
  measure_neuracrypt(image, samples.own, p);
  parameters["mean"] = take_secret(p.mean);
  parameters["variance"] = take_secret(p.variance);
}

std::unique_ptr<Transform> transform_neuracrypt(const Parameters& parameters,
                                                const DisguiseConfig& settings,
                                                const ImageShape& image) {
  NeuracryptParameters p = neuracrypt_parameters(parameters, settings, image);
  if (p.mean.defined()) {
    const auto mean = parameters.find("mean"), variance = parameters.find("variance");
    if (mean == parameters.end() || variance == parameters.end())
      fail("the key has no statistics of the owner's images", "neuracrypt", "make a new key");
    p.mean = mean->second;
    p.variance = variance->second;
  }
  return neuracrypt_transform(image, p);
}

// ---- instahide: nothing follows from the master key

constexpr int64_t kPool = 512;  // images that queries are mixed with

Parameters derive_instahide(const Tensor&, const DisguiseConfig&, const ImageShape&) { return {}; }

// Mean, deviation and the first images, by channel, under names that begin with `prefix`.
void keep_pool(const Tensor& images, const std::string& prefix, Parameters& parameters) {
  const int64_t channels = images.dim(1), plane = images.dim(2) * images.dim(3);
  Tensor mean = secret_tensor({channels}, Dtype::kF32),
         stddev = secret_tensor({channels}, Dtype::kF32);
  std::vector<double> sum(static_cast<size_t>(channels)), square(sum.size());
  for (int64_t i = 0; i < images.numel(); ++i) {
    const double v = images.data<float>()[i];
    sum[static_cast<size_t>(i / plane % channels)] += v;
    square[static_cast<size_t>(i / plane % channels)] += v * v;
  }
  const double count = static_cast<double>(images.dim(0) * plane);
  for (int64_t c = 0; c < channels; ++c) {
    const double m = sum[static_cast<size_t>(c)] / count;
    const double variance = square[static_cast<size_t>(c)] / count - m * m;
    mean.data<float>()[c] = static_cast<float>(m);
    stddev.data<float>()[c] = static_cast<float>(std::sqrt(std::max(variance, 1.0)));
  }
  const Tensor some = images.rows(0, std::min(kPool, images.dim(0)));
  Tensor pool = secret_tensor(some.shape(), Dtype::kU8);
  for (int64_t i = 0; i < some.numel(); ++i) {
    pool.data<uint8_t>()[i] = static_cast<uint8_t>(std::lround(some.data<float>()[i]));
  }
  parameters[prefix + "mean"] = mean;
  parameters[prefix + "stddev"] = stddev;
  parameters[prefix + "pool"] = pool;
}

void measure_instahide(Parameters& parameters, const DisguiseConfig& settings,
                       const ImageShape& image, const KeySamples& samples) {
  check_images(samples.own, image);
  keep_pool(samples.own, "own_", parameters);
  if (settings.instahide().mix() != "cross") return;
  if (!samples.others.defined() || samples.others.dim(0) < 1) {
    usage_fail("there are no public images to mix in", "disguise.instahide.public_data",
               "name a data set with images of the same shape");
  }
  check_images(samples.others, image);
  keep_pool(samples.others, "public_", parameters);
}

MixingPool mixing_pool(const Parameters& parameters, const std::string& prefix) {
  const auto part = [&](const char* name) {
    const auto found = parameters.find(prefix + name);
    if (found == parameters.end())
      fail("the key has no images to mix in", "instahide", "make a new key");
    return found->second;
  };
  const auto values = [&](const char* name) {
    const auto span = part(name).span<float>();
    return std::vector<float>(span.begin(), span.end());
  };
  return {part("pool"), values("mean"), values("stddev")};
}

std::unique_ptr<Transform> transform_instahide(const Parameters& parameters,
                                               const DisguiseConfig& settings,
                                               const ImageShape& image) {
  return instahide_transform(image, instahide_parameters(parameters, settings));
}

// ---- without a key

Parameters derive_identity(const Tensor&, const DisguiseConfig&, const ImageShape&) { return {}; }
Parameters derive_noise(const Tensor&, const DisguiseConfig&, const ImageShape&) { return {}; }
Parameters derive_dp(const Tensor&, const DisguiseConfig&, const ImageShape&) { return {}; }

std::unique_ptr<Transform> transform_identity(const Parameters&, const DisguiseConfig&,
                                              const ImageShape& image) {
  return identity_transform(image);
}
std::unique_ptr<Transform> transform_noise(const Parameters&, const DisguiseConfig& settings,
                                           const ImageShape& image) {
  return noise_transform(image, 255 * settings.sigma());
}
std::unique_ptr<Transform> transform_dp(const Parameters&, const DisguiseConfig& settings,
                                        const ImageShape& image) {
  return dp_transform(image, settings.dp().cell(), settings.dp().epsilon());
}

}  // namespace

InstahideParameters instahide_parameters(const Parameters& parameters,
                                         const DisguiseConfig& settings) {
  const InstahideConfig& s = settings.instahide();
  const bool cross = s.mix() == "cross";
  InstahideParameters p;
  p.k = s.k() > 0 ? s.k() : cross ? 6 : 4;
  p.plain = s.queries() == "plain";
  p.own = mixing_pool(parameters, "own_");
  if (cross) p.others = mixing_pool(parameters, "public_");
  return p;
}

const DisguiseMethod& disguise_method(const std::string& name) {
  static const std::map<std::string, DisguiseMethod> methods = [] {
    std::map<std::string, DisguiseMethod> all{
#define DISGUISE(method, title, keyed, meaning) {#method, {derive_##method, transform_##method}},
#include "proto/disguises.inc"
#undef DISGUISE
    };
    all.at("neuracrypt").measure = measure_neuracrypt;
    all.at("instahide").measure = measure_instahide;
    return all;
  }();
  const auto found = methods.find(name);
  if (found == methods.end()) {
    usage_fail("'" + name + "' is no method of disguised training", "disguise.method",
               "docs/config.md lists them: disguise.method");
  }
  return found->second;
}

}  // namespace ens
