// SPDX-License-Identifier: Apache-2.0
// Shredder (Mireshghallah et al., ASPLOS 2020): noises are trained for the frozen net of stage 1.
#include <cmath>

#include "ensemble/protect/noise_bank_train.h"
#include "ensemble/train/protection_training.h"
#include "experiment/setup.h"

namespace ens {
namespace {

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
  NoiseBankTraining bank(
      p.shredder().form() == "multiplicative" ? NoiseBankTraining::Form::kMultiplicative
                                              : NoiseBankTraining::Form::kAdditive,
      feature, p.shredder().noises(), static_cast<float>(context.config.ensemble().sigma()), unit,
      start, rng.next());
  bank.to(context.device);
  const auto result = [&] {
    return TrainingResult{net.head(), net.tail(), {net.body()}, Selector(1, {0}), {bank.step()}};
  };
  const auto reward = static_cast<float>(p.shredder().noise_reward());
  job.label = "noises";
  job.file = context.run.path("stage2/noise_bank.h5");
  Loader loader = context.loader(*job.settings, rng.next(), context.device);
  job.loss = [&](const Batch& b) {
    Var clean;
    {
      const NoGrad no_grad;
      clean = net.head()->forward(context.input(b));
    }
    const Var logits = net.tail()->forward(net.body()->forward(bank.forward(clean)));
    const Var total = softmax_cross_entropy(logits, b.labels, cross_entropy_spec(*job.settings));
    return sub(total, affine(bank.size(), reward, 0));
  };
  job.quick_accuracy = [&] { return measure_accuracy(context, result(), context.quick_test); };
  job.epoch_metrics = [&] {
    return std::vector<std::pair<std::string, double>>{{"noise_variance", bank.variance()}};
  };
  Progress progress("stage 2: " + std::to_string(p.shredder().noises()) + " noises",
                    context.images_in(*job.settings));
  train_net(context.run, loader, bank, job, progress);
  progress.finish();
  TrainingResult trained = result();
  trained.accuracy = measure_accuracy(context, trained, context.test);
  return trained;
}

class Shredder : public ProtectionTraining {
 public:
  TrainingResult finish(const TrainingContext& context, const Stage1& stage1) const override {
    return train_noise_bank(context, stage1);
  }
  int nets_in_stage2(const RunConfig&) const override { return 1; }
};

}  // namespace

std::unique_ptr<ProtectionTraining> shredder_protection() { return std::make_unique<Shredder>(); }

}  // namespace ens
