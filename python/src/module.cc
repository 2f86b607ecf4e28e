// SPDX-License-Identifier: Apache-2.0
// ensembler._native: the rooms of this folder. ENS_PYTHON_EDGE: those of a small device alone.
#include "include/ensembler/version.h"
#include "python/src/call.h"
#include "python/src/rooms.h"

PYBIND11_MODULE(_native, m) {
  m.attr("version") = ENSEMBLER_VERSION;
  ens::python::register_calls(m);
  ens::python::register_tensors(m);
  ens::python::register_edge(m);
#ifndef ENS_PYTHON_EDGE
  ens::python::register_config(m);
  ens::python::register_data(m);
  ens::python::register_nets(m);
  ens::python::register_runs(m);
  ens::python::register_attacks(m);
#endif
}
