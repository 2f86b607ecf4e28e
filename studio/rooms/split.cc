// SPDX-License-Identifier: Apache-2.0
// Split inference: one test picture through a trained run, and the trained runs beside it.
#include <algorithm>
#include <cmath>
#include <list>
#include <map>
#include <mutex>
#include <set>

#include "experiment/run_dir.h"
#include "lab/datasets.h"
#include "lab/split_trace.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"
#include "report/certificate.h"
#include "report/data.h"
#include "studio/newest.h"
#include "studio/room.h"
#include "studio/views.h"

namespace ens {
namespace {

constexpr int kChannels = 16;      // of a feature that are shown
constexpr size_t kTracers = 4;     // runs in memory
constexpr double kMostNoise = 10;  // sigma: times the trained one, and at least up to 1

// Grey images in a grid, each from its darkest to its brightest value, with a line between them.
Tensor grid(const float* values, int count, int height, int width) {
  const int columns = static_cast<int>(std::ceil(std::sqrt(count)));
  const int rows = (count + columns - 1) / columns;
  const int64_t wide = int64_t{columns} * (width + 1) - 1, high = int64_t{rows} * (height + 1) - 1;
  Tensor out = Tensor::empty({1, high, wide});
  std::ranges::fill(out.span<float>(), 0.5f);
  float* pixels = out.data<float>();
  for (int i = 0; i < count; ++i) {
    const float* from = values + int64_t{i} * height * width;
    const auto [low, high_value] = std::minmax_element(from, from + int64_t{height} * width);
    const float base = *low, range = std::max(*high_value - base, 1e-6f);
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const int64_t at = (int64_t{i / columns} * (height + 1) + y) * wide +
                           int64_t{i % columns} * (width + 1) + x;
        pixels[at] = (from[y * width + x] - base) / range;
      }
    }
  }
  return out;
}

// Any feature of one image: its first channels, or, of a vector, its elements as one square.
Tensor picture_of(const float* values, const Shape& shape) {
  if (shape.rank() == 3) {
    return grid(values, static_cast<int>(std::min<int64_t>(shape[0], kChannels)),
                static_cast<int>(shape[1]), static_cast<int>(shape[2]));
  }
  const auto count = static_cast<int>(shape.numel());
  const int width = static_cast<int>(std::ceil(std::sqrt(count)));
  std::vector<float> square(
      static_cast<size_t>(width) * static_cast<size_t>((count + width - 1) / width),
      *std::min_element(values, values + count));
  std::copy(values, values + count, square.begin());
  return grid(square.data(), 1, static_cast<int>(square.size()) / width, width);
}

std::string text_of(const Shape& shape) {
  std::string out;
  for (const int64_t d : shape.dims()) out += (out.empty() ? "" : "x") + std::to_string(d);
  return out;
}

class SplitRoom final : public Room {
 public:
  explicit SplitRoom(const RoomServices& services) : services_(services) {}
  const char* name() const override { return "split"; }
  const char* title() const override { return "Split inference"; }

  void add_routes(Site& site) override {
    site.get("split/*", [this](const Site::Call& call) {
      const auto snapshot = services_.index.snapshot();
      return json_reply(view(find_run(*snapshot, call.ids[0]), *snapshot));
    });
    site.get("split/*/live", [this](const Site::Call& call) {
      const bool ask = !services_.cloud.address.empty();
      return json_reply(live(call.ids[0], /*start=*/ask));
    });
    site.post("split/*/live", [this](const Site::Call& call) {
      if (!services_.jobs)
        throw Refusal(403, "this studio is read-only", "cloud", "start one without --read-only");
      return json_reply(live(call.ids[0], /*start=*/true), 201);
    });
    site.remove("split/*/live", [this](const Site::Call& call) {
      std::lock_guard lock(live_mutex_);
      if (call.ids[0] == live_run_) live_.reset();
      return json_reply(studio::LiveView());
    });
    site.post("split/trace", [this](const Site::Call& call) {
      studio::TraceRequest request;
      call.read(request);
      return json_reply(trace(request));
    });
  }

 private:
  struct Loaded {
    std::string id;
    FileStamp edge, cloud;
    double sigma = 0;  // trained
    std::unique_ptr<SplitTracer> tracer;
    std::shared_ptr<const Dataset> images;
  };

  // The run's networks and test images, from memory if they have not changed. With the mutex.
  Loaded& load(const Index::Run& run) {
    const FileStamp edge = file_stamp(run.folder / "edge.h5"),
                    cloud = file_stamp(run.folder / "cloud.h5");
    for (auto it = loaded_.begin(); it != loaded_.end(); ++it) {
      if (it->id != run.entry.id()) continue;
      if (it->edge != edge || it->cloud != cloud) {
        loaded_.erase(it);
        break;
      }
      loaded_.splice(loaded_.begin(), loaded_, it);
      return loaded_.front();
    }
    const RunConfig config = read_run_config(run.folder);
    Loaded next{run.entry.id(), edge, cloud, config.ensemble().sigma(), nullptr, nullptr};
    next.tracer = std::make_unique<SplitTracer>(run.folder);
    next.images = shared_dataset(config, DataPart::kTest);
    loaded_.push_front(std::move(next));
    if (loaded_.size() > kTracers) loaded_.pop_back();
    return loaded_.front();
  }

  studio::SplitRun view(const Index::Run& run, const Index::Snapshot& snapshot) {
    if (run.entry.status() != "finished")
      throw Refusal(409, "the run is " + run.entry.status(), "run", "choose a finished one");
    studio::SplitRun out;
    *out.mutable_entry() = run.entry;
    const studio::RunView all = run_view(run, services_.index, services_.pictures);
    *out.mutable_attacks() = all.attacks();
    if (all.has_certificate()) {
      *out.mutable_certificate() = all.certificate();
      out.set_certificate_text(all.certificate_text());
    }
    const results::RunSummary& s = all.summary();
    out.set_nets(s.nets());
    out.set_selected(s.selected());
    if (s.has_sigma()) out.set_sigma(s.sigma());
    if (s.has_lambda()) out.set_lambda(s.lambda());
    add_neighbours(run, snapshot, out);
    std::lock_guard lock(mutex_);
    try {
      const Loaded& loaded = load(run);
      const BundleInfo& info = loaded.tracer->info();
      for (const CellInfo& cell : describe_cells(info.model)) {
        auto& c = *out.add_cells();
        c.set_name(cell.name);
        c.set_output(text_of(cell.output));
        c.set_flops(static_cast<double>(cell.flops));
        c.set_parameters(static_cast<double>(cell.parameters));
      }
      add_places(info, s, out);
      out.set_images(static_cast<int>(loaded.images->count()));
      for (const std::string& name : loaded.tracer->class_names()) out.add_class_names(name);
      out.set_can_vary_sigma(loaded.tracer->has_noise() && loaded.sigma > 0);
    } catch (const std::exception& error) {
      out.set_unavailable(error.what());
    }
    return out;
  }

  // One cloud at a time: that of the run that was asked for last.
  studio::LiveView live(const std::string& id, bool start) {
    studio::LiveView out;
    std::lock_guard lock(live_mutex_);
    if (!live_ || live_run_ != id) {
      const auto snapshot = services_.index.snapshot();
      const Index::Run& run = find_run(*snapshot, id);
      if (!start) return out;
      if (run.entry.status() != "finished" || !run.entry.has_head())
        throw Refusal(409, "only a finished run of split inference can be served", "run");
      Tensor image;
      {
        std::lock_guard images(mutex_);
        image = picture(load(run), 0);
      }
      live_.reset();
      live_ = std::make_unique<LiveCloud>(run.folder, services_.cloud, image);
      live_run_ = id;
    }
    const LiveCloud::View view = live_->view();
    out.set_running(true);
    out.set_own(view.own);
    out.set_answers(view.answers);
    if (view.age >= 0) out.set_age(view.age);
    if (!view.problem.empty()) out.set_problem(view.problem);
    if (view.answers == 0) return out;
    for (const auto& [name, part] : {std::pair("edge", view.edge),
                                     {"wire", view.wire},
                                     {"queue", view.queue},
                                     {"compute", view.compute},
                                     {"total", view.total}}) {
      auto& p = *out.add_parts();
      p.set_name(name);
      p.set_p50(part.p50);
      p.set_p95(part.p95);
    }
    return out;
  }

  static Tensor picture(const Loaded& loaded, int64_t index) {
    const Dataset& data = *loaded.images;
    return images_of(data, index, 1).reshape({data.channels, data.height, data.width});
  }

  // Trained runs of the same sweep or folder that differ in one setting.
  void add_neighbours(const Index::Run& run, const Index::Snapshot& snapshot,
                      studio::SplitRun& out) const {
    const Index::Group* group = snapshot.group(run.entry.group());
    if (!group) return;
    const report::ReportData all = report::collect({group->folder}, report::Detail::kNumbers);
    const auto self = std::ranges::find(all.runs, run.folder, &report::Run::folder);
    if (self == all.runs.end()) return;
    const std::set<std::string> split = {"model.head_cells", "model.tail_cells"};
    for (const report::Run& other : all.runs) {
      if (report::identity(other, split) != report::identity(*self, split)) continue;
      if (!other.get("split.head")) continue;
      auto& place = *out.add_places();
      place.set_head(static_cast<int>(*other.get("split.head")));
      place.set_tail(static_cast<int>(other.get("split.tail").value_or(1)));
      place.set_run(services_.index.id_of(other.folder));
      if (const auto accuracy = other.get("accuracy")) place.set_accuracy(*accuracy);
      if (const report::Attack* oracle = other.attack("oracle")) place.set_ssim(oracle->ssim());
    }
    for (const char* path :
         {"ensemble.nets", "ensemble.selected", "ensemble.lambda", "ensemble.sigma"}) {
      std::set<double> seen;
      std::vector<studio::SplitRun::Stop> stops;
      for (const report::Run& other : all.runs) {
        if (report::identity(other, {path}) != report::identity(*self, {path})) continue;
        const auto value = other.get(std::string(path).substr(9).c_str());
        if (!value || !seen.insert(*value).second) continue;
        studio::SplitRun::Stop& stop = stops.emplace_back();
        stop.set_path(path);
        stop.set_label(report::path_label(path));
        stop.set_value(*value);
        stop.set_run(services_.index.id_of(&other == &*self ? self->folder : other.folder));
      }
      if (stops.size() < 2) continue;
      std::ranges::sort(stops, {}, &studio::SplitRun::Stop::value);
      for (auto& stop : stops) *out.add_stops() = std::move(stop);
    }
  }

  // What every possible split costs; those that were trained are there already.
  static void add_places(const BundleInfo& info, const results::RunSummary& s,
                         studio::SplitRun& out) {
    const auto cells = static_cast<int>(describe_cells(info.model).size());
    for (int h = 1; h + 1 < cells; ++h) {
      for (int t = 1; h + t < cells; ++t) {
        const SplitCost cost = split_cost(info.model, {h, t}, std::max(1, s.selected()));
        auto found = std::ranges::find_if(
            *out.mutable_places(), [&](const auto& p) { return p.head() == h && p.tail() == t; });
        studio::SplitRun::Place& place =
            found == out.mutable_places()->end() ? *out.add_places() : *found;
        place.set_head(h);
        place.set_tail(t);
        place.set_bytes_up(static_cast<double>(cost.sent.numel() * 4));
        place.set_bytes_down(static_cast<double>(cost.body_output.numel() * 4 * info.nets));
        place.set_edge_flops(static_cast<double>(cost.edge_flops));
        place.set_cloud_flops(static_cast<double>(cost.body_flops * info.nets));
      }
    }
  }

  studio::Trace trace(const studio::TraceRequest& request) {
    const Newest::Ticket ticket = newest_.take(request.visitor());
    const auto snapshot = services_.index.snapshot();
    const Index::Run& run = find_run(*snapshot, request.run());
    if (run.entry.status() != "finished") throw Refusal(409, "the run is not finished", "run");
    std::lock_guard lock(mutex_);
    newest_.check(ticket, "trace");
    Loaded& loaded = load(run);
    const int image = request.image();
    if (image < 0 || image >= loaded.images->count())
      throw Refusal(400, "there is no such picture", "image",
                    "0 to " + std::to_string(loaded.images->count() - 1));
    double noise = 1;
    if (request.has_sigma()) {
      const double most = std::max(1.0, kMostNoise * loaded.sigma);
      if (!std::isfinite(request.sigma()) || request.sigma() < 0 || request.sigma() > most)
        throw Refusal(400, "not a number from 0 to " + std::to_string(most), "sigma");
      if (!loaded.tracer->has_noise() || loaded.sigma <= 0)
        throw Refusal(409, "this protection has no noise to change", "sigma");
      noise = request.sigma() / loaded.sigma;
    }
    const Dataset& data = *loaded.images;
    const Tensor pixels = picture(loaded, image);
    return describe(loaded, pixels, data.labels[static_cast<size_t>(image)],
                    loaded.tracer->trace(pixels, noise));
  }

  std::string add(const Tensor& image) {
    const std::vector<uint8_t> png = encode_png(image);
    return services_.pictures.add({reinterpret_cast<const char*>(png.data()), png.size()});
  }

  studio::Trace describe(const Loaded& loaded, const Tensor& image, int label,
                         const SplitTrace& trace) {
    studio::Trace out;
    const Shape& sent = trace.sent.shape();
    out.set_image(add(image));
    // What the edge alone has, and what its difference to what is sent tells, is for its owner.
    if (services_.local) out.set_clean(add(picture_of(trace.clean.data<float>(), sent)));
    out.set_sent(add(picture_of(trace.sent.data<float>(), sent)));
    out.set_feature_shape(text_of(sent));
    out.set_channels(static_cast<int>(sent[0]));
    out.set_shown_channels(
        static_cast<int>(sent.rank() == 3 ? std::min<int64_t>(sent[0], kChannels) : sent[0]));
    const auto nets = static_cast<int64_t>(trace.body_ms.size());
    out.set_bytes_up(static_cast<double>(sent.numel() * 4));
    out.set_bytes_down(static_cast<double>(trace.outputs.numel() * 4));
    out.set_dtype("float32");
    // [N, 1, ...]
    const Shape answer(trace.outputs.shape().dims().subspan(2));
    for (int64_t i = 0; i < nets; ++i) {
      auto& body = *out.add_bodies();
      body.set_picture(add(picture_of(trace.outputs.data<float>() + i * answer.numel(), answer)));
      body.set_shape(text_of(answer));
      body.set_milliseconds(trace.body_ms[static_cast<size_t>(i)]);
      out.set_cloud_ms(out.cloud_ms() + body.milliseconds());
    }
    for (size_t i = 0; i < std::min<size_t>(5, trace.probabilities.size()); ++i) {
      auto& a = *out.add_answers();
      a.set_name(trace.probabilities[i].first);
      a.set_probability(trace.probabilities[i].second);
    }
    if (const auto& names = loaded.tracer->class_names(); static_cast<size_t>(label) < names.size())
      out.set_label(names[static_cast<size_t>(label)]);
    out.set_edge_ms(trace.edge_ms);
    out.set_tail_ms(trace.tail_ms);
    if (services_.local) {
      double variance = 0, mean = 0, noise = 0;
      const auto clean = trace.clean.span<float>(), noisy = trace.sent.span<float>();
      for (const float v : noisy) mean += v;
      mean /= static_cast<double>(noisy.size());
      for (size_t i = 0; i < noisy.size(); ++i) {
        variance += (noisy[i] - mean) * (noisy[i] - mean);
        noise += static_cast<double>(noisy[i] - clean[i]) * (noisy[i] - clean[i]);
      }
      if (variance > 0) out.set_noise_share(std::min(1.0, noise / variance));
    }
    return out;
  }

  const RoomServices services_;
  std::mutex mutex_;          // one picture at a time
  std::list<Loaded> loaded_;  // the last used first
  Newest newest_;
  std::mutex live_mutex_;
  std::string live_run_;
  std::unique_ptr<LiveCloud> live_;
};

}  // namespace

std::unique_ptr<Room> make_split_room(const RoomServices& services) {
  return std::make_unique<SplitRoom>(services);
}

}  // namespace ens
