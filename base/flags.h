// SPDX-License-Identifier: Apache-2.0
// Flags of every program, on CLI11: errors as ens::Error with a suggestion, ranges that read well,
// and --set.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace ens {

// Parses the command line. Prints and exits with 0 for --help and --version, which every program
// has. Usage Error for everything that does not parse: an unknown command or flag with the nearest
// known one, and where the help of the command is.
void parse_flags(CLI::App& app, int argc, char** argv);

// Range checks of numbers; NaN passes none. The message names the range: "use 0 or more".
CLI::Validator at_least(double low);
CLI::Validator above(double low);
CLI::Validator between(double low, double high);

// --set PATH=VALUE, which overrides one field of a configuration. Several may follow one --set:
// what looks like PATH=VALUE after it is taken as one more (parse_flags() does this).
CLI::Option* add_set_flag(CLI::App& app, std::vector<std::string>& overrides);

}  // namespace ens
