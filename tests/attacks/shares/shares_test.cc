// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "attacks/core/metrics.h"
#include "attacks/shares/equations.h"
#include "attacks/shares/separation.h"
#include "attacks/shares/views.h"
#include "base/error.h"
#include "nn/data/loader.h"
#include "offload/schemes/schemes.h"

namespace ens {
namespace {

Dataset shapes(DataSplit split, int64_t count) {
  DataOptions options;
  options.name = "shapes";
  options.image_size = 16;
  options.limit = count;
  return load_dataset(options, split);
}

// The shares of `images` as the edge makes them.
ShareVictim victim_of(const Tensor& images, int noises, const Dataset& known, int inputs = 1,
                      const std::string& in = "m31") {
  const Field field = Field::named(in);
  const int shares = inputs + noises;
  ShareVictim victim{.model = {.classes = 10, .image_size = static_cast<int>(images.dim(2))},
                     .coding = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, 2.0f / 127},
                     .inputs = inputs,
                     .noises = noises,
                     .code = LagrangeCode(field, inputs, noises, shares),
                     .images = images.dim(0),
                     .public_data = &known};
  const auto scheme =
      make_scheme("darknight_field",
                  {.field = field, .virtual_batch = inputs, .noises = noises, .shares = shares});
  const auto encoding = scheme->encode(0, victim.coding.to_integers(images));
  for (int j = 0; j < shares; ++j) {
    Tensor share = Tensor::empty({encoding->groups(), images.dim(1), images.dim(2), images.dim(3)},
                                 Dtype::kI32);
    std::ranges::copy(encoding->elements(j), share.data<int32_t>());
    victim.recorded.push_back(share);
  }
  return victim;
}

AttackContext small_decoder() {
  AttackContext context;
  context.settings.mutable_decoder()->set_channels(16);
  context.settings.mutable_decoder()->set_blocks(1);
  context.settings.mutable_decoder()->set_epochs(8);
  context.settings.mutable_decoder()->set_loss("mse");
  return context;
}

Interval score(const Tensor& truth, const std::vector<Reconstruction>& found) {
  return bootstrap(score_images(truth, found.at(0).images).ssim, 1);
}

Interval ssim(const ShareVictim& victim, const Tensor& truth) {
  return score(truth, share_decoder_attack()->run(victim, small_decoder()));
}

class SharesTest : public testing::Test {
 protected:
  const Dataset known_ = shapes(DataSplit::kTrain, 600), scored_ = shapes(DataSplit::kTest, 64);
  const Tensor truth_ = images_of(scored_, 0, scored_.count());
};

// T workers get from their shares what they get from numbers that have nothing to do with the
// images; one more gets the images.
TEST_F(SharesTest, TColludingWorkersGetTheFloorAndOneMoreTheImages) {
  for (const int noises : {1, 2}) {
    SCOPED_TRACE(noises);
    ShareVictim victim = victim_of(truth_, noises, known_);
    for (int j = 1; j <= noises; ++j) victim.coalition.push_back(j);
    const Interval shares = ssim(victim, truth_);
    ShareVictim others = victim_of(images_of(known_, 0, truth_.dim(0)), noises, known_);
    others.coalition = victim.coalition;  // shares of other images
    const Interval floor = ssim(others, truth_);
    EXPECT_LT(shares.low, floor.high);
    EXPECT_GT(shares.high, floor.low);
    victim.coalition.insert(victim.coalition.begin(), 0);
    EXPECT_GT(ssim(victim, truth_).mean, 0.98);
  }
}

// Virtual batches: T workers get the floor; more have equations without noise, whose small
// solutions mix the images; K + T have the images. The last virtual batch lacks an image.
TEST_F(SharesTest, ColludingWorkersReadVirtualBatchesFromOneShareMoreThanTheNoises) {
  const Tensor truth = truth_.rows(0, 63);
  ShareVictim victim = victim_of(truth, 1, known_, 2);
  victim.coalition = {2};
  const Interval shares = ssim(victim, truth);
  ShareVictim others = victim_of(images_of(known_, 0, 63), 1, known_, 2);
  others.coalition = victim.coalition;
  const Interval floor = ssim(others, truth);
  EXPECT_LT(shares.low, floor.high);
  EXPECT_GT(shares.high, floor.low);
  victim.coalition = {1, 2};
  EXPECT_GT(ssim(victim, truth).low, floor.high + 0.05);
  victim.coalition = {0, 1, 2};
  EXPECT_GT(ssim(victim, truth).mean, 0.98);
}

// A solution of c - T equations has the coalition's view in common with the inputs, and is small.
TEST(ShareEquationsTest, SolutionsAreSmallAndExactFromAsManySharesAsDecode) {
  constexpr int kInputs = 4, kNoises = 2;
  constexpr size_t kLength = 200;
  for (const char* name : {"m31", "p24"}) {
    const Field field = Field::named(name);
    const LagrangeCode code(field, kInputs, kNoises, 7);
    Rng rng(3);
    std::vector<int32_t> inputs(kInputs * kLength);
    for (int32_t& v : inputs) v = static_cast<int32_t>(rng.below(255)) - 127;
    const auto rows_of = [&](const std::vector<int32_t>& x, bool noise) {
      std::vector<std::vector<uint32_t>> rows(kInputs + kNoises, std::vector<uint32_t>(kLength));
      for (size_t i = 0; i < x.size(); ++i) rows[i / kLength][i % kLength] = field.of(x[i]);
      for (size_t t = kInputs; noise && t < rows.size(); ++t) {
        for (uint32_t& v : rows[t]) v = static_cast<uint32_t>(rng.below(field.prime()));
      }
      return rows;
    };
    const std::vector<std::vector<uint32_t>> coded = rows_of(inputs, true);
    for (const std::vector<int>& coalition :
         {std::vector<int>{0, 3, 6}, {1, 2, 3, 5}, {0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5, 6}}) {
      SCOPED_TRACE(std::string(name) + ", " + std::to_string(coalition.size()) + " shares");
      const auto shares_of = [&](const std::vector<std::vector<uint32_t>>& rows) {
        const std::vector<std::span<const uint32_t>> spans(rows.begin(), rows.end());
        std::vector<std::vector<uint32_t>> out;
        for (const int j : coalition) {
          out.emplace_back(kLength);
          combine(field, code.encoding(j), spans, out.back());
        }
        return out;
      };
      const ShareEquations equations(code, coalition);
      const auto solve = [&](const std::vector<std::vector<uint32_t>>& shares) {
        return equations.solve(
            std::vector<std::span<const uint32_t>>(shares.begin(), shares.end()));
      };
      const std::vector<int32_t> found = solve(shares_of(coded));
      EXPECT_EQ(equations.determined(), coalition.size() >= kInputs + kNoises);
      if (equations.determined()) EXPECT_EQ(found, inputs);
      // Coded anew with other noise, a solution solves to itself: the equations see no noise.
      EXPECT_EQ(solve(shares_of(rows_of(found, true))), found);
      const auto square = [](const std::vector<int32_t>& x) {
        return std::inner_product(x.begin(), x.end(), x.begin(), int64_t{0});
      };
      EXPECT_LE(square(found), square(inputs));
    }
  }
}

// The test can fail: of inputs without noise the same decoder gets far more.
TEST_F(SharesTest, TheSameDecoderReadsInputsWithoutNoise) {
  ShareVictim victim = victim_of(truth_, 1, known_);
  victim.coalition = {1};
  const Interval floor = ssim(victim, truth_);
  const Field& field = victim.code->field();
  ShareVictim open = victim;
  open.noises = 0;
  open.code = LagrangeCode(field, 1, 0, 1);
  open.coalition = {0};
  const auto residues = to_residues(field, victim.coding.to_integers(truth_));
  std::ranges::copy(residues, open.recorded[0].data<int32_t>());
  const auto found = share_yardstick_attack()->run(open, small_decoder());
  EXPECT_GT(score(truth_, found).low, floor.high + 0.1);
}

// ---- what has to keep succeeding: an attack that stopped working would flatter the schemes

struct RealNoise {
  int inputs, noises;
  double mean, stddev;
};

// The shares of real numbers of `images`, and the victim's integers.
ShareVictim real_victim(const Tensor& images, const RealNoise& c, const Dataset& known) {
  ShareVictim victim{.model = {.classes = 10, .image_size = static_cast<int>(images.dim(2))},
                     .coding = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, 2.0f / 127},
                     .inputs = c.inputs,
                     .noises = c.noises,
                     .code = std::nullopt,
                     .images = images.dim(0),
                     .public_data = &known};
  const auto scheme = make_scheme("darknight_real", {.virtual_batch = c.inputs,
                                                     .noises = c.noises,
                                                     .shares = c.inputs + c.noises,
                                                     .noise_mean = c.mean,
                                                     .noise_stddev = c.stddev});
  scheme->add_group({}, {3, images.dim(2), images.dim(3)}, victim.coding.scale);
  const auto encoding = scheme->encode(0, victim.coding.to_integers(images));
  for (int j = 0; j < scheme->shares(); ++j) {
    const Tensor frame = encoding->share(j).frame;
    victim.recorded.push_back(frame.reshape(Shape(frame.shape().dims().subspan(1))));
    victim.coalition.push_back(j);
  }
  return victim;
}

// DarKnight's own noises and larger ones, two and four images: every image is read; one share of
// them shows nothing to a correlation.
TEST_F(SharesTest, IndependentComponentsReadAllImagesOfSharesOfRealNumbers) {
  const Tensor truth = truth_.rows(0, 16);
  for (const RealNoise& c :
       {RealNoise{2, 1, 4000, 63.25}, {4, 1, 4000, 63.25}, {4, 1, 1e4, 70.7}, {4, 1, 1e4, 1e4}}) {
    SCOPED_TRACE(testing::Message() << "K = " << c.inputs << ", deviation " << c.stddev);
    const ShareVictim victim = real_victim(truth, c, known_);
    const auto found = share_ica_attack()->run(victim, {});
    ASSERT_EQ(found.size(), 1u);
    EXPECT_GE(mean_correlation(truth, as_in(truth, found[0].images, c.inputs)), 0.99);
    // Half of the single shares: by chance a row of the matrix has little noise.
    std::vector<double> single;
    for (const Tensor& share : victim.recorded) {
      const Tensor images = components_to_images(share, victim.coding, false);
      for (int64_t g = 0; g < images.dim(0); ++g)
        single.push_back(mean_correlation(truth.rows(g, 1), images.rows(g, 1)));
    }
    std::ranges::nth_element(single, single.begin() + std::ssize(single) / 2);
    EXPECT_LT(single[single.size() / 2], 0.1);
  }
}

TEST_F(SharesTest, AnOrthogonalMixtureLeavesTheProductsOfPixels) {
  const Tensor truth = truth_.rows(0, 16);
  const ShareVictim victim = real_victim(truth, {4, 1, 4000, 63.25}, known_);
  Rng rng(1);
  EXPECT_GE(gram_correlation(victim.recorded, victim.coding.to_integers(truth), 256, rng), 0.95);
  const ShareVictim other = real_victim(truth_.rows(16, 16), {4, 1, 4000, 63.25}, known_);
  EXPECT_LE(gram_correlation(other.recorded, victim.coding.to_integers(truth), 256, rng), 0.6);
}

// The victim with `shares` random combinations of K images and a noise in place of the code's.
ShareVictim random_code(const Tensor& truth, int shares, ShareVictim victim) {
  const Field& field = victim.code->field();
  const auto elements = to_residues(field, victim.coding.to_integers(truth));
  const size_t length = elements.size() / static_cast<size_t>(victim.inputs);
  Rng rng(8);
  const auto uniform = [&](size_t n) {
    std::vector<uint32_t> out(n);
    for (uint32_t& v : out) v = static_cast<uint32_t>(rng.below(field.prime()));
    return out;
  };
  const std::vector<uint32_t> noise = uniform(length);
  std::vector<std::span<const uint32_t>> rows;
  for (size_t k = 0; k < static_cast<size_t>(victim.inputs); ++k)
    rows.push_back(std::span(elements).subspan(k * length, length));
  rows.push_back(noise);
  for (int j = 0; j < shares; ++j) {
    std::vector<uint32_t> share(length);
    combine(field, uniform(rows.size()), rows, share);
    std::ranges::copy(share, victim.recorded[static_cast<size_t>(j)].data<int32_t>());
    victim.coalition.push_back(j);
  }
  return victim;
}

// Residues, and an attacker without the code: all shares of the product's own codes; of codes with
// random points also one and two fewer. With its small points the code gives away fewer: c shares
// hold c - T short mixtures, and the others are long.
TEST_F(SharesTest, ShortVectorsReadTheImagesOfSharesOfResidues) {
  constexpr int kInputs = 4;
  const Tensor truth = truth_.rows(0, 16);
  for (const char* field : {"m31", "p24"}) {
    const auto correlation = [&](const ShareVictim& victim) {
      const auto found = share_lattice_attack()->run(victim, {});
      return mean_correlation(truth, as_in(truth, found.at(0).images, kInputs));
    };
    for (const int noises : {1, 2}) {
      SCOPED_TRACE(testing::Message() << field << ", T = " << noises);
      ShareVictim victim = victim_of(truth, noises, known_, kInputs, field);
      for (int j = 0; j < kInputs + noises; ++j) victim.coalition.push_back(j);
      EXPECT_GE(correlation(victim), 0.95);
      for (int less = 1; less < kInputs; ++less) {
        victim.coalition.pop_back();
        const std::string says = "hold " + std::to_string(kInputs - less) + " short mixtures of 4";
        try {
          correlation(victim);
          ADD_FAILURE() << says;
        } catch (const Error& error) {
          EXPECT_NE(std::string(error.what()).find(says), std::string::npos) << error.what();
        }
      }
    }
    for (const int shares : {4, 3}) {
      SCOPED_TRACE(testing::Message() << field << ", random code, " << shares << " shares");
      const ShareVictim victim =
          random_code(truth, shares, victim_of(truth, 1, known_, kInputs, field));
      EXPECT_GE(correlation(victim), 0.95);
    }
    // T shares are uniform: there is no short mixture in them.
    ShareVictim victim = victim_of(truth, 2, known_, 4, field);
    victim.coalition = {3, 5};
    EXPECT_THROW(share_lattice_attack()->run(victim, {}), Error);
    const ShareSetting setting{.public_images = 600, .inputs = 4, .noises = 2, .shares = 2};
    EXPECT_NE(share_lattice_attack()->not_applicable_reason(setting), "");
  }
}

// A view holds the coalition's shares and no others.
TEST_F(SharesTest, AViewHoldsTheCoalitionsSharesAlone) {
  ShareVictim victim = victim_of(truth_, 2, known_);
  victim.coalition = {2};
  WorkerView view;
  grant(victim, AttackContext(), view);
  ASSERT_EQ(view.observed.size(), 1u);
  EXPECT_EQ(view.observed[0].to_vector(), victim.recorded[2].to_vector());
  EXPECT_EQ(view.shares, victim.coalition);
}

}  // namespace
}  // namespace ens
