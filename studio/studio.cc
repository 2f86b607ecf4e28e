// SPDX-License-Identifier: Apache-2.0
#include "studio/studio.h"

#include <algorithm>
#include <charconv>
#include <latch>
#include <optional>

#include "base/files.h"
#include "base/lock.h"
#include "base/strings.h"
#include "include/ensembler/version.h"
#include "nn/core/rng.h"
#include "proto/results.h"
#include "studio/hub.h"
#include "studio/index.h"
#include "studio/jobs.h"
#include "studio/own_pictures.h"
#include "studio/pictures.h"
#include "studio/plans.h"
#include "studio/room.h"
#include "studio/sets.h"
#include "studio/views.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTokenBytes = 32;
constexpr int kMostPoints = 5000, kMostRuns = 500;

// The same over restarts, so that an open page goes on; who may read the folder may sign in.
std::string token_of(const fs::path& state, bool read_only) {
  const fs::path file = state / "token";
  const std::string known = trimmed(read_file_if_there(file).value_or(""));
  if (known.size() == 2 * kTokenBytes) return known;
  const Seed seed = secure_seed();
  static_assert(sizeof seed == kTokenBytes);
  const std::string token = to_hex({reinterpret_cast<const char*>(&seed), kTokenBytes});
  if (!read_only) write_file_atomically(file, token + "\n", /*secret=*/true);
  return token;
}

int number_argument(const HttpRequest& request, const char* name, int otherwise, int most) {
  const std::string_view text = request.argument(name);
  if (text.empty()) return otherwise;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > most)
    throw Refusal(400, "not a number from 0 to " + std::to_string(most), name);
  return value;
}

[[noreturn]] void fail_without_pages() {
  fail("this program was built without the studio's pages", "studio",
       "install nodejs and npm and build again, or take a release");
}

}  // namespace

struct Studio::Impl {
  explicit Impl(const StudioOptions& o) : options(o), read_only(o.read_only) {
    std::error_code error;
    if (options.demo) fs::create_directories(options.runs, error);
    if (!fs::is_directory(options.runs, error))
      usage_fail("there is no such folder", options.runs.string(),
                 "train something first (ensembler train), or start with --demo");
    const fs::path state = options.runs / ".studio";
    if (!read_only) {
      fs::create_directories(state, error);
      if (error) {
        read_only = true;
        note = "read-only: " + state.string() + " cannot be made (" + error.message() + ")";
      } else {
        lock = FileLock::try_once(state / "LOCK");
        if (lock->taken()) {
          read_only = true;
          note = "read-only: another studio (process " + std::to_string(lock->owner()) +
                 ") works on " + options.runs.string();
        }
      }
    }
    if (options.token) token = token_of(state, read_only);
    sets.emplace(state);

    index.emplace(options.runs, [this] {
      studio::Event event;
      event.set_indexed(static_cast<double>(index->snapshot()->runs.size()));
      hub.publish(event);
    });
    if (!read_only) {
      jobs.emplace(
          JobsOptions{.program = options.program, .state = state, .parallel = options.jobs},
          [this](const studio::Job& job) {
            studio::Event event;
            *event.mutable_job() = job;
            hub.publish(event);
          });
      if (options.demo) start(demo_request());
    }
  }

  static studio::JobRequest demo_request() {
    studio::JobRequest request;
    request.set_kind(studio::JobRequest::DEMO);
    return request;
  }

  studio::Job start(const studio::JobRequest& request) {
    if (request.has_kind() && request.kind() == studio::JobRequest::DEMO) {
      studio::Job first;
      for (const JobPlan& plan : plan_demo(*index)) {
        const studio::Job job = jobs->submit(request, plan);
        if (first.id().empty()) first = job;
      }
      return first;
    }
    return jobs->submit(request, plan_job(request, *index, *sets));
  }

  Jobs& need_jobs() {
    if (!jobs)
      throw Refusal(403, "this studio is read-only", "jobs",
                    note.empty() ? "start one without --read-only" : note);
    return *jobs;
  }

  studio::State state_view() const {
    const auto snapshot = index->snapshot();
    studio::State state;
    state.set_version(ENSEMBLER_VERSION);
    state.set_read_only(read_only);
    if (!note.empty()) state.set_read_only_reason(note);
    state.set_demo(options.demo);
    for (const auto& room : rooms) {
      studio::Room& r = *state.add_rooms();
      r.set_name(room->name());
      r.set_title(room->title());
    }
    for (const Index::Group& group : snapshot->groups) *state.add_groups() = group.entry;
    state.set_runs(static_cast<int>(snapshot->runs.size()));
    state.set_damaged(snapshot->damaged);
    state.set_runs_folder(options.runs.string());
    state.set_indexed_ms(snapshot->milliseconds);
    return state;
  }

  studio::RunList runs_view(const HttpRequest& request) const {
    const auto snapshot = index->snapshot();
    const std::string_view group = request.argument("group");
    const int offset = number_argument(request, "offset", 0, 1 << 30);
    const int limit = number_argument(request, "limit", 100, kMostRuns);
    studio::RunList list;
    int n = 0;
    for (const Index::Run& run : snapshot->runs) {
      if (!group.empty() && group != kAllRuns && run.entry.group() != group) continue;
      if (n >= offset && n < offset + limit) *list.add_runs() = run.entry;
      ++n;
    }
    list.set_total(n);
    return list;
  }

  void add_routes(Site& to) {
    using Call = Site::Call;
    to.get("state", [this](const Call&) { return json_reply(state_view()); });
    to.get("runs", [this](const Call& call) { return json_reply(runs_view(call.request)); });
    to.get("runs/*", [this](const Call& call) {
      const auto snapshot = index->snapshot();
      return json_reply(run_view(find_run(*snapshot, call.ids[0]), *index, pictures));
    });
    to.get("runs/*/curve", [this](const Call& call) {
      const auto snapshot = index->snapshot();
      return json_reply(curves_view(find_run(*snapshot, call.ids[0]),
                                    std::string(call.request.argument("metric")),
                                    number_argument(call.request, "max", 2000, kMostPoints)));
    });
    to.get("pictures/*", [this](const Call& call) { return pictures.get(call.ids[0]); });
    to.get("events", [this](const Call& call) {
      std::string last(call.request.header("last-event-id"));
      if (last.empty()) last = call.request.argument("after");
      return hub.open(last);
    });
    to.get("jobs", [this](const Call&) {
      if (jobs) return json_reply(jobs->list());
      studio::JobList none;
      none.set_read_only(true);
      return json_reply(none);
    });
    to.get("jobs/*", [this](const Call& call) { return json_reply(need_jobs().get(call.ids[0])); });
    to.post("jobs", [this](const Call& call) {
      need_jobs();
      studio::JobRequest request;
      call.read(request);
      return json_reply(start(request), 201);
    });
    to.remove("jobs/*",
              [this](const Call& call) { return json_reply(need_jobs().cancel(call.ids[0])); });
    to.post("jobs/*/pause",
            [this](const Call& call) { return json_reply(need_jobs().pause(call.ids[0])); });
    to.post("jobs/*/resume",
            [this](const Call& call) { return json_reply(need_jobs().resume(call.ids[0])); });
    for (const auto& room : rooms) room->add_routes(to);
  }

  // The port is known once the server listens.
  void open_site() {
    const std::string port = std::to_string(server->port());
    const bool to_others = !server->loopback();
    // Behind a proxy everybody comes from this machine.
    if ((to_others || options.behind_proxy) && !options.token)
      usage_fail("without a token only this machine may be served", "studio",
                 "leave out --no-token");
    if (to_others && !options.behind_proxy)
      usage_fail("other machines would be served without encryption", "studio",
                 "let a proxy speak TLS and add --insecure-behind-proxy, or tunnel: ssh -L " +
                     port + ":127.0.0.1:" + port + " HOST");
    if (to_others && !options.web.empty())
      usage_fail("a folder of pages is served to this machine alone", "studio", "leave out --web");
    SiteOptions o;
    o.token = token;
    o.hosts = options.hosts;
    o.hosts.push_back(server->address());
    if (!to_others) {
      for (const char* name : {"127.0.0.1:", "localhost:", "[::1]:"})
        o.hosts.push_back(name + port);
    }
    o.cookie = "ens-studio-" + port;
    o.behind_proxy = options.behind_proxy;
    o.files = embedded_pages();
    if (!options.web.empty()) {
      o.serve_file = [web = options.web](const std::string& path) {
        return read_file(web / path.substr(1));  // only paths of pages that are known
      };
    }
    make_site(std::move(o), !to_others && !options.behind_proxy);
  }

  void make_site(SiteOptions o, bool local) {
    const RoomServices services{*index, pictures, hub, jobs ? &*jobs : nullptr, *sets, local};
    rooms.push_back(make_disguise_room(services));
    rooms.push_back(make_cloud_room(services));
    rooms.push_back(make_split_room(services));
    rooms.push_back(make_matrix_room(services));
    site.emplace(std::move(o));
    add_routes(*site);
  }

  const StudioOptions options;
  bool read_only;
  std::string token, note;
  std::optional<FileLock> lock;
  Hub hub;
  Pictures pictures;
  std::optional<Index> index;
  std::optional<Jobs> jobs;
  std::optional<DisguisedSets> sets;
  std::vector<std::unique_ptr<Room>> rooms;
  std::latch ready{1};
  std::optional<Site> site;
  std::optional<HttpServer> server;  // asks all of the above, so it is destroyed first
};

Studio::Studio(const StudioOptions& options) {
  if (embedded_pages().empty()) fail_without_pages();
  impl_ = std::make_unique<Impl>(options);
  Impl* impl = impl_.get();
  HttpLimits limits{.idle_seconds = 30,
                    .body_bytes = 1 << 20,
                    .body_bytes_of = {{"/api/v1/disguise/own", OwnPictureStore::kFileBytes}},
                    .threads = 4};
  // A proxy is one address for everybody.
  if (options.behind_proxy) limits.connections_of_one_address = limits.connections;
  impl->server.emplace(options.bind, limits, [impl](const HttpRequest& request) {
    impl->ready.wait();
    return impl->site ? (*impl->site)(request) : HttpReply{.status = 503};
  });
  const struct Open {  // also when something is refused below: nobody may wait for ever
    std::latch& ready;
    ~Open() { ready.count_down(); }
  } open{impl->ready};
  impl->open_site();
}

Studio::~Studio() = default;

namespace {

// The pages' own files, which find their data beside them.
void write_pages(const fs::path& out) {
  for (const SiteFile& file : embedded_pages()) {
    std::string bytes = file.bytes;
    if (file.path == "/index.html") {
      const auto replace = [&](const std::string& from, const std::string& to) {
        for (size_t at = 0; (at = bytes.find(from, at)) != std::string::npos; at += to.size())
          bytes.replace(at, from.size(), to);
      };
      replace("<html ", "<html data-static ");
      replace("=\"/", "=\"./");
      replace("<head>", "<head>\n<meta http-equiv=\"Content-Security-Policy\" content=\"" +
                            content_security_policy(/*framed=*/false) + "\">");
    }
    write_file_atomically(out / file.path.substr(1), bytes, /*secret=*/false);
  }
}

}  // namespace

void Studio::export_pages(const StudioOptions& from, const fs::path& out) {
  if (embedded_pages().empty()) fail_without_pages();
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_empty(out, error))
    usage_fail("the folder is not empty", out.string(), "name a new one, or empty it");
  StudioOptions options = from;
  options.read_only = true;
  options.token = options.demo = false;
  Impl impl(options);
  impl.note = "These pages were written by `ensembler studio export`: they show what was measured.";
  SiteOptions site;
  site.hosts = {"export"};
  impl.make_site(std::move(site), /*local=*/false);
  const auto write = [&](const std::string& name, const std::string& bytes) {
    fs::create_directories((out / "api/v1" / name).parent_path());
    write_file_atomically(out / "api/v1" / name, bytes, /*secret=*/false);
  };
  const auto save = [&](const std::string& path, const std::string& file,
                        std::vector<std::pair<std::string, std::string>> query = {}) {
    HttpRequest request{.method = "GET", .path = "/api/v1/" + path, .query = std::move(query)};
    request.headers = {{"host", "export"}};
    const HttpReply reply = (*impl.site)(request);
    if (reply.status == 200) write(file, reply.body);
  };
  fs::create_directories(out);
  write_pages(out);
  studio::State state = impl.state_view();
  for (int i = state.rooms_size() - 1; i >= 0; --i) {  // the others compute
    const std::string& room = state.rooms(i).name();
    if (room != "matrix" && room != "cloud") state.mutable_rooms()->DeleteSubrange(i, 1);
  }
  write("state.json", results::to_json(state, /*indented=*/false));
  save("jobs", "jobs.json");
  write("cloud.json", results::to_json(studio::TrainingChoices(), /*indented=*/false));
  const auto snapshot = impl.index->snapshot();
  studio::RunList runs;
  runs.set_total(static_cast<int>(snapshot->runs.size()));
  for (const Index::Run& run : snapshot->runs) {
    *runs.add_runs() = run.entry;
    const std::string id = run.entry.id();
    save("runs/" + id, "runs/" + id + ".json");
    save("runs/" + id + "/curve", "runs/" + id + "/curve.json");
  }
  write("runs.json", results::to_json(runs, /*indented=*/false));
  for (const Index::Group& group : snapshot->groups)
    save("matrix", "matrix-" + group.entry.id() + ".json", {{"group", group.entry.id()}});
  for (const std::string& id : impl.pictures.ids())
    save("pictures/" + id, "pictures/" + id + ".png");
}

std::string Studio::address() const {
  const std::string address = "http://" + impl_->server->address() + "/";
  return impl_->token.empty() ? address : address + "#token=" + impl_->token;
}

std::string Studio::note() const { return impl_->note; }

}  // namespace ens
