// SPDX-License-Identifier: Apache-2.0
#include "nn/core/backend.h"

#include <algorithm>
#include <charconv>
#include <mutex>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/notice.h"
#include "nn/core/graph.h"

namespace ens {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<std::unique_ptr<Backend>> installed;
  std::string (*find_devices)() = nullptr;
  std::once_flag found, said;
  std::string none = "this program does not use GPUs";  // why there is no CUDA device
};

Registry& registry() {
  static Registry* r = new Registry;  // never destroyed: tensors may outlive main()
  return *r;
}

Backend* find(Device device, bool any_index = false) {
  if (device.type == Device::Type::kCpu) {
    static Backend* cpu = make_cpu_backend().release();
    return cpu;
  }
  Registry& r = registry();
  if (r.find_devices) {
    std::call_once(r.found, [&] { r.none = r.find_devices(); });
  }
  std::lock_guard lock(r.mutex);
  for (auto& b : r.installed) {
    const Device d = b->device();
    if (any_index ? d.type == device.type : d == device) return b.get();
  }
  return nullptr;
}

}  // namespace

Backend& backend(Device device) {
  if (Backend* found = find(device)) return *found;
  if (has_backend(device.type)) {
    usage_fail("device " + device.str() + " is not there", "",
               "this machine's GPUs are counted from cuda:0");
  }
  usage_fail("device " + device.str() + " is not available: " + registry().none, "",
             "use --device cpu, or a build with CUDA on a machine with a GPU");
}

bool has_backend(Device::Type type) { return find({type, 0}, true) != nullptr; }

void install_backend(std::unique_ptr<Backend> b) {
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  r.installed.push_back(std::move(b));
}

void offer_devices(std::string (*find_them)()) { registry().find_devices = find_them; }

std::string Device::str() const {
  return type == Type::kCpu ? "cpu" : "cuda:" + std::to_string(index);
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "auto") {
    if (has_backend(Device::Type::kCuda)) return {Device::Type::kCuda, 0};
    Registry& r = registry();
    if (r.find_devices) {  // a program that could have used one
      std::call_once(r.said, [&] { notice("device auto: the CPU (" + r.none + ")"); });
    }
    return {};
  }
  if (text == "cuda" || text.starts_with("cuda:")) {
    Device device{Device::Type::kCuda, 0};
    if (text.size() > 5) {
      auto [end, error] = std::from_chars(text.data() + 5, text.data() + text.size(), device.index);
      if (error != std::errc() || end != text.data() + text.size() || device.index < 0) {
        usage_fail("bad device '" + std::string(text) + "'", "", "write cuda:0, cuda:1, ...");
      }
    }
    backend(device);  // throws if it is not there
    return device;
  }
  usage_fail("unknown device '" + std::string(text) + "'", "", "use auto, cpu, cuda or cuda:1");
}

std::vector<Device> parse_devices(std::string_view text) {
  std::vector<Device> devices;
  if (text == "cuda:all") {
    devices.push_back(parse_device("cuda:0"));
    for (Device next{Device::Type::kCuda, 1}; find(next); ++next.index) devices.push_back(next);
    return devices;
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    devices.push_back(parse_device(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  for (size_t i = 0; devices.size() > 1 && i < devices.size(); ++i) {
    if (devices[i].type == Device::Type::kCpu ||
        std::find(devices.begin(), devices.begin() + static_cast<std::ptrdiff_t>(i), devices[i]) !=
            devices.begin() + static_cast<std::ptrdiff_t>(i)) {
      usage_fail("bad devices '" + std::string(text) + "'", "",
                 "several devices are different GPUs: cuda:0,cuda:1");
    }
  }
  return devices;
}

std::string str(const std::vector<Device>& devices) {
  std::string text;
  for (const Device& d : devices) text += (text.empty() ? "" : ",") + d.str();
  return text;
}

Tensor Backend::prepare_conv_weight(const Tensor& w, Dtype) { return w; }
void Backend::prepare_conv_weights(std::span<const Tensor> from, std::span<Tensor> to) {
  for (size_t i = 0; i < from.size(); ++i) {
    if (to[i].raw() != from[i].raw()) to[i].copy_from(from[i]);
  }
}
Tensor Backend::crop(const Tensor&, const Tensor&) {
  fail("device " + device().str() + " does not crop images", "crop", "ask can_crop() first");
}
std::function<float()> Backend::item_later(const Tensor& t) {
  return [value = t.item()] { return value; };
}
std::unique_ptr<CapturedGraph> Backend::capture(const std::function<void()>&) { return nullptr; }

}  // namespace ens
