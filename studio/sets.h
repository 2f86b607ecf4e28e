// SPDX-License-Identifier: Apache-2.0
// Disguised sets that were made here, the owner's half and the cloud's. The studio plays both
// parties, in folders of their own:
//
//   STATE/owner/ID/    mode 0700: owner.key, train.h5, test.h5, set.json (what `disguise apply`
//   did) STATE/uploads/ID/  what was uploaded: train.h5 and test.h5, and nothing else of the
//   owner's
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "proto/studio.pb.h"

namespace ens {

class Pictures;

// Thread-safe.
class DisguisedSets {
 public:
  explicit DisguisedSets(std::filesystem::path state) : state_(std::move(state)) {}

  // A new owner's folder; about: title and command for people. Returns the id.
  std::string make(studio::OwnerSets::Set about);
  void set_job(const std::string& id, const std::string& job);
  std::filesystem::path owner(const std::string& id) const;   // Refusal 404 if there is none
  std::filesystem::path upload(const std::string& id) const;  // the same
  bool uploaded(const std::string& id) const;
  // Hands train.h5 and test.h5 over. Refusal 409 if they are not done.
  void hand_over(const std::string& id);
  void remove(const std::string& id);  // both halves
  studio::OwnerSets owner_sets();      // the newest first
  void cloud_sets(studio::TrainingChoices& out, Pictures& pictures);
  // What the owner said of a set when she made it, for the training on plain images.
  studio::DisguiseReport report(const std::string& id) const;  // Refusal 409 if it is not done

 private:
  const std::filesystem::path state_;
  std::mutex mutex_;
  std::map<std::string, studio::OwnerSets::Set> known_;  // with what leaves, by id
  struct Upload {
    studio::TrainingChoices::Set set;
    std::string png;  // the first rows
  };
  std::map<std::string, Upload> uploaded_;  // by id
};

}  // namespace ens
