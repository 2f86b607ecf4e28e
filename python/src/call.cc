// SPDX-License-Identifier: Apache-2.0
#include "python/src/call.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/notice.h"
#include "base/progress.h"
#include "base/threads.h"

namespace ens::python {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{50};  // for signals and progress

std::atomic<bool> g_used{false}, g_forked{false};

// Threads that are not waited for may outlive the interpreter: nothing here is destroyed.
struct Running {
  std::mutex mutex;
  std::condition_variable ended;
  int count = 0;
  std::deque<std::string> notices;
};
Running& running() {
  static auto* r = new Running;
  return *r;
}

struct Job {
  std::mutex mutex;
  std::condition_variable ended;
  std::stop_source stop;
  bool done = false;
  std::exception_ptr error;
  std::string label, note;
  int64_t units = 0, total = 0;
  bool changed = false;

  void tell(const ProgressStep& step) {
    {
      const std::lock_guard lock(mutex);
      if (!step.label.empty()) {
        if (step.label != label) label = step.label, units = 0, note.clear();
        units += step.units;
        total = step.total;
        if (!step.note.empty()) note = step.note;
        changed = true;
      }
    }
    if (stop.stop_requested()) throw Stopped();
  }
};

void work_on(const std::shared_ptr<Job>& job, const std::function<void(std::stop_token)>& work) {
  std::exception_ptr error;
  try {
    const ProgressCapture capture([job](const ProgressStep& step) { job->tell(step); });
    pin_compute_threads();
    work(job->stop.get_token());
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(job->mutex);
  job->error = error;
  job->done = true;
  job->ended.notify_all();
}

void log_notices() {
  std::deque<std::string> lines;
  {
    const std::lock_guard lock(running().mutex);
    lines.swap(running().notices);
  }
  for (const std::string& line : lines) {
    py::module_::import("logging").attr("getLogger")("ensembler").attr("warning")("%s", line);
  }
}

void show_progress(Job& job, const py::object& progress) {
  std::string label, note;
  int64_t units, total;
  {
    const std::lock_guard lock(job.mutex);
    if (!job.changed) return;
    job.changed = false;
    label = job.label, note = job.note, units = job.units, total = job.total;
  }
  if (!progress.is_none()) progress(label, units, total, note);
}

[[noreturn]] void raise(const char* function, const py::tuple& arguments) {
  const py::object error = py::module_::import("ensembler.errors").attr(function)(*arguments);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw py::error_already_set();
}

void translate(std::exception_ptr thrown) {
  const auto set = [](const char* function, const py::tuple& arguments) {
    try {
      raise(function, arguments);
    } catch (py::error_already_set& e) {
      e.restore();
    }
  };
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const Stopped&) {
    PyErr_SetNone(PyExc_KeyboardInterrupt);
  } catch (const Error& e) {
    set("from_error",
        py::make_tuple(e.kind() == Error::Kind::kUsage, e.problem(), e.where(), e.hint()));
  } catch (const std::filesystem::filesystem_error& e) {
    set("from_os", py::make_tuple(e.code().value(), e.code().message(), e.path1().string()));
  }
}

}  // namespace

bool forked() { return g_forked; }

void check_fork() {
  if (!g_forked) return;
  raise("from_error",
        py::make_tuple(false, "this process is a fork of one that has computed", "os.fork",
                       "start it with multiprocessing.get_context('spawn')"));
}

void run(const py::object& progress, std::function<void(std::stop_token)> work) {
  check_fork();
  g_used = true;
  const auto job = std::make_shared<Job>();
  {
    const std::lock_guard lock(running().mutex);
    ++running().count;
  }
  std::thread([job, work = std::move(work)]() mutable {
    work_on(job, work);
    work = nullptr;
    const std::lock_guard lock(running().mutex);
    --running().count;
    running().ended.notify_all();
  }).detach();
  std::optional<py::error_already_set> raised;
  for (bool done = false; !done;) {
    {
      const py::gil_scoped_release release;
      std::unique_lock lock(job->mutex);
      done = job->ended.wait_for(lock, kLook, [&] { return job->done; });
    }
    try {
      log_notices();
      if (!raised) show_progress(*job, progress);
      if (!done && PyErr_CheckSignals() != 0) throw py::error_already_set();
    } catch (py::error_already_set& e) {
      if (raised) throw;  // the second time: at once
      raised.emplace(std::move(e));
      job->stop.request_stop();
    }
  }
  if (raised) throw std::move(*raised);
  if (job->error) std::rethrow_exception(job->error);
}

void wait_for_abandoned_calls() {
  if (g_forked) return;  // they run in the parent
  const py::gil_scoped_release release;
  std::unique_lock lock(running().mutex);
  running().ended.wait(lock, [] { return running().count == 0; });
}

std::shared_ptr<py::object> shared(py::object object) {
  return {new py::object(std::move(object)), [](py::object* held) {
            const py::gil_scoped_acquire acquire;
            delete held;
          }};
}

void raise_for(const Status& status) {
  if (status.ok()) return;
  raise("from_status", py::make_tuple(name(status.code), status.message));
}

void register_calls(py::module_& m) {
  py::register_local_exception_translator(translate);
  pthread_atfork(nullptr, nullptr, [] {
    if (g_used) g_forked = true;
  });
  set_notice_listener([](const std::string& line) {
    const std::lock_guard lock(running().mutex);
    running().notices.push_back(line);
  });
  m.def("wait_for_abandoned_calls", wait_for_abandoned_calls);
}

}  // namespace ens::python
