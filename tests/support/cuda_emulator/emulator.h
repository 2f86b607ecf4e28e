// SPDX-License-Identifier: Apache-2.0
// The emulated machine behind the CUDA runtime, cuBLAS and cuDNN: README.md says what it is for.
//
// One lock guards everything. Work that is given to streams becomes Ops, which wait for one another
// and are executed one at a time under that lock, by whichever host thread has to wait for
// something; a seed chooses among those that could run. Nothing here is called from kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace ens::emulator {

// Prints "CUDA emulator: what", and aborts: for what would be undefined or fatal on a real device.
[[noreturn]] void die(const std::string& what);

std::mutex&
machine();  // the lock. Everything below is called with it held; CUDA's functions take it
using Lock = std::lock_guard<std::mutex>;

// ---- settings, from the environment
int device_count();           // ENS_CUDA_DEVICES, default 1
uint64_t seed();              // ENS_CUDA_SEED, default 1
void reseed(uint64_t value);  // starts the random choices again; for tests
uint64_t random_below(uint64_t n);

// ---- memory (memory.cc). Each device has addresses of its own. They are closed to the host's
// code, and to the other devices' work: touching them is a fault, whose report names the memory.
constexpr size_t kMostSharedBytes = 227 << 10;     // dynamic, of a block
constexpr size_t kDeviceMemory = size_t{4} << 30;  // what a device says it has
constexpr int kHost = -1;

struct Memory {
  char* start = nullptr;
  size_t bytes = 0;
  int device = kHost;  // or pinned memory of the host
  bool live = false;   // may be used by what runs now; reservations become so in stream order
};

Memory* reserve(int device, size_t bytes);  // nullptr if the device is full. Not live yet
void make_live(Memory& memory);             // filled with 0xff: NaN in every floating-point type
void make_dead(Memory& memory);             // filled again, and closed
Memory* pin(void* start, size_t bytes);     // host memory that devices may use as it is
void unpin(void* start);
Memory* find_memory(const void* address);  // the live or dead memory it lies in, or nullptr
size_t memory_in_use(int device);

// Dies unless [address, address + bytes) is memory that `device` may use now. For kHost: pageable
// memory is fine, a device's is not.
void check_access(const void* address, size_t bytes, int device, const char* what);
// Some address that the device may use at times: its own or a peer's memory, or pinned.
bool belongs_to_device(const void* address, int device);
// The devices may read each other's memory (cudaDeviceEnablePeerAccess).
void allow_peer(int device, int peer);
bool peer_allowed(int device, int peer);

// While it lives, memory of `device` and its peers is open to this thread. Nests.
class Open {
 public:
  explicit Open(int device);
  ~Open();
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;

 private:
  int device_;
};

// What an operation is called in reports: by name, or by a kernel's address.
struct Label {
  const char* text = "";
  const void* kernel = nullptr;
};
std::string describe(const Label& label);
void set_current_work(const Label* label);  // nullptr: nothing is being executed

// ---- work (queue.cc)
using Work = std::function<void()>;

struct Op {
  Label what;
  Work work;  // may be empty
  int device = 0;
  bool on_host = false;  // cudaLaunchHostFunc: runs without the lock, on a thread of its own
  uint64_t lane = 0;     // what the seed favours or starves: a stream, or a node of a graph
  int waits_for = 0;
  bool done = false;
  double finished = 0;  // seconds
  std::vector<std::shared_ptr<Op>> then;
};
using OpPtr = std::shared_ptr<Op>;

void submit(const OpPtr& op, const std::vector<OpPtr>& after);  // null and finished ones are fine
void wait_for(const OpPtr& op);  // executes until it is done; nullptr: returns at once
void let_time_pass();            // executes a few operations, perhaps none
bool run_one();                  // executes one; false if none can run now
uint64_t new_lane();

// ---- streams (streams.cc)
// Gives work to a stream: an Op behind what the stream was given before (and the legacy default
// stream's rules), or a node if the stream is being captured.
// `prelude`: what it may do before the work before it; done then if both are nodes of a graph.
cudaError_t enqueue(cudaStream_t stream, Label what, Work work, bool on_host = false,
                    Work prelude = {});
OpPtr last_op(cudaStream_t stream);
// The kernel that what the stream is given next comes behind; nullptr if that is anything else.
const void* kernel_before(cudaStream_t stream);
void drain(int device);  // waits for all of a device's streams
// The stream's device; the current one for the default stream. Dies for a destroyed stream.
int device_of(cudaStream_t stream);
bool is_capturing(cudaStream_t stream);
cudaError_t spoil_capture(cudaStream_t stream);  // of a stream that is captured: what cannot be
// Success, or the error of a call that a capture forbids because it may synchronise; the capture is
// then spoilt.
cudaError_t forbidden_by_capture();
// The same for calls that synchronise a whole device.
cudaError_t device_is_captured(int device);

// ---- runtime (runtime.cc)
int current_device();
cudaError_t set_error(cudaError_t error);  // remembers it for cudaGetLastError, and returns it

// ---- kernels (grid.cc): every thread of every block, under the lock.
// `asked`: what run_until_wait() found; dies if a thread finds anything else now.
using Asked = std::vector<uint64_t>;
void run_grid(const Label& name, dim3 grid, dim3 block, size_t shared_bytes, const Work& thread,
              const Asked& asked = {});
// Every thread as far as its grid_dependency_sync(): a digest of what each has asked to copy by
// then.
Asked run_until_wait(const Label& name, dim3 grid, dim3 block, const Work& thread);
// Dies unless all threads of the grid that ran last, `name`, have called grid_dependency_sync(), as
// those of `before` have in their time: so that a kernel may be launched as a dependent of that
// one.
void check_dependent(const Label& name, const void* before);

}  // namespace ens::emulator
