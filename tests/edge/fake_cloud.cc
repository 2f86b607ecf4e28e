// SPDX-License-Identifier: Apache-2.0
#include "tests/edge/fake_cloud.h"

#include <chrono>
#include <zmq_addon.hpp>

namespace ens::test {

FakeCloud::FakeCloud(const BundleInfo& info, Script script, std::string bind)
    : info_(info), script_(std::move(script)), socket_(context_, zmq::socket_type::router) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind(bind);
  endpoint_ = socket_.get(zmq::sockopt::last_endpoint);
  thread_ = std::jthread([this](std::stop_token stop) { run(stop); });
}

FakeCloud::~FakeCloud() {
  thread_.request_stop();
  thread_.join();
}

void FakeCloud::on_info(std::function<void(wire::Reply&)> change) {
  const std::lock_guard lock(mutex_);
  info_change_ = std::move(change);
}

std::vector<FakeCloud::Frames> FakeCloud::received() const {
  const std::lock_guard lock(mutex_);
  return received_;
}

int FakeCloud::infer_requests() const {
  const std::lock_guard lock(mutex_);
  return infers_;
}

void FakeCloud::run(std::stop_token stop) {
  while (!stop.stop_requested()) {
    zmq::pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
    if (zmq::poll(&item, 1, std::chrono::milliseconds(5)) == 0) continue;
    std::vector<zmq::message_t> frames;
    if (zmq::recv_multipart(socket_, std::back_inserter(frames))) handle(frames);
  }
}

void FakeCloud::handle(std::vector<zmq::message_t>& frames) {
  wire::Request request;
  request.ParseFromString(frames[1].to_string());
  int number = 0;
  {
    const std::lock_guard lock(mutex_);
    Frames copy;
    for (size_t i = 1; i < frames.size(); ++i) copy.push_back(frames[i].to_string());
    received_.push_back(std::move(copy));
    if (request.kind() == wire::Request::INFER) number = infers_++;
  }
  Answer right;
  right.header.set_version(1);
  right.header.set_id(request.id());
  right.header.set_fingerprint(info_.fingerprint);
  std::vector<Answer> answers;
  const Shape input = smashed_shape(info_.model, info_.split);
  const Shape output = body_output_shape(info_.model, info_.split);
  if (request.kind() == wire::Request::INFO) {
    auto& served = *right.header.mutable_info();
    served.set_nets(static_cast<uint32_t>(info_.nets));
    for (int64_t size : input.dims()) served.add_input_shape(size);
    for (int64_t size : output.dims()) served.add_output_shape(size);
    served.set_max_batch(64);
    {
      const std::lock_guard lock(mutex_);
      if (info_change_) info_change_(right.header);
    }
    answers = {right};
  } else {
    auto& tensor = *right.header.mutable_tensor();
    tensor.set_dtype(wire::FLOAT32);
    tensor.add_shape(info_.nets);
    tensor.add_shape(request.tensor().shape(0));
    for (int64_t size : output.dims()) tensor.add_shape(size);
    std::vector<float> values(
        static_cast<size_t>(info_.nets * request.tensor().shape(0) * output.numel()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 17) * 0.125f;
    right.tensor.assign(reinterpret_cast<const char*>(values.data()), values.size() * 4);
    answers = script_ ? script_(number, request, right) : std::vector<Answer>{right};
  }
  for (const Answer& answer : answers) {
    zmq::message_t peer;
    peer.copy(frames[0]);
    socket_.send(peer, zmq::send_flags::sndmore);
    socket_.send(zmq::buffer(answer.header.SerializeAsString()),
                 answer.tensor.empty() ? zmq::send_flags::none : zmq::send_flags::sndmore);
    if (!answer.tensor.empty()) socket_.send(zmq::buffer(answer.tensor));
  }
}

}  // namespace ens::test
