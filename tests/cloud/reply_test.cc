// SPDX-License-Identifier: Apache-2.0
#include "cloud/reply.h"

#include <gtest/gtest.h>

#include <map>
#include <stdexcept>
#include <vector>

namespace ens {
namespace {

struct Delivered {
  std::vector<Outgoing> answers;
  std::shared_ptr<Outbox> outbox =
      std::make_shared<Outbox>([this](Outgoing o) { answers.push_back(std::move(o)); });
};

TEST(ReplyOnce, AnswersOnceWhateverHappens) {
  const Delivered delivered;
  const auto& outbox = delivered.outbox;
  {
    ReplyOnce sent(outbox, WireFrame("a", 1), 1);
    sent.send(Status{StatusCode::kUnavailable, "x"});
    sent.send(Status{});  // too late
    const ReplyOnce silent(outbox, WireFrame("b", 1), 2);
    ReplyOnce first(outbox, WireFrame("c", 1), 3);
    const ReplyOnce moved = std::move(first);
    ReplyOnce replaced(outbox, WireFrame("d", 1), 4);
    replaced = ReplyOnce(outbox, WireFrame("e", 1), 5);
    EXPECT_EQ(outbox->pending(), 3);  // silent, moved, and the one that replaced
  }
  EXPECT_EQ(outbox->pending(), 0);
  std::map<uint64_t, std::pair<std::string, uint32_t>> got;
  for (const Outgoing& o : delivered.answers) {
    EXPECT_TRUE(got.emplace(o.header.id(), std::pair(o.peer.to_string(), o.header.code())).second);
  }
  const auto internal = static_cast<uint32_t>(StatusCode::kInternal);
  EXPECT_EQ(got, (decltype(got){{1, {"a", 5}},
                                {2, {"b", internal}},
                                {3, {"c", internal}},
                                {4, {"d", internal}},
                                {5, {"e", internal}}}));
}

TEST(ReplyOnce, AnswersWhenAnExceptionPasses) {
  const Delivered delivered;
  const auto& outbox = delivered.outbox;
  try {
    const ReplyOnce reply(outbox, WireFrame(), 9);
    throw std::runtime_error("oops");
  } catch (const std::runtime_error&) {
  }
  ASSERT_EQ(delivered.answers.size(), 1u);
  EXPECT_EQ(code_from_wire(delivered.answers[0].header.code()), StatusCode::kInternal);
}

}  // namespace
}  // namespace ens
