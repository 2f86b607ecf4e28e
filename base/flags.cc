// SPDX-License-Identifier: Apache-2.0
#include "base/flags.h"

#include <algorithm>
#include <cstdlib>
#include <regex>

#include "base/error.h"
#include "base/program.h"
#include "base/strings.h"
#include "include/ensembler/version.h"

namespace ens {
namespace {

// The arguments without the program's name, with one --set before each PATH=VALUE that follows one.
std::vector<std::string> arguments(int argc, char** argv) {
  static const std::regex kAssignment(R"([a-z][a-z0-9_]*(\.[a-z0-9_]+)*=.*)");
  std::vector<std::string> all;
  bool setting = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const bool assignment = std::regex_match(argument, kAssignment);
    if (setting && assignment && all.back() != "--set") all.emplace_back("--set");
    setting = argument == "--set" || (setting && assignment);
    all.push_back(argument);
  }
  return all;
}

// The command that was given: the innermost subcommand that parsed.
const CLI::App* innermost(const CLI::App* app) {
  while (!app->get_subcommands().empty()) app = app->get_subcommands().back();
  return app;
}

std::string full_name(const CLI::App* app) {
  return app->get_parent() ? full_name(app->get_parent()) + " " + app->get_name() : app->get_name();
}

std::vector<std::string> known_words(const CLI::App* app, bool flags) {
  std::vector<std::string> words;
  if (flags) {
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
    }
  } else {
    for (const CLI::App* command : app->get_subcommands([](const CLI::App*) { return true; })) {
      words.push_back(command->get_name());
    }
  }
  return words;
}

[[noreturn]] void explain(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = innermost(&app);
  const std::string help = "see `" + full_name(command) + " --help`";
  const std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
  const bool other = !dynamic_cast<const CLI::ExtrasError*>(&error) &&
                     !dynamic_cast<const CLI::RequiredError*>(&error);
  if (unknown.empty() || other) usage_fail(error.what(), "", help);
  // What follows an unknown flag is probably its value.
  const auto first = std::ranges::find_if(unknown, [](const auto& w) { return w[0] == '-'; });
  const std::string& given = first != unknown.end() ? *first : unknown[0];
  const std::string word = given.substr(0, given.find('='));
  const bool flag = word.starts_with("-");
  const std::vector<std::string> known = known_words(command, flag);
  if (known.empty()) usage_fail("one argument too many: '" + word + "'", "", help);
  const std::string nearest = nearest_word(word, known);
  usage_fail((flag ? "unknown flag '" : "unknown command '") + word + "'", "",
             (nearest.empty() ? "" : "did you mean '" + nearest + "'? ") + help);
}

CLI::Validator number_check(const std::string& wanted, std::function<bool(double)> good) {
  CLI::Validator check(
      [wanted, good = std::move(good)](std::string& text) {
        double value = 0;
        return CLI::detail::lexical_cast(text, value) && good(value)
                   ? std::string()
                   : "'" + text + "': use " + wanted;
      },
      "");
  return check;
}

std::string plain(double value) { return CLI::detail::to_string(value); }

}  // namespace

void parse_flags(CLI::App& app, int argc, char** argv) {
  app.set_version_flag("--version", app.get_name() + " " ENSEMBLER_VERSION,
                       "Print the version and exit");
  std::vector<std::string> all = arguments(argc, argv);
  std::reverse(all.begin(), all.end());  // as App::parse() takes them
  try {
    app.parse(all);
  } catch (const CLI::Success& done) {
    app.exit(done);
    flush_output();
    std::exit(0);
  } catch (const CLI::ParseError& error) {
    explain(app, error);
  }
}

CLI::Validator at_least(double low) {
  return number_check(plain(low) + " or more", [low](double value) { return value >= low; });
}

CLI::Validator above(double low) {
  return number_check("more than " + plain(low), [low](double value) { return value > low; });
}

CLI::Validator between(double low, double high) {
  return number_check(plain(low) + " to " + plain(high),
                      [low, high](double value) { return value >= low && value <= high; });
}

CLI::Option* add_set_flag(CLI::App& app, std::vector<std::string>& overrides) {
  return app
      .add_option("--set", overrides,
                  "PATH=VALUE: override a field of the configuration; several may follow, e.g. "
                  "--set stage1.epochs=3 seed=2")
      ->allow_extra_args(false);
}

}  // namespace ens
