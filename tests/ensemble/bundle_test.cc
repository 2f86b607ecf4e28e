// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include "base/error.h"
#include "base/strings.h"
#include "include/ensembler/version.h"
#include "nn/io/checkpoint.h"
#include "tests/ensemble/bundles.h"
#include "tests/support/errors.h"

namespace ens {
namespace {

using test::Bundles;
using test::random_bundles;
using test::TempDir;

std::string contents(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void overwrite(const std::filesystem::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
}

void expect_same_state(const Module& a, const Module& b) {
  const auto x = a.state(), y = b.state();
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(x[i].name, y[i].name);
    EXPECT_EQ(x[i].tensor.to_vector(), y[i].tensor.to_vector()) << x[i].name;
  }
}

void expect_same_info(const BundleInfo& a, const BundleInfo& b) {
  EXPECT_EQ(a.model.architecture, b.model.architecture);
  EXPECT_EQ(a.model.width, b.model.width);
  EXPECT_EQ(a.model.classes, b.model.classes);
  EXPECT_EQ(a.model.channels, b.model.channels);
  EXPECT_EQ(a.model.image_size, b.model.image_size);
  EXPECT_EQ(a.model.image_width, b.model.image_width);
  EXPECT_EQ(a.model.stem_pool, b.model.stem_pool);
  EXPECT_EQ(a.model.stem_kernel, b.model.stem_kernel);
  EXPECT_EQ(a.model.hidden, b.model.hidden);
  EXPECT_EQ(a.model.mean, b.model.mean);
  EXPECT_EQ(a.model.stddev, b.model.stddev);
  EXPECT_EQ(a.split.head, b.split.head);
  EXPECT_EQ(a.split.tail, b.split.tail);
  EXPECT_EQ(a.nets, b.nets);
  EXPECT_EQ(a.fingerprint, b.fingerprint);
  EXPECT_EQ(a.data, b.data);
}

using test::error_of;

void expect_same_protection(const ProtectionSpec& read, const ProtectionSpec& spec) {
  ASSERT_EQ(read.size(), spec.size());
  for (size_t i = 0; i < spec.size(); ++i) {
    EXPECT_EQ(read[i].name, spec[i].name);
    EXPECT_EQ(read[i].values.shape(), spec[i].values.shape());
    EXPECT_EQ(read[i].values.to_vector(), spec[i].values.to_vector());
  }
}

TEST(Bundle, BothRoundTrip) {
  const TempDir dir;
  Bundles bundles = random_bundles(1, 4, {1, 3}, 4, /*tail=*/2);
  write(bundles, dir.path());

  const CloudBundle cloud = read_cloud_bundle(dir / "cloud.h5");
  expect_same_info(cloud.info, bundles.cloud.info);
  ASSERT_EQ(cloud.bodies.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    expect_same_state(*cloud.bodies[i], *bundles.cloud.bodies[i]);
    EXPECT_TRUE(cloud.bodies[i]->frozen());
    EXPECT_FALSE(cloud.bodies[i]->training());
  }
  EXPECT_EQ(fingerprint_of(cloud.bodies), bundles.cloud.info.fingerprint);
  EXPECT_EQ(cloud.info.fingerprint.size(), 32u);

  const EdgeBundle edge = read_edge_bundle(dir / "edge.h5");
  expect_same_info(edge.info, bundles.cloud.info);
  expect_same_state(*edge.head, *bundles.edge.head);
  expect_same_state(*edge.tail, *bundles.edge.tail);
  EXPECT_EQ(edge.selector.selected(), bundles.edge.selector.selected());
  expect_same_protection(edge.protection, bundles.edge.protection);
  EXPECT_EQ(edge.class_names, bundles.edge.class_names);
}

// Programs from before would build another network, so they must see a newer format.
TEST(Bundle, ModelsUnknownToOlderProgramsRoundTripInAFormatOfTheirOwn) {
  const TempDir dir;
  BundleInfo info;
  info.model.architecture = "resnet34";
  info.model.width = 4;
  info.model.stem_kernel = 7;
  info.data = "random";
  Rng rng(1);
  CloudBundle cloud{.info = info, .bodies = {build_body(info.model, info.split, rng)}};
  cloud.bodies[0]->freeze();
  write_cloud_bundle(dir / "cloud.h5", cloud);
  EdgeBundle edge{.info = cloud.info,
                  .class_names = std::vector<std::string>(10, "class"),
                  .head = build_head(info.model, info.split, rng),
                  .tail = build_tail(info.model, info.split, rng, 1),
                  .selector = Selector(1, {0}),
                  .protection = {{"dropout", Tensor::full({1}, 0.25f)}}};
  write_edge_bundle(dir / "edge.h5", edge);
  EXPECT_EQ(read_checkpoint(dir / "cloud.h5", "cloud").number("format"), 5);
  EXPECT_EQ(read_checkpoint(dir / "edge.h5", "edge").number("format"), 5);
  const CloudBundle read_cloud = read_cloud_bundle(dir / "cloud.h5");
  expect_same_info(read_cloud.info, cloud.info);
  expect_same_state(*read_cloud.bodies[0], *cloud.bodies[0]);
  const EdgeBundle read_edge = read_edge_bundle(dir / "edge.h5");
  expect_same_info(read_edge.info, cloud.info);
  expect_same_state(*read_edge.head, *edge.head);
  expect_same_protection(read_edge.protection, edge.protection);

  info.model = {};
  info.model.architecture = "vgg16";
  info.model.width = 2;
  info.model.hidden = 24;
  CloudBundle vgg{.info = info, .bodies = {build_body(info.model, info.split, rng)}};
  write_cloud_bundle(dir / "vgg.h5", vgg);
  expect_same_info(read_cloud_bundle(dir / "vgg.h5").info, vgg.info);
}

// h = t = 0: the cloud has it all, and images need not be square. Programs from before must see a
// newer format.
TEST(Bundle, WholeNetworksRoundTrip) {
  const TempDir dir;
  for (const char* architecture : {"lenet", "resnet18", "vgg16"}) {
    BundleInfo info;
    info.model.architecture = architecture;
    info.model.width = 2;
    info.model.image_size = 32;
    info.model.image_width = 64;
    info.split = {0, 0};
    Rng rng(1);
    CloudBundle cloud{.info = info,
                      .bodies = {build_body(info.model, info.split, rng)},
                      .notes = {{"method", "rmt"}, {"key", ""}}};
    write_cloud_bundle(dir / "whole.h5", cloud);
    EXPECT_EQ(read_checkpoint(dir / "whole.h5", "cloud").number("format"), 7);
    const CloudBundle read = read_cloud_bundle(dir / "whole.h5");
    expect_same_info(read.info, cloud.info);
    EXPECT_EQ(read.info.model.input_shape(), (Shape{3, 32, 64}));
    EXPECT_EQ(smashed_shape(read.info.model, read.info.split), (Shape{3, 32, 64}));
    EXPECT_EQ(body_output_shape(read.info.model, read.info.split), (Shape{10}));
    EXPECT_EQ(read.notes, cloud.notes);
    expect_same_state(*read.bodies[0], *cloud.bodies[0]);
    const Tensor images = test::random_images(info.model, 2, 1);
    EXPECT_EQ(read.bodies[0]->forward(Var(images)).value().shape(), (Shape{2, 10}));
  }
}

TEST(Bundle, AnEdgeNeedsAHeadAndATail) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  write(bundles, dir.path());
  Checkpoint c = read_checkpoint(dir / "edge.h5", "edge");
  c.numbers["head_cells"] = c.numbers["tail_cells"] = 0;
  write_checkpoint(dir / "none.h5", c, true);
  EXPECT_NE(error_of([&] { read_edge_bundle(dir / "none.h5"); }).find("no head and no tail"),
            std::string::npos);
}

TEST(Bundle, SaysHowImagesAreFitted) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  for (const std::optional<ImageFit> fit :
       {std::optional<ImageFit>(), std::optional(ImageFit::kStretch),
        std::optional(ImageFit::kCrop)}) {
    bundles.cloud.info.fit = bundles.edge.info.fit = fit;
    write(bundles, dir.path());
    const BundleInfo edge = read_edge_bundle(dir / "edge.h5").info;
    EXPECT_EQ(edge.fit, fit);
    EXPECT_EQ(read_cloud_bundle(dir / "cloud.h5").info.fit, fit);
    // A bundle of a version before does not say: files were stretched, frames cropped.
    EXPECT_EQ(edge.fit_of_files(), fit.value_or(ImageFit::kStretch));
    EXPECT_EQ(edge.fit_of_frames(), fit.value_or(ImageFit::kCrop));
  }
}

TEST(Bundle, ClassNamesAreRefusedThatNoEdgeCouldRead) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  for (const char* name : {"c\now", ""}) {
    bundles.edge.class_names[3] = name;
    EXPECT_THROW(write_edge_bundle(dir / "edge.h5", bundles.edge), Error);
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "edge.h5"));
}

TEST(Bundle, EveryProtectionRoundTrips) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  const Shape feature = smashed_shape(bundles.edge.info.model, bundles.edge.info.split);
  Tensor bank = Tensor::empty({3, feature[0], feature[1], feature[2]});
  Rng(5).fill_normal(bank.span<float>(), 0, 1);
  const ProtectionStep fixed = bundles.edge.protection[0], some{"noise_bank", bank},
                       fresh{"fresh_noise", Tensor::from({2}, {1})},
                       dropout{"dropout", Tensor::from({0.3f}, {1})};
  const std::vector<ProtectionSpec> old = {{}, {fixed}, {some}, {fresh}, {dropout, some, fresh}};
  const std::vector<ProtectionSpec> others = {{fresh, dropout}, {fixed, fixed}, {dropout, dropout}};
  for (const ProtectionSpec& spec : old) {
    bundles.edge.protection = spec;
    write(bundles, dir.path());
    expect_same_protection(read_edge_bundle(dir / "edge.h5").protection, spec);
    EXPECT_EQ(read_checkpoint(dir / "edge.h5", "edge").number("format"), 2)
        << "older edges open it";
  }
  for (const ProtectionSpec& spec : others) {
    bundles.edge.protection = spec;
    write(bundles, dir.path());
    expect_same_protection(read_edge_bundle(dir / "edge.h5").protection, spec);
    EXPECT_EQ(read_checkpoint(dir / "edge.h5", "edge").number("format"), 3);
  }
  bundles.edge.protection = {{"dropout", Tensor::from({1}, {1})}};
  EXPECT_THROW(write_edge_bundle(dir / "edge.h5", bundles.edge), Error);
}

// Written in format 2, by a program that knew no other.
TEST(Bundle, OldBundlesOpen) {
  const std::filesystem::path old = std::filesystem::path(ENS_SOURCE_DIR) / "tests/ensemble/data";
  const std::map<std::string, std::vector<std::string>> steps = {
      {"none", {}},
      {"dr_single", {"dropout", "fixed_noise"}},
      {"fresh", {"dropout", "fresh_noise"}},
      {"shredder", {"noise_bank"}}};
  for (const auto& [name, expected] : steps) {
    const EdgeBundle edge = read_edge_bundle(old / (name + ".edge.h5"));
    std::vector<std::string> names;
    for (const ProtectionStep& step : edge.protection) names.push_back(step.name);
    EXPECT_EQ(names, expected) << name;
    EXPECT_EQ(edge.info.model.architecture, "he19");
    EXPECT_EQ(edge.class_names.size(), 10u);
    for (const ProtectionStep& step : edge.protection) {
      if (step.name == "dropout") {
        EXPECT_FLOAT_EQ(step.values.item(), 0.3f);
      }
      if (step.name == "fresh_noise") {
        EXPECT_FLOAT_EQ(step.values.item(), 0.1f);
      }
      if (step.name == "noise_bank") {
        EXPECT_EQ(step.values.dim(0), 2);
      }
    }
  }
  EXPECT_EQ(read_cloud_bundle(old / "none.cloud.h5").bodies.size(), 1u);
}

// Never called damaged, and nothing of it is read.
TEST(Bundle, ABundleOfANewerVersionIsNamedAsNewer) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  bundles.edge.protection = {{"fresh_noise", Tensor::from({2}, {1})},
                             {"dropout", Tensor::from({0.3f}, {1})}};
  write(bundles, dir.path());
  const auto error = [&](auto change) {
    Checkpoint changed = read_checkpoint(dir / "edge.h5", "edge");
    change(changed);
    write_checkpoint(dir / "bad.h5", changed, true);
    return error_of([&] { read_edge_bundle(dir / "bad.h5"); });
  };
  EXPECT_EQ(read_checkpoint(dir / "edge.h5", "edge").text("version"), ENSEMBLER_VERSION);
  EXPECT_EQ(read_checkpoint(dir / "cloud.h5", "cloud").text("version"), ENSEMBLER_VERSION);
  const std::string step = error([](Checkpoint& c) {
    c.texts["version"] = "9.8.7";
    c.tensors["protection/02/xyz"] = Tensor::zeros({7});
  });
  EXPECT_NE(step.find("written by a newer version, 9.8.7 (needs protection 'xyz')"),
            std::string::npos)
      << step;
  const std::string format = error([](Checkpoint& c) {
    c.texts.erase("version");  // the first bundles do not say
    c.numbers["format"] = 8;
  });
  EXPECT_NE(format.find("written by a newer version (bundle format 8)"), std::string::npos);
  for (const std::string& text : {step, format}) {
    EXPECT_EQ(text.find("damaged"), std::string::npos) << text;
    EXPECT_EQ(text.find("tensors where"), std::string::npos) << text;
    EXPECT_NE(text.find("bad.h5"), std::string::npos) << text;
  }
  EXPECT_NE(error([](Checkpoint& c) {
              c.tensors["protection/03/dropout"] = c.tensors["protection/01/dropout"];
            }).find("damaged"),
            std::string::npos);
}

TEST(Bundle, BlindedCellsReadBackAndImpossibleOnesAreRefused) {
  test::TempDir dir;
  test::Bundles bundles = test::random_bundles(3, 4, {1, 3}, 4, 1, /*head=*/2);
  const Tensor images = test::random_images(bundles.edge.info.model, 4, 1);
  blind_cells(bundles.edge, 1, images);
  test::write(bundles, dir.path());
  const EdgeBundle back = read_edge_bundle(dir / "edge.h5");
  ASSERT_TRUE(back.blinded.has_value());
  EXPECT_EQ(back.blinded->count, 1);
  EXPECT_EQ(back.head->size(), 1u);
  EXPECT_EQ(run_int8(back.blinded->net, images).to_vector(),
            run_int8(bundles.edge.blinded->net, images).to_vector());
  const Checkpoint good = read_checkpoint(dir / "edge.h5", "edge");
  const std::vector<std::function<void(Checkpoint&)>> changes = {
      [](Checkpoint& c) { c.numbers["blinded_cells"] = 0; },
      [](Checkpoint& c) { c.numbers["blinded_cells"] = 3; },
      [](Checkpoint& c) { c.numbers["blinded_cells"] = 2; },  // its layers are not there
      [](Checkpoint& c) { c.tensors.erase("steps/0001/weight"); },
      [](Checkpoint& c) { c.tensors["more"] = Tensor::zeros({1}); }};
  for (const auto& change : changes) {
    Checkpoint changed = good;
    change(changed);
    write_checkpoint(dir / "bad.h5", changed, true);
    EXPECT_THROW(read_edge_bundle(dir / "bad.h5"), Error);
  }
}

TEST(Bundle, FingerprintDependsOnEveryBodyAndTheirOrder) {
  Bundles bundles = random_bundles(1);
  const std::string before = bundles.cloud.info.fingerprint;
  std::swap(bundles.cloud.bodies[0], bundles.cloud.bodies[1]);
  EXPECT_NE(fingerprint_of(bundles.cloud.bodies), before);
  std::swap(bundles.cloud.bodies[0], bundles.cloud.bodies[1]);
  EXPECT_EQ(fingerprint_of(bundles.cloud.bodies), before);
  bundles.cloud.bodies[3]->state().back().tensor.data<float>()[0] += 1;
  EXPECT_NE(fingerprint_of(bundles.cloud.bodies), before);
}

TEST(Bundle, EdgeFileIsForItsOwnerOnly) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  const mode_t old = ::umask(0);
  write(bundles, dir.path());
  ::umask(old);
  struct stat info {};
  ASSERT_EQ(::stat((dir / "edge.h5").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

// The cloud gets the bodies and public facts: nothing else by name ...
TEST(Bundle, CloudFileHoldsNothingElse) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  write(bundles, dir.path());
  const Checkpoint file = read_checkpoint(dir / "cloud.h5", "cloud");
  std::set<std::string> texts, numbers;
  for (const auto& [name, value] : file.texts) texts.insert(name);
  for (const auto& [name, value] : file.numbers) numbers.insert(name);
  EXPECT_EQ(texts, (std::set<std::string>{"architecture", "data", "fingerprint", "mean", "stddev",
                                          "version"}));
  EXPECT_EQ(numbers,
            (std::set<std::string>{"channels", "classes", "format", "head_cells", "image_size",
                                   "nets", "stem_pool", "tail_cells", "width"}));
  size_t expected = 0;
  for (const auto& body : bundles.cloud.bodies) expected += body->state().size();
  EXPECT_EQ(file.tensors.size(), expected);
  for (const auto& [name, tensor] : file.tensors) EXPECT_EQ(name.rfind("body/", 0), 0u) << name;
}

// ... and nothing of the client's by content: no run of 8 bytes or more of a secret tensor occurs
// in it. And with another secret half the cloud's file is the same, byte for byte.
TEST(Bundle, CloudFileKnowsNothingOfTheClient) {
  const TempDir dir, other_dir;
  Bundles bundles = random_bundles(1, 4, {1, 3});
  write(bundles, dir.path());
  const std::string cloud = contents(dir / "cloud.h5");
  int looked_for = 0;
  const auto expect_absent = [&](const std::string& name, const Tensor& tensor) {
    const std::string bytes(static_cast<const char*>(tensor.raw()), tensor.bytes());
    for (size_t at = 0; at + 16 <= bytes.size(); at += 16) {
      const std::string part = bytes.substr(at, 16);
      // Constants (zeros, ones) are everywhere and tell nothing.
      if (part == std::string(part.size(), part[0]) || part.substr(0, 4) == part.substr(4, 4))
        continue;
      ++looked_for;
      ASSERT_EQ(cloud.find(part), std::string::npos) << name << " is in the cloud's file";
    }
  };
  for (const auto& entry : bundles.edge.head->state()) expect_absent(entry.name, entry.tensor);
  for (const auto& entry : bundles.edge.tail->state()) expect_absent(entry.name, entry.tensor);
  expect_absent("noise", bundles.edge.protection[0].values);
  EXPECT_GT(looked_for, 300);
  const std::string body(static_cast<const char*>(bundles.cloud.bodies[2]->state()[0].tensor.raw()),
                         16);
  EXPECT_NE(cloud.find(body), std::string::npos) << "the search itself does not work";

  Bundles other = random_bundles(1, 4, {0, 2});
  Rng rng(99);
  rng.fill_normal(other.edge.protection[0].values.span<float>(), 0, 1);
  write(other, other_dir.path());
  EXPECT_EQ(contents(other_dir / "cloud.h5"), cloud);
}

TEST(Bundle, DamageIsFoundWhereverItIs) {
  const TempDir dir;
  Bundles bundles = random_bundles(1, 2, {1}, 2);
  write(bundles, dir.path());
  for (const char* name : {"cloud.h5", "edge.h5"}) {
    const bool cloud = name[0] == 'c';
    const auto read = [&] {
      cloud ? (void)read_cloud_bundle(dir / name) : (void)read_edge_bundle(dir / name);
    };
    const std::string good = contents(dir / name);
    for (int i = 0; i < 40; ++i) {
      std::string bad = good;
      const size_t at = good.size() * static_cast<size_t>(i) / 40;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (i % 8)));
      overwrite(dir / name, bad);
      EXPECT_NE(error_of(read).find(name), std::string::npos) << "bit flipped at " << at;
    }
    for (size_t size : {size_t{0}, size_t{1}, size_t{100}, good.size() / 2, good.size() - 1}) {
      overwrite(dir / name, good.substr(0, size));
      EXPECT_NE(error_of(read).find(name), std::string::npos) << "cut to " << size;
    }
    overwrite(dir / name, good);
    EXPECT_NO_THROW(read());
  }
}

TEST(Bundle, OneForTheOtherIsRefused) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  write(bundles, dir.path());
  EXPECT_NE(error_of([&] { read_cloud_bundle(dir / "edge.h5"); }).find("edge.h5"),
            std::string::npos);
  EXPECT_NE(error_of([&] { read_edge_bundle(dir / "cloud.h5"); }).find("cloud.h5"),
            std::string::npos);
}

// Files that are sound as files, but not as bundles.
TEST(Bundle, ContentsThatDoNotFitAreRefused) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  write(bundles, dir.path());
  const Checkpoint cloud = read_checkpoint(dir / "cloud.h5", "cloud");
  const Checkpoint edge = read_checkpoint(dir / "edge.h5", "edge");
  const auto cloud_error = [&](auto change) {
    Checkpoint changed = cloud;
    change(changed);
    write_checkpoint(dir / "bad.h5", changed, false);
    return error_of([&] { read_cloud_bundle(dir / "bad.h5"); });
  };
  const auto edge_error = [&](auto change) {
    Checkpoint changed = edge;
    change(changed);
    write_checkpoint(dir / "bad.h5", changed, true);
    return error_of([&] { read_edge_bundle(dir / "bad.h5"); });
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(cloud_error([](Checkpoint& c) { c.numbers["nets"] = 5; }), "bad.h5"));
  EXPECT_TRUE(has(cloud_error([](Checkpoint& c) { c.numbers["nets"] = 1 << 19; }), "nets"));
  EXPECT_TRUE(has(cloud_error([](Checkpoint& c) { c.numbers["width"] = -1; }), "width"));
  EXPECT_TRUE(has(cloud_error([](Checkpoint& c) { c.numbers["head_cells"] = 5; }), "bad.h5"));
  EXPECT_TRUE(has(cloud_error([](Checkpoint& c) { c.numbers["format"] = 1; }), "format"));
  EXPECT_TRUE(has(cloud_error([](Checkpoint& c) { c.numbers.erase("classes"); }), "classes"));
  EXPECT_TRUE(
      has(cloud_error([](Checkpoint& c) { c.texts["mean"] = "0.5,,1"; }), "list of numbers"));
  EXPECT_TRUE(
      has(cloud_error([](Checkpoint& c) { c.texts["fingerprint"][0] ^= 1; }), "fingerprint"));
  EXPECT_TRUE(
      has(cloud_error([](Checkpoint& c) { c.texts["fingerprint"] = "xyz"; }), "fingerprint"));
  EXPECT_TRUE(has(cloud_error([](Checkpoint& c) {  // a head smuggled in
                    c.tensors["head/stem.conv.weight"] = Tensor::zeros({4, 3, 3, 3});
                    c.texts["fingerprint"] = to_hex(digest(c.tensors));
                  }),
                  "tensors where"));
  EXPECT_TRUE(
      has(edge_error([](Checkpoint& c) { c.tensors["noise"] = Tensor::zeros({1}); }), "noise"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) {
                    c.tensors["noise"] = c.tensors["noise"].clone();
                    c.tensors["noise"].data<float>()[7] = std::numeric_limits<float>::infinity();
                  }),
                  "noise"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) {
                    c.tensors["noise"] = Tensor::zeros({0, 4, 16, 16});
                  }),
                  "bad.h5"));
  for (auto [sigma, dropout] : {std::pair{-1.0f, 0.0f}, {NAN, 0.0f}, {0.0f, 1.0f}, {0.0f, -0.5f}}) {
    EXPECT_TRUE(has(edge_error([&](Checkpoint& c) {
                      c.tensors["protection"] = Tensor::from({sigma, dropout}, {2});
                    }),
                    "bad.h5"));
  }
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) { c.tensors["protection"] = Tensor::zeros({3}); }),
                  "protection"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) { c.tensors.erase("protection"); }), "protection"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) {
                    c.tensors["selector"] = Tensor::from_labels(std::vector<int32_t>{1, 9});
                  }),
                  "selector"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) { c.tensors.erase("selector"); }), "selector"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) { c.texts["class_names"] = "a\n"; }), "each class"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) { c.texts["fit"] = "squeeze"; }), "squeeze"));
  EXPECT_TRUE(has(edge_error([](Checkpoint& c) { c.tensors["extra"] = Tensor::zeros({1}); }),
                  "tensors where"));
}

TEST(Bundle, PartsHoldTheirNetsAndNoOthers) {
  const TempDir dir;
  Bundles bundles = random_bundles(1, 4);
  write(bundles, dir.path());
  EXPECT_EQ(read_cloud_bundle(dir / "cloud.h5").part, (std::vector<int>{0, 1, 2, 3}));
  write_part(dir / "part.h5", bundles.cloud, {1, 3});
  const CloudBundle part = read_cloud_bundle(dir / "part.h5");
  expect_same_info(part.info, bundles.cloud.info);
  EXPECT_EQ(part.part, (std::vector<int>{1, 3}));
  ASSERT_EQ(part.bodies.size(), 2u);
  expect_same_state(*part.bodies[0], *bundles.cloud.bodies[1]);
  expect_same_state(*part.bodies[1], *bundles.cloud.bodies[3]);
  EXPECT_LT(std::filesystem::file_size(dir / "part.h5"),
            std::filesystem::file_size(dir / "cloud.h5") * 6 / 10);

  write_part(dir / "smaller.h5", part, {3});  // a part of a part
  EXPECT_EQ(read_cloud_bundle(dir / "smaller.h5").part, std::vector<int>{3});
  EXPECT_THROW(write_part(dir / "x.h5", part, {0}), Error);
  for (const std::vector<int>& bad : {std::vector<int>{}, {4}, {-1}, {1, 1}, {2, 1}}) {
    EXPECT_THROW(write_part(dir / "x.h5", bundles.cloud, bad), Error);
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "x.h5"));
}

std::vector<std::vector<float>> some_ranges(const CloudBundle& cloud) {
  const Shape input = smashed_shape(cloud.info.model, cloud.info.split);
  std::vector<std::vector<float>> ranges;
  for (const auto& body : cloud.bodies) {
    std::vector<float>& one = ranges.emplace_back();
    for (const GraphStep& s : lower(*body, input).steps) {
      const bool layer = s.kind == GraphStep::Kind::kConv || s.kind == GraphStep::Kind::kLinear;
      if (layer) one.push_back(0.1f + static_cast<float>(ranges.size() * 100 + one.size()) / 3);
    }
  }
  return ranges;
}

TEST(Bundle, RangesTravelWithTheirNets) {
  const TempDir dir;
  Bundles bundles = random_bundles(1, 4);
  write(bundles, dir.path());
  EXPECT_TRUE(read_cloud_bundle(dir / "cloud.h5").ranges.empty());
  const std::string fingerprint = bundles.cloud.info.fingerprint;

  const auto ranges = some_ranges(bundles.cloud);
  ASSERT_GT(ranges[0].size(), 10u);
  bundles.cloud.ranges = ranges;
  write_cloud_bundle(dir / "cloud.h5", bundles.cloud);
  const CloudBundle cloud = read_cloud_bundle(dir / "cloud.h5");
  EXPECT_EQ(cloud.ranges, ranges);
  EXPECT_EQ(cloud.info.fingerprint, fingerprint) << "edges would have to be given new bundles";
  for (size_t i = 0; i < 4; ++i) expect_same_state(*cloud.bodies[i], *bundles.cloud.bodies[i]);

  write_part(dir / "part.h5", cloud, {1, 3});
  const CloudBundle part = read_cloud_bundle(dir / "part.h5");
  EXPECT_EQ(part.ranges, (std::vector{ranges[1], ranges[3]}));
  write_part(dir / "smaller.h5", part, {3});
  EXPECT_EQ(read_cloud_bundle(dir / "smaller.h5").ranges,
            (std::vector<std::vector<float>>{ranges[3]}));
}

TEST(Bundle, RangesThatDoNotFitAreRefused) {
  const TempDir dir;
  Bundles bundles = random_bundles(1, 2, {1});
  bundles.cloud.ranges = some_ranges(bundles.cloud);
  write(bundles, dir.path());
  const Checkpoint good = read_checkpoint(dir / "cloud.h5", "cloud");
  const std::string text = good.text("ranges/0001"), rest = text.substr(text.find(','));
  for (const std::string& bad :
       {std::string(), text + ",1", rest.substr(1), "0" + rest, "-1" + rest, "nan" + rest,
        "inf" + rest, "1e-42" + rest, "x" + rest, "1," + rest}) {
    Checkpoint changed = good;
    changed.texts["ranges/0001"] = bad;
    write_checkpoint(dir / "bad.h5", changed, false);
    EXPECT_NE(error_of([&] { read_cloud_bundle(dir / "bad.h5"); }).find("bad.h5"),
              std::string::npos)
        << bad;
  }
  for (const char* gone : {"ranges/0000", "ranges/0001"}) {
    Checkpoint changed = good;
    changed.texts.erase(gone);
    write_checkpoint(dir / "bad.h5", changed, false);
    EXPECT_NE(error_of([&] { read_cloud_bundle(dir / "bad.h5"); }).find(gone), std::string::npos);
  }
}

TEST(Bundle, WritingNeedsAsManyBodiesAsItSays) {
  const TempDir dir;
  Bundles bundles = random_bundles(1);
  bundles.cloud.info.nets = 5;
  EXPECT_THROW(write_cloud_bundle(dir / "cloud.h5", bundles.cloud), Error);
}

}  // namespace
}  // namespace ens
