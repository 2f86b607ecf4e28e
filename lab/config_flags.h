// SPDX-License-Identifier: Apache-2.0
// The flags of every command that takes a configuration, and where programs and files are found.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "proto/config.h"

namespace CLI {
class App;
}

namespace ens {

// --config, --set, --data, --device.
struct ConfigFlags {
  std::string file;
  std::vector<std::string> overrides;
  std::string data_root;
  std::string device;
  bool tensorboard = false;

  void add_to(CLI::App& command);
  void add_tensorboard(CLI::App& command);  // --tensorboard, of commands that write into runs
  // Defaults < file < --set < --data and --device; completed and checked. Does not touch the disk
  // otherwise.
  RunConfig resolve() const;
  // The same without defaults: what was said.
  RunConfig given() const;
};

// Of the commands that fix the ranges of a run's activations with training images, and refuse what
// that costs in accuracy: RUN, --images, --test, --most-loss, --data.
struct CalibrationFlags {
  std::string run, data;
  int64_t images = 512, test = 0;  // of the training and the test split; 0: all
  double most_loss = 0;            // of accuracy, in points

  void add_to(CLI::App& command);
  // The run's configuration. Usage Error, naming `command` and how to train a run with
  // `train_flags`, if it is not finished.
  RunConfig read_config(const char* command, const std::string& train_flags) const;
};

// A configuration by path, or by the name of one that comes with the program ("demo" or
// "demo.txtpb"): looked for in ./configs and beside the installed program.
std::filesystem::path find_config(const std::string& name);
// The folder of the running program, to find its siblings ensembler-cloud and ensembler-edge.
std::filesystem::path program_folder();
// A command as it can be pasted into a shell here: words[0] is one of our programs, by its name if
// PATH finds this very one, else by its path; all words are quoted where a shell needs it.
std::string command_to_paste(const std::vector<std::string>& words);
// The command line, quoted as a shell needs it, for info.json.
void remember_command_line(int argc, char** argv);
const std::string& command_line();

}  // namespace ens
