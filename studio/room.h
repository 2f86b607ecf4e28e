// SPDX-License-Identifier: Apache-2.0
// A room of the studio: one page of web/src/rooms, and what it asks this server for. A new room is
// one file here, one folder there, and one line of studio.cc.
#pragma once

#include <memory>

#include "lab/live_cloud.h"
#include "studio/site.h"

namespace ens {

class Hub;
class Index;
class Jobs;
class Pictures;
class DisguisedSets;

// What rooms share. All outlive them.
struct RoomServices {
  Index& index;
  Pictures& pictures;
  Hub& hub;
  Jobs* jobs;  // null: read-only
  DisguisedSets& sets;
  const LiveCloudSettings& cloud;  // a running ensembler-cloud, if there is one to ask
  bool local;                      // only this machine is served: who looks owns the edge's files
};

class Room {
 public:
  virtual ~Room() = default;
  virtual const char* name() const = 0;   // "matrix": the folder of web/src/rooms
  virtual const char* title() const = 0;  // in the navigation
  virtual void add_routes(Site& site) = 0;
};

std::unique_ptr<Room> make_matrix_room(const RoomServices& services);
std::unique_ptr<Room> make_split_room(const RoomServices& services);
std::unique_ptr<Room> make_cloud_room(const RoomServices& services);
std::unique_ptr<Room> make_disguise_room(const RoomServices& services);

}  // namespace ens
