// SPDX-License-Identifier: Apache-2.0
// A channel of limited power behind the head (ensemble/protect/channel.h), trained jointly with the
// bodies that read it:
//   (1 - w) CE + w T^2 KL(teacher || mean) + .3 mean_i CE(net i)
// w = .5 and T = 4 with a teacher (Hinton et al., "Distilling the Knowledge in a Neural Network",
// 2015), else w = 0. The power falls geometrically from 16 P to P over the first half of the
// training. In the last fifth the head is frozen, and bodies and tail go on with fresh noise.
#include "ensemble/protect/channel.h"

#include <cmath>

#include "base/error.h"
#include "ensemble/model/edge_bundle.h"
#include "ensemble/train/protection_training.h"
#include "experiment/setup.h"

namespace ens {
namespace {

constexpr double kFirstPower = 16;  // in units of P
constexpr double kFallingShare = 0.5, kTrainedHeadShare = 0.8;
constexpr float kTeacherWeight = 0.5f, kTemperature = 4, kNetWeight = 0.3f;

// log softmax(x / T) of each row, float32.
Var log_probabilities(const Var& logits) {
  const Var x = affine(cast(logits, Dtype::kF32), 1 / kTemperature, 0);
  const Shape one_each{x.dim(0), 1};
  const Var centred = sub(x, mean_to(x, one_each));
  return sub(centred, log(sum_to(exp(centred), one_each)));
}

// The network of a finished run without protection, frozen.
class Teacher {
 public:
  Teacher(const TrainingContext& context, const std::filesystem::path& run)
      : edge_(read_edge_bundle(run / "edge.h5")), cloud_(read_cloud_bundle(run / "cloud.h5")) {
    const auto require = [&](bool ok, const char* problem) {
      if (!ok) usage_fail(problem, run.string(), "name another run in protection.channel.teacher");
    };
    require(edge_.info.fingerprint == cloud_.info.fingerprint,
            "the teacher's edge.h5 and cloud.h5 come from different trainings");
    require(edge_.protection.empty(), "the teacher has a protection");
    require(edge_.info.model.input_shape() == context.spec.input_shape() &&
                edge_.class_names == context.train.class_names,
            "the teacher was trained on other images or classes");
    edge_.head->to(context.device);
    edge_.tail->to(context.device);
    for (const auto& body : cloud_.bodies) body->to(context.device);
  }

  Tensor log_probabilities(const Var& images) const {
    const NoGrad no_grad;
    const Var z = edge_.head->forward(images);
    const float weight = 1.0f / static_cast<float>(edge_.selector.count());
    std::vector<Var> outputs;
    for (const int i : edge_.selector.selected()) {
      outputs.push_back(affine(cloud_.bodies[static_cast<size_t>(i)]->forward(z), weight, 0));
    }
    return ens::log_probabilities(edge_.tail->forward(concat(outputs, 1))).value();
  }

 private:
  EdgeBundle edge_;
  CloudBundle cloud_;
};

// The mean over the images of KL(teacher || student).
Var divergence(const Tensor& teacher, const Var& student) {
  const Var log_p(teacher);
  const Var terms = mul(exp(log_p), sub(log_p, student));
  return affine(sum(terms), 1 / static_cast<float>(student.dim(0)), 0);
}

class ChannelTraining : public ProtectionTraining {
 public:
  void stage1_settings(const RunConfig& config, RunConfig& identity) const override {
    *identity.mutable_protection()->mutable_channel() = config.protection().channel();
  }
  std::optional<Channel> channel(const RunConfig& config, int64_t elements) const override {
    const ChannelConfig& c = config.protection().channel();
    return make_channel(c.bits(), elements, c.keyed_noise());
  }
  ProtectionSpec feature_protection(const TrainingContext& context, Rng&) const override {
    return {channel_step(channel_of(context))};
  }
  JointLoss joint_loss(const TrainingContext& context) const override {
    const std::string& run = context.config.protection().channel().teacher();
    const auto teacher = run.empty() ? nullptr : std::make_shared<const Teacher>(context, run);
    return [&context, teacher, limits = channel_of(context)](EnsembleNet& net, const Batch& b,
                                                             double done) {
      set_power(net, limits, done);
      if (done >= kTrainedHeadShare) net.head()->freeze();
      const Var images = context.input(b);
      Var clean;
      const std::vector<Var> outputs = net.outputs(images, clean);
      const Var logits = net.logits(outputs);
      Var loss =
          softmax_cross_entropy(logits, b.labels, cross_entropy_spec(context.config.stage1()));
      if (teacher) {
        const Var apart = divergence(teacher->log_probabilities(images), log_probabilities(logits));
        loss = add(affine(loss, 1 - kTeacherWeight, 0),
                   affine(apart, kTeacherWeight * kTemperature * kTemperature, 0));
      }
      return add(loss, affine(net.net_cross_entropy(outputs, b.labels), kNetWeight, 0));
    };
  }

 private:
  Channel channel_of(const TrainingContext& context) const {
    return *channel(context.config, context.feature().numel());
  }
  static void set_power(EnsembleNet& net, Channel channel, double done) {
    const double factor = std::pow(kFirstPower, std::max(1 - done / kFallingShare, 0.0));
    channel.power =
        std::max(channel.power, std::min(channel.power * factor, largest_channel_power()));
    net.feature_training()->set_values("channel", channel_step(channel).values);
  }
};

}  // namespace

std::unique_ptr<ProtectionTraining> channel_protection() {
  return std::make_unique<ChannelTraining>();
}

}  // namespace ens
