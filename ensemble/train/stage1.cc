// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <numeric>

#include "base/error.h"
#include "ensemble/train/protection_training.h"
#include "experiment/setup.h"

namespace ens {
namespace {

// Training's side of a protection; null if there is nothing to do. Its draws have a stream of their
// own, so that initialisation and data order do not depend on them.
std::shared_ptr<FeatureTraining> feature_training(const TrainingContext& context,
                                                  ProtectionSpec spec, const std::string& stream) {
  if (spec.empty()) return nullptr;
  return std::make_shared<FeatureTraining>(spec, Rng(context.config.seed(), stream).next());
}

// One net's training, with what its protection does to the feature and asks for it.
class Stage1Trainer {
 public:
  Stage1Trainer(const TrainingContext& context, int index)
      : context_(context),
        device_(context.devices[static_cast<size_t>(index) % context.devices.size()]),
        name_("stage1/net" + std::to_string(index)),
        index_(index) {
    Rng rng(context.config.seed(), name_);
    const ProtectionSpec spec = context.protection->feature_protection(context, rng);
    net_ = std::make_shared<SingleNet>(context.spec, context.split,
                                       feature_training(context, spec, name_ + "/draws"), rng);
    if (context.config.ensemble().common_head()) {
      Rng common(context.config.seed(), "stage1/common head");
      const auto head = build_head(context.spec, context.split, common);
      net_->head()->load_state(head->state(), "the common head");
      net_->head()->freeze();
    }
    net_->to(device_);
    data_seed_ = rng.next();
    penalty_ = context.protection->penalty(context, name_, device_);
  }

  void train(Progress& progress) {
    NetTraining job = describe();
    if (!context_.config.model().imported().empty()) {
      if (!is_complete(job)) {
        usage_fail("net " + std::to_string(index_) + " is not imported yet",
                   context_.run.folder().string(), "start the same ensembler import again");
      }
      load_trained(*net_, job);
      net_->freeze();
      progress.skip(context_.images_in(*job.settings));
      return;
    }
    if (penalty_) job.auxiliary_models = penalty_->auxiliary_models();
    job.loss = [this](const Batch& b) { return loss(b); };
    job.capture = !net_->has_host_state() && !penalty_;
    job.quick_accuracy = [this] { return accuracy(context_.quick_test); };
    if (penalty_) {
      job.epoch_metrics = [this] {
        return std::vector<std::pair<std::string, double>>{{penalty_->metric, paid_.take()}};
      };
    }
    Loader loader = context_.loader(*job.settings, data_seed_, device_);
    train_net(context_.run, loader, *net_, job, progress);
    net_->freeze();
  }

  // Takes the weights of a classifier of the same cells, by their names there, in place of
  // training.
  void import(const std::vector<NamedTensor>& weights) {
    const NetTraining job = describe();
    if (is_complete(job)) return;
    std::map<std::string, Tensor> by_name;
    for (const NamedTensor& entry : weights) by_name[entry.name] = entry.tensor;
    std::vector<NamedTensor> state = net_->state();
    for (NamedTensor& entry : state) {  // "body.stage1.0.conv1.weight"
      const auto found = by_name.find(entry.name.substr(entry.name.find('.') + 1));
      if (found != by_name.end()) entry.tensor = found->second;
    }
    net_->load_state(state, "the imported weights");
    save_trained(*net_, job);
  }

  double accuracy(const Dataset& data) const {
    return plan_accuracy(*net_->head(), *make_protection(net_->protection()), {net_->body()},
                         *net_->tail(), context_.spec, context_.split, data, device_,
                         context_.dtype, context_.check_stop);
  }
  const std::shared_ptr<SingleNet>& net() const { return net_; }

 private:
  NetTraining describe() const {
    NetTraining job;
    job.stage = "stage1";
    job.index = index_;
    job.settings = &context_.config.stage1();
    job.optimizer = optim_spec(*job.settings);
    job.label = "net " + std::to_string(index_);
    job.file = context_.run.path(name_ + ".h5");
    return job;
  }
  bool is_complete(const NetTraining& job) const {
    return std::filesystem::exists(job.file) && epochs_done(job.file) == job.settings->epochs();
  }
  Var loss(const Batch& b) {
    Var clean;
    Var total = softmax_cross_entropy(net_->forward(context_.input(b), clean), b.labels,
                                      cross_entropy_spec(context_.config.stage1()));
    if (penalty_) {
      const Var value = penalty_->value(Var(b.images), clean);
      total = add(total, affine(value, static_cast<float>(penalty_->weight), 0));
      paid_.add(value.item());
    }
    return total;
  }

  const TrainingContext& context_;
  const Device device_;
  const std::string name_;
  const int index_;
  std::shared_ptr<SingleNet> net_;
  uint64_t data_seed_ = 0;
  std::unique_ptr<FeaturePenalty> penalty_;  // null: none
  EpochMean paid_;
};

}  // namespace

ProtectionSpec draw_noise(const TrainingContext& context, Rng& rng) {
  const auto sigma = static_cast<float>(context.config.ensemble().sigma());
  if (sigma == 0) return {};
  if (context.config.protection().fresh_noise()) {
    return {{"fresh_noise", Tensor::from({sigma}, {1})}};
  }
  Tensor noise = Tensor::empty(context.feature());
  rng.fill_normal(noise.span<float>(), 0, sigma);
  return {{"fixed_noise", noise}};
}

double measure_accuracy(const TrainingContext& context, const TrainingResult& trained,
                        const Dataset& data) {
  std::vector<std::shared_ptr<Sequential>> used;
  for (int i : trained.selector.selected()) used.push_back(trained.bodies[static_cast<size_t>(i)]);
  return plan_accuracy(*trained.head, *make_protection(trained.protection), used, *trained.tail,
                       context.spec, context.split, data, context.device, context.dtype,
                       context.check_stop);
}

void import_stage1(const TrainingContext& context,
                   const std::vector<std::vector<NamedTensor>>& nets) {
  for (int i = 0; i < context.config.ensemble().nets(); ++i) {
    Stage1Trainer(context, i).import(nets.at(static_cast<size_t>(i)));
  }
}

Stage1 train_stage1(const TrainingContext& context) {
  const int count = context.config.ensemble().nets();
  const TrainConfig& settings = context.config.stage1();
  Stage1 result;
  result.nets.resize(static_cast<size_t>(count));
  result.accuracies.resize(static_cast<size_t>(count));
  Progress progress("stage 1: " + std::to_string(count) + (count == 1 ? " net" : " nets"),
                    count * context.images_in(settings));
  run_parallel(
      count, settings.side_by_side(),
      [&](int i) {
        Stage1Trainer one(context, i);
        one.train(progress);
        result.accuracies[static_cast<size_t>(i)] = one.accuracy(context.test);
        result.nets[static_cast<size_t>(i)] = one.net();
        one.net()->to(context.device);  // where stage 2 wants it
      },
      context.device);
  progress.finish();
  return result;
}

TrainingResult train_jointly(const TrainingContext& context) {
  const int count = context.config.ensemble().nets();
  Rng rng(context.config.seed(), "stage1/ensemble");
  const ProtectionSpec spec = context.protection->feature_protection(context, rng);
  EnsembleNet net(context.spec, context.split,
                  feature_training(context, spec, "stage1/ensemble/draws"), count, rng);
  net.to(context.device);
  std::vector<int> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  const auto result = [&] {
    return TrainingResult{net.head(), net.tail(), net.bodies(), Selector(count, all),
                          net.protection()};
  };
  NetTraining job;
  job.stage = "stage1";
  job.index = -1;
  job.settings = &context.config.stage1();
  job.optimizer = optim_spec(*job.settings);
  job.label = "ensemble";
  job.file = context.run.path("stage1/ensemble.h5");
  Loader loader = context.loader(*job.settings, rng.next(), context.device);
  double done = 0;
  job.before_step = [&](double share) { done = share; };
  job.loss = [&, loss = context.protection->joint_loss(context)](const Batch& b) {
    return loss(net, b, done);
  };
  job.quick_accuracy = [&] { return measure_accuracy(context, result(), context.quick_test); };
  Progress progress("one round: head, tail and " + std::to_string(count) + " nets",
                    context.images_in(*job.settings));
  train_net(context.run, loader, net, job, progress);
  progress.finish();
  net.freeze();
  TrainingResult trained = result();
  trained.accuracy = measure_accuracy(context, trained, context.test);
  return trained;
}

}  // namespace ens
