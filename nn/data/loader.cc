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

void check_options(const LoaderOptions& options, int64_t count, const std::string& where) {
  if (options.batch < 1) {
    usage_fail("batch size must be at least 1, not " + std::to_string(options.batch), where);
  }
  if (options.prefetch < 0) usage_fail("prefetch must not be negative", where);
  if (count < 1 || (options.drop_last && count < options.batch)) {
    usage_fail(
        std::to_string(count) + " images do not fill one batch of " + std::to_string(options.batch),
        where, "use a smaller batch, more images, or keep the last batch");
  }
}

// The images of a data set; in the memory of a GPU that augments there.
class ImageSource : public RowSource {
 public:
  ImageSource(const Dataset& data, const LoaderOptions& options) : data_(data), options_(options) {
    if (!backend(options.device).can_crop()) return;
    Tensor all = Tensor::empty({data.count(), data.channels, data.height, data.width}, Dtype::kU8);
    std::memcpy(all.raw(), data.pixels.data(), all.bytes());
    pixels_ = all.to(options.device);
  }

  std::string name() const override { return data_.name; }
  int64_t count() const override { return data_.count(); }
  bool on_device() const { return pixels_.defined(); }

  Batch read(std::span<const LoadedRow> rows) override {
    check_whole(data_);
    if (on_device()) return read_on_device(rows);
    const Shape image{data_.channels, data_.height, data_.width};
    Batch batch{Tensor::empty(batched(std::ssize(rows), image)), labels(rows)};
    float* images = batch.images.data<float>();
    for (const LoadedRow& p : rows) {
      const uint8_t* image = data_.pixels.data() + p.row * data_.image_size();
      if (options_.crop_padding == 0 && !options_.flip) {
        to_unit(image, data_.image_size(), images);
      } else {
        crop_to_unit(image, data_.channels, data_.height, data_.width, p.dy, p.dx, p.flip, images);
      }
      images += data_.image_size();
    }
    return batch;
  }

 private:
  Tensor labels(std::span<const LoadedRow> rows) const {
    Tensor labels = Tensor::empty({std::ssize(rows)}, Dtype::kI32);
    int32_t* to = labels.data<int32_t>();
    for (const LoadedRow& p : rows) *to++ = data_.labels[static_cast<size_t>(p.row)];
    return labels;
  }

  Batch read_on_device(std::span<const LoadedRow> rows) const {
    Tensor where = Tensor::empty({std::ssize(rows), 4}, Dtype::kI32);
    int32_t* to = where.data<int32_t>();
    for (const LoadedRow& p : rows) {
      *to++ = static_cast<int32_t>(p.row);
      *to++ = p.dy;
      *to++ = p.dx;
      *to++ = p.flip;
    }
    return {backend(options_.device).crop(pixels_, where.to(options_.device)),
            labels(rows).to(options_.device)};
  }

  const Dataset& data_;
  const LoaderOptions options_;
  Tensor pixels_;  // the data set on options.device, where that augments
};

// A permutation of the rows that opens no more chunks at a time than the source allows.
std::vector<int64_t> shuffled(const RowSource& source, uint64_t key) {
  Rng rng(key, "loader order");
  const int64_t count = source.count(), chunk = source.chunk();
  const int64_t chunks = chunk > 0 ? (count + chunk - 1) / chunk : 1;
  if (chunks <= source.open_chunks()) return rng.permutation(count);
  const std::vector<int64_t> chunk_order = rng.permutation(chunks);
  std::vector<int64_t> order, open;
  for (int64_t first = 0; first < chunks; first += source.open_chunks()) {
    open.clear();
    for (int64_t i = first; i < std::min(chunks, first + source.open_chunks()); ++i) {
      const int64_t begin = chunk_order[static_cast<size_t>(i)] * chunk;
      for (int64_t row = begin; row < std::min(count, begin + chunk); ++row) open.push_back(row);
    }
    for (const int64_t i : rng.permutation(std::ssize(open))) {
      order.push_back(open[static_cast<size_t>(i)]);
    }
  }
  return order;
}

}  // namespace

struct Loader::Impl {
  const std::unique_ptr<RowSource> owned;  // of a data set
  RowSource& source;
  const LoaderOptions options;
  const bool on_caller;  // batches are prepared in next(), in the caller's order of work

  bool started = false;
  uint64_t epoch_key = 0;
  std::vector<int64_t> order;  // owned by the thread while it runs
  int64_t delivered = 0;
  double waited = 0;

  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Batch> ready;   // guarded by mutex
  std::exception_ptr error;  // guarded by mutex
  std::jthread thread;       // last: stops before the rest goes

  Impl(std::unique_ptr<ImageSource> images, const LoaderOptions& o)
      : owned(std::move(images)),
        source(*owned),
        options(o),
        on_caller(o.prefetch == 0 || static_cast<const ImageSource&>(source).on_device()) {}
  Impl(RowSource& rows, const LoaderOptions& o)
      : source(rows), options(o), on_caller(o.prefetch == 0) {}

  int64_t batches() const {
    return options.drop_last ? source.count() / options.batch
                             : (source.count() + options.batch - 1) / options.batch;
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
    if (options.shuffle) order = shuffled(source, epoch_key);
  }

  LoadedRow place(int64_t position) const {
    LoadedRow p{options.shuffle ? order[static_cast<size_t>(position)] : position};
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

  Batch prepare(int64_t index) const {
    const int64_t first = index * options.batch;
    std::vector<LoadedRow> rows;
    for (int64_t i = first; i < std::min(first + options.batch, source.count()); ++i) {
      rows.push_back(place(i));
    }
    Batch batch = source.read(rows);
    batch.first = first;
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
    if (on_caller) {
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
    if (options.device.type != Device::Type::kCpu) {
      batch.images = batch.images.to(options.device);
      batch.labels = batch.labels.to(options.device);
    }
    waited += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ++delivered;
    return true;
  }
};

Loader::Loader(const Dataset& data, const LoaderOptions& options) {
  const std::string where = "loader of " + data.name;
  check_whole(data);
  check_options(options, data.count(), where);
  if (options.crop_padding < 0 || options.crop_padding > std::min(data.height, data.width)) {
    usage_fail(
        "crop padding must be 0 to the image's size, not " + std::to_string(options.crop_padding),
        where);
  }
  impl_ = std::make_unique<Impl>(std::make_unique<ImageSource>(data, options), options);
}

Loader::Loader(RowSource& source, const LoaderOptions& options) {
  const std::string where = "loader of " + source.name();
  check_options(options, source.count(), where);
  if (options.crop_padding != 0 || options.flip) {
    usage_fail("only images of a data set can be augmented", where,
               "set crop padding and flip to 0");
  }
  impl_ = std::make_unique<Impl>(source, options);
}

Loader::~Loader() = default;

void Loader::start(int64_t epoch) {
  impl_->stop();
  impl_->started = true;
  impl_->epoch_key =
      Rng(Rng(impl_->options.seed, "loader").next(), static_cast<uint64_t>(epoch)).next();
  impl_->delivered = 0;
  if (!impl_->on_caller) {
    impl_->thread = std::jthread([impl = impl_.get()](std::stop_token stop) { impl->work(stop); });
  }
}

bool Loader::next(Batch& batch) {
  if (!impl_->started) fail("Loader::next before start", "loader of " + impl_->source.name());
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
