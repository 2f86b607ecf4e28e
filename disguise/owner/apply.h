// SPDX-License-Identifier: Apache-2.0
// A data set, disguised: what the owner sends to the cloud.
#pragma once

#include <cstdint>
#include <filesystem>

#include "disguise/key/key.h"
#include "disguise/set/set.h"
#include "nn/data/dataset.h"

namespace ens {

struct ApplyOptions {
  // Versions of each training image, of which the first is the image itself (settings.augment of
  // the key, for split "train"): so much is padded with black and cropped back at random, and half
  // of them are mirrored.
  int crop_padding = 0;
  bool flip = false;
  // Public images that `instahide` with mix "cross" mixes in, all of them.
  const Dataset* public_data = nullptr;
};

// Images as a transform takes them: float32 [indices, C, H, W], 0 to 255.
Tensor pixels_of(const Dataset& data, const std::vector<int64_t>& indices);
Tensor first_pixels(const Dataset& data, int64_t count);  // as many as there are, up to `count`

// What a key of these settings is made with: the owner's first images, and public ones where they
// are mixed in.
KeySamples key_samples(const DisguiseConfig& settings, const Dataset& own,
                       const Dataset* public_data);

// Writes the disguised set of all images of `data`, in an order that nobody can find out, chunk by
// chunk; the file appears when it is whole. split: "train" or "test". Returns what the file says.
// Usage Error if the data set is not the one that the key is for (shape of the images, classes), if
// it has no images, or if there is a file of this name already.
DisguisedSetInfo apply_disguise(const DisguiseKey& key, const Dataset& data,
                                const std::string& split, const std::filesystem::path& file,
                                const ApplyOptions& options = {});

// Usage Error, naming the data set, unless it is one that the key is for.
void check_images_of(const DisguiseKey& key, const Dataset& data);

}  // namespace ens
