// SPDX-License-Identifier: Apache-2.0
#include "nn/models/model.h"

#include <algorithm>
#include <array>
#include <functional>

#include "base/error.h"
#include "nn/modules/transformer.h"

namespace ens {
namespace {

// One cell: its name, and how to make it for `copies` times its usual input channels.
struct CellRecipe {
  std::string name;
  std::function<ModulePtr(int copies, Rng& rng)> build;
};

template <typename M, typename... Args>
ModulePtr make(Args&&... args) {
  return std::make_shared<M>(std::forward<Args>(args)...);
}

// `blocks`: of each stage.
std::vector<CellRecipe> resnet(const ModelSpec& spec, const std::array<int, 4>& blocks) {
  const int64_t w = spec.width;
  const ConvSpec stem = spec.stem_kernel == 7 ? ConvSpec{2, 3} : ConvSpec{1, 1};
  std::vector<CellRecipe> cells;
  cells.push_back({"stem", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
                     cell->push("conv", make<Conv2d>(spec.channels * copies, w, spec.stem_kernel,
                                                     stem, false, rng));
                     cell->push("bn", make<BatchNorm>(w, true));
                     if (spec.stem_pool) cell->push("pool", make<MaxPool>(PoolSpec{3, 2, 1}));
                     return cell;
                   }});
  for (int stage = 1; stage <= 4; ++stage) {
    const int64_t out = w << (stage - 1);
    const int64_t in = stage == 1 ? w : out / 2;
    const int count = blocks[static_cast<size_t>(stage - 1)];
    cells.push_back({"stage" + std::to_string(stage), [=](int copies, Rng& rng) {
                       auto cell = std::make_shared<Sequential>();
                       cell->push(make<BasicBlock>(in * copies, out, stage == 1 ? 1 : 2, rng));
                       for (int i = 1; i < count; ++i) {
                         cell->push(make<BasicBlock>(out, out, 1, rng));
                       }
                       if (stage == 4) cell->push("pool", make<GlobalAvgPool>());
                       return cell;
                     }});
  }
  cells.push_back({"fc", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("linear", make<Linear>(8 * w * copies, spec.classes, true, rng));
                     return cell;
                   }});
  return cells;
}

// convs: of each of the five stages, which end in a pooling.
std::vector<CellRecipe> vgg(const ModelSpec& spec, const std::array<int, 5>& convs) {
  const int64_t w = spec.width;
  std::vector<CellRecipe> cells;
  int64_t in = spec.channels;
  for (int stage = 0; stage < 5; ++stage) {
    const int64_t out = w << std::min(stage, 3);
    for (int i = 1; i <= convs[static_cast<size_t>(stage)]; ++i) {
      const bool first = cells.empty(), pool = i == convs[static_cast<size_t>(stage)];
      cells.push_back(
          {"conv" + std::to_string(cells.size() + 1), [=](int copies, Rng& rng) {
             auto cell = std::make_shared<Sequential>();
             if (first) cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
             cell->push("conv", make<Conv2d>(in * copies, out, 3, ConvSpec{1, 1}, false, rng));
             cell->push("bn", make<BatchNorm>(out, true));
             if (pool) cell->push("pool", make<MaxPool>(PoolSpec{2, 2, 0}));
             return cell;
           }});
      in = out;
    }
  }
  const int64_t features = 8 * w * (spec.image_size / 32) * (spec.columns() / 32);  // five pools
  const int64_t hidden = spec.hidden > 0 ? spec.hidden : 8 * w;
  for (int fc = 1; fc <= 3; ++fc) {
    cells.push_back({"fc" + std::to_string(fc), [=](int copies, Rng& rng) {
                       auto cell = std::make_shared<Sequential>();
                       if (fc == 1) cell->push("flatten", make<Flatten>());
                       cell->push("linear",
                                  make<Linear>((fc == 1 ? features : hidden) * copies,
                                               fc == 3 ? spec.classes : hidden, true, rng));
                       if (fc < 3) {
                         cell->push("relu", make<Activation>(UnaryOp::kRelu));
                         cell->push("dropout", make<Dropout>(0.5f, rng));
                       }
                       return cell;
                     }});
  }
  return cells;
}

// MobileNet v1: a depthwise 3x3 and a pointwise convolution in each block, batch norm and ReLU
// after both.
std::vector<CellRecipe> mobilenet(const ModelSpec& spec) {
  struct Block {
    int multiple, stride;  // of the width
  };
  static constexpr Block kBlocks[] = {{2, 1},  {4, 2},  {4, 1},  {8, 2},  {8, 1},  {16, 2}, {16, 1},
                                      {16, 1}, {16, 1}, {16, 1}, {16, 1}, {32, 2}, {32, 1}};
  const int64_t w = spec.width;
  std::vector<CellRecipe> cells;
  cells.push_back({"stem", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
                     cell->push("conv",
                                make<Conv2d>(spec.channels * copies, w, 3,
                                             ConvSpec{spec.stem_pool ? 2 : 1, 1}, false, rng));
                     cell->push("bn", make<BatchNorm>(w, true));
                     return cell;
                   }});
  int64_t in = w;
  for (const Block& block : kBlocks) {
    const int64_t out = w * block.multiple;
    const int stride = block.stride;
    const bool last = cells.size() == std::size(kBlocks);
    cells.push_back(
        {"block" + std::to_string(cells.size()), [=](int copies, Rng& rng) {
           const int64_t channels = in * copies;
           auto cell = std::make_shared<Sequential>();
           cell->push("depthwise",
                      make<Conv2d>(channels, channels, 3,
                                   ConvSpec{stride, 1, 1, static_cast<int>(channels)}, false, rng));
           cell->push("bn1", make<BatchNorm>(channels, true));
           cell->push("pointwise", make<Conv2d>(channels, out, 1, ConvSpec{}, false, rng));
           cell->push("bn2", make<BatchNorm>(out, true));
           if (last) cell->push("pool", make<GlobalAvgPool>());
           return cell;
         }});
    in = out;
  }
  cells.push_back({"fc", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("linear", make<Linear>(in * copies, spec.classes, true, rng));
                     return cell;
                   }});
  return cells;
}

std::vector<CellRecipe> lenet(const ModelSpec& spec) {
  std::vector<CellRecipe> cells;
  for (int i = 1; i <= 2; ++i) {
    cells.push_back({"conv" + std::to_string(i), [=](int copies, Rng& rng) {
                       auto cell = std::make_shared<Sequential>();
                       if (i == 1) cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
                       const int64_t in = i == 1 ? spec.channels : 6, out = i == 1 ? 6 : 16;
                       const ConvSpec conv{1, i == 1 ? 2 : 0};
                       cell->push("conv", make<Conv2d>(in * copies, out, 5, conv, true, rng));
                       cell->push("relu", make<Activation>(UnaryOp::kRelu));
                       cell->push("pool", make<MaxPool>(PoolSpec{2, 2, 0}));
                       return cell;
                     }});
  }
  const auto side = [](int64_t size) { return (size / 2 - 4) / 2; };
  const std::array<int64_t, 4> features{16 * side(spec.image_size) * side(spec.columns()), 120, 84,
                                        spec.classes};
  for (size_t fc = 1; fc <= 3; ++fc) {
    cells.push_back({"fc" + std::to_string(fc), [=](int copies, Rng& rng) {
                       auto cell = std::make_shared<Sequential>();
                       if (fc == 1) cell->push("flatten", make<Flatten>());
                       cell->push("linear",
                                  make<Linear>(features[fc - 1] * copies, features[fc], true, rng));
                       if (fc < 3) cell->push("relu", make<Activation>(UnaryOp::kRelu));
                       return cell;
                     }});
  }
  return cells;
}

std::vector<CellRecipe> he19(const ModelSpec& spec) {
  struct Conv {
    const char* name;
    int multiple;  // of the width
    bool pool, relu;
  };
  // conv11 ends before its ReLU, which opens relu12: the paper cuts right behind the convolution.
  static constexpr Conv kConvs[] = {{"conv11", 1, false, false}, {"relu12", 1, false, true},
                                    {"relu21", 2, true, true},   {"relu22", 2, false, true},
                                    {"relu31", 2, true, true},   {"relu32", 2, false, true}};
  const int64_t w = spec.width;
  std::vector<CellRecipe> cells;
  int64_t in = spec.channels;
  for (const Conv& conv : kConvs) {
    const int64_t out = w * conv.multiple;
    const bool first = cells.empty(), second = cells.size() == 1;
    cells.push_back(
        {conv.name, [=](int copies, Rng& rng) {
           auto cell = std::make_shared<Sequential>();
           if (first) cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
           if (second) cell->push("relu_before", make<Activation>(UnaryOp::kRelu));
           if (conv.pool) cell->push("pool", make<MaxPool>(PoolSpec{2, 2, 0}));
           cell->push("conv", make<Conv2d>(in * copies, out, 3, ConvSpec{1, 1}, true, rng));
           if (conv.relu) cell->push("relu", make<Activation>(UnaryOp::kRelu));
           return cell;
         }});
    in = out;
  }
  const int64_t features = 2 * w * (spec.image_size / 8) * (spec.columns() / 8);  // three pools
  const int64_t hidden = 8 * w;
  cells.push_back({"fc1", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("pool", make<MaxPool>(PoolSpec{2, 2, 0}));
                     cell->push("flatten", make<Flatten>());
                     cell->push("linear", make<Linear>(features * copies, hidden, true, rng));
                     cell->push("sigmoid", make<Activation>(UnaryOp::kSigmoid));
                     return cell;
                   }});
  cells.push_back({"fc2", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("linear", make<Linear>(hidden * copies, spec.classes, true, rng));
                     return cell;
                   }});
  return cells;
}

// What follows a head that sends `sent` channels of small maps.
void push_small_maps(std::vector<CellRecipe>& cells, const ModelSpec& spec, int64_t sent) {
  const int64_t w = 2 * spec.width;
  cells.push_back(
      {"wide", [=](int copies, Rng& rng) {
         auto cell = std::make_shared<Sequential>();
         cell->push("conv", make<Conv2d>(sent * copies, w, 3, ConvSpec{1, 1}, false, rng));
         cell->push("bn", make<BatchNorm>(w, true));
         return cell;
       }});
  for (int stage = 1; stage <= 3; ++stage) {
    const bool last = stage == 3;
    const int64_t out = last ? 2 * w : w;
    cells.push_back({"stage" + std::to_string(stage), [=](int copies, Rng& rng) {
                       auto cell = std::make_shared<Sequential>();
                       cell->push(make<BasicBlock>(w * copies, out, last ? 2 : 1, rng));
                       cell->push(make<BasicBlock>(out, out, 1, rng));
                       if (last) cell->push("pool", make<GlobalAvgPool>());
                       return cell;
                     }});
  }
  cells.push_back({"fc", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("linear", make<Linear>(2 * w * copies, spec.classes, true, rng));
                     return cell;
                   }});
}

// From the image to 3 * head_width small maps.
std::shared_ptr<Sequential> funnel_trunk(const ModelSpec& spec, int copies, Rng& rng) {
  const int64_t w = spec.head_width;
  auto cell = std::make_shared<Sequential>();
  cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
  int64_t in = spec.channels * copies;
  for (const int64_t out : {w, w + w / 2, 3 * w}) {
    cell->push(make<Conv2d>(in, out, 3, ConvSpec{2, 1}, false, rng));
    cell->push(make<BatchNorm>(out, true));
    in = out;
  }
  for (int i = 0; i < 3; ++i) cell->push(BasicBlock::separable(in, rng));
  return cell;
}

std::vector<CellRecipe> funnel(const ModelSpec& spec) {
  const int64_t sent = spec.sent_channels;
  std::vector<CellRecipe> cells;
  cells.push_back({"funnel", [=](int copies, Rng& rng) {
                     auto cell = funnel_trunk(spec, copies, rng);
                     cell->push("narrow",
                                make<Conv2d>(3 * spec.head_width, sent, 1, ConvSpec{}, false, rng));
                     cell->push("bn", make<BatchNorm>(sent, false, false));
                     return cell;
                   }});
  push_small_maps(cells, spec, sent);
  return cells;
}

std::vector<CellRecipe> edge_only(const ModelSpec& spec) {
  const int64_t out = 3 * spec.head_width;
  return {{"trunk", [=](int copies, Rng& rng) { return funnel_trunk(spec, copies, rng); }},
          {"pool", [](int, Rng&) { return make<GlobalAvgPool>(); }},
          {"fc", [=](int copies, Rng& rng) {
             auto cell = std::make_shared<Sequential>();
             cell->push("linear", make<Linear>(out * copies, spec.classes, true, rng));
             return cell;
           }}};
}

std::vector<CellRecipe> unknown(const ModelSpec& spec) {
  const int64_t w = spec.width, sent = spec.sent_channels;
  return {{"head",
           [=](int copies, Rng& rng) {
             auto cell = std::make_shared<Sequential>();
             cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
             int64_t in = spec.channels * copies;
             const auto push = [&](int stride) {
               cell->push(make<Conv2d>(in, w, 3, ConvSpec{stride, 1}, false, rng));
               cell->push(make<BatchNorm>(w, true));
               in = w;
             };
             push(1);
             for (int size = spec.image_size; size > spec.sent_size; size /= 2) push(2);
             cell->push("last", make<Conv2d>(w, sent, 3, ConvSpec{1, 1}, true, rng));
             return cell;
           }},
          {"pool", [](int, Rng&) { return make<GlobalAvgPool>(); }},
          {"fc", [=](int copies, Rng& rng) {
             auto cell = std::make_shared<Sequential>();
             cell->push("linear", make<Linear>(sent * copies, spec.classes, true, rng));
             return cell;
           }}};
}

std::vector<CellRecipe> thumbnail(const ModelSpec& spec) {
  const int size = spec.image_size / std::max(spec.thumbnail, 1);
  std::vector<CellRecipe> cells;
  cells.push_back({"thumbnail", [=](int, Rng&) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
                     cell->push("pool", make<AvgPool>(PoolSpec{size, size, 0}));
                     return cell;
                   }});
  push_small_maps(cells, spec, spec.channels);
  return cells;
}

// Patches of 4x4 pixels, 8x8 from 64 pixels on.
int patch_of(const ModelSpec& spec) { return spec.image_size < 64 ? 4 : 8; }

std::vector<CellRecipe> vit(const ModelSpec& spec) {
  constexpr int kBlocks = 4, kHeads = 3;
  const int patch = patch_of(spec);
  const int64_t width = kHeads * int64_t{spec.width};
  const int64_t patches = int64_t{spec.image_size / patch} * (spec.columns() / patch);
  std::vector<CellRecipe> cells;
  cells.push_back({"patches", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     if (spec.tokens > 0) {
                       const float scale = 1 / spec.stddev[0];
                       cell->push("normalize",
                                  make<Activation>(UnaryOp::kAffine, scale, -spec.mean[0] * scale));
                       cell->push("linear", make<Linear>(spec.channels * copies, width, true, rng));
                       cell->push("tokens", make<Tokens>(width, spec.tokens, false, rng));
                       return cell;
                     }
                     cell->push("normalize", make<Normalize>(spec.mean, spec.stddev));
                     cell->push("conv", make<Conv2d>(spec.channels * copies, width, patch,
                                                     ConvSpec{patch, 0}, true, rng));
                     cell->push("tokens", make<Tokens>(width, patches, true, rng));
                     return cell;
                   }});
  for (int i = 1; i <= kBlocks; ++i) {
    cells.push_back({"block" + std::to_string(i), [=](int, Rng& rng) {
                       auto cell = std::make_shared<Sequential>();
                       cell->push(make<TransformerBlock>(width, kHeads, 2 * width, rng));
                       return cell;
                     }});
  }
  cells.push_back({"fc", [=](int copies, Rng& rng) {
                     auto cell = std::make_shared<Sequential>();
                     cell->push("norm", make<LayerNorm>(width));
                     cell->push("first", make<FirstToken>());
                     cell->push("linear", make<Linear>(width * copies, spec.classes, true, rng));
                     return cell;
                   }});
  return cells;
}

std::vector<CellRecipe> recipes(const ModelSpec& spec) {
  if (spec.architecture == "resnet18") return resnet(spec, {2, 2, 2, 2});
  if (spec.architecture == "resnet34") return resnet(spec, {3, 4, 6, 3});
  if (spec.architecture == "vgg16") return vgg(spec, {2, 2, 3, 3, 3});
  if (spec.architecture == "vgg19") return vgg(spec, {2, 2, 4, 4, 4});
  if (spec.architecture == "mobilenet") return mobilenet(spec);
  if (spec.architecture == "he19") return he19(spec);
  if (spec.architecture == "funnel") return funnel(spec);
  if (spec.architecture == "thumbnail") return thumbnail(spec);
  if (spec.architecture == "edge_only") return edge_only(spec);
  if (spec.architecture == "lenet") return lenet(spec);
  if (spec.architecture == "vit") return vit(spec);
  if (spec.architecture == "unknown") return unknown(spec);
  usage_fail("unknown architecture '" + spec.architecture + "'", "model.architecture",
             "use resnet18, resnet34, vgg16, vgg19, mobilenet, he19, funnel, thumbnail, edge_only, "
             "lenet or vit");
}

// Of a classifier of codes.
void check_tokens(const ModelSpec& spec) {
  constexpr int kMost = 1 << 16;
  if (spec.architecture != "vit") {
    usage_fail("'" + spec.architecture + "' reads pictures, and these are codes in no order",
               "model.architecture", "use vit");
  }
  if (spec.tokens > kMost || spec.channels < 1 || spec.channels > kMost) {
    usage_fail("codes " + spec.input_shape().str() + " of an impossible size", "ModelSpec",
               "use up to " + std::to_string(kMost) + " codes of so many elements");
  }
  if (spec.mean.size() != 1 || spec.stddev.size() != 1) {
    usage_fail("the normalisation of codes is one mean and one deviation", "ModelSpec");
  }
}

void check_spec(const ModelSpec& spec) {
  auto in_range = [](const char* field, int value, int low, int high) {
    if (value < low || value > high) {
      usage_fail(std::string(field) + " is " + std::to_string(value), field,
                 "use " + std::to_string(low) + " to " + std::to_string(high));
    }
  };
  in_range("model.width", spec.width, 1, 1024);
  in_range("classes", spec.classes, 2, 1 << 20);
  if (spec.tokens != 0) return check_tokens(spec);
  in_range("channels", spec.channels, 1, 64);
  in_range("model.hidden", spec.hidden, 0, 1 << 16);
  if (spec.stem_kernel != 3 && spec.stem_kernel != 7) {
    usage_fail("model.stem_kernel is " + std::to_string(spec.stem_kernel), "model.stem_kernel",
               "use 3 or 7");
  }
  // Every pooling and stride must find at least one pixel.
  const int least = spec.architecture.starts_with("vgg") ? 32
                    : spec.architecture == "he19"        ? 8
                    : spec.stem_kernel == 7              ? 32
                                                         : 16;
  in_range("image_size", spec.image_size, least, 1024);
  in_range("image_width", spec.columns(), least, 1024);
  if (spec.architecture == "funnel" || spec.architecture == "edge_only") {
    in_range("model.head_width", spec.head_width, 1, 1024);
    in_range("model.sent_channels", spec.sent_channels, 1, 1024);
  }
  if (spec.architecture == "vit" &&
      (spec.image_size % patch_of(spec) != 0 || spec.columns() % patch_of(spec) != 0)) {
    usage_fail("images of " + std::to_string(spec.image_size) + "x" +
                   std::to_string(spec.columns()) + " pixels have no whole patches of " +
                   std::to_string(patch_of(spec)),
               "model.architecture", "use images of a multiple of that, or another architecture");
  }
  if (spec.architecture == "unknown") {
    in_range("channels sent", spec.sent_channels, 1, 1 << 16);
    int size = std::max(spec.sent_size, 1);
    while (size < spec.image_size) size *= 2;
    if (spec.sent_size < 1 || size != spec.image_size) {
      usage_fail("images of " + std::to_string(spec.image_size) + " pixels and maps of " +
                     std::to_string(spec.sent_size),
                 "ModelSpec", "the images' size must be a power of two times the maps'");
    }
  }
  if (spec.architecture == "thumbnail" &&
      (spec.thumbnail < 2 || spec.image_size % spec.thumbnail != 0 ||
       spec.columns() != spec.image_size)) {
    usage_fail("images of " + std::to_string(spec.image_size) + " pixels have no thumbnail of " +
                   std::to_string(spec.thumbnail),
               "model.thumbnail", "use 2 or more, and a divisor of the image's size");
  }
  if (static_cast<int>(spec.mean.size()) != spec.channels ||
      static_cast<int>(spec.stddev.size()) != spec.channels) {
    usage_fail("the normalisation needs one mean and deviation for each channel", "ModelSpec");
  }
}

std::shared_ptr<Sequential> build(const std::vector<CellRecipe>& cells, int first, int last,
                                  Rng& rng, int copies) {
  auto part = std::make_shared<Sequential>();
  for (int i = first; i < last; ++i) {
    const CellRecipe& cell = cells[static_cast<size_t>(i)];
    part->push(cell.name, cell.build(i == first ? copies : 1, rng));
  }
  return part;
}

// Output shape and cost of cells [first, last), without an ensemble.
Graph lowered_cells(const ModelSpec& spec, int first, int last, const Shape& input) {
  Rng rng = Rng::blank();
  return lower(*build_cells(spec, first, last, rng), input);
}

}  // namespace

std::vector<std::string> cell_names(const ModelSpec& spec) {
  std::vector<std::string> names;
  for (const CellRecipe& cell : recipes(spec)) names.push_back(cell.name);
  return names;
}

void check(const ModelSpec& spec, const Split& split) {
  const int cells = static_cast<int>(recipes(spec).size());
  check_spec(spec);
  if (split.head == 0 && split.tail == 0) return;  // all of it is the body
  if (spec.architecture == "vit") {
    usage_fail("'vit' cannot be split: no attack here reads tokens", "model.architecture",
               "use it for disguised training (docs/disguise.md), or another architecture");
  }
  if (split.head < 1 || split.tail < 1) {
    usage_fail("a split needs at least one cell in the head and one in the tail",
               "model.head_cells, model.tail_cells", "use 1 or more for each");
  }
  if (split.head >= cells - split.tail) {
    usage_fail("head " + std::to_string(split.head) + " + tail " + std::to_string(split.tail) +
                   " cells leave nothing for the cloud: " + spec.architecture + " has " +
                   std::to_string(cells),
               "model.head_cells, model.tail_cells",
               "their sum may be at most " + std::to_string(cells - 1));
  }
}

std::shared_ptr<Sequential> build_cells(const ModelSpec& spec, int first, int last, Rng& rng,
                                        int copies) {
  check_spec(spec);
  const std::vector<CellRecipe> cells = recipes(spec);
  if (first < 0 || first > last || last > static_cast<int>(cells.size()) || copies < 1) {
    fail("cells " + std::to_string(first) + ".." + std::to_string(last) + " do not exist",
         spec.architecture);
  }
  return build(cells, first, last, rng, copies);
}

std::shared_ptr<Sequential> build_head(const ModelSpec& spec, const Split& split, Rng& rng) {
  check(spec, split);
  return build_cells(spec, 0, split.head, rng);
}

std::shared_ptr<Sequential> build_body(const ModelSpec& spec, const Split& split, Rng& rng) {
  check(spec, split);
  const int cells = static_cast<int>(recipes(spec).size());
  return build_cells(spec, split.head, cells - split.tail, rng);
}

std::shared_ptr<Sequential> build_tail(const ModelSpec& spec, const Split& split, Rng& rng,
                                       int copies) {
  check(spec, split);
  const int cells = static_cast<int>(recipes(spec).size());
  return build_cells(spec, cells - split.tail, cells, rng, copies);
}

Shape smashed_shape(const ModelSpec& spec, const Split& split) {
  check(spec, split);
  const Graph g = lowered_cells(spec, 0, split.head, spec.input_shape());
  return g.shape(g.output);
}

Shape body_output_shape(const ModelSpec& spec, const Split& split) {
  check(spec, split);
  const int cells = static_cast<int>(recipes(spec).size());
  const Graph g = lowered_cells(spec, 0, cells - split.tail, spec.input_shape());
  return g.shape(g.output);
}

Graph lower(const Module& module, const Shape& input) {
  Graph graph;
  graph.input = graph.add_value(input);
  graph.output = module.lower(graph, graph.input);
  return graph;
}

SplitCost split_cost(const ModelSpec& spec, const Split& split, int copies) {
  Rng rng = Rng::blank();
  const auto head = build_head(spec, split, rng), tail = build_tail(spec, split, rng, copies);
  const Graph head_graph = lower(*head, spec.input_shape());
  SplitCost cost;
  cost.sent = head_graph.shape(head_graph.output);
  const Graph body = lower(*build_body(spec, split, rng), cost.sent);
  cost.body_output = body.shape(body.output);
  Shape joined = cost.body_output;
  joined.set(0, joined[0] * copies);
  cost.body_flops = body.flops();
  cost.edge_flops = head_graph.flops() + lower(*tail, joined).flops();
  for (const auto& part : {head, tail}) {
    for (const NamedVar& p : part->parameters()) cost.edge_parameters += p.var.shape().numel();
  }
  return cost;
}

std::vector<CellInfo> describe_cells(const ModelSpec& spec) {
  const std::vector<std::string> names = cell_names(spec);
  std::vector<CellInfo> cells;
  Shape shape = spec.input_shape();
  Rng rng = Rng::blank();
  for (int i = 0; i < static_cast<int>(names.size()); ++i) {
    const auto cell = build_cells(spec, i, i + 1, rng);
    const Graph g = lower(*cell, shape);
    CellInfo info{names[static_cast<size_t>(i)], g.shape(g.output), 0, g.flops()};
    for (const NamedVar& p : cell->parameters()) info.parameters += p.var.shape().numel();
    shape = info.output;
    cells.push_back(info);
  }
  return cells;
}

}  // namespace ens
