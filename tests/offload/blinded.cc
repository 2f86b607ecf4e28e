// SPDX-License-Identifier: Apache-2.0
#include "tests/offload/blinded.h"

#include "nn/core/rng.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"

namespace ens::test {

Tensor random_pixels(const ModelSpec& model, int64_t count, uint64_t seed) {
  Tensor images = Tensor::empty(batched(count, model.input_shape()));
  Rng(seed).fill_uniform(images.span<float>(), 0, 1);
  return images;
}

BlindedBundle random_blinded_bundle(uint64_t seed) {
  BlindedBundle bundle;
  ModelSpec& model = bundle.info.model;
  model.width = 8;
  model.image_size = 16;
  bundle.info.data = "random";
  for (int i = 0; i < model.classes; ++i) bundle.class_names.push_back("class" + std::to_string(i));
  Rng rng(seed);
  const int cells = static_cast<int>(cell_names(model).size());
  Graph fused = fuse(lower(*build_cells(model, 0, cells, rng), model.input_shape()));
  set_input_ranges(fused, input_ranges(fused, random_pixels(model, 8, seed + 1)));
  bundle.net = quantize(fused);
  return bundle;
}

ThreadWorker::ThreadWorker(Tamper tamper)
    : tamper_(std::move(tamper)), thread_([this] { work(); }) {}

ThreadWorker::~ThreadWorker() {
  stop_ = true;
  socket_.wake();
  thread_.join();
}

void ThreadWorker::work() {
  const auto bytes_of = [](const WireFrame& frame) {
    return std::span(static_cast<const std::byte*>(frame.data()), frame.size());
  };
  Message message;
  while (!stop_) {
    socket_.wait(std::chrono::milliseconds(-1));
    while (!stop_ && socket_.receive(message)) {
      JobReply reply =
          jobs_.reply(bytes_of(message.header), bytes_of(message.tensor), message.frames);
      offload::Request request;
      request.ParseFromArray(message.header.data(), static_cast<int>(message.header.size()));
      jobs_done_ += request.kind() == offload::Request::JOB && reply.header.code() == 0;
      tamper_(request, reply);
      if (reply.header.version() != 0)
        socket_.send(std::move(message.peer), reply.header, reply.tensor);
    }
  }
}

}  // namespace ens::test
