// SPDX-License-Identifier: Apache-2.0
// Named tensors in Hugging Face's safetensors format: eight bytes that say how long the header is,
// a JSON object of dtype, shape and place for each tensor, then their elements. It holds no code,
// so a file from anyone may be opened.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "nn/core/tensor.h"

namespace ens {

// CPU tensors, plain. F16, BF16, F32, I8, U8 and I32 keep their dtype, F64 becomes float32 and I64
// int32. Error, on one line and naming `source`, for a file that is damaged or cut, whose tensors
// overlap, leave holes or reach beyond its end, and for other dtypes, more than 6 dimensions, and
// integers beyond 32 bits. Takes no more memory than about the size of `bytes`.
std::map<std::string, Tensor> parse_safetensors(std::string_view bytes, const std::string& source);
std::map<std::string, Tensor> read_safetensors(const std::filesystem::path& file);

// float32, whatever the tensors are. The same tensors give the same bytes.
std::string safetensors_bytes(const std::map<std::string, Tensor>& tensors);
// Writes them; `secret` as in write_file_atomically().
void write_safetensors(const std::filesystem::path& file,
                       const std::map<std::string, Tensor>& tensors, bool secret);

}  // namespace ens
