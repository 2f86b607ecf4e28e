// SPDX-License-Identifier: Apache-2.0
#include "studio/jobs.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "base/files.h"
#include "base/process.h"
#include "base/program.h"
#include "base/strings.h"
#include "base/threads.h"
#include "nn/core/rng.h"
#include "proto/results.h"
#include "studio/site.h"
#include "studio/views.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr milliseconds kPoll{200};
constexpr std::chrono::seconds kPatience{5};  // between SIGTERM and SIGKILL
constexpr size_t kLogLines = 200, kLogBytes = 1 << 16;
constexpr size_t kEnded = 100;  // jobs that are remembered

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// When a process was started, in the kernel's own words; empty if there is none.
std::string start_of(long pid) {
  const std::string stat =
      read_file_if_there("/proc/" + std::to_string(pid) + "/stat").value_or("");
  const size_t name_end = stat.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return {};
  const std::vector<std::string> fields = split_text(stat.substr(name_end + 1), ' ');
  return fields.size() > 19 && fields[0] != "Z" ? fields[19] : "";
}

bool unfinished(const std::string& state) {
  return state == "queued" || state == "running" || state == "paused" || state == "interrupted";
}

// The end of a file.
std::string tail_of(const fs::path& file, size_t bytes) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return {};
  const auto size = static_cast<size_t>(in.tellg());
  in.seekg(static_cast<std::streamoff>(size > bytes ? size - bytes : 0));
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

struct Jobs::Entry {
  studio::StoredJob stored;
  std::unique_ptr<Process> process;
  size_t log_read = 0;   // of log.txt
  std::string stopping;  // the state that it is being stopped for
  std::chrono::steady_clock::time_point kill_at;

  studio::Job& job() { return *stored.mutable_job(); }
  const std::string& state() const { return stored.job().state(); }
};

Jobs::Jobs(JobsOptions options, Changed changed)
    : options_(std::move(options)), changed_(std::move(changed)) {
  fs::create_directories(options_.state / "jobs");
  load();
  thread_ = std::thread([this] { run(); });
}

Jobs::~Jobs() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

fs::path Jobs::folder(const Entry& entry) const {
  return options_.state / "jobs" / entry.stored.job().id();
}

void Jobs::save(const Entry& entry) const {
  fs::create_directories(folder(entry));
  results::write(folder(entry) / "job.json", entry.stored);
}

void Jobs::load() {
  std::error_code error;
  for (fs::directory_iterator it(options_.state / "jobs", error), end; !error && it != end;
       it.increment(error)) {
    auto entry = std::make_unique<Entry>();
    if (!results::read_if_intact(it->path() / "job.json", entry->stored)) continue;
    if (entry->stored.job().id() != it->path().filename()) continue;
    entries_.push_back(std::move(entry));
  }
  entries_.sort([](const auto& a, const auto& b) {
    return a->stored.job().created() < b->stored.job().created();
  });
  std::vector<long> orphans;
  for (auto& entry : entries_) {
    if (entry->state() != "running" && entry->state() != "queued") continue;
    const long pid = entry->stored.pid();
    if (pid > 1 && !entry->stored.process_start().empty() &&
        start_of(pid) == entry->stored.process_start()) {
      ::kill(static_cast<pid_t>(pid), SIGTERM);
      orphans.push_back(pid);
    }
    change(*entry, "interrupted", "the studio ended while it was at work");
  }
  for (int i = 0; i < 50; ++i) {  // a run folder is locked until they have gone
    std::erase_if(orphans, [](long pid) { return start_of(pid).empty(); });
    if (orphans.empty()) break;
    std::this_thread::sleep_for(milliseconds(100));
  }
  for (const long pid : orphans) ::kill(static_cast<pid_t>(pid), SIGKILL);
}

void Jobs::change(Entry& entry, const std::string& state, const std::string& reason) {
  studio::Job& job = entry.job();
  job.set_state(state);
  job.clear_reason();
  if (!reason.empty()) job.set_reason(reason);
  try {
    save(entry);
  } catch (const Error& error) {  // a full disk: the list in memory still holds
    job.set_reason(error.what());
  }
  changed_(job);
}

Jobs::Entry& Jobs::find(const std::string& id) {
  const auto found =
      std::ranges::find(entries_, id, [](const auto& e) { return e->stored.job().id(); });
  if (found == entries_.end()) throw Refusal(404, "there is no such job", "job");
  return **found;
}

studio::Job Jobs::submit(const studio::JobRequest& request, const JobPlan& plan) {
  std::lock_guard lock(mutex_);
  for (auto& entry : entries_) {
    const auto& before = entry->stored.arguments();
    if (!unfinished(entry->state()) || !std::ranges::equal(before, plan.arguments)) continue;
    if (entry->state() == "paused" || entry->state() == "interrupted") {
      change(*entry, "queued");
      wake_.notify_all();
    }
    return entry->stored.job();
  }
  std::error_code error;
  const fs::space_info space = fs::space(options_.state, error);
  if (!error && space.available < options_.least_free_bytes) {
    throw Refusal(507,
                  fmt::format("the disk has {:.0f} MB left, a job may need {:.0f} MB",
                              1e-6 * static_cast<double>(space.available),
                              1e-6 * static_cast<double>(options_.least_free_bytes)),
                  "disk", "delete run folders that nobody needs");
  }
  auto entry = std::make_unique<Entry>();
  const uint64_t id = secure_random();
  studio::Job& job = entry->job();
  job.set_id(to_hex({reinterpret_cast<const char*>(&id), sizeof id}));
  job.set_title(plan.title);
  job.set_created(now());
  if (!plan.run.empty()) job.set_run(plan.run);
  if (!plan.group.empty()) job.set_group(plan.group);
  std::vector<std::string> words{"ensembler"};
  for (const std::string& argument : plan.arguments) words.push_back(shell_quoted(argument));
  job.set_command(public_command(join(words, " ")));
  *entry->stored.mutable_request() = request;
  for (const std::string& argument : plan.arguments) entry->stored.add_arguments(argument);
  entry->stored.set_out(plan.out.string());
  Entry& added = *entries_.emplace_back(std::move(entry));
  change(added, "queued");
  size_t ended = static_cast<size_t>(
      std::ranges::count_if(entries_, [](const auto& e) { return !unfinished(e->state()); }));
  for (auto it = entries_.begin(); it != entries_.end() && ended > kEnded;) {
    if (unfinished((*it)->state())) {
      ++it;
      continue;
    }
    fs::remove_all(folder(**it), error);
    it = entries_.erase(it);
    --ended;
  }
  wake_.notify_all();
  return added.stored.job();
}

studio::JobList Jobs::list() const {
  std::lock_guard lock(mutex_);
  studio::JobList out;
  out.set_read_only(false);
  for (auto it = entries_.rbegin(); it != entries_.rend(); ++it)
    *out.add_jobs() = (*it)->stored.job();
  return out;
}

studio::Job Jobs::get(const std::string& id) const {
  std::lock_guard lock(mutex_);
  Entry& entry = const_cast<Jobs*>(this)->find(id);
  studio::Job job = entry.stored.job();
  std::vector<std::string> lines;
  for (std::string& line : split_text(tail_of(folder(entry) / "log.txt", kLogBytes), '\n')) {
    if (!line.starts_with("{\"label\"")) lines.push_back(std::move(line));
  }
  for (size_t i = lines.size() > kLogLines ? lines.size() - kLogLines : 0; i < lines.size(); ++i)
    job.add_log(lines[i]);
  return job;
}

studio::Job Jobs::cancel(const std::string& id) {
  std::lock_guard lock(mutex_);
  Entry& entry = find(id);
  if (!unfinished(entry.state()))
    throw Refusal(409, "the job has ended: it is " + entry.state(), "job");
  if (entry.process) {
    entry.stopping = "cancelled";
    entry.kill_at = std::chrono::steady_clock::now() + kPatience;
    entry.process->signal(SIGTERM);
  } else {
    entry.job().set_ended(now());
    change(entry, "cancelled");
  }
  return entry.stored.job();
}

studio::Job Jobs::pause(const std::string& id) {
  std::lock_guard lock(mutex_);
  Entry& entry = find(id);
  if (entry.process) {
    if (entry.stopping.empty()) {
      entry.stopping = "paused";
      entry.kill_at = std::chrono::steady_clock::now() + kPatience;
      entry.process->signal(SIGTERM);
    }
  } else if (entry.state() == "queued") {
    change(entry, "paused");
  } else {
    throw Refusal(409, "the job does not run: it is " + entry.state(), "job");
  }
  return entry.stored.job();
}

studio::Job Jobs::resume(const std::string& id) {
  std::lock_guard lock(mutex_);
  Entry& entry = find(id);
  if (entry.process || (entry.state() != "paused" && entry.state() != "interrupted" &&
                        entry.state() != "failed" && entry.state() != "cancelled"))
    throw Refusal(409, "the job cannot be resumed: it is " + entry.state(), "job");
  entry.job().clear_ended();
  change(entry, "queued");
  wake_.notify_all();
  return entry.stored.job();
}

void Jobs::start_next() {
  const auto active =
      std::ranges::count_if(entries_, [](const auto& e) { return e->process != nullptr; });
  if (active >= options_.parallel) return;
  const auto next = std::ranges::find_if(
      entries_, [](const auto& e) { return e->state() == "queued" && !e->process; });
  if (next == entries_.end()) return;
  Entry& entry = **next;
  std::vector<std::string> words{options_.program.string(), "--progress", "json"};
  words.insert(words.end(), entry.stored.arguments().begin(), entry.stored.arguments().end());
  const fs::path log = folder(entry) / "log.txt";
  entry.log_read = file_stamp(log).size;
  entry.job().clear_progress();
  entry.job().set_started(now());
  try {
    entry.process = std::make_unique<Process>(
        words, Process::Options{.out_file = (folder(entry) / "output.txt").string(),
                                .err_file = log.string(),
                                .err_append = true,
                                .no_input = true,
                                .own_group = true});
    entry.stored.set_pid(static_cast<int>(entry.process->pid()));
    entry.stored.set_process_start(start_of(entry.process->pid()));
    change(entry, "running");
  } catch (const Error& error) {
    entry.process.reset();
    entry.job().set_ended(now());
    change(entry, "failed", error.what());
  }
}

// What the command has said since, and whether it has ended.
void Jobs::poll(Entry& entry) {
  const bool running = entry.process->running();
  const fs::path log = folder(entry) / "log.txt";
  std::string last_line;
  bool progressed = false;
  std::ifstream in(log, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(entry.log_read));
  for (std::string line; std::getline(in, line);) {
    if (in.eof()) break;  // half a line: it is read again
    entry.log_read += line.size() + 1;
    if (studio::Progress progress; line.starts_with("{\"label\"") && [&] {
          std::string why;
          return results::from_json(line, progress, why);
        }()) {
      *entry.job().mutable_progress() = progress;
      progressed = true;
    } else if (!trimmed(line).empty()) {
      last_line = line;
    }
  }
  if (running) {
    if (!entry.stopping.empty() && std::chrono::steady_clock::now() > entry.kill_at)
      entry.process->signal(SIGKILL);
    if (progressed) changed_(entry.stored.job());
    return;
  }
  const int code = entry.process->wait();
  entry.process.reset();
  std::string stopping = std::exchange(entry.stopping, "");
  if (over_ && stopping.empty()) stopping = "interrupted";  // by who ends the server, perhaps
  if (code == 0) {
    entry.job().set_ended(now());
    change(entry, "done");
  } else if (!stopping.empty()) {
    if (stopping == "cancelled") entry.job().set_ended(now());
    change(entry, stopping,
           stopping == "interrupted" ? "the studio ended while it was at work" : "");
  } else {
    entry.job().set_ended(now());
    change(entry, "failed",
           last_line.empty() ? fmt::format("it ended with exit code {}", code) : last_line);
  }
}

void Jobs::run() {
  unpin_this_thread();
  std::unique_lock lock(mutex_);
  for (;;) {
    bool active = false;
    for (auto& entry : entries_) {
      if (entry->process) poll(*entry);
      if (entry->process && over_ && entry->stopping.empty()) {
        entry->stopping = "interrupted";
        entry->kill_at = std::chrono::steady_clock::now() + kPatience;
        entry->process->signal(SIGTERM);
      }
      active = active || entry->process;
    }
    if (over_ && !active) return;
    if (!over_) start_next();
    active = std::ranges::any_of(entries_, [](const auto& e) { return e->process != nullptr; });
    if (active) {
      wake_.wait_for(lock, over_ ? milliseconds(20) : kPoll);
    } else {
      wake_.wait(lock, [&] {
        return over_ ||
               std::ranges::any_of(entries_, [](const auto& e) { return e->state() == "queued"; });
      });
    }
  }
}

}  // namespace ens
