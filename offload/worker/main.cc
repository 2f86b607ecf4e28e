// SPDX-License-Identifier: Apache-2.0
// ensembler-worker: computes products of shares for the trusted side of blinded inference.
#include <google/protobuf/stubs/logging.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <csignal>
#include <cstdio>

#include "base/flags.h"
#include "base/program.h"
#include "base/threads.h"
#include "nn/core/backend.h"
#include "offload/worker/worker.h"
#include "proto/config.h"

namespace {

ens::Worker* running = nullptr;

void stop_running(int) { running->request_stop(); }

int run(int argc, char** argv) {
  ens::WorkerConfig flags;
  std::string config_file, ready_file;
  std::vector<std::string> overrides;

  CLI::App app{
      "Computes the linear layers of networks for clients that hide their inputs "
      "(docs/offload.md). "
      "Needs no trust, and no enclave.",
      "ensembler-worker"};
  app.add_option("--config", config_file, "configuration file (WorkerConfig in docs/config.md)");
  ens::add_set_flag(app, overrides);
  const auto text = [&](const char* option, const char* what,
                        void (ens::WorkerConfig::*setter)(const std::string&)) {
    app.add_option_function<std::string>(
        option, [&flags, setter](const std::string& value) { (flags.*setter)(value); }, what);
  };
  using W = ens::WorkerConfig;
  text("--bind", "address to listen on; default tcp://127.0.0.1:5756, port * for any free one",
       &W::set_bind<const std::string&>);
  text("--device", "auto, cpu, cuda or cuda:1; default auto", &W::set_device<const std::string&>);
  text("--http", "HOST:PORT for health and metrics; default none",
       &W::set_http<const std::string&>);
  text("--secret-key", "the worker's secret key (NAME.key)",
       &W::set_secret_key<const std::string&>);
  text("--clients", "public keys of allowed clients: a file, or a folder of .pub files",
       &W::set_clients<const std::string&>);
  text("--record", "keep every share in this folder, for attacks on them",
       &W::set_record<const std::string&>);
  app.add_flag_callback(
      "--insecure", [&] { flags.set_insecure(true); }, "allow plain text outside loopback");
  app.add_option_function<int>(
      "--threads", [&](int n) { flags.set_threads(n); }, "CPU threads; default all");
  app.add_option("--ready-file", ready_file, "write the bound address here when ready");
  ens::parse_flags(app, argc, argv);

  ens::WorkerConfig config;
  if (!config_file.empty()) ens::read_config(config_file, config);
  config.MergeFrom(flags);
  ens::apply_overrides(overrides, config);
  ens::complete(config);

  if (config.threads() > 0) ens::set_compute_threads(config.threads());
  ens::Worker worker(config);
  running = &worker;
  for (const int signal : {SIGINT, SIGTERM}) std::signal(signal, stop_running);
  std::signal(SIGHUP, SIG_IGN);  // the list of clients is followed; there is no bundle to reload
  ens::announce_address(worker.endpoint(), ready_file);
  worker.run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  ens::offer_gpus();
  google::protobuf::SetLogHandler(nullptr);  // malformed messages of a peer do not belong on stderr
  spdlog::set_default_logger(spdlog::stderr_logger_mt("worker"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ %v", spdlog::pattern_time_type::utc);
  return ens::run_program("ensembler-worker", argv, [&] { return run(argc, argv); });
}
