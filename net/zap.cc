// SPDX-License-Identifier: Apache-2.0
#include "net/zap.h"

#include <array>
#include <cstdint>
#include <utility>
#include <vector>
#include <zmq_addon.hpp>

#include "base/error.h"
#include "net/keys.h"

namespace ens {

namespace fs = std::filesystem;

AllowedKeys::AllowedKeys(fs::path file_or_folder, Log log)
    : path_(std::move(file_or_folder)),
      log_(std::move(log)),
      keys_(read_allowed_keys(path_)),
      seen_(changed()),
      looked_(std::chrono::steady_clock::now()) {}

fs::file_time_type AllowedKeys::changed() const {
  std::error_code error;
  const auto time = fs::last_write_time(path_, error);
  return error ? fs::file_time_type::min() : time;
}

const std::string* AllowedKeys::find(const std::string& z85) const {
  const auto found = keys_.find(z85);
  return found == keys_.end() ? nullptr : &found->second;
}

void AllowedKeys::refresh(bool now) {
  const auto time = std::chrono::steady_clock::now();
  if (!now && time - looked_ < kInterval) return;
  looked_ = time;
  const auto change = changed();
  // A file written within the clock's grain of the last look would go unnoticed: look again a
  // little longer.
  const bool fresh = fs::file_time_type::clock::now() - change < std::chrono::seconds(2);
  if (!now && !fresh && change == seen_) return;
  seen_ = change;
  std::map<std::string, std::string> read;
  try {
    read = read_allowed_keys(path_, /*may_be_none=*/true);
  } catch (const std::exception& failure) {  // also of the file system
    log_({keys_.size(), keys_.size(), failure.what()});
    return;
  }
  if (read == keys_) return;
  log_({keys_.size(), read.size(), ""});
  keys_ = std::move(read);
}

ZapHandler::ZapHandler(zmq::context_t& context, const fs::path& clients, AllowedKeys::Log log)
    : socket_(context, zmq::socket_type::rep), keys_(clients, std::move(log)) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind("inproc://zeromq.zap.01");
}

bool ZapHandler::reply(std::string& client) {
  std::vector<zmq::message_t> request;
  if (!zmq::recv_multipart(socket_, std::back_inserter(request), zmq::recv_flags::dontwait)) {
    return false;
  }
  keys_.refresh();
  // version, request id, domain, address, identity, mechanism, credentials
  client.clear();
  char key[41] = "";
  if (request.size() == 7 && request[5].to_string_view() == "CURVE" && request[6].size() == 32) {
    zmq_z85_encode(key, request[6].data<uint8_t>(), 32);
    if (const std::string* name = keys_.find(key)) client = *name;
  }
  const bool allowed = !client.empty();
  const std::string id = request.size() > 1 ? request[1].to_string() : "";
  const std::string user = allowed ? key : "";  // comes with each of the client's messages
  const std::array<zmq::const_buffer, 6> decision = {
      zmq::str_buffer("1.0"),
      zmq::buffer(id),
      allowed ? zmq::str_buffer("200") : zmq::str_buffer("400"),
      allowed ? zmq::str_buffer("OK") : zmq::str_buffer("key not allowed"),
      zmq::buffer(user),
      zmq::const_buffer()};  // metadata
  zmq::send_multipart(socket_, decision);
  return true;
}

const std::string* ZapHandler::client_of(zmq::message_t& frame) const {
  const char* user = zmq_msg_gets(frame.handle(), "User-Id");
  return user ? keys_.find(user) : nullptr;
}

}  // namespace ens
