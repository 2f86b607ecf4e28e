// SPDX-License-Identifier: Apache-2.0
// Data sets, and images as files.
#include <fmt/format.h>
#include <pybind11/stl.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "nn/data/dataset.h"
#include "nn/data/image.h"
#include "nn/data/loader.h"
#include "python/src/call.h"
#include "python/src/rooms.h"

namespace ens::python {
namespace {

using Shared = std::shared_ptr<const Dataset>;

Shared from_arrays(const Tensor& pixels, const Tensor& labels, std::vector<std::string> classes,
                   const std::string& name) {
  if (pixels.rank() != 4 || labels.rank() != 1 || labels.dim(0) != pixels.dim(0)) {
    usage_fail("shapes " + pixels.shape().str() + " and " + labels.shape().str(), name,
               "give images [N, channels, H, W] and labels [N]");
  }
  auto data = std::make_shared<Dataset>();
  data->name = name;
  data->channels = static_cast<int>(pixels.dim(1));
  data->height = static_cast<int>(pixels.dim(2));
  data->width = static_cast<int>(pixels.dim(3));
  const auto bytes = pixels.span<uint8_t>();
  data->pixels.assign(bytes.begin(), bytes.end());
  const auto numbers = labels.span<int32_t>();
  data->labels.assign(numbers.begin(), numbers.end());
  for (const int32_t label : data->labels) {
    if (label < 0 || label >= std::ssize(classes)) {
      usage_fail(
          "label " + std::to_string(label) + " of " + std::to_string(classes.size()) + " classes",
          name, "labels count from 0");
    }
  }
  data->class_names = std::move(classes);
  return data;
}

}  // namespace

void register_data(py::module_& m) {
  py::class_<Dataset, std::shared_ptr<Dataset>>(m, "Dataset")
      .def(py::init([](const Tensor& pixels, const Tensor& labels,
                       const std::vector<std::string>& classes, const std::string& name) {
        return std::const_pointer_cast<Dataset>(from_arrays(pixels, labels, classes, name));
      }))
      .def("__len__", &Dataset::count)
      .def_readonly("name", &Dataset::name)
      .def_readonly("classes", &Dataset::class_names)
      .def_property_readonly(
          "shape", [](const Dataset& d) { return py::make_tuple(d.channels, d.height, d.width); })
      .def_property_readonly("pixels",
                             [](const std::shared_ptr<Dataset>& d) {
                               return Tensor::wrap(d->pixels.data(),
                                                   {d->count(), d->channels, d->height, d->width},
                                                   Dtype::kU8, d);
                             })
      .def_property_readonly("labels", [](const std::shared_ptr<Dataset>& d) {
        return Tensor::wrap(d->labels.data(), {d->count()}, Dtype::kI32, d);
      });
  m.def("load_dataset", [](const std::string& name, const std::string& root, int image_size,
                           int64_t limit, uint64_t seed, bool test, const py::object& progress) {
    DataOptions options;
    options.name = name;
    options.root = root;
    options.image_size = image_size;
    options.limit = limit;
    options.seed = seed;
    return run_for(progress, [options, test](std::stop_token) {
      return std::make_shared<Dataset>(
          load_dataset(options, test ? DataSplit::kTest : DataSplit::kTrain));
    });
  });
  // FOLDER/SPLIT000000.png, ...
  m.def("write_pngs", [](const std::shared_ptr<Dataset>& data, const std::string& folder,
                         const std::string& split) {
    run(py::none(), [=](std::stop_token stop) {
      for (int64_t i = 0; i < data->count(); ++i) {
        if (stop.stop_requested()) throw Stopped();
        write_png(fmt::format("{}/{}{:06}.png", folder, split, i),
                  images_of(*data, i, 1).reshape({data->channels, data->height, data->width}));
      }
    });
  });
  m.def("encode_png", [](const Tensor& image, int zoom) {
    const auto bytes =
        run_for(py::none(), [=](std::stop_token) { return encode_png(image, zoom); });
    return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  m.def("read_image", [](const std::string& file, int channels) {
    return run_for(py::none(),
                   [file, channels](std::stop_token) { return read_image(file, channels, 0, 0); });
  });
}

}  // namespace ens::python
