// SPDX-License-Identifier: Apache-2.0
// A run is a folder: resolved configuration, facts, metrics, checkpoints, artefacts, DONE last.
//
//   config.txtpb   the resolved configuration
//   info.json      version, revision, command, device, processor, seed, started, resumed [...]
//   classes.txt    the names of the classes, a line each, in the order of the labels
//   metrics.csv    time,stage,net,epoch,step,name,value; one row per number, time in UTC
//   tensorboard/   the same numbers and the attacks' as event files, where they are asked for
//   DONE           written last: without it the run is unfinished and may be resumed
//   LOCK           locked (flock) while a process works in the folder; holds its process id
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "proto/config.pb.h"
#include "proto/results.pb.h"

namespace ens {

struct RunFacts {       // written to info.json, beside version, revision, processor and date
  std::string command;  // the command line
  std::string device;   // "CPU, 2 threads, avx512_core_amx"
  uint64_t seed = 0;
};

struct Metric {
  std::string stage;  // "stage1", "stage2"
  int net = 0;        // -1: the whole ensemble
  int64_t epoch = 0;  // 0-based
  int64_t step = 0;
  std::string name;  // "loss", "accuracy", "similarity", "images_per_second"
  double value = 0;
};

// The writer's side. Holds an exclusive lock on the folder while alive; folder mode 0700, since it
// holds secrets. Methods are thread-safe.
class RunDir {
 public:
  // Makes or continues the run in `folder`. `config_text` is the resolved configuration; if the
  // folder holds another one: usage Error naming the first field that differs and what to try. If
  // another process works in it: usage Error with that process's id. A folder that holds anything
  // else than a run is refused and left as it is. Removes what a killed process left half-written.
  RunDir(const std::filesystem::path& folder, const std::string& config_text,
         const RunFacts& facts);
  ~RunDir();

  const std::filesystem::path& folder() const;
  // folder() / relative, which must stay inside; its parent folders are made.
  std::filesystem::path path(const std::string& relative) const;
  // Drops rows that will be computed again: those of (stage, net) at or after `epoch`, and a torn
  // last line.
  void forget_metrics(const std::string& stage, int net, int64_t epoch);
  // Appends a row and flushes it to disk.
  void add_metric(const Metric& metric);
  // From now on metrics are also written as TensorBoard's events, those so far among them, into
  // folder()/tensorboard/train: "stage1/net0/loss" by step.
  void write_events();
  void mark_done();  // writes DONE
  bool done() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The reader's side, for reports: no lock, nothing changed. A torn last line of metrics.csv, which
// a killed or a still working process leaves, is no damage.
struct RunView {
  std::filesystem::path folder;
  std::string config_text;
  std::optional<results::RunInfo> info;  // empty if the file is missing or damaged
  std::vector<Metric> metrics;
  bool done = false;
  std::string damage;  // why it cannot be used; empty if fine
};
// A configuration (Protobuf text) as ("stage1.epochs", "6") in order; comments and spacing do not
// count, and settings have the names of this version.
std::vector<std::pair<std::string, std::string>> config_fields(const std::string& text);

// The first setting in which two configurations differ, as a sentence about the first and "the
// folder"; empty if they are the same. A setting that one of them lacks, because its version did
// not have it, has its default.
std::string config_difference(const std::string& mine, const std::string& folder);

// The completed configuration of the run in `folder`. Error if it cannot be read; if it has
// settings or choices that this version does not know, the error says that a newer version wrote
// it.
RunConfig read_run_config(const std::filesystem::path& folder);

// Whether a process has a RunDir of this folder now, this one included.
bool run_in_use(const std::filesystem::path& folder);
bool is_run(const std::filesystem::path& folder);  // it holds a config.txtpb
// Never throws for damage: see `damage`. `with_metrics`: else they are left out.
RunView read_run(const std::filesystem::path& folder, bool with_metrics = true);

}  // namespace ens
