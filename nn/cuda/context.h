// What a thread needs to give a GPU work: a stream, the libraries' handles, memory.
//
// Streams. Every thread has a Context of its own for each device, so nets that are trained or
// served on several threads run side by side on one GPU. A thread that ends gives its context to
// the next one; contexts are never destroyed. At most 64 exist at a time over all devices.
//
// Order between streams. A block of memory knows the context that wrote it last and those that have
// read it since. read() and write() below make the caller's stream wait (on the GPU, never on the
// host) for whoever touched the memory before on another stream, and a block that is freed returns
// to the cache of its last writer after that writer's stream waits for the readers. So a tensor may
// be handed to another thread, and be freed there, like on the CPU. All verbs get at memory through
// these two functions.
//
// Memory. Each context caches what was freed on it, four size classes an octave; nothing is asked
// of the driver in steady state, and reuse needs no synchronisation because it is ordered by the
// stream. If the GPU is full, idle memory of all contexts goes back to the driver before giving up.
//
// With address sanitizer, or -DENS_EXACT_GPU_MEMORY for compute-sanitizer, every block outside of
// captures is the driver's own, so that overruns and uses after release are found.
//
// Two at once. Work whose result is wanted only at the end of a step, the gradients of weights,
// goes to a second stream of the context (aside() below), where it fills what the small kernels of
// the chain leave idle. Whoever reads such a result through read() or write() waits for it.
//
// Graph capture. While a stream is being captured (Capture below) memory comes from a pool that
// belongs to the graph, and verbs neither touch the host nor synchronise.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cudnn.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "nn/core/tensor.h"

namespace ens::cuda {

// Throw an Error that names the call and says what CUDA says.
void check(cudaError_t result, const char* call);
void check(cublasStatus_t result, const char* call);
void check(cudnnStatus_t result, const char* call);

// Lets a kernel be launched with so much dynamic shared memory, if that is more than it has anyway.
void ask_for_shared(const void* kernel, size_t bytes);

// Usable devices, 0 if there are none; then `why` says why. Never throws.
int count_devices(std::string& why);

// How a kernel is launched: on this stream, behind what that was given before. `early`: it may
// begin while the kernel before it still runs, and comes as far as its wait_for_previous()
// (launch.h).
struct Launch {
  cudaStream_t stream;
  bool early;
  Launch(cudaStream_t stream_, bool early_ = false) : stream(stream_), early(early_) {}
};

struct Context;
struct Numbers;  // pinned memory for single floats

// Idle memory, by size class. Thread-safe.
class Pool {
 public:
  void* take(int size_class);  // nullptr if there is none
  void put(int size_class, void* data);
  void keep(void* data);     // until release()
  bool release(int device);  // gives all to the driver; false if there was nothing
  // A graph's: gives its memory back when the graph and the last block are gone.
  explicit Pool(int device = -1) : device_(device) {}
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

 private:
  int device_;
  std::mutex mutex_;
  std::unordered_map<int, std::vector<void*>> idle_;
  std::vector<void*> kept_;
};

// Memory of one tensor.
struct Block {
  void* data = nullptr;
  int size_class = 0;
  bool exact = false;  // the driver's, not a pool's
  // Of the writer's second stream, perhaps not yet joined: who writes, who reads.
  std::atomic<bool> written_aside{false}, read_aside{false};
  std::atomic<Context*> writer{nullptr};
  std::atomic<uint64_t> readers{0};  // bits: Context::id
  std::shared_ptr<Pool> pool;        // of a graph; else undefined: the writer's
};

struct Context {
  int device = 0;
  int id = 0;  // 0..63, unique over all devices
  cudaStream_t stream = nullptr;

  // Made on first use, bound to the stream.
  cublasHandle_t blas();
  cudnnHandle_t dnn();

  // A handle for work on the second stream, after all that the stream has been given so far. The
  // work reads what `reads` holds, which is kept until join(), and writes `result`.
  cudnnHandle_t aside(std::vector<Tensor> reads, const Tensor& result);
  void* allocate_aside(size_t bytes);  // scratch for it
  void join();  // the stream waits for the second one, if that has been given anything

  // At least so many zeros, for kernels whose blocks count who comes last and leave zeros again.
  // The stream's own, as one kernel after another uses them.
  int32_t* counters(size_t n);

  // Memory that lives until the stream has passed the point of its release.
  std::shared_ptr<void> allocate(size_t bytes);

  // Host to device and back through pinned memory. upload returns when `src` has been read;
  // download waits for the stream and returns when `dst` holds the numbers.
  void upload(void* dst, const void* src, size_t bytes);
  void download(void* dst, const void* src, size_t bytes);

  // Asks for a float of the device's now; the function waits until it is there. For any thread.
  std::function<float()> download_later(const float* src);

  void synchronize();
  bool capturing() const { return capture_pool != nullptr; }  // asked by its own thread

  std::shared_ptr<Pool> pool = std::make_shared<Pool>();
  std::shared_ptr<Pool> capture_pool;  // while the stream is captured
  std::mutex capture_mutex;            // held as long: nobody else may touch the stream
  std::atomic<std::thread::id> capturing_thread{};
  // The second stream; null until it is used. Whether join() has something to wait for.
  std::atomic<cudaStream_t> second{nullptr};
  std::atomic<bool> aside_pending{false};

 private:
  struct Stage {
    void* data = nullptr;
    cudaEvent_t done = nullptr;
  };
  void make_stages();
  cublasHandle_t blas_ = nullptr;
  cudnnHandle_t dnn_ = nullptr;
  void* blas_workspace_ = nullptr;
  int32_t* counters_ = nullptr;
  cudnnHandle_t second_dnn_ = nullptr;
  void hold(std::shared_ptr<void> memory);
  std::vector<std::shared_ptr<void>> held_;  // until join()
  size_t held_bytes_ = 0;
  Stage stages_[2];
  int next_stage_ = 0;
  std::shared_ptr<Numbers> numbers_;
};

// This thread's own, made on first use. Also makes `device` the thread's current one.
Context& context(int device);

// From now on `later`'s stream waits for what `earlier`'s has been given so far.
void follow(Context& later, Context& earlier);

// The tensor's memory, after its last writer; and for writing, also after its readers. The tensor
// must be on c's device, else an Error. For memory that is not ours (Tensor::wrap) the caller keeps
// the order.
const void* read_raw(Context& c, const Tensor& t);
const void* read_from_afar(Context& c, const Tensor& t);  // of any GPU, for copies between them
void* write_raw(Context& c, const Tensor& t);

template <typename T>
const T* read(Context& c, const Tensor& t) {
  return static_cast<const T*>(read_raw(c, t));
}
template <typename T>
T* write(Context& c, const Tensor& t) {
  return static_cast<T*>(write_raw(c, t));
}

// Captures what this thread's stream is given between construction and finish() into a graph that
// replays it with the same memory. Whatever the work reads must have been touched on this thread
// before (run it once or twice first, which also lets the libraries choose their algorithms).
class Capture {
 public:
  explicit Capture(Context& c);
  ~Capture();  // without finish(): throws the work away
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  struct Graph {
    cudaGraphExec_t exec = nullptr;
    std::shared_ptr<Pool> pool;  // keeps the graph's memory
    Graph() = default;
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    ~Graph();
    void launch(Context& c) const;
  };
  std::unique_ptr<Graph> finish();

 private:
  void end();
  Context& c_;
  bool open_ = true;
};

// Bytes held from the driver on a device.
size_t bytes_reserved(int device);

}  // namespace ens::cuda
