#include "cloud/batch_queue.h"

#include <gtest/gtest.h>

#include <map>
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

}  // namespace
}  // namespace ens
