// docs/edge-api.md shows this program.
#include <cstdio>

#include "edge/client.h"
#include "nn/data/image.h"

int main(int argc, char** argv) {
  if (argc != 4) return std::puts("usage: edge_example edge.h5 tcp://HOST:PORT PICTURE"), 2;
  ens::EdgeConfig config;
  config.set_bundle(argv[1]);
  config.set_cloud(argv[2]);
  ens::complete(config);  // defaults, checked
  ens::EdgeClient client(config);
  const ens::Tensor image =
      ens::read_image(argv[3], 3, 32, 32, /*exact_size=*/false, client.info().fit_of_files());
  const auto result = client.classify(image.reshape({1, 3, 32, 32}));
  if (!result.status.ok()) return std::puts(result.status.str().c_str()), 1;
  for (const ens::Ranked& r : result.value.top[0]) {
    std::printf("%s %.3f\n", r.label.c_str(), r.probability);
  }
}
