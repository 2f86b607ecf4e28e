// Wiretap: the honest-but-curious cloud's ears, as a process of their own between edge and cloud.
//
// Passes the messages of one edge to the cloud and back unchanged, and keeps the smashed features
// it sees, for the attack lab. Plain text on loopback only: CURVE traffic cannot be read here.
#pragma once

#include <memory>
#include <string>

#include "nn/core/tensor.h"

namespace ens {

class Wiretap {
 public:
  // Starts a thread that listens on a loopback port of the system's choice.
  explicit Wiretap(const std::string& cloud_endpoint);
  ~Wiretap();

  std::string endpoint() const;  // where the edge should connect
  // All features seen so far, in the order of the requests, [M,C,H,W] float32. A request sent again
  // counts once. Error if there were none.
  Tensor features() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ens
