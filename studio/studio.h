// SPDX-License-Identifier: Apache-2.0
// The studio: the whole project in a browser, served by the program itself (docs/studio.md).
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "studio/site.h"

namespace ens {

struct StudioOptions {
  std::filesystem::path runs;     // folders of runs and sweeps lie at or below it
  std::filesystem::path program;  // `ensembler`, for jobs
  std::string bind = "127.0.0.1:8765";
  std::vector<std::string> hosts;  // names under which it is reached, where it is not loopback
  bool token = true;               // false: loopback only, and without a proxy
  bool behind_proxy = false;       // something else speaks TLS
  bool read_only = false;          // nothing is started, nothing is written
  bool demo = false;               // queue the small ready-made runs
  int jobs = 1;                    // at a time
  std::filesystem::path web;       // development: serve this folder's files; loopback only
};

class Studio {
 public:
  // Error if it cannot listen; usage Error if it would be open to others.
  explicit Studio(const StudioOptions& options);
  ~Studio();

  std::string address() const;  // with the token: "http://127.0.0.1:8765/#token=..."
  // The matrix, the trainings and what was measured, as files for any web server: the same pages,
  // without a server that computes. Usage Error if `out` is not empty.
  static void export_pages(const StudioOptions& options, const std::filesystem::path& out);
  std::string note() const;  // what the user should know: why it is read-only; may be empty

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The pages, built from web/ and put into the program; empty if it was built without.
const std::vector<SiteFile>& embedded_pages();

}  // namespace ens
