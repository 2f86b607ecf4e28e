// SPDX-License-Identifier: Apache-2.0
// `ensembler advise`: which split and protection to use, from what was measured. Works on the
// report's rows: accuracy is the mean over the seeds, a reconstruction the worst of any seed.
#pragma once

#include <string>
#include <vector>

#include "report/data.h"

namespace ens::report {

struct Wish {
  double max_ssim = 1;  // maximum SSIM of the attack that counts (default metric)
  std::string attack;   // the attack that counts; empty: the strongest measured, oracle included
  std::string data;     // the data set; may be empty if there is only one
  Maybe edge_flops;     // per image
  Maybe edge_ms;        // head and tail, per request as served
  Maybe bytes;          // up and down together, per image
  Maybe bits;           // of information about the image in one request (docs/channel.md)
};

// A wish that a row does not meet.
struct Excess {
  std::string what;  // "SSIM", "edge FLOPs", "edge ms", "bytes", "bits"
  Maybe value;       // unknown: it was not measured, or there is no limit
  double limit = 0;
  double share() const { return value ? (*value - limit) / limit : 1e30; }  // 0.2: 20 % too much
};

struct Candidate {
  std::string protection, setting;
  Maybe accuracy, change;  // shares; change against no protection at the same split
  Maybe ssim;              // of the attack that counts
  std::string attack;      // its title
  Maybe edge_flops, edge_ms, bytes;
  Maybe bits;               // R; 0 where nothing is sent, unknown where nothing limits them
  int head = 0;             // h, or -1 where nothing is sent: the edge computes the whole network
  std::string certificate;  // what `ensembler certify` has found, in words; may be empty
  std::vector<Excess> excesses;  // empty: it fits
  std::string unused;            // why its numbers cannot be trusted; empty: they can
};

struct Advice {
  std::vector<Candidate> fitting;    // the best first: most accurate, then least SSIM
  std::vector<Candidate> ruled_out;  // the nearest first
  std::vector<Candidate> unused;
  // What is nearest to being met if nothing fits, in words; empty if something fits or nothing is
  // left to judge.
  std::string nearest;
};

// A network that the edge computes alone (model.architecture: edge_only) sends nothing: its SSIM is
// that of the best attack that looks at no feature.
//
// Rows are not used without a decoder on true features that one can measure by, whatever the other
// attacks are worth. With wish.attack: if it was not measured there or is not strong. Usage Error
// if there are several data sets and the wish names none, or names one that is not there.
Advice advise(const ReportData& all, const Wish& wish);

// The choice, the runners-up, and why the others were ruled out or not used.
std::string as_text(const Advice& advice, const Wish& wish);

}  // namespace ens::report
