// SPDX-License-Identifier: Apache-2.0
// What an attacker on split inference may know, one type for each kind of knowledge (arXiv
// 2401.10859, section 2; He et al., ACSAC 2019). No view holds a true image or, but for SubsetView,
// the selector; a query-free attack cannot name the client's head, because its view has no such
// member. What each member gets is decided in grant.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "attacks/core/attack.h"
#include "nn/autograd/var.h"
#include "nn/core/rng.h"
#include "nn/data/dataset.h"
#include "nn/models/model.h"

namespace ens {

// What a channel of limited power does to the output of a head [B,C,H,W]: scales it, and adds the
// noise of one send, drawn from `noise`; null: in the mean. Differentiable, float32.
using ChannelMap = std::function<Var(const Var& features, Rng* noise)>;

// Everything that could be known of one client: plain tensors, indices and functions, filled in by
// the scenario. Attacks never see it; grant() takes their view from it.
struct SplitVictim {
  ModelSpec model;
  Split split;
  std::vector<std::shared_ptr<Sequential>> bodies;
  Tensor observed;
  const Dataset* public_data = nullptr;
  std::function<const Dataset*()> training_data;  // all images of the training split
  // The features that the client sends for images [B,C,S,S] in [0, 1]: float32, on the CPU. What is
  // drawn is drawn anew each time.
  std::function<Tensor(const Tensor& images)> send;
  // `send` has features of `public_data` alone, as its images are: a table of what was recorded.
  bool recorded = false;
  // The same from the client's device, which may send an image the same way each time.
  std::function<Tensor(const Tensor& images)> send_from_device;
  ChannelMap channel;               // see ServerView
  std::function<Tensor()> traffic;  // features of further images; computed when first granted
  std::vector<int32_t> labels;      // of the images behind `observed`
  std::function<std::vector<int64_t>()> nearest;  // to them, see NearestView
  // Features [M,C,H,W] of the images behind `observed`, changed first: a further send of them.
  std::function<Tensor(const std::function<Tensor(const Tensor& images)>& change)> resend;
  std::vector<int> subset;
  std::shared_ptr<Sequential> head;
  std::function<Var(const Var& features)> protect;        // see WhiteBoxView
  std::function<Tensor(const Tensor& images)> send_mean;  // see BlackBoxView::mean_query
};

// What applicability and cost depend on.
struct SplitSetting {
  ModelSpec model;
  Split split;
  int nets = 1, selected = 1;  // N, P
  int64_t public_images = 0, scored_images = 0;
  int64_t training_images = 0;  // in all; only known where the tier asks for all of them
  bool draws_anew = true;       // whether the client sends the same image differently each time
};

// What the server has before a client sends anything.
struct ServerView {
  using Victim = SplitVictim;
  using Setting = SplitSetting;
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kBlind;
  // The classifier's architecture with the constants that normalise its input, and where it is cut.
  ModelSpec model;
  Split split;
  // The N server nets: frozen, evaluation mode. The server holds them all.
  std::vector<std::shared_ptr<Sequential>> bodies;
  // The attacker's own labelled images, of the training data's distribution, disjoint from the
  // private images behind `observed` and `traffic`.
  const Dataset* public_data = nullptr;
  int64_t scored_images = 0;  // how many images are to be reconstructed
  // The client's channel, whose power is no secret; empty: it has none.
  ChannelMap channel;
  // What a client with such a head sends: `features` themselves without a channel.
  Var sent(const Var& features, Rng* noise) const {
    return channel ? channel(features, noise) : features;
  }
};

// Floors that know more than the server has, and still not the features.
struct LabelView : ServerView {
  std::vector<int32_t> labels;  // the true class of each image to be reconstructed
};
struct NearestView : ServerView {
  // For each image to be reconstructed the number of the public image with the least squared error.
  std::vector<int64_t> nearest;
};

struct QueryFreeView : ServerView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kQueryFree;
  // Smashed features [M,C,H,W] float32 as the client sent them: what is to be inverted.
  Tensor observed;
};

// The server keeps everything it receives.
struct TrafficView : QueryFreeView {
  Tensor traffic;  // further features [T,C,H,W] float32, of images nobody named
};

// For attacks that ask what the secrecy of the subset is worth: the client's P nets, ascending.
struct SubsetView : QueryFreeView {
  std::vector<int> subset;
};

struct KnownPairsView : QueryFreeView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kKnownPairs;
  // Images [m,C,S,S] in [0, 1] and the features that the client sent for them.
  Tensor pair_images, pair_features;
};

struct BlackBoxView : QueryFreeView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kBlackBox;
  // The client's features for images of the attacker's choice.
  std::function<Tensor(const Tensor& images)> query;
  // The mean of ever more queries with an image; empty where that is not known to be worth asking.
  std::function<Tensor(const Tensor& images)> mean_query;
  bool recorded = false;  // query() knows the images of `query_data` alone, unchanged
  // What there is to ask for: the public images; in tier `full` all of the training split.
  const Dataset* query_data = nullptr;
};

// The client sends what is to be inverted more than once, as it is or nearly so.
struct RepetitionView : BlackBoxView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kRepeatedSends;
  // Send number `copy` >= 1 of the images behind `observed`, which is number 0: changed by
  // changed_copy(), then features [M,C,H,W] float32.
  std::function<Tensor(int64_t copy)> resend;
};

struct WhiteBoxView : QueryFreeView {
  static constexpr KnowledgeLevel kLevel = KnowledgeLevel::kWhiteBox;
  // The client's head, frozen, and what its protection does to the head's output [B,C,H,W] in the
  // mean over what it draws for each image; differentiable. Empty: nothing.
  std::shared_ptr<Sequential> head;
  std::function<Var(const Var& features)> protect;
};

using SplitAttack = AttackAgainst<SplitVictim, SplitSetting>;

}  // namespace ens
