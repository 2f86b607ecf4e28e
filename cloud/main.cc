// SPDX-License-Identifier: Apache-2.0
// ensembler-cloud: serves the N server nets of a cloud bundle.
#include <google/protobuf/stubs/logging.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stop_token>
#include <thread>

#include "base/error.h"
#include "base/flags.h"
#include "base/program.h"
#include "cloud/server.h"
#include "nn/core/backend.h"

namespace {

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGHUP, SIGINT, SIGTERM}) sigaddset(&set, signal);
  return set;
}

// SIGHUP loads bundle and keys again; SIGINT and SIGTERM drain the server, a second one ends the
// process at once. Signals are taken by a thread of their own, so that they may do ordinary work;
// all threads must have them blocked.
class Signals {
 public:
  explicit Signals(ens::Server& server)
      : thread_([this, &server](const std::stop_token& stop) { wait(server, stop); }) {}

 private:
  static void wait(ens::Server& server, const std::stop_token& stop) {
    const sigset_t set = handled_signals();
    bool stopping = false;
    while (!stop.stop_requested()) {
      const timespec patience{0, 100'000'000};
      const int signal = sigtimedwait(&set, nullptr, &patience);
      if (signal == SIGHUP && !stopping) server.reload();
      if (signal == SIGINT || signal == SIGTERM) {
        if (stopping) end_by(signal);
        stopping = true;
        server.request_stop();
      }
    }
  }

  [[noreturn]] static void end_by(int signal) {
    const sigset_t set = handled_signals();
    std::signal(signal, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    std::raise(signal);
    std::_Exit(128 + signal);  // the default action does not end the first process of a container
  }

  std::jthread thread_;  // ends within a tenth of a second of being asked to
};

// Every connection is a descriptor: take all that the system grants.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

int run(int argc, char** argv) {
  ens::CloudConfig flags;
  std::string config_file, ready_file;
  std::vector<std::string> overrides;

  CLI::App app{"Serves the N server nets of a cloud bundle. Holds no secret of any client.",
               "ensembler-cloud"};
  app.add_option("--config", config_file, "configuration file (CloudConfig in docs/config.md)");
  ens::add_set_flag(app, overrides);
  const auto text = [&](const char* option, const char* what, auto setter) {
    app.add_option_function<std::string>(
        option, [&flags, setter](const std::string& value) { (flags.*setter)(value); }, what);
  };
  using C = ens::CloudConfig;
  using Setter = void (C::*)(const std::string&);
  text("--bundle", "cloud.h5", static_cast<Setter>(&C::set_bundle<const std::string&>));
  text("--bind", "address to listen on; default tcp://127.0.0.1:5755, port * for any free one",
       static_cast<Setter>(&C::set_bind<const std::string&>));
  text("--device", "auto, cpu, cuda or cuda:1; default auto",
       static_cast<Setter>(&C::set_device<const std::string&>));
  text("--http", "HOST:PORT for health and metrics; default none",
       static_cast<Setter>(&C::set_http<const std::string&>));
  text("--secret-key", "the server's secret key (NAME.key)",
       static_cast<Setter>(&C::set_secret_key<const std::string&>));
  text("--clients", "public keys of allowed clients: a file, or a folder of .pub files",
       static_cast<Setter>(&C::set_clients<const std::string&>));
  app.add_flag_callback(
      "--insecure", [&] { flags.set_insecure(true); }, "allow plain text outside loopback");
  app.add_option_function<int>(
      "--threads", [&](int n) { flags.set_threads(n); }, "CPU threads; default all");
  app.add_option("--ready-file", ready_file, "write the bound address here when ready");
  ens::parse_flags(app, argc, argv);

  ens::CloudConfig config;
  if (!config_file.empty()) ens::read_config(config_file, config);
  config.MergeFrom(flags);
  ens::apply_overrides(overrides, config);
  ens::complete(config);

  raise_descriptor_limit();
  const sigset_t set = handled_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);  // inherited by all threads from here on
  ens::Server server(config);
  const Signals signals(server);
  server.start();
  ens::announce_address(server.endpoint(), ready_file);
  server.wait();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  ens::offer_gpus();
  google::protobuf::SetLogHandler(nullptr);  // malformed messages of a peer do not belong on stderr
  spdlog::set_default_logger(spdlog::stderr_logger_mt("cloud"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %^%l%$ %v", spdlog::pattern_time_type::utc);
  return ens::run_program("ensembler-cloud", argv, [&] { return run(argc, argv); });
}
