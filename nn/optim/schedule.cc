// SPDX-License-Identifier: Apache-2.0
#include "nn/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace ens {
namespace {

double cosine(double from, double to, double fraction) {
  return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * fraction));
}

}  // namespace

float Schedule::at(int64_t step) const {
  switch (kind) {
    case Kind::kConstant:
      return peak;
    case Kind::kOneCycle: {
      const double low = peak / 25.0, lowest = low / 1e4;
      const double rise = static_cast<double>(warmup) * static_cast<double>(steps) - 1;
      const double end = static_cast<double>(steps) - 1;
      const double now = static_cast<double>(step);
      if (now <= rise) return static_cast<float>(cosine(low, peak, rise > 0 ? now / rise : 1));
      const double rest = std::max(end - std::max(rise, 0.0), 1.0);
      return static_cast<float>(
          cosine(peak, lowest, std::min(1.0, (now - std::max(rise, 0.0)) / rest)));
    }
    case Kind::kCosine:
      return static_cast<float>(cosine(
          peak, 0, static_cast<double>(step) / static_cast<double>(std::max<int64_t>(steps, 1))));
    case Kind::kStep:
      return peak * static_cast<float>(std::pow(gamma, step / std::max<int64_t>(period, 1)));
    case Kind::kNoam: {
      const auto now = static_cast<double>(step + 1), warm = static_cast<double>(warmup_steps);
      return static_cast<float>(static_cast<double>(peak) *
                                std::min(now / warm, std::sqrt(warm / now)));
    }
  }
  return peak;
}

Schedule::Kind parse_schedule(const std::string& name) {
  if (name == "constant") return Schedule::Kind::kConstant;
  if (name == "onecycle") return Schedule::Kind::kOneCycle;
  if (name == "cosine") return Schedule::Kind::kCosine;
  if (name == "step") return Schedule::Kind::kStep;
  if (name == "noam") return Schedule::Kind::kNoam;
  usage_fail("unknown schedule '" + name + "'", "schedule",
             "use onecycle, cosine, step, noam or constant");
}

}  // namespace ens
