#include "nn/data/loader.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"

namespace ens {
namespace {

void to_unit(const uint8_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]) / 255.0f;
}

// The window at (dy, dx) of the zero-padded image, mirrored if `flip`.
void crop_to_unit(const uint8_t* from, int channels, int height, int width, int dy, int dx,
                  bool flip, float* to) {
  const int x_begin = std::max(0, -dx), x_end = std::min(width, width - dx);
  for (int c = 0; c < channels; ++c) {
    for (int y = 0; y < height; ++y, to += width) {
      const int from_y = y + dy;
      if (from_y < 0 || from_y >= height) {
        std::fill_n(to, width, 0.0f);
        continue;
      }
      const uint8_t* row = from + (int64_t{c} * height + from_y) * width + dx;
      std::fill(to, to + x_begin, 0.0f);
      to_unit(row + x_begin, x_end - x_begin, to + x_begin);
      std::fill(to + x_end, to + width, 0.0f);
      if (flip) std::reverse(to, to + width);
    }
  }
}

void check_range(const Dataset& data, int64_t first, int64_t count) {
  if (first < 0 || count < 0 || first > data.count() - count) {
    fail("images " + std::to_string(first) + "+" + std::to_string(count) + " are not in " +
         data.name + " (" + std::to_string(data.count()) + " images)");
  }
}

void check_whole(const Dataset& data) {
  if (data.image_size() <= 0 ||
      static_cast<int64_t>(data.pixels.size()) != data.count() * data.image_size()) {
    fail("the data set holds " + std::to_string(data.pixels.size()) + " pixels for " +
             std::to_string(data.count()) + " images",
         data.name);
  }
}

// A thread inherits its creator's pinning; left there, it would fight the compute thread for one
// core while others idle.
void run_on_any_cpu() {
#ifdef __linux__
  cpu_set_t all;
  std::memset(&all, 0xff, sizeof all);
  sched_setaffinity(0, sizeof all, &all);  // best effort
#endif
}

}  // namespace

struct Loader::Impl {
  const Dataset& data;
  const LoaderOptions options;

  bool started = false;
  uint64_t epoch_key = 0;
  std::vector<int64_t> order;  // owned by the thread while it runs
  int64_t delivered = 0;
  double waited = 0;

  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Batch> ready;   // guarded by mutex
  std::exception_ptr error;  // guarded by mutex
  Tensor pixels;             // the data set on options.device, where that augments
  std::jthread thread;       // last: stops before the rest goes

  Impl(const Dataset& d, const LoaderOptions& o) : data(d), options(o) {
    if (!backend(o.device).can_crop()) return;
    Tensor all = Tensor::empty({d.count(), d.channels, d.height, d.width}, Dtype::kU8);
    std::memcpy(all.raw(), d.pixels.data(), all.bytes());
    pixels = all.to(o.device);
  }

  bool on_device() const { return pixels.defined(); }

  int64_t batches() const {
    return options.drop_last ? data.count() / options.batch
                             : (data.count() + options.batch - 1) / options.batch;
  }

  void stop() {
    if (thread.joinable()) {
      thread.request_stop();
      thread.join();
    }
    ready.clear();
    error = nullptr;
  }

  void begin() {
    if (options.shuffle) order = Rng(epoch_key, "loader order").permutation(data.count());
  }

  // Which image stands at a position of the epoch, and how it is augmented.
  struct Place {
    int64_t image;
    int dy = 0, dx = 0;
    bool flip = false;
  };
  Place place(int64_t position) const {
    Place p{options.shuffle ? order[position] : position};
    const int pad = options.crop_padding;
    if (pad == 0 && !options.flip) return p;
    Rng rng(epoch_key, static_cast<uint64_t>(position));
    const auto shift = [&] {
      return pad ? static_cast<int>(rng.below(2 * static_cast<uint64_t>(pad) + 1)) - pad : 0;
    };
    p.dy = shift();
    p.dx = shift();
    p.flip = options.flip && rng.below(2) == 1;
    return p;
  }

  Batch prepare_on_device(int64_t first, int64_t count) const {
    Tensor where = Tensor::empty({count, 4}, Dtype::kI32),
           labels = Tensor::empty({count}, Dtype::kI32);
    int32_t* to = where.data<int32_t>();
    for (int64_t i = 0; i < count; ++i, to += 4) {
      const Place p = place(first + i);
      to[0] = static_cast<int32_t>(p.image);
      to[1] = p.dy;
      to[2] = p.dx;
      to[3] = p.flip;
      labels.data<int32_t>()[i] = data.labels[static_cast<size_t>(p.image)];
    }
    return {backend(options.device).crop(pixels, where.to(options.device)),
            labels.to(options.device), first};
  }

  Batch prepare(int64_t index) const {
    check_whole(data);
    Batch batch;
    batch.first = index * options.batch;
    const int64_t count = std::min(options.batch, data.count() - batch.first);
    if (on_device()) return prepare_on_device(batch.first, count);
    batch.images = Tensor::empty({count, data.channels, data.height, data.width});
    batch.labels = Tensor::empty({count}, Dtype::kI32);
    float* images = batch.images.data<float>();
    int32_t* labels = batch.labels.data<int32_t>();
    for (int64_t i = 0; i < count; ++i, images += data.image_size()) {
      const Place p = place(batch.first + i);
      const uint8_t* image = data.pixels.data() + p.image * data.image_size();
      labels[i] = data.labels[p.image];
      if (options.crop_padding == 0 && !options.flip) {
        to_unit(image, data.image_size(), images);
      } else {
        crop_to_unit(image, data.channels, data.height, data.width, p.dy, p.dx, p.flip, images);
      }
    }
    return batch;
  }

  void work(const std::stop_token& stop) {
    run_on_any_cpu();
    try {
      begin();
      for (int64_t i = 0, n = batches(); i < n && !stop.stop_requested(); ++i) {
        Batch batch = prepare(i);
        std::unique_lock lock(mutex);
        const auto room = [&] { return ready.size() < static_cast<size_t>(options.prefetch); };
        if (!changed.wait(lock, stop, room)) return;
        ready.push_back(std::move(batch));
        changed.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }

  bool next(Batch& batch) {
    if (delivered == batches()) return false;
    const auto start = std::chrono::steady_clock::now();
    if (options.prefetch == 0 || on_device()) {
      if (delivered == 0) begin();
      batch = prepare(delivered);
    } else {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return !ready.empty() || error; });
      if (ready.empty()) std::rethrow_exception(error);
      batch = std::move(ready.front());
      ready.pop_front();
      changed.notify_all();
    }
    waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ++delivered;
    return true;
  }
};

Loader::Loader(const Dataset& data, const LoaderOptions& options) {
  const std::string where = "loader of " + data.name;
  check_whole(data);
  if (options.batch < 1) {
    usage_fail("batch size must be at least 1, not " + std::to_string(options.batch), where);
  }
  if (options.crop_padding < 0 || options.crop_padding > std::min(data.height, data.width)) {
    usage_fail(
        "crop padding must be 0 to the image's size, not " + std::to_string(options.crop_padding),
        where);
  }
  if (options.prefetch < 0) usage_fail("prefetch must not be negative", where);
  impl_ = std::make_unique<Impl>(data, options);
  if (impl_->batches() == 0) {
    usage_fail(std::to_string(data.count()) + " images do not fill one batch of " +
                   std::to_string(options.batch),
               where, "use a smaller batch, more images, or keep the last batch");
  }
}

Loader::~Loader() = default;

void Loader::start(int64_t epoch) {
  impl_->stop();
  impl_->started = true;
  impl_->epoch_key =
      Rng(Rng(impl_->options.seed, "loader").next(), static_cast<uint64_t>(epoch)).next();
  impl_->delivered = 0;
  if (impl_->options.prefetch > 0 && !impl_->on_device()) {
    impl_->thread = std::jthread([impl = impl_.get()](std::stop_token stop) { impl->work(stop); });
  }
}

bool Loader::next(Batch& batch) {
  if (!impl_->started) fail("Loader::next before start", "loader of " + impl_->data.name);
  return impl_->next(batch);
}

int64_t Loader::batches() const { return impl_->batches(); }

double Loader::seconds_waited() const { return impl_->waited; }

Tensor images_of(const Dataset& data, int64_t first, int64_t count) {
  check_whole(data);
  check_range(data, first, count);
  Tensor out = Tensor::empty({count, data.channels, data.height, data.width});
  to_unit(data.pixels.data() + first * data.image_size(), count * data.image_size(),
          out.data<float>());
  return out;
}

Tensor labels_of(const Dataset& data, int64_t first, int64_t count) {
  check_range(data, first, count);
  return Tensor::from_labels(std::span(data.labels).subspan(first, count));
}

}  // namespace ens
