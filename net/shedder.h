// SPDX-License-Identifier: Apache-2.0
// Shedder: empties the queue of a listening socket when the process has no descriptor left.
//
// libzmq cannot accept then, is told of the waiting connections again and again, and takes a whole
// core for it. A thread with a descriptor table of its own accepts and closes them.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

namespace ens {

class Shedder {
 public:
  // Holds the socket open until it is destroyed. To be made while there are descriptors.
  explicit Shedder(int listening);
  ~Shedder();

  void shed();  // soon, and once; from any thread

 private:
  void work(int listening);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false, stop_ = false, started_ = false;
  std::thread thread_;
};

}  // namespace ens
