// SPDX-License-Identifier: Apache-2.0
#include "studio/studio.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>

#include "base/error.h"
#include "base/files.h"
#include "base/flags.h"
#include "base/process.h"
#include "base/program.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "lab/stop_on_signals.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// The address reaches the browser through a file that only this user can read: arguments of
// processes can be read by everybody on the machine.
void open_browser(const std::string& address, const fs::path& runs) {
  const fs::path page = fs::absolute(runs / ".studio" / "open.html");
  write_file_atomically(
      page, "<!doctype html><meta http-equiv=refresh content=\"0;url=" + address + "\">",
      /*secret=*/true);
  try {
    Process browser({"/usr/bin/xdg-open", page.string()}, {.no_input = true});
    if (browser.wait(std::chrono::seconds(10)) == 0) return;
  } catch (const Error&) {
  }
  fmt::print(stderr, "no browser could be started: open the address by hand\n");
}

}  // namespace

void add_studio_command(CLI::App& app) {
  struct Flags {
    StudioOptions options;
    std::string runs = "runs", web, ready_file, out;
    bool open = false, no_token = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "studio", "Explore runs, attacks and trainings in a browser, served by this program");
  command->add_option("--runs", flags->runs, "Folder that holds runs and sweeps")
      ->capture_default_str();
  command->add_flag("--demo", flags->options.demo,
                    "Prepare small runs on drawn figures, so that every room has content");
  command->add_flag("--read-only", flags->options.read_only,
                    "Show what is there; start nothing and write nothing");
  command->add_flag("--open", flags->open, "Start the browser");
  command->add_option("--bind", flags->options.bind, "Address to listen at; port 0: any free one")
      ->capture_default_str();
  command
      ->add_option("--host", flags->options.hosts,
                   "NAME:PORT that browsers use, if it differs from --bind (behind a proxy)")
      ->allow_extra_args(false);
  command->add_flag("--no-token", flags->no_token,
                    "Ask nobody for a token; only where every user of this machine is trusted, "
                    "and without a proxy");
  command->add_flag(
      "--insecure-behind-proxy", flags->options.behind_proxy,
      "Serve other machines without TLS, since a proxy before this program speaks it");
  command->add_option("--cloud", flags->options.cloud.address,
                      "A running ensembler-cloud, whose latencies the split room shows");
  command->add_option("--server-key", flags->options.cloud.server_key,
                      "File with that cloud's public key: the link is encrypted");
  command->add_option("--secret-key", flags->options.cloud.secret_key,
                      "File with this client's own secret key");
  command->add_flag("--insecure", flags->options.cloud.insecure,
                    "Ask that cloud in plain text, although it is on another machine");
  command->add_option("-j,--jobs", flags->options.jobs, "Trainings and attacks at a time")
      ->capture_default_str()
      ->check(between(1, 64));
  command->add_option("--web", flags->web, "Development: serve the pages in this folder");
  command->add_option("--ready-file", flags->ready_file, "Write the address there when it serves");
  CLI::App* exporting = command->add_subcommand(
      "export", "Write the matrix and what was measured as files for any web server");
  exporting->add_option("--runs", flags->runs, "Folder that holds runs and sweeps")
      ->capture_default_str();
  exporting->add_option("-o,--out", flags->out, "A new folder")->required();
  exporting->callback([flags] {
    StudioOptions options;
    options.runs = flags->runs;
    Studio::export_pages(options, flags->out);
    fmt::print("{}: serve this folder with any web server\n", flags->out);
  });
  command->callback([flags, command] {
    if (!command->get_subcommands().empty()) return;
    StudioOptions& options = flags->options;
    options.runs = flags->runs;
    options.web = flags->web;
    options.token = !flags->no_token;
    options.program = program_folder() / "ensembler";
    const StopOnSignals signals;
    const Studio studio(options);
    if (!options.token)
      fmt::print(stderr,
                 "warning: without a token every user and program of this machine can use it\n");
    if (!studio.note().empty()) fmt::print(stderr, "{}\n", studio.note());
    announce_address(studio.address(), "");
    if (!flags->ready_file.empty())
      write_file_atomically(flags->ready_file, studio.address() + "\n", /*secret=*/true);
    if (flags->open) open_browser(studio.address(), options.runs);
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any().wait(lock, signals.token(), [] { return false; });
  });
}

}  // namespace ens
