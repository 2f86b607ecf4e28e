// SPDX-License-Identifier: Apache-2.0
#include "lab/split_trace.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "edge/pipeline.h"
#include "ensemble/model/edge_bundle.h"
#include "ensemble/protect/protection.h"
#include "nn/io/checkpoint.h"
#include "nn/plan/plan.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool is_noise(const ProtectionStep& step) {
  return step.name == "fixed_noise" || step.name == "fresh_noise";
}

Tensor scaled(const Tensor& values, double factor) {
  Tensor out = values.clone();
  for (float& v : out.span<float>()) v *= static_cast<float>(factor);
  return out;
}

Tensor one_image(const Tensor& batch) {  // [1, ...] -> [...]
  return batch.plain().reshape(Shape(batch.shape().dims().subspan(1)));
}

}  // namespace

struct SplitTracer::Impl {
  BundleInfo info;
  std::vector<std::string> class_names;
  ProtectionSpec protection;
  std::optional<EdgePipeline> pipeline;  // for the tail and the selector
  std::optional<Plan> head;
  std::vector<Plan> bodies;
};

SplitTracer::SplitTracer(const std::filesystem::path& run) : impl_(std::make_unique<Impl>()) {
  EdgeBundle bundle = read_edge_bundle(run / "edge.h5");
  if (bundle.blinded) fail("its first cells are blinded", "trace");
  impl_->head.emplace(lower(*bundle.head, bundle.info.model.input_shape()), Device{}, Dtype::kF32,
                      1);
  impl_->info = bundle.info;
  impl_->class_names = bundle.class_names;
  impl_->protection = bundle.protection;
  const CloudBundle cloud = read_cloud_bundle(run / "cloud.h5");
  if (cloud.info.fingerprint != bundle.info.fingerprint)
    fail("edge.h5 and cloud.h5 are of different trainings", run.string());
  const Shape sent = smashed_shape(bundle.info.model, bundle.info.split);
  for (const auto& body : cloud.bodies)
    impl_->bodies.emplace_back(lower(*body, sent), Device{}, Dtype::kF32, 1);
  impl_->pipeline.emplace(std::move(bundle), 1);
}

SplitTracer::~SplitTracer() = default;

const BundleInfo& SplitTracer::info() const { return impl_->info; }
const std::vector<std::string>& SplitTracer::class_names() const { return impl_->class_names; }

bool SplitTracer::has_noise() const { return std::ranges::any_of(impl_->protection, is_noise); }

SplitTrace SplitTracer::trace(const Tensor& image, double noise) {
  const Tensor batch = image.reshape(batched(1, image.shape()));
  SplitTrace out;
  ProtectionSpec spec = impl_->protection;
  for (ProtectionStep& step : spec) {
    if (noise != 1 && is_noise(step)) step.values = scaled(step.values, noise);
  }
  const std::unique_ptr<Protection> protection = make_protection(spec);
  Clock::time_point start = Clock::now();
  Tensor features = impl_->head->run(batch);
  out.edge_ms = milliseconds_since(start);
  out.clean = one_image(features.clone());
  start = Clock::now();
  protection->apply(features);
  out.edge_ms += milliseconds_since(start);
  out.sent = one_image(features);

  std::vector<Tensor> answers;
  for (Plan& body : impl_->bodies) {
    start = Clock::now();
    answers.push_back(body.run(features));
    out.body_ms.push_back(milliseconds_since(start));
  }
  out.outputs =
      Tensor::empty(batched(static_cast<int64_t>(answers.size()), answers.front().shape()));
  float* to = out.outputs.data<float>();
  for (const Tensor& answer : answers) {
    const auto values = answer.span<float>();
    to = std::copy(values.begin(), values.end(), to);
  }
  start = Clock::now();
  const Tensor logits = impl_->pipeline->finish(out.outputs);
  out.tail_ms = milliseconds_since(start);

  const auto values = logits.span<float>();
  const float largest = *std::ranges::max_element(values);
  double sum = 0;
  for (const float v : values) sum += std::exp(static_cast<double>(v - largest));
  for (size_t i = 0; i < values.size(); ++i) {
    const std::string name = i < class_names().size() ? class_names()[i] : std::to_string(i);
    out.probabilities.emplace_back(name, std::exp(static_cast<double>(values[i] - largest)) / sum);
  }
  std::ranges::stable_sort(out.probabilities, std::greater(),
                           [](const auto& p) { return p.second; });
  return out;
}

}  // namespace ens
