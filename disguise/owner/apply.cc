// SPDX-License-Identifier: Apache-2.0
#include "disguise/owner/apply.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/files.h"
#include "base/progress.h"
#include "base/secret_rng.h"
#include "base/strings.h"
#include "base/threads.h"
#include "proto/config.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kScaleRows = 2048;  // that decide the scale of `store: uint8`

// The image, shifted by up to `padding` pixels in both directions, black coming in, and mirrored
// half of the time if `flip`.
void augment(std::span<float> image, const ImageShape& shape, int padding, bool flip,
             SecretRng& rng) {
  const auto shift = [&] {
    return static_cast<int>(rng.below(2 * static_cast<uint64_t>(padding) + 1)) - padding;
  };
  const int down = shift(), right = shift();
  const bool mirrored = flip && (rng.next() & 1) != 0;
  const std::vector<float> old(image.begin(), image.end());
  float* to = image.data();
  for (int c = 0; c < shape.channels; ++c) {
    for (int y = 0; y < shape.height; ++y) {
      for (int x = 0; x < shape.width; ++x) {
        const int from_y = y + down, from_x = (mirrored ? shape.width - 1 - x : x) + right;
        const bool inside =
            from_y >= 0 && from_y < shape.height && from_x >= 0 && from_x < shape.width;
        *to++ = inside
                    ? old[static_cast<size_t>((c * shape.height + from_y) * shape.width + from_x)]
                    : 0;
      }
    }
  }
}

// [n,C,H,W] over the data set's own memory.
Tensor as_tensor(const Dataset& data) {
  return Tensor::wrap(const_cast<uint8_t*>(data.pixels.data()),
                      {data.count(), data.channels, data.height, data.width}, Dtype::kU8, nullptr);
}

// One disguised set in the making: a row is one version of one image.
class Applying {
 public:
  Applying(const DisguiseKey& key, const Dataset& data, const std::string& split,
           const ApplyOptions& options)
      : key_(key),
        data_(data),
        options_(options),
        mixed_(key.method() == "instahide" && split == "train"),
        versions_(mixed_             ? key.settings().instahide().encodings()
                  : split == "train" ? key.settings().augment()
                                     : 1),
        transform_(key.transform()),
        fresh_(key.fresh(split)) {
    const std::vector<int32_t> names = key.renamed_classes();
    for (const int32_t label : data.labels)
      own_labels_.push_back(names[static_cast<size_t>(label)]);
    SecretRng rng(fresh_.next());
    order_ = rng.permutation(data.count() * versions_);
    info_.method = key.method();
    info_.settings = to_text(key.settings());
    info_.shape = transform_->output_shape();
    info_.dtype = transform_->ciphertext() ? Dtype::kU8 : parse_dtype(key.settings().store());
    info_.rows = static_cast<int64_t>(order_.size());
    info_.classes = static_cast<int>(key.images().class_names.size());
    info_.key_id = key.id();
    const uint64_t id = rng.next();
    info_.set_id = to_hex({reinterpret_cast<const char*>(&id), sizeof id});
    info_.split = split;
    if (key.insecure()) info_.marks = {"insecure_seeded_secrets"};
    if (mixed_) prepare_mixing();
    if (info_.dtype == Dtype::kU8 && !transform_->ciphertext()) find_scale();
  }

  DisguisedSetInfo write(const fs::path& file) {
    DisguisedSetWriter writer(file, info_);
    Progress progress("disguising " + data_.name, info_.rows);
    for (int64_t first = 0; first < info_.rows; first += kDisguisedChunkRows) {
      const int64_t count = std::min(kDisguisedChunkRows, info_.rows - first);
      if (mixed_) {
        const Encodings mixtures = mix(first, count);
        writer.add(mixtures.rows, mixtures.labels);
      } else {
        std::vector<int32_t> labels;
        for (int64_t row = first; row < first + count; ++row)
          labels.push_back(own_labels_[static_cast<size_t>(image_of(row))]);
        writer.add(rows(first, count), labels);
      }
      progress.add(count);
    }
    return writer.finish();
  }

 private:
  int64_t image_of(int64_t row) const { return order_[static_cast<size_t>(row)] / versions_; }

  std::vector<int64_t> images_of_rows(int64_t first, int64_t count) const {
    std::vector<int64_t> images;
    for (int64_t row = first; row < first + count; ++row) images.push_back(image_of(row));
    return images;
  }

  // All images of both data sets are mixed, where the key has some for queries.
  void prepare_mixing() {
    info_.soft_labels = true;
    mixing_ = key_.mixing();
    mixing_.own.images = as_tensor(data_);
    if (!mixing_.cross()) return;
    if (!options_.public_data) {
      usage_fail("there are no public images to mix in", "disguise.instahide.public_data",
                 "name a data set with images of the same shape");
    }
    mixing_.others.images = as_tensor(*options_.public_data);
  }

  Encodings mix(int64_t first, int64_t count) {
    return instahide_encode(key_.images().shape, mixing_, images_of_rows(first, count), own_labels_,
                            info_.classes, fresh_);
  }

  Tensor rows(int64_t first, int64_t count) {
    if (mixed_) return mix(first, count).rows;
    const std::vector<int64_t> images = images_of_rows(first, count);
    Tensor pixels = pixels_of(data_, images);
    const ImageShape& shape = key_.images().shape;
    const auto size = static_cast<size_t>(shape.shape().numel());
    for (int64_t row = first; versions_ > 1 && row < first + count; ++row) {
      if (order_[static_cast<size_t>(row)] % versions_ == 0) continue;
      SecretRng rng(fresh_.next());
      augment(pixels.span<float>().subspan(static_cast<size_t>(row - first) * size, size), shape,
              options_.crop_padding, options_.flip, rng);
    }
    return transform_->apply(pixels, fresh_);
  }

  // Between the smallest and the largest element of some rows; what lies outside saturates.
  void find_scale() {
    float low = std::numeric_limits<float>::max(), high = std::numeric_limits<float>::lowest();
    for (int64_t first = 0; first < std::min(kScaleRows, info_.rows);
         first += kDisguisedChunkRows) {
      const Tensor some = rows(first, std::min(kDisguisedChunkRows, info_.rows - first));
      const auto [least, most] = std::ranges::minmax(some.span<float>());
      low = std::min(low, least);
      high = std::max(high, most);
    }
    info_.offset = low;
    info_.scale = high > low ? (high - low) / 255 : 1;
  }

  const DisguiseKey& key_;
  const Dataset& data_;
  const ApplyOptions& options_;
  bool mixed_;        // rows are mixtures of several images
  int64_t versions_;  // of an image, or mixtures that it is the first of
  std::unique_ptr<Transform> transform_;
  InstahideParameters mixing_;
  std::vector<int32_t> own_labels_;  // as the cloud sees them
  FreshRandomness fresh_;
  std::vector<int64_t> order_;  // version of image: image * versions + version
  DisguisedSetInfo info_;
};

}  // namespace

Tensor pixels_of(const Dataset& data, const std::vector<int64_t>& indices) {
  const auto count = static_cast<int64_t>(indices.size()), size = data.image_size();
  Tensor images = Tensor::empty({count, data.channels, data.height, data.width});
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(data.pixels.data() + indices[static_cast<size_t>(i)] * size, size,
                  images.data<float>() + i * size);
    }
  });
  return images;
}

Tensor first_pixels(const Dataset& data, int64_t count) {
  std::vector<int64_t> indices(static_cast<size_t>(std::min(count, data.count())));
  std::iota(indices.begin(), indices.end(), 0);
  return pixels_of(data, indices);
}

KeySamples key_samples(const DisguiseConfig& settings, const Dataset& own,
                       const Dataset* public_data) {
  const int64_t count = DisguiseKey::samples_needed(settings);
  KeySamples samples;
  if (count == 0) return samples;
  samples.own = first_pixels(own, count);
  if (public_data) samples.others = first_pixels(*public_data, count);
  return samples;
}

void check_images_of(const DisguiseKey& key, const Dataset& data) {
  const ImageShape shape{data.channels, data.height, data.width};
  if (!(shape == key.images().shape)) {
    usage_fail("the images are " + shape.shape().str() +
                   " (channels, height, width), and the key is for " +
                   key.images().shape.shape().str(),
               data.name,
               "use the data set that the key was made for, or make another key: ensembler "
               "disguise keygen");
  }
  check_classes(data, key.images().class_names, "key " + key.id());
}

DisguisedSetInfo apply_disguise(const DisguiseKey& key, const Dataset& data,
                                const std::string& split, const fs::path& file,
                                const ApplyOptions& options) {
  check_images_of(key, data);
  if (data.count() == 0)
    usage_fail("there are no images to disguise", data.name,
               "set data.train_limit and data.test_limit to 0 for all");
  refuse_existing(file);
  return Applying(key, data, split, options).write(file);
}

}  // namespace ens
