// SPDX-License-Identifier: Apache-2.0
// The matrix: what was measured, protections against attacks.
#include <map>
#include <mutex>

#include "base/hash.h"
#include "proto/results.h"
#include "studio/index.h"
#include "studio/room.h"
#include "studio/views.h"

namespace ens {
namespace {

namespace fs = std::filesystem;

class MatrixRoom final : public Room {
 public:
  explicit MatrixRoom(const RoomServices& services) : services_(services) {}
  const char* name() const override { return "matrix"; }
  const char* title() const override { return "Matrix"; }

  void add_routes(Site& site) override {
    site.get("matrix", [this](const Site::Call& call) {
      const auto snapshot = services_.index.snapshot();
      const std::string id(call.request.argument("group"));
      const Index::Group* group = snapshot->group(id);
      if (!group) throw Refusal(404, "there is no such sweep or folder", "group");
      return HttpReply{.type = "application/json; charset=utf-8",
                       .body = table(*group, *snapshot),
                       .headers = {{"Cache-Control", "no-store"}}};
    });
  }

 private:
  struct Kept {
    std::string stamp, json;
  };

  // The files that a table is made of: when they change, it is made again.
  std::string stamp_of(const Index::Group& group, const Index::Snapshot& snapshot) const {
    Hash hash;
    const auto add = [&](const FileStamp& stamp) {
      hash.add_number(stamp.inode);
      hash.add_number(stamp.size);
      hash.add_number(static_cast<uint64_t>(stamp.written_ns));
    };
    add(group.sweep);
    for (const Index::Run& run : snapshot.runs) {
      if (group.entry.id() != kAllRuns && run.entry.group() != group.entry.id()) continue;
      hash.add_text(run.entry.id());
      add(run.summary);
      add(run.done);
      std::error_code error;
      for (fs::directory_iterator it(run.folder / "attack", error), end; !error && it != end;
           it.increment(error)) {
        add(file_stamp(it->path() / "result.json"));
      }
    }
    return hash.finish();
  }

  std::string table(const Index::Group& group, const Index::Snapshot& snapshot) {
    const std::string stamp = stamp_of(group, snapshot), &id = group.entry.id();
    {
      std::lock_guard lock(mutex_);
      const auto found = kept_.find(id);
      if (found != kept_.end() && found->second.stamp == stamp) return found->second.json;
    }
    const std::string json =
        results::to_json(matrix_view(group, services_.index), /*indented=*/false);
    std::lock_guard lock(mutex_);
    if (kept_.size() > 32) kept_.clear();
    kept_[id] = {stamp, json};
    return json;
  }

  const RoomServices services_;
  std::mutex mutex_;
  std::map<std::string, Kept> kept_;  // by group
};

}  // namespace

std::unique_ptr<Room> make_matrix_room(const RoomServices& services) {
  return std::make_unique<MatrixRoom>(services);
}

}  // namespace ens
