// SPDX-License-Identifier: Apache-2.0
// Classifiers as sequences of named cells, cut at two split points.
//
// A split is (h, t): the first h cells are the head, the last t the tail, the rest the body. The
// head runs on the edge, the body in the cloud, the tail on the edge again.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/core/rng.h"
#include "nn/core/shape.h"
#include "nn/modules/layers.h"

namespace ens {

// What a classifier is, before any weights. Images are [channels, image_size, image_size] in [0,
// 1], disguised ones [channels, image_size, image_width] of any values; normalisation by mean and
// stddev is the first thing in the first cell.
struct ModelSpec {
  std::string architecture = "resnet18";  // see cell_names()
  int width = 64;  // channels of the first stage; the published networks have 64
  int classes = 10;
  int channels = 3;
  int image_size = 32;
  int image_width = 0;  // 0: images are square; else image_size is their height
  // The stem halves the image: ResNet's 3x3/2 max pool, the stride of MobileNet's first
  // convolution.
  bool stem_pool = true;
  int stem_kernel = 3;    // ResNet: 3x3 of stride 1, or 7: 7x7 of stride 2 as for ImageNet
  int hidden = 0;         // VGG: units of the hidden linear layers; 0: 8 * width
  int head_width = 16;    // funnel, edge_only: channels of the first convolution
  int sent_channels = 8;  // funnel, unknown: channels of what it sends
  int sent_size = 8;      // unknown: height and width of what it sends
  int thumbnail = 8;      // thumbnail: its height and width in pixels
  int tokens = 0;         // vit: > 0: inputs are [tokens, channels], codes of `channels` elements
                          // whose order says nothing, with one mean and stddev for all
  std::vector<float> mean = {0.5f, 0.5f, 0.5f}, stddev = {0.25f, 0.25f, 0.25f};  // per channel

  int columns() const { return image_width > 0 ? image_width : image_size; }  // of an image
  Shape input_shape() const {
    return tokens > 0 ? Shape{tokens, channels} : Shape{channels, image_size, columns()};
  }
};

struct Split {
  int head = 1;  // h >= 1
  int tail = 1;  // t >= 1, h + t < number of cells; or h = t = 0: the body is the whole network
};

// Names of the cells. ResNet-18 and -34: stem, stage1..stage4 (global pooling ends stage4, so that
// with t = 1 the body returns 8*width numbers), fc. VGG-16 and -19: conv1..conv13 or conv16,
// fc1..fc3. LeNet-5 with ReLU and max pooling (LeCun et al., 1998), which has no width: conv1,
// conv2, fc1..fc3. vit, a vision transformer (2010.11929) of 3*width channels, 3 heads, an MLP of
// twice the channels and patches of 4x4 pixels (8x8 from 64 pixels on), which cannot be split:
// patches, block1..block4, fc; with `tokens` it reads codes instead of pictures, in any order.
// MobileNet v1 (1704.04861), whose published width is 32: stem,
// block1..block13 (global pooling ends the last), fc. he19, the target net of He, Zhang, Lee,
// "Model Inversion Attacks Against Collaborative Inference", ACSAC 2019: conv11 (cut before its
// ReLU), relu12, relu21, relu22, relu31, relu32, fc1 (8*width, sigmoid), fc2; no batch norm.
//
// Two nets send little and are the same behind that: wide, stage1..stage3 (2*width, 2*width and
// 4*width channels, the last at half the size; the global pooling ends stage3), fc. `funnel` has a
// head (the cell funnel) that narrows to sent_channels maps of an eighth of the image's height and
// width, normalised to mean 0 and variance 1 over the training images. The head of `thumbnail`
// averages the image to thumbnail x thumbnail pixels. `edge_only` is what the edge can do alone for
// the funnel's work: trunk (the funnel without its last convolution), pool, fc. The pooling stands
// in for a cloud, which has nothing to compute.
//
// `unknown` is what an attacker puts in the place of a network of which only features are known:
// head, a plain one that yields sent_channels maps of sent_size, image_size being a power of two
// times that; pool; fc. Nothing is trained or served as it.
std::vector<std::string> cell_names(const ModelSpec& spec);

// Usage Error if the spec or the split is impossible (names the field and the possible range).
void check(const ModelSpec& spec, const Split& split);

// Cells [first, last) with fresh weights. `copies` > 1 multiplies the input channels of the first
// of them: the tail of an ensemble reads the concatenated features of P bodies.
std::shared_ptr<Sequential> build_cells(const ModelSpec& spec, int first, int last, Rng& rng,
                                        int copies = 1);

std::shared_ptr<Sequential> build_head(const ModelSpec& spec, const Split& split, Rng& rng);
std::shared_ptr<Sequential> build_body(const ModelSpec& spec, const Split& split, Rng& rng);
std::shared_ptr<Sequential> build_tail(const ModelSpec& spec, const Split& split, Rng& rng,
                                       int copies);

// Shapes for one image, without the batch axis.
Shape smashed_shape(const ModelSpec& spec, const Split& split);  // head's output, sent to the cloud
Shape body_output_shape(const ModelSpec& spec, const Split& split);  // one body's output, sent back

// Lowers a frozen or trained module for inputs of `input` shape (evaluation behaviour).
Graph lower(const Module& module, const Shape& input);

// What one image costs at a split, float32 on the wire. `copies`: bodies whose outputs the tail
// reads (P).
struct SplitCost {
  Shape sent, body_output;                      // the smashed feature, and one body's output
  int64_t edge_parameters = 0, edge_flops = 0;  // head and tail
  int64_t body_flops = 0;                       // one body
};
SplitCost split_cost(const ModelSpec& spec, const Split& split, int copies);

struct CellInfo {
  std::string name;
  Shape output;
  int64_t parameters = 0;
  int64_t flops = 0;  // one image; multiply-add = 2
};
std::vector<CellInfo> describe_cells(const ModelSpec& spec);

}  // namespace ens
