// SPDX-License-Identifier: Apache-2.0
// Tensor for Python: the buffer protocol and DLPack, both without a copy.
#include <array>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "nn/core/backend.h"
#include "nn/core/tensor.h"
#include "python/src/call.h"
#include "python/src/rooms.h"

namespace ens::python {
namespace {

// ---- the buffer protocol

const char* format_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return "f";
    case Dtype::kF16:
      return "e";
    case Dtype::kU8:
      return "B";
    case Dtype::kI8:
      return "b";
    case Dtype::kI32:
      return "i";
    default:
      return nullptr;
  }
}

Dtype dtype_of_format(const std::string& format) {
  if (format == "f") return Dtype::kF32;
  if (format == "e") return Dtype::kF16;
  if (format == "B" || format == "?") return Dtype::kU8;
  if (format == "b") return Dtype::kI8;
  if (format == "i" || (format == "l" && sizeof(long) == 4)) return Dtype::kI32;
  throw py::type_error("arrays of dtype '" + format +
                       "' are no tensors here; use float32, float16, uint8, int8 or int32");
}

// Why others cannot see the memory of `t` as it is; empty if they can.
std::string not_shared(const Tensor& t) {
  if (t.device() != Device{}) return "the tensor is on " + t.device().str() + "; call .cpu()";
  if (t.layout() != Layout::kPlain) {
    return std::string("the tensor's layout is ") + name(t.layout()) + "; call .plain()";
  }
  return "";
}

struct Extent {
  std::vector<Py_ssize_t> shape, strides;
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  view->obj = nullptr;
  try {
    const Tensor& t = py::handle(self).cast<const Tensor&>();
    std::string reason = not_shared(t);
    const char* format = format_of(t.dtype());
    if (!format) {
      reason = std::string("numpy has no ") + name(t.dtype()) + "; call .float()";
    }
    if (!reason.empty()) {
      PyErr_SetString(PyExc_BufferError, reason.c_str());
      return -1;
    }
    auto extent = std::make_unique<Extent>();
    auto stride = static_cast<Py_ssize_t>(t.bytes());
    for (const int64_t dim : t.shape().dims()) {
      extent->shape.push_back(dim);
      stride = dim > 0 ? stride / dim : static_cast<Py_ssize_t>(size_of(t.dtype()));
      extent->strides.push_back(stride);
    }
    view->buf = t.raw();
    view->len = static_cast<Py_ssize_t>(t.bytes());
    view->itemsize = static_cast<Py_ssize_t>(size_of(t.dtype()));
    view->readonly = 0;
    view->format = (flags & PyBUF_FORMAT) ? const_cast<char*>(format) : nullptr;
    view->ndim = t.rank();
    view->shape = (flags & PyBUF_ND) ? extent->shape.data() : nullptr;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? extent->strides.data() : nullptr;
    view->suboffsets = nullptr;
    view->internal = extent.release();
    view->obj = py::handle(self).inc_ref().ptr();  // and with it the memory
    return 0;
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_BufferError, e.what());
    return -1;
  }
}

void release_buffer(PyObject*, Py_buffer* view) { delete static_cast<Extent*>(view->internal); }

Shape shape_of(std::span<const Py_ssize_t> dims) {
  if (dims.size() > Shape::kMaxRank) {
    throw py::value_error("arrays of more than " + std::to_string(Shape::kMaxRank) + " dimensions");
  }
  return Shape(std::vector<int64_t>(dims.begin(), dims.end()));
}

// A tensor over the memory of an array that is contiguous and may be written; it keeps the array.
Tensor from_buffer(const py::object& array) {
  auto* view = new Py_buffer;
  if (PyObject_GetBuffer(array.ptr(), view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) != 0) {
    delete view;
    throw py::error_already_set();
  }
  const std::shared_ptr<void> owner(view, [](void* held) {
    const py::gil_scoped_acquire acquire;
    PyBuffer_Release(static_cast<Py_buffer*>(held));
    delete static_cast<Py_buffer*>(held);
  });
  if (view->readonly) throw py::buffer_error("the array is read-only; copy it");
  const Dtype dtype = dtype_of_format(view->format ? view->format : "B");
  return Tensor::wrap(view->buf, shape_of({view->shape, static_cast<size_t>(view->ndim)}), dtype,
                      owner);
}

// ---- DLPack (dmlc/dlpack, dlpack.h): the structures of versions 0 and 1

struct DLDevice {
  int32_t type, index;
};
struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};
constexpr int32_t kDlCpu = 1, kDlCuda = 2;
constexpr const char *kName = "dltensor", *kVersioned = "dltensor_versioned";

std::optional<DLDataType> dl_type(Dtype dtype) {
  const auto bits = static_cast<uint8_t>(8 * size_of(dtype));
  switch (dtype) {
    case Dtype::kI8:
    case Dtype::kI32:
      return DLDataType{0, bits, 1};
    case Dtype::kU8:
      return DLDataType{1, bits, 1};
    case Dtype::kF32:
    case Dtype::kF16:
      return DLDataType{2, bits, 1};
    case Dtype::kBF16:
      return DLDataType{4, bits, 1};
    default:
      return std::nullopt;
  }
}

DLDevice dl_device(const Tensor& t) {
  return {t.device().type == Device::Type::kCpu ? kDlCpu : kDlCuda, t.device().index};
}

// What a consumer holds, of either version.
template <typename Managed>
struct Exported {
  Managed managed{};
  Tensor tensor;
  std::array<int64_t, Shape::kMaxRank> shape{}, strides{};
};

template <typename Managed>
void delete_exported(Managed* managed) {
  delete static_cast<Exported<Managed>*>(managed->context);
}

template <typename Managed>
void delete_capsule(PyObject* capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule, name)) return;  // consumed
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  managed->deleter(managed);
}

template <typename Managed>
py::capsule export_as(const Tensor& t, const char* name, PyCapsule_Destructor destructor) {
  auto out = std::make_unique<Exported<Managed>>();
  out->tensor = t;
  int64_t stride = 1;
  for (int axis = t.rank() - 1; axis >= 0; --axis) {
    out->shape[static_cast<size_t>(axis)] = t.dim(axis);
    out->strides[static_cast<size_t>(axis)] = stride;
    stride *= t.dim(axis);
  }
  out->managed.tensor = {t.raw(),           dl_device(t),        t.rank(), *dl_type(t.dtype()),
                         out->shape.data(), out->strides.data(), 0};
  out->managed.context = out.get();
  out->managed.deleter = delete_exported<Managed>;
  if constexpr (requires { out->managed.major; }) out->managed.major = 1;
  PyObject* capsule = PyCapsule_New(&out->managed, name, destructor);
  if (!capsule) throw py::error_already_set();
  out.release();
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::capsule to_dlpack(const Tensor& t, const py::object& stream, const py::object& max_version,
                      const py::object& device, const py::object& copy) {
  if (t.layout() != Layout::kPlain) {
    throw py::buffer_error(std::string("the tensor's layout is ") + name(t.layout()) +
                           "; call .plain()");
  }
  if (!dl_type(t.dtype())) {
    throw py::buffer_error(std::string("DLPack has no ") + name(t.dtype()) + "; call .float()");
  }
  const DLDevice own = dl_device(t);
  if (!device.is_none() &&
      device.cast<std::pair<int32_t, int32_t>>() != std::pair(own.type, own.index)) {
    throw py::buffer_error("the tensor is on " + t.device().str() + "; call .cpu()");
  }
  if (own.type == kDlCpu && !stream.is_none()) throw py::buffer_error("a CPU tensor has no stream");
  Tensor shared = t;
  if (!copy.is_none() && copy.cast<bool>()) {
    shared = run_for(py::none(), [t](std::stop_token) { return t.clone(); });
  }
  // Work of ours ends before a tensor is handed out, so that every consumer's stream may read it.
  if (!max_version.is_none() && max_version.cast<std::pair<int, int>>().first >= 1) {
    return export_as<DLManagedTensorVersioned>(shared, kVersioned, [](PyObject* capsule) {
      delete_capsule<DLManagedTensorVersioned>(capsule, kVersioned);
    });
  }
  return export_as<DLManagedTensor>(
      shared, kName, [](PyObject* capsule) { delete_capsule<DLManagedTensor>(capsule, kName); });
}

Dtype dtype_from(const DLDataType& type) {
  for (const Dtype dtype :
       {Dtype::kF32, Dtype::kF16, Dtype::kBF16, Dtype::kU8, Dtype::kI8, Dtype::kI32}) {
    const DLDataType ours = *dl_type(dtype);
    if (ours.code == type.code && ours.bits == type.bits && type.lanes == 1) return dtype;
  }
  throw py::type_error(
      "a dtype of " + std::to_string(type.bits) +
      " bits that is no tensor here; use float32, float16, bfloat16, uint8, int8 or int32");
}

template <typename Managed>
Tensor import_as(const py::capsule& capsule, const char* name, const char* used) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (!managed) throw py::error_already_set();
  const DLTensor& dl = managed->tensor;
  if (dl.device.type != kDlCpu) {
    throw py::buffer_error("the array is not in the CPU's memory; copy it there, as by .cpu()");
  }
  if (dl.ndim < 0) throw py::buffer_error("an array of negative rank");
  std::vector<Py_ssize_t> dims;
  int64_t stride = 1;
  for (int32_t axis = 0; axis < dl.ndim; ++axis) dims.push_back(dl.shape[axis]);
  const Shape shape = shape_of(dims);
  for (int axis = shape.rank() - 1; dl.strides && axis >= 0; --axis) {
    if (shape[axis] > 1 && dl.strides[axis] != stride) {
      throw py::buffer_error("the array is not contiguous; copy it, as by .contiguous()");
    }
    stride *= shape[axis];
  }
  const Dtype dtype = dtype_from(dl.dtype);
  PyCapsule_SetName(capsule.ptr(), used);  // from here on it is ours to delete
  const std::shared_ptr<void> owner(managed, [](void* held) {
    const py::gil_scoped_acquire acquire;
    auto* m = static_cast<Managed*>(held);
    if (m->deleter) m->deleter(m);
  });
  return Tensor::wrap(static_cast<std::byte*>(dl.data) + dl.byte_offset, shape, dtype, owner);
}

Tensor from_dlpack(const py::object& array) {
  const auto capsule = array.attr("__dlpack__")().cast<py::capsule>();
  if (PyCapsule_IsValid(capsule.ptr(), kVersioned)) {
    return import_as<DLManagedTensorVersioned>(capsule, kVersioned, "used_dltensor_versioned");
  }
  return import_as<DLManagedTensor>(capsule, kName, "used_dltensor");
}

py::tuple shape_tuple(const Tensor& t) {
  py::tuple shape(t.rank());
  for (int axis = 0; axis < t.rank(); ++axis) shape[static_cast<size_t>(axis)] = t.dim(axis);
  return shape;
}

}  // namespace

void register_tensors(py::module_& m) {
  py::class_<Tensor> tensor(m, "Tensor", py::buffer_protocol());
  // By hand: pybind11's lets no exception out of a buffer that cannot be had.
  auto* type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
  type->tp_as_buffer->bf_getbuffer = get_buffer;
  type->tp_as_buffer->bf_releasebuffer = release_buffer;
  tensor.def_property_readonly("shape", shape_tuple)
      .def_property_readonly("dtype", [](const Tensor& t) { return name(t.dtype()); })
      .def_property_readonly("device", [](const Tensor& t) { return t.device().str(); })
      .def_property_readonly("layout", [](const Tensor& t) { return name(t.layout()); })
      .def_property_readonly("data_ptr",
                             [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.raw()); })
      .def("float",
           [](const Tensor& t) {
             return run_for(py::none(), [t](std::stop_token) { return t.to(Dtype::kF32); });
           })
      .def("cpu",
           [](const Tensor& t) {
             return run_for(py::none(), [t](std::stop_token) { return t.to(Device{}); });
           })
      .def("plain",
           [](const Tensor& t) {
             return run_for(py::none(), [t](std::stop_token) { return t.plain(); });
           })
      .def("__dlpack__", to_dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const Tensor& t) { return std::pair(dl_device(t).type, dl_device(t).index); })
      .def("__len__",
           [](const Tensor& t) {
             if (t.rank() == 0) throw py::type_error("a scalar has no length");
             return t.dim(0);
           })
      .def("__repr__",
           [](const Tensor& t) {
             return "<Tensor " + t.shape().str() + " " + name(t.dtype()) + " on " +
                    t.device().str() + ">";
           })
      .def("__reduce__", [](const Tensor&) -> py::object {
        throw py::type_error("a Tensor is not pickled; pickle numpy.asarray(tensor)");
      });
  m.def("from_buffer", from_buffer);
  m.def("from_dlpack", from_dlpack);
}

}  // namespace ens::python
