// SPDX-License-Identifier: Apache-2.0
// Graph: a frozen network as plain data, the language between modules and backends when serving.
//
// Modules lower themselves into a Graph (Module::lower); nn/plan fuses it; a Backend compiles it
// into an Executable. `ensembler info` counts parameters and FLOPs from the same Graph.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nn/core/backend.h"
#include "nn/core/tensor.h"

namespace ens {

struct GraphStep {
  enum class Kind {
    kConv,           // weight [O,I/groups,kh,kw], optional bias [O]; conv
    kLinear,         // weight [O,I], optional bias [O]; [I], or each row of [L,I]
    kChannelAffine,  // x * weight[c] + bias[c]
    kActivation,     // unary with op, a, b
    kAdd,            // input + residual
    kMaxPool,        // pool
    kAvgPool,        // pool
    kGlobalAvgPool,  // [C,H,W] -> [C]
    kFlatten,        // [C,H,W] -> [C*H*W], NCHW order
    kTokens,         // [D,H,W] or [L,D] -> [1+L,D]: weight [D] before the pixels, + bias [1+L,D]
    kLayerNorm,      // each row of [L,D]: weight, bias [D]; a: epsilon
    kAttention,      // [L,3*D], queries, keys and values of each row -> [L,D]; heads
    kFirstToken,     // [L,D] -> [D], the first row
  };

  Kind kind;
  int input = -1;       // index of the value read
  int output = -1;      // index of the value written; every value is written once
  int residual = -1;    // kAdd's second operand. After fusion also on kConv: added before the ReLU
  Tensor weight, bias;  // CPU, float32, plain
  ConvSpec conv;
  PoolSpec pool;
  UnaryOp activation = UnaryOp::kRelu;
  float a = 0, b = 0;
  int heads = 1;
  bool relu =
      false;  // after fusion: ReLU applied at the end (kConv, kLinear, kChannelAffine, kAdd)
  // kConv, kLinear: the largest magnitude that the input had in a calibration; 0: not calibrated.
  float input_max = 0;
};

const char* name(GraphStep::Kind kind);

struct Graph {
  std::vector<Shape> values;     // shape of each value for one image, without the batch axis
  std::vector<GraphStep> steps;  // in an order in which they can run
  int input = -1;
  int output = -1;

  int add_value(const Shape& shape);
  // Appends a step reading `input`, infers the output's shape, and returns the new value. Weights
  // that are on another device come to the CPU.
  int append(GraphStep step);
  const Shape& shape(int value) const { return values[static_cast<size_t>(value)]; }

  int64_t parameters() const;  // elements of weights and biases
  // Floating-point operations for one image; a multiply-add counts as 2 (convolutions, linear
  // layers and the products of attention only, as published figures do).
  int64_t flops() const;
};

// Compiled nets: one graph, or several of one form that read the same input. run() may be called
// from any thread, one call at a time per Executable.
class Executable {
 public:
  virtual ~Executable() = default;
  // input [B, ...graph input] float32 plain, 1 <= B <= max_batch, on the backend's device; result
  // [nets, B, ...output] float32 plain there, newly allocated from the cache.
  virtual Tensor run(const Tensor& input) = 0;
  // Bytes: packed weights; the arena for activations and scratch (on the CPU held while it runs).
  virtual size_t weight_bytes() const = 0;
  virtual size_t arena_bytes() const = 0;
};

// For Backend::compile: usage Error if `max_batch` is below 1 or a value of the nets has too many
// axes for one more of nets and one of images.
void check_compilable(const std::vector<Graph>& nets, int64_t max_batch);

// The size at which backends run a batch: the next number of at most three significant bits (1..8,
// 10, 12, 14, 16, 20, 24, ...), or max_batch if that is less. Padding stays below a quarter of the
// work, and only about four sizes are ever prepared per doubling.
int64_t batch_bucket(int64_t batch, int64_t max_batch);

}  // namespace ens
