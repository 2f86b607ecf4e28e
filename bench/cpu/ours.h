// What is measured of ours: serving N bodies, and training.
#pragma once

#include <filesystem>
#include <memory>

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

double body_flops(int width);    // of one image
double train_flops(int width);   // of one image: the forward pass three times
double body_weights(int width);  // numbers

// For the peer: a body's weights, an input and our result ("body"); a net, a batch, the loss of one
// step and the logits after it ("train"). Lines "name dim dim ...", a line "end", then the float32
// values in that order.
void export_body(const std::filesystem::path& file, Dtype dtype);
void export_training(const std::filesystem::path& file, Dtype dtype);

// Share of the time that `nets` trainings in parallel wait for their data.
double share_waiting(int width, int nets);

// The largest sum of activations that one body needs at once: what a step reads and writes.
double largest_activations(int width, int64_t batch);

}  // namespace ens::bench
