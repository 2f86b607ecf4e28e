// SPDX-License-Identifier: Apache-2.0
#include "net/keys.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "lab/commands/commands.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

// One line of an allow list: "KEY NAME", a comment, or nothing.
struct Line {
  std::string text, key, name;
};

std::vector<Line> read_lines(const fs::path& file) {
  std::vector<Line> lines;
  std::ifstream in(file);
  for (std::string text; std::getline(in, text);) {
    Line line{text, "", ""};
    std::istringstream words(text);
    if (words >> line.key && line.key[0] != '#') {
      words >> line.name;
    } else {
      line.key.clear();
    }
    lines.push_back(line);
  }
  return lines;
}

std::vector<fs::path> files_of(const fs::path& list) {
  if (!fs::is_directory(list)) return {list};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(list)) {
    if (entry.path().extension() == ".pub") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

void show(const fs::path& what) {
  if (what.extension() == ".key") {  // the public half only
    fmt::print("{} {}\n", read_secret_key(what).public_key, what.stem().string());
    return;
  }
  read_allowed_keys(what);  // refuses what is damaged
  for (const fs::path& file : files_of(what)) {
    for (const Line& line : read_lines(file)) {
      if (!line.key.empty()) fmt::print("{} {}\n", line.key, line.name);
    }
  }
}

// Where the files of a new key go.
fs::path new_stem(const std::string& name, const std::string& folder) {
  if (name.empty() || name[0] == '.' || fs::path(name).has_parent_path()) {
    usage_fail("'" + name + "' is not a name for a key", "keys",
               "give a plain name; --folder says where the files go");
  }
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    fail("cannot make the folder: " + error.message(), folder, "choose another --folder");
  }
  return fs::path(folder) / name;
}

void allow(const fs::path& list, const fs::path& key_file) {
  const std::string key = read_public_key(key_file);
  const bool exists = fs::exists(list);
  if (exists && read_allowed_keys(list, /*may_be_none=*/true).contains(key)) {
    fmt::print("already allowed\n");
    return;
  }
  const std::string line = key + " " + key_file.stem().string() + "\n";
  if (fs::is_directory(list)) {
    const fs::path file = list / (key_file.stem().string() + ".pub");
    if (fs::exists(file)) {
      fail("another key has this name", file.string(), "revoke it first, or rename the new one");
    }
    write_file_atomically(file, line, /*secret=*/false);
  } else {
    std::string text;
    for (const Line& old : exists ? read_lines(list) : std::vector<Line>{}) text += old.text + "\n";
    write_file_atomically(list, text + line, /*secret=*/false);
  }
  fmt::print("allowed {}; a running cloud notices by itself\n", key_file.stem().string());
}

// Takes away every key that has this name or is this one.
void revoke(const fs::path& list, const std::string& who) {
  read_allowed_keys(list, /*may_be_none=*/true);  // refuses what is missing or damaged
  int revoked = 0;
  for (const fs::path& file : files_of(list)) {
    std::string kept;
    int here = 0, left = 0;
    for (const Line& line : read_lines(file)) {
      const bool goes =
          !line.key.empty() && (line.name == who || line.key == who ||
                                (fs::is_directory(list) && file.stem().string() == who));
      here += goes;
      left += !goes && !line.key.empty();
      if (!goes) kept += line.text + "\n";
    }
    if (here == 0) continue;
    revoked += here;
    if (fs::is_directory(list) && left == 0) {
      fs::remove(file);
    } else {
      write_file_atomically(file, kept, /*secret=*/false);
    }
  }
  if (revoked == 0) {
    fail("'" + who + "' is not in the list", list.string(),
         "see: ensembler keys show " + list.string());
  }
  fmt::print("revoked {} key{}; a running cloud ignores {} from now on\n", revoked,
             revoked == 1 ? "" : "s", revoked == 1 ? "it" : "them");
}

}  // namespace

void add_keys_command(CLI::App& app) {
  struct Flags {
    std::string name, folder = ".", list, key_file;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* keys =
      app.add_subcommand("keys", "Make and manage key pairs for the encrypted link (CURVE)");
  keys->require_subcommand(1);
  CLI::App* make = keys->add_subcommand(
      "new", "Make a key pair: NAME.key (secret, keep it here) and NAME.pub (for the other side)");
  make->add_option("name", flags->name, "Name of the cloud or of one client")->required();
  make->add_option("--folder", flags->folder, "Where to put the two files")->capture_default_str();
  make->callback([flags] {
    const fs::path stem = new_stem(flags->name, flags->folder);
    write_keys(stem, new_keys());
    fmt::print("{0}.key  secret: keep it on this machine\n{0}.pub  for the other side\n",
               stem.string());
  });
  CLI::App* device = keys->add_subcommand(
      "device",
      "Make a device's secret key of the noise (NAME.device), for `protection.kind: channel`");
  device->add_option("name", flags->name, "Name of the device")->required();
  device->add_option("--folder", flags->folder, "Where to put the file")->capture_default_str();
  device->callback([flags] {
    const std::string file = new_stem(flags->name, flags->folder).string() + ".device";
    write_device_key(file);
    fmt::print("{}  secret: keep it on this machine\n", file);
  });
  CLI::App* display = keys->add_subcommand(
      "show", "Print the public keys of a list, a .pub file, or a .key file (never its secret)");
  display->add_option("list", flags->list, "File, or folder of .pub files")->required();
  display->callback([flags] { show(flags->list); });
  CLI::App* add = keys->add_subcommand("allow", "Allow a client to use the cloud");
  add->add_option("list", flags->list, "The cloud's --clients: a file, or a folder")->required();
  add->add_option("key", flags->key_file, "The client's .pub file")->required();
  add->callback([flags] { allow(flags->list, flags->key_file); });
  CLI::App* take =
      keys->add_subcommand("revoke", "Remove a client's key; a connected client is cut off");
  take->add_option("list", flags->list, "The cloud's --clients: a file, or a folder")->required();
  take->add_option("who", flags->name, "The name in the list, or the key")->required();
  take->callback([flags] { revoke(flags->list, flags->name); });
}

}  // namespace ens
