// SPDX-License-Identifier: Apache-2.0
#include "edge/probes.h"

#include <cmath>

#include "base/error.h"
#include "base/strings.h"
#include "nn/core/rng.h"
#include "nn/io/checkpoint.h"

namespace ens {

Probes::Probes(std::string fingerprint, Tensor features, Tensor outputs)
    : fingerprint_(std::move(fingerprint)),
      features_(std::move(features)),
      outputs_(std::move(outputs)) {}

Probes::Probes(const std::filesystem::path& file, const BundleInfo& info) {
  const Checkpoint checkpoint = read_checkpoint(file, "probes");
  fingerprint_ = info.fingerprint;
  features_ = checkpoint.tensor("features");
  outputs_ = checkpoint.tensor("answers");
  if (checkpoint.text("fingerprint") != to_hex(info.fingerprint)) {
    fail("the probes were recorded with other server nets", file.string(),
         "record them again: ensembler-edge --record-probes");
  }
  if (features_.rank() < 2 || outputs_.rank() < 3 || features_.dim(0) < 1 ||
      features_.numel() != features_.dim(0) * smashed_shape(info.model, info.split).numel() ||
      outputs_.numel() !=
          info.nets * features_.dim(0) * body_output_shape(info.model, info.split).numel()) {
    fail("the probes do not fit the bundle", file.string(), "record them again");
  }
}

void Probes::write(const std::filesystem::path& file) const {
  Checkpoint checkpoint;
  checkpoint.kind = "probes";
  checkpoint.texts["fingerprint"] = to_hex(fingerprint_);
  checkpoint.tensors["features"] = features_;
  checkpoint.tensors["answers"] = outputs_;  // the name in files
  write_checkpoint(file, checkpoint, /*secret=*/true);
}

Probes::Sample Probes::draw(int64_t count) const {
  const int64_t known = features_.dim(0);
  const auto first = static_cast<int64_t>(secure_random() % static_cast<uint64_t>(known));
  Shape f = features_.shape(), a = outputs_.shape();
  f.set(0, count);
  a.set(1, count);
  Sample sample{Tensor::empty(f), Tensor::empty(a)};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t from = (first + i) % known;
    sample.features.rows(i, 1).copy_from(features_.rows(from, 1));
    for (int64_t net = 0; net < a[0]; ++net) {
      const int64_t each = outputs_.numel() / (a[0] * known);
      std::copy_n(outputs_.data<float>() + (net * known + from) * each, each,
                  sample.outputs.data<float>() + (net * count + i) * each);
    }
  }
  return sample;
}

Status Probes::check(const Tensor& outputs, const Tensor& right) {
  const int64_t nets = right.dim(0), each = right.numel() / nets;
  for (int64_t net = 0; net < nets; ++net) {
    double error = 0, norm = 0;
    for (int64_t i = net * each; i < (net + 1) * each; ++i) {
      const double wanted = right.data<float>()[i];
      error += (outputs.data<float>()[i] - wanted) * (outputs.data<float>()[i] - wanted);
      norm += wanted * wanted;
    }
    if (!(std::sqrt(error) <= kTolerance * std::sqrt(norm) + 1e-6)) {
      return {StatusCode::kInternal,
              "the cloud does not run the right nets: its outputs for a known probe are wrong"};
    }
  }
  return {};
}

}  // namespace ens
