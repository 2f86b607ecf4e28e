// SPDX-License-Identifier: Apache-2.0
// Ensembler (arXiv 2401.10859): the client draws P of the nets of stage 1 in secret; stage 2 trains
// a head, tail and noise of its own around their frozen bodies.
#include <algorithm>

#include "ensemble/train/protection_training.h"
#include "experiment/setup.h"
#include "nn/io/checkpoint.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// What the client draws once. Kept beside the checkpoint, so that a resumed training continues with
// the same secrets.
struct Secrets {
  Selector selector;
  ProtectionSpec protection;
};

Secrets draw_secrets(const TrainingContext& context) {
  const EnsembleConfig& e = context.config.ensemble();
  const fs::path file = context.run.path("stage2/secrets.h5");
  Rng rng = context.secret_rng("stage2/noise");
  ProtectionSpec protection = draw_noise(context, rng);
  if (fs::exists(file)) {
    const Checkpoint c = read_checkpoint(file, "secrets");
    std::vector<int> selected;
    for (float index : c.tensor("selected").to_vector())
      selected.push_back(static_cast<int>(index));
    for (ProtectionStep& step : protection) {
      if (step.name == "fixed_noise") step.values = c.tensor("noise");
    }
    return {Selector(e.nets(), selected), protection};
  }
  Secrets secrets{e.insecure_seeded_secrets()
                      ? Selector::seeded(e.nets(), e.selected(), context.config.seed())
                      : Selector::draw(e.nets(), e.selected()),
                  protection};
  Checkpoint c;
  c.kind = "secrets";
  if (const Tensor* noise = find_values(protection, "fixed_noise")) c.tensors["noise"] = *noise;
  const auto& chosen = secrets.selector.selected();
  const std::vector<float> list(chosen.begin(), chosen.end());
  c.tensors["selected"] = Tensor::from(list, {secrets.selector.count()});
  write_checkpoint(file, c, /*secret=*/true);
  return secrets;
}

// max over the selected heads of the mean cosine similarity, on test images, without noise.
double reached_similarity(const TrainingContext& context, Sequential& head,
                          const std::vector<std::shared_ptr<Sequential>>& heads) {
  NoGrad no_grad;
  constexpr int64_t kBatch = 250;
  std::vector<double> sums(heads.size());
  const Dataset& data = context.quick_test;
  for (int64_t first = 0; first < data.count(); first += kBatch) {
    const int64_t n = std::min(kBatch, data.count() - first);
    const Var x(images_of(data, first, n).to(context.device));
    const Var own = head.forward(x);
    for (size_t i = 0; i < heads.size(); ++i) {
      sums[i] += sum(cosine_similarity(own, heads[i]->forward(x))).item();
    }
  }
  return *std::ranges::max_element(sums) / static_cast<double>(std::max<int64_t>(data.count(), 1));
}

TrainingResult train_stage2(const TrainingContext& context, const Stage1& stage1) {
  const Secrets secrets = draw_secrets(context);
  std::vector<std::shared_ptr<Sequential>> bodies, selected, heads;
  for (const auto& net : stage1.nets) bodies.push_back(net->body());
  for (int i : secrets.selector.selected()) {
    selected.push_back(bodies[static_cast<size_t>(i)]);
    heads.push_back(stage1.nets[static_cast<size_t>(i)]->head());
  }
  Rng rng(context.config.seed(), "stage2");
  std::shared_ptr<FeatureTraining> protection;
  if (!secrets.protection.empty()) {
    protection = std::make_shared<FeatureTraining>(
        secrets.protection, Rng(context.config.seed(), "stage2/draws").next());
  }
  EnsembleNet net(context.spec, context.split, protection, selected, rng);
  net.to(context.device);
  const auto result = [&] {
    return TrainingResult{net.head(), net.tail(), bodies, secrets.selector, net.protection()};
  };
  const auto lambda = static_cast<float>(context.config.ensemble().lambda());
  const auto net_loss = static_cast<float>(context.config.ensemble().net_loss());
  EpochMean similarity;
  NetTraining job;
  job.stage = "stage2";
  job.index = -1;
  job.settings = &context.config.stage2();
  job.optimizer = optim_spec(*job.settings);
  job.label = "ensemble";
  job.file = context.run.path("stage2/ensemble.h5");
  Loader loader = context.loader(*job.settings, rng.next(), context.device);
  job.loss = [&](const Batch& b) {
    const Var x = context.input(b);
    Var clean;
    const std::vector<Var> outputs = net.outputs(x, clean);
    Var total =
        softmax_cross_entropy(net.logits(outputs), b.labels, cross_entropy_spec(*job.settings));
    if (net_loss > 0 && outputs.size() > 1) {
      total = add(total, affine(net.net_cross_entropy(outputs, b.labels), net_loss, 0));
    }
    std::vector<Var> similarities;
    for (const auto& head : heads) {
      similarities.push_back(mean(cosine_similarity(clean, head->forward(x))));
    }
    const Var worst = maximum(similarities);
    similarity.add(worst.item());
    return lambda > 0 ? add(total, affine(worst, lambda, 0)) : total;
  };
  job.quick_accuracy = [&] { return measure_accuracy(context, result(), context.quick_test); };
  job.epoch_metrics = [&] {
    return std::vector<std::pair<std::string, double>>{{"similarity", similarity.take()}};
  };
  Progress progress("stage 2: head and tail", context.images_in(*job.settings));
  train_net(context.run, loader, net, job, progress);
  progress.finish();
  net.freeze();
  TrainingResult trained = result();
  trained.accuracy = measure_accuracy(context, trained, context.test);
  trained.similarity = reached_similarity(context, *net.head(), heads);
  return trained;
}

class Ensembler : public ProtectionTraining {
 public:
  void stage1_settings(const RunConfig& config, RunConfig& identity) const override {
    copy_noise_settings(config, identity);
    if (config.ensemble().common_head()) identity.mutable_ensemble()->set_common_head(true);
  }
  ProtectionSpec feature_protection(const TrainingContext& context, Rng& rng) const override {
    return draw_noise(context, rng);
  }
  TrainingResult finish(const TrainingContext& context, const Stage1& stage1) const override {
    return train_stage2(context, stage1);
  }
  int nets_in_stage2(const RunConfig& config) const override {
    return config.ensemble().selected();
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> ensembler_protection() { return std::make_unique<Ensembler>(); }

}  // namespace ens
