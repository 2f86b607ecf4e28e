// SPDX-License-Identifier: Apache-2.0
// Every worker gets x as it is, and one output is enough: what the traffic costs without any
// secrecy.
#include <algorithm>

#include "offload/schemes/schemes.h"

namespace ens {
namespace {

class ClearEncoding : public Encoding {
 public:
  ClearEncoding(const Field& field, Tensor x)
      : field_(field), x_(std::move(x)), residues_(to_residues(field, x_)) {}

  int64_t groups() const override { return x_.dim(0); }
  Share share(int) override { return {x_.reshape(batched(1, x_.shape())), std::nullopt}; }
  std::span<const uint32_t> elements(int) override { return residues_; }
  bool read(const Tensor& frame, Elements& residues) const override {
    residues = to_residues(field_, frame);
    // Sums of int8 products are small (Int8Net); others would not come back from the residues.
    return std::ranges::all_of(frame.span<int32_t>(), [this](int32_t v) {
      return v >= -static_cast<int64_t>(field_.prime() / 2) &&
             v <= static_cast<int64_t>(field_.prime() / 2);
    });
  }
  Tensor decode(size_t, std::span<const int>, std::span<const Elements> outputs,
                const Shape& output) const override {
    Tensor y = Tensor::empty(batched(x_.dim(0), output), Dtype::kI32);
    to_integers(field_, outputs[0], y.span<int32_t>());
    return y;
  }

 private:
  const Field field_;
  const Tensor x_;
  const std::vector<uint32_t> residues_;
};

class Clear : public Scheme {
 public:
  explicit Clear(const SchemeOptions& options) : options_(options) {}

  Claims claims() const override { return {0, "every activation that a worker is sent"}; }
  const Field& field() const override { return options_.field; }
  int planes() const override { return 1; }
  int output_bytes() const override { return 4; }
  ShareNumbers numbers() const override { return ShareNumbers::kIntegers; }
  int inputs() const override { return 1; }
  int shares() const override { return options_.shares; }
  int needed() const override { return 1; }
  int seeds() const override { return 0; }
  std::unique_ptr<Encoding> encode(size_t, const Tensor& x) override {
    return std::make_unique<ClearEncoding>(options_.field, x);
  }

 private:
  const SchemeOptions options_;
};

}  // namespace

std::unique_ptr<Scheme> make_clear(const SchemeOptions& options) {
  return std::make_unique<Clear>(options);
}

}  // namespace ens
