// SPDX-License-Identifier: Apache-2.0
#include "studio/index.h"

#include <algorithm>
#include <chrono>

#include "base/hash.h"
#include "base/strings.h"
#include "base/threads.h"
#include "experiment/run_dir.h"
#include "proto/results.h"
#include "report/data.h"
#include "studio/views.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kPause{2};
constexpr double kTraining = 120;  // seconds since the last metric, after which nobody trains

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}
double seconds_of(const FileStamp& stamp) { return 1e-9 * static_cast<double>(stamp.written_ns); }
bool there(const FileStamp& stamp) { return stamp != FileStamp(); }

// Of a run that has no summary yet: as far as its configuration tells.
void describe_unfinished(const fs::path& folder, studio::RunEntry& entry) {
  report::Run run;
  for (const auto& [path, value] :
       config_fields(read_file_if_there(folder / "config.txtpb").value_or(""))) {
    const bool quoted = value.size() > 1 && value.front() == '"';
    run.settings[path] = quoted ? value.substr(1, value.size() - 2) : value;
  }
  run.summary.set_data(run.settings["data.name"]);
  run.summary.set_architecture(run.settings["model.architecture"]);
  run.summary.set_protection(run.settings["protection.kind"]);
  entry.set_data(run.summary.data());
  entry.set_protection(run.summary.protection());
  entry.set_title(run.title());
  entry.set_setting(run.task());
}

void describe_finished(const fs::path& folder, studio::RunEntry& entry) {
  report::Run run;
  results::read(folder / "summary.json", run.summary);
  entry.set_data(run.summary.data());
  entry.set_protection(run.summary.protection());
  entry.set_title(run.title());
  entry.set_setting(run.setting());
  if (run.summary.has_split()) {
    entry.set_head(run.summary.split().head());
    entry.set_tail(run.summary.split().tail());
  }
  if (run.summary.has_accuracy()) entry.set_accuracy(run.summary.accuracy());
  if (run.summary.has_disguise()) {
    const auto& disguise = run.summary.disguise();
    entry.set_method(disguise.method());
    entry.set_method_settings(disguise.settings());
    entry.set_title(report::disguise_title(disguise));
    entry.set_setting(run.task());
  }
}

void describe(Index::Run& run) {
  studio::RunEntry& entry = run.entry;
  const auto is = [&](const char* status, const std::string& reason = "") {
    entry.set_status(status);
    if (!reason.empty()) entry.set_reason(reason);
  };
  try {
    if (there(run.done)) {
      if (!there(run.config)) return is("damaged", "config.txtpb is missing");
      describe_finished(run.folder, entry);
      is("finished");
    } else {
      describe_unfinished(run.folder, entry);
      is("unfinished", "no DONE file: the same training command resumes it");
    }
  } catch (const results::NewerFormat& newer) {
    is("newer", newer.what());
  } catch (const std::exception& damage) {
    is("damaged", damage.what());
  }
}

}  // namespace

const Index::Run* Index::Snapshot::run(const std::string& id) const {
  const auto found = by_id.find(id);
  return found == by_id.end() ? nullptr : &runs[found->second];
}

const Index::Group* Index::Snapshot::group(const std::string& id) const {
  const auto found = std::ranges::find(groups, id, [](const Group& g) { return g.entry.id(); });
  return found == groups.end() ? nullptr : &*found;
}

std::string Index::shown(const fs::path& path) const {
  const fs::path inside = path.lexically_proximate(root_);
  return inside.empty() || *inside.begin() == ".." ? path.filename().string() : inside.string();
}

std::string Index::id_of(const fs::path& folder) const {
  const std::string name = folder.lexically_proximate(root_).string();
  return to_hex(sha256(name.data(), name.size())).substr(0, 16);
}

std::shared_ptr<const Index::Snapshot> Index::scan(const Snapshot* before) const {
  const auto start = std::chrono::steady_clock::now();
  auto out = std::make_shared<Snapshot>();
  std::map<std::string, Group> groups;

  // Runs are added to `group` if that is a sweep, else to the folder that holds them.
  const auto add_run = [&](const fs::path& folder, const fs::path& group) {
    Run run;
    run.folder = folder;
    run.config = file_stamp(folder / "config.txtpb");
    run.summary = file_stamp(folder / "summary.json");
    run.done = file_stamp(folder / "DONE");
    const std::string id = id_of(folder);
    const Run* known = before ? before->run(id) : nullptr;
    // Finished runs are finished: their metrics change no more.
    if (!there(run.done)) {
      run.metrics = file_stamp(folder / "metrics.csv");
      if (!there(run.metrics)) run.metrics = file_stamp(folder / "cloud" / "metrics.csv");
    }
    const bool same = known && known->config == run.config && known->summary == run.summary &&
                      known->done == run.done && known->metrics == run.metrics;
    if (same) {
      run.entry = known->entry;
    } else {
      run.entry.set_id(id);
      run.entry.set_name(folder.filename().string());
      run.entry.set_group(id_of(group));
      run.entry.set_changed(std::max({seconds_of(run.done), seconds_of(run.summary),
                                      seconds_of(run.metrics), seconds_of(run.config)}));
      describe(run);
    }
    if (run.entry.status() == "unfinished" || run.entry.status() == "training")
      run.entry.set_status(now() - run.entry.changed() < kTraining ? "training" : "unfinished");
    if (run.entry.status() == "damaged" || run.entry.status() == "newer") ++out->damaged;
    Group& g = groups[run.entry.group()];
    if (g.folder.empty()) {
      g.folder = group;
      g.entry.set_id(run.entry.group());
      const std::string name = shown(group);
      g.entry.set_title(name == "." ? root_.filename().string() : name);
    }
    if (run.entry.status() == "finished") g.entry.set_runs(g.entry.runs() + 1);
    g.entry.set_changed(std::max(g.entry.changed(), run.entry.changed()));
    out->runs.push_back(std::move(run));
  };

  const std::function<void(const fs::path&, const fs::path&)> walk = [&](const fs::path& folder,
                                                                         const fs::path& sweep) {
    std::error_code error;
    const bool is_run =
        fs::exists(folder / "config.txtpb", error) || fs::exists(folder / "info.json", error);
    if (is_run) {
      add_run(folder, sweep.empty() ? folder.parent_path() : sweep);
      if (const fs::path inside = folder / "blinded"; fs::is_directory(inside, error))
        walk(inside, sweep.empty() ? folder.parent_path() : sweep);
      return;
    }
    fs::path group = sweep;
    if (const FileStamp stamp = file_stamp(folder / "sweep.json"); there(stamp)) {
      group = folder;
      Group g;
      const std::string id = id_of(folder);
      const Group* known = before ? before->group(id) : nullptr;
      g.folder = folder;
      g.sweep = stamp;
      if (known && known->sweep == stamp) {
        g.entry = known->entry;
        g.entry.set_title(known->title);
      } else {
        g.entry.set_id(id);
        g.entry.set_sweep(true);
        g.entry.set_title(shown(folder));
        try {
          results::SweepState state;
          results::read(folder / "sweep.json", state);
          if (!state.title().empty()) g.entry.set_title(state.title());
          g.entry.set_cells(state.cells_size());
          g.entry.set_command(public_command(state.command()));
        } catch (const std::exception& damage) {
          ++out->damaged;
        }
      }
      g.title = g.entry.title();
      g.entry.set_runs(0);
      g.entry.set_changed(seconds_of(stamp));
      groups[id] = std::move(g);
    }
    std::vector<fs::path> inner;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
      std::error_code ignored;
      if (it->is_directory(ignored) && !it->is_symlink(ignored) &&
          !it->path().filename().string().starts_with('.'))
        inner.push_back(it->path());
    }
    std::ranges::sort(inner);
    for (const fs::path& next : inner) walk(next, group);
  };
  walk(root_, {});

  std::ranges::stable_sort(out->runs, std::greater(),
                           [](const Run& r) { return r.entry.changed(); });
  for (size_t i = 0; i < out->runs.size(); ++i) out->by_id[out->runs[i].entry.id()] = i;
  for (auto& [id, group] : groups) out->groups.push_back(std::move(group));
  std::ranges::stable_sort(out->groups, std::greater(),
                           [](const Group& g) { return g.entry.changed(); });
  std::map<std::string, int> of_title;
  for (const Group& g : out->groups) ++of_title[g.entry.title()];
  for (Group& g : out->groups) {  // several sweeps of one configuration
    const std::string& title = g.entry.title();
    if (of_title[title] > 1 && title != shown(g.folder))
      g.entry.set_title(title + " (" + shown(g.folder) + ")");
  }
  if (out->groups.size() > 1) {
    Group all;
    all.folder = root_;
    all.entry.set_id(kAllRuns);
    all.entry.set_title("All runs");
    all.entry.set_changed(out->groups.front().entry.changed());
    for (const Group& g : out->groups) all.entry.set_runs(all.entry.runs() + g.entry.runs());
    out->groups.insert(out->groups.begin(), std::move(all));
  }
  out->milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return out;
}

Index::Index(fs::path root, std::function<void()> changed)
    : given_(root), root_(fs::absolute(root).lexically_normal()), changed_(std::move(changed)) {
  snapshot_ = scan(nullptr);
  thread_ = std::thread([this] {
    unpin_this_thread();
    std::unique_lock lock(mutex_);
    while (!end_.wait_for(lock, kPause, [&] { return over_; })) {
      const std::shared_ptr<const Snapshot> before = snapshot_;
      lock.unlock();
      const auto after = scan(before.get());
      const auto differs = [](const auto& a, const auto& b) {
        return a.entry.SerializeAsString() != b.entry.SerializeAsString();
      };
      const bool change = !std::ranges::equal(before->runs, after->runs, std::not_fn(differs)) ||
                          !std::ranges::equal(before->groups, after->groups, std::not_fn(differs));
      lock.lock();
      if (!change) continue;
      snapshot_ = after;
      lock.unlock();
      changed_();
      lock.lock();
    }
  });
}

Index::~Index() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  end_.notify_all();
  thread_.join();
}

std::shared_ptr<const Index::Snapshot> Index::snapshot() const {
  std::lock_guard lock(mutex_);
  return snapshot_;
}

}  // namespace ens
