// SPDX-License-Identifier: Apache-2.0
#include "edge/options.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/flags.h"
#include "nn/data/video.h"

namespace ens {
namespace {

// As given, before they are put together.
struct Flags {
  std::string config_file;
  std::vector<std::string> overrides;
  EdgeConfig config;  // only what flags set
  std::vector<std::string> clouds, server_keys, workers;
  std::optional<int> camera;
};

void add_config_flags(CLI::App& app, Flags& flags) {
  const auto text = [&](const char* option, const char* what,
                        void (EdgeConfig::*setter)(const std::string&)) {
    app.add_option_function<std::string>(
        option, [&flags, setter](const std::string& value) { (flags.config.*setter)(value); },
        what);
  };
  app.add_option("--config", flags.config_file,
                 "configuration file (EdgeConfig in docs/config.md)");
  add_set_flag(app, flags.overrides);
  text("--bundle", "edge.h5", &EdgeConfig::set_bundle<const std::string&>);
  app.add_option("--cloud", flags.clouds,
                 "the cloud's address; default tcp://127.0.0.1:5755. Several addresses, separated "
                 "by commas: replicas. Several times: clouds that each serve some of the nets")
      ->allow_extra_args(false);
  app.add_option("--worker", flags.workers,
                 "a blinded bundle, or one whose first cells are: the address of an "
                 "ensembler-worker; several times, once for each. "
                 "They must have different owners, who do not collude (docs/offload.md)")
      ->allow_extra_args(false);
  app.add_option(
         "--server-key", flags.server_keys,
         "the cloud's public key (NAME.pub); several times, if each --cloud and --worker has "
         "its own: those of the clouds first")
      ->allow_extra_args(false);
  text("--secret-key", "this client's secret key (NAME.key)",
       &EdgeConfig::set_secret_key<const std::string&>);
  text("--device-key",
       "this device's secret key of the noise (NAME.device), for bundles that want one",
       &EdgeConfig::set_device_key<const std::string&>);
  app.add_flag_callback(
      "--insecure", [&flags] { flags.config.set_insecure(true); },
      "allow plain text outside loopback");
  app.add_option_function<int>(
      "--timeout-ms", [&flags](int n) { flags.config.set_timeout_ms(n); },
      "time for one request, retries included; default 5000");
  app.add_option_function<int>(
      "--batch", [&flags](int n) { flags.config.set_batch(n); },
      "images per request for data sets; default 32");
}

void add_input_flags(CLI::App& app, Flags& flags, EdgeOptions& options) {
  app.add_flag("--json", options.as_json,
               "one JSON object per image or frame, or one for a data set");
  app.add_flag("--resize", options.resize,
               "make images of another size fit the model, as in its training (docs/images.md)");
  auto* data = app.add_option("--dataset", options.data.name,
                              "classify a data set's test images and print the accuracy");
  app.add_option("--data", options.data.root,
                 "folder of the data sets; default $ENS_DATA, then the cache")
      ->needs(data);
  app.add_option("--limit", options.data.limit, "only the first n test images")
      ->needs(data)
      ->check(at_least(0));
  app.add_option("--seed", options.data.seed, "of a generated data set; default 1")->needs(data);
  app.add_option("inputs", options.inputs,
                 "image files, or folders of them; or one video file, camera (/dev/video0) or "
                 "stream (rtsp://...)")
      ->excludes(data);
  app.add_option("--camera", flags.camera, "N: /dev/videoN")->excludes(data)->check(at_least(0));
  app.add_option("--fps", options.watch.fps,
                 "video, camera: at most so many frames a second; default 0: all")
      ->check(at_least(0));
  app.add_flag("--live", options.watch.live,
               "video: at its own speed, leaving out the frames that come too fast, as a camera");
  app.add_option("--record-probes", options.record_probes,
                 "do not classify: write features and the cloud's outputs to this file, for the "
                 "configuration's `probes`. With --dataset, its first 32 images, or --limit");
}

void check_inputs(const EdgeOptions& options) {
  if (options.inputs.empty() && options.data.name.empty()) {
    usage_fail("nothing to classify", "",
               "name an image, a folder, a video, --camera N, or --dataset NAME");
  }
  const bool watches = std::ranges::any_of(options.inputs, is_video);
  if (watches && (options.inputs.size() > 1 || !options.record_probes.empty())) {
    usage_fail("a video or camera is classified alone", "", "name no other input");
  }
  if (!watches && (options.watch.live || options.watch.fps > 0)) {
    usage_fail("--live and --fps are for a video or camera", "", "name one");
  }
}

// Several clouds become one `part` each, and workers one `offload.worker`.
void set_clouds(Flags& flags) {
  const size_t clouds = flags.clouds.size(), servers = clouds + flags.workers.size();
  const bool own_keys = flags.server_keys.size() > 1;
  if (own_keys && flags.server_keys.size() != servers) {
    usage_fail(
        "as many --server-key as --cloud and --worker, those of clouds first, or one for all", "",
        "see --help");
  }
  for (size_t i = 0; i < flags.workers.size(); ++i) {
    OffloadWorker& worker = *flags.config.mutable_offload()->add_worker();
    worker.set_address(flags.workers[i]);
    if (own_keys) worker.set_server_key(flags.server_keys[clouds + i]);
  }
  if (clouds == 1) flags.config.set_cloud(flags.clouds[0]);
  if (flags.server_keys.size() == 1 || (own_keys && clouds == 1))
    flags.config.set_server_key(flags.server_keys[0]);
  for (size_t i = 0; clouds > 1 && i < clouds; ++i) {
    CloudPart& part = *flags.config.add_part();
    part.set_cloud(flags.clouds[i]);
    if (own_keys) part.set_server_key(flags.server_keys[i]);
  }
}

EdgeConfig make_config(Flags& flags) {
  set_clouds(flags);
  EdgeConfig config;
  if (!flags.config_file.empty()) read_config(flags.config_file, config);
  if (flags.config.part_size() > 0) config.clear_part();  // replaced, not added to
  if (!flags.workers.empty()) config.mutable_offload()->clear_worker();
  config.MergeFrom(flags.config);
  apply_overrides(flags.overrides, config);
  complete(config);
  return config;
}

}  // namespace

EdgeOptions parse_options(int argc, char** argv) {
  EdgeOptions options;
  options.data.name.clear();
  Flags flags;
  CLI::App app{
      "Classifies images, a video, a camera or a data set: head, noise, selector and tail here, "
      "the server nets in the cloud.",
      "ensembler-edge"};
  add_config_flags(app, flags);
  add_input_flags(app, flags, options);
  parse_flags(app, argc, argv);
  if (flags.camera) options.inputs.push_back("/dev/video" + std::to_string(*flags.camera));
  options.watch.as_json = options.as_json;
  check_inputs(options);
  options.config = make_config(flags);
  return options;
}

}  // namespace ens
