// Sweeps: many trainings and attacks from one configuration (proto/config.proto, SweepConfig).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "proto/config.h"

namespace ens {

// One run of a sweep and the attacks on it.
struct SweepCell {
  std::string folder;  // its name inside the sweep's folder: "ensembler_h=2_seed=3"
  std::string row;
  std::map<std::string, std::string> values;  // axis path -> value
  RunConfig config;                           // complete, with the settings of its attacks
  std::vector<std::string> attacks;
  std::string skipped;  // why this combination makes no sense; empty if it does
};

// Every row with every combination of values, rows and values in their order. Combinations that a
// configuration forbids (P > N, no cell left for the cloud) are there with the reason in `skipped`;
// so are those that are the same experiment as an earlier cell (lambda makes no difference to a net
// without protection). Usage Error for unknown paths, values and attacks.
std::vector<SweepCell> expand(const SweepConfig& sweep, const std::string& data_root);

struct SweepOptions {
  std::filesystem::path out;
  std::string title;
  std::string data_root;
  std::vector<std::filesystem::path> reuse;  // folders whose finished runs may be built upon
  int jobs = 0;          // cells at once, sharing the compute threads; 0: one for each thread
  double memory_gb = 0;  // start no cell that would go beyond; 0: most of what is free
};

// Prints the cells, what is done already, and an estimate of the time from training steps measured
// on this machine now.
void print_plan(const std::vector<SweepCell>& cells, const SweepOptions& options);

// Runs what is not done, resumes what was interrupted, and leaves OUT/sweep.json, OUT/<cell>/ and
// OUT/report.html. Equal trainings and equal nets of stage 1, here or in the runs below
// options.reuse, are taken over instead of trained again. A cell that fails is marked with its
// reason and stops nothing. Returns how many trainings and attacks failed.
int run_sweep(const std::vector<SweepCell>& cells, const SweepOptions& options);

}  // namespace ens
