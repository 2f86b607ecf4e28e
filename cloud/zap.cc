#include "cloud/zap.h"

#include <array>
#include <cstdint>
#include <vector>
#include <zmq_addon.hpp>

namespace ens {

ZapHandler::ZapHandler(zmq::context_t& context, std::set<std::string> allowed)
    : socket_(context, zmq::socket_type::rep), allowed_(std::move(allowed)) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind("inproc://zeromq.zap.01");
}

void ZapHandler::answer() {
  std::vector<zmq::message_t> request;
  if (!zmq::recv_multipart(socket_, std::back_inserter(request), zmq::recv_flags::dontwait)) return;
  // version, request id, domain, address, identity, mechanism, credentials
  bool allowed = false;
  if (request.size() == 7 && request[5].to_string_view() == "CURVE" && request[6].size() == 32) {
    char key[41];
    zmq_z85_encode(key, request[6].data<uint8_t>(), 32);
    allowed = allowed_.contains(key);
  }
  refused_ += allowed ? 0 : 1;
  const std::string id = request.size() > 1 ? request[1].to_string() : "";
  const std::array<zmq::const_buffer, 6> reply = {
      zmq::str_buffer("1.0"),
      zmq::buffer(id),
      allowed ? zmq::str_buffer("200") : zmq::str_buffer("400"),
      allowed ? zmq::str_buffer("OK") : zmq::str_buffer("key not allowed"),
      zmq::const_buffer(),
      zmq::const_buffer()};  // user id, metadata
  zmq::send_multipart(socket_, reply);
}

}  // namespace ens
