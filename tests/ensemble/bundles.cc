// SPDX-License-Identifier: Apache-2.0
#include "tests/ensemble/bundles.h"

#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "nn/autograd/var.h"

namespace ens::test {
namespace {

// Fresh batch norms are the identity: that would hide folding mistakes.
void shake(Module& module, Rng& rng) {
  for (NamedTensor& buffer : module.buffers()) {
    if (buffer.tensor.dtype() != Dtype::kF32 || buffer.name.find("running_") == std::string::npos)
      continue;
    const bool variance = buffer.name.find("running_var") != std::string::npos;
    rng.fill_uniform(buffer.tensor.span<float>(), variance ? 0.5f : -0.2f, variance ? 1.5f : 0.2f);
  }
  module.freeze();
  module.train(false);
}

}  // namespace

Bundles random_bundles(uint64_t seed, int nets, std::vector<int> selected, int width, int tail,
                       int head) {
  BundleInfo info;
  info.model.width = width;
  info.model.image_size = 16;
  info.model.stem_pool = false;
  info.model.mean = {0.4914f, 0.4822f, 0.4465f};
  info.model.stddev = {0.247f, 0.2435f, 0.2616f};
  info.split.head = head;
  info.split.tail = tail;
  info.nets = nets;
  info.data = "random";
  Rng rng(seed);
  CloudBundle cloud{.info = info};
  for (int i = 0; i < nets; ++i) {
    cloud.bodies.push_back(build_body(info.model, info.split, rng));
    shake(*cloud.bodies.back(), rng);
  }
  cloud.info.fingerprint = fingerprint_of(cloud.bodies);
  EdgeBundle edge{
      .info = cloud.info,
      .head = build_head(info.model, info.split, rng),
      .tail = build_tail(info.model, info.split, rng, static_cast<int>(selected.size())),
      .selector = Selector(nets, selected),
      .protection = {{"fixed_noise", Tensor::empty(smashed_shape(info.model, info.split))}}};
  shake(*edge.head, rng);
  shake(*edge.tail, rng);
  Rng noise(seed, "noise");
  noise.fill_normal(edge.protection[0].values.span<float>(), 0, 0.1f);
  for (int i = 0; i < info.model.classes; ++i)
    edge.class_names.push_back("class " + std::to_string(i));
  return {std::move(cloud), std::move(edge)};
}

void write(Bundles& bundles, const std::filesystem::path& folder) {
  write_cloud_bundle(folder / "cloud.h5", bundles.cloud);
  bundles.edge.info.fingerprint = bundles.cloud.info.fingerprint;
  write_edge_bundle(folder / "edge.h5", bundles.edge);
}

Tensor expected_logits(const Bundles& bundles, const Tensor& images) {
  const NoGrad no_grad;
  const auto& selected = bundles.edge.selector.selected();
  const int64_t count = images.dim(0);
  const Tensor head = bundles.edge.head->forward(Var(images)).value().plain();
  std::vector<float> z = head.to_vector();
  const std::vector<float> noise = bundles.edge.protection[0].values.to_vector();
  for (size_t i = 0; i < z.size(); ++i) z[i] += noise[i % noise.size()];
  const Var features(Tensor::from(z, head.shape()));
  std::vector<std::vector<float>> answers;
  Shape shape;
  for (int net : selected) {
    const Tensor answer = bundles.cloud.bodies[static_cast<size_t>(net)]->forward(features).value();
    shape = answer.shape();
    answers.push_back(answer.to_vector());
  }
  std::vector<float> joined;  // image by image, the selected answers one after the other
  const size_t size = answers[0].size() / static_cast<size_t>(count);
  for (size_t b = 0; b < static_cast<size_t>(count); ++b) {
    for (const auto& answer : answers) {
      for (size_t i = 0; i < size; ++i) {
        joined.push_back(answer[b * size + i] / static_cast<float>(selected.size()));
      }
    }
  }
  shape.set(1, shape[1] * static_cast<int64_t>(selected.size()));
  return bundles.edge.tail->forward(Var(Tensor::from(joined, shape))).value();
}

Tensor random_images(const ModelSpec& spec, int64_t count, uint64_t seed) {
  Tensor images = Tensor::empty(batched(count, spec.input_shape()));
  Rng rng(seed, "images");
  rng.fill_uniform(images.span<float>(), 0, 1);
  return images;
}

}  // namespace ens::test
