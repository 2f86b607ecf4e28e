// SPDX-License-Identifier: Apache-2.0
#include "bench/cpu/ours.h"

#include <algorithm>
#include <fstream>
#include <mutex>

#include "base/error.h"
#include "base/files.h"
#include "base/threads.h"
#include "nn/core/rng.h"
#include "nn/io/onnx.h"
#include "nn/optim/fit.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"

namespace ens::bench {
namespace {

constexpr float kRate = 1e-4f;  // as in peer.py

OptimSpec sgd() {
  OptimSpec spec;
  spec.kind = OptimSpec::Kind::kSgd;
  spec.momentum = 0.9f;
  spec.weight_decay = 5e-4f;
  spec.nesterov = false;
  return spec;
}

Tensor uniform(const Shape& shape, uint64_t stream) {
  Rng rng(7, stream);
  Tensor t = Tensor::empty(shape);
  rng.fill_uniform(t.span<float>(), 0, 1);
  return t;
}

std::shared_ptr<Sequential> body_of(int width, uint64_t index) {
  Rng rng(1, index);
  return build_body(resnet(width), Split{}, rng);
}

void write(const std::filesystem::path& file, const std::vector<NamedTensor>& entries) {
  std::ofstream out(file, std::ios::binary);
  for (const NamedTensor& e : entries) {
    out << e.name;
    for (int64_t d : e.tensor.shape().dims()) out << ' ' << d;
    out << '\n';
  }
  out << "end\n";
  for (const NamedTensor& e : entries) {
    const std::vector<float> values = e.tensor.to_vector();
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
  if (!out.flush()) fail("cannot write", file.string());
}

std::vector<NamedTensor> copy_of_state(const Module& module) {
  std::vector<NamedTensor> copy;
  for (const NamedTensor& t : module.state()) copy.push_back({"state." + t.name, t.tensor.clone()});
  return copy;
}

}  // namespace

Shape features_of(int width) { return smashed_shape(resnet(width), Split{}); }

ModelSpec resnet(int width) {
  ModelSpec spec;
  spec.width = width;
  return spec;
}

Serving::Serving(int width, int nets, Dtype dtype, int64_t max_batch) {
  CloudBundle bundle;
  bundle.info.model = resnet(width);
  bundle.info.nets = nets;
  for (int i = 0; i < nets; ++i) bundle.bodies.push_back(body_of(width, static_cast<uint64_t>(i)));
  lanes_ = std::make_unique<Lanes>(std::move(bundle), std::vector<Device>{Device{}}, dtype,
                                   max_batch, 0);
  features_ = uniform(batched(max_batch, features_of(width)), 1);
}

void Serving::run(int64_t batch) { lanes_->run(features_.rows(0, batch)); }

Training::Training(int width, Dtype dtype) {
  Rng rng(1, "train");
  const ModelSpec spec = resnet(width);
  net_ = build_cells(spec, 0, 6, rng);
  optimizer_ = std::make_unique<Optimizer>(net_->parameters(), sgd());
  images_ = uniform(batched(kTrainBatch, spec.input_shape()), 2);
  input_ = images_.to(dtype);
  for (int64_t i = 0; i < kTrainBatch; ++i) labels_.push_back(static_cast<int32_t>(rng.below(10)));
}

void Training::step() {
  const Var loss = softmax_cross_entropy(net_->forward(Var(input_)), Tensor::from_labels(labels_));
  loss_ = loss.item();
  loss.backward();
  optimizer_->step(kRate);
}

Tensor Training::logits() const { return net_->forward(Var(input_)).value(); }

DecoderTraining::DecoderTraining(Dtype dtype) {
  Rng rng(1, "decoder");
  const ModelSpec spec = resnet(16);
  const Shape feature = features_of(16);
  decoder_ = std::make_shared<Decoder>(feature, spec.input_shape(), DecoderSize{}, rng);
  OptimSpec adam;
  adam.kind = OptimSpec::Kind::kAdam;
  optimizer_ = std::make_unique<Optimizer>(decoder_->parameters(), adam);
  features_ = uniform(batched(kDecoderBatch, feature), 4);
  input_ = features_.to(dtype);
  images_ = uniform(batched(kDecoderBatch, spec.input_shape()), 5);
}

void DecoderTraining::step() {
  const Var loss = decoder_loss(DecoderLoss::kBoth, decoder_->forward(Var(input_)), images_);
  loss_ = loss.item();
  loss.backward();
  optimizer_->step(kRate);
}

Tensor DecoderTraining::decoded() const { return decoder_->forward(Var(input_)).value(); }

double decoder_flops() {
  const Shape feature = features_of(16);
  const DecoderSize size;
  const double c = size.channels, map = static_cast<double>(feature[1] * feature[2]);
  // The stem, the blocks' two convolutions each, and 6x6 / 4 = 3x3 taps for each of 3 x 4 pixels.
  const double taps = 9 * (static_cast<double>(feature[0]) * c + 2 * size.blocks * c * c + c * 12);
  return 3 * 2 * taps * map;
}

double body_flops(int width) {
  return static_cast<double>(lower(*body_of(width, 0), features_of(width)).flops());
}

double train_flops(int width) {
  Rng rng = Rng::blank();
  const ModelSpec spec = resnet(width);
  return 3.0 *
         static_cast<double>(lower(*build_cells(spec, 0, 6, rng), spec.input_shape()).flops());
}

double body_weights(int width) {
  return static_cast<double>(lower(*body_of(width, 0), features_of(width)).parameters());
}

void export_onnx(const std::filesystem::path& file, int width, int nets) {
  std::vector<Graph> graphs;
  for (int i = 0; i < nets; ++i) {
    graphs.push_back(fuse(lower(*body_of(width, static_cast<uint64_t>(i)), features_of(width))));
  }
  write_onnx(file, graphs);
  constexpr int64_t kImages = 4;
  const Tensor input = uniform(batched(kImages, features_of(width)), 3);
  const Tensor output = Plan(graphs, Device{}, Dtype::kF32, kImages).run_all(input);
  const auto write_raw = [&](const char* ending, const Tensor& values) {
    write_file_atomically(file.string() + ending,
                          {static_cast<const char*>(values.raw()), values.bytes()}, false);
  };
  write_raw(".input", input);
  write_raw(".output", output);
}

void export_body(const std::filesystem::path& file, Dtype dtype) {
  const auto body = body_of(64, 0);
  const Tensor input = uniform(batched(4, features_of(64)), 3);
  std::vector<NamedTensor> entries = copy_of_state(*body);
  body->freeze();
  Plan plan(lower(*body, features_of(64)), Device{}, dtype, 4);
  entries.push_back({"input", input});
  entries.push_back({"output", plan.run(input)});
  write(file, entries);
}

void export_training(const std::filesystem::path& file, Dtype dtype) {
  Training training(64, dtype);
  std::vector<NamedTensor> entries = copy_of_state(*training.net());
  training.step();
  std::vector<float> labels(training.labels().begin(), training.labels().end());
  entries.push_back({"input", training.images()});
  entries.push_back({"labels", Tensor::from(labels, {kTrainBatch})});
  entries.push_back({"loss", Tensor::full({1}, static_cast<float>(training.loss()))});
  entries.push_back({"output", training.logits().to(Dtype::kF32)});
  write(file, entries);
}

void export_decoder(const std::filesystem::path& file, Dtype dtype) {
  DecoderTraining training(dtype);
  std::vector<NamedTensor> entries = copy_of_state(training.decoder());
  training.step();
  entries.push_back({"input", training.features()});
  entries.push_back({"images", training.images()});
  entries.push_back({"loss", Tensor::full({1}, static_cast<float>(training.loss()))});
  entries.push_back({"output", training.decoded().to(Dtype::kF32)});
  write(file, entries);
}

double share_waiting(int width, int nets) {
  Dataset data;  // as CIFAR-10, a tenth of it
  data.name = "noise";
  data.channels = 3;
  data.height = data.width = 32;
  data.class_names.resize(10);
  data.labels.resize(5000);
  data.pixels.resize(data.labels.size() * 3 * 32 * 32);
  Rng rng(1);
  for (auto& l : data.labels) l = static_cast<int32_t>(rng.below(10));
  for (auto& p : data.pixels) p = static_cast<uint8_t>(rng.below(256));
  double waited = 0, total = 0;
  std::mutex mutex;
  run_parallel(nets, 0, [&](int i) {
    Rng own(2, static_cast<uint64_t>(i));
    const auto net = build_cells(resnet(width), 0, 6, own);
    Optimizer optimizer(net->parameters(), sgd());
    LoaderOptions options;
    options.crop_padding = 4;
    options.flip = true;
    options.seed = static_cast<uint64_t>(i);
    Loader loader(data, options);
    FitOptions fit_options;
    fit_options.label = "net";
    fit_options.lr = kRate;
    fit(
        fit_options, loader, optimizer,
        [&](const Batch& b) {
          return softmax_cross_entropy(net->forward(Var(b.images)), b.labels);
        },
        {},
        [&](const EpochStats& stats) {
          const std::lock_guard lock(mutex);
          waited += stats.seconds_waiting;
          total += stats.seconds;
        });
  });
  return waited / std::max(total, 1e-9);
}

double largest_activations(int width, int64_t batch) {
  const Graph graph = lower(*body_of(width, 0), features_of(width));
  int64_t most = 0;
  for (const GraphStep& s : graph.steps) {
    int64_t numbers = graph.shape(s.input).numel() + graph.shape(s.output).numel();
    if (s.residual >= 0) numbers += graph.shape(s.residual).numel();
    most = std::max(most, numbers);
  }
  return static_cast<double>(most * batch) * sizeof(float);
}

}  // namespace ens::bench
