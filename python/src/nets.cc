// SPDX-License-Identifier: Apache-2.0
// A network's weights in and out, under torchvision's names.
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/strings.h"
#include "lab/exchange.h"
#include "nn/autograd/var.h"
#include "nn/io/safetensors.h"
#include "nn/models/model.h"
#include "nn/models/torchvision.h"
#include "python/src/call.h"
#include "python/src/rooms.h"

namespace ens::python {
namespace {

using Weights = std::map<std::string, Tensor>;

// A checked classifier, frozen.
struct Net {
  ModelSpec spec;
  WeightsFile file;
  std::shared_ptr<Sequential> cells;
};

std::shared_ptr<Net> make_net(ModelSpec spec, Weights weights, const std::string& source) {
  auto net = std::make_shared<Net>();
  net->spec = std::move(spec);
  std::map<std::string, Tensor> given;
  for (const NamedTensor& entry : from_torchvision(net->spec, weights, source)) {
    given[entry.name] = entry.tensor;
  }
  Rng rng = Rng::blank();
  net->cells = build_cells(net->spec, 0, static_cast<int>(cell_names(net->spec).size()), rng);
  std::vector<NamedTensor> state = net->cells->state();  // the images' normalisation stays
  for (NamedTensor& entry : state) {
    if (const auto found = given.find(entry.name); found != given.end())
      entry.tensor = found->second;
  }
  net->cells->load_state(state, source);
  net->cells->freeze();
  const std::string bytes = safetensors_bytes(weights);
  net->file = {source, to_hex(sha256(bytes.data(), bytes.size())), std::move(weights)};
  return net;
}

Tensor forward(const Net& net, const Tensor& images) {
  const NoGrad no_grad;
  const Shape one = net.spec.input_shape();
  if (images.rank() != 4 || images.shape() != batched(images.dim(0), one)) {
    usage_fail("images " + images.shape().str(), "images", "give [B, " + one.str().substr(1));
  }
  return net.cells->forward(Var(images)).value().to(Dtype::kF32).plain();
}

}  // namespace

void register_nets(py::module_& m) {
  py::class_<Net, std::shared_ptr<Net>>(m, "Net")
      .def(py::init([](const std::string& architecture, int width, int classes, int channels,
                       int image_size, bool stem_pool, int stem_kernel, int hidden,
                       const std::vector<float>& mean, const std::vector<float>& stddev,
                       const Weights& weights, const std::string& source) {
             ModelSpec spec;
             spec.architecture = architecture;
             spec.width = width;
             spec.classes = classes;
             spec.channels = channels;
             spec.image_size = image_size;
             spec.stem_pool = stem_pool;
             spec.stem_kernel = stem_kernel;
             spec.hidden = hidden;
             spec.mean = mean;
             spec.stddev = stddev;
             return run_for(py::none(), [spec, weights, source](std::stop_token) {
               return make_net(spec, weights, source);
             });
           }),
           py::kw_only(), py::arg("architecture"), py::arg("width"), py::arg("classes"),
           py::arg("channels"), py::arg("image_size"), py::arg("stem_pool"), py::arg("stem_kernel"),
           py::arg("hidden"), py::arg("mean"), py::arg("stddev"), py::arg("weights"),
           py::arg("source"))
      .def("forward",
           [](const std::shared_ptr<Net>& net, const Tensor& images) {
             return run_for(py::none(),
                            [net, images](std::stop_token) { return forward(*net, images); });
           })
      .def("state",
           [](const std::shared_ptr<Net>& net) {
             return run_for(py::none(), [net](std::stop_token) {
               return to_torchvision(net->spec, net->cells->state(), net->file.file);
             });
           })
      .def_property_readonly("file", [](const Net& net) { return net.file; })
      .def("cells", [](const Net& net) { return cell_names(net.spec); });
  py::class_<WeightsFile>(m, "WeightsFile").def_readonly("sha256", &WeightsFile::sha256);
  m.def("read_safetensors", [](const std::string& file) {
    return run_for(py::none(), [file](std::stop_token) { return read_safetensors(file); });
  });
  m.def("write_safetensors", [](const std::string& file, const Weights& weights, bool secret) {
    run(py::none(),
        [file, weights, secret](std::stop_token) { write_safetensors(file, weights, secret); });
  });
}

}  // namespace ens::python
