// SPDX-License-Identifier: Apache-2.0
// The cloud's half of disguised training: what it learns, what it leaves, and what it refuses.
#include "disguise/train/train.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <set>

#include "base/files.h"
#include "disguise/set/set.h"
#include "disguise/train/rows.h"
#include "disguise/transform/rmt.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/modules/layers.h"
#include "nn/optim/fit.h"
#include "proto/results.h"
#include "tests/disguise/sets.h"
#include "tests/support/errors.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::set_facts;
using test::write_pictures;

RunConfig config(std::vector<std::string> more = {}) {
  RunConfig c;
  more.insert(more.begin(), {"device=cpu", "dtype=float32", "model.architecture=lenet",
                             "stage1.epochs=2", "stage1.batch=32", "stage1.lr=0.05"});
  apply_overrides(more, c);
  complete(c);
  return c;
}

class DisguisedTraining : public ::testing::Test {
 protected:
  DisguisedTraining() {
    write_pictures(folder_ / "train.h5", 512, "train");
    write_pictures(folder_ / "test.h5", 128, "test");
  }
  bool train(const std::string& run, const std::string& set = "train.h5",
             const std::string& test = "test.h5", std::vector<std::string> more = {}) {
    const DisguisedSetReader reader(folder_ / set);
    std::optional<DisguisedSetReader> test_reader;
    if (!test.empty()) test_reader.emplace(folder_ / test);
    return train_disguised(config(std::move(more)), folder_ / run, {"a test", "CPU", 1}, reader,
                           test_reader ? &*test_reader : nullptr);
  }
  results::RunSummary summary(const std::string& run) const {
    results::RunSummary s;
    results::read(folder_ / run / "summary.json", s);
    return s;
  }

  test::TempDir folder_;
};

TEST_F(DisguisedTraining, LearnsAndLeavesAModelThatSaysItsSet) {
  ASSERT_TRUE(train("run", "train.h5", "test.h5", {"stage1.epochs=8"}));
  const DisguisedSetReader set(folder_ / "train.h5"), test(folder_ / "test.h5");
  const DisguisedModel model = read_disguised_model(folder_ / "run/model.h5");
  EXPECT_EQ(model.method, "rmt");
  EXPECT_EQ(model.settings, set.info().settings);
  EXPECT_EQ(model.key_id, set.info().key_id);
  EXPECT_EQ(model.set_id, set.info().set_id);
  EXPECT_EQ(model.marks, set.info().marks);
  EXPECT_EQ(model.row(), set.info().shape);
  EXPECT_EQ(model.info.model.mean, set.info().mean);
  EXPECT_EQ(model.info.model.stddev, set.info().stddev);

  // The accuracy in the summary, the model's, and one that is counted here from its logits.
  const Tensor logits = classify_disguised(model, test.rows(0, 128));
  const Tensor direct = model.net->forward(Var(test.rows(0, 128))).value();
  int right = 0;
  for (int64_t i = 0; i < 128; ++i) {
    const float* row = logits.data<float>() + i * set.info().classes;
    right += std::max_element(row, row + set.info().classes) - row ==
             test.labels()[static_cast<size_t>(i)];
    for (int k = 0; k < set.info().classes; ++k) {
      EXPECT_NEAR(row[k], direct.plain().data<float>()[i * set.info().classes + k], 1e-3);
    }
  }
  EXPECT_GT(right, 64) << "it has learned nothing";
  EXPECT_NEAR(summary("run").accuracy(), right / 128.0, 1.01 / 128);
  EXPECT_NEAR(disguised_accuracy(model, test), right / 128.0, 1.01 / 128);
  EXPECT_EQ(summary("run").train_images(), 512);
  // Reports read no summary without these two.
  EXPECT_EQ(summary("run").protection(), "disguise");
  EXPECT_EQ(summary("run").data(), "set " + set.info().set_id.substr(0, 6));
  EXPECT_EQ(summary("run").disguise().method(), "rmt");
  EXPECT_EQ(summary("run").disguise().disguised_bytes(), 3 * 32 * 32 * 2);
  EXPECT_GE(summary("run").disguise().epochs_to_95(), 1);
  std::vector<int64_t> of_class(static_cast<size_t>(test.info().classes));
  for (const int32_t label : test.labels()) ++of_class[static_cast<size_t>(label)];
  EXPECT_NEAR(summary("run").disguise().rarest_class(), std::ranges::min(of_class) / 128.0, 1e-9);
  EXPECT_NEAR(summary("run").disguise().commonest_class(), std::ranges::max(of_class) / 128.0,
              1e-9);
  EXPECT_FALSE(train("run", "train.h5", "test.h5", {"stage1.epochs=8"})) << "it is done already";
}

// Codes of NeuraCrypt: the classes differ in which codes there are, and not in where.
TEST_F(DisguisedTraining, LearnsFromCodesInNoOrder) {
  const Shape shape{9, 16};
  for (const char* split : {"train", "test"}) {
    DisguisedSetInfo info = set_facts(std::string(split) == "train" ? 512 : 128, split);
    info.method = "neuracrypt";
    info.settings = "neuracrypt { patch: 4 }";
    info.shape = shape;
    info.classes = 4;
    test::Pictures p = test::pictures(info.rows, shape, info.classes, split);
    Rng rng(4, split);
    for (int64_t i = 0; i < info.rows; ++i) {
      const Tensor row = p.rows.rows(i, 1).clone();
      const std::vector<int64_t> order = rng.permutation(shape[0]);
      for (int64_t k = 0; k < shape[0]; ++k) {
        std::copy_n(row.data<float>() + order[static_cast<size_t>(k)] * shape[1], shape[1],
                    p.rows.data<float>() + (i * shape[0] + k) * shape[1]);
      }
    }
    test::write_rows(folder_ / (std::string("codes-") + split + ".h5"), info, p.rows, p.labels);
  }
  const std::vector<std::string> vit = {"model.architecture=vit", "model.width=8",
                                        "stage1.epochs=6", "stage1.optimizer=adamw",
                                        "stage1.lr=0.003"};
  ASSERT_TRUE(train("run", "codes-train.h5", "codes-test.h5", vit));
  EXPECT_GT(summary("run").accuracy(), 0.8) << "chance is .25";
  const DisguisedModel model = read_disguised_model(folder_ / "run/model.h5");
  EXPECT_EQ(model.row(), shape);
  const DisguisedSetReader test(folder_ / "codes-test.h5");
  EXPECT_NEAR(disguised_accuracy(model, test), summary("run").accuracy(), 1.01 / 128);
  EXPECT_NE(error_of([&] { train("lenet", "codes-train.h5", "codes-test.h5"); }).find("use vit"),
            std::string::npos);
}

TEST_F(DisguisedTraining, WithoutATestSetNoAccuracyIsClaimed) {
  ASSERT_TRUE(train("run", "train.h5", ""));
  EXPECT_FALSE(summary("run").has_accuracy());
  for (const Metric& m : read_run(folder_ / "run").metrics) EXPECT_NE(m.name, "accuracy");
}

// The owner's settings, her seed of secrets among them, are none of the cloud's business.
TEST_F(DisguisedTraining, TheRunFolderHoldsTheSetsSettingsOnly) {
  ASSERT_TRUE(train("run", "train.h5", "",
                    {"disguise.rmt.block=8x8", "disguise.method=rmt", "data.name=shapes",
                     "disguise.insecure_seeded_secrets=true"}));
  const RunConfig own = read_run_config(folder_ / "run");
  EXPECT_EQ(own.disguise().method(), "rmt");
  EXPECT_EQ(own.disguise().rmt().block(), "4x4");
  EXPECT_EQ(own.data().name(), "cifar10") << "the default";
  EXPECT_FALSE(own.disguise().insecure_seeded_secrets());
}

TEST_F(DisguisedTraining, ImagesThatAreNotSquareAreTrainedOnAsTheyAre) {
  for (const char* architecture : {"lenet", "resnet18"}) {
    const std::string name = architecture;
    write_pictures(folder_ / (name + ".h5"), 64, "train", {3, 32, 64});
    ASSERT_TRUE(train(name, name + ".h5", "",
                      {"model.architecture=" + name, "model.width=2", "stage1.epochs=1"}));
    const DisguisedModel model = read_disguised_model(folder_ / name / "model.h5");
    EXPECT_EQ(model.row(), (Shape{3, 32, 64}));
    const DisguisedSetReader set(folder_ / (name + ".h5"));
    EXPECT_EQ(classify_disguised(model, set.rows(0, 3)).shape(), (Shape{3, set.info().classes}));
  }
}

TEST_F(DisguisedTraining, RefusesSetsThatDoNotBelongTogether) {
  const auto error = [&](const std::string& set, const std::string& test,
                         std::vector<std::string> more = {}) {
    const std::string message = error_of([&] { train("bad", set, test, std::move(more)); });
    EXPECT_FALSE(fs::exists(folder_ / "bad")) << message;
    return message;
  };
  const auto has = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  auto facts = set_facts(128, "test");
  facts.key_id = "00000000000000aa";
  write_pictures(folder_ / "key.h5", facts);
  has(error("train.h5", "key.h5"), "another key (00000000000000aa");
  facts = set_facts(128, "test");
  facts.method = "aes";
  write_pictures(folder_ / "method.h5", facts);
  has(error("train.h5", "method.h5"), "another method");
  write_pictures(folder_ / "shape.h5", 128, "test", {3, 36, 36});
  has(error("train.h5", "shape.h5"), "another shape");
  facts = set_facts(128, "test");
  facts.classes = 12;
  write_pictures(folder_ / "classes.h5", facts);
  has(error("train.h5", "classes.h5"), "another number of classes");
  has(error("test.h5", ""), "a disguised test set, and not a train set");
  has(error("train.h5", "train.h5"), "a disguised train set, and not a test set");
  has(error("train.h5", "", {"stage1.batch=513"}), "512 rows do not fill one batch of 513");
  // Too small for the network, and no pictures at all.
  write_pictures(folder_ / "small.h5", 64, "train", {3, 8, 8});
  has(error("small.h5", ""), "image_size is 8");
  write_pictures(folder_ / "codes.h5", 64, "train", {64, 16});
  has(error("codes.h5", ""), "codes in no order");
  facts = set_facts(64, "train");
  facts.settings = "matrix: 7";
  write_pictures(folder_ / "settings.h5", facts);
  has(error("settings.h5", ""), "matrix");
}

TEST_F(DisguisedTraining, GoesOnWithTheSetThatItBeganWithOnly) {
  ASSERT_TRUE(train("run", "train.h5", ""));
  auto facts = set_facts(512, "train");
  facts.set_id = "00000000000000bb";
  write_pictures(folder_ / "other.h5", facts);
  const std::string message = error_of([&] { train("run", "other.h5", ""); });
  EXPECT_NE(message.find("another set"), std::string::npos) << message;
}

TEST_F(DisguisedTraining, RefusesFilesThatAreNoSuchModel) {
  ASSERT_TRUE(train("run", "train.h5", ""));
  const fs::path file = folder_ / "run/model.h5";
  EXPECT_NE(error_of([&] { read_disguised_model(folder_ / "train.h5"); }), "");
  const DisguisedModel model = read_disguised_model(file);
  CloudBundle split{.info = model.info};
  split.info.split = {1, 1};
  Rng rng(1);
  split.bodies = {build_body(split.info.model, split.info.split, rng)};
  write_cloud_bundle(folder_ / "split.h5", split);
  EXPECT_NE(error_of([&] { read_disguised_model(folder_ / "split.h5"); }).find("split inference"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              classify_disguised(model, Tensor::zeros({2, 3, 32, 31}));
            }).find("[B, 3, 32, 32]"),
            std::string::npos);
  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] ^= 1;
  std::ofstream(folder_ / "flipped.h5", std::ios::binary) << bytes;
  EXPECT_NE(error_of([&] { read_disguised_model(folder_ / "flipped.h5"); }).find("flipped.h5"),
            std::string::npos);
  auto facts = set_facts(64, "test");
  facts.key_id = "00000000000000aa";
  write_pictures(folder_ / "key.h5", facts);
  EXPECT_NE(error_of([&] {
              disguised_accuracy(model, DisguisedSetReader(folder_ / "key.h5"));
            }).find("00000000000000aa"),
            std::string::npos);
}

// ---- sets that are larger than memory

std::atomic<int64_t> live{0}, peak{0};

std::shared_ptr<void> counted(Device device, size_t bytes) {
  const int64_t now = live += static_cast<int64_t>(bytes);
  for (int64_t before = peak; before < now && !peak.compare_exchange_weak(before, now);) {
  }
  auto memory = backend(device).allocate(bytes);
  return {memory.get(), [memory, bytes](void*) { live -= static_cast<int64_t>(bytes); }};
}

TEST(SetRows, HoldNoMoreThanTheChunksThatAreMixed) {
  const test::TempDir folder;
  constexpr int64_t kRows = 20 * kDisguisedChunkRows, kOpen = 4;
  auto facts = set_facts(kRows, "train");
  facts.shape = {1, 16, 16};
  write_pictures(folder / "large.h5", facts);
  const DisguisedSetReader set(folder / "large.h5");
  const int64_t chunk_bytes = kDisguisedChunkRows * 16 * 16 * 4;
  set_tensor_allocator(counted);
  {
    SetRows rows(set, kOpen * chunk_bytes);
    Loader loader(rows, {.batch = 32});
    std::set<std::vector<float>> seen;
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      loader.start(epoch);
      int64_t count = 0;
      for (Batch batch; loader.next(batch);) {
        for (int64_t i = 0; i < 32 && epoch == 0; ++i) {
          seen.insert(batch.images.rows(i, 1).to_vector());
        }
        count += 32;
      }
      EXPECT_EQ(count, kRows);
    }
    EXPECT_GT(seen.size(), static_cast<size_t>(kRows * 9 / 10)) << "other rows than the file's";
  }
  set_tensor_allocator({});
  EXPECT_EQ(live, 0);
  // What is mixed, what is just read, and a few batches.
  EXPECT_LT(peak, (kOpen + 2) * chunk_bytes);
  EXPECT_GE(peak, kOpen * chunk_bytes);
}

// ---- training on rotated patches

// Images as they are and multiplied, patch by patch, by one orthogonal matrix: a linear patch
// embedding that starts at W0 R^T sees the same numbers, and so does everything behind it. Then the
// losses of all steps are the same: an rmt of `side: full`, `share: all` costs no accuracy.
TEST(RotatedPatches, TrainAsThePlainOnes) {
  constexpr int kPatch = 4, kChannels = 3, kSide = 16, kUnits = 24, kSize = kChannels * 16;
  const test::TempDir folder;
  Rng rng(11);
  Tensor matrix = Tensor::empty({1, kSize, kSize});
  rng.fill_normal(matrix.span<float>(), 0, 1);
  test::orthonormalise(matrix.data<float>(), kSize);
  RmtParameters parameters;
  parameters.side = RmtSide::kFull;
  parameters.matrices = matrix;
  const ImageShape shape{kChannels, kSide, kSide};
  const auto transform = rmt_transform(shape, parameters);
  constexpr int64_t kRows = 400;
  const test::Pictures images = test::pictures(kRows, shape.shape(), 10, "train");
  FreshRandomness fresh;
  auto facts = set_facts(kRows, "train");
  facts.shape = shape.shape();
  facts.dtype = Dtype::kF32;
  test::write_rows(folder / "plain.h5", facts, images.rows, images.labels);
  test::write_rows(folder / "rotated.h5", facts, transform->apply(images.rows, fresh),
                   images.labels);

  const auto losses = [&](const char* file, const Tensor& embedding) {
    Rng weights(5);
    Sequential net;
    net.push("scale", std::make_shared<Activation>(UnaryOp::kAffine, 1 / 255.0f, -0.0f));
    net.push("embed", std::make_shared<Conv2d>(kChannels, kUnits, kPatch, ConvSpec{kPatch, 0}, true,
                                               weights));
    net.push("relu", std::make_shared<Activation>(UnaryOp::kRelu));
    net.push("flatten", std::make_shared<Flatten>());
    net.push("linear", std::make_shared<Linear>(kUnits * 16, facts.classes, true, weights));
    std::vector<NamedTensor> state = net.state();
    for (NamedTensor& t : state) {
      if (t.name == "embed.weight") t.tensor = embedding;
    }
    net.load_state(state, "the test");
    const DisguisedSetReader set(folder / file);
    SetRows rows(set);
    Loader loader(rows, {.batch = 32, .seed = 2});
    Optimizer optimizer(net.parameters(), {.kind = OptimSpec::Kind::kSgd, .momentum = 0.9f});
    FitOptions options;
    options.epochs = 5;  // of 12 steps
    options.lr = 0.05f;
    std::vector<double> all;
    fit(
        options, loader, optimizer,
        [&](const Batch& b) { return softmax_cross_entropy(net.forward(Var(b.images)), b.labels); },
        [&](int64_t, double loss) { all.push_back(loss); }, {});
    return all;
  };
  // Conv2d's weights lie as [units, channels, rows, columns], a patch as the same vector.
  Tensor plain = Tensor::empty({kUnits, kChannels, kPatch, kPatch}), rotated = plain.clone();
  rng.fill_normal(plain.span<float>(), 0, 0.1f);
  for (int u = 0; u < kUnits; ++u) {
    for (int j = 0; j < kSize; ++j) {
      double sum = 0;
      for (int i = 0; i < kSize; ++i) {
        sum += double{plain.data<float>()[u * kSize + i]} * matrix.data<float>()[i * kSize + j];
      }
      rotated.data<float>()[u * kSize + j] = static_cast<float>(sum);
    }
  }
  const std::vector<double> a = losses("plain.h5", plain), b = losses("rotated.h5", rotated);
  ASSERT_GE(a.size(), 50u);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-4) << "step " << i;
  EXPECT_LT(a.back(), 0.7 * a.front()) << "nothing was learned, so nothing was compared";
  const std::vector<double> other = losses("rotated.h5", plain);
  EXPECT_GT(std::abs(other[0] - a[0]), 1e-3) << "the matrix does nothing";
}

}  // namespace
}  // namespace ens
