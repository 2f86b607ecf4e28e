// SPDX-License-Identifier: Apache-2.0
// Published results and ours. Internal to the report.
#pragma once

#include <string>
#include <vector>

#include "report/data.h"

namespace ens::report {

// A published row, and one of ours that measured the same; `ours` is empty if none did.
struct PublishedRow {
  std::string group;         // "CIFAR-10", "cut after ReLU22"
  std::string name;          // as published
  Maybe change, ssim, psnr;  // points of accuracy, SSIM, dB
  std::string ours, attack;  // titles
  Maybe our_change, our_ssim, our_psnr;

  Maybe ssim_difference() const { return difference(our_ssim, ssim); }  // ours - theirs
  Maybe psnr_difference() const { return difference(our_psnr, psnr); }

  static Maybe difference(const Maybe& a, const Maybe& b) {
    return a && b ? Maybe(*a - *b) : Maybe();
  }
};

struct PublishedTable {
  std::string source, remark;  // plain text
  std::string gate;            // whether the calibration holds; empty if there is none to pass
  std::vector<PublishedRow> rows;
};

// Tables 1 to 3 of arXiv 2401.10859 and the calibration of He et al. (ACSAC 2019), as far as there
// is a run on the same data.
std::vector<PublishedTable> published(const ReportData& all);

}  // namespace ens::report
