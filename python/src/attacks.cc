// SPDX-License-Identifier: Apache-2.0
// Attacks on features that are given as arrays.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "lab/features.h"
#include "proto/config.h"
#include "proto/results.h"
#include "python/src/call.h"
#include "python/src/rooms.h"

namespace ens::python {

void register_attacks(py::module_& m) {
  m.def("feature_attacks", feature_attacks);
  m.def("attack_features", [](const Tensor& observed, const Tensor& truth, const py::object& pairs,
                              const Tensor& pair_features, const py::object& public_images,
                              const py::object& query, const std::vector<std::string>& attacks,
                              const RunConfig& config, const py::object& progress) {
    auto recorded = std::make_shared<RecordedFeatures>();
    recorded->observed = observed;
    recorded->truth = truth;
    recorded->pair_features = pair_features;
    if (!pairs.is_none()) recorded->pairs = pairs.cast<const Dataset&>();
    if (!public_images.is_none()) recorded->public_images = public_images.cast<const Dataset&>();
    // What `query` raises ends the attacks, and is what is raised here.
    const auto raised = std::make_shared<std::shared_ptr<py::error_already_set>>();
    if (!query.is_none()) {
      recorded->query = [query = shared(query), raised](const Tensor& images) {
        const Tensor plain = images.to(Device{}).to(Dtype::kF32).plain();
        const py::gil_scoped_acquire acquire;
        try {
          if (*raised) throw Stopped();
          return (*query)(plain).cast<Tensor>();
        } catch (py::error_already_set& e) {
          raised->reset(new py::error_already_set(std::move(e)), [](py::error_already_set* held) {
            const py::gil_scoped_acquire hold;
            delete held;
          });
          throw Stopped();
        }
      };
    }
    std::vector<FeatureAttack> all;
    try {
      all = run_for(progress,
                    [=](std::stop_token) { return attack_features(*recorded, attacks, config); });
    } catch (const Stopped&) {
      if (*raised) throw py::error_already_set(std::move(**raised));
      throw;
    }
    py::list out;
    for (const FeatureAttack& a : all) {
      out.append(py::make_tuple(results::to_json(a.result), a.reconstruction.defined()
                                                                ? py::cast(a.reconstruction)
                                                                : py::none()));
    }
    return out;
  });
}

}  // namespace ens::python
