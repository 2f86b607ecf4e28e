// SPDX-License-Identifier: Apache-2.0
// Trainings: what can be trained here. The trainings themselves are jobs, their curves those of
// runs.
#include "nn/data/dataset.h"
#include "proto/protections.h"
#include "proto/studio.pb.h"
#include "studio/plans.h"
#include "studio/room.h"
#include "studio/sets.h"

namespace ens {
namespace {

class CloudRoom final : public Room {
 public:
  explicit CloudRoom(const RoomServices& services) : services_(services) {}
  const char* name() const override { return "cloud"; }
  const char* title() const override { return "Cloud"; }

  void add_routes(Site& site) override {
    site.get("cloud", [this](const Site::Call&) {
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
      for (const std::string& name : kSetClassifiers) out.add_classifiers(name);
      services_.sets.cloud_sets(out, services_.pictures);
      return json_reply(out);
    });
  }

 private:
  const RoomServices services_;
};

}  // namespace

std::unique_ptr<Room> make_cloud_room(const RoomServices& services) {
  return std::make_unique<CloudRoom>(services);
}

}  // namespace ens
