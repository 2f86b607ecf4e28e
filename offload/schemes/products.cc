// SPDX-License-Identifier: Apache-2.0
#include "offload/schemes/products.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace ens {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kChecksOfASecret = 1000;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

}  // namespace

BlindedProducts::BlindedProducts(const Int8Net& net, Scheme& scheme, Workers& workers,
                                 const Options& options)
    : net_(net), scheme_(scheme), workers_(workers), options_(options) {
  const Field& field = scheme.field();
  const bool reals = scheme.numbers() == ShareNumbers::kReals;
  const int repetitions =
      options.repetitions > 0 ? options.repetitions : (field.planes() < 4 ? 2 : 1);
  for (size_t g = 0; g < net.groups.size(); ++g) {
    const Int8Group& group = net.groups[g];
    if (const int64_t largest = group.largest_output(); !reals && largest > field.prime() / 2) {
      usage_fail("layer " + std::to_string(g + 1) + " can have sums of " + std::to_string(largest) +
                     ", which the field modulo " + std::to_string(field.prime()) + " does not hold",
                 "offload.field", "use m31");
    }
    Group& prepared = groups_.emplace_back();
    std::vector<Int8Layer> layers;
    for (const Int8Step& step : group.steps) {
      layers.push_back(step.layer);
      prepared.outputs.push_back(output_shape(step.layer, group.input));
      if (options.check)
        prepared.checks.push_back(
            reals ? real_check(step.layer.weight, step.layer.conv)
                  : field_check(field, step.layer.weight, step.layer.conv, repetitions));
    }
    scheme.add_group(std::move(layers), group.input, group.input_scale);
    draw_secrets(prepared);
  }
}

void BlindedProducts::draw_secrets(Group& group) {
  for (const auto& check : group.checks) check->redraw(secrets_.next());
  group.checked = 0;
}

std::vector<Tensor> BlindedProducts::operator()(size_t g, const Tensor& x) {
  for (int attempt = 0; attempt <= options_.retries; ++attempt) {
    // Fresh noise for every attempt: what workers saw of another encoding says nothing about this
    // one.
    auto start = Clock::now();
    const std::unique_ptr<Encoding> encoding = scheme_.encode(g, x);
    times_.encode_ms += ms_since(start);
    std::vector<int> shares;
    Outputs outputs;
    const auto outcome = ask(g, *encoding, x.dtype() == Dtype::kU8, shares, outputs);
    if (outcome == Workers::Outcome::kFailed) break;
    if (outcome == Workers::Outcome::kTooFew) continue;
    start = Clock::now();
    std::vector<Tensor> decoded;
    for (size_t i = 0; i < outputs.size(); ++i)
      decoded.push_back(encoding->decode(i, shares, outputs[i], groups_[g].outputs[i]));
    times_.decode_ms += ms_since(start);
    return decoded;
  }
  throw Failed{};
}

// Sends shares of one encoding, and reads and checks needed() products.
BlindedProducts::Workers::Outcome BlindedProducts::ask(size_t g, Encoding& encoding,
                                                       bool is_unsigned, std::vector<int>& shares,
                                                       Outputs& outputs) {
  outputs.assign(groups_[g].outputs.size(), {});
  ++step_;
  ++times_.rounds;
  double making = 0, judging = 0, compute = 0;
  const auto make = [&](int share) {
    const auto start = Clock::now();
    Job job{g, step_, share, encoding.groups(), is_unsigned, encoding.share(share)};
    making += ms_since(start);
    return job;
  };
  const auto accept = [&](int share, const Reply& reply) {
    const auto start = Clock::now();
    std::vector<Elements> read;
    std::string verdict = judge(g, encoding, share, reply, read);
    if (verdict.empty()) {
      shares.push_back(share);
      for (size_t i = 0; i < read.size(); ++i) outputs[i].push_back(std::move(read[i]));
      compute = std::max(compute, reply.compute_ms);
    }
    judging += ms_since(start);
    return verdict;
  };
  const auto start = Clock::now();
  const auto outcome = workers_.run(scheme_.shares(), scheme_.needed(),
                                    scheme_.needed() + options_.spare_shares, make, accept);
  times_.encode_ms += making;
  times_.check_ms += judging;
  times_.compute_ms += compute;
  times_.wait_ms += std::max(0.0, ms_since(start) - making - judging - compute);
  return outcome;
}

// The products in a reply, if they are right.
std::string BlindedProducts::judge(size_t g, Encoding& encoding, int share, const Reply& reply,
                                   std::vector<Elements>& read) {
  if (reply.step != step_ || reply.share != share) return "returned the products of another job";
  Group& group = groups_[g];
  const int64_t count = encoding.groups(), bytes = scheme_.output_bytes();
  int64_t total = 0;
  for (const Shape& output : group.outputs) total += count * output.numel() * bytes;
  if (std::ssize(reply.frame) != total) return "returned products of another shape";
  const std::byte* from = reply.frame.data();
  for (size_t i = 0; i < group.outputs.size(); ++i) {
    const bool residues = scheme_.numbers() == ShareNumbers::kResidues;
    Tensor frame = Tensor::empty(batched(residues ? bytes : 1, batched(count, group.outputs[i])),
                                 product_dtype(scheme_.numbers()));
    std::memcpy(frame.host(), from, frame.bytes());
    from += frame.bytes();
    if (!encoding.read(frame, read.emplace_back())) return "returned elements that are none";
    if (!group.checks.empty() &&
        !group.checks[i]->check(encoding.elements(share), net_.groups[g].input, read.back(),
                                group.outputs[i], count)) {
      draw_secrets(group);
      return "returned a wrong product of layer " + std::to_string(g + 1);
    }
  }
  if (!group.checks.empty() && ++group.checked >= kChecksOfASecret) draw_secrets(group);
  return "";
}

BlindedProducts::Times BlindedProducts::take_times() { return std::exchange(times_, {}); }

}  // namespace ens
