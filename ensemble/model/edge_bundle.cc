#include "ensemble/model/edge_bundle.h"

#include <algorithm>

#include "base/error.h"
#include "ensemble/model/bundle_file.h"

namespace ens {

using namespace bundle_file;

namespace {

constexpr const char* kNoise = "noise";            // only if there is one
constexpr const char* kProtection = "protection";  // fresh noise's sigma, dropout
constexpr const char* kSelector = "selector";

ProtectionSpec get_protection(const Checkpoint& checkpoint, const Shape& feature) {
  const Tensor& numbers = checkpoint.tensor(kProtection);
  if (numbers.dtype() != Dtype::kF32 || !(numbers.shape() == Shape{2})) {
    fail("the protection is damaged", checkpoint.file, "write the bundle again");
  }
  ProtectionSpec spec;
  spec.fresh_sigma = numbers.data<float>()[0];
  spec.dropout = numbers.data<float>()[1];
  if (const auto noise = checkpoint.tensors.find(kNoise); noise != checkpoint.tensors.end()) {
    spec.noise = noise->second;
  }
  try {
    check(spec, feature);
  } catch (const Error& error) {
    fail(error.what(), checkpoint.file, "write the bundle again");
  }
  return spec;
}

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t start = 0; start < text.size();) {
    const size_t end = std::min(text.find('\n', start), text.size());
    lines.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return lines;
}

}  // namespace

void write_edge_bundle(const std::filesystem::path& file, const EdgeBundle& bundle) {
  const ProtectionSpec& protection = bundle.protection;
  check(protection, smashed_shape(bundle.info.model, bundle.info.split));
  Checkpoint checkpoint;
  checkpoint.kind = "edge";
  put_info(checkpoint, bundle.info);
  put_module(checkpoint, "head", *bundle.head);
  put_module(checkpoint, "tail", *bundle.tail);
  if (protection.noise.defined()) checkpoint.tensors[kNoise] = protection.noise;
  checkpoint.tensors[kProtection] = Tensor::from({protection.fresh_sigma, protection.dropout}, {2});
  const auto& selected = bundle.selector.selected();
  checkpoint.tensors[kSelector] =
      Tensor::from_labels(std::vector<int32_t>(selected.begin(), selected.end()));
  std::string& names = checkpoint.texts["class_names"];
  for (const std::string& name : bundle.class_names) {
    if (name.empty() || name.find('\n') != std::string::npos) {
      fail("a class name is empty or has a line break", file.string(), "rename the class");
    }
    names += name + "\n";
  }
  write_checkpoint(file, checkpoint, /*secret=*/true);
}

EdgeBundle read_edge_bundle(const std::filesystem::path& file) {
  const Checkpoint checkpoint = read_checkpoint(file, "edge");
  const BundleInfo info = get_info(checkpoint);
  const Tensor& selected = checkpoint.tensor(kSelector);
  if (selected.rank() != 1) fail("the selector is damaged", file.string());
  const auto indices = selected.span<int32_t>();
  Selector selector(info.nets, std::vector<int>(indices.begin(), indices.end()));

  Rng rng = Rng::blank();
  EdgeBundle bundle{
      .info = info,
      .class_names = split_lines(checkpoint.text("class_names")),
      .head = build_head(info.model, info.split, rng),
      .tail = build_tail(info.model, info.split, rng, selector.count()),
      .selector = std::move(selector),
      .protection = get_protection(checkpoint, smashed_shape(info.model, info.split))};
  size_t count = bundle.protection.noise.defined() ? 3 : 2;  // noise, protection, selector
  count += get_module(checkpoint, "head", *bundle.head);
  count += get_module(checkpoint, "tail", *bundle.tail);
  check_count(checkpoint, count);
  if (static_cast<int>(bundle.class_names.size()) != info.model.classes) {
    fail("there is not one name for each class", file.string(), "write the bundle again");
  }
  return bundle;
}

}  // namespace ens
