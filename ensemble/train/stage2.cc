#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ensemble/protect/noise_bank_train.h"
#include "ensemble/train/setup.h"
#include "ensemble/train/stages.h"
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

Secrets draw_secrets(const TrainingContext& context, const FeatureRecipe& recipe) {
  const EnsembleConfig& e = context.config.ensemble();
  const fs::path file = context.run.path("stage2/secrets.h5");
  if (fs::exists(file)) {
    const Checkpoint c = read_checkpoint(file, "secrets");
    std::vector<int> selected;
    for (float index : c.tensor("selected").to_vector())
      selected.push_back(static_cast<int>(index));
    ProtectionSpec protection;
    if (recipe.fresh) {
      protection.fresh_sigma = static_cast<float>(recipe.sigma);
    } else if (recipe.sigma > 0) {
      protection.noise = c.tensor("noise");
    }
    return {Selector(e.nets(), selected), protection};
  }
  Rng rng = context.secret_rng("stage2/noise");
  const ProtectionSpec protection = draw_noise(context, recipe.sigma, recipe.fresh, rng);
  Secrets secrets{e.insecure_seeded_secrets()
                      ? Selector::seeded(e.nets(), e.selected(), context.config.seed())
                      : Selector::draw(e.nets(), e.selected()),
                  protection};
  Checkpoint c;
  c.kind = "secrets";
  if (protection.noise.defined()) c.tensors["noise"] = protection.noise;
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

}  // namespace

TrainingResult train_stage2(const TrainingContext& context, const Stage1& stage1) {
  const FeatureRecipe recipe = feature_recipe(context.config);
  const Secrets secrets = draw_secrets(context, recipe);
  std::vector<std::shared_ptr<Sequential>> bodies, selected, heads;
  for (const auto& net : stage1.nets) bodies.push_back(net->body());
  for (int i : secrets.selector.selected()) {
    selected.push_back(bodies[static_cast<size_t>(i)]);
    heads.push_back(stage1.nets[static_cast<size_t>(i)]->head());
  }
  Rng rng(context.config.seed(), "stage2");
  std::shared_ptr<FeatureTraining> protection;
  if (recipe.sigma > 0) {
    protection = std::make_shared<FeatureTraining>(
        secrets.protection, Rng(context.config.seed(), "stage2/draws").next());
  }
  EnsembleNet net(context.spec, context.split, protection, selected, rng);
  net.to(context.device);
  const auto result = [&] {
    return TrainingResult{net.head(), net.tail(), bodies, secrets.selector, net.protection()};
  };
  const auto lambda = static_cast<float>(context.config.ensemble().lambda());
  EpochMean similarity;
  NetTraining job;
  job.stage = "stage2";
  job.index = -1;
  job.settings = &context.config.stage2();
  job.optimizer = optim_spec(*job.settings);
  job.label = "ensemble";
  job.file = context.run.path("stage2/ensemble.h5");
  job.data_seed = rng.next();
  job.loss = [&](const Batch& b) {
    const Var x = context.input(b);
    Var clean;
    const Var total = softmax_cross_entropy(net.forward(x, clean), b.labels);
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
  train_net(context, net, job, progress);
  progress.finish();
  net.freeze();
  TrainingResult trained = result();
  trained.accuracy = measure_accuracy(context, trained, context.test);
  trained.similarity = reached_similarity(context, *net.head(), heads);
  return trained;
}

TrainingResult train_noise_bank(const TrainingContext& context, const Stage1& stage1) {
  const ProtectionConfig& p = context.config.protection();
  const SingleNet& net = *stage1.nets[0];
  const Shape feature = context.feature();
  NetTraining job;
  job.stage = "stage2";
  job.settings = &context.config.stage2();
  job.optimizer = optim_spec(*job.settings);
  job.optimizer.weight_decay = 0;  // the reward says how large the noises are to be
  // Adam's steps do not depend on the gradient's size. Gradient descent's do: an element of one
  // noise sees the mean loss through one of C*H*W features, in one of K images.
  const float unit = job.optimizer.kind == OptimSpec::Kind::kSgd
                         ? std::sqrt(static_cast<float>(p.shredder().noises() * feature.numel()))
                         : 1.0f;
  Rng start = context.secret_rng("stage2/noise_bank");
  Rng rng(context.config.seed(), "stage2/noise_bank");
  NoiseBankTraining bank(feature, p.shredder().noises(),
                         static_cast<float>(context.config.ensemble().sigma()), unit, start,
                         rng.next());
  bank.to(context.device);
  const auto result = [&] {
    return TrainingResult{
        net.head(), net.tail(), {net.body()}, Selector(1, {0}), {.noise = bank.bank()}};
  };
  const auto reward = static_cast<float>(p.shredder().noise_reward());
  job.label = "noises";
  job.file = context.run.path("stage2/noise_bank.h5");
  job.data_seed = rng.next();
  job.loss = [&](const Batch& b) {
    Var clean;
    {
      const NoGrad no_grad;
      clean = net.head()->forward(context.input(b));
    }
    const Var logits = net.tail()->forward(net.body()->forward(bank.forward(clean)));
    const Var total = softmax_cross_entropy(logits, b.labels);
    return sub(total, affine(bank.size(), reward, 0));
  };
  job.quick_accuracy = [&] { return measure_accuracy(context, result(), context.quick_test); };
  job.epoch_metrics = [&] {
    return std::vector<std::pair<std::string, double>>{{"noise_variance", bank.variance()}};
  };
  Progress progress("stage 2: " + std::to_string(p.shredder().noises()) + " noises",
                    context.images_in(*job.settings));
  train_net(context, bank, job, progress);
  progress.finish();
  TrainingResult trained = result();
  trained.accuracy = measure_accuracy(context, trained, context.test);
  return trained;
}

}  // namespace ens
