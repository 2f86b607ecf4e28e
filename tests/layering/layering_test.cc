// SPDX-License-Identifier: Apache-2.0
// The house's arrows: which folder may include which. A new arrow fails here until somebody decides
// that it belongs in the table (and in docs/design.md).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Names = std::set<std::string>;

// Files of ensemble/protect that end in _train: what trains a protection, which the edge must not
// link.
const std::string kProtectTrain = "ensemble/protect/*_train";

const std::string kVersion = "include/ensembler/version.h";

// Folder -> what it may include besides itself. Longest prefix wins; "nn/*" is every folder of nn
// but the device backends.
const std::map<std::string, Names> kAllowed = {
    {"include", {}},  // what other programs include
    {"base", {kVersion}},
    {"nn/core", {"base"}},
    {"nn/cpu", {"base", "nn/core"}},
    {"nn/cuda", {"base", "nn/core"}},
    {"nn/autograd", {"base", "nn/core"}},
    {"nn/modules", {"base", "nn/core", "nn/autograd"}},
    {"nn/models", {"base", "nn/core", "nn/autograd", "nn/modules"}},
    {"nn/plan", {"base", "nn/core", "nn/modules"}},
    {"nn/optim", {"base", "nn/core", "nn/autograd", "nn/modules", "nn/data"}},
    {"nn/io", {"base", "nn/core"}},
    {"nn/data", {"base", "nn/core"}},
    {"proto", {"base", "nn/core"}},
    {"net", {"base", "nn/core", "proto"}},
    {"net/http", {"base"}},
    {"net/metrics", {"base", "nn/core", "proto", "net"}},
    {"offload/core", {"base", "nn/core"}},
    {"offload/schemes", {"base", "nn/core", "nn/plan", "proto/schemes.inc", "offload/core"}},
    {"offload/wire", {"base", "nn/core", "proto", "offload/core"}},
    {"offload/worker",
     {"base", "nn/*", "proto", "net", "net/http", "net/metrics", "offload/core", "offload/wire"}},
    {"offload/host",
     {"base", "nn/core", "nn/plan", "proto", "net", "offload/core", "offload/wire"}},
    // Never proto, net: what they read is written by others.
    {"offload/trusted", {"base", "nn/*", "nn/cpu/allocator.h", "offload/core", "offload/schemes"}},
    {"ensemble/model", {kVersion, "base", "nn/*", "proto", "ensemble/protect"}},
    {"ensemble/protect", {"base", "nn/core", "proto"}},
    {kProtectTrain, {"base", "nn/*", "ensemble/protect"}},
    {"ensemble/train",
     {"base", "nn/*", "proto", "experiment", "ensemble/model", "ensemble/protect", kProtectTrain}},
    {"cloud",
     {"base", "nn/*", "nn/cpu/allocator.h", "proto", "net", "net/http", "net/metrics",
      "ensemble/model"}},
    {"edge",
     {"include", "base", "nn/*", "proto", "net", "ensemble/model", "ensemble/protect",
      "offload/core", "offload/schemes", "offload/wire", "offload/host"}},
    // disguise/train and attacks never name the key: what the cloud has is a set file.
    {"disguise/transform", {"base", "nn/core"}},
    {"disguise/key", {"base", "nn/core", "nn/io", "proto", "disguise/transform"}},
    {"disguise/set", {"base", "nn/core", "nn/io"}},
    {"disguise/owner",
     {"base", "nn/core", "nn/data", "proto", "disguise/transform", "disguise/key", "disguise/set"}},
    {"disguise/train", {"base", "nn/*", "proto", "ensemble/model", "experiment", "disguise/set"}},
    {"text/body", {"base", "nn/*"}},
    {"text/spm", {"base"}},
    {"text/model", {"base", "nn/*", "proto", "text/body", "text/spm"}},
    {"text/train",
     {"base", "nn/*", "proto", "experiment", "ensemble/model", "text/body", "text/model"}},
    {"attacks/core", {"base", "nn/*", "proto"}},
    // With parameters of the attacker's own making.
    {"attacks/disguise", {"base", "nn/*", "proto", "attacks/core", "disguise/transform"}},
    {"attacks/shares", {"base", "nn/*", "proto", "attacks/core", "offload/core"}},
    {"attacks/split", {"base", "nn/*", "proto", "attacks/core"}},
    // No part of the client: its words are texts, its features tensors.
    {"attacks/text", {"base", "nn/*", "proto", "attacks/core", "text/model/bleu.h"}},
    {"experiment", {kVersion, "base", "nn/*", "proto", "attacks/core"}},
    {"report", {"base", "proto", "experiment"}},
    {"lab", {"*"}},
    {"studio", {"*"}},
    {"web", {"studio"}},
    {"bench", {"*"}},
    {"python", {"*"}},
};

// Secrets have places: nobody on the server's side may even name them.
const Names kSecretHeaders = {"ensemble/model/selector.h", "ensemble/model/edge_bundle.h",
                              "disguise/key/key.h", "text/model/edge_bundle.h"};
const Names kNoSecrets = {"base",       "cloud", "attacks", "disguise/set", "disguise/train",
                          "experiment", "net",   "offload", "nn",           "proto",
                          "studio",     "web"};

// Libraries that only one place may touch.
const std::map<std::string, Names> kOnlyIn = {
    {"dnnl", {"nn/cpu"}},
    {"oneapi/dnnl", {"nn/cpu", "bench/cpu"}},
    {"opencv2", {"nn/data"}},
    {"png", {"nn/data"}},
    {"turbojpeg", {"nn/data"}},
    {"hdf5", {"nn/io"}},
    {"H5", {"nn/io"}},
    {"zmq", {"net", "bench/load.cc", "bench/serve.cc"}},  // the benchmarks' peers are bare sockets
    {"zmq_addon", {"net"}},
    {"cuda", {"nn/cuda"}},
    {"cuda_runtime", {"nn/cuda"}},
    {"cuda_runtime_api", {"nn/cuda"}},
    {"cuda_fp16", {"nn/cuda"}},
    {"cuda_bf16", {"nn/cuda"}},
    {"cublas_v2", {"nn/cuda"}},
    {"cublasLt", {"nn/cuda"}},
    {"cudnn", {"nn/cuda"}},
    {"curl", {"nn/data"}},
    {"microhttpd", {"net/http"}},
    {"sentencepiece_processor", {"text/spm"}},
    {"sentencepiece_trainer", {"text/spm"}},
    {"prometheus", {"cloud", "net/metrics", "offload/worker"}},
};

std::string folder_of(const std::string& path) {
  if (path.starts_with("ensemble/protect/") && path.find("_train.") != std::string::npos) {
    return kProtectTrain;
  }
  std::string best;
  for (const auto& [folder, _] : kAllowed) {
    if (path.starts_with(folder + "/") && folder.size() > best.size()) best = folder;
  }
  return best;
}

bool allowed(const std::string& from, const std::string& include) {
  const std::string to = folder_of(include);
  if (to.empty() || to == from) return true;
  for (const std::string& a : kAllowed.at(from)) {
    if (a == "*" || a == to || a == include) return true;
    if (a == "nn/*" && to.starts_with("nn/") && to != "nn/cpu" && to != "nn/cuda") return true;
  }
  return false;
}

// Calls f(file, line) for every line of every source.
template <typename F>
void for_each_line(F f) {
  const fs::path root = ENS_SOURCE_DIR;
  for (const char* top :
       {"include", "base", "nn", "proto", "net", "offload", "ensemble", "cloud", "edge", "disguise",
        "text", "attacks", "experiment", "report", "studio", "web", "lab", "bench", "python"}) {
    if (!fs::exists(root / top)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / top)) {
      const std::string ending = entry.path().extension();
      if (ending != ".h" && ending != ".hpp" && ending != ".cc" && ending != ".cu") continue;
      std::ifstream in(entry.path());
      const std::string file = fs::relative(entry.path(), root).string();
      for (std::string line; std::getline(in, line);) f(file, line);
    }
  }
}

struct Include {
  std::string file, name;
};

std::vector<Include> includes() {
  const std::regex pattern(R"rx(^\s*#\s*include\s*[<"]([^>"]+)[>"])rx");
  std::vector<Include> found;
  for_each_line([&](const std::string& file, const std::string& line) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) found.push_back({file, match[1]});
  });
  return found;
}

bool inside(const std::string& file, const Names& places) {
  for (const std::string& place : places) {
    if (file == place || file.starts_with(place + "/")) return true;
  }
  return false;
}

TEST(Layering, ReadsTheTree) { EXPECT_GT(includes().size(), 200u); }

TEST(Layering, ArrowsPointOneWay) {
  for (const Include& i : includes()) {
    const std::string from = folder_of(i.file);
    ASSERT_FALSE(from.empty()) << i.file << " lies in no folder of the table";
    EXPECT_TRUE(allowed(from, i.name)) << i.file << " may not include " << i.name;
  }
}

TEST(Layering, SecretsAreNotNamedOnTheServersSide) {
  for (const Include& i : includes()) {
    if (!kSecretHeaders.contains(i.name)) continue;
    EXPECT_FALSE(inside(i.file, kNoSecrets)) << i.file << " includes " << i.name;
  }
}

TEST(Layering, LibrariesStayInTheirPlace) {
  for (const Include& i : includes()) {
    for (const auto& [library, places] : kOnlyIn) {
      const bool is_it = i.name == library + ".h" || i.name == library + ".hpp" ||
                         i.name.starts_with(library + "/") ||
                         (library == "H5" && i.name.starts_with("H5"));
      if (!is_it) continue;
      EXPECT_TRUE(inside(i.file, places)) << i.file << " includes " << i.name;
    }
  }
}

// net's headers bring ZeroMQ's along, so the includes alone do not tell.
TEST(Layering, OnlyNetNamesZeroMq) {
  for_each_line([](const std::string& file, const std::string& line) {
    if (line.find("zmq::") == std::string::npos && line.find("zmq_") == std::string::npos) return;
    EXPECT_TRUE(inside(file, kOnlyIn.at("zmq"))) << file << ": " << line;
  });
}

// ---- kinds of protection

// Where a kind may stand as text: its registry, and the steps that are a protection of their own.
bool is_registry(const std::string& file, const Names& kinds) {
  const fs::path path(file);
  return file.starts_with("proto/protections.") ||
         path.parent_path() == "ensemble/train/protections" ||
         (path.parent_path() == "ensemble/protect" && kinds.contains(path.stem()));
}

// Words that are a kind's and mean something else, and the rows of published tables.
const std::map<std::string, Names> kOtherMeaning = {
    {"net/server_socket.cc", {"ensembler"}},          // a ZAP domain
    {"lab/commands/demo.cc", {"ensembler", "none"}},  // folders
    {"lab/commands/exchange.cc", {"ensembler"}},      // the program
    {"lab/commands/studio.cc", {"ensembler"}},        // the program
    {"lab/commands/train.cc", {"ensembler"}},         // the program
    {"lab/main.cc", {"ensembler"}},                   // the program
    {"nn/autograd/ops.cc", {"none"}},                 // no tensor
    {"nn/data/fetch.cc", {"ensembler"}},              // the user agent
    {"studio/jobs.cc", {"ensembler"}},                // the program
    {"studio/views.cc", {"ensembler"}},               // the program
    {"python/src/call.cc", {"ensembler"}},            // the logger
    {"text/train/protections.cc",
     {"none", "additive", "single", "ensembler"}},  // what they mean there
    {"report/published.cc",
     {"none", "shredder", "random", "single", "dr_single", "dr_ensemble", "ensembler"}},
};

Names protection_kinds() {
  std::ifstream in(fs::path(ENS_SOURCE_DIR) / "proto/protections.inc");
  const std::regex pattern(R"rx(^[A-Z_]*PROTECTION[A-Z_]*\((\w+),)rx");
  Names kinds;
  for (std::string line; std::getline(in, line);) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) kinds.insert(match[1]);
  }
  return kinds;
}

// Whoever compares kinds knows them one by one, and a new kind would have to be added there.
TEST(Layering, KindsOfProtectionAreNamedInTheirRegistryOnly) {
  const Names kinds = protection_kinds();
  ASSERT_GE(kinds.size(), 10u);
  const std::regex literal(R"rx("(\w+)")rx");
  std::map<std::string, Names> found;
  for_each_line([&](const std::string& file, const std::string& line) {
    if (is_registry(file, kinds)) return;
    for (std::sregex_iterator it(line.begin(), line.end(), literal), end; it != end; ++it) {
      if (kinds.contains((*it)[1])) found[file].insert((*it)[1]);
    }
  });
  for (const auto& [file, names] : found) {
    const auto known = kOtherMeaning.find(file);
    for (const std::string& name : names) {
      EXPECT_TRUE(known != kOtherMeaning.end() && known->second.contains(name))
          << file << " names the protection \"" << name << "\": ask proto/protections.h instead";
    }
  }
  for (const auto& [file, names] : kOtherMeaning) {
    EXPECT_EQ(found[file], names) << file << ": the list of exceptions is longer than needed";
  }
}

}  // namespace
