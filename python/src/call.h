// SPDX-License-Identifier: Apache-2.0
// How Python calls what takes time: on a thread of its own, without the GIL, with progress, Ctrl-C
// and an end. And how our errors become Python's.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <stop_token>
#include <utility>

#include "proto/status.h"

namespace ens::python {

namespace py = pybind11;

// In a child of fork(), if anything was computed before: EnsemblerError. GNU OpenMP and CUDA do not
// survive it.
void check_fork();
// Whether this is such a child: threads that others wait for are not in it.
bool forked();

// Runs `work` on a thread of its own and waits for it. The calling thread holds the GIL, gives it
// up while it waits, looks for signals, and calls progress(label, done, total, note) at most 20
// times a second unless it is None. What a signal handler or `progress` raises requests a stop, is
// raised when `work` has ended, and at a second signal at once: `work` then ends by itself, and
// must own what it uses. It must not touch Python objects.
void run(const py::object& progress, std::function<void(std::stop_token)> work);

template <typename F>
auto run_for(const py::object& progress, F f) {
  const auto result = std::make_shared<decltype(f(std::stop_token()))>();
  run(progress, [result, f = std::move(f)](std::stop_token stop) { *result = f(stop); });
  return std::move(*result);
}

// Waits, without the GIL, for calls that were left to end by themselves.
void wait_for_abandoned_calls();

// A Python object that threads without the GIL may copy and drop.
std::shared_ptr<py::object> shared(py::object object);

// Raises the exception of ensembler.errors that `status` means; OK raises nothing.
void raise_for(const Status& status);

// Our exceptions as Python's in this module's functions, and what every module needs.
void register_calls(py::module_& m);

}  // namespace ens::python
