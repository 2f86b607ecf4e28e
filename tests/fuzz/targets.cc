// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "ensemble/model/bundle_file.h"
#include "nn/io/safetensors.h"
#include "nn/models/torchvision.h"
#include "offload/wire/messages.h"
#include "offload/worker/jobs.h"
#include "proto/config.h"
#include "proto/results.h"
#include "proto/studio.pb.h"
#include "proto/tensor_codec.h"
#include "studio/site.h"

namespace ens::fuzz {
namespace {

// Two frames in one input: two bytes say how long the first is.
struct Frames {
  Frames(const uint8_t* data, size_t size) {
    if (size < 2) return;
    const size_t first = std::min<size_t>(size - 2, data[0] + 256u * data[1]);
    header.assign(reinterpret_cast<const char*>(data) + 2, first);
    tensor.assign(reinterpret_cast<const char*>(data) + 2 + first, size - 2 - first);
  }
  std::string header, tensor;
};

// What both sides do with a tensor. A claim that passes must be true.
void take_tensor(const wire::TensorInfo& info, const std::string& frame, int rank, Scales scales) {
  constexpr int64_t kLimit = 256;
  Shape shape;
  Dtype dtype;
  if (!check_tensor(info, frame.size(), rank, kLimit, shape, dtype, scales).ok()) return;
  if (static_cast<size_t>(shape.numel()) * size_of(dtype) != frame.size()) std::abort();
  Tensor values = Tensor::empty(shape);
  decode(info, frame.data(), values, scales);
  if (!all_finite(values)) return;
  const Encoded again = encode(values, info.dtype(), scales);
  if (again.frame.bytes() != frame.size()) std::abort();
}

template <typename Config>
void take_config(const std::string& text) {
  Config config;
  try {
    parse_config(text, "fuzz", config);
    complete(config);
    Config again;  // what was accepted reads back as itself
    parse_config(to_text(config), "again", again);
    if (to_text(again) != to_text(config)) std::abort();
  } catch (const Error&) {
  }
  try {
    Config overridden;
    apply_overrides({text}, overridden);
  } catch (const Error&) {
  }
}

}  // namespace

void request(const uint8_t* data, size_t size) {
  const Frames frames(data, size);
  wire::Request request;
  if (!request.ParseFromString(frames.header)) return;
  take_tensor(request.tensor(), frames.tensor, 4, Scales::kChannels);
}

void reply(const uint8_t* data, size_t size) {
  const Frames frames(data, size);
  wire::Reply reply;
  if (!reply.ParseFromString(frames.header)) return;
  (void)code_from_wire(reply.code());
  take_tensor(reply.tensor(), frames.tensor, 3, Scales::kRows);
}

void worker(const uint8_t* data, size_t size) {
  static Jobs& jobs = *[] {
    auto* made = new Jobs(Device{}, 1 << 20, {});
    const struct {
      Shape weight;
      ConvSpec spec;
    } layers[] = {{{2, 3}, {}},
                  {{2, 2, 3, 3}, {.padding = 1}},
                  {{2, 2, 3, 3}, {.stride = 2, .padding = 1}},
                  {{4, 1, 3, 2}, {.padding = 2, .dilation = 2, .groups = 2}},
                  {{3, 2, 1, 1}, {.stride = 2}}};
    for (const auto& l : layers) {
      const Int8Layer layer{Tensor::full(l.weight, 1, Dtype::kI8), l.spec};
      offload::Request load;
      load.set_version(kOffloadVersion);
      load.set_kind(offload::Request::LOAD);
      *load.mutable_layer() = describe(layer);
      const std::string header = load.SerializeAsString();
      if (made->reply(std::as_bytes(std::span(header)), std::as_bytes(layer.weight.span<int8_t>()),
                      2)
              .header.code() != 0) {
        std::abort();
      }
    }
    return made;
  }();
  const Frames frames(data, size);
  const JobReply reply =
      jobs.reply(std::as_bytes(std::span(frames.header)), std::as_bytes(std::span(frames.tensor)),
                 frames.tensor.empty() ? 1 : 2);
  if (reply.header.version() != kOffloadVersion ||
      (reply.header.code() != 0 && reply.tensor.defined()))
    std::abort();
}

void config(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  take_config<RunConfig>(text);
  take_config<CloudConfig>(text);
  take_config<EdgeConfig>(text);
  take_config<WorkerConfig>(text);
}

void bundle(const uint8_t* data, size_t size) {
  // The file as it is: the checksum in front keeps damage from HDF5.
  const int file = ::memfd_create("bundle", MFD_CLOEXEC);
  if (file < 0 || ::write(file, data, size) != static_cast<ssize_t>(size)) std::abort();
  try {
    (void)read_cloud_bundle("/proc/self/fd/" + std::to_string(file));
  } catch (const Error&) {
  }
  ::close(file);

  // Behind the checksum: "name=value" lines as the facts of a bundle somebody made on purpose.
  Checkpoint checkpoint;
  checkpoint.file = "fuzz";
  std::string name, value, *into = &name;
  for (size_t i = 0; i <= size; ++i) {
    if (i == size || data[i] == '\n') {
      checkpoint.texts[name] = value;
      checkpoint.numbers[name] = std::strtoll(value.c_str(), nullptr, 10);
      name.clear(), value.clear(), into = &name;
    } else if (data[i] == '=' && into == &name) {
      into = &value;
    } else {
      into->push_back(static_cast<char>(data[i]));
    }
  }
  try {
    const BundleInfo info = bundle_file::get_info(checkpoint);
    if (smashed_shape(info.model, info.split).numel() < 1) std::abort();
    (void)body_output_shape(info.model, info.split);
  } catch (const Error&) {
  }
}

void safetensors(const uint8_t* data, size_t size) {
  std::map<std::string, Tensor> tensors;
  try {
    tensors = parse_safetensors({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
    return;
  }
  size_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor.bytes();
  if (bytes > size) std::abort();
  for (const char* architecture : {"resnet18", "vgg16"}) {
    ModelSpec spec;
    spec.architecture = architecture;
    spec.width = 1;
    spec.classes = 2;
    try {
      (void)from_torchvision(spec, tensors, "fuzz");
    } catch (const Error& error) {
      if (std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
    }
  }
}

void studio(const uint8_t* data, size_t size) {
  static Site* site = [] {
    auto* s = new Site({.token = std::string(64, 'a'),
                        .hosts = {"h:1"},
                        .cookie = "c",
                        .files = {{"/index.html", "text/html", "page"}}});
    const auto echo = [](const Site::Call& call) {
      ens::studio::JobRequest job;
      call.read(job);
      ens::studio::TraceRequest trace;
      try {
        call.read(trace);
      } catch (const Refusal&) {
      }
      return json_reply(job);
    };
    s->get("runs/*", [](const Site::Call& call) { return HttpReply{.body = call.ids.at(0)}; });
    s->get("runs/*/curve",
           [](const Site::Call& call) { return HttpReply{.body = call.ids.at(0)}; });
    s->post("jobs", echo);
    s->remove("jobs/*", echo);
    return s;
  }();
  const std::string text(reinterpret_cast<const char*>(data), size);
  HttpRequest request;
  size_t at = 0;
  const auto line = [&] {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string out = text.substr(at, end - at);
    at = std::min(end + 1, text.size());
    return out;
  };
  const std::string first = line();
  const size_t space = std::min(first.find(' '), first.size());
  request.method = first.substr(0, space);
  request.path = first.substr(std::min(space + 1, first.size()));
  if (const size_t mark = request.path.find('?'); mark != std::string::npos) {
    request.query.emplace_back("group", request.path.substr(mark + 1));
    request.path.resize(mark);
  }
  for (std::string header = line(); !header.empty(); header = line()) {
    const size_t colon = std::min(header.find(':'), header.size());
    request.headers.emplace_back(header.substr(0, colon),
                                 header.substr(std::min(colon + 1, header.size())));
  }
  request.body = text.substr(at);
  // Whoever knows no cookie sees pages, refusals and nothing else.
  const HttpReply reply = (*site)(request);
  if (request.path.starts_with("/api/") && reply.status < 400 && reply.status != 204 &&
      text.find("c=") == std::string::npos) {
    std::abort();
  }
  ens::studio::JobRequest job;
  std::string why;
  if (results::from_json(request.body, job, why)) {  // what was understood reads back as itself
    ens::studio::JobRequest again;
    if (!results::from_json(results::to_json(job, false), again, why)) std::abort();
  }
}

}  // namespace ens::fuzz
