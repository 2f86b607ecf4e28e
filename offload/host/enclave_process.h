// SPDX-License-Identifier: Apache-2.0
// EnclaveProcess: starts the simulated enclave, gives it images, and carries its shares to workers
// and their products back, without being able to read either where they are sealed.
#pragma once

#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/client_socket.h"
#include "nn/plan/int8.h"
#include "offload/core/frame.h"
#include "offload/core/seal.h"
#include "offload/host/worker_link.h"

namespace ens {

class EnclaveProcess {
 public:
  struct Worker {
    std::string address;
    std::optional<ClientSecurity> security;
    ExchangeKey key{};  // its public key, for sealed shares
  };

  // program: ens-trusted. settings: without session key, SHA-256 and number of workers, which are
  // filled in. Error if it cannot be started; Error of the enclave for settings or a network that
  // it refuses.
  EnclaveProcess(const std::filesystem::path& program, EnclaveSettings settings, const Int8Net& net,
                 const std::vector<Worker>& workers, std::chrono::milliseconds timeout);
  ~EnclaveProcess();

  // images [B, ...] float32 -> [B, ...]. Error if the enclave reports one, or has ended.
  Tensor run(const Tensor& images);
  void prepare(int64_t images);    // what a scheme computes ahead for so many
  EnclaveStatistics statistics();  // since the last call; peak_bytes since the start
  WorkerTraffic traffic() const;
  int pid() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
