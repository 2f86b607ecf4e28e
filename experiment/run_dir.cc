// SPDX-License-Identifier: Apache-2.0
#include "experiment/run_dir.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/files.h"
#include "base/lock.h"
#include "base/notice.h"
#include "experiment/tensorboard.h"
#include "include/ensembler/version.h"
#include "proto/config.h"
#include "proto/results.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr char kConfig[] = "config.txtpb";
constexpr char kInfo[] = "info.json";
constexpr char kMetrics[] = "metrics.csv";
constexpr char kDone[] = "DONE";
constexpr char kLock[] = "LOCK";
constexpr char kHeader[] = "time,stage,net,epoch,step,name,value\n";
constexpr char kOtherFolder[] = "choose another folder, or remove this one";

std::string now_utc() {
  return fmt::format(
      "{:%Y-%m-%dT%H:%M:%SZ}",
      fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

std::string processor_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string text; std::getline(cpuinfo, text);) {
    if (!text.starts_with("model name")) continue;
    const size_t value = text.find_first_not_of(": \t", text.find(':'));
    if (value != std::string::npos) return text.substr(value);
  }
  utsname system{};
  return uname(&system) == 0 ? system.machine : "unknown";
}

// ---- configurations

// Error if another version's settings are in the configuration of a run.
void refuse_newer(const std::string& text, const fs::path& file) {
  for (const auto& [path, value] : config_fields(text)) {
    if (const std::string unknown = unknown_part(path, value); !unknown.empty()) {
      usage_fail("written by a newer version (" + unknown + ")", file.string(), "use that version");
    }
  }
}

using Fields = std::vector<std::pair<std::string, std::string>>;

bool has(const Fields& fields, const std::string& path) {
  return std::ranges::find(fields, path, &Fields::value_type::first) != fields.end();
}

// Puts what complete_old_run() sets where to_text() has it: behind the other settings of `data`.
void add_implied(Fields& fields) {
  const auto name = std::ranges::find(fields, "data.name", &Fields::value_type::first);
  if (name == fields.end()) return;
  RunConfig old;
  old.mutable_data()->set_name(name->second.substr(1));  // without the quotation mark
  complete_old_run(old);
  const auto add = [&](const std::string& path, const std::string& value) {
    if (has(fields, path)) return;
    const auto in_data = [](const auto& field) { return field.first.starts_with("data."); };
    const auto last = std::find_if(fields.rbegin(), fields.rend(), in_data);
    fields.insert(last.base(), {path, value});
  };
  add("data.fit", '"' + old.data().fit() + '"');
  add("data.public_images", std::to_string(old.data().public_images()));
}

// ---- metrics

std::string to_row(const Metric& m) {
  for (const std::string* text : {&m.stage, &m.name}) {
    if (text->empty() || text->find_first_of(",\"\n\r") != std::string::npos) {
      fail("'" + *text + "' cannot stand in a table", kMetrics);
    }
  }
  return fmt::format("{},{},{},{},{},{},{}\n", now_utc(), m.stage, m.net, m.epoch, m.step, m.name,
                     m.value);
}

template <typename T>
bool parse(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<Metric> parse_row(std::string_view row) {
  std::vector<std::string_view> cells;
  for (size_t start = 0; start <= row.size();) {
    const size_t end = std::min(row.find(',', start), row.size());
    cells.push_back(row.substr(start, end - start));
    start = end + 1;
  }
  Metric m;
  if (cells.size() != 7 || cells[1].empty() || cells[5].empty() || !parse(cells[2], m.net) ||
      !parse(cells[3], m.epoch) || !parse(cells[4], m.step) || !parse(cells[6], m.value)) {
    return std::nullopt;
  }
  m.stage = cells[1];
  m.name = cells[5];
  return m;
}

// Calls `row` with each line that a newline ends, without it, after the header. False if the header
// is wrong.
bool for_each_row(const std::string& csv, const std::function<void(std::string_view)>& row) {
  const size_t header = std::strlen(kHeader);
  if (!csv.starts_with(kHeader)) return std::string_view(kHeader).starts_with(csv);  // torn
  for (size_t start = header; start < csv.size();) {
    const size_t end = csv.find('\n', start);
    if (end == std::string::npos) break;
    row(std::string_view(csv).substr(start, end - start));
    start = end + 1;
  }
  return true;
}

// ---- the folder

bool is_leftover(const fs::path& file) {
  return file.filename().string().ends_with(kTemporarySuffix);
}

// Error unless `folder` is a run, empty, or what a process killed at its very beginning leaves.
void check_ours(const fs::path& folder) {
  if (is_run(folder)) return;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& file = entry.path();
    if (file.filename() != kLock && !is_leftover(file)) {
      usage_fail("the folder is not empty and not a run", folder.string(),
                 "choose another folder for the run");
    }
  }
}

// Only this process works in the folder, so nobody is still writing them.
void remove_leftovers(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && is_leftover(entry.path())) found.push_back(entry.path());
  }
  for (const fs::path& file : found) fs::remove(file);
}

FileLock lock(const fs::path& folder) {
  FileLock held = FileLock::try_once(folder / kLock);
  if (held.taken()) {
    usage_fail(held.owner() > 0 ? fmt::format("the run is in use by process {}", held.owner())
                                : std::string("the run is in use by another process"),
               folder.string(), "wait for it to end, or choose another folder");
  }
  return held;
}

}  // namespace

struct RunDir::Impl {
  fs::path folder;
  mutable std::mutex mutex;
  FileLock lock_file;
  Fd metrics_file;
  std::optional<EventFile> events;

  // All metrics so far, in the place of what was written.
  void start_events(const RunDir& run) {
    events.emplace(folder / "tensorboard/train");
    for (const Metric& metric : read_run(run.folder()).metrics) add_event(metric);
  }
  void add_event(const Metric& m) {
    const std::string net = m.net < 0 ? "ensemble" : "net" + std::to_string(m.net);
    events->add_scalar(m.stage + "/" + net + "/" + m.name, m.step, m.value);
  }

  fs::path metrics() const { return folder / kMetrics; }

  void open_metrics() {
    metrics_file = Fd(open(metrics().c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
    if (!metrics_file) {
      fail(std::string("cannot open the file: ") + std::strerror(errno), metrics().string());
    }
  }

  // Rewrites metrics.csv with the whole rows that are to be kept.
  void keep_metrics(const std::function<bool(const Metric&)>& keep) {
    const std::string before = read_file_if_there(metrics()).value_or("");
    std::string after = kHeader;
    const bool header = for_each_row(before, [&](std::string_view row) {
      const std::optional<Metric> m = parse_row(row);
      if (m && keep(*m)) after.append(row).push_back('\n');
    });
    if (!header) {
      fail("not a table of metrics", metrics().string(), "move the file out of the folder");
    }
    if (after != before) {
      write_file_atomically(metrics(), after, /*secret=*/false);
      metrics_file = Fd();
    }
    if (!metrics_file) open_metrics();
  }

  void check_or_write_config(const std::string& text) const {
    const fs::path file = folder / kConfig;
    const std::optional<std::string> present = read_file_if_there(file);
    if (!present) {
      write_file_atomically(file, text, /*secret=*/false);
      return;
    }
    refuse_newer(*present, file);
    const std::string different = config_difference(text, *present);
    if (!different.empty()) {
      usage_fail("the folder holds a run with another configuration: " + different, folder.string(),
                 kOtherFolder);
    }
  }

  void write_info(const RunFacts& facts) const {
    const fs::path file = folder / kInfo;
    results::RunInfo info;
    const auto fill = [&](auto& process) {
      process.set_started(now_utc());
      process.set_version(ENSEMBLER_VERSION);
      process.set_revision(ENS_REVISION);
      process.set_command(facts.command);
      process.set_device(facts.device);
    };
    if (results::read_if_intact(file, info) && info.has_started()) {
      if (info.device() != facts.device) {
        notice(fmt::format(
            "{}: begun on '{}', goes on with '{}': the weights will not be exactly those of "
            "an uninterrupted training",
            folder.string(), info.device(), facts.device));
      }
      fill(*info.add_resumed());  // the first process describes the run
    } else {
      info.Clear();
      fill(info);
      info.set_processor(processor_name());
      info.set_seed(static_cast<double>(facts.seed));
    }
    results::write(file, info);
  }
};

std::vector<std::pair<std::string, std::string>> config_fields(const std::string& text) {
  std::vector<std::pair<std::string, std::string>> out;
  std::vector<std::string> open;
  std::istringstream in(text);
  for (std::string row; std::getline(in, row);) {
    const size_t first = row.find_first_not_of(" \t\r");
    if (first == std::string::npos || row[first] == '#') continue;
    row = row.substr(first, row.find_last_not_of(" \t\r") + 1 - first);
    const size_t name_end = row.find_first_of(":{ ");
    if (row == "}") {
      if (!open.empty()) open.pop_back();
    } else if (row.back() == '{') {
      open.push_back(row.substr(0, name_end));
    } else {
      std::string path;
      for (const std::string& part : open) path += part + ".";
      path += row.substr(0, name_end);
      const size_t value = row.find_first_not_of(": ", std::min(name_end, row.size()));
      out.emplace_back(current_path(path), value == std::string::npos ? "" : row.substr(value));
    }
  }
  return out;
}

std::string config_difference(const std::string& mine, const std::string& folder) {
  Fields a = config_fields(mine), b = config_fields(folder);
  add_implied(a);
  add_implied(b);
  const auto drop_defaults = [](Fields& fields, const Fields& others) {
    std::erase_if(fields, [&](const auto& field) {
      return !has(others, field.first) && field.second == default_text(field.first);
    });
  };
  drop_defaults(a, b);
  drop_defaults(b, a);
  for (size_t i = 0; i < std::max(a.size(), b.size()); ++i) {
    if (i < a.size() && i < b.size()) {
      if (a[i] == b[i]) continue;
      if (a[i].first == b[i].first) {
        return fmt::format("{} is {}, in the folder it is {}", a[i].first, a[i].second,
                           b[i].second);
      }
    }
    // Out of step: one of the two has a field that the other lacks here.
    if (i >= b.size() || (i < a.size() && !has(b, a[i].first))) {
      return fmt::format("{} is {}, in the folder it is not set", a[i].first, a[i].second);
    }
    return fmt::format("{} is not set, in the folder it is {}", b[i].first, b[i].second);
  }
  return "";
}

RunConfig read_run_config(const fs::path& folder) {
  const fs::path file = folder / kConfig;
  const std::optional<std::string> text = read_file_if_there(file);
  if (!text) fail("not a run: it has no config.txtpb", folder.string(), "name a run folder");
  refuse_newer(*text, file);
  RunConfig config;
  parse_config(*text, file.string(), config);
  complete_old_run(config);
  complete(config);
  return config;
}

RunDir::RunDir(const fs::path& folder, const std::string& config_text, const RunFacts& facts)
    : impl_(std::make_unique<Impl>()) {
  impl_->folder = folder;
  try {
    if (folder.empty()) usage_fail("no folder given for the run");
    if (fs::exists(folder)) {
      if (!fs::is_directory(folder)) {
        usage_fail("not a folder", folder.string(), "choose another name for the run");
      }
      check_ours(folder);
    } else {
      const fs::path parent = fs::absolute(folder).lexically_normal().parent_path();
      fs::create_directories(parent);
      if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
        fail(std::string("cannot make the folder: ") + std::strerror(errno), folder.string(),
             "choose a folder that is writable");
      }
    }
    impl_->lock_file = lock(folder);
    fs::permissions(folder, fs::perms::owner_all);
    remove_leftovers(folder);
    impl_->check_or_write_config(config_text);
    if (!done()) impl_->write_info(facts);
    impl_->keep_metrics([](const Metric&) { return true; });
  } catch (const fs::filesystem_error& error) {
    fail(error.code().message(), error.path1().empty() ? folder.string() : error.path1().string(),
         "choose a folder that is writable");
  }
}

RunDir::~RunDir() = default;

const fs::path& RunDir::folder() const { return impl_->folder; }

fs::path RunDir::path(const std::string& relative) const {
  const fs::path inside = fs::path(relative).lexically_normal();
  if (inside.empty() || inside == "." || inside.is_absolute() || *inside.begin() == "..") {
    fail("'" + relative + "' is not inside the run", folder().string());
  }
  const fs::path file = folder() / inside;
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  if (error) {
    fail("cannot make the folder: " + error.message(), file.parent_path().string(),
         "free some disk space or check its permissions");
  }
  return file;
}

void RunDir::forget_metrics(const std::string& stage, int net, int64_t epoch) {
  std::lock_guard lock(impl_->mutex);
  impl_->keep_metrics(
      [&](const Metric& m) { return m.stage != stage || m.net != net || m.epoch < epoch; });
  if (impl_->events) impl_->start_events(*this);
}

void RunDir::add_metric(const Metric& metric) {
  const std::string row = to_row(metric);
  std::lock_guard lock(impl_->mutex);
  struct stat before {};
  if (fstat(impl_->metrics_file.get(), &before) != 0) {
    fail(std::string("cannot read the file: ") + std::strerror(errno), impl_->metrics().string());
  }
  const auto check = [&](bool ok, int error) {
    if (ok) return;
    fail(std::string("cannot write the file: ") + std::strerror(error), impl_->metrics().string(),
         "free some disk space; the same command resumes the run");
  };
  if (!write_all(impl_->metrics_file, row)) {
    const int error = errno;
    // A later row must not be glued to half of this one; if this fails too, opening mends it.
    if (ftruncate(impl_->metrics_file.get(), before.st_size) != 0) impl_->metrics_file = Fd();
    check(false, error);
  }
  // On disk before the checkpoint that follows: resuming does not compute this epoch again.
  check(fdatasync(impl_->metrics_file.get()) == 0 || errno == EINVAL, errno);
  if (impl_->events) impl_->add_event(metric);
}

void RunDir::write_events() {
  std::lock_guard lock(impl_->mutex);
  impl_->start_events(*this);
}

void RunDir::mark_done() {
  write_file_atomically(folder() / kDone, now_utc() + "\n", /*secret=*/false);
}

bool RunDir::done() const { return fs::exists(folder() / kDone); }

bool run_in_use(const fs::path& folder) {
  return fs::exists(folder / kLock) && FileLock::try_once(folder / kLock).taken();
}

bool is_run(const fs::path& folder) {
  std::error_code error;
  return fs::is_regular_file(folder / kConfig, error);
}

RunView read_run(const fs::path& folder, bool with_metrics) {
  RunView view;
  view.folder = folder;
  try {
    std::error_code error;
    view.done = fs::exists(folder / kDone, error);
    if (!is_run(folder)) fail("no config.txtpb: not a run", folder.string());
    view.config_text = read_file_if_there(folder / kConfig).value_or("");
    results::RunInfo info;
    results::read(folder / kInfo, info);
    view.info = info;
    if (!with_metrics) return view;
    int64_t line = 1;
    const bool header =
        for_each_row(read_file_if_there(folder / kMetrics).value_or(""), [&](std::string_view row) {
          ++line;
          if (auto m = parse_row(row)) {
            view.metrics.push_back(std::move(*m));
          } else if (view.damage.empty()) {
            view.damage = fmt::format("{}: line {} is damaged", (folder / kMetrics).string(), line);
          }
        });
    if (!header) fail("not a table of metrics", (folder / kMetrics).string());
  } catch (const std::exception& error) {
    view.damage = error.what();
  }
  return view;
}

}  // namespace ens
