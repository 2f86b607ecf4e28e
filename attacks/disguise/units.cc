// SPDX-License-Identifier: Apache-2.0
#include "attacks/disguise/units.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "base/strings.h"

namespace ens {

Units::Units(const Shape& image, const DisguiseConfig& disguise)
    : channels(image[0]), height(image[1]), width(image[2]) {
  if (disguise.method() != "aes") return;
  const AesConfig& aes = disguise.aes();
  const std::vector<std::string> sides = split_text(aes.unit(), 'x');
  unit_height = std::stol(sides.at(0)), unit_width = std::stol(sides.at(1));
  keys = aes.keys() == "one"        ? Keys::kOne
         : aes.keys() == "position" ? Keys::kPosition
                                    : Keys::kChannel;
}

std::vector<uint64_t> Units::codes_of_images(const Tensor& images) const {
  return codes(images, unit_height, unit_width);
}

std::vector<uint64_t> Units::codes_of_rows(const Tensor& rows) const {
  return codes(rows, row_height, row_width);
}

std::vector<uint64_t> Units::codes(const Tensor& maps, int64_t cell_height,
                                   int64_t cell_width) const {
  const int64_t h = maps.dim(2), w = maps.dim(3);
  if (maps.dim(1) != channels || (h + cell_height - 1) / cell_height != rows() ||
      (w + cell_width - 1) / cell_width != columns()) {
    fail("images are " + maps.shape().str() + ", and units were expected of " + row().str());
  }
  std::vector<uint64_t> out;
  std::vector<float> cell(static_cast<size_t>(cell_height * cell_width));
  for (int64_t map = 0; map < maps.dim(0) * channels; ++map) {
    const float* from = maps.data<float>() + map * h * w;
    for (int64_t unit = 0; unit < positions(); ++unit) {
      auto to = cell.begin();
      for (int64_t y = 0; y < cell_height; ++y) {
        for (int64_t x = 0; x < cell_width; ++x) {  // images are padded by repeating their edges
          const int64_t row = std::min(h - 1, unit / columns() * cell_height + y);
          const int64_t column = std::min(w - 1, unit % columns() * cell_width + x);
          *to++ = from[row * w + column];
        }
      }
      const std::string_view bytes(reinterpret_cast<const char*>(cell.data()),
                                   cell.size() * sizeof(float));
      const int64_t key = keys == Keys::kPosition  ? unit
                          : keys == Keys::kChannel ? map % channels
                                                   : 0;
      constexpr uint64_t kOdd = 0x9E3779B97F4A7C15u;
      out.push_back(std::hash<std::string_view>()(bytes) + kOdd * static_cast<uint64_t>(key + 1));
    }
  }
  return out;
}

std::vector<uint64_t> commonest(const Units& units, const std::vector<uint64_t>& codes) {
  const auto n = static_cast<size_t>(units.count()), t = static_cast<size_t>(units.positions());
  const auto key_of = [&](size_t unit) {
    return units.keys == Units::Keys::kPosition  ? unit % t
           : units.keys == Units::Keys::kChannel ? unit / t
                                                 : 0;
  };
  struct Most {
    uint64_t code = 0;
    int64_t count = 1;
  };
  std::unordered_map<uint64_t, int64_t> counts;
  std::unordered_map<size_t, Most> most;
  for (size_t i = 0; i < codes.size(); ++i) {
    const int64_t count = ++counts[codes[i]];
    Most& best = most[key_of(i % n)];
    if (count > best.count) best = {codes[i], count};
  }
  std::vector<uint64_t> out;
  for (size_t unit = 0; unit < n; ++unit) out.push_back(most[key_of(unit)].code);
  return out;
}

Tensor equal_patterns(const Units& units, const std::vector<uint64_t>& seen,
                      const std::vector<uint64_t>& common, const std::vector<uint64_t>& plain) {
  const auto n = static_cast<size_t>(units.count());
  struct Pattern {
    std::vector<int32_t> first;  // of each unit: the first with the same content
    std::vector<bool> common;
  };
  const auto patterns = [&](const std::vector<uint64_t>& codes,
                            const std::vector<uint64_t>& commonest) {
    std::vector<Pattern> out(codes.size() / n);
    for (size_t b = 0; b < out.size(); ++b) {
      std::unordered_map<uint64_t, int32_t> met;
      for (size_t unit = 0; unit < n; ++unit) {
        const uint64_t code = codes[b * n + unit];
        out[b].first.push_back(met.try_emplace(code, static_cast<int32_t>(unit)).first->second);
        out[b].common.push_back(code == commonest[unit]);
      }
    }
    return out;
  };
  const auto ours = patterns(seen, common), theirs = patterns(plain, commonest(units, plain));
  Tensor out = Tensor::empty({std::ssize(ours), std::ssize(theirs)});
  float* to = out.data<float>();
  for (const Pattern& a : ours) {
    for (const Pattern& b : theirs) {
      int agreed = 0;
      for (size_t unit = 0; unit < n; ++unit) {
        agreed += (a.first[unit] == b.first[unit]) + (a.common[unit] == b.common[unit]);
      }
      *to++ = static_cast<float>(agreed);
    }
  }
  return out;
}

}  // namespace ens
