// SPDX-License-Identifier: Apache-2.0
// The edge from C++17: classify images with a remote cloud. <ensembler/edge.h> with objects,
// strings and exceptions; link libens_edge.so (CMake: Ensembler::edge, pkg-config: ensembler-edge).
//
//   ensembler::Edge edge("bundle: 'edge.h5' cloud: 'tcp://cloud.example:5755'");
//   const std::vector<float> image = edge.read_image("cat.png");
//   for (const ensembler::Ranked& r : edge.top(edge.classify(image))) use(r.label, r.probability);
//
// An image is channels x height x width floats in [0, 1], one plane after the other. Members throw
// Error for what the C functions return a code for. One thread at a time per Edge; several may be
// used side by side.
#pragma once

#include <ensembler/edge.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ensembler {

class Error : public std::runtime_error {
 public:
  Error(int code, const std::string& what) : std::runtime_error(what), code_(code) {}
  int code() const noexcept { return code_; }  // ENS_UNAVAILABLE, ...; docs/protocol.md

 private:
  int code_;
};

struct Ranked {
  int index = 0;
  std::string label;
  float probability = 0;  // softmax over all classes
};

// The library's version; ENSEMBLER_VERSION in <ensembler/version.h> is that of the headers.
inline std::string version() { return ens_edge_version(); }

// `text` as a string of the configuration, whatever is in it: "bundle: " + quoted(path).
inline std::string quoted(std::string_view text) {
  std::string literal = "'";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && c != '\'' && c != '\\') {
      literal += c;
    } else {  // in octal
      literal += '\\';
      for (const int shift : {6, 3, 0}) literal += static_cast<char>('0' + (byte >> shift) % 8);
    }
  }
  return literal + "'";
}

class Edge {
 public:
  // config: an EdgeConfig (docs/config.md) in text form. Reads the bundle; connecting happens in
  // the background. Error for a bad configuration, bundle or key file.
  explicit Edge(const std::string& config) {
    char error[kErrorSize];
    edge_.reset(ens_edge_open(config.c_str(), error, sizeof error));
    if (!edge_) throw Error(ENS_INVALID_ARGUMENT, error);
    int64_t shape[3];
    ens_edge_image_shape(edge_.get(), shape);
    channels_ = shape[0], height_ = shape[1], width_ = shape[2];
  }

  int64_t channels() const { return channels_; }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  int classes() const { return ens_edge_classes(edge_.get()); }
  // Error if there is no such class.
  std::string class_name(int index) const {
    const char* name = ens_edge_class_name(edge_.get(), index);
    if (!name) throw Error(ENS_INVALID_ARGUMENT, "no class " + std::to_string(index));
    return name;
  }

  // One image from a JPEG, PNG, BMP, TIFF, WebP or PNM file, made the size that the network reads
  // (docs/images.md).
  std::vector<float> read_image(const std::string& file) const {
    std::vector<float> image(image_size());
    call(ens_edge_read_image, file.c_str(), image.data());
    return image;
  }
  // The same from pixels in memory: 8 bits a sample, `stride` bytes from one row to the next;
  // grey (1 channel), grey and alpha (2), RGB (3) or RGBA (4).
  std::vector<float> fit_pixels(const uint8_t* pixels, int channels, int height, int width,
                                size_t stride) const {
    std::vector<float> image(image_size());
    call(ens_edge_fit_pixels, pixels, channels, height, width, stride, image.data());
    return image;
  }

  // Asks the cloud what it serves. classify() does so by itself the first time.
  void check() { call(ens_edge_check); }
  // Takes up a bundle file that was replaced, once the cloud is found to serve it; if it does not
  // fit, the one in use stays and Error says why.
  void reload() { call(ens_edge_reload); }

  // One image or several, one after the other: logits, `classes()` for each.
  std::vector<float> classify(const std::vector<float>& images) {
    if (images.empty() || images.size() % image_size() != 0) {
      throw Error(ENS_INVALID_ARGUMENT,
                  std::to_string(images.size()) + " floats are no images of " +
                      std::to_string(channels_) + " x " + std::to_string(height_) + " x " +
                      std::to_string(width_));
    }
    const size_t count = images.size() / image_size();
    std::vector<float> logits(count * static_cast<size_t>(classes()));
    call(ens_edge_classify, images.data(), static_cast<int64_t>(count), logits.data());
    return logits;
  }
  // The k most probable classes of one image, best first. logits: classify()'s; `image`: which of
  // its images. Error unless k is 1 to classes().
  std::vector<Ranked> top(const std::vector<float>& logits, int k = 5, size_t image = 0) const {
    const auto per_image = static_cast<size_t>(classes());
    if (k < 1 || k > classes()) {
      throw Error(ENS_INVALID_ARGUMENT, "k is not between 1 and the number of classes");
    }
    if (image >= logits.size() / per_image) {
      throw Error(ENS_INVALID_ARGUMENT, "no logits of image " + std::to_string(image));
    }
    std::vector<ens_edge_ranked> best(static_cast<size_t>(k));
    call(ens_edge_top, logits.data() + image * per_image, k, best.data());
    std::vector<Ranked> ranked;
    for (const ens_edge_ranked& b : best) {
      ranked.push_back({b.index, class_name(b.index), b.probability});
    }
    return ranked;
  }
  // Where the time of the last classify() went, and what it sent.
  ens_edge_times times() const {
    ens_edge_times times;
    ens_edge_last_times(edge_.get(), &times, sizeof times);
    return times;
  }

 private:
  static constexpr size_t kErrorSize = 1024;

  struct Close {
    void operator()(ens_edge* edge) const { ens_edge_close(edge); }
  };

  size_t image_size() const { return static_cast<size_t>(channels_ * height_ * width_); }

  template <typename Function, typename... Arguments>
  void call(Function function, Arguments... arguments) const {
    char error[kErrorSize];
    const int code = function(edge_.get(), arguments..., error, sizeof error);
    if (code == ENS_OK) return;
    throw Error(code, std::string(ens_edge_code_name(code)) + ": " + error);
  }

  std::unique_ptr<ens_edge, Close> edge_;
  int64_t channels_ = 0, height_ = 0, width_ = 0;
};

}  // namespace ensembler
