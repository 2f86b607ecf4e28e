// How an image of any size fills the square that a network reads: docs/images.md.
#pragma once

#include <string>

#include "base/error.h"

namespace ens {

enum class ImageFit {
  kStretch,  // height and width are scaled by themselves
  kCrop,     // the largest part in the middle that has the right aspect ratio is scaled
};

inline const char* name(ImageFit fit) { return fit == ImageFit::kCrop ? "crop" : "stretch"; }

// Usage Error naming `where` for anything but "crop" and "stretch".
inline ImageFit parse_fit(const std::string& text, const std::string& where) {
  for (const ImageFit fit : {ImageFit::kStretch, ImageFit::kCrop}) {
    if (text == name(fit)) return fit;
  }
  usage_fail("\"" + text + "\" is no way to fit an image", where, "choose crop or stretch");
}

}  // namespace ens
