#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "nn/data/dataset.h"
#include "nn/data/image.h"
#include "tests/nn/data/files.h"

namespace ens {
namespace {

using namespace test;

// A flat colour picture whose red is `red`; 6 high, 9 wide.
void picture(const fs::path& file, int red) {
  fs::create_directories(file.parent_path());
  Tensor image = Tensor::zeros({3, 6, 9});
  std::fill_n(image.data<float>(), 54, static_cast<float>(red) / 255.0f);
  write_png(file, image);
}

class Folder : public testing::Test {
 protected:
  Dataset load(DataSplit split) { return load_dataset(options, split); }
  Caught error(DataSplit split = DataSplit::kTrain) {
    return caught([&] { load(split); });
  }
  // The red values tell which pictures are in a split.
  static std::vector<int> reds(const Dataset& data) {
    std::vector<int> out;
    for (int64_t i = 0; i < data.count(); ++i) out.push_back(data.pixels[i * data.image_size()]);
    return out;
  }
  TempDir dir;
  fs::path folder = dir / "set";
  DataOptions options = [this] {
    DataOptions o;
    o.name = "folder:" + folder.string();
    o.image_size = 4;
    return o;
  }();
};

TEST_F(Folder, CsvWithSplitColumnAndNumericLabels) {
  for (int i = 0; i < 4; ++i) picture(folder / ("p" + std::to_string(i) + ".png"), i * 10);
  write_text(folder / "labels.csv",
             "\xef\xbb\xbf"
             "file,split,age,name\r\n"
             "p0.png,train,10,old\r\np1.png,train,9,young\r\n"
             "p2.png,test,9,young\r\np3.png,test,10,old\r\n\r\n");
  const Dataset train = load(DataSplit::kTrain), test = load(DataSplit::kTest);
  EXPECT_EQ(reds(train), (std::vector<int>{0, 10}));
  EXPECT_EQ(reds(test), (std::vector<int>{20, 30}));
  EXPECT_EQ(train.labels, (std::vector<int32_t>{1, 0}));  // 9 before 10: numbers, not text
  EXPECT_EQ(test.labels, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(train.class_names, (std::vector<std::string>{"young", "old"}));
  EXPECT_EQ(train.channels, 3);
  EXPECT_EQ(train.height, 4);
  EXPECT_EQ(train.width, 4);
  EXPECT_NEAR(test.mean[0], 5.0 / 255, 1e-6);
  EXPECT_NEAR(test.stddev[0], 5.0 / 255, 1e-6);
  EXPECT_NEAR(test.stddev[1], 1.0 / 255, 1e-6);  // constant channel: safe to divide by
}

TEST_F(Folder, CsvWithImagesSubfolderAndChosenColumn) {
  for (int i = 0; i < 40; ++i) picture(folder / "images" / (std::to_string(i) + ".png"), i);
  std::string csv = "file,identity,Smiling\n";
  for (int i = 0; i < 40; ++i) {
    csv += std::to_string(i) + ".png," + std::to_string(i / 2) + "," + std::to_string(i % 2) + "\n";
  }
  write_text(folder / "labels.csv", csv);
  EXPECT_EQ(load(DataSplit::kTrain).class_names.size(), 20u);  // identity is the default
  options.label_column = "Smiling";
  const Dataset train = load(DataSplit::kTrain), test = load(DataSplit::kTest);
  EXPECT_EQ(train.class_names, (std::vector<std::string>{"Smiling=0", "Smiling=1"}));
  for (int64_t i = 0; i < train.count(); ++i) EXPECT_EQ(train.labels[i], reds(train)[i] % 2);

  // Split by file name: together all, nothing twice, about 80/20, another for another seed.
  std::vector<int> all = reds(train);
  const std::vector<int> held_out = reds(test);
  all.insert(all.end(), held_out.begin(), held_out.end());
  EXPECT_EQ(all.size(), 40u);
  EXPECT_EQ(std::set<int>(all.begin(), all.end()).size(), 40u);
  EXPECT_GT(held_out.size(), 1u);
  EXPECT_LT(held_out.size(), 18u);
  EXPECT_EQ(reds(load(DataSplit::kTest)), held_out);
  options.seed = 2;
  EXPECT_NE(reds(load(DataSplit::kTest)), held_out);
  options.limit = 1;
  EXPECT_EQ(load(DataSplit::kTest).count(), 1);

  options.label_column = "Smilin";
  const Caught wrong = error();
  EXPECT_EQ(wrong.kind, Error::Kind::kUsage);
  EXPECT_TRUE(wrong.has("choose one of identity, Smiling")) << wrong.text;
}

TEST_F(Folder, CsvPathsInTrainAndValAreTheSplit) {
  std::string csv = "file,class,wnid,name\n";
  for (int i = 0; i < 4; ++i) {
    const std::string file = (i < 3 ? "train/a" : "val/b") + std::to_string(i) + ".png";
    picture(folder / file, i);
    csv += file + "," + std::to_string(i % 2) + (i % 2 ? ",n02,\"fish, gold\"\n" : ",n01,bear\n");
  }
  write_text(folder / "labels.csv", csv);
  EXPECT_EQ(reds(load(DataSplit::kTrain)), (std::vector<int>{0, 1, 2}));
  const Dataset test = load(DataSplit::kTest);
  EXPECT_EQ(reds(test), (std::vector<int>{3}));
  EXPECT_EQ(test.class_names, (std::vector<std::string>{"bear", "fish, gold"}));
}

TEST_F(Folder, SubfoldersAreClasses) {
  for (int i = 0; i < 12; ++i) {
    picture(folder / (i % 3 ? "dog" : "cat") / (std::to_string(i) + ".png"), i);
  }
  EXPECT_TRUE(dataset_present(options));
  const Dataset train = load(DataSplit::kTrain);
  EXPECT_EQ(train.class_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(train.count() + load(DataSplit::kTest).count(), 12);
  for (int64_t i = 0; i < train.count(); ++i) {
    EXPECT_EQ(train.labels[i], reds(train)[i] % 3 ? 1 : 0);
  }
}

TEST_F(Folder, TrainAndTestSubfolders) {
  picture(folder / "train" / "a" / "0.png", 1);
  picture(folder / "train" / "b" / "0.png", 2);
  picture(folder / "test" / "b" / "0.png", 3);
  picture(folder / "val" / "b" / "0.png", 4);  // neither, as there is a test folder
  EXPECT_EQ(reds(load(DataSplit::kTrain)), (std::vector<int>{1, 2}));
  const Dataset test = load(DataSplit::kTest);
  EXPECT_EQ(reds(test), (std::vector<int>{3}));
  EXPECT_EQ(test.labels, (std::vector<int32_t>{1}));
}

TEST_F(Folder, IsFoundInTheDataRoot) {
  picture(folder / "a" / "0.png", 1);
  picture(folder / "b" / "0.png", 2);
  options.name = "folder:set";
  EXPECT_FALSE(dataset_present(options));
  options.root = dir.path();
  EXPECT_TRUE(dataset_present(options));
}

TEST_F(Folder, SaysWhatIsWrong) {
  EXPECT_FALSE(dataset_present(options));
  EXPECT_TRUE(error().has("no such folder"));
  fs::create_directories(folder);
  EXPECT_FALSE(dataset_present(options));
  EXPECT_TRUE(error().has("no labels.csv and no class subfolders"));
  const fs::path csv = folder / "labels.csv";
  const auto says = [&](const std::string& text, const std::string& part) {
    write_text(csv, text);
    const Caught e = error();
    EXPECT_TRUE(e.has(part) && e.has(folder.string())) << e.text;
  };
  says("", "empty");
  says("file\nx.png\n", "no label column");
  says("file,label\n", "lists no picture");
  says("file,label\nx.png\n", "labels.csv:2");
  says("file,label\nx.png,1\nx.png,\n", "labels.csv:3");
  says("file,label\n,1\n", "names no picture");
  says("file,label\nx.png,1\ny.png,1\n", "one label \"1\"");
  says("file,label,split\nx.png,1,trian\n", "\"trian\" in column split");
  says("file,label,split\nx.png,1,train\ny.png,2,train\n", "picture is missing");
  says("file,label,split\nx.png,1,train\ny.png,2,train\n", "remove line 2");
  write_text(folder / "x.png", "no picture");
  says("file,label,split\nx.png,1,train\ny.png,2,train\n", "not a picture");
  picture(folder / "x.png", 1);
  picture(folder / "y.png", 1);
  EXPECT_EQ(load(DataSplit::kTrain).count(), 2);
  EXPECT_TRUE(error(DataSplit::kTest).has("no picture is in the test split"));
}

class Labels : public Folder {
 protected:
  void SetUp() override {
    for (const char* name : {"a.png", "b.png", "c.png", "d.png"}) picture(folder / name, name[0]);
  }
  // The training split of such a labels.csv, of the four pictures unless it says otherwise.
  Dataset with(const std::string& csv) {
    write_text(folder / "labels.csv", csv);
    return load(DataSplit::kTrain);
  }
  std::string refusal(const std::string& csv) {
    return caught([&] { with(csv); }).text;
  }
  static bool says(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
  static std::string joined(const Dataset& data) {
    std::string all;
    for (const std::string& warning : data.warnings) all += warning + "\n";
    return all;
  }
};

TEST_F(Labels, APictureWithTwoLabelsIsRefusedWithBothLines) {
  const std::string text = refusal("file,label\na.png,cat\nb.png,dog\n./a.png,dog\n");
  EXPECT_TRUE(says(text, "\"cat\" in line 2 and \"dog\" in line 4")) << text;
  fs::create_directories(folder / "images");
  fs::rename(folder / "a.png", folder / "images" / "a.png");
  EXPECT_TRUE(says(refusal("file,label\na.png,cat\nb.png,dog\nimages/a.png,dog\n"), "line 4"));
}

TEST_F(Labels, RepeatedPicturesAreCounted) {
  const Dataset data =
      with("file,label,split\na.png,cat,train\na.png,cat,train\nb.png,dog,train\nb.png,dog,test\n");
  EXPECT_TRUE(says(joined(data), "2 of 4 lines repeat a picture; 1 of them in another split"))
      << joined(data);
  EXPECT_EQ(data.head(1).warnings, data.warnings);
  EXPECT_EQ(joined(with("file,label,split\na.png,cat,train\nb.png,dog,train\n")), "");
}

TEST_F(Labels, SplitColumnsAreFoundInAnyCase) {
  for (const char* csv : {"file,label,Split\na.png,1,TRAIN\nb.png,2, Train\nc.png,2,Test\n",
                          "file,Train,label\na.png,True,1\nb.png,TRUE,2\nc.png,False,2\n",
                          "file,label,train\na.png,1,1\nb.png,2,yes\nc.png,2,0\n"}) {
    EXPECT_EQ(reds(with(csv)), (std::vector<int>{'a', 'b'})) << csv;
    EXPECT_EQ(reds(load(DataSplit::kTest)), (std::vector<int>{'c'})) << csv;
  }
}

TEST_F(Labels, ColumnsWithoutUseAreNamed) {
  const Dataset data = with(
      "file,Label,subset,name\na.png,1,train,cat\nb.png,2,train,dog\nc.png,1,test,cat\n"
      "d.png,2,test,dog\n");
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_TRUE(says(joined(data), "the column \"Label\"; not used: \"subset\" (the split"))
      << joined(data);
  std::string header = "file,label", row;
  for (int i = 0; i < 40; ++i) {
    header += ",attribute" + std::to_string(i);
    row += ",0";
  }
  EXPECT_TRUE(says(joined(with(header + "\na.png,x" + row + "\nb.png,y" + row + "\n")),
                   "\"attribute7\", 32 more"));
}

TEST_F(Labels, WhiteSpaceAroundLabelsDoesNotCount) {
  const Dataset data = with(
      "file, label ,split\na.png,cat ,train\nb.png, cat,train\nc.png,\"dog \",train\n"
      "d.png , \"dog\" ,train\n");
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(data.count(), 4);
}

TEST_F(Labels, LinesEndInAnyWay) {
  for (const std::string end : {"\n", "\r\n", "\r"}) {
    const std::string csv =
        "file,label,split" + end + "a.png,x,train" + end + end + "b.png,y,train" + end;
    EXPECT_EQ(reds(with(csv)), (std::vector<int>{'a', 'b'}));
    EXPECT_TRUE(says(refusal("file,label" + end + "a.png" + end), "labels.csv:2"));
  }
}

TEST_F(Labels, DamagedLinesAreRefusedWithTheirNumber) {
  const auto refused = [&](const std::string& line, const std::string& why) {
    const std::string text = refusal("file,label\nb.png,dog\n" + line + "\nc.png,cow\n");
    EXPECT_TRUE(says(text, why) && says(text, "labels.csv:3")) << text;
  };
  refused(std::string("a.png\0.txt,cat", 15), "NUL");
  refused(std::string("a.png,c\0at", 10), "NUL");
  refused("a.png,\"cat", "not closed");
  refused("\"a.png,cat", "not closed");
  refused("a.png,\"cat\"s", "closing quote");
  refused("../a.png,cat", "not inside the folder");
  refused("x/../../a.png,cat", "not inside the folder");
  refused("/etc/hostname,cat", "not inside the folder");
  refused("a.png,c\tat", "control character");
}

TEST_F(Folder, ClassesWithoutPicturesAreNamed) {
  picture(folder / "cat" / "0.png", 1);
  picture(folder / "dog" / "0.png", 2);
  picture(folder / "dog" / "1.png", 2);
  for (const char* name : {"ant", "__MACOSX", ".git"}) fs::create_directories(folder / name);
  options.seed = 3;
  DataSplit split = DataSplit::kTrain;
  Dataset data;
  for (; options.seed < 50; ++options.seed) {  // until a cat or two dogs are not in the training
    try {
      data = load(split);
    } catch (const Error&) {
      continue;
    }
    if (data.warnings.size() == 2) break;
  }
  ASSERT_EQ(data.warnings.size(), 2u);
  EXPECT_NE(data.warnings[0].find("ant: holds no picture"), std::string::npos);
  EXPECT_NE(data.warnings[1].find("no training picture of "), std::string::npos);
  EXPECT_EQ(data.class_names, (std::vector<std::string>{"cat", "dog"}));
}

TEST_F(Folder, WhatSystemsLeaveBehindIsLeftOut) {
  picture(folder / "cat" / "0.png", 1);
  picture(folder / "dog" / "0.png", 2);
  write_file(folder / "cat" / "._0.png", {0, 5, 22, 7});
  write_file(folder / "dog" / ".DS_Store", {0});
  write_file(folder / "__MACOSX" / "cat" / "._0.png", {0, 5, 22, 7});
  int64_t count = 0;
  for (const DataSplit split : {DataSplit::kTrain, DataSplit::kTest}) {
    try {
      count += load(split).count();
    } catch (const Error& e) {  // two pictures may be in one split
      EXPECT_NE(std::string(e.what()).find("no picture is in"), std::string::npos) << e.what();
    }
  }
  EXPECT_EQ(count, 2);
}

TEST_F(Folder, ClassNamesThatNoBundleHoldsAreRefused) {
  picture(folder / "c\now" / "0.png", 1);
  picture(folder / "dog" / "0.png", 2);
  EXPECT_TRUE(error().has("\"c?ow\" has a line break"));
}

TEST_F(Folder, SaysWhereARelativePathWasLookedFor) {
  options.name = "folder:no/such";
  options.root = dir.path();
  const Caught e = error();
  EXPECT_TRUE(e.has(fs::current_path().string()) && e.has(dir.path().string()) && e.has("--data"))
      << e.text;
}

TEST_F(Folder, OtherClassesThanTheNetworksAreRefused) {
  picture(folder / "train" / "bee" / "0.png", 1);
  picture(folder / "train" / "cow" / "0.png", 2);
  const Dataset data = load(DataSplit::kTrain);
  check_classes(data, {"bee", "cow "}, "edge.h5");  // not trimmed by earlier versions
  for (const std::vector<std::string>& names :
       {std::vector<std::string>{"cow", "yak"}, {"cow", "bee"}, {"bee"}}) {
    const Caught e = caught([&] { check_classes(data, names, "edge.h5"); });
    EXPECT_TRUE(e.has("2 (bee, cow)") && e.has(names.back()) && e.has("edge.h5")) << e.text;
  }
}

// Pictures of 9 x 6: black, but for the column at the left.
TEST_F(Folder, PicturesAreFittedAsAskedFor) {
  Tensor image = Tensor::zeros({3, 6, 9});
  for (int64_t i = 0; i < image.numel(); i += 9) image.data<float>()[i] = 1;
  for (const char* name : {"a", "b"}) {
    fs::create_directories(folder / "train" / name);
    write_png(folder / "train" / name / "0.png", image);
  }
  options.fit = ImageFit::kCrop;
  EXPECT_EQ(load(DataSplit::kTrain).mean[0], 0);
  options.fit = ImageFit::kStretch;
  EXPECT_NEAR(load(DataSplit::kTrain).mean[0], 1.0 / 9, 0.01);
}

class RealFolder : public testing::Test {
 protected:
  Dataset load(const std::string& name, const std::string& column, DataSplit split) {
    DataOptions options;
    options.name = "folder:" + name;
    options.label_column = column;
    return load_dataset(options, split);
  }
  static bool have(const std::string& name) {
    const char* root = std::getenv("ENS_DATA");
    return root && fs::exists(fs::path(root) / name / "labels.csv");
  }
};

TEST_F(RealFolder, CelebA) {
  if (!have("faces/celeba")) GTEST_SKIP() << "faces/celeba is not in $ENS_DATA";
  const Dataset test = load("faces/celeba", "Smiling", DataSplit::kTest);
  EXPECT_EQ(test.class_names, (std::vector<std::string>{"Smiling=0", "Smiling=1"}));
  EXPECT_EQ(test.height, 64);
  EXPECT_GT(test.count(), 500);
}

TEST_F(RealFolder, Lfw) {
  if (!have("faces/lfw")) GTEST_SKIP() << "faces/lfw is not in $ENS_DATA";
  const Dataset train = load("faces/lfw", "", DataSplit::kTrain);
  ASSERT_EQ(train.class_names.size(), 34u);
  EXPECT_EQ(train.class_names[8], "George_W_Bush");
}

TEST_F(RealFolder, TinyImageNet) {
  if (!have("tiny_imagenet")) GTEST_SKIP() << "tiny_imagenet is not in $ENS_DATA";
  const Dataset test = load("tiny_imagenet", "", DataSplit::kTest);
  ASSERT_EQ(test.class_names.size(), 10u);
  EXPECT_EQ(test.class_names[0], "goldfish");
  EXPECT_EQ(test.count(), 200);
}

}  // namespace
}  // namespace ens
