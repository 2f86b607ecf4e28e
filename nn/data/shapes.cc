// A generated set: ten kinds of figures in random colours, sizes, places and turns, on a shaded
// background with stray lines and noise. Needs no file; an image depends on (seed, split, number).
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <opencv2/imgproc.hpp>

#include "base/error.h"
#include "nn/core/rng.h"
#include "nn/data/sources.h"

namespace ens::data {
namespace {

constexpr int kDefaultSide = 32;
constexpr int kSmallestSide = 16;
constexpr int64_t kTrainCount = 20000, kTestCount = 4000;
constexpr int64_t kStatsSample = 2000;

using Point = cv::Point2d;
using Contour = std::vector<Point>;
using Figure = std::vector<Contour>;  // in a circle of radius 1; overlaps are holes
using Colour = std::array<float, 3>;  // 0..255

enum Kind {
  kCircle,
  kSquare,
  kTriangle,
  kStar,
  kCross,
  kRing,
  kDiamond,
  kBars,
  kHalfDisc,
  kArrow,
  kKinds
};

const std::array<const char*, kKinds> kNames{"circle", "square",  "triangle", "star",      "cross",
                                             "ring",   "diamond", "bars",     "half-disc", "arrow"};

// `count` corners on the circle, or on an arc of it.
Contour arc(int count, double radius, double turn = 2 * std::numbers::pi) {
  Contour out;
  const double steps = turn < 6 ? count - 1 : count;
  for (int i = 0; i < count; ++i) {
    const double angle = turn * i / steps;
    out.emplace_back(radius * std::cos(angle), radius * std::sin(angle));
  }
  return out;
}

Contour box(double x, double y, double half_width, double half_height) {
  return {{x - half_width, y - half_height},
          {x + half_width, y - half_height},
          {x + half_width, y + half_height},
          {x - half_width, y + half_height}};
}

Figure figure_of(int kind) {
  constexpr int kRound = 48;
  switch (kind) {
    case kCircle:
      return {arc(kRound, 0.9)};
    case kSquare:
      return {arc(4, 1.0)};
    case kTriangle:
      return {arc(3, 1.0)};
    case kStar: {
      Contour star = arc(10, 1.0);
      for (size_t i = 1; i < star.size(); i += 2) star[i] *= 0.4;
      return {star};
    }
    case kCross: {
      constexpr double a = 0.3;
      return {{{-a, -1},
               {a, -1},
               {a, -a},
               {1, -a},
               {1, a},
               {a, a},
               {a, 1},
               {-a, 1},
               {-a, a},
               {-1, a},
               {-1, -a},
               {-a, -a}}};
    }
    case kRing:
      return {arc(kRound, 0.95), arc(kRound, 0.55)};
    case kDiamond:
      return {{{-1, 0}, {0, -0.5}, {1, 0}, {0, 0.5}}};
    case kBars:
      return {box(0, -0.7, 0.8, 0.17), box(0, 0, 0.8, 0.17), box(0, 0.7, 0.8, 0.17)};
    case kHalfDisc: {
      Contour half = arc(kRound / 2, 1.0, std::numbers::pi);
      for (Point& point : half) point.y -= 0.4;
      return {half};
    }
    default:  // kArrow
      return {{{-1, -0.2}, {0.1, -0.2}, {0.1, -0.7}, {1, 0}, {0.1, 0.7}, {0.1, 0.2}, {-1, 0.2}}};
  }
}

double between(Rng& rng, double low, double high) { return low + (high - low) * rng.uniform(); }

Colour random_colour(Rng& rng) {
  Colour colour{};
  for (float& part : colour) part = static_cast<float>(between(rng, 20, 235));
  return colour;
}

float contrast(const Colour& a, const Colour& b) {
  return std::hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

class Painter {
 public:
  explicit Painter(int side)
      : side_(side),
        scale_(std::clamp(256 / side, 1, 4)),
        large_(side * scale_, side * scale_, CV_8UC1),
        mask_(side, side, CV_8UC1) {}

  // Writes one CHW image.
  void paint(int kind, Rng& rng, uint8_t* out) {
    // Background: shaded from one colour to another along a random direction.
    const Colour from = random_colour(rng);
    Colour to = random_colour(rng);
    for (int c = 0; c < 3; ++c) to[c] = 0.6f * from[c] + 0.4f * to[c];
    Colour ink = random_colour(rng);
    while (contrast(ink, from) < 90 || contrast(ink, to) < 90) ink = random_colour(rng);
    const double direction = between(rng, 0, 2 * std::numbers::pi);
    image_.resize(static_cast<size_t>(3) * side_ * side_);
    const double dx = std::cos(direction) / side_, dy = std::sin(direction) / side_;
    for (int y = 0, i = 0; y < side_; ++y) {
      for (int x = 0; x < side_; ++x, ++i) {
        const double along = 0.5 + dx * (x - side_ / 2) + dy * (y - side_ / 2);
        const float t = static_cast<float>(std::clamp(along, 0.0, 1.0));
        for (int c = 0; c < 3; ++c) {
          image_[c * side_ * side_ + i] = from[c] + t * (to[c] - from[c]);
        }
      }
    }
    for (int lines = static_cast<int>(rng.below(2)); lines > 0; --lines) stray_line(rng);
    blend(ink, draw(figure_of(kind), rng));
    finish(rng, out);
  }

 private:
  // The figure, turned, sized and placed at random so that it stays inside: coverage 0..255.
  const cv::Mat& draw(const Figure& figure, Rng& rng) {
    const double angle = between(rng, 0, 2 * std::numbers::pi);
    const double radius = between(rng, 0.28, 0.44);
    const double x = between(rng, radius, 1 - radius), y = between(rng, radius, 1 - radius);
    const double c = std::cos(angle) * radius, s = std::sin(angle) * radius;
    std::vector<std::vector<cv::Point>> polygons;
    for (const Contour& contour : figure) {
      auto& polygon = polygons.emplace_back();
      for (const Point& p : contour) {
        polygon.push_back(fixed(x + c * p.x - s * p.y, y + s * p.x + c * p.y));
      }
    }
    large_.setTo(0);
    cv::fillPoly(large_, polygons, 255, cv::LINE_AA, kShift);
    return shrink();
  }

  void stray_line(Rng& rng) {
    const Colour colour = random_colour(rng);
    const cv::Point a = fixed(rng.uniform(), rng.uniform());
    const cv::Point b = fixed(rng.uniform(), rng.uniform());
    large_.setTo(0);
    cv::line(large_, a, b, 255, std::max(1, side_ * scale_ / 32), cv::LINE_AA, kShift);
    blend(colour, shrink());
  }

  cv::Point fixed(double x, double y) const {
    const double unit = side_ * scale_ * (1 << kShift);
    return {static_cast<int>(std::lround(x * unit)), static_cast<int>(std::lround(y * unit))};
  }

  const cv::Mat& shrink() {
    cv::resize(large_, mask_, mask_.size(), 0, 0, cv::INTER_AREA);
    return mask_;
  }

  void blend(const Colour& colour, const cv::Mat& coverage) {
    const uint8_t* alpha = coverage.ptr<uint8_t>();
    const int plane = side_ * side_;
    for (int c = 0; c < 3; ++c) {
      float* values = image_.data() + c * plane;
      for (int i = 0; i < plane; ++i) values[i] += alpha[i] / 255.0f * (colour[c] - values[i]);
    }
  }

  // Adds noise (the sum of four random bytes, nearly normal) of a random strength, and rounds.
  void finish(Rng& rng, uint8_t* out) {
    constexpr float kByteSum = 147.8f;  // standard deviation of the sum of four bytes
    const float strength = static_cast<float>(between(rng, 3, 15)) / kByteSum;
    for (size_t i = 0; i < image_.size(); i += 2) {
      uint64_t bits = rng.next();
      for (size_t k = i; k < std::min(i + 2, image_.size()); ++k) {
        int sum = -510;
        for (int b = 0; b < 4; ++b, bits >>= 8) sum += static_cast<int>(bits & 0xff);
        const float value = image_[k] + strength * static_cast<float>(sum);
        out[k] = static_cast<uint8_t>(std::clamp(value, 0.0f, 255.0f) + 0.5f);
      }
    }
  }

  static constexpr int kShift = 4;  // OpenCV's sub-pixel bits
  int side_, scale_;
  cv::Mat large_, mask_;
  std::vector<float> image_;
};

// The first `count` images of a split; classes take turns.
void generate(uint64_t seed, DataSplit split, int64_t count, Dataset& out) {
  const uint64_t key =
      Rng(seed, split == DataSplit::kTrain ? "shapes train" : "shapes test").next();
  out.pixels.resize(static_cast<size_t>(count * out.image_size()));
  out.labels.resize(static_cast<size_t>(count));
  Painter painter(out.height);
  for (int64_t i = 0; i < count; ++i) {
    Rng rng(key, static_cast<uint64_t>(i));
    out.labels[i] = static_cast<int32_t>(i % kKinds);
    painter.paint(out.labels[i], rng, out.pixels.data() + i * out.image_size());
  }
}

}  // namespace

Dataset make_shapes(const DataOptions& options, DataSplit split) {
  Dataset out;
  out.name = options.name;
  out.channels = 3;
  out.height = out.width = options.image_size ? options.image_size : kDefaultSide;
  if (out.height < kSmallestSide) {
    usage_fail("shapes need an image size of at least " + std::to_string(kSmallestSide) + ", not " +
                   std::to_string(out.height),
               options.name);
  }
  out.class_names.assign(kNames.begin(), kNames.end());
  const int64_t full = split == DataSplit::kTrain ? kTrainCount : kTestCount;
  generate(options.seed, split, options.limit ? std::min(options.limit, full) : full, out);

  Dataset sample = out.head(0);
  const bool enough = split == DataSplit::kTrain && out.count() >= kStatsSample;
  if (!enough) generate(options.seed, DataSplit::kTrain, kStatsSample, sample);
  const uint8_t* pixels = (enough ? out : sample).pixels.data();
  ChannelStats stats;
  for (int64_t i = 0; i < kStatsSample; ++i) {
    stats.add(pixels + i * out.image_size(), 3, int64_t{out.height} * out.width);
  }
  stats.store(out);
  return out;
}

}  // namespace ens::data
