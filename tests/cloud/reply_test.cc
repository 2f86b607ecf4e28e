#include "cloud/reply.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <map>
#include <stdexcept>

namespace ens {
namespace {

bool readable(const Outbox& outbox) {
  pollfd fd{outbox.fd(), POLLIN, 0};
  return ::poll(&fd, 1, 0) == 1;
}

TEST(ReplyOnce, AnswersOnceWhateverHappens) {
  const auto outbox = std::make_shared<Outbox>();
  {
    ReplyOnce sent(outbox, zmq::message_t("a", 1), 1);
    sent.send(Status{StatusCode::kUnavailable, "x"});
    sent.send(Status{});  // too late
    const ReplyOnce silent(outbox, zmq::message_t("b", 1), 2);
    ReplyOnce first(outbox, zmq::message_t("c", 1), 3);
    const ReplyOnce moved = std::move(first);
    ReplyOnce replaced(outbox, zmq::message_t("d", 1), 4);
    replaced = ReplyOnce(outbox, zmq::message_t("e", 1), 5);
    EXPECT_EQ(outbox->unanswered(), 3);  // silent, moved, and the one that replaced
  }
  EXPECT_EQ(outbox->unanswered(), 0);
  EXPECT_TRUE(readable(*outbox));
  std::map<uint64_t, std::pair<std::string, uint32_t>> got;
  for (Outgoing& o : outbox->take()) {
    EXPECT_TRUE(got.emplace(o.header.id(), std::pair(o.peer.to_string(), o.header.code())).second);
  }
  const auto internal = static_cast<uint32_t>(StatusCode::kInternal);
  EXPECT_EQ(got, (decltype(got){{1, {"a", 5}},
                                {2, {"b", internal}},
                                {3, {"c", internal}},
                                {4, {"d", internal}},
                                {5, {"e", internal}}}));
  EXPECT_FALSE(readable(*outbox));
  outbox->wake();
  EXPECT_TRUE(readable(*outbox));
  EXPECT_TRUE(outbox->take().empty());
  EXPECT_FALSE(readable(*outbox));
}

TEST(ReplyOnce, AnswersWhenAnExceptionPasses) {
  const auto outbox = std::make_shared<Outbox>();
  try {
    const ReplyOnce reply(outbox, zmq::message_t(), 9);
    throw std::runtime_error("oops");
  } catch (const std::runtime_error&) {
  }
  const auto sent = outbox->take();
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(code_from_wire(sent[0].header.code()), StatusCode::kInternal);
}

}  // namespace
}  // namespace ens
