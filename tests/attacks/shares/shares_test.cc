#include <gtest/gtest.h>

#include <algorithm>

#include "attacks/core/metrics.h"
#include "attacks/shares/views.h"
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
ShareVictim victim_of(const Tensor& images, int noises, const Dataset& known) {
  const Field field = Field::named("m31");
  ShareVictim victim{.model = {.classes = 10, .image_size = static_cast<int>(images.dim(2))},
                     .coding = {{0.5f, 0.5f, 0.5f}, {0.25f, 0.25f, 0.25f}, 2.0f / 127},
                     .code = LagrangeCode(field, 1, noises, 1 + noises),
                     .public_data = &known};
  const auto scheme =
      make_scheme("darknight_field", {.field = field, .noises = noises, .shares = 1 + noises});
  const auto encoding = scheme->encode(victim.coding.to_integers(images));
  for (int j = 0; j <= noises; ++j) {
    Tensor share = Tensor::empty(images.shape(), Dtype::kI32);
    std::ranges::copy(encoding->residues(j), share.data<int32_t>());
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

// The test can fail: of shares without noise the same decoder gets far more.
TEST_F(SharesTest, TheSameDecoderReadsSharesWithoutNoise) {
  ShareVictim victim = victim_of(truth_, 1, known_);
  victim.coalition = {1};
  const Interval floor = ssim(victim, truth_);
  const AttackContext context = small_decoder();
  WorkerView view;
  grant(victim, context, view);
  const Field field = Field::named("m31");
  // 2^23 times the integer, as a residue.
  view.encode = [&](const Tensor& images, Rng&) {
    auto x = to_residues(field, victim.coding.to_integers(images));
    for (uint32_t& v : x) v = field.mul(v, 1 << 23);
    return std::vector<std::vector<uint32_t>>{x};
  };
  Rng rng(1);
  const auto x = view.encode(truth_, rng).at(0);
  view.observed[0] = Tensor::empty(truth_.shape(), Dtype::kI32);
  std::ranges::copy(x, view.observed[0].data<int32_t>());
  EXPECT_GT(score(truth_, share_decoder_attack()->run_on(view, context)).low, floor.high + 0.1);
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
