#include <numeric>

#include "ensemble/protect/adversary_train.h"
#include "ensemble/protect/distance_train.h"
#include "ensemble/train/setup.h"
#include "ensemble/train/stages.h"

namespace ens {
namespace {

// Training's side of a protection; null if there is nothing to do. Its draws have a stream of their
// own, so that initialisation and data order do not depend on them.
std::shared_ptr<FeatureTraining> feature_training(const TrainingScene& scene, ProtectionSpec spec,
                                                  const std::string& stream) {
  if (!spec.noise.defined() && spec.fresh_sigma == 0 && spec.dropout == 0) return nullptr;
  return std::make_shared<FeatureTraining>(spec, Rng(scene.config.seed(), stream).next());
}

// The pixels' variance around their channel's mean: the error of whoever knows that mean only.
double pixel_variance(const ModelSpec& spec) {
  return std::inner_product(spec.stddev.begin(), spec.stddev.end(), spec.stddev.begin(), 0.0) /
         static_cast<double>(spec.stddev.size());
}

// One net's training, with the penalties that its recipe has.
class NetOfStage1 {
 public:
  NetOfStage1(const TrainingScene& scene, const FeatureRecipe& recipe, int index)
      : scene_(scene),
        recipe_(recipe),
        device_(scene.devices[static_cast<size_t>(index) % scene.devices.size()]),
        name_("stage1/net" + std::to_string(index)),
        index_(index) {
    Rng rng(scene.config.seed(), name_);
    ProtectionSpec spec = draw_noise(scene, recipe.sigma, recipe.fresh, rng);
    spec.dropout = static_cast<float>(recipe.dropout);
    net_ = std::make_shared<SingleNet>(scene.spec, scene.split,
                                       feature_training(scene, spec, name_ + "/draws"), rng);
    net_->to(device_);
    data_seed_ = rng.next();
    if (recipe.adversary_weight > 0) {
      Rng own(scene.config.seed(), name_ + "/adversary");
      adversary_ = std::make_unique<FeatureAdversary>(scene.feature(), scene.spec.input_shape(),
                                                      pixel_variance(scene.spec), own, device_);
    }
  }

  void train(Progress& progress) {
    NetTraining job;
    job.stage = "stage1";
    job.index = index_;
    job.settings = &scene_.config.stage1();
    job.optimizer = optim_spec(*job.settings);
    job.label = "net " + std::to_string(index_);
    job.file = scene_.run.path(name_ + ".h5");
    job.data_seed = data_seed_;
    job.device = device_;
    if (adversary_) {
      job.companions.push_back({"adversary", &adversary_->net(), &adversary_->optimizer()});
    }
    job.loss = [this](const Batch& b) { return loss(b); };
    job.capture = !net_->has_host_state() && recipe_.distance_weight <= 0 && !adversary_;
    job.quick_accuracy = [this] { return accuracy(scene_.quick_test); };
    job.epoch_metrics = [this] {
      std::vector<std::pair<std::string, double>> list;
      if (recipe_.distance_weight > 0) list.emplace_back("distance_correlation", penalty_.take());
      if (adversary_) list.emplace_back("adversary_success", penalty_.take());
      return list;
    };
    train_net(scene_, *net_, job, progress);
    net_->freeze();
  }

  double accuracy(const Dataset& data) const {
    return plan_accuracy(*net_->head(), *make_protection(net_->protection()), {net_->body()},
                         *net_->tail(), scene_.spec, scene_.split, data, device_, scene_.dtype,
                         scene_.check_stop);
  }
  const std::shared_ptr<SingleNet>& net() const { return net_; }

 private:
  Var loss(const Batch& b) {
    Var clean;
    Var total = softmax_cross_entropy(net_->forward(scene_.input(b), clean), b.labels);
    if (recipe_.distance_weight > 0) {
      const Var left = distance_correlation(Var(b.images), clean);
      total = add(total, affine(left, static_cast<float>(recipe_.distance_weight), 0));
      penalty_.add(left.item());
    }
    if (adversary_) {
      const Var success = adversary_->success(clean, Var(b.images));
      total = add(total, affine(success, static_cast<float>(recipe_.adversary_weight), 0));
      penalty_.add(success.item());
    }
    return total;
  }

  const TrainingScene& scene_;
  const FeatureRecipe& recipe_;
  const Device device_;
  const std::string name_;
  const int index_;
  std::shared_ptr<SingleNet> net_;
  uint64_t data_seed_ = 0;
  std::unique_ptr<FeatureAdversary> adversary_;
  EpochMean penalty_;
};

}  // namespace

ProtectionSpec draw_noise(const TrainingScene& scene, double sigma, bool fresh, Rng& rng) {
  ProtectionSpec spec;
  if (sigma > 0 && fresh) {
    spec.fresh_sigma = static_cast<float>(sigma);
  } else if (sigma > 0) {
    spec.noise = Tensor::empty(scene.feature());
    rng.fill_normal(spec.noise.span<float>(), 0, static_cast<float>(sigma));
  }
  return spec;
}

double measure_accuracy(const TrainingScene& scene, const Trained& trained, const Dataset& data) {
  std::vector<std::shared_ptr<Sequential>> used;
  for (int i : trained.selector.selected()) used.push_back(trained.bodies[static_cast<size_t>(i)]);
  return plan_accuracy(*trained.head, *make_protection(trained.protection), used, *trained.tail,
                       scene.spec, scene.split, data, scene.device, scene.dtype, scene.check_stop);
}

Stage1 train_stage1(const TrainingScene& scene) {
  const int count = scene.config.ensemble().nets();
  const TrainConfig& settings = scene.config.stage1();
  const FeatureRecipe recipe = feature_recipe(scene.config);
  Stage1 result;
  result.nets.resize(static_cast<size_t>(count));
  result.accuracies.resize(static_cast<size_t>(count));
  Progress progress("stage 1: " + std::to_string(count) + (count == 1 ? " net" : " nets"),
                    count * scene.images_in(settings));
  run_parallel(
      count, settings.side_by_side(),
      [&](int i) {
        NetOfStage1 one(scene, recipe, i);
        one.train(progress);
        result.accuracies[static_cast<size_t>(i)] = one.accuracy(scene.test);
        result.nets[static_cast<size_t>(i)] = one.net();
        one.net()->to(scene.device);  // where stage 2 wants it
      },
      scene.device);
  progress.finish();
  return result;
}

Trained train_in_one_round(const TrainingScene& scene) {
  const int count = scene.config.ensemble().nets();
  const FeatureRecipe recipe = feature_recipe(scene.config);
  Rng rng(scene.config.seed(), "stage1/ensemble");
  ProtectionSpec spec = draw_noise(scene, recipe.sigma, recipe.fresh, rng);
  spec.dropout = static_cast<float>(recipe.dropout);
  EnsembleNet net(scene.spec, scene.split, feature_training(scene, spec, "stage1/ensemble/draws"),
                  count, rng);
  net.to(scene.device);
  std::vector<int> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  const auto result = [&] {
    return Trained{net.head(), net.tail(), net.bodies(), Selector(count, all), net.protection()};
  };
  NetTraining job;
  job.stage = "stage1";
  job.index = -1;
  job.settings = &scene.config.stage1();
  job.optimizer = optim_spec(*job.settings);
  job.label = "ensemble";
  job.file = scene.run.path("stage1/ensemble.h5");
  job.data_seed = rng.next();
  job.loss = [&](const Batch& b) {
    return softmax_cross_entropy(net.forward(scene.input(b)), b.labels);
  };
  job.quick_accuracy = [&] { return measure_accuracy(scene, result(), scene.quick_test); };
  Progress progress("one round: head, tail and " + std::to_string(count) + " nets",
                    scene.images_in(*job.settings));
  train_net(scene, net, job, progress);
  progress.finish();
  net.freeze();
  Trained trained = result();
  trained.accuracy = measure_accuracy(scene, trained, scene.test);
  return trained;
}

}  // namespace ens
