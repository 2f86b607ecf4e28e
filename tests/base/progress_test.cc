// SPDX-License-Identifier: Apache-2.0
// The progress line with a clock and a stream of the test's own.
#include "base/progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

namespace ens {
namespace {

using std::chrono::milliseconds;

class ProgressTest : public ::testing::Test {
 protected:
  Progress make(int64_t total, bool terminal, const std::string& unit = "images") {
    return Progress(
        "train", total, unit, [this] { return time_; }, out_, terminal);
  }
  void pass(int ms) { time_ += milliseconds(ms); }
  std::string taken() {
    std::string text = out_.str();
    out_.str("");
    return text;
  }

  std::chrono::steady_clock::time_point time_{};
  std::ostringstream out_;
};

TEST_F(ProgressTest, TerminalWaitsThenRedrawsTenTimesASecond) {
  Progress p = make(1000, true);
  pass(299);
  p.add(10);
  EXPECT_EQ(taken(), "");
  pass(1);
  p.add(90);
  const std::string first = taken();
  EXPECT_EQ(first.substr(0, 6), "\rtrain");
  EXPECT_NE(first.find("train  10 %  [##..................]  100/1000"), std::string::npos)
      << first;
  EXPECT_EQ(first.substr(first.size() - 3), "\x1b[K");
  EXPECT_EQ(first.find('\n'), std::string::npos);
  pass(99);
  p.add(1);
  p.note("loss 1.5");
  EXPECT_EQ(taken(), "");
  pass(1);
  p.add(1);
  EXPECT_NE(taken().find("loss 1.5"), std::string::npos);
}

TEST_F(ProgressTest, RedrawsAreBoundedOverManySteps) {
  Progress p = make(100000, true);
  for (int i = 0; i < 10000; ++i) {  // 10 s in steps of 1 ms
    pass(1);
    p.add(1);
  }
  const std::string text = taken();
  const auto draws = std::count(text.begin(), text.end(), '\r');
  EXPECT_GE(draws, 90);
  EXPECT_LE(draws, 100);
}

TEST_F(ProgressTest, QuickWorkDrawsNothingOnATerminal) {
  {
    Progress p = make(10, true);
    pass(200);
    p.add(10);
  }
  EXPECT_EQ(taken(), "");
}

TEST_F(ProgressTest, TerminalEndsWithOneLine) {
  {
    Progress p = make(10, true);
    pass(500);
    p.add(5);
    taken();
    pass(500);
    p.add(5);
    taken();
    p.finish();
    const std::string last = taken();
    EXPECT_EQ(last, "\rtrain  10/10  in 0:01  10 images/s\x1b[K\n");
    p.add(1);
    p.note("late");
    p.finish();
  }
  EXPECT_EQ(taken(), "") << "nothing after finish()";
}

TEST_F(ProgressTest, PlainLinesEveryFiveSecondsAndAtTheEnd) {
  Progress p = make(100, false);
  pass(4999);
  p.add(10);
  EXPECT_EQ(taken(), "");
  pass(1);
  p.add(10);
  EXPECT_EQ(taken(), "train  20 %  20/100  4.0 images/s  0:20 left\n");
  pass(4000);
  p.add(10);
  EXPECT_EQ(taken(), "");
  pass(1000);
  p.note("loss 0.5");
  EXPECT_EQ(taken(), "train  30 %  30/100  3.0 images/s  0:23 left  loss 0.5\n");
  p.finish();
  EXPECT_EQ(taken(), "train  stopped at 30 %, 30/100  in 0:10  3.0 images/s  loss 0.5\n");
}

TEST_F(ProgressTest, PlainOutputHasALastLineEvenWhenQuick) {
  { make(1, false).add(1); }
  EXPECT_EQ(taken(), "train  1/1  in 0:00\n");
}

TEST_F(ProgressTest, SkippedWorkIsNotPartOfTheRate) {
  Progress p = make(1000, false);
  p.skip(500);
  pass(5000);
  p.add(50);
  EXPECT_EQ(taken(), "train  55 %  550/1000  10 images/s  0:45 left\n");
}

TEST_F(ProgressTest, RateFollowsTheLastHalfMinute) {
  Progress p = make(1000000, false);
  for (int i = 0; i < 100; ++i) {  // 100 s at 1000 per second
    pass(1000);
    p.add(1000);
  }
  taken();
  for (int i = 0; i < 60; ++i) {  // 60 s at 10 per second
    pass(1000);
    p.add(10);
  }
  const std::string text = taken();
  const std::string last = text.substr(text.rfind("train"));
  EXPECT_NE(last.find("  10 images/s"), std::string::npos) << last;
}

TEST_F(ProgressTest, UnknownTotalsBytesAndLongTimes) {
  Progress unknown = make(0, false);
  pass(5000);
  unknown.add(50);
  EXPECT_EQ(taken(), "train  50 images  10 images/s\n");
  Progress bytes = make(200'000'000, false, "bytes");
  pass(5000);
  bytes.add(10'000'000);
  EXPECT_EQ(taken(), "train   5 %  10.0/200.0 MB  2.0 MB/s  1:35 left\n");
  Progress slow = make(100'000, false);
  pass(10'000);
  slow.add(10);  // the first piece of a hundred thousandth says nothing yet
  EXPECT_EQ(taken().find("left"), std::string::npos);
  pass(50'000);
  slow.add(50);
  EXPECT_NE(taken().find("27:45:40 left"), std::string::npos);
}

TEST_F(ProgressTest, MoreThanAllIsAllAndAlmostAllIsNot) {
  Progress p = make(1000, false);
  pass(5000);
  p.add(999);
  EXPECT_NE(taken().find(" 99 %"), std::string::npos);
  pass(5000);
  p.add(999);
  EXPECT_NE(taken().find("100 %"), std::string::npos);
}

TEST_F(ProgressTest, NarrowTerminalsKeepTheNoteAndTheTimeLeft) {
  Progress p = make(240000, true);
  pass(10000);
  p.add(24000);
  taken();
  pass(100);
  p.note("net 2  loss 1.234  accuracy 61.2 %");
  const std::string text = taken();
  EXPECT_EQ(text,
            "\rtrain  10 %  2376 images/s  1:31 left  net 2  loss 1.234  accuracy 61.2 %\x1b[K");
}

TEST_F(ProgressTest, LinesAreClippedAndNotesAreOneLine) {
  Progress p = make(10, true);
  pass(300);
  std::string note = "a\nb\r";
  for (int i = 0; i < 300; ++i) note += "\u00b5";
  p.note(note);
  const std::string text = taken();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\r'), 1);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 0);
  EXPECT_LT(text.size(), 600u);
  const std::string body = text.substr(0, text.size() - 3);
  EXPECT_EQ(static_cast<unsigned char>(body.back()), 0xb5) << "cut inside a character";
}

TEST_F(ProgressTest, SeveralThreadsShareOneLine) {
  time_ += milliseconds(1000);
  Progress p = make(40000, false);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10000; ++i) {
        p.add(1);
        if (i % 100 == 0) p.note("step");
      }
    });
  }
  for (auto& thread : threads) thread.join();
  p.finish();
  EXPECT_NE(taken().find("40000/40000"), std::string::npos);
}

// What a program reads: a JSON object a line, two a second, the last with everything.
TEST_F(ProgressTest, AsJsonForPrograms) {
  show_progress_as_json(true);
  {
    Progress p = make(1000, true);
    show_progress_as_json(false);
    for (int i = 0; i < 99; ++i) {
      pass(10);
      p.add(1);
    }
    p.note("loss \"1.5\"\xff");
    pass(10);
    p.add(1);
  }
  std::istringstream lines(taken());
  std::vector<nlohmann::json> read;
  for (std::string line; std::getline(lines, line);) read.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read[0]["label"], "train");
  EXPECT_EQ(read[0]["done"], 50);
  EXPECT_EQ(read[0]["total"], 1000);
  EXPECT_NEAR(read[0]["rate"].get<double>(), 100, 1);
  EXPECT_NEAR(read[1]["left"].get<double>(), 9, .1);
  EXPECT_EQ(read[1]["note"], "loss \"1.5\"\uFFFD");
  EXPECT_EQ(read[2]["done"], 100);
  EXPECT_EQ(read[2]["unit"], "images");
}

}  // namespace
}  // namespace ens
