// SPDX-License-Identifier: Apache-2.0
// The certificate against numpy (make_picture_code.py), and against sums written out here.
#include "lab/certificate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "ensemble/model/edge_bundle.h"
#include "ensemble/protect/channel.h"
#include "experiment/setup.h"
#include "lab/datasets.h"
#include "nn/autograd/ops.h"
#include "nn/data/loader.h"
#include "report/certificate.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

// The images of make_picture_code.py.
Dataset waves() {
  Dataset data;
  data.channels = 3;
  data.height = data.width = 16;
  for (int i = 0; i < 200; ++i) {
    for (int c = 0; c < 3; ++c) {
      for (int y = 0; y < 16; ++y) {
        for (int x = 0; x < 16; ++x) {
          const double value = 128 + 40 * std::sin(1.7 * i + 0.31 * y * (1 + i % 5) + 0.2 * c) +
                               25 * std::cos(0.9 * i + 0.45 * x * (1 + i % 7) - 0.6 * c) +
                               6 * std::sin(12.9898 * x + 78.233 * y + 37.7 * i + 5.1 * c);
          data.pixels.push_back(static_cast<uint8_t>(std::floor(value + 0.5)));
        }
      }
    }
    data.labels.push_back(i % 2);
  }
  return data;
}

TEST(PictureCode, IsNumpys) {
  struct Stored {
    double bits, psnr_bound, entropy_mse, mse;
  };
  constexpr Stored kStored[] = {{16, 23.973366, 3.76984813e-06, 5.01670925e-03},
                                {64, 29.998303, 3.45696597e-06, 1.03828639e-03},
                                {200, 43.382064, 2.70445846e-06, 4.92822267e-05}};
  const Dataset data = waves();
  const PictureCode code(data, 1000);
  const Tensor images = images_of(data, 0, 200);
  for (const Stored& s : kStored) {
    EXPECT_NEAR(code.psnr_bound(s.bits), s.psnr_bound, 2e-4);
    EXPECT_NEAR(code.entropy_mse(s.bits) / s.entropy_mse, 1, 1e-3);
    const Tensor decoded = code.decoded(images, s.bits, 1);
    double error = 0;
    for (int64_t j = 0; j < images.numel(); ++j) {
      error += std::pow(images.data<float>()[j] - decoded.data<float>()[j], 2);
    }
    // The mean of min(variance, level): what reverse water-filling leaves, by a draw for each
    // coefficient that is sent.
    EXPECT_NEAR(error / static_cast<double>(images.numel()) / s.mse, 1, 0.06) << s.bits;
  }
}

class CertifyTest : public testing::Test {
 protected:
  CertifyTest() {
    apply_overrides({"data.name=shapes", "data.image_size=16", "data.train_limit=400",
                     "data.test_limit=150", "data.public_images=0", "model.architecture=funnel",
                     "model.width=4", "model.head_width=4", "model.sent_channels=4"},
                    config_);
    complete(config_);
    train_ = shared_dataset(config_, DataPart::kTrain);
    test_ = shared_dataset(config_, DataPart::kTest);
  }
  // A run whose head is not trained.
  void write(const ProtectionSpec& protection) {
    Rng rng(3);
    const ModelSpec model = model_spec(config_, *train_);
    bundle_.info.model = model;
    bundle_.info.fingerprint = std::string(32, 'f');
    bundle_.info.data = train_->name;
    bundle_.class_names = train_->class_names;
    bundle_.head = build_head(model, {1, 1}, rng);
    bundle_.head->forward(
        Var(images_of(*train_, 0, 400)));  // running statistics that are not 0 and 1
    bundle_.head->freeze();
    bundle_.tail = build_tail(model, {1, 1}, rng, 1);
    bundle_.protection = protection;
    write_edge_bundle(folder_ / "edge.h5", bundle_);
  }

  test::TempDir folder_;
  RunConfig config_;
  std::shared_ptr<const Dataset> train_, test_;
  EdgeBundle bundle_{.selector = Selector(1, {0})};
};

// The mean features, scaled in double.
std::vector<std::vector<double>> means_of(Sequential& head, const Dataset& data, double power) {
  const NoGrad no_grad;
  const Tensor u = head.forward(Var(images_of(data, 0, data.count()))).value().plain();
  const int64_t k = u.numel() / data.count();
  std::vector<std::vector<double>> all;
  for (int64_t i = 0; i < data.count(); ++i) {
    const float* row = u.data<float>() + i * k;
    double square = 0;
    for (int64_t j = 0; j < k; ++j) square += double{row[j]} * row[j];
    auto& mean = all.emplace_back();
    for (int64_t j = 0; j < k; ++j) {
      mean.push_back(row[j] * std::sqrt(static_cast<double>(k) * power / square));
    }
  }
  return all;
}

// Gauss-Jordan: the inverse and ln of the determinant.
std::pair<std::vector<std::vector<double>>, double> inverse(std::vector<std::vector<double>> a) {
  const size_t n = a.size();
  std::vector<std::vector<double>> b(n, std::vector<double>(n));
  double log_determinant = 0;
  for (size_t i = 0; i < n; ++i) b[i][i] = 1;
  for (size_t i = 0; i < n; ++i) {
    const double pivot = a[i][i];
    log_determinant += std::log(pivot);
    for (size_t j = 0; j < n; ++j) a[i][j] /= pivot, b[i][j] /= pivot;
    for (size_t r = 0; r < n; ++r) {
      if (r == i) continue;
      const double factor = a[r][i];
      for (size_t j = 0; j < n; ++j) a[r][j] -= factor * a[i][j], b[r][j] -= factor * b[i][j];
    }
  }
  return {b, log_determinant};
}

TEST_F(CertifyTest, EstimateIsTheMeanSurpriseOfTheBestModel) {
  const Channel channel = make_channel(6, 16, false);
  write({channel_step(channel)});
  const results::Certificate c = certify(folder_.path(), config_);
  EXPECT_EQ(c.channel().bits(), 6);
  EXPECT_EQ(c.channel().elements(), 16);
  EXPECT_NEAR(c.largest_power(), 1, 1e-5);
  ASSERT_EQ(c.sends_size(), 4);
  EXPECT_NEAR(c.sends(1).bits(), 8 * std::log2(1 + 4 * (std::exp2(0.75) - 1)), 1e-6);

  // E log2 p/q over the noise, by its formula: (ln |C| + tr C^-1 + (mu - m)' C^-1 (mu - m) - k)
  // / 2.
  const auto train = means_of(*bundle_.head, *train_, channel.power);
  const auto test = means_of(*bundle_.head, *test_, channel.power);
  std::vector<double> m(16);
  for (const auto& mu : train) {
    for (size_t j = 0; j < 16; ++j) m[j] += mu[j] / static_cast<double>(train.size());
  }
  std::vector<std::vector<double>> cov(16, std::vector<double>(16));
  for (const auto& mu : train) {
    for (size_t a = 0; a < 16; ++a) {
      for (size_t b = 0; b < 16; ++b) {
        cov[a][b] += (mu[a] - m[a]) * (mu[b] - m[b]) / static_cast<double>(train.size());
      }
    }
  }
  for (size_t a = 0; a < 16; ++a) cov[a][a] += 1;
  const auto [inv, log_determinant] = inverse(cov);
  double wanted = 0;
  for (const auto& mu : test) {
    double nats = log_determinant - 16;
    for (size_t a = 0; a < 16; ++a) {
      nats += inv[a][a];
      for (size_t b = 0; b < 16; ++b) nats += (mu[a] - m[a]) * inv[a][b] * (mu[b] - m[b]);
    }
    wanted += nats / 2 / std::numbers::ln2 / static_cast<double>(test.size());
  }
  if (c.model() == "Gaussian") {
    EXPECT_NEAR(c.estimate().mean(), wanted, 0.5);  // four draws for each of 150 images
  } else {
    EXPECT_LT(c.estimate().mean(), wanted + 0.5);
  }
  EXPECT_LT(c.estimate().low(), c.estimate().mean());
  EXPECT_GT(c.estimate().high(), c.estimate().mean());
  EXPECT_GT(c.largest_draws(), c.estimate().high());
  EXPECT_TRUE(c.sound());
  EXPECT_LT(c.implied_bits(), 6);
  EXPECT_NE(certificate_text(c).find("at most R = 6 bits"), std::string::npos);

  // dFIL by the Jacobian itself, one column of outputs at a time.
  double squares = 0;
  for (int64_t k = 0; k < 16; ++k) {
    const Var x(images_of(*test_, 0, 64), true);
    const Var u = flatten(bundle_.head->forward(x));
    const Var norm = sqrt(sum_to(square(u), {64, 1}));
    const Var mu = affine(div(u, norm), static_cast<float>(std::sqrt(16 * channel.power)), 0);
    sum(slice(mu, 1, k, 1)).backward();
    for (const float g : x.grad().to_vector()) squares += double{g} * g;
  }
  const double fisher = squares / (64.0 * 3 * 16 * 16);
  EXPECT_NEAR(c.fisher() / fisher, 1, 0.35);  // sixteen random projections
  EXPECT_NEAR(c.unbiased_mse() * c.fisher(), 1, 1e-9);
}

// With many bits the likelihood finds nearly every image, and a certificate of fewer bits would
// fail.
TEST_F(CertifyTest, ManyBitsIdentify) {
  write({channel_step(make_channel(50, 16, false))});
  const results::Certificate c = certify(folder_.path(), config_);
  EXPECT_GT(c.identified(), 0.5);
  EXPECT_NEAR(c.implied_bits(), c.identified() * std::log2(150.0) - 1, 1e-9);
  EXPECT_TRUE(c.sound());
}

TEST_F(CertifyTest, ARunWithoutAChannelIsRefused) {
  write({});
  EXPECT_THROW(certify(folder_.path(), config_), Error);
}

}  // namespace
}  // namespace ens
