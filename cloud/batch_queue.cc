// SPDX-License-Identifier: Apache-2.0
#include "cloud/batch_queue.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace ens {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;

// A client counts as active for so long after its latest reply.
constexpr milliseconds kActive{250};
// A client without requests is forgotten after this.
constexpr std::chrono::seconds kRemembered{10};

size_t bucket(int64_t images) {
  return std::min<size_t>(static_cast<size_t>(std::bit_width(static_cast<uint64_t>(images))) - 1,
                          15);
}

}  // namespace

BatchQueue::BatchQueue(const Options& options, std::function<Clock::time_point()> clock)
    : options_(options), clock_(std::move(clock)) {}

// ---- what comes in

Status BatchQueue::push(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return {StatusCode::kUnavailable, "the cloud is shutting down"};
    const auto now = clock_();
    forget_idle(now);
    Client& client = clients_[job.client];
    client.seen = now;
    if (Status status = admit(client, job.images, now); !status.ok()) return status;
    if (client.jobs.empty() && client.computing == 0 && client.last_reply != Clock::time_point{}) {
      const double think = duration<double>(now - client.last_reply).count();
      client.think_seconds += (think - client.think_seconds) / 4;
    }
    client.last_images = job.images;
    client.tokens -= static_cast<double>(job.images);
    next_deadline_ = std::min(next_deadline_, job.deadline);
    if (client.jobs.empty()) turns_.push_back(&client);
    client.jobs.push_back(std::move(job));
    const int64_t images = client.jobs.back().images;  // counted once it is in
    client.images += images;
    images_ += images;
  }
  changed_.notify_one();
  return {};
}

Status BatchQueue::admit(Client& client, int64_t images, Clock::time_point now) {
  const auto exhausted = [](const char* why) {
    return Status{StatusCode::kResourceExhausted, why};
  };
  if (options_.max_client_rate > 0) {
    // At least one request fits whatever the rate is.
    const double most = std::max(options_.max_client_rate, static_cast<double>(images));
    client.tokens =
        client.refilled == Clock::time_point{}
            ? most
            : std::min(most, client.tokens + options_.max_client_rate *
                                                 duration<double>(now - client.refilled).count());
    client.refilled = now;
    if (client.tokens < static_cast<double>(images)) {
      return exhausted("this client sends more images a second than it may; try later");
    }
  }
  if (images_ + images > options_.max_queue) drop_expired(now);
  if (options_.max_client_queue > 0 && client.images + images > options_.max_client_queue) {
    return exhausted("this client has as many images in the cloud's queue as it may; try later");
  }
  if (!make_room(client, images)) return exhausted("the cloud's queue is full; try later");
  return {};
}

// The newest requests of the client with most images go, as long as it has more than this one would
// have.
bool BatchQueue::make_room(const Client& client, int64_t images) {
  while (images_ + images > options_.max_queue) {
    const auto most = std::ranges::max_element(turns_, {}, &Client::images);
    if (most == turns_.end() || *most == &client ||
        (*most)->images - (*most)->jobs.back().images < client.images + images) {
      return false;
    }
    Client& other = **most;
    Job last = std::move(other.jobs.back());
    other.jobs.pop_back();
    other.images -= last.images;
    images_ -= last.images;
    if (other.jobs.empty()) turns_.erase(most);
    last.reply.send(Status{StatusCode::kResourceExhausted,
                           "the cloud's queue is full, and others have less in it; try later"});
  }
  return true;
}

void BatchQueue::forget_idle(Clock::time_point now) {
  if (now < next_forget_) return;
  next_forget_ = now + kRemembered;
  std::erase_if(clients_, [&](const auto& entry) {
    const Client& client = entry.second;
    return client.jobs.empty() && client.computing == 0 && now - client.seen > kRemembered;
  });
}

void BatchQueue::drop_expired(Clock::time_point now) {
  if (now < next_deadline_) return;
  next_deadline_ = Clock::time_point::max();
  for (Client* client : turns_) {
    std::erase_if(client->jobs, [&](Job& job) {
      if (job.deadline > now) {
        next_deadline_ = std::min(next_deadline_, job.deadline);
        return false;
      }
      job.reply.send(Status{StatusCode::kDeadlineExceeded, "the deadline passed in the queue"});
      client->images -= job.images;
      images_ -= job.images;
      return true;
    });
  }
  std::erase_if(turns_, [](const Client* client) { return client->jobs.empty(); });
}

Clock::time_point BatchQueue::expire(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  drop_expired(now);
  return next_deadline_;
}

// ---- what goes out

BatchQueue::Decision BatchQueue::poll(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  drop_expired(now);
  Decision decision;
  if (turns_.empty()) return decision;
  auto oldest = Clock::time_point::max();
  for (const Client* client : turns_) oldest = std::min(oldest, client->jobs.front().arrived);
  const auto due = oldest + options_.delay;
  const auto several_bundles = [&] {
    const auto& served = turns_.front()->jobs.front().served;
    return std::ranges::any_of(turns_, [&](const Client* client) {
      return std::ranges::any_of(client->jobs,
                                 [&](const Job& job) { return job.served != served; });
    });
  };
  if (images_ < options_.max_batch && !closed_ && now < due && !several_bundles()) {
    decision.sleep = due - now;
    return decision;
  }
  decision.batch = take(now);
  return decision;
}

Job BatchQueue::pop(Client& client) {
  Job job = std::move(client.jobs.front());
  client.jobs.pop_front();
  client.images -= job.images;
  client.deficit -= job.images;
  ++client.computing;
  images_ -= job.images;
  return job;
}

std::vector<Job> BatchQueue::take(Clock::time_point now) {
  const int64_t backlog_limit = backlog_batch(now);
  // Each round lets everyone in turn send the largest request that waits.
  int64_t share = std::max<int64_t>(1, backlog_limit / static_cast<int64_t>(turns_.size()));
  for (const Client* client : turns_) share = std::max(share, client->jobs.front().images);
  // Those who got nothing of the batch before come first, also if they have come since.
  std::ranges::stable_partition(
      turns_, [&](const Client* client) { return client->last_batch != batches_; });
  ++batches_;
  std::vector<Job> batch;
  int64_t images = 0;
  bool has_backlog = false;
  // Ends when everyone in turn has nothing that fits.
  for (size_t refused = 0; !turns_.empty() && refused < turns_.size();) {
    Client& client = *turns_.front();
    const Job& next = client.jobs.front();
    const bool backlog = client.jobs.size() > 1;
    const int64_t limit = backlog || has_backlog ? backlog_limit : options_.max_batch;
    const bool fits =
        batch.empty() || (images + next.images <= limit && next.served == batch[0].served);
    const bool allowed = client.deficit >= next.images || turns_.size() == 1;
    if (!fits || !allowed) {
      refused = fits ? 0 : refused + 1;
      if (fits) client.deficit += share;
      turns_.push_back(&client);
      turns_.pop_front();
      continue;
    }
    refused = 0;
    images += next.images;
    has_backlog = has_backlog || backlog;
    batch.push_back(pop(client));
    client.last_batch = batches_;
    if (client.jobs.empty()) turns_.pop_front();
    if (client.jobs.empty() || turns_.size() == 1) client.deficit = 0;
  }
  return batch;
}

double BatchQueue::seconds_of(int64_t images) const { return cost_[bucket(images)]; }

// How many images a batch with requests of clients that have several waiting may hold. A client
// that asks, waits for the reply and asks again takes s + t for each request: s to compute it, t
// until it asks again. With a batch of others before each of its requests it keeps half of its rate
// as long as that batch takes no longer than s + t.
int64_t BatchQueue::backlog_batch(Clock::time_point now) const {
  int64_t limit = options_.max_batch;
  for (const auto& [name, client] : clients_) {
    const bool active =
        client.jobs.size() == 1 || client.computing > 0 || now - client.last_reply <= kActive;
    if (!active || client.jobs.size() > 1 || client.last_images == 0) continue;
    const double bearable = 0.9 * (seconds_of(client.last_images) + client.think_seconds);
    int64_t most = client.last_images;
    for (size_t i = bucket(most) + 1; i < cost_.size(); ++i) {
      if (cost_[i] == 0 || cost_[i] > bearable) break;
      most = int64_t{1} << i;
    }
    limit = std::min(limit, most);
  }
  return limit;
}

void BatchQueue::finished(const std::vector<Job>& batch, Clock::duration compute) {
  const std::lock_guard lock(mutex_);
  const auto now = clock_();
  int64_t images = 0;
  for (const Job& job : batch) {
    images += job.images;
    Client& client = clients_[job.client];
    client.computing = std::max<int64_t>(0, client.computing - 1);
    client.last_reply = now;
  }
  if (batch.empty() || compute <= Clock::duration::zero()) return;  // it failed
  double& cost = cost_[bucket(images)];
  const double seconds = duration<double>(compute).count();
  cost = cost == 0 ? seconds : cost + (seconds - cost) / 8;
}

std::vector<Job> BatchQueue::next() {
  while (true) {
    Decision decision = poll(clock_());
    if (!decision.batch.empty()) return std::move(decision.batch);
    std::unique_lock lock(mutex_);
    if (turns_.empty()) {
      if (closed_) return {};
      changed_.wait(lock, [&] { return closed_ || !turns_.empty(); });
    } else {
      // A push may complete the batch before the time is up; poll() decides again.
      changed_.wait_for(lock, std::min<Clock::duration>(decision.sleep, options_.delay));
    }
  }
}

void BatchQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
}

void BatchQueue::abandon() {
  close();
  const std::lock_guard lock(mutex_);
  turns_.clear();
  clients_.clear();
  images_ = 0;
}

int64_t BatchQueue::waiting() const {
  const std::lock_guard lock(mutex_);
  return images_;
}

}  // namespace ens
