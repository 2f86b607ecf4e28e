// SPDX-License-Identifier: Apache-2.0
// Plan: frozen networks made ready to serve on one device: one, or several of one form that read
// the same input, such as the server nets of an ensemble.
//
// The graphs are fused (nn/plan/fuse.h) and compiled by the device's backend: weights packed once,
// activations in one arena whose layout is computed once, so that a request allocates nothing but
// its result. The first request of a new batch size may prepare kernels for that size (milliseconds
// to tens of them); warm up with the sizes that matter.
//
// Threads: run() may be called from any thread, one call at a time per Plan. Different Plans run
// concurrently; on the CPU each uses the OpenMP threads of the calling thread, for one net after
// another. A GPU computes the nets of a plan side by side.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "nn/core/graph.h"

namespace ens {

class Plan {
 public:
  // Compiles `graph` (as Module::lower makes it; fused here) for `device`, computing in `dtype`:
  // kF32 or kBF16; a CPU without bfloat16 arithmetic computes in float32 instead. On GPUs also
  // kF16, or kF8 where Backend::serves() it: layers whose inputs are calibrated (nn/plan/float8.h)
  // round to it, the others compute in a wider type. Batches of up to max_batch >= 1 images run in
  // one go. Usage Error if the backend cannot run this graph or dtype.
  Plan(const Graph& graph, Device device, Dtype dtype, int64_t max_batch);
  // The same for at least one net; Usage Error unless all have the same steps and shapes, and all
  // or none are calibrated.
  Plan(const std::vector<Graph>& nets, Device device, Dtype dtype, int64_t max_batch);

  // images [B, ...input_shape()], B >= 1, any dtype, layout and device -> what the net makes of
  // them, [B, ...output_shape()], float32, plain, on device(); run_all(): [nets, B, ...]. B may
  // exceed max_batch: then it runs in several goes. Usage Error for any other shape, and for run()
  // of a plan of several nets.
  Tensor run(const Tensor& images);
  Tensor run_all(const Tensor& images);

  // The fused steps of the (first) net. Their weights are left undefined: they live, packed, in the
  // executable.
  const Graph& graph() const { return graph_; }
  int64_t nets() const { return nets_; }
  int64_t parameters() const { return parameters_; }  // of all nets, after fusion
  int64_t flops() const { return flops_; }            // of all, for one image, as Graph::flops()

  const Shape& input_shape() const { return graph_.shape(graph_.input); }  // of one image
  const Shape& output_shape() const { return graph_.shape(graph_.output); }
  int64_t max_batch() const { return max_batch_; }
  Device device() const { return device_; }
  // Bytes on the device: packed weights; the arena for activations and scratch (on the CPU taken
  // from the cache for each run).
  size_t weight_bytes() const { return executable_->weight_bytes(); }
  size_t arena_bytes() const { return executable_->arena_bytes(); }

 private:
  Device device_;
  int64_t max_batch_;
  int64_t nets_ = 1;
  Graph graph_;
  int64_t parameters_ = 0, flops_ = 0;
  std::unique_ptr<Executable> executable_;
};

}  // namespace ens
