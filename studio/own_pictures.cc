// SPDX-License-Identifier: Apache-2.0
#include "studio/own_pictures.h"

#include <algorithm>
#include <cmath>

#include "nn/data/image.h"
#include "studio/site.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;

bool is_picture(std::string_view bytes) {
  return bytes.starts_with("\x89PNG\r\n\x1a\n") || bytes.starts_with("\xff\xd8\xff") ||
         (bytes.starts_with("RIFF") && bytes.size() > 12 && bytes.substr(8, 4) == "WEBP");
}

}  // namespace

OwnPictureStore::Visitor* OwnPictureStore::find(const std::string& visitor) {
  const auto found = visitors_.find(visitor);
  if (found == visitors_.end()) return nullptr;
  found->second.seen = Clock::now();
  return &found->second;
}

void OwnPictureStore::forget() {
  std::erase_if(visitors_, [](const auto& v) { return Clock::now() - v.second.seen > kKept; });
  while (visitors_.size() > kVisitors) {
    visitors_.erase(
        std::ranges::min_element(visitors_, {}, [](const auto& v) { return v.second.seen; }));
  }
}

void OwnPictureStore::add(const std::string& visitor, const std::string& bytes) {
  if (bytes.size() > kFileBytes)
    throw Refusal(413, "the file has more than 16 MiB", "picture", "make it smaller first");
  if (!is_picture(bytes))
    throw Refusal(415, "the file is no PNG, JPEG or WebP picture", "picture", "save it as PNG");
  std::vector<uint8_t> pixels;
  try {
    const Tensor image =
        decode_image({bytes.begin(), bytes.end()}, "your picture", kPixels, 3, kSide, kSide);
    for (const float v : image.span<float>())
      pixels.push_back(static_cast<uint8_t>(std::lround(255 * v)));
  } catch (const Error& error) {
    throw Refusal(400, error.what(), "picture", "save it as 8-bit PNG");
  }
  std::lock_guard lock(mutex_);
  Visitor& own = visitors_[visitor];
  own.seen = Clock::now();
  if (own.pictures.size() >= kMost)
    throw Refusal(409, "there are 256 of your pictures already", "picture", "remove them first");
  own.pictures.push_back(std::move(pixels));
  forget();
}

void OwnPictureStore::clear(const std::string& visitor) {
  std::lock_guard lock(mutex_);
  visitors_.erase(visitor);
}

size_t OwnPictureStore::count(const std::string& visitor) {
  std::lock_guard lock(mutex_);
  const Visitor* own = find(visitor);
  return own ? own->pictures.size() : 0;
}

Tensor OwnPictureStore::pictures(const std::string& visitor, size_t first, size_t count) {
  std::lock_guard lock(mutex_);
  const Visitor* own = find(visitor);
  const size_t there = own ? own->pictures.size() : 0;
  if (first >= there)
    throw Refusal(409, "you have no such picture here (any more)", "own", "add some");
  count = std::min(count, there - first);
  Tensor out = Tensor::empty({static_cast<int64_t>(count), 3, kSide, kSide});
  float* to = out.data<float>();
  for (size_t i = first; i < first + count; ++i)
    to = std::ranges::transform(own->pictures[i], to, [](uint8_t v) {
           return static_cast<float>(v) / 255;
         }).out;
  return out;
}

}  // namespace ens
