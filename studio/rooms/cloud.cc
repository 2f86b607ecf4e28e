// SPDX-License-Identifier: Apache-2.0
// Trainings: what can be trained here. The trainings themselves are jobs, their curves those of
// runs.
#include "nn/data/dataset.h"
#include "proto/protections.h"
#include "proto/studio.pb.h"
#include "studio/room.h"

namespace ens {
namespace {

class CloudRoom final : public Room {
 public:
  const char* name() const override { return "cloud"; }
  const char* title() const override { return "Trainings"; }

  void add_routes(Site& site) override {
    site.get("cloud", [](const Site::Call&) {
      studio::TrainingChoices out;
      for (const char* name : {"shapes", "mnist", "fashion_mnist", "cifar10", "cifar100"}) {
        auto& set = *out.add_data();
        set.set_name(name);
        DataOptions options;
        options.name = name;
        set.set_present(dataset_present(options));
        if (!set.present()) set.set_command(std::string("ensembler data get ") + name);
      }
      for (const ProtectionInfo& info : protections()) {
        auto& p = *out.add_protections();
        p.set_kind(info.kind);
        p.set_title(info.title);
        p.set_meaning(info.meaning);
        p.set_several_nets(info.nets != ServerNets::kOne);
        p.set_selects(info.nets == ServerNets::kSelected);
        p.set_noise(info.noise);
      }
      for (const char* name : {"resnet18", "vgg16", "mobilenet"}) out.add_architectures(name);
      return json_reply(out);
    });
  }
};

}  // namespace

std::unique_ptr<Room> make_cloud_room(const RoomServices&) { return std::make_unique<CloudRoom>(); }

}  // namespace ens
