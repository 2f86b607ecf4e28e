// SPDX-License-Identifier: Apache-2.0
// Slalom (1806.03287): an input x is sent as x + r with a uniform mask r, and the layer's product
// of it is f(W, x) + f(W, r), from which the trusted side subtracts the f(W, r) that it has
// computed beforehand. A mask is used once. Whoever sees any number of shares sees the same uniform
// residues. Computing f(W, r) is as much work as the layer itself, for each image.
#include <algorithm>
#include <deque>
#include <utility>

#include "offload/core/nonces.h"
#include "offload/schemes/schemes.h"
#include "offload/schemes/secure_stream.h"

namespace ens {
namespace {

constexpr int64_t kMasksAtOnce = 16;  // that prepare() multiplies together

// For one image: r, as its seed, and f(W, r) for each layer of its group.
struct Mask {
  Seed seed;
  std::vector<std::vector<uint32_t>> products;
};

class SlalomEncoding : public Encoding {
 public:
  SlalomEncoding(const Field& field, const Tensor& x, std::vector<Mask> masks)
      : field_(field), shape_(x.shape()), masks_(std::move(masks)), masked_(to_residues(field, x)) {
    std::vector<uint32_t> r(masked_.size() / masks_.size());
    uint32_t* at = masked_.data();
    for (const Mask& mask : masks_) {
      use_nonce(mask.seed);
      expand_seed(mask.seed, field, r);
      for (const uint32_t v : r) *at = field.add(*at, v), ++at;
    }
  }

  int64_t groups() const override { return shape_[0]; }
  Share share(int) override {
    Tensor frame = Tensor::empty(batched(field_.planes(), shape_), Dtype::kI8);
    to_planes(field_, masked_, frame.span<int8_t>());
    return {frame, std::nullopt};
  }
  std::span<const uint32_t> elements(int) override { return masked_; }
  bool read(const Tensor& frame, Elements& residues) const override {
    residues.resize(static_cast<size_t>(frame.numel() / field_.planes()));
    return from_planes(field_, frame.span<int8_t>(), residues);
  }
  Tensor decode(size_t layer, std::span<const int>, std::span<const Elements> outputs,
                const Shape& output) const override {
    Tensor y = Tensor::empty(batched(shape_[0], output), Dtype::kI32);
    const uint32_t* from = outputs[0].data();
    int32_t* to = y.data<int32_t>();
    for (const Mask& mask : masks_) {
      for (const uint32_t u : mask.products[layer]) *to++ = field_.centred(field_.sub(*from++, u));
    }
    return y;
  }

 private:
  const Field field_;
  const Shape shape_;  // of x
  const std::vector<Mask> masks_;
  std::vector<uint32_t> masked_;
};

class Slalom : public Scheme {
 public:
  explicit Slalom(const SchemeOptions& options) : options_(options) {}

  Claims claims() const override {
    return {shares(), "the network, its weights, shapes, batch sizes and times"};
  }
  const Field& field() const override { return options_.field; }
  int planes() const override { return options_.field.planes(); }
  int output_bytes() const override { return options_.field.planes(); }
  ShareNumbers numbers() const override { return ShareNumbers::kResidues; }
  int inputs() const override { return 1; }
  int shares() const override { return options_.shares; }
  int needed() const override { return 1; }
  int seeds() const override { return 0; }

  void add_group(std::vector<Int8Layer> layers, const Shape& input, float) override {
    groups_.push_back({std::move(layers), input, {}});
  }
  void prepare(int64_t images) override {
    for (Group& group : groups_) make_masks(group, images);
  }
  std::unique_ptr<Encoding> encode(size_t group, const Tensor& x) override {
    Group& g = groups_.at(group);
    make_masks(g, x.dim(0));
    std::vector<Mask> masks;
    for (int64_t b = 0; b < x.dim(0); ++b) {
      masks.push_back(std::move(g.masks.front()));
      g.masks.pop_front();
    }
    return std::make_unique<SlalomEncoding>(options_.field, x, std::move(masks));
  }

 private:
  struct Group {
    std::vector<Int8Layer> layers;
    Shape input;
    std::deque<Mask> masks;  // not used yet
  };

  // Until there are so many.
  void make_masks(Group& group, int64_t images) {
    const Field& field = options_.field;
    while (std::ssize(group.masks) < images) {
      const int64_t count = std::min(kMasksAtOnce, images - std::ssize(group.masks));
      const auto size = static_cast<size_t>(group.input.numel());
      std::vector<uint32_t> r(static_cast<size_t>(count) * size);
      std::vector<Mask> masks(static_cast<size_t>(count));
      for (size_t i = 0; i < masks.size(); ++i) {
        masks[i].seed = secrets_.next();
        expand_seed(masks[i].seed, field, std::span(r).subspan(i * size, size));
      }
      Tensor planes = Tensor::empty(batched(field.planes() * count, group.input), Dtype::kI8);
      to_planes(field, r, planes.span<int8_t>());
      for (const Int8Layer& layer : group.layers) {
        const std::vector<uint32_t> all = multiply(field, layer, planes);
        const size_t one = all.size() / masks.size();
        for (size_t i = 0; i < masks.size(); ++i) {
          const auto first = all.begin() + static_cast<ptrdiff_t>(i * one);
          masks[i].products.emplace_back(first, first + static_cast<ptrdiff_t>(one));
        }
      }
      std::ranges::move(masks, std::back_inserter(group.masks));
    }
  }

  const SchemeOptions options_;
  SecureStream secrets_;
  std::vector<Group> groups_;
};

}  // namespace

std::unique_ptr<Scheme> make_slalom(const SchemeOptions& options) {
  return std::make_unique<Slalom>(options);
}

}  // namespace ens
