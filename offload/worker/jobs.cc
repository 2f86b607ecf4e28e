// SPDX-License-Identifier: Apache-2.0
#include "offload/worker/jobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/strings.h"
#include "nn/io/checkpoint.h"
#include "offload/core/frame.h"
#include "offload/core/seal.h"
#include "offload/wire/messages.h"

namespace ens {
namespace {

Status bad(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }

// Whether the share is possible, and there. Its shape is then [planes, G, ...].
Status check_share(const offload::Job& job, std::span<const std::byte> frame, int frames,
                   const ShareFormat& format) {
  const int rank = job.shape_size();
  if (rank != 3 && rank != 5) return bad("a share has three or five axes");
  if (job.shape(0) != format.planes()) return bad("the share has not one plane a digit");
  int64_t bytes = format.element_bytes();
  for (const int64_t size : job.shape()) {
    if (size < 1 || size > kMaxFrameBytes / bytes) return bad("the share is empty or too large");
    bytes *= size;
  }
  const bool seeded = !job.seed().empty();
  if (seeded && (!format.field || job.seed().size() != sizeof(Seed)))
    return bad("a seed has 32 bytes, and a field");
  if (frames != (seeded ? 1 : 2)) return bad("a job has a seed, or a raw frame");
  if (!seeded && static_cast<int64_t>(frame.size()) != bytes) {
    return bad(fmt::format("the share has {} bytes, its shape {}", frame.size(), bytes));
  }
  if (format.numbers == ShareNumbers::kReals) {
    for (size_t at = 0; at < frame.size(); at += sizeof(float)) {
      float v = 0;
      std::memcpy(&v, frame.data() + at, sizeof v);
      if (!std::isfinite(v)) return bad("an element of the share is not finite");
    }
  }
  return {};
}

// The share, once all that is claimed of it and its job has been checked.
Tensor read_share(const offload::Job& job, std::span<const std::byte> frame,
                  const ShareFormat& format, const Shape& shape) {
  Tensor share = Tensor::empty(shape, format.dtype(job.is_unsigned()));
  if (job.seed().empty()) {
    std::memcpy(share.host(), frame.data(), frame.size());
    return share;
  }
  Seed seed;
  std::memcpy(seed.data(), job.seed().data(), seed.size());
  std::vector<uint32_t> elements(static_cast<size_t>(share.numel() / shape[0]));
  expand_seed(seed, *format.field, elements);
  to_planes(*format.field, elements, share.span<int8_t>());
  return share;
}

}  // namespace

Jobs::Jobs(Device device, int64_t max_weights, std::filesystem::path record,
           std::optional<Seed> secret)
    : device_(device), max_weights_(max_weights), record_(std::move(record)), secret_(secret) {
  if (record_.empty()) return;
  std::filesystem::create_directories(record_);
  // Continues after the largest number: other files may have been taken away.
  for (const auto& entry : std::filesystem::directory_iterator(record_)) {
    const std::string name = entry.path().stem().string();
    int64_t number = 0;
    std::from_chars(name.data(), name.data() + name.size(), number);
    recorded_ = std::max(recorded_, number);
  }
}

JobReply Jobs::reply(std::span<const std::byte> header, std::span<const std::byte> frame,
                     int frames) {
  JobReply reply;
  offload::Request request;
  Status status;
  try {
    if (!request.ParseFromArray(header.data(), static_cast<int>(header.size()))) {
      status = bad("the header frame is not a Request");
    } else if (request.version() != kOffloadVersion) {
      status = {StatusCode::kVersionMismatch, fmt::format("this worker speaks version {}, not {}",
                                                          kOffloadVersion, request.version())};
    } else if (frames > 2) {
      status = bad("a message has at most two frames");
    } else if (request.kind() == offload::Request::HELLO) {
      reply.header.mutable_hello()->set_device(device_.str());
    } else if (request.kind() == offload::Request::LOAD) {
      status = load(request.layer(), frame, frames);
    } else if (request.kind() == offload::Request::JOB) {
      status = request.job().seal_key().empty() ? run(request.job(), frame, frames, reply)
                                                : run_sealed(request.job(), frame, frames, reply);
    } else {
      status = bad("unknown kind of request");
    }
  } catch (const Error& error) {
    status = {
        error.kind() == Error::Kind::kUsage ? StatusCode::kInvalidArgument : StatusCode::kInternal,
        error.what()};
  } catch (const std::exception& error) {
    status = {StatusCode::kInternal, error.what()};
  }
  if (!status.ok()) reply = {};
  reply.header.set_version(kOffloadVersion);
  reply.header.set_id(request.id());
  reply.header.set_code(static_cast<uint32_t>(status.code));
  reply.header.set_message(status.message);
  return reply;
}

Status Jobs::load(const offload::Layer& layer, std::span<const std::byte> frame, int frames) {
  int64_t bytes = 0;
  if (Status status = check_layer(layer, bytes); !status.ok()) return status;
  if (layers_.contains(layer.hash())) return {};
  if (frames != 2) return {StatusCode::kFingerprintMismatch, "the layer is not loaded"};
  if (static_cast<int64_t>(frame.size()) != bytes)
    return bad("the weights have not the size of their shape");
  if (bytes > max_weights_ - weights_) {
    return {StatusCode::kResourceExhausted,
            fmt::format("{} MB of weights are kept already; raise weights_mb", weights_ >> 20)};
  }
  Int8Layer read = read_layer(layer, frame.data());
  if (std::ranges::count(read.weight.span<int8_t>(), -128) > 0) return bad("a weight is -128");
  if (describe(read).hash() != layer.hash())
    return bad("the weights do not match the layer's hash");
  read.weight = read.weight.to(device_);
  weights_ += bytes;
  layers_.emplace(layer.hash(), std::move(read));
  return {};
}

Status Jobs::run_sealed(const offload::Job& job, std::span<const std::byte> frame, int frames,
                        JobReply& reply) {
  if (!secret_) return bad("the share is sealed, and this worker has no key");
  ExchangeKey client;
  if (frames != 2 || !job.seed().empty() || job.seal_key().size() != client.size())
    return bad("a sealed job has a key of 32 bytes and a raw frame");
  std::memcpy(client.data(), job.seal_key().data(), client.size());
  const SealKeys keys = agree(*secret_, client, client, public_key(*secret_));
  const auto about = seal_context(job.seal_key(), job.step(), job.share());
  std::vector<std::byte> opened;
  if (!unseal(keys.to_server, about, frame, opened))
    return bad("the share is not sealed for this worker");
  offload::Job plain = job;
  plain.clear_seal_key();
  if (job.sealed_seed()) plain.set_seed(opened.data(), opened.size());
  const Status status = job.sealed_seed() ? run(plain, {}, 1, reply) : run(plain, opened, 2, reply);
  if (!status.ok()) return status;
  const auto sealed =
      seal(keys.to_client, about,
           {static_cast<const std::byte*>(reply.tensor.host()), reply.tensor.bytes()});
  reply.tensor = Tensor::empty({std::ssize(sealed)}, Dtype::kI8);
  std::memcpy(reply.tensor.host(), sealed.data(), sealed.size());
  return {};
}

Status Jobs::run(const offload::Job& job, std::span<const std::byte> frame, int frames,
                 JobReply& reply) {
  const ShareFormat format = format_of(job.field());
  std::vector<const Int8Layer*> layers;
  for (const std::string& hash : job.layer()) {
    const auto at = layers_.find(hash);
    if (at == layers_.end()) return {StatusCode::kFingerprintMismatch, "a layer is not loaded"};
    layers.push_back(&at->second);
  }
  if (layers.empty() || layers.size() > 64) return bad("a job has 1 to 64 layers");
  if (Status status = check_share(job, frame, frames, format); !status.ok()) return status;
  const std::vector<int64_t> sizes(job.shape().begin(), job.shape().end());
  const Shape shape(sizes), one(shape.dims().subspan(2));
  const int64_t planes = shape[0], groups = shape[1];
  int64_t total = 0, work = 0;
  for (const Int8Layer* layer : layers) {
    const int64_t size = output_shape(*layer, one).numel();
    if (size > (kMaxFrameBytes - total) / 4 / (planes * groups))
      return bad("the products are too large");
    if (padded_size(*layer, one) > kMaxFrameBytes / (planes * groups))
      return bad("the padded share is too large");
    total += size * planes * groups * (format.field ? 1 : 4);
    work += multiplications(*layer, one) * planes * groups;
  }
  if (work > kMaxJobMultiplications) {
    return bad(fmt::format("the job takes {} billion multiplications, at most {}", work >> 30,
                           kMaxJobMultiplications >> 30));
  }
  const Tensor share = read_share(job, frame, format, shape);
  if (!record_.empty()) record(job, share);

  const auto begin = std::chrono::steady_clock::now();
  const Tensor x = share.reshape(batched(planes * groups, one)).to(device_);
  if (format.field) {
    reply.tensor = Tensor::empty({total}, Dtype::kI8);
    std::span<int8_t> left = reply.tensor.span<int8_t>();
    for (const Int8Layer* layer : layers) {
      const std::vector<uint32_t> residues = multiply(*format.field, *layer, x);
      const size_t count = residues.size() * static_cast<size_t>(planes);
      to_planes(*format.field, residues, left.first(count));
      left = left.subspan(count);
    }
  } else {
    const bool reals = format.numbers == ShareNumbers::kReals;
    reply.tensor = Tensor::empty({total / 4}, reals ? Dtype::kF32 : Dtype::kI32);
    auto* to = static_cast<std::byte*>(reply.tensor.host());
    for (const Int8Layer* layer : layers) {
      const Tensor y = multiply(*layer, x).to(Device{}).plain();
      std::memcpy(to, y.host(), y.bytes());
      to += y.bytes();
    }
  }
  const auto took = std::chrono::steady_clock::now() - begin;
  reply.header.set_session(job.session());
  reply.header.set_step(job.step());
  reply.header.set_share(job.share());
  reply.header.set_compute_us(
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(took).count()));
  return {};
}

void Jobs::record(const offload::Job& job, const Tensor& share) const {
  Checkpoint file;
  file.kind = "share";
  file.texts["session"] = to_hex(job.session());
  for (const std::string& hash : job.layer()) file.texts["layers"] += to_hex(hash) + "\n";
  file.texts["field"] = offload::Field_Name(job.field());
  file.numbers["step"] = static_cast<int64_t>(job.step());
  file.numbers["share"] = static_cast<int64_t>(job.share());
  file.tensors["share"] = share;
  write_checkpoint(record_ / fmt::format("{:08}.h5", ++recorded_), file, /*secret=*/true);
}

}  // namespace ens
