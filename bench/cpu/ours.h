// SPDX-License-Identifier: Apache-2.0
// What is measured of ours: serving N bodies, training a net, training an attack's decoder.
#pragma once

#include <filesystem>
#include <memory>

#include "attacks/core/decoder.h"
#include "cloud/lanes.h"
#include "nn/optim/optim.h"

namespace ens::bench {

inline constexpr int64_t kTrainBatch = 128;

ModelSpec resnet(int width);  // ResNet-18 with a pooled stem, 32x32 images, 10 classes

// N bodies as the cloud serves them, on features of its own.
class Serving {
 public:
  Serving(int width, int nets, Dtype dtype, int64_t max_batch);
  void run(int64_t batch);  // one request
  const Lanes& lanes() const { return *lanes_; }

 private:
  std::unique_ptr<Lanes> lanes_;
  Tensor features_;
};

// One net on one batch, all compute threads.
class Training {
 public:
  Training(int width, Dtype dtype);
  void step();
  const std::shared_ptr<Sequential>& net() const { return net_; }
  const Tensor& images() const { return images_; }  // float32
  const std::vector<int32_t>& labels() const { return labels_; }
  Tensor logits() const;  // of the batch, training behaviour
  double loss() const { return loss_; }

 private:
  std::shared_ptr<Sequential> net_;
  std::unique_ptr<Optimizer> optimizer_;
  Tensor images_, input_;
  std::vector<int32_t> labels_;
  double loss_ = 0;
};

// An attack's decoder of the default size on features of ResNet-18 of width 16, a batch of 64: Adam
// by ten times the squared error plus 1 - SSIM (attacks/core/decoder.h).
class DecoderTraining {
 public:
  explicit DecoderTraining(Dtype dtype);
  void step();
  const Decoder& decoder() const { return *decoder_; }
  const Tensor& features() const { return features_; }  // float32
  const Tensor& images() const { return images_; }
  Tensor decoded() const;  // of the batch
  double loss() const { return loss_; }

 private:
  std::shared_ptr<Decoder> decoder_;
  std::unique_ptr<Optimizer> optimizer_;
  Tensor features_, input_, images_;
  double loss_ = 0;
};
inline constexpr int64_t kDecoderBatch = 64;

double decoder_flops();          // of one image of its training
double body_flops(int width);    // of one image
double train_flops(int width);   // of one image: the forward pass three times
double body_weights(int width);  // numbers

// For the peer: a body's weights, an input and our result ("body"); a net, a batch, the loss of one
// step and the logits after it ("training"); the same of a decoder ("decoder"). Lines "name dim dim
// ...", a line "end", then the float32 values in that order.
void export_body(const std::filesystem::path& file, Dtype dtype);
void export_training(const std::filesystem::path& file, Dtype dtype);
void export_decoder(const std::filesystem::path& file, Dtype dtype);

// The bodies of Serving as one ONNX model ("FILE"), an input of 4 features and our results for it
// ("FILE.input", "FILE.output": raw float32).
void export_onnx(const std::filesystem::path& file, int width, int nets);
Shape features_of(int width);  // of one image

// Share of the time that `nets` trainings in parallel wait for their data.
double share_waiting(int width, int nets);

// The largest sum of activations that one body needs at once: what a step reads and writes.
double largest_activations(int width, int64_t batch);

}  // namespace ens::bench
