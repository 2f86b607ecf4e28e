// SPDX-License-Identifier: Apache-2.0
// The edge: an EdgeStream whose results are waited for, or taken when a file descriptor says so.
#include <pybind11/stl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "edge/stream.h"
#include "nn/data/image.h"
#include "proto/config.h"
#include "python/src/call.h"
#include "python/src/rooms.h"

namespace ens::python {
namespace {

using Outcome = Result<Classified>;

py::dict to_dict(const Classified& c) {
  py::list top;
  for (const auto& image : c.top) {
    py::list ranked;
    for (const Ranked& r : image) ranked.append(py::make_tuple(r.index, r.label, r.probability));
    top.append(ranked);
  }
  py::dict times;
  times["total_ms"] = c.times.total_ms;
  times["head_ms"] = c.times.head_ms;
  times["wire_ms"] = c.times.wire_ms;
  times["queue_ms"] = c.times.cloud_queue_ms;
  times["compute_ms"] = c.times.cloud_compute_ms;
  times["tail_ms"] = c.times.tail_ms;
  times["bytes_sent"] = c.times.bytes_sent;
  times["bytes_received"] = c.times.bytes_received;
  times["rounds"] = c.times.rounds;
  py::dict out;
  out["top"] = top;
  out["logits"] = c.logits;
  out["times"] = times;
  out["warnings"] = c.warnings;
  return out;
}

// Results that wait to be taken, with a descriptor that is readable while there are any.
struct Completed {
  Fd event{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::pair<int64_t, Outcome>> outcomes;

  void add(int64_t id, Outcome outcome) {
    const std::lock_guard lock(mutex);
    outcomes.emplace_back(id, std::move(outcome));
    eventfd_write(event.get(), 1);
  }
};

class Edge {
 public:
  Edge(const std::string& text, const std::vector<std::string>& settings) {
    EdgeConfig config;
    parse_config(text, "config", config);
    apply_overrides(settings, config);
    complete(config);
    static constexpr int64_t kNoWindow = int64_t{1} << 40;  // submit() must not block an event loop
    stream_ = run_for(py::none(), [config](std::stop_token) {
      return std::make_shared<EdgeStream>(config, kNoWindow);
    });
  }
  ~Edge() { close(); }

  void close() {
    auto stream = std::move(stream_);
    if (!stream) return;
    if (forked()) {  // its threads, and what they have locked, stayed in the parent: it is left
      new std::shared_ptr(std::move(stream));
      return;
    }
    const py::gil_scoped_release release;
    stream->cancel();
    stream.reset();
  }

  py::dict classify(const Tensor& images) {
    struct Wait {
      std::mutex mutex;
      std::condition_variable ended;
      std::optional<Outcome> outcome;
    };
    const auto wait = std::make_shared<Wait>();
    send(images, [wait](Outcome outcome) {
      const std::lock_guard lock(wait->mutex);
      wait->outcome = std::move(outcome);
      wait->ended.notify_all();
    });
    for (bool done = false; !done;) {
      {
        const py::gil_scoped_release release;
        std::unique_lock lock(wait->mutex);
        done = wait->ended.wait_for(lock, std::chrono::milliseconds(50),
                                    [&] { return wait->outcome.has_value(); });
      }
      if (!done && PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    raise_for(wait->outcome->status);
    return to_dict(wait->outcome->value);
  }

  void submit(int64_t id, const Tensor& images) {
    send(images,
         [id, completed = completed_](Outcome outcome) { completed->add(id, std::move(outcome)); });
  }

  // (id, dictionary or exception) of each.
  py::list take() {
    std::vector<std::pair<int64_t, Outcome>> taken;
    {
      const std::lock_guard lock(completed_->mutex);
      taken.swap(completed_->outcomes);
      eventfd_t ignored;
      eventfd_read(completed_->event.get(), &ignored);
    }
    py::list out;
    for (const auto& [id, outcome] : taken) {
      py::object value;
      if (outcome.status.ok()) {
        value = to_dict(outcome.value);
      } else {
        value = py::module_::import("ensembler.errors")
                    .attr("from_status")(name(outcome.status.code), outcome.status.message);
      }
      out.append(py::make_tuple(id, value));
    }
    return out;
  }

  int event() const { return completed_->event.get(); }
  EdgeStream& open() {
    check_fork();
    if (!stream_) throw py::value_error("the client is closed");
    return *stream_;
  }

 private:
  void send(const Tensor& images, EdgeStream::Done done) {
    EdgeStream& stream = open();
    const auto held = stream_;  // another thread may close
    const py::gil_scoped_release release;
    stream.submit(images, std::move(done));
  }

  std::shared_ptr<EdgeStream> stream_;
  const std::shared_ptr<Completed> completed_ = std::make_shared<Completed>();
};

}  // namespace

void register_edge(py::module_& m) {
  py::class_<Edge>(m, "Edge")
      .def(py::init<const std::string&, const std::vector<std::string>&>())
      .def("close", &Edge::close)
      .def("classify", &Edge::classify)
      .def("submit", &Edge::submit)
      .def("take", &Edge::take)
      .def_property_readonly("event", &Edge::event)
      .def_property_readonly("image_shape",
                             [](Edge& e) {
                               const Shape one = e.open().info().model.input_shape();
                               return py::make_tuple(one[0], one[1], one[2]);
                             })
      .def_property_readonly("class_names", [](Edge& e) { return e.open().class_names(); })
      .def("read_image", [](Edge& e, const std::string& file) {
        const BundleInfo info = e.open().info();
        return run_for(py::none(), [info, file](std::stop_token) {
          const int side = info.model.image_size;
          return read_image(file, info.model.channels, side, side, false, info.fit_of_files());
        });
      });
}

}  // namespace ens::python
