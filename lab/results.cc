#include "lab/results.h"

#include <fmt/format.h>

#include <cmath>
#include <fstream>
#include <string>

#include "base/error.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

json interval(const Interval& i) { return {{"mean", i.mean}, {"low", i.low}, {"high", i.high}}; }

json read_json(const fs::path& file) {
  std::ifstream in(file);
  if (!in) fail("cannot read " + file.string(), "", "is this a finished run folder?");
  return json::parse(in);
}

}  // namespace

json to_json(const AttackScore& s) {
  json out{{"attack", s.attack},
           {"title", s.title},
           {"level", s.level},
           {"best_of", s.best_of},
           {"chosen_by", s.best_of > 1 ? json("truth (SSIM)") : json(nullptr)},
           {"best_part", s.best_part},
           {"best_psnr", s.best_psnr},
           {"scored_images", s.scored_images},
           {"ssim", interval(s.scores.ssim)},
           {"psnr", interval(s.scores.psnr)},
           {"mse", interval(s.scores.mse)},
           {"negative",
            {{"ssim", s.negative.ssim.mean},
             {"psnr", s.negative.psnr.mean},
             {"better", s.negative.ssim.mean > s.scores.ssim.mean}}},
           {"own", nullptr},
           {"shadow_accuracy", s.shadow_accuracy < 0 ? json(nullptr) : json(s.shadow_accuracy)},
           {"seconds", s.seconds},
           {"parts", json::array()}};
  if (s.has_own) out["own"] = {{"ssim", s.own.ssim.mean}, {"psnr", s.own.psnr.mean}};
  const auto known = [](double value) {
    return std::isfinite(value) ? json(value) : json(nullptr);
  };
  if (s.reference) {
    out["reference"] = {{"recognised", interval(s.reference->recognised)},
                        {"reidentified", interval(s.reference->reidentified)},
                        {"originals", s.reference->originals}};
  }
  for (const PartScore& p : s.parts) {
    out["parts"].push_back({{"name", p.part},
                            {"ssim", p.ssim},
                            {"psnr", p.psnr},
                            {"merit", known(p.merit)},
                            {"x", known(p.x)}});
  }
  if (s.own_pick >= 0) {
    const PartScore& p = s.parts[static_cast<size_t>(s.own_pick)];
    out["own_pick"] = {{"name", p.part}, {"ssim", p.ssim}, {"psnr", p.psnr}};
  }
  return out;
}

void print_results(const std::vector<fs::path>& folders) {
  fmt::print("\n{:<12} {:>9}  {:<34} {:>16} {:>17} {:>11}\n", "protection", "accuracy", "attack",
             "SSIM [95 %]", "PSNR dB [95 %]", "recognised");
  for (const fs::path& folder : folders) {
    const json summary = read_json(folder / "summary.json");
    std::string left = fmt::format("{:<12} {:>7.1f} %", summary.at("protection").get<std::string>(),
                                   100 * summary.at("accuracy").get<double>());
    for (const std::string& attack : attack_names()) {
      const fs::path file = folder / "attack" / attack / "result.json";
      if (!fs::exists(file)) continue;
      const json r = read_json(file);
      const std::string title = r.at("title").get<std::string>();
      if (r.contains("pointless")) continue;
      if (r.contains("error")) {
        fmt::print("{}  {:<34} failed: {}\n", left, title, r.at("error").get<std::string>());
      } else {
        auto cell = [](const json& v, const char* format) {
          return fmt::format(fmt::runtime(format), v.at("mean").get<double>(),
                             v.at("low").get<double>(), v.at("high").get<double>());
        };
        const std::string recognised =
            r.contains("reference")
                ? fmt::format("{:.0f} %", 100 * r["reference"]["recognised"]["mean"].get<double>())
                : "";
        fmt::print("{}  {:<34} {:>16} {:>17} {:>11}\n", left, title,
                   cell(r.at("ssim"), "{:.3f} [{:.2f},{:.2f}]"),
                   cell(r.at("psnr"), "{:.1f} [{:.1f},{:.1f}]"), recognised);
      }
      left = fmt::format("{:<12} {:>9}", "", "");
    }
  }
}

}  // namespace ens
