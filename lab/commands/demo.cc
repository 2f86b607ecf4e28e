// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/process.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/fetch.h"
#include "lab/results.h"
#include "lab/scenarios/split_attacks.h"
#include "lab/scenarios/split_training.h"
#include "net/wiretap.h"
#include "nn/data/dataset.h"
#include "proto/protections.h"
#include "proto/results.h"
#include "proto/results.pb.h"
#include "report/report.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

struct DemoFlags {
  ConfigFlags config;
  std::string out = "runs/demo";
  bool full = false, offline = false;
};

void heading(const std::string& text) { fmt::print(stderr, "\n== {}\n", text); }

// CIFAR-10 if it is there or can be downloaded; else the synthetic shapes, and a line that says so.
void choose_data(RunConfig& config, const DemoFlags& flags) {
  DataOptions wanted;
  wanted.name = config.data().name();
  wanted.root = config.data().root();
  if (dataset_present(wanted)) {
    fmt::print(stderr, "data: {} from {}\n", wanted.name, data_root(wanted.root).string());
    return;
  }
  std::string reason = "--offline";
  if (!flags.offline) {
    try {
      fmt::print(stderr, "data: fetching {} into {}\n", wanted.name,
                 data_root(wanted.root).string());
      fetch_with_bars(wanted.name, data_root(wanted.root));
      return;
    } catch (const Error& e) {
      reason = e.what();
    }
  }
  fmt::print(stderr, "data: {} is not here and could not be fetched: {}\n", wanted.name, reason);
  fmt::print(
      stderr,
      "data: falling back to the synthetic 'shapes' data set; its results say nothing about real "
      "photographs.\n      To use CIFAR-10: ensembler data get cifar10, or --data FOLDER\n");
  config.mutable_data()->set_name("shapes");
}

// The same training without protection: one net, no noise.
RunConfig unprotected(RunConfig config) {
  config.mutable_protection()->set_kind(unprotected_kind());
  complete(config);
  return config;
}

std::string wait_for_ready(Process& cloud, const fs::path& ready_file, const fs::path& log) {
  for (int i = 0; i < 6000; ++i) {  // five minutes: a GPU is measured first
    std::ifstream in(ready_file);
    std::string endpoint;
    if (std::getline(in, endpoint) && !endpoint.empty()) return endpoint;
    if (!cloud.running()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  fail("the cloud did not start", "ensembler-cloud", "its log is " + log.string());
}

// Runs ensembler-edge over the test set and returns its JSON summary.
json classify(const RunConfig& config, const fs::path& bundle, const std::string& cloud,
              int64_t limit, int batch) {
  std::vector<std::string> arguments{(program_folder() / "ensembler-edge").string(),
                                     "--bundle",
                                     bundle.string(),
                                     "--cloud",
                                     cloud,
                                     "--dataset",
                                     config.data().name(),
                                     "--limit",
                                     std::to_string(limit),
                                     "--batch",
                                     std::to_string(batch),
                                     "--seed",
                                     std::to_string(config.seed()),
                                     "--json"};
  if (!config.data().root().empty()) {
    arguments.insert(arguments.end(), {"--data", config.data().root()});
  }
  Process edge(arguments, {.capture = true});
  if (edge.wait() != 0)
    fail("the edge could not classify", "ensembler-edge", "its message is above");
  return json::parse(edge.output());
}

// Serves the ensemble in a cloud process, classifies with an edge process, listens in between.
// Returns the smashed features of the first scored images.
Tensor serve(const RunConfig& config, const fs::path& run) {
  const fs::path ready = run / "cloud.ready", log = run / "cloud.log";
  fs::remove(ready);
  Process cloud(
      {(program_folder() / "ensembler-cloud").string(), "--bundle", (run / "cloud.h5").string(),
       "--bind", "tcp://127.0.0.1:*", "--ready-file", ready.string()},
      {.capture = true, .err_file = log.string(), .err_append = true});
  const std::string endpoint = wait_for_ready(cloud, ready, log);
  fmt::print(stderr, "cloud: a separate process with {} server networks at {}\n",
             config.ensemble().nets(), endpoint);

  const json single = classify(config, run / "edge.h5", endpoint, 300, 1);
  Wiretap tap(endpoint);
  const json tapped =
      classify(config, run / "edge.h5", tap.endpoint(), config.attack().scored_images(), 32);
  const json all = classify(config, run / "edge.h5", endpoint, 1000, 32);
  cloud.signal(SIGTERM);
  if (cloud.wait() != 0)
    fail("the cloud did not end cleanly", "ensembler-cloud", "its log is " + log.string());
  fs::remove(ready);

  results::ServingSummary serve;
  serve.set_images(all.at("images"));
  serve.set_accuracy(all.at("accuracy"));
  serve.set_images_per_second(all.at("images_per_second"));
  serve.set_batch(1);
  serve.set_curve(false);
  results::ServingSummary::Latency& ms = *serve.mutable_latency_ms();
  using Part = std::pair<results::ServingSummary::Percentiles*, const char*>;
  for (const auto& [part, name] :
       std::initializer_list<Part>{{ms.mutable_head(), "head"},
                                   {ms.mutable_wire(), "wire"},
                                   {ms.mutable_cloud_queue(), "queue"},
                                   {ms.mutable_cloud_compute(), "compute"},
                                   {ms.mutable_tail(), "tail"},
                                   {ms.mutable_total(), "total"}}) {
    part->set_p50(single.at("latency_ms").at(name).at("p50"));
    part->set_p95(single.at("latency_ms").at(name).at("p95"));
  }
  serve.set_bytes_sent(single.at("bytes_per_image").at("sent"));
  serve.set_bytes_received(single.at("bytes_per_image").at("received"));
  results::write(run / "serve.json", serve);
  fmt::print(
      "\nedge and cloud: {} images classified over TCP, accuracy {:.1f} %, {:.0f} images/s in "
      "batches of 32\none image: {:.2f} ms (edge {:.2f}, wire {:.2f}, cloud {:.2f}); {:.0f} bytes "
      "up, "
      "{:.0f} down\n",
      serve.images(), 100 * serve.accuracy(), serve.images_per_second(), ms.total().p50(),
      ms.head().p50() + ms.tail().p50(), ms.wire().p50(),
      ms.cloud_queue().p50() + ms.cloud_compute().p50(), serve.bytes_sent(),
      serve.bytes_received());
  return tap.features();
}

void run_demo(const DemoFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  ConfigFlags config_flags = flags.config;
  if (config_flags.file.empty()) config_flags.file = flags.full ? "demo-full" : "demo";
  RunConfig config = config_flags.resolve();
  choose_data(config, flags);
  const fs::path out = fs::path(flags.out) / config.data().name();
  const fs::path none = out / "none", ensembler = out / "ensembler";

  heading("1. train an unprotected network, to compare with");
  train_run(unprotected(config), none);
  heading(fmt::format("2. train an ensemble of {} networks, and select {} in secret",
                      config.ensemble().nets(), config.ensemble().selected()));
  train_run(config, ensembler);
  heading("3. serve: edge and cloud as two processes");
  const Tensor observed = serve(config, ensembler);
  heading("4. attack: what could the cloud reconstruct?");
  std::vector<AttackJob> jobs;
  for (const char* attack : {"shadow-n1", "shadow-adaptive", "alignment-shadow", "oracle"}) {
    jobs.push_back({ensembler, attack, observed});
  }
  // With one net there is nothing to adapt to.
  for (const char* attack : {"shadow-n1", "alignment-shadow", "oracle"}) {
    jobs.push_back({none, attack, {}});
  }
  const int failures = run_attacks(jobs, config, false);
  print_results({none, ensembler});

  heading("5. report");
  const fs::path page = out / "report.html";
  write_report({none, ensembler}, page);
  const double minutes =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / 60;
  fmt::print("\nreport after {:.1f} minutes: {} (images, tables, latencies)\n", minutes,
             page.string());
  fmt::print("next: {} &\n      {}\n",
             command_to_paste({"ensembler-cloud", "--bundle", ensembler / "cloud.h5"}),
             command_to_paste({"ensembler-edge", "--bundle", ensembler / "edge.h5", "--dataset",
                               config.data().name(), "--limit", "1000"}));
  if (failures > 0) fail(fmt::format("{} attacks failed", failures), "demo", "see the table above");
}

}  // namespace

void add_demo_command(CLI::App& app) {
  auto flags = std::make_shared<DemoFlags>();
  CLI::App* command = app.add_subcommand(
      "demo", "Train, serve over a socket, attack and report, in about ten minutes");
  flags->config.add_to(*command);
  command->add_option("-o,--out", flags->out, "Folder for the runs and the report")
      ->capture_default_str();
  command->add_flag("--full", flags->full, "Train longer (configs/demo-full.txtpb)");
  command->add_flag("--offline", flags->offline, "Do not try to download the data set");
  command->callback([flags] { run_demo(*flags); });
}

}  // namespace ens
