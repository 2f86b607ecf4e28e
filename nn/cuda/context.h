// SPDX-License-Identifier: Apache-2.0
// What a thread needs to give a GPU work: a stream, the libraries' handles, memory.
//
// Streams. Every thread has a Context of its own for each device, so nets that are trained or
// served on several threads run side by side on one GPU. A thread that ends gives its context to
// the next one; contexts are never destroyed. At most 64 exist at a time over all devices.
//
// Order between streams. A block of memory knows the context that last wrote it and the contexts
// that have read it since. read() and write() make the caller's stream wait on the GPU, never the
// host. All verbs get at memory through these two functions, so a tensor may be handed to another
// thread, and be freed there, as on the CPU. What the caller's stream waits for:
//
//   the block was last        read()                    write()                  release
//   written by the caller     nothing                   other readers' streams   other readers'
//   written by another        its stream, once          its stream and readers'  streams
//   written on side stream    join()                    join()                   (held until join)
//   read on side stream       nothing                   join()                   (held until join)
//
// After write() the caller is the block's writer and nobody has read it. A released block returns
// to the cache of its writer, which is ordered by the writer's stream.
//
// Memory. Each context caches what was freed on it, four size classes an octave. In steady state
// the driver is asked for nothing, and reuse needs no synchronisation because the stream orders it.
// If the GPU is full, idle memory of all contexts goes back to the driver before an allocation
// fails. With address sanitizer, or -DENS_EXACT_GPU_MEMORY for compute-sanitizer, every block that
// is not of a capture is the driver's own, so that overruns and uses after release are found.
//
// Side stream. Gradients of weights are wanted only at the end of a step. They go to a second
// stream of the context (side_stream_dnn() below) and fill what the small kernels of the main
// stream leave idle. join() makes the main stream wait for it; read() and write() call that.
//
// A context is in one of these states:
//
//   state                  new memory comes from     freed memory goes to   host copies,
//   synchronise idle (between threads) -                         its cache              - in use by
//   its thread   its cache, then driver    its cache              allowed capturing (Capture) the
//   graph's pool          the graph's pool       an Error
//
// While a context captures, its thread holds capture_mutex, and other threads that want to make its
// stream wait block until the capture ends.
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

// Lets a kernel be launched with this many bytes of dynamic shared memory. Asks CUDA only where
// that is more than every kernel may have.
void set_dynamic_shared_memory_limit(const void* kernel, size_t bytes);

// Usable devices, 0 if there are none; then `why` says why. Never throws.
int count_devices(std::string& why);

// How a kernel is launched: on this stream, after what the stream was given before. `dependent`:
// with programmatic dependent launch, so that it may begin while the kernel before it still runs,
// and gets as far as its grid_dependency_sync() (launch.h).
struct Launch {
  cudaStream_t stream;
  bool dependent;
  Launch(cudaStream_t stream_, bool dependent_ = false) : stream(stream_), dependent(dependent_) {}
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
  // Whether work on the writer's side stream, perhaps not joined yet, writes or reads it.
  std::atomic<bool> written_on_side_stream{false}, read_on_side_stream{false};
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

  // A cuDNN handle for work on the side stream, after all that the stream has been given so far.
  // The work reads what `reads` holds, which is kept until join(), and writes `result`.
  cudnnHandle_t side_stream_dnn(std::vector<Tensor> reads, const Tensor& result);
  void* allocate_on_side_stream(size_t bytes);  // scratch for it
  void join();  // the stream waits for the side stream, if that has been given anything

  // At least so many zeros, for kernels whose blocks count who comes last and leave zeros again.
  // The stream's own, as one kernel after another uses them.
  int32_t* counters(size_t n);

  // Memory that lives until the stream has passed the point of its release.
  std::shared_ptr<void> allocate(size_t bytes);

  // Host to device and back through pinned memory. upload returns when `src` has been read;
  // download waits for the stream and returns when `dst` holds the elements.
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
  // The side stream, null until it is first used; whether join() has something to wait for.
  std::atomic<cudaStream_t> side_stream{nullptr};
  std::atomic<bool> side_stream_pending{false};

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
  cudnnHandle_t side_stream_dnn_ = nullptr;
  void hold(std::shared_ptr<void> memory);
  std::vector<std::shared_ptr<void>> held_;  // until join()
  size_t held_bytes_ = 0;
  Stage stages_[2];
  int next_stage_ = 0;
  std::shared_ptr<Numbers> numbers_;
};

// This thread's own, made on first use. Also makes `device` the thread's current one.
Context& context(int device);

// `later`'s stream waits for what `earlier`'s has been given so far.
void wait_for(Context& later, Context& earlier);

// The tensor's memory, after its last writer; and for writing, also after its readers. The tensor
// must be on c's device, else an Error. For memory that is not ours (Tensor::wrap) the caller keeps
// the order.
const void* read_raw(Context& c, const Tensor& t);
const void* read_peer(Context& c, const Tensor& t);  // of any GPU, for copies between them
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
