// ensembler-cloud: serves the N server nets of a cloud bundle.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "cloud/server.h"
#include "nn/core/error.h"
#include "nn/cpu/threads.h"

namespace {

// SIGINT and SIGTERM drain the server while this lives; a second one ends the process at once.
class StopOnSignals {
 public:
  explicit StopOnSignals(ens::Server& server) {
    server_ = &server;
    struct sigaction action {};
    action.sa_handler = [](int) { server_->request_stop(); };
    action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
  }
  ~StopOnSignals() {
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
  }
  StopOnSignals(const StopOnSignals&) = delete;
  StopOnSignals& operator=(const StopOnSignals&) = delete;

 private:
  static inline ens::Server* server_ = nullptr;
};

// Every connection is a descriptor: take all that the system grants.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

// Appears complete or not at all: whoever waits for it may read it at once.
void write_ready_file(const std::string& file, const std::string& endpoint) {
  const std::string temporary = file + ".tmp";
  std::ofstream out(temporary);
  out << endpoint << "\n" << std::flush;
  std::error_code error;
  if (out) std::filesystem::rename(temporary, file, error);
  if (!out || error) ens::fail("cannot write the ready file", file);
}

int run(int argc, char** argv) {
  ens::CloudConfig flags;
  std::string config_file, ready_file;
  std::vector<std::string> overrides;

  CLI::App app{"Serves the N server nets of a cloud bundle. Holds no secret of any client."};
  app.add_option("--config", config_file, "configuration file (CloudConfig in proto/config.proto)");
  app.add_option("--set", overrides, "path=value: overrides one field of the configuration")
      ->allow_extra_args(false);
  const auto text = [&](const char* option, const char* what, auto setter) {
    app.add_option_function<std::string>(
        option, [&flags, setter](const std::string& value) { (flags.*setter)(value); }, what);
  };
  using C = ens::CloudConfig;
  using Setter = void (C::*)(const std::string&);
  text("--bundle", "cloud.h5", static_cast<Setter>(&C::set_bundle<const std::string&>));
  text("--bind", "address to listen on; default tcp://127.0.0.1:5755, port * for any free one",
       static_cast<Setter>(&C::set_bind<const std::string&>));
  text("--secret-key", "the server's secret key (NAME.key)",
       static_cast<Setter>(&C::set_secret_key<const std::string&>));
  text("--clients", "public keys of allowed clients: a file, or a folder of .pub files",
       static_cast<Setter>(&C::set_clients<const std::string&>));
  app.add_flag_callback(
      "--insecure", [&] { flags.set_insecure(true); }, "allow plain text outside loopback");
  app.add_option_function<int>(
      "--threads", [&](int n) { flags.set_threads(n); }, "CPU threads; default all");
  app.add_option("--ready-file", ready_file, "write the bound address here when ready");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    ens::usage_fail(error.what(), "", "see ensembler-cloud --help");
  }

  ens::CloudConfig config;
  if (!config_file.empty()) ens::read_config(config_file, config);
  config.MergeFrom(flags);
  ens::apply_overrides(overrides, config);
  ens::complete(config);

  raise_descriptor_limit();
  ens::Server server(config);
  const StopOnSignals signals(server);
  server.start();
  std::printf("%s\n", server.endpoint().c_str());
  std::fflush(stdout);
  if (!ready_file.empty()) write_ready_file(ready_file, server.endpoint());
  server.wait();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  ens::cpu::limit_spinning(argv);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("cloud"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  try {
    return run(argc, argv);
  } catch (const ens::Error& error) {
    std::fprintf(stderr, "ensembler-cloud: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ensembler-cloud: %s\n", error.what());
    return 1;
  }
}
