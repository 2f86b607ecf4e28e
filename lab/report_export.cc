// The report's numbers as CSV and JSON.
#include <fmt/format.h>

#include "lab/report_data.h"

namespace ens::report {

using nlohmann::json;

std::string as_csv(const Collection& all) {
  const auto field = [](const std::string& text) {
    if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
    std::string out = "\"";
    for (const char c : text) out += c == '"' ? "\"\"" : std::string(1, c);
    return out + "\"";
  };
  const auto number = [](const Number& value) {
    return value ? fmt::format("{}", *value) : std::string();
  };
  const auto triple = [&](const std::optional<Interval>& v) {
    return v ? number(v->mean) + "," + number(v->low) + "," + number(v->high) : std::string(",,");
  };
  std::string out =
      "folder,protection,data,architecture,width,head,tail,nets,selected,sigma,lambda,seed,"
      "accuracy,accuracy_change,"
      "similarity,bytes_up,bytes_down,edge_ms,total_ms,attack,level,best_of,chosen_by,scored_"
      "images,ssim,ssim_low,"
      "ssim_high,psnr,psnr_low,psnr_high,mse,mse_low,mse_high,share_of_oracle,share_of_oracle_"
      "unprotected,strength,"
      "own_ssim,own_psnr,negative_ssim,negative_psnr,negative_better,error,command\r\n";
  for (const Run& r : all.runs) {
    const auto p50 = [&](const char* part) {
      return r.latency.count(part) ? r.latency.at(part).p50 : Number();
    };
    const Number head = p50("head"), tail = p50("tail");
    std::string first = field(r.folder.string()) + "," + field(r.protection) + "," + field(r.data) +
                        "," + field(r.architecture);
    for (const Number& value :
         {r.width, r.head, r.tail, r.nets, r.selected, r.sigma, r.lambda, r.seed, r.accuracy,
          r.accuracy_change, r.similarity, r.bytes_up, r.bytes_down,
          head && tail ? Number(*head + *tail) : Number(), p50("total")}) {
      first += "," + number(value);
    }
    if (r.attacks.empty()) out += first + std::string(23, ',') + "," + field(r.command) + "\r\n";
    for (const Attack& a : r.attacks) {
      out += first + "," + field(a.kind) + "," + field(a.level) + fmt::format(",{},", a.best_of) +
             field(a.chosen_by) + fmt::format(",{},", a.scored_images) + triple(a.ssim) + "," +
             triple(a.psnr) + "," + triple(a.mse) + "," + number(a.of_oracle) + "," +
             number(a.strength) + "," + (a.error.empty() ? a.strength_word() : "") + "," +
             number(a.own.ssim) + "," + number(a.own.psnr) + "," + number(a.negative.ssim) + "," +
             number(a.negative.psnr) + "," + (a.negative_better ? "true" : "false") + "," +
             field(a.error) + "," + field(r.command) + "\r\n";
    }
  }
  return out;
}

std::string as_json(const Collection& all) {
  const auto number = [](const Number& value) { return value ? json(*value) : json(); };
  json out = {{"runs", json::array()}, {"skipped", json::array()}};
  for (const Run& r : all.runs) {
    json attacks = json::array();
    for (const Attack& a : r.attacks) {
      json entry = a.raw;
      entry["derived"] = {{"share_of_oracle", number(a.of_oracle)},
                          {"share_of_oracle_unprotected", number(a.strength)},
                          {"strength", a.error.empty() ? json(a.strength_word()) : json()}};
      attacks.push_back(entry);
    }
    out["runs"].push_back({{"folder", r.folder.string()},
                           {"info", r.info},
                           {"config", r.config},
                           {"summary", r.summary},
                           {"serve", r.serve},
                           {"accuracy_change", number(r.accuracy_change)},
                           {"attacks", attacks}});
  }
  for (const Skipped& s : all.skipped)
    out["skipped"].push_back({{"what", s.what}, {"reason", s.reason}});
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace ens::report
