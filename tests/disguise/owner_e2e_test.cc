// SPDX-License-Identifier: Apache-2.0
// The owner's commands, as a user gives them.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "base/files.h"
#include "base/process.h"
#include "disguise/key/key.h"
#include "disguise/set/set.h"
#include "nn/data/image.h"
#include "tests/support/temp_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

struct Outcome {
  int code = 0;
  std::string text;  // standard output and error
};

class OwnersCommands : public ::testing::Test {
 protected:
  Outcome run(std::vector<std::string> words) const {
    words.insert(words.begin(), {ENS_BIN_DIR "/ensembler", "disguise"});
    const fs::path out = folder_ / "out", err = folder_ / "err";
    Process process(words, {.out_file = out, .err_file = err, .no_input = true});
    Outcome outcome;
    outcome.code = process.wait();
    outcome.text = read_file(out) + read_file(err);
    return outcome;
  }
  std::string path(const char* name) const { return folder_ / name; }
  Outcome keygen(const std::string& out,
                 const std::vector<std::string>& settings = {"disguise.method=rmt"}) const {
    std::vector<std::string> words{"keygen", "--data-set", "shapes", "--out", out};
    for (const std::string& setting : settings) words.insert(words.end(), {"--set", setting});
    return run(words);
  }
  Outcome apply(const std::string& key, const std::string& out,
                const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"apply",
                                   "--key",
                                   key,
                                   "--data-set",
                                   "shapes",
                                   "--set",
                                   "data.train_limit=600",
                                   "--set",
                                   "data.test_limit=100",
                                   "--out",
                                   out};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }

  test::TempDir folder_;
};

TEST_F(OwnersCommands, RotateMakesAnotherKeyOfTheSameMethodAndASetUnderIt) {
  ASSERT_EQ(keygen(path("old.key"), {"disguise.method=rmt", "disguise.rmt.block=2x2"}).code, 0);
  const auto rotate = [&](const char* new_key, const char* set,
                          const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {
        "rotate", "--key", path("old.key"),        "--new-key", path(new_key), "--data-set",
        "shapes", "--set", "data.train_limit=300", "--out",     path(set)};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  const Outcome done = rotate("new.key", "train.h5");
  ASSERT_EQ(done.code, 0) << done.text;
  const DisguiseKey before = DisguiseKey::read(path("old.key"));
  const DisguiseKey after = DisguiseKey::read(path("new.key"));
  EXPECT_NE(after.id(), before.id());
  EXPECT_EQ(after.settings().SerializeAsString(), before.settings().SerializeAsString());
  EXPECT_EQ(DisguisedSetReader(path("train.h5")).info().key_id, after.id());
  EXPECT_NE(done.text.find("trained under key " + before.id()), std::string::npos) << done.text;
  // Neither key nor set is written over.
  EXPECT_NE(rotate("new.key", "other.h5").code, 0);
  EXPECT_NE(rotate("other.key", "train.h5").code, 0);
  EXPECT_FALSE(fs::exists(path("other.key")));
}

// A key that follows from a seed follows from it again.
TEST_F(OwnersCommands, RotateNeedsAnotherSeedWhereTheSeedIsTheKey) {
  const std::vector<std::string> seeded = {"disguise.method=rmt",
                                           "disguise.insecure_seeded_secrets=true"};
  ASSERT_EQ(keygen(path("old.key"), seeded).code, 0);
  const Outcome same = run({"rotate", "--key", path("old.key"), "--new-key", path("new.key"),
                            "--data-set", "shapes", "--out", path("train.h5")});
  EXPECT_NE(same.code, 0);
  EXPECT_NE(same.text.find("--set seed="), std::string::npos) << same.text;
  EXPECT_FALSE(fs::exists(path("new.key")));
}

TEST_F(OwnersCommands, FromAKeyToPictures) {
  const Outcome made = keygen(path("owner.key"));
  ASSERT_EQ(made.code, 0) << made.text;
  struct stat info {};
  ASSERT_EQ(::stat(path("owner.key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  const std::string id = DisguiseKey::read(path("owner.key")).id();
  EXPECT_NE(made.text.find(id), std::string::npos);

  const Outcome applied = apply(path("owner.key"), path("train.h5"), {"--test", path("test.h5")});
  ASSERT_EQ(applied.code, 0) << applied.text;
  const DisguisedSetReader train(path("train.h5")), test(path("test.h5"));
  EXPECT_EQ(train.info().rows, 480) << "a fifth is set aside for attackers";
  EXPECT_NE(applied.text.find("120 training images are not in it"), std::string::npos)
      << applied.text;
  EXPECT_EQ(test.info().rows, 100);
  EXPECT_EQ(train.info().key_id, id);
  EXPECT_EQ(test.info().key_id, id);
  EXPECT_EQ(test.info().split, "test");
  EXPECT_NE(train.info().set_id, test.info().set_id);

  const Outcome seen = run({"inspect", path("train.h5"), "--out", path("seen.png")});
  ASSERT_EQ(seen.code, 0) << seen.text;
  for (const std::string& fact :
       {id, train.info().set_id, std::string("480 rows of [3, 32, 32] float16"),
        std::string("block: \"4x4\"")}) {
    EXPECT_NE(seen.text.find(fact), std::string::npos) << fact << "\n" << seen.text;
  }
  EXPECT_EQ(read_image(path("seen.png"), 3, 0, 0).dim(0), 3);

  const Outcome shown = run({"show", "--key", path("owner.key"), "--data-set", "shapes", "--count",
                             "3", "--out", path("look.png")});
  ASSERT_EQ(shown.code, 0) << shown.text;
  const Tensor look = read_image(path("look.png"), 3, 0,
                                 0);  // 2 columns of 3 images of 32 pixels, 8 times as large
  EXPECT_EQ(look.shape(), (Shape{3, 8 * (3 * 33 - 1), 8 * (2 * 33 - 1)}));
}

TEST_F(OwnersCommands, WhatCannotBeIsSaidInOneLine) {
  const auto refused = [](const Outcome& outcome, const std::string& why) {
    EXPECT_NE(outcome.code, 0);
    EXPECT_NE(outcome.text.find(why), std::string::npos) << outcome.text;
    EXPECT_EQ(std::ranges::count(outcome.text, '\n'), 1) << outcome.text;
  };
  refused(keygen(path("none.key"), {}), "no method is chosen");
  refused(keygen(path("large.key"),
                 {"disguise.method=rmt", "disguise.rmt.block=28x28", "data.image_size=16"}),
          "does not fit");
  EXPECT_FALSE(fs::exists(path("large.key")));
  ASSERT_EQ(keygen(path("owner.key")).code, 0);
  refused(keygen(path("owner.key")), "already");
  refused(keygen(path("absent/owner.key")), "absent");
  refused(apply(path("owner.key"), path("t.h5"), {"--set", "disguise.method=aes"}),
          "the key is for rmt");
  refused(apply(path("owner.key"), path("t.h5"), {"--set", "data.image_size=16"}), "[3, 16, 16]");
  refused(apply(path("t.h5"), path("t.h5")), "t.h5");
  ASSERT_EQ(apply(path("owner.key"), path("train.h5")).code, 0);
  const std::string before = read_file(path("train.h5"));
  refused(apply(path("owner.key"), path("train.h5")), "already");
  refused(apply(path("owner.key"), path("t.h5"), {"--test", path("train.h5")}), "already");
  EXPECT_FALSE(fs::exists(path("t.h5")));
  EXPECT_EQ(read_file(path("train.h5")), before);
  refused(run({"inspect", path("owner.key")}), "'disguise-key' file");
  refused(apply(path("train.h5"), path("t.h5")), "chmod 600");
  fs::permissions(path("owner.key"), static_cast<fs::perms>(0644));
  refused(apply(path("owner.key"), path("t.h5")), "chmod 600");
}

TEST_F(OwnersCommands, InsecureSecretsAreSaidAloud) {
  const Outcome made =
      keygen(path("owner.key"),
             {"disguise.method=rmt", "disguise.insecure_seeded_secrets=true", "seed=5"});
  ASSERT_EQ(made.code, 0);
  EXPECT_NE(made.text.find("follows from seed 5"), std::string::npos) << made.text;
  ASSERT_EQ(apply(path("owner.key"), path("train.h5")).code, 0);
  EXPECT_NE(run({"inspect", path("train.h5")}).text.find("MARKED: insecure_seeded_secrets"),
            std::string::npos);
}

// Killed at several moments: there is never a file of that name that is not whole.
TEST_F(OwnersCommands, KilledWhileApplyingThereIsNoSet) {
  ASSERT_EQ(keygen(path("owner.key"), {"disguise.method=noise"}).code, 0);
  int killed = 0;
  for (int i = 0; i < 4; ++i) {
    Process process(
        {ENS_BIN_DIR "/ensembler", "disguise", "apply", "--key", path("owner.key"), "--data-set",
         "shapes", "--set", "data.train_limit=20000", "--out", path("train.h5")},
        {.out_file = path("out"), .err_file = path("err"), .no_input = true});
    const auto begun = [&] {  // the temporary file has something
      for (const auto& entry : fs::directory_iterator(folder_.path())) {
        std::error_code gone;
        if (entry.path().extension() == ".tmp" &&
            fs::file_size(entry, gone) > static_cast<size_t>(i) << 22)
          return true;
      }
      return false;
    };
    while (process.running() && !begun()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    process.signal(SIGKILL);
    killed += process.wait() == 128 + SIGKILL;
    if (fs::exists(path("train.h5"))) {
      EXPECT_EQ(DisguisedSetReader(path("train.h5")).info().rows, 16000);
      fs::remove(path("train.h5"));
    }
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      if (entry.path().extension() == ".tmp") fs::remove(entry);
    }
  }
  EXPECT_GE(killed, 2);
}

}  // namespace
}  // namespace ens
