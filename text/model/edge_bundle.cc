// SPDX-License-Identifier: Apache-2.0
#include "text/model/edge_bundle.h"

#include "base/error.h"
#include "nn/io/checkpoint.h"
#include "text/body/cloud_bundle.h"

namespace ens {
namespace {

constexpr const char* kEdge = "text edge";

}  // namespace

void write_text_edge(const std::filesystem::path& file, const TextEdgeBundle& bundle) {
  Checkpoint c;
  c.kind = kEdge;
  c.texts = {{"config", to_text(bundle.config)},
             {"tokeniser", bundle.source->kind()},
             {"source_vocabulary", bundle.source->bytes()},
             {"target_vocabulary", bundle.target->bytes()},
             {"fingerprint", bundle.fingerprint}};
  c.numbers = {{"nets", bundle.nets}};
  put_module(c, "head/", *bundle.head);
  put_module(c, "tail/", *bundle.tail);
  const std::vector<float> selected(bundle.selected.begin(), bundle.selected.end());
  c.tensors["selected"] = Tensor::from(selected, {std::ssize(selected)});
  c.tensors["fresh_sigma"] = Tensor::from({bundle.fresh_sigma}, {1});
  write_checkpoint(file, c, /*secret=*/true);
}

TextEdgeBundle read_text_edge(const std::filesystem::path& file) {
  const Checkpoint c = read_checkpoint(file, kEdge);
  TextEdgeBundle bundle;
  parse_config(c.text("config"), c.file, bundle.config);
  const std::string& kind = c.text("tokeniser");
  bundle.source = read_tokeniser(kind, c.text("source_vocabulary"), c.file);
  bundle.target = read_tokeniser(kind, c.text("target_vocabulary"), c.file);
  bundle.fingerprint = c.text("fingerprint");
  bundle.nets = number_in(c, "nets", 1, 256);
  for (const float i : c.tensor("selected").to_vector()) {
    if (!(i >= 0 && i < static_cast<float>(bundle.nets))) {
      fail("a selected net does not exist", c.file, "the file is damaged");
    }
    bundle.selected.push_back(static_cast<int>(i));
  }
  bundle.fresh_sigma = c.tensor("fresh_sigma").item();
  const TextSpec spec = text_spec(bundle.config, bundle.source->size(), bundle.target->size());
  Rng blank = Rng::blank();
  bundle.head = std::make_shared<TextHead>(spec, blank);
  load_module(c, "head/", *bundle.head);
  bundle.head->set_fresh_noise(bundle.fresh_sigma);
  bundle.tail = std::make_shared<TextTail>(spec, static_cast<int>(bundle.selected.size()),
                                           bundle.head->target_embedding(), blank);
  load_module(c, "tail/", *bundle.tail);
  return bundle;
}

bool is_text_edge(const std::filesystem::path& file) {
  return read_checkpoint(file, "").kind == kEdge;
}

}  // namespace ens
