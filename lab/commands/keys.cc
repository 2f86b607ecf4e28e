#include "proto/keys.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "lab/commands/commands.h"
#include "nn/core/error.h"

namespace ens {

void add_keys_command(CLI::App& app) {
  struct Flags {
    std::string name, folder = ".";
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* keys = app.add_subcommand("keys", "Key pairs for the encrypted link (CURVE)");
  keys->require_subcommand(1);
  CLI::App* make = keys->add_subcommand(
      "new", "Make NAME.key (secret, stays where it is) and NAME.pub (for the other side)");
  make->add_option("name", flags->name, "Name of the cloud or of one client")->required();
  make->add_option("--folder", flags->folder, "Where to put the two files")->capture_default_str();
  make->callback([flags] {
    namespace fs = std::filesystem;
    if (flags->name.empty() || flags->name[0] == '.' || fs::path(flags->name).has_parent_path()) {
      usage_fail("'" + flags->name + "' is not a name for a key", "keys new",
                 "give a plain name; --folder says where the files go");
    }
    std::error_code error;
    fs::create_directories(flags->folder, error);
    if (error) {
      fail("cannot make the folder: " + error.message(), flags->folder, "choose another --folder");
    }
    const fs::path stem = fs::path(flags->folder) / flags->name;
    write_keys(stem, new_keys());
    fmt::print("{0}.key  secret: keep it on this machine\n{0}.pub  for the other side\n",
               stem.string());
  });
}

}  // namespace ens
