// SPDX-License-Identifier: Apache-2.0
// Scheme: how the input of a linear layer is turned into what untrusted workers see, and their
// outputs into the layer's.
//
// The layer is y = f(W, x) with int8 weights and int8 or uint8 inputs, without its bias; f is a
// convolution or a matrix product. encode() makes shares of x; a worker computes f(W, share);
// decode() rebuilds the int32 y from as many outputs as needed(): exactly, but for shares of real
// numbers, whose y is rounded. The implementations are in offload/schemes, which the trusted side
// alone links; they are listed in proto/schemes.inc. Not thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nn/core/int8_layer.h"
#include "offload/core/field.h"
#include "offload/core/seed.h"

namespace ens {

// What shares are made of, and so what workers multiply the int8 weights with.
enum class ShareNumbers : uint32_t {
  kIntegers,  // int8 or uint8, in one plane; products are int32
  kResidues,  // of the scheme's field, in planes; products likewise
  kReals,     // float32, in one plane; products are float32
};

// Elements of shares and products on the trusted side: residues, or the bits of a float32.
using Elements = std::vector<uint32_t>;

// Of a worker's output frame.
inline Dtype product_dtype(ShareNumbers numbers) {
  return numbers == ShareNumbers::kResidues   ? Dtype::kI8
         : numbers == ShareNumbers::kIntegers ? Dtype::kI32
                                              : Dtype::kF32;
}

// What one worker is sent. Either the frame or the seed that it is computed from is there.
struct Share {
  Tensor frame;  // [planes, G, ...] kI8; without a field [1, G, ...] kI8, kU8 or kF32
  std::optional<Seed> seed;
};

// Shares of one input x [B, ...], made when they are asked for. Each is sent to one worker at most.
class Encoding {
 public:
  virtual ~Encoding() = default;

  virtual int64_t groups() const = 0;  // G: B inputs as virtual batches
  // What travels, or would travel without a seed: [planes, G, ...].
  virtual Share share(int index) = 0;
  // The share's elements, [G, ...]: what an output is checked against.
  virtual std::span<const uint32_t> elements(int index) = 0;
  // The elements of a worker's output frame: [planes, G, output] kI8, or without a field [1, G,
  // output] kI32 or kF32. False if it has some that no right worker sends.
  virtual bool read(const Tensor& frame, Elements& elements) const = 0;
  // y [B, output...] kI32 of layer `layer` of the group, from needed() outputs [G, output] of the
  // shares `indices`, in that order.
  virtual Tensor decode(size_t layer, std::span<const int> indices,
                        std::span<const Elements> outputs, const Shape& output) const = 0;
};

class Scheme {
 public:
  struct Claims {
    int collusion = 0;    // this many workers may pool what they see and learn nothing of x
    std::string exposed;  // what is not hidden by design
  };

  virtual ~Scheme() = default;
  virtual Claims claims() const = 0;
  virtual ShareNumbers numbers() const = 0;
  virtual const Field& field() const = 0;  // that outputs are checked in, but for reals
  virtual int planes() const = 0;          // of a share: its first axis
  int share_bytes() const {
    return numbers() == ShareNumbers::kReals ? 4 : planes();
  }                                      // an element
  virtual int output_bytes() const = 0;  // bytes of an element of a worker's output
  virtual int inputs() const = 0;        // K: inputs of a virtual batch
  virtual int shares() const = 0;        // S: that there are of one encoding
  virtual int needed() const = 0;        // outputs that decode
  virtual int seeds() const = 0;         // shares that travel as a seed: the first ones

  // The layers that read one value, of shape `input` for one image, whose integers stand for
  // `input_scale` times as much; groups are numbered as they are added, from 0. All of them before
  // the first encode().
  virtual void add_group(std::vector<Int8Layer> /*layers*/, const Shape& /*input*/,
                         float /*input_scale*/) {}
  // Computes ahead what the next so many images take, once for each; what is missing is computed
  // when it is needed.
  virtual void prepare(int64_t /*images*/) {}
  // The input of a group: x [B, ...] kI8 or kU8, plain, on the CPU, B >= 1.
  virtual std::unique_ptr<Encoding> encode(size_t group, const Tensor& x) = 0;
};

struct SchemeOptions {
  Field field = Field::named("m31");
  int virtual_batch = 1;                    // K
  int noises = 1;                           // T
  int shares = 2;                           // S >= K + T
  double noise_mean = 0, noise_stddev = 1;  // of real noise, in units of the layers' float inputs
};

}  // namespace ens
