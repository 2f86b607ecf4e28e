// SPDX-License-Identifier: Apache-2.0
#include "cloud/batch_queue.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>

namespace ens {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// Time stands still until the test moves it.
class BatchQueueTest : public testing::Test {
 protected:
  Job job(uint64_t id, int64_t images, Clock::duration timeout = std::chrono::hours(1)) {
    return Job{.images = images,
               .arrived = now_,
               .deadline = now_ + timeout,
               .reply = ReplyOnce(outbox_, WireFrame(), id)};
  }
  Status push(BatchQueue& queue, uint64_t id, int64_t images,
              Clock::duration timeout = std::chrono::hours(1)) {
    Job j = job(id, images, timeout);
    const Status status = queue.push(j);
    if (status.ok()) {
      kept_.push_back(id);
    } else {
      j.reply.send(status);  // still ours: ownership moves only on OK
    }
    return status;
  }
  BatchQueue make(int64_t max_batch, int64_t max_queue, microseconds delay) {
    return BatchQueue({max_batch, max_queue, delay}, [this] { return now_; });
  }
  static std::vector<int64_t> sizes(const BatchQueue::Decision& decision) {
    std::vector<int64_t> result;
    for (const Job& j : decision.batch) result.push_back(j.images);
    return result;
  }
  // id -> code of everything answered since the last call
  std::map<uint64_t, StatusCode> answered() {
    std::map<uint64_t, StatusCode> result;
    for (const Outgoing& o : std::exchange(delivered_, {})) {
      EXPECT_FALSE(result.contains(o.header.id())) << "answered twice";
      result[o.header.id()] = code_from_wire(o.header.code());
    }
    return result;
  }

  Clock::time_point now_{std::chrono::hours(100)};
  std::vector<Outgoing> delivered_;
  std::shared_ptr<Outbox> outbox_ =
      std::make_shared<Outbox>([this](Outgoing o) { delivered_.push_back(std::move(o)); });
  std::vector<uint64_t> kept_;
};

using Sizes = std::vector<int64_t>;

TEST_F(BatchQueueTest, NothingToDoMeansSleepForGood) {
  BatchQueue queue = make(8, 100, microseconds(0));
  const auto decision = queue.poll(now_);
  EXPECT_TRUE(decision.batch.empty());
  EXPECT_EQ(decision.sleep, Clock::duration::max());
}

TEST_F(BatchQueueTest, MergesInOrderAndSplitsNone) {
  BatchQueue queue = make(8, 100, microseconds(0));
  for (int64_t images : {3, 4, 2, 8, 20, 1}) ASSERT_TRUE(push(queue, 1, images).ok());
  EXPECT_EQ(queue.waiting(), 38);
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{3, 4}));  // 2 more would be 9
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{2}));     // 8 more would be 10
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{8}));
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{20}));  // larger than a batch: goes alone
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{1}));
  EXPECT_EQ(queue.waiting(), 0);
}

TEST_F(BatchQueueTest, WaitsForCompanyAtMostItsDelay) {
  BatchQueue queue = make(8, 100, milliseconds(5));
  push(queue, 1, 2);
  EXPECT_EQ(queue.poll(now_).sleep, milliseconds(5));
  now_ += milliseconds(3);
  push(queue, 2, 2);
  const auto decision = queue.poll(now_);
  EXPECT_TRUE(decision.batch.empty());
  EXPECT_EQ(decision.sleep, milliseconds(2)) << "the oldest decides";
  now_ += milliseconds(2);
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{2, 2}));
}

TEST_F(BatchQueueTest, FullBatchDoesNotWait) {
  BatchQueue queue = make(8, 100, milliseconds(5));
  push(queue, 1, 5);
  push(queue, 2, 3);
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{5, 3}));
  push(queue, 3, 5);
  push(queue, 4, 4);  // does not fit any more: the first is as full as it gets
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{5}));
  EXPECT_EQ(queue.poll(now_).sleep, milliseconds(5));
}

TEST_F(BatchQueueTest, FullQueueRefusesAtOnceAndKeepsTheRest) {
  BatchQueue queue = make(4, 10, microseconds(0));
  EXPECT_TRUE(push(queue, 1, 6).ok());
  EXPECT_EQ(push(queue, 2, 5).code, StatusCode::kResourceExhausted);
  EXPECT_TRUE(push(queue, 3, 4).ok());
  EXPECT_EQ(push(queue, 4, 1).code, StatusCode::kResourceExhausted);
  EXPECT_EQ(answered(), (std::map<uint64_t, StatusCode>{{2, StatusCode::kResourceExhausted},
                                                        {4, StatusCode::kResourceExhausted}}));
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{6}));
  EXPECT_TRUE(push(queue, 5, 6).ok()) << "room again";
}

TEST_F(BatchQueueTest, ExpiredIsAnsweredAndNotComputed) {
  BatchQueue queue = make(8, 10, microseconds(0));
  push(queue, 1, 2, milliseconds(10));
  push(queue, 2, 3, milliseconds(30));
  push(queue, 3, 1, milliseconds(10));
  now_ += milliseconds(10);  // a deadline that is now has passed
  EXPECT_EQ(sizes(queue.poll(now_)), (Sizes{3}));
  EXPECT_EQ(answered(), (std::map<uint64_t, StatusCode>{{1, StatusCode::kDeadlineExceeded},
                                                        {3, StatusCode::kDeadlineExceeded},
                                                        {2, StatusCode::kInternal}}))
      << "2 was handed out, and dropped by this test";
  EXPECT_EQ(queue.waiting(), 0);
}

TEST_F(BatchQueueTest, ExpiredMakesRoom) {
  BatchQueue queue = make(8, 10, microseconds(0));
  push(queue, 1, 10, milliseconds(5));
  now_ += milliseconds(6);
  EXPECT_TRUE(push(queue, 2, 10).ok());
  EXPECT_EQ(answered().at(1), StatusCode::kDeadlineExceeded);
}

TEST_F(BatchQueueTest, ClosedRefusesAndHandsOutWithoutDelay) {
  BatchQueue queue = make(8, 10, milliseconds(5));
  push(queue, 1, 2);
  queue.close();
  EXPECT_EQ(push(queue, 2, 1).code, StatusCode::kUnavailable);
  EXPECT_EQ(queue.next().size(), 1u);
  EXPECT_TRUE(queue.next().empty());
  EXPECT_TRUE(queue.next().empty());
}

TEST_F(BatchQueueTest, AbandonedJobsAreAnswered) {
  BatchQueue queue = make(8, 10, milliseconds(5));
  push(queue, 1, 2);
  push(queue, 2, 2);
  queue.abandon();
  EXPECT_EQ(answered().size(), 2u);
  EXPECT_EQ(outbox_->pending(), 0);
  EXPECT_TRUE(queue.next().empty());
}

TEST_F(BatchQueueTest, NextWakesForPushAndForClose) {
  BatchQueue queue({8, 100, microseconds(200)});  // the real clock
  std::vector<int64_t> got;
  std::jthread worker([&] {
    for (auto batch = queue.next(); !batch.empty(); batch = queue.next()) {
      for (Job& j : batch) {
        got.push_back(j.images);
        j.reply.send(Status{});
      }
    }
  });
  now_ = Clock::now();
  for (int64_t images = 1; images <= 20; ++images) {
    while (!push(queue, static_cast<uint64_t>(images), images % 9 + 1).ok())
      std::this_thread::yield();
    if (images % 5 == 0) std::this_thread::sleep_for(milliseconds(1));
  }
  queue.close();
  worker.join();
  ASSERT_EQ(got.size(), 20u);
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], (i + 1) % 9 + 1);
  EXPECT_EQ(outbox_->pending(), 0);
}

// ---- clients

TEST_F(BatchQueueTest, ClientsTakeTurnsWhateverTheyQueued) {
  BatchQueue queue = make(4, 100, microseconds(0));
  const auto push_for = [&](const std::string& client, uint64_t id) {
    Job j = job(id, 1);
    j.client = client;
    ASSERT_TRUE(queue.push(j).ok());
  };
  for (uint64_t id = 100; id < 120; ++id) push_for("noisy", id);
  for (uint64_t id = 1; id <= 4; ++id) push_for("quiet", id);
  std::map<std::string, int> images;
  for (int batch = 0; batch < 2; ++batch) {
    for (const Job& j : queue.poll(now_).batch) ++images[j.client];
  }
  EXPECT_EQ(images["quiet"], 4);
  EXPECT_EQ(images["noisy"], 4);
}

// Who has most gives way, so that a full queue is no way to keep others out.
TEST_F(BatchQueueTest, AFullQueueMakesRoomForThoseWithLess) {
  BatchQueue queue = make(4, 8, microseconds(0));
  for (uint64_t id = 100; id < 108; ++id) {
    Job j = job(id, 1);
    j.client = "noisy";
    ASSERT_TRUE(queue.push(j).ok());
  }
  for (uint64_t id = 1; id <= 5; ++id) {
    Job j = job(id, 1);
    j.client = "quiet";
    const Status status = queue.push(j);
    if (!status.ok()) j.reply.send(status);
  }
  const auto codes = answered();
  for (const uint64_t id : {107u, 106u, 105u, 104u}) {
    EXPECT_EQ(codes.at(id), StatusCode::kResourceExhausted) << id;
  }
  EXPECT_EQ(codes.size(), 5u);
  EXPECT_EQ(codes.at(5), StatusCode::kResourceExhausted) << "both have four now";
  EXPECT_EQ(queue.waiting(), 8);
}

TEST_F(BatchQueueTest, AClientHasLimitsOfItsOwn) {
  BatchQueue queue({.max_batch = 4, .max_queue = 100, .max_client_queue = 3, .max_client_rate = 2},
                   [this] { return now_; });
  const auto push_for = [&](const std::string& client, int64_t images) {
    Job j = job(1, images);
    j.client = client;
    const Status status = queue.push(j);
    if (!status.ok()) j.reply.send(status);
    return status.code;
  };
  EXPECT_EQ(push_for("a", 2), StatusCode::kOk);
  EXPECT_EQ(push_for("a", 1), StatusCode::kResourceExhausted) << "two a second";
  now_ += milliseconds(500);
  EXPECT_EQ(push_for("a", 1), StatusCode::kOk);
  now_ += milliseconds(1000);
  EXPECT_EQ(push_for("a", 1), StatusCode::kResourceExhausted) << "three are waiting";
  EXPECT_EQ(push_for("b", 2), StatusCode::kOk) << "another client";
  queue.poll(now_);
  EXPECT_EQ(push_for("a", 1), StatusCode::kOk);
}

// A cloud in simulated time: a flood keeps 64 requests of one image waiting, a quiet client asks,
// waits for its reply, thinks, and asks again.
class FairnessTest : public BatchQueueTest {
 protected:
  using Cost = std::function<double(int64_t)>;  // images of a batch -> seconds
  struct Rates {
    double quiet = 0, flood = 0;  // images a second
  };
  Rates simulate(const Cost& cost, int64_t quiet_images, double think, bool with_flood) {
    BatchQueue queue = make(32, 1024, microseconds(0));
    const auto start = now_, end = now_ + std::chrono::seconds(20);
    const auto counted_from = now_ + std::chrono::seconds(2);  // once it has learned
    const auto push_for = [&](const char* client, int64_t images) {
      Job j = job(1, images);
      j.client = client;
      EXPECT_TRUE(queue.push(j).ok());
    };
    // Costs are learned from whatever comes, as in a cloud that has served for a while.
    for (int waiting = 1; waiting <= 32; ++waiting) {
      for (int i = 0; i < waiting; ++i) push_for("warm", 1);
      while (queue.waiting() > 0) {
        const auto batch = queue.poll(now_).batch;
        queue.finished(batch, in(cost(std::ssize(batch))));
      }
    }
    now_ += std::chrono::seconds(1);
    if (with_flood) {
      for (int i = 0; i < 64; ++i) push_for("flood", 1);
    }
    Clock::time_point quiet_asks = now_;
    int64_t quiet_done = 0, flood_done = 0;
    while (now_ < end) {
      if (quiet_asks <= now_) {
        push_for("quiet", quiet_images);
        quiet_asks = Clock::time_point::max();
      }
      std::vector<Job> batch = queue.poll(now_).batch;
      if (batch.empty()) {
        now_ = quiet_asks;
        continue;
      }
      int64_t images = 0;
      for (const Job& j : batch) images += j.images;
      const auto compute = in(cost(images));
      const auto done = now_ + compute;
      if (quiet_asks <= done) {  // comes while this batch is computed
        now_ = quiet_asks;
        push_for("quiet", quiet_images);
        quiet_asks = Clock::time_point::max();
      }
      now_ = done;
      queue.finished(batch, compute);
      for (const Job& j : batch) {
        const bool quiet = j.client == "quiet";
        if (now_ > counted_from) (quiet ? quiet_done : flood_done) += j.images;
        if (quiet) quiet_asks = now_ + in(think);
        if (!quiet) push_for("flood", 1);
      }
      batch.clear();
      delivered_.clear();
    }
    const double seconds = std::chrono::duration<double>(end - counted_from).count();
    now_ = start;
    return {static_cast<double>(quiet_done) / seconds, static_cast<double>(flood_done) / seconds};
  }
  static Clock::duration in(double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }
  static double on_cpu(int64_t images) { return 100e-6 + 300e-6 * static_cast<double>(images); }
  static double on_gpu(int64_t images) { return 1e-3 + 2e-6 * static_cast<double>(images); }
};

TEST_F(FairnessTest, AQuietClientKeepsHalfOfItsRateBesideAFlood) {
  struct Case {
    const char* what;
    Cost cost;
    int64_t images;
    double think;
  };
  for (const Case& c :
       {Case{"one image on a CPU", &on_cpu, 1, 1e-3},
        Case{"one image on a CPU, at once again", &on_cpu, 1, 0.3e-3},
        Case{"one image on a CPU, now and then", &on_cpu, 1, 30e-3},
        Case{"32 images on a CPU", &on_cpu, 32, 2e-3}, Case{"one image on a GPU", &on_gpu, 1, 1e-3},
        Case{"32 images on a GPU", &on_gpu, 32, 2e-3}}) {
    SCOPED_TRACE(c.what);
    const double alone = simulate(c.cost, c.images, c.think, false).quiet;
    const Rates beside = simulate(c.cost, c.images, c.think, true);
    EXPECT_NEAR(alone * (c.cost(c.images) + c.think), static_cast<double>(c.images),
                0.05 * static_cast<double>(c.images));
    EXPECT_GE(beside.quiet, 0.5 * alone) << alone << " alone";
    // The cloud is not idle for it: the flood gets what is left.
    EXPECT_GT(beside.flood, 0.25 / c.cost(1));
  }
}

// Without others the flood gets the largest batches.
TEST_F(FairnessTest, AFloodAloneIsComputedInFullBatches) {
  BatchQueue queue = make(32, 1024, microseconds(0));
  for (uint64_t id = 1; id <= 64; ++id) {
    Job j = job(id, 1);
    j.client = "flood";
    ASSERT_TRUE(queue.push(j).ok());
  }
  EXPECT_EQ(queue.poll(now_).batch.size(), 32u);
}

TEST_F(BatchQueueTest, ADeadlineIsAnsweredWithoutABatch) {
  BatchQueue queue = make(8, 10, microseconds(0));
  EXPECT_EQ(queue.expire(now_), Clock::time_point::max());
  push(queue, 1, 1, milliseconds(30));
  push(queue, 2, 1, milliseconds(10));
  EXPECT_EQ(queue.expire(now_), now_ + milliseconds(10));
  now_ += milliseconds(10);
  EXPECT_EQ(queue.expire(now_), now_ + milliseconds(20));
  EXPECT_EQ(answered(), (std::map<uint64_t, StatusCode>{{2, StatusCode::kDeadlineExceeded}}));
}

}  // namespace
}  // namespace ens
