// SPDX-License-Identifier: Apache-2.0
// K inputs and T uniform noises, coded over a finite field (offload/core/coding.h): any T workers
// see uniform residues, any K + T outputs decode exactly. K = T = 1 is additive sharing between two
// workers.
#include <algorithm>
#include <map>

#include "base/error.h"
#include "offload/core/coding.h"
#include "offload/core/nonces.h"
#include "offload/schemes/schemes.h"
#include "offload/schemes/secure_stream.h"

namespace ens {
namespace {

class FieldEncoding : public Encoding {
 public:
  FieldEncoding(const LagrangeCode& code, const Tensor& x, SecureStream& secrets)
      : code_(code), one_(Shape(x.shape().dims().subspan(1))), images_(x.dim(0)) {
    const int64_t inputs = code.inputs();
    groups_ = (images_ + inputs - 1) / inputs;
    const auto size = static_cast<size_t>(groups_ * one_.numel());
    // Image i is input i / G of group i % G: then an input's row is one piece of x. The last rows
    // may lack images, which are zero.
    const std::vector<uint32_t> elements = to_residues(code.field(), x);
    for (int64_t k = 0; k < inputs; ++k) {
      rows_.emplace_back(size, 0u);
      const size_t first = std::min(elements.size(), static_cast<size_t>(k) * size);
      const size_t count = std::min(size, elements.size() - first);
      std::copy_n(elements.begin() + static_cast<ptrdiff_t>(first), count, rows_.back().begin());
    }
    for (int t = 0; t < code.noises(); ++t) {
      seeds_.push_back(secrets.next());
      rows_.emplace_back(size);
      use_nonce(seeds_.back());
      expand_seed(seeds_.back(), code.field(), rows_.back());
    }
  }

  int64_t groups() const override { return groups_; }

  Share share(int index) override {
    if (index < code_.noises()) return {{}, seeds_[static_cast<size_t>(index)]};
    const Shape one = batched(groups_, one_);
    Tensor frame = Tensor::empty(batched(code_.field().planes(), one), Dtype::kI8);
    to_planes(code_.field(), elements(index), frame.span<int8_t>());
    return {frame, std::nullopt};
  }

  std::span<const uint32_t> elements(int index) override {
    if (index < code_.noises()) return rows_[static_cast<size_t>(code_.inputs() + index)];
    const auto [share, is_new] = shares_.try_emplace(index);
    if (is_new) {
      const std::vector<std::span<const uint32_t>> rows(rows_.begin(), rows_.end());
      share->second.resize(rows_[0].size());
      combine(code_.field(), code_.encoding(index), rows, share->second);
    }
    return share->second;
  }

  bool read(const Tensor& frame, Elements& residues) const override {
    residues.resize(static_cast<size_t>(frame.numel()) /
                    static_cast<size_t>(code_.field().planes()));
    return from_planes(code_.field(), frame.span<int8_t>(), residues);
  }

  Tensor decode(size_t, std::span<const int> indices, std::span<const Elements> outputs,
                const Shape& output) const override {
    const std::vector<std::span<const uint32_t>> rows(outputs.begin(), outputs.end());
    const auto coefficients = code_.decoding(indices);
    Tensor y = Tensor::empty(batched(images_, output), Dtype::kI32);
    std::span<int32_t> left = y.span<int32_t>();
    std::vector<uint32_t> decoded(rows[0].size());
    for (const auto& row : coefficients) {
      const size_t count = std::min(left.size(), decoded.size());
      combine(code_.field(), row, rows, decoded);
      to_integers(code_.field(), std::span(decoded).first(count), left.first(count));
      left = left.subspan(count);
    }
    return y;
  }

 private:
  const LagrangeCode& code_;
  const Shape one_;
  const int64_t images_;
  int64_t groups_ = 0;
  std::vector<Seed> seeds_;
  std::vector<std::vector<uint32_t>> rows_;      // K inputs, T noises: [G, ...]
  std::map<int, std::vector<uint32_t>> shares_;  // made so far
};

class DarKnightField : public Scheme {
 public:
  explicit DarKnightField(const SchemeOptions& o)
      : code_(o.field, o.virtual_batch, o.noises, o.shares) {
    if (o.noises < 1) {
      usage_fail("darknight_field without a noise hides nothing", "offload.noises",
                 "use 1 or more");
    }
  }

  Claims claims() const override {
    return {code_.noises(), "the network, its weights, shapes, batch sizes and times"};
  }
  const Field& field() const override { return code_.field(); }
  int planes() const override { return code_.field().planes(); }
  int output_bytes() const override { return code_.field().planes(); }
  ShareNumbers numbers() const override { return ShareNumbers::kResidues; }
  int inputs() const override { return code_.inputs(); }
  int shares() const override { return code_.shares(); }
  int needed() const override { return code_.needed(); }
  int seeds() const override { return code_.noises(); }
  std::unique_ptr<Encoding> encode(size_t, const Tensor& x) override {
    return std::make_unique<FieldEncoding>(code_, x, secrets_);
  }

 private:
  const LagrangeCode code_;
  SecureStream secrets_;
};

}  // namespace

std::unique_ptr<Scheme> make_darknight_field(const SchemeOptions& options) {
  return std::make_unique<DarKnightField>(options);
}

}  // namespace ens
