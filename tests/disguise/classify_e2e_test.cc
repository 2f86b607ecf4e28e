// SPDX-License-Identifier: Apache-2.0
// From images to answers: the owner's key and sets, the cloud's training, and the owner's queries,
// on this machine and over the wire.
#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <csignal>
#include <filesystem>

#include "base/files.h"
#include "nn/data/image.h"
#include "tests/edge/process.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::Process;

class DisguisedAnswers : public ::testing::Test {
 protected:
  struct Outcome {
    int code = 0;
    std::string text;  // standard output and error
  };
  Outcome run(std::vector<std::string> words) {
    words.insert(words.begin(), {ENS_BIN_DIR "/ensembler", "disguise"});
    Process process(words, folder_ / ("run" + std::to_string(++started_)));
    Outcome outcome;
    outcome.code = process.wait(std::chrono::minutes(5));
    outcome.text = process.out() + process.err();
    return outcome;
  }
  std::string path(const std::string& name) const { return folder_ / name; }
  Outcome keygen(const std::string& key, const std::string& method) {
    return run({"keygen", "--data-set", "shapes", "--set", "disguise.method=" + method, "--set",
                "disguise.permute_labels=true", "--set", "disguise.rmt.share=all", "--set",
                "disguise.rmt.block=2x2", "--set", "disguise.neuracrypt.width=32", "--set",
                "disguise.neuracrypt.depth=1", "--out", path(key)});
  }
  // A key, both sets, and a model of this method, all in files named after it. The test accuracy
  // that the cloud saw, in percent.
  double train(const std::string& method, const std::string& epochs = "6") {
    const std::vector<Outcome> steps = {
        keygen(method + ".key", method),
        run({"apply", "--key", path(method + ".key"), "--data-set", "shapes", "--set",
             "data.train_limit=2000", "--set", "data.public_images=0", "--set",
             "data.test_limit=" + std::to_string(kTest), "--out", path(method + ".h5"), "--test",
             path(method + "-test.h5")}),
        run({"train",
             path(method + ".h5"),
             "--test",
             path(method + "-test.h5"),
             "--out",
             path(method),
             "--set",
             std::string("model.architecture=") + (method == "neuracrypt" ? "vit" : "lenet"),
             "--set",
             "model.width=8",
             "--set",
             "stage1.epochs=" + epochs,
             "--set",
             "stage1.optimizer=adamw",
             "--set",
             "stage1.lr=0.002",
             "--set",
             "stage1.batch=32",
             "--set",
             "device=cpu"})};
    for (const Outcome& step : steps) EXPECT_EQ(step.code, 0) << step.text;
    return accuracy_in(steps[2].text);
  }
  static double accuracy_in(const std::string& text) {
    const size_t at = text.find("accuracy ");
    EXPECT_NE(at, std::string::npos) << text;
    return at == std::string::npos ? -1 : std::stod(text.substr(at + 9));
  }
  Outcome classify(const std::string& key, const std::string& method,
                   const std::vector<std::string>& what) {
    std::vector<std::string> words{"classify", "--key", path(key), "--model",
                                   path(method) + "/model.h5"};
    words.insert(words.end(), what.begin(), what.end());
    return run(words);
  }
  std::vector<std::string> test_images() const {
    return {"--data-set", "shapes", "--set", "data.test_limit=" + std::to_string(kTest)};
  }

  static constexpr int kTest = 500;
  test::TempDir folder_;
  int started_ = 0;
};

TEST_F(DisguisedAnswers, AreTheSameHereAndOverTheWire) {
  const double seen_by_cloud = train("rmt");
  EXPECT_GT(seen_by_cloud, 18) << "chance is 10 %, and with an unlucky key little is learnt";
  const Outcome here = classify("rmt.key", "rmt", test_images());
  ASSERT_EQ(here.code, 0) << here.text;
  EXPECT_NEAR(accuracy_in(here.text), seen_by_cloud, 1);  // the set's rows are rounded to float16

  Process cloud({ENS_BIN_DIR "/ensembler-cloud", "--bundle", path("rmt") + "/model.h5", "--bind",
                 "tcp://127.0.0.1:*", "--ready-file", path("ready"), "--threads", "1", "--set",
                 "dtype=float32"},
                path("cloud"));
  const std::string address = wait_for_file(path("ready"), cloud);
  ASSERT_TRUE(address.starts_with("tcp://")) << cloud.err();
  // Another key is refused before anything is sent.
  ASSERT_EQ(keygen("other.key", "rmt").code, 0);
  const Outcome refused =
      classify("other.key", "rmt", {"--data-set", "shapes", "--remote", address});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.text.find("nothing was sent"), std::string::npos) << refused.text;

  write_png(path("grey.png"), Tensor::full({3, 32, 32}, 0.5f));
  const Outcome one_here = classify("rmt.key", "rmt", {path("grey.png")});
  const Outcome one_there = classify("rmt.key", "rmt", {path("grey.png"), "--remote", address});
  EXPECT_EQ(one_here.code, 0) << one_here.text;
  const auto without_digits = [](std::string text) {  // the last one may be rounded differently
    std::erase_if(text, [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; });
    return text;
  };
  EXPECT_EQ(without_digits(one_here.text), without_digits(one_there.text));
  std::vector<std::string> words = test_images();
  words.insert(words.end(), {"--remote", address});
  const Outcome there = classify("rmt.key", "rmt", words);
  ASSERT_EQ(there.code, 0) << there.text;
  EXPECT_NEAR(accuracy_in(there.text), accuracy_in(here.text), 0.41);

  cloud.signal(SIGTERM);
  EXPECT_EQ(cloud.wait(), 0);
  const Outcome gone = classify("rmt.key", "rmt", {path("grey.png"), "--remote", address});
  EXPECT_EQ(gone.code, 1);
  EXPECT_NE(gone.text.find("UNAVAILABLE"), std::string::npos) << gone.text;
}

// A vision transformer of codes, whose order is another one whenever an image is sent.
TEST_F(DisguisedAnswers, CodesOfNeuracryptAreServedToo) {
  const double seen_by_cloud = train("neuracrypt", "2");
  const Outcome here = classify("neuracrypt.key", "neuracrypt", test_images());
  ASSERT_EQ(here.code, 0) << here.text;
  EXPECT_NEAR(accuracy_in(here.text), seen_by_cloud, 1);
  Process cloud({ENS_BIN_DIR "/ensembler-cloud", "--bundle", path("neuracrypt") + "/model.h5",
                 "--bind", "tcp://127.0.0.1:*", "--ready-file", path("ready"), "--threads", "1",
                 "--set", "dtype=float32"},
                path("cloud"));
  const std::string address = wait_for_file(path("ready"), cloud);
  ASSERT_TRUE(address.starts_with("tcp://")) << cloud.err();
  std::vector<std::string> words = test_images();
  words.insert(words.end(), {"--remote", address});
  const Outcome there = classify("neuracrypt.key", "neuracrypt", words);
  ASSERT_EQ(there.code, 0) << there.text;
  EXPECT_NEAR(accuracy_in(there.text), accuracy_in(here.text), 0.41);
  write_png(path("grey.png"), Tensor::full({3, 32, 32}, 0.5f));
  const auto without_digits = [](std::string text) {  // the last one may be rounded differently
    std::erase_if(text, [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; });
    return text;
  };
  const Outcome one_here = classify("neuracrypt.key", "neuracrypt", {path("grey.png")});
  EXPECT_EQ(one_here.code, 0);
  EXPECT_EQ(
      without_digits(one_here.text),
      without_digits(
          classify("neuracrypt.key", "neuracrypt", {path("grey.png"), "--remote", address}).text));
  cloud.signal(SIGTERM);
  EXPECT_EQ(cloud.wait(), 0);
  // A classifier of pictures cannot read them.
  const Outcome pictures = run({"train", path("neuracrypt.h5"), "--out", path("lenet"), "--set",
                                "model.architecture=lenet", "--set", "device=cpu"});
  EXPECT_EQ(pictures.code, 2);
  EXPECT_NE(pictures.text.find("use vit"), std::string::npos) << pictures.text;
  // The owner sees what becomes of her images; the cloud, what it has.
  EXPECT_EQ(run({"show", "--key", path("neuracrypt.key"), "--data-set", "shapes", "--count", "2",
                 "--out", path("show.png")})
                .code,
            0);
  const Outcome seen = run({"inspect", path("neuracrypt.h5"), "--out", path("seen.png")});
  EXPECT_EQ(seen.code, 0);
  EXPECT_NE(seen.text.find("[64, 32] float16"), std::string::npos) << seen.text;
}

TEST_F(DisguisedAnswers, WhatCannotBeClassifiedIsNamed) {
  train("identity", "1");
  write_png(path("good.png"), Tensor::full({3, 32, 32}, 0.5f));
  write_png(path("large.png"), Tensor::full({3, 48, 48}, 0.5f));
  const Outcome some = classify("identity.key", "identity",
                                {path("large.png"), path("absent.png"), path("good.png")});
  EXPECT_EQ(some.code, 1);
  EXPECT_NE(some.text.find("--resize"), std::string::npos) << some.text;
  EXPECT_NE(some.text.find("absent.png"), std::string::npos) << some.text;
  EXPECT_NE(some.text.find("good.png\n"), std::string::npos) << some.text;
  EXPECT_NE(some.text.find("2 of 3 images could not be read"), std::string::npos) << some.text;
  EXPECT_EQ(classify("identity.key", "identity", {path("large.png"), "--resize"}).code, 0);
  EXPECT_EQ(classify("identity.key", "identity", {}).code, 2);
  EXPECT_NE(run({"classify", "--key", path("identity.key"), "--model", path("identity.h5"),
                 path("good.png")})
                .code,
            0);
}

// The controls, trained alike: what everybody can read is learnt, and what nobody can read is not.
TEST_F(DisguisedAnswers, IdentityIsLearntAndAesCtrIsAtChance) {
  const auto accuracy = [&](const std::string& method) {
    train(method);
    const Outcome outcome = classify(method + ".key", method, test_images());
    EXPECT_EQ(outcome.code, 0) << outcome.text;
    return accuracy_in(outcome.text);
  };
  const double interval =
      100 * 4.5 * std::sqrt(0.1 * 0.9 / kTest);  // left seven times in a million
  EXPECT_GT(accuracy("identity"), 40);
  EXPECT_NEAR(accuracy("aesctr"), 10, interval);
}

}  // namespace
}  // namespace ens
