// SPDX-License-Identifier: Apache-2.0
// BlindedProducts: what the trusted side does for each layer that workers compute: encode its
// input, ask for products of shares, check them, decode. The device of edge/ and the simulated
// enclave of offload/trusted differ in how workers are reached: in their BlindedProducts::Workers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "nn/plan/int8.h"
#include "offload/core/freivalds.h"
#include "offload/core/scheme.h"
#include "offload/schemes/secure_stream.h"

namespace ens {

class BlindedProducts {
 public:
  struct Options {
    bool check = true;     // every product (Freivalds)
    int repetitions = 0;   // of the check; 0: 1, or 2 in a field of fewer than 32 bits
    int spare_shares = 0;  // sent at once beyond those that decode
    int retries = 2;       // how often an input is encoded anew when too few products have come
  };

  // What one worker is asked: the products of a group's layers with one share.
  struct Job {
    size_t group = 0;
    uint64_t step = 0;  // counts the encodings
    int share = 0;
    int64_t batches = 0;  // G: virtual batches
    bool is_unsigned = false;
    Share data;
  };
  // A worker's answer to it.
  struct Reply {
    uint64_t step = 0;
    int share = 0;
    std::span<const std::byte> frame;  // of each layer in turn [planes, G, output]
    double compute_ms = 0;
  };
  using Make = std::function<Job(int share)>;
  // Empty: the products are right. Else what the worker did; it lies.
  using Judge = std::function<std::string(int share, const Reply& reply)>;

  class Workers {
   public:
    enum class Outcome { kDone, kTooFew, kFailed };  // kTooFew: another encoding may do
    virtual ~Workers() = default;
    // Sends shares 0, 1, ... of `shares`: at_once of them, each to another owner, and another one
    // for each that fails, until `needed` are judged right.
    virtual Outcome run(int shares, int needed, int at_once, const Make& make,
                        const Judge& judge) = 0;
  };
  // Thrown by operator(): Workers knows why.
  struct Failed {};

  struct Times {
    double encode_ms = 0;   // encoding and making shares
    double wait_ms = 0;     // for workers, beyond what they computed
    double compute_ms = 0;  // that the slowest worker of each round reported
    double check_ms = 0;    // reading and checking products
    double decode_ms = 0;
    int64_t rounds = 0;
  };

  // All of them live as long as this. Usage Error for sums that the field does not hold.
  BlindedProducts(const Int8Net& net, Scheme& scheme, Workers& workers, const Options& options);

  // The group's products of x, as Int8Products.
  std::vector<Tensor> operator()(size_t group, const Tensor& x);

  Times take_times();  // since the last call

 private:
  struct Group {
    std::vector<Shape> outputs;
    std::vector<std::unique_ptr<ProductCheck>> checks;  // empty: products are not checked
    int64_t checked = 0;                                // with the present secrets
  };
  using Outputs = std::vector<std::vector<Elements>>;  // [layer][reply]

  void draw_secrets(Group& group);
  Workers::Outcome ask(size_t g, Encoding& encoding, bool is_unsigned, std::vector<int>& shares,
                       Outputs& outputs);
  std::string judge(size_t g, Encoding& encoding, int share, const Reply& reply,
                    std::vector<Elements>& read);

  const Int8Net& net_;
  Scheme& scheme_;
  Workers& workers_;
  const Options options_;
  SecureStream secrets_;  // of the checks
  std::vector<Group> groups_;
  uint64_t step_ = 0;
  Times times_;
};

}  // namespace ens
