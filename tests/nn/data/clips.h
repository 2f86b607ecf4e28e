// Small videos for tests.
#pragma once

#include <filesystem>
#include <vector>

#include "nn/core/tensor.h"

namespace ens::test {

// Motion JPEG in AVI, 10 frames a second, every frame another picture; 3 channels.
// -> the square in the middle of each frame as a decoder gives it, [3, side, side] in [0, 1].
std::vector<Tensor> write_clip(const std::filesystem::path& file, int frames, int width,
                               int height);

}  // namespace ens::test
