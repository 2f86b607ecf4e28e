// SPDX-License-Identifier: Apache-2.0
// What each file of this folder adds to its module.
#pragma once

#include <pybind11/pybind11.h>

namespace ens::python {

void register_tensors(pybind11::module_& m);
void register_edge(pybind11::module_& m);
// Not in an edge alone.
void register_config(pybind11::module_& m);
void register_data(pybind11::module_& m);
void register_nets(pybind11::module_& m);
void register_runs(pybind11::module_& m);
void register_attacks(pybind11::module_& m);

}  // namespace ens::python
