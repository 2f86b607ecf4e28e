// SPDX-License-Identifier: Apache-2.0
// What hostile bytes meet first. Each takes any bytes and must return: errors are replies, crashes,
// hangs and wrong memory are not.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ens::fuzz {

// The cloud's side: a request's header and its tensor frame.
void request(const uint8_t* data, size_t size);
// The edge's side: a reply's header and its tensor frame.
void reply(const uint8_t* data, size_t size);
// A worker's side: a request's header and its raw frame. It holds a matrix product and
// several convolutions, which the corpus names.
void worker(const uint8_t* data, size_t size);
// Configuration files and overrides, of every kind.
void config(const uint8_t* data, size_t size);
// A bundle file, as its bytes; and the facts of one whose checksums are right.
void bundle(const uint8_t* data, size_t size);

// A weights file for `ensembler import`: its format, and names and shapes as torchvision's.
void safetensors(const uint8_t* data, size_t size);

// A browser's side: a request to the studio, as lines: method and target, headers, an empty line,
// the body. Its JSON is read as every message that pages send.
void studio(const uint8_t* data, size_t size);

}  // namespace ens::fuzz
