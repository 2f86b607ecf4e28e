// SPDX-License-Identifier: Apache-2.0
#include "lab/config_flags.h"

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "base/flags.h"
#include "base/program.h"
#include "base/strings.h"
#include "experiment/run_dir.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

std::string g_command_line;

}  // namespace

void ConfigFlags::add_to(CLI::App& command) {
  command.add_option(
      "-c,--config", file,
      "Configuration: a .txtpb file, or the name of a bundled one (demo, demo-full)");
  add_set_flag(command, overrides);
  command.add_option(
      "--data", data_root,
      "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
  command.add_option("--device", device,
                     "auto, cpu, cuda or cuda:1 (default: the configuration's)");
}

void ConfigFlags::add_tensorboard(CLI::App& command) {
  command.add_flag("--tensorboard", tensorboard,
                   "Also write TensorBoard's event files, into RUN/tensorboard");
}

RunConfig ConfigFlags::given() const {
  RunConfig config;
  if (!file.empty()) read_config(find_config(file), config);
  apply_overrides(overrides, config);
  if (!data_root.empty()) config.mutable_data()->set_root(data_root);
  if (!device.empty()) config.set_device(device);
  if (tensorboard) config.set_tensorboard(true);
  return config;
}

RunConfig ConfigFlags::resolve() const {
  RunConfig config = given();
  complete(config);
  return config;
}

void CalibrationFlags::add_to(CLI::App& command) {
  command.add_option("run", run, "Run folder")->required();
  command.add_option("--images", images, "Training images used to calibrate activation ranges")
      ->check(between(1, 1000000))
      ->capture_default_str();
  command.add_option("--test", test, "Test images for the accuracy; 0: all")
      ->check(at_least(0))
      ->capture_default_str();
  command.add_option("--most-loss", most_loss, "Maximum loss of accuracy, in points")
      ->capture_default_str();
  command.add_option(
      "--data", data,
      "Folder with the data sets (default: $ENS_DATA, then ~/.cache/ensembler-data)");
}

RunConfig CalibrationFlags::read_config(const char* command, const std::string& train_flags) const {
  if (!fs::exists(fs::path(run) / "DONE")) {
    usage_fail("'" + run + "' is not a finished run folder", command,
               "train it first: ensembler train " + train_flags + "--out " + run);
  }
  RunConfig config = read_run_config(run);
  if (!data.empty()) config.mutable_data()->set_root(data);
  return config;
}

fs::path program_folder() { return fs::read_symlink("/proc/self/exe").parent_path(); }

fs::path find_config(const std::string& name) {
  const fs::path bin = program_folder();
  const std::string with_ending = fs::path(name).has_extension() ? name : name + ".txtpb";
  std::error_code error;  // a pipe is a configuration too: <(...)
  if (fs::exists(name, error) && !fs::is_directory(name, error)) return name;
  std::vector<std::string> known;
  for (const fs::path& folder :
       {fs::path("configs"), bin / "../share/ensembler/configs", bin / "../../../configs"}) {
    if (fs::is_regular_file(folder / with_ending)) return folder / with_ending;
    std::error_code ignored;  // not every folder is there
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      known.push_back(entry.path().stem().string());
    }
  }
  const std::string nearest = nearest_word(fs::path(name).stem().string(), known);
  usage_fail("no configuration '" + name + "'", "--config",
             nearest.empty() ? "give a .txtpb file; examples are in configs/"
                             : "did you mean '" + nearest + "'? Examples are in configs/");
}

void remember_command_line(int argc, char** argv) {
  for (int i = 0; i < argc; ++i) {
    g_command_line += i ? " " + shell_quoted(argv[i]) : fs::path(argv[0]).filename().string();
  }
}

const std::string& command_line() { return g_command_line; }

std::string command_to_paste(const std::vector<std::string>& words) {
  const fs::path program = program_folder() / words.at(0);
  const char* path = std::getenv("PATH");
  std::error_code ignored;  // of folders that are not there
  bool found = false;
  for (const std::string& folder : split_text(path ? path : "", ':')) {
    if (found = fs::equivalent(fs::path(folder) / words[0], program, ignored); found) break;
  }
  const fs::path here = fs::current_path(ignored);
  const bool below = program.string().starts_with(here.string() + "/");
  std::vector<std::string> quoted{found   ? words[0]
                                  : below ? shell_quoted(program.lexically_relative(here).string())
                                          : shell_quoted(program.string())};
  for (size_t i = 1; i < words.size(); ++i) quoted.push_back(shell_quoted(words[i]));
  return join(quoted, " ");
}

}  // namespace ens
