#include "ensemble/train/trainer.h"

#include <algorithm>
#include <chrono>

#include "ensemble/model/edge_bundle.h"
#include "ensemble/protect/distance_train.h"
#include "ensemble/train/stages.h"
#include "proto/results.h"
#include "proto/results.pb.h"

namespace ens {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Trained one_net(const Stage1& stage1) {
  const SingleNet& net = *stage1.nets[0];
  Trained trained{net.head(), net.tail(), {net.body()}, Selector(1, {0}), net.protection()};
  trained.accuracy = stage1.accuracies[0];
  return trained;
}

// Noise for a net that has never seen any.
Trained with_noise(const TrainingScene& scene, const Stage1& stage1) {
  Trained trained = one_net(stage1);
  Rng rng = scene.secret_rng("additive/noise");
  trained.protection = draw_noise(scene, scene.config.ensemble().sigma(),
                                  scene.config.protection().fresh_noise(), rng);
  trained.accuracy = measure_accuracy(scene, trained, scene.test);
  return trained;
}

Trained with_untrained_head(const TrainingScene& scene, const Stage1& stage1) {
  Trained trained = one_net(stage1);
  Rng rng = scene.secret_rng("random/head");
  trained.head = build_head(scene.spec, scene.split, rng);
  trained.head->freeze();
  trained.accuracy = measure_accuracy(scene, trained, scene.test);
  return trained;
}

// How much of the picture is in what is sent, and Shredder's SNR = E[a^2] / Var(n), on the first
// test images: 500, or fewer where features are large.
void measure_features(const TrainingScene& scene, Trained& trained, results::RunSummary& summary) {
  constexpr int64_t kImages = 500, kMostNumbers = int64_t{1} << 26;
  const int64_t n = std::min(
      {kImages, scene.test.count(), std::max<int64_t>(4, kMostNumbers / scene.feature().numel())});
  if (n < 4) return;
  Tensor features =
      plan_features(*trained.head, scene.spec, scene.test, n, scene.device, scene.dtype);
  if (trained.protection.has_bank()) {
    double power = 0, variance = 0;
    for (float a : features.span<float>()) power += double{a} * a;
    power /= static_cast<double>(features.numel());
    const Tensor& bank = trained.protection.noise;
    for (int64_t k = 0; k < bank.dim(0); ++k) {
      double sum = 0, squares = 0;
      for (float v : bank.rows(k, 1).span<float>()) {
        sum += v;
        squares += double{v} * v;
      }
      const auto size = static_cast<double>(bank.numel() / bank.dim(0));
      variance += squares / size - (sum / size) * (sum / size);
    }
    trained.snr = power / (variance / static_cast<double>(bank.dim(0)));
  }
  make_protection(trained.protection)->apply(features);
  summary.set_distance_correlation(
      unbiased_distance_correlation(images_of(scene.test, 0, n), features));
}

void write_bundles(const TrainingScene& scene, const Trained& trained) {
  CloudBundle cloud;
  cloud.info.model = scene.spec;
  cloud.info.split = scene.split;
  cloud.info.nets = scene.config.ensemble().nets();
  cloud.info.data = scene.train.name;
  cloud.info.fit = parse_fit(scene.config.data().fit(), "data.fit");
  cloud.bodies = trained.bodies;
  write_cloud_bundle(scene.run.path("cloud.h5"), cloud);
  const EdgeBundle edge{cloud.info,   scene.train.class_names, trained.head,
                        trained.tail, trained.selector,        trained.protection};
  write_edge_bundle(scene.run.path("edge.h5"), edge);
}

void describe(const TrainingScene& scene, results::RunSummary& summary) {
  const EnsembleConfig& e = scene.config.ensemble();
  const SplitCost cost = split_cost(scene.spec, scene.split, e.selected());
  const auto count = [](int64_t value) { return static_cast<int32_t>(value); };
  summary.set_protection(scene.config.protection().kind());
  summary.set_nets(e.nets());
  summary.set_selected(e.selected());
  summary.set_sigma(e.sigma());
  summary.set_lambda(e.lambda());
  summary.set_architecture(scene.spec.architecture);
  summary.set_width(count(scene.spec.width));
  summary.set_dtype(name(scene.dtype));
  summary.mutable_split()->set_head(scene.split.head);
  summary.mutable_split()->set_tail(scene.split.tail);
  summary.set_data(scene.train.name);
  summary.set_train_images(count(scene.train.count()));
  summary.set_test_images(count(scene.test.count()));
  summary.mutable_flops()->set_edge(static_cast<double>(cost.edge_flops));
  summary.mutable_flops()->set_cloud(static_cast<double>(cost.body_flops * e.nets()));
  summary.mutable_bytes()->set_up(static_cast<double>(cost.sent.numel() * 4));
  summary.mutable_bytes()->set_down(static_cast<double>(cost.body_output.numel() * 4 * e.nets()));
}

}  // namespace

void train_ensemble(const RunConfig& config, RunDir& run, const Dataset& train,
                    const Dataset& test) {
  const TrainingScene scene(config, run, train, test);
  const std::string& kind = config.protection().kind();
  const auto start1 = std::chrono::steady_clock::now();
  std::optional<Trained> trained;
  Stage1 stage1;
  if (kind == "dr_ensemble") {
    trained = train_in_one_round(scene);
    stage1.accuracies = {trained->accuracy};
  } else {
    stage1 = train_stage1(scene);
  }
  const double seconds1 = seconds_since(start1);
  const auto start2 = std::chrono::steady_clock::now();
  if (!trained) {
    trained = kind == "ensembler"  ? train_stage2(scene, stage1)
              : kind == "shredder" ? train_noise_bank(scene, stage1)
              : kind == "additive" ? with_noise(scene, stage1)
              : kind == "random"   ? with_untrained_head(scene, stage1)
                                   : one_net(stage1);
  }
  results::RunSummary summary;
  measure_features(scene, *trained, summary);
  write_bundles(scene, *trained);
  summary.set_accuracy(trained->accuracy);
  summary.mutable_net_accuracy()->Assign(stage1.accuracies.begin(), stage1.accuracies.end());
  if (trained->similarity) summary.set_similarity(*trained->similarity);
  if (trained->snr) summary.set_snr(*trained->snr);
  (*summary.mutable_seconds())["stage1"] = seconds1;
  (*summary.mutable_seconds())["stage2"] = seconds_since(start2);
  describe(scene, summary);
  results::write(run.path("summary.json"), summary);
}

}  // namespace ens
