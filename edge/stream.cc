// SPDX-License-Identifier: Apache-2.0
#include "edge/stream.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace ens {
namespace {

struct Waiting {
  Tensor images;
  EdgeStream::Done done;
};

// Images [first, first+count) of a result for several submissions.
Result<Classified> share(const Result<Classified>& all, int64_t first, int64_t count) {
  Result<Classified> part{all.status, {}};
  if (!all.status.ok()) return part;
  const auto begin = all.value.top.begin() + first;
  part.value.top.assign(begin, begin + count);
  part.value.logits = all.value.logits.rows(first, count).clone();
  part.value.times = all.value.times;
  return part;
}

}  // namespace

struct EdgeStream::Impl {
  Impl(const EdgeConfig& config, int64_t window_, std::function<void(const Status&)> reload)
      : batch(config.batch()),
        window(window_),
        on_reload(std::move(reload)),
        client(config),
        info(client.info()),
        class_names(client.class_names()) {
    worker = std::jthread([this] { work(); });
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      closed = true;
    }
    changed.notify_all();
  }

  // As many submissions as make a request; empty: closed, and all is done.
  std::vector<Waiting> take() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return closed || !waiting.empty(); });
    std::vector<Waiting> taken;
    int64_t images = 0;
    while (!waiting.empty() && (taken.empty() || images + waiting.front().images.dim(0) <= batch)) {
      images += waiting.front().images.dim(0);
      taken.push_back(std::move(waiting.front()));
      waiting.pop_front();
    }
    return taken;
  }

  void work() {
    for (auto taken = take(); !taken.empty(); taken = take()) {
      int64_t images = 0;
      for (const Waiting& w : taken) images += w.images.dim(0);
      Tensor joined = Tensor::empty(batched(images, info.model.input_shape()));
      int64_t first = 0;
      for (const Waiting& w : taken) {
        joined.rows(first, w.images.dim(0)).copy_from(w.images);
        first += w.images.dim(0);
      }
      Result<Classified> all;
      try {
        all = on_reload ? client.classify_latest(joined, on_reload) : client.classify(joined);
      } catch (const std::exception& e) {
        all.status = {StatusCode::kInternal, e.what()};
      }
      first = 0;
      for (Waiting& w : taken) {
        w.done(share(all, first, w.images.dim(0)));
        first += w.images.dim(0);
      }
      {
        const std::lock_guard lock(mutex);
        under_way -= images;
      }
      changed.notify_all();
    }
  }

  const int64_t batch, window;
  const std::function<void(const Status&)> on_reload;
  EdgeClient client;      // of the worker
  const BundleInfo info;  // its images keep their shape
  const std::vector<std::string> class_names;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Waiting> waiting;
  int64_t under_way = 0;  // images, waiting ones included
  bool closed = false;
  std::jthread worker;
};

EdgeStream::EdgeStream(const EdgeConfig& config, int64_t window,
                       std::function<void(const Status&)> on_reload)
    : impl_(std::make_unique<Impl>(config, window, std::move(on_reload))) {}
EdgeStream::~EdgeStream() = default;

std::future<Result<Classified>> EdgeStream::submit(const Tensor& images) {
  const auto promise = std::make_shared<std::promise<Result<Classified>>>();
  submit(images, [promise](Result<Classified> result) { promise->set_value(std::move(result)); });
  return promise->get_future();
}

void EdgeStream::submit(const Tensor& images, Done done) {
  // It must not spoil those it would travel with.
  if (Status status = check_images(images, info().model); !status.ok()) {
    done({std::move(status), {}});
    return;
  }
  // No verb of the backend: those flush denormals in the thread that calls them.
  Waiting w{Tensor::empty_like(images), std::move(done)};
  std::memcpy(w.images.host(), images.host(), images.bytes());
  {
    std::unique_lock lock(impl_->mutex);
    impl_->changed.wait(lock, [&] {
      return impl_->under_way == 0 || impl_->under_way + images.dim(0) <= impl_->window;
    });
    impl_->under_way += images.dim(0);
    impl_->waiting.push_back(std::move(w));
  }
  impl_->changed.notify_all();
}

void EdgeStream::request_reload() { impl_->client.request_reload(); }

void EdgeStream::cancel() { impl_->client.cancel(); }

const BundleInfo& EdgeStream::info() const { return impl_->info; }
const std::vector<std::string>& EdgeStream::class_names() const { return impl_->class_names; }

}  // namespace ens
