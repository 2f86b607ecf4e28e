// SPDX-License-Identifier: Apache-2.0
// The installed tree as another project meets it: the examples of docs/edge-api.md are built with
// it word for word, by CMake and by pkg-config, and run with a cloud; every document's links lead
// to files that are installed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "include/ensembler/version.h"
#include "nn/data/image.h"
#include "tests/edge/serving.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using test::Args;

std::string read(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  EXPECT_TRUE(in) << file << " is missing";
  return {std::istreambuf_iterator<char>(in), {}};
}

class InstallTest : public test::ServingTest {
 protected:
  static void SetUpTestSuite() {
    tree_ = std::make_unique<test::TempDir>();
    test::Process install({ENS_CMAKE, "--install", ENS_BUILD_DIR, "--prefix", prefix()},
                          *tree_ / "install");
    ASSERT_EQ(install.wait(std::chrono::seconds(300)), 0) << install.err();
  }
  static void TearDownTestSuite() { tree_.reset(); }

  static std::string prefix() { return (*tree_ / "prefix").string(); }
  static fs::path documents() { return fs::path(prefix()) / "share/doc/ensembler"; }

  // The first block of a language in a document.
  static std::string block(const std::string& document, const std::string& language) {
    const std::string text = read(documents() / "docs" / document), fence = "```" + language + "\n";
    const size_t start = text.find(fence) + fence.size();
    EXPECT_GT(start, fence.size()) << "no " << language << " in " << document;
    return text.substr(start, text.find("\n```", start) + 1 - start);
  }

  // A shell's command line, with the installed tree where a user would have it.
  std::string shell(const std::string& line, int expected = 0,
                    const std::string& interpreter = "/bin/sh") {
    test::Process process(
        {interpreter, "-c",
         "cd '" + path("project") + "' && export CC='" + ENS_C_COMPILER + "' CXX='" +
             ENS_CXX_COMPILER + "' PATH='" + prefix() + "/bin':\"$PATH\" PKG_CONFIG_PATH='" +
             prefix() + "/lib/pkgconfig' LD_LIBRARY_PATH='" + prefix() + "/lib'\n" + line},
        dir_ / ("shell" + std::to_string(++started_)));
    EXPECT_EQ(process.wait(std::chrono::seconds(120)), expected) << line << "\n"
                                                                 << process.out() << process.err();
    return process.out() + process.err();
  }

  // What the cloud and the ensemble's own modules say about an image file.
  void make_picture() {
    write_png(dir_ / "cat.png",
              test::random_images(bundles_.edge.info.model, 1, 9).reshape({3, 16, 16}));
    const Tensor image = read_image(path("cat.png"), 3, 16, 16).reshape({1, 3, 16, 16});
    const auto logits = expected_logits(bundles_, image).to_vector();
    best_ = bundles_.edge.class_names[static_cast<size_t>(
        std::max_element(logits.begin(), logits.end()) - logits.begin())];
  }
  void expect_classifies(const std::string& output, int classes) {
    std::istringstream lines(output);
    std::string line;
    double last = 100;
    for (int i = 0; i < classes; ++i) {
      ASSERT_TRUE(std::getline(lines, line)) << output;
      const size_t sign = line.find(" %  ");
      ASSERT_NE(sign, std::string::npos) << output;
      EXPECT_LE(std::stod(line), last) << output;
      last = std::stod(line);
      if (i == 0) {
        EXPECT_EQ(line.substr(sign + 4), best_) << output;
      }
    }
    ASSERT_TRUE(std::getline(lines, line)) << output;
    EXPECT_GT(std::stod(line), 0) << output;  // milliseconds
    EXPECT_NE(line.find(" ms"), std::string::npos) << output;
  }

  static std::unique_ptr<test::TempDir> tree_;
  std::string best_;
};

std::unique_ptr<test::TempDir> InstallTest::tree_;

TEST_F(InstallTest, TheExampleIsBuiltByCMakeAndByPkgConfig) {
  fs::create_directory(path("project"));
  std::ofstream(path("project/classify.cc")) << block("edge-api.md", "cpp");
  std::ofstream(path("project/CMakeLists.txt")) << block("edge-api.md", "cmake");
  shell("'" ENS_CMAKE "' -S . -B build -DCMAKE_PREFIX_PATH='" + prefix() +
        "' -DCMAKE_CXX_FLAGS='-Wall -Wextra -Wshadow -Werror' && '" ENS_CMAKE "' --build build");
  shell("alias c++=\"$CXX\"\n" + block("edge-api.md", "sh"));

  start_cloud();
  make_picture();
  const std::string arguments =
      " '" + path("edge.h5") + "' " + endpoint_ + " '" + path("cat.png") + "'";
  // By CMake the program knows where the library is; LD_LIBRARY_PATH must not be needed.
  expect_classifies(shell("unset LD_LIBRARY_PATH; build/classify" + arguments), 3);
  expect_classifies(shell("./classify" + arguments), 3);

  // What goes wrong is one line and an exit code.
  const std::string missing =
      shell("./classify '" + path("edge.h5") + "' " + endpoint_ + " none.png", 1);
  EXPECT_EQ(missing.rfind("classify: INVALID_ARGUMENT: ", 0), 0u) << missing;
  EXPECT_NE(missing.find("none.png"), std::string::npos) << missing;
  EXPECT_EQ(std::count(missing.begin(), missing.end(), '\n'), 1) << missing;
  const std::string quoted = shell("./classify \"it's \\\\ a 'bundle'.h5\" tcp://127.0.0.1:9 x", 1);
  EXPECT_NE(quoted.find("it's \\ a 'bundle'.h5"), std::string::npos) << quoted;
}

// Also the oldest languages that the headers promise, and another version than this one is refused.
TEST_F(InstallTest, TheCProgramIsBuiltFromItsInstalledSource) {
  fs::create_directory(path("project"));
  fs::copy_file(documents() / "tests/edge/c_client.c", path("project/c_client.c"));
  shell(
      "$CC -std=c99 -pedantic -Wall -Wextra -Werror c_client.c "
      "$(pkg-config --cflags --libs ensembler-edge) -o c_client");
  start_cloud();
  make_picture();
  expect_classifies(shell("./c_client \"bundle: '" + path("edge.h5") + "' cloud: '" + endpoint_ +
                          "'\" top '" + path("cat.png") + "'"),
                    5);

  std::ofstream(path("project/old.cc")) << "#include <ens_edge.h>\n#include <ensembler/edge.hpp>\n"
                                           "#include <ensembler/version.h>\n#include <cstdio>\n"
                                           "int main() { return ensembler::version() == "
                                           "ENSEMBLER_VERSION ? 0 : 1; }\n";
  shell(
      "$CXX -std=c++17 -pedantic -Wall -Wextra -Werror old.cc "
      "$(pkg-config --cflags --libs ensembler-edge) -o old && ./old");
  EXPECT_EQ(shell("pkg-config --modversion ensembler-edge"), ENSEMBLER_VERSION "\n");
  std::ofstream(path("project/CMakeLists.txt"))
      << "cmake_minimum_required(VERSION 3.16)\nproject(old CXX)\n"
         "find_package(Ensembler "
      << ENSEMBLER_VERSION_MAJOR + 1 << " REQUIRED)\n";
  const std::string refused =
      shell("'" ENS_CMAKE "' -S . -B build -DCMAKE_PREFIX_PATH='" + prefix() + "'", 1);
  EXPECT_NE(refused.find("version: " ENSEMBLER_VERSION), std::string::npos) << refused;
}

// Protobuf's library knows the files of all libraries of a process by their names.
TEST_F(InstallTest, AProgramMayHaveMessagesOfItsOwnInFilesOfTheSameNames) {
  fs::create_directory(path("project"));
  for (const std::string name : {"config", "options", "offload", "wire"}) {
    std::ofstream(path("project/" + name + ".proto"))
        << "syntax = \"proto3\";\npackage other." << name << ";\nmessage Mine { int32 n = 1; }\n";
  }
  std::ofstream(path("project/main.cc"))
      << "#include <ensembler/edge.hpp>\n#include \"config.pb.h\"\n#include \"wire.pb.h\"\n"
         "int main() {\n  other::config::Mine mine;\n  mine.set_n(3);\n"
         "  return mine.ShortDebugString() == \"n: 3\" && !ensembler::version().empty() ? 0 : "
         "1;\n}\n";
  shell(
      "protoc --cpp_out=. config.proto options.proto offload.proto wire.proto && "
      "$CXX -std=c++17 main.cc *.pb.cc $(pkg-config --cflags --libs ensembler-edge protobuf) "
      "-o main && ./main");
}

TEST_F(InstallTest, ProgramsAreOfTheSameVersion) {
  fs::create_directory(path("project"));
  for (const std::string program :
       {"ensembler", "ensembler-cloud", "ensembler-edge", "ensembler-worker"}) {
    EXPECT_EQ(shell("unset LD_LIBRARY_PATH; " + program + " --version"),
              program + " " ENSEMBLER_VERSION "\n");
  }
}

// What --help says is what the manual page and the completion say.
TEST_F(InstallTest, ManualPagesAndCompletionKnowEveryFlag) {
  fs::create_directory(path("project"));
  const std::regex flag("--[a-z][a-z-]+");
  for (const std::string command : {"ensembler train", "ensembler keys new", "ensembler-cloud",
                                    "ensembler-edge", "ensembler-worker"}) {
    const std::string program = command.substr(0, command.find(' '));
    const std::string manual = std::regex_replace(
        read(fs::path(prefix()) / "share/man/man1" / (program + ".1")), std::regex(R"(\\-)"), "-");
    std::istringstream words(
        shell(". '" + prefix() + "/share/bash-completion/completions/" + program + "'\n" +
                  "COMP_WORDS=(" + command + " -) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n" +
                  "$(complete -p " + program +
                  " | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); echo \"${COMPREPLY[@]}\"",
              0, "/bin/bash"));
    std::set<std::string> completed;
    for (std::string word; words >> word;) completed.insert(word);
    std::istringstream help(shell(command + " --help"));
    int flags = 0;
    for (std::string line; std::getline(help, line);) {
      std::smatch match;
      if (line.rfind("  -", 0) != 0 || !std::regex_search(line, match, flag)) continue;
      ++flags;
      EXPECT_TRUE(completed.contains(match[0])) << command << " " << match[0];
      EXPECT_NE(manual.find(match[0]), std::string::npos) << command << " " << match[0];
    }
    EXPECT_GE(flags, 3) << command;
    EXPECT_EQ(static_cast<int>(completed.size()), flags) << command;
  }
  EXPECT_EQ(shell(". '" + prefix() + "/share/bash-completion/completions/ensembler'\n" +
                      "COMP_WORDS=(ensembler keys '') COMP_CWORD=2; _ensembler\n" +
                      "echo \"${COMPREPLY[@]}\"",
                  0, "/bin/bash"),
            "new device show allow revoke\n");
}

// ---- documents

// The anchor of a heading, as GitHub makes it.
std::string anchor(const std::string& heading) {
  std::string made;
  for (const char c : heading) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == ' ') made += '-';
    if (std::isalnum(byte) || c == '-' || c == '_' || byte >= 0x80) {
      made += static_cast<char>(std::tolower(byte));
    }
  }
  return made;
}

std::set<std::string> anchors(const fs::path& page) {
  std::set<std::string> found;
  std::istringstream lines(read(page));
  static const std::regex link(R"(\[([^\]]*)\]\([^)]*\))");
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind('#', 0) != 0) continue;
    found.insert(
        anchor(std::regex_replace(line.substr(line.find_first_not_of('#') + 1), link, "$1")));
  }
  return found;
}

TEST_F(InstallTest, EveryLinkOfADocumentLeadsToAnInstalledFile) {
  const std::regex link(R"(\]\(([^)# ]*)(#[^) ]*)?\))");
  const std::regex code(R"(\n```[^`]*\n```)");
  int links = 0;
  for (const auto& entry : fs::recursive_directory_iterator(documents())) {
    if (entry.path().extension() != ".md") continue;
    const std::string text = std::regex_replace(read(entry.path()), code, "");
    for (std::sregex_iterator it(text.begin(), text.end(), link), end; it != end; ++it) {
      const std::string target = (*it)[1], fragment = (*it)[2];
      if (target.find("://") != std::string::npos || target.rfind("mailto:", 0) == 0) continue;
      ++links;
      const fs::path file = target.empty() ? entry.path() : entry.path().parent_path() / target;
      EXPECT_TRUE(fs::exists(file)) << entry.path() << " links to " << target;
      if (!fragment.empty() && file.extension() == ".md" && fs::exists(file)) {
        EXPECT_TRUE(anchors(file).contains(fragment.substr(1)))
            << entry.path() << " links to " << target << fragment;
      }
    }
  }
  EXPECT_GT(links, 100);
}

// ---- what cannot take the version, or a list of folders, from CMake

std::string read_source(const char* file) { return read(fs::path(ENS_SOURCE_DIR) / file); }

TEST(Release, TheVersionIsNamedWhereverItIsWrittenDown) {
  EXPECT_NE(read_source("CHANGELOG.md").find("\n## " ENSEMBLER_VERSION " "), std::string::npos);
  EXPECT_NE(read_source("CITATION.cff").find("\nversion: " ENSEMBLER_VERSION "\n"),
            std::string::npos);
  EXPECT_NE(read_source("deploy/kubernetes/cloud.yaml").find(":" ENSEMBLER_VERSION " "),
            std::string::npos);
}

TEST(Release, TheContainerIsBuiltFromEveryFolderThatTheBuildReads) {
  const std::string lets_through = read_source(".dockerignore"),
                    build = read_source("CMakeLists.txt");
  const std::regex folder(R"(add_subdirectory\((\w+)\))");
  int folders = 0;
  for (std::sregex_iterator it(build.begin(), build.end(), folder), end; it != end; ++it) {
    ++folders;
    EXPECT_NE(lets_through.find("\n!" + (*it)[1].str() + "\n"), std::string::npos) << (*it)[1];
  }
  EXPECT_GT(folders, 10);
  for (const char* file : {"*.md", "LICENSE", "CMakeLists.txt", "CMakePresets.json", "run"}) {
    EXPECT_NE(lets_through.find(std::string("\n!") + file + "\n"), std::string::npos) << file;
  }
}

}  // namespace
}  // namespace ens
