// SPDX-License-Identifier: Apache-2.0
#include "text/body/cloud_bundle.h"

#include "base/error.h"
#include "base/strings.h"

namespace ens {
namespace {

constexpr const char* kCloud = "text cloud";

}  // namespace

void put_module(Checkpoint& c, const std::string& prefix, const Module& module) {
  for (const NamedTensor& t : module.state()) c.tensors[prefix + t.name] = t.tensor;
}

void load_module(const Checkpoint& c, const std::string& prefix, Module& module) {
  std::vector<NamedTensor> state;
  for (const auto& [name, tensor] : c.tensors) {
    if (name.starts_with(prefix)) state.push_back({name.substr(prefix.size()), tensor});
  }
  module.load_state(state, c.file);
  module.freeze();
}

int number_in(const Checkpoint& c, const std::string& name, int64_t low, int64_t high) {
  const int64_t value = c.number(name);
  if (value < low || value > high) {
    fail("'" + name + "' = " + std::to_string(value) + " is out of range", c.file,
         "the file is damaged");
  }
  return static_cast<int>(value);
}

void write_text_cloud(const std::filesystem::path& file,
                      const std::vector<std::shared_ptr<Seq2Seq>>& nets) {
  Checkpoint c;
  c.kind = kCloud;
  const Seq2SeqSpec& spec = nets.at(0)->spec();
  c.numbers = {{"nets", std::ssize(nets)},
               {"width", spec.width},
               {"heads", spec.heads},
               {"feed_forward", spec.hidden},
               {"encoder_layers", spec.encoder_layers},
               {"decoder_layers", spec.decoder_layers},
               {"norm_first", spec.norm_first},
               {"gelu", spec.activation == UnaryOp::kGelu}};
  for (size_t i = 0; i < nets.size(); ++i) put_module(c, "net" + std::to_string(i) + "/", *nets[i]);
  write_checkpoint(file, c, /*secret=*/false);
}

TextCloudBundle read_text_cloud(const std::filesystem::path& file) {
  const Checkpoint c = read_checkpoint(file, kCloud);
  Seq2SeqSpec spec;
  spec.width = number_in(c, "width", 1, 16384);
  spec.heads = number_in(c, "heads", 1, 1024);
  spec.hidden = number_in(c, "feed_forward", 1, 65536);
  spec.encoder_layers = number_in(c, "encoder_layers", 0, 100);
  spec.decoder_layers = number_in(c, "decoder_layers", 1, 100);
  spec.norm_first = c.number("norm_first") != 0;
  spec.activation = c.number("gelu") != 0 ? UnaryOp::kGelu : UnaryOp::kRelu;
  TextCloudBundle bundle;
  Rng blank = Rng::blank();
  const int nets = number_in(c, "nets", 1, 256);
  for (int i = 0; i < nets; ++i) {
    const auto net = std::make_shared<Seq2Seq>(spec, blank);
    load_module(c, "net" + std::to_string(i) + "/", *net);
    bundle.nets.push_back(net);
  }
  bundle.fingerprint = to_hex(digest(c.tensors));
  return bundle;
}

}  // namespace ens
