// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/context.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"

namespace ens::cuda {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(ENS_EXACT_GPU_MEMORY)
constexpr bool kExactMemory = true;
#else
constexpr bool kExactMemory = false;
#endif
constexpr int kMaxContexts = 64;
constexpr size_t kStageBytes = 4 << 20;
constexpr size_t kBlasWorkspace = 32 << 20;    // what NVIDIA advises for Hopper
constexpr size_t kMostHeld = size_t{1} << 30;  // bytes that wait for a join
constexpr size_t kCounters = 1 << 16;
constexpr int kOldestCompute = 80;  // nn/cuda is built for these and newer

// Every context ever made, and those without a thread. Never destroyed: tensors may outlive main().
struct Contexts {
  std::mutex mutex;
  std::vector<Context*> all, idle;
  std::atomic<size_t> reserved[kMaxContexts] = {};  // bytes, by device
};

Contexts& contexts() {
  static Contexts* c = new Contexts;
  return *c;
}

// This thread's contexts; given back when it ends.
struct Lease {
  std::vector<Context*> mine;
  ~Lease() {
    for (Context* c : mine) {
      try {
        c->join();
      } catch (const Error&) {  // CUDA is gone
      }
    }
    Contexts& all = contexts();
    std::lock_guard lock(all.mutex);
    all.idle.insert(all.idle.end(), mine.begin(), mine.end());
  }
};
thread_local Lease lease;
thread_local int current_device = -1;  // outlives the lease: memory is released to the very end

void use_device(int device) {
  if (current_device == device) return;
  check(cudaSetDevice(device), "cudaSetDevice");
  current_device = device;
}

// Classes 0, 1, 2, ...: 256, 320, 384, 448, 512, 640, ... bytes: at most a quarter is wasted.
int size_class(size_t bytes) {
  if (bytes <= 256) return 0;
  const int octave = std::bit_width(bytes - 1) - 1;  // 2^octave < bytes <= 2^(octave+1)
  const size_t quarter = size_t{1} << (octave - 2);
  const size_t step = (bytes - (size_t{1} << octave) + quarter - 1) / quarter;  // 1..4
  return (octave - 8) * 4 + static_cast<int>(step);
}
size_t class_bytes(int size_class) {
  const size_t base = size_t{256} << (size_class / 4);
  return base + base / 4 * static_cast<size_t>(size_class % 4);
}

// Gives idle memory back to the driver. False if there was none. Streams that are being captured
// are left alone, and the device is not waited for as a whole: both would spoil the recording.
bool release_idle(int device) {
  std::vector<Context*> all;
  {
    std::lock_guard lock(contexts().mutex);
    all = contexts().all;
  }
  bool any = false;
  for (Context* c : all) {
    if (c->device != device) continue;
    const std::unique_lock lock(c->capture_mutex, std::try_to_lock);
    if (!lock) continue;
    if (cudaStreamSynchronize(c->stream) != cudaSuccess) {
      cudaGetLastError();
      continue;
    }
    any |= c->pool->release(device);
  }
  return any;
}

[[noreturn]] void fail_full(int device, size_t bytes) {
  cudaGetLastError();
  fail("the GPU has no " + std::to_string(bytes >> 20) + " MiB left beside the " +
           std::to_string(bytes_reserved(device) >> 20) + " MiB in use",
       "cuda:" + std::to_string(device), "use a smaller batch, or fewer networks in parallel");
}

void* driver_allocate(Context& c, int size_class) {
  const size_t bytes = class_bytes(size_class);
  void* data = nullptr;
  // Allowed while a stream is captured only in this mode.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  cudaError_t result = cudaMalloc(&data, bytes);
  if (result == cudaErrorMemoryAllocation && !c.capturing()) {
    cudaGetLastError();
    c.join();  // and gives up what is held for the side stream
    if (release_idle(c.device)) result = cudaMalloc(&data, bytes);
  }
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (result == cudaErrorMemoryAllocation) fail_full(c.device, bytes);
  check(result, "cudaMalloc");
  contexts().reserved[c.device] += bytes;
  return data;
}

// Returns a block to the cache that its last writer allocates from. Never throws: it runs in
// destructors, and at the end of the program when CUDA may be gone.
void release(Block* block) {
  Context& w = *block->writer;
  const bool captured_here = w.capturing_thread == std::this_thread::get_id();
  const uint64_t readers = block->readers & ~(uint64_t{1} << w.id);
  if (readers && !captured_here) {
    std::vector<Context*> all;
    {
      std::lock_guard lock(contexts().mutex);
      all = contexts().all;
    }
    for (Context* r : all) {
      if (!(readers >> r->id & 1)) continue;
      try {
        wait_for(w, *r);
      } catch (const Error&) {  // CUDA is gone or broken: nobody will use the memory again
      }
    }
  }
  // What is freed during a capture may be read at every replay: it stays with the graph.
  if (block->exact && captured_here) {
    w.capture_pool->keep(block->data);
  } else if (block->exact) {
    cudaFreeAsync(block->data, w.stream);
  } else {
    const auto& pool = block->pool ? block->pool : captured_here ? w.capture_pool : w.pool;
    pool->put(block->size_class, block->data);
  }
  delete block;
}

struct Deleter {
  Block* block;
  void operator()(void*) const { release(block); }
};

Block* block_of(const Tensor& t) {
  const Deleter* d = std::get_deleter<Deleter>(t.storage());
  return d ? d->block : nullptr;
}

void check_place(const Context& c, const Tensor& t) {
  const Device here{Device::Type::kCuda, c.device};
  if (t.device() == here) return;
  fail("a tensor on " + t.device().str() + " among others on " + here.str(), "CUDA");
}

[[noreturn]] void fail_call(const char* call, const std::string& what) {
  fail(std::string(call) + ": " + what, "CUDA");
}

// `later` waits, on the GPU, for what `earlier` has been given so far. Both on the current device.
void wait_for(cudaStream_t later, cudaStream_t earlier) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  const cudaError_t recorded = cudaEventRecord(event, earlier);
  const cudaError_t supports_pdl =
      recorded == cudaSuccess ? cudaStreamWaitEvent(later, event, 0) : cudaSuccess;
  cudaEventDestroy(event);  // when it has happened
  check(recorded, "cudaEventRecord");
  check(supports_pdl, "cudaStreamWaitEvent");
}

std::string why_not(cudaError_t result) {
  switch (result) {
    case cudaErrorInsufficientDriver:
      return "no NVIDIA driver, or one older than this program's CUDA";
    case cudaErrorNoDevice:
      return "no GPU";
    default:
      return std::string("CUDA does not start: ") + cudaGetErrorString(result);
  }
}

}  // namespace

void check(cudaError_t result, const char* call) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // forgets it, unless it cannot be survived
  fail_call(call, cudaGetErrorString(result));
}

void check(cublasStatus_t result, const char* call) {
  if (result != CUBLAS_STATUS_SUCCESS) fail_call(call, cublasGetStatusString(result));
}

void check(cudnnStatus_t result, const char* call) {
  if (result != CUDNN_STATUS_SUCCESS) fail_call(call, cudnnGetErrorString(result));
}

void set_dynamic_shared_memory_limit(const void* kernel, size_t bytes) {
  if (bytes <= 40 * 1024) return;  // it has 48 KiB, together with what it declares itself
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

int count_devices(std::string& why) {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess || count == 0) {
    cudaGetLastError();
    why = why_not(result == cudaSuccess ? cudaErrorNoDevice : result);
    return 0;
  }
  for (int i = 0; i < count; ++i) {
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, i) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, i) != cudaSuccess ||
        10 * major + minor < kOldestCompute) {
      cudaGetLastError();
      // Devices are counted from 0 without gaps, so the first that is too old ends the count.
      why = "GPU " + std::to_string(i) + " has compute capability " + std::to_string(major) + "." +
            std::to_string(minor) + ", this build needs 8.0";
      return i;
    }
  }
  return count;
}

void* Pool::take(int size_class) {
  std::lock_guard lock(mutex_);
  const auto found = idle_.find(size_class);
  if (found == idle_.end() || found->second.empty()) return nullptr;
  void* data = found->second.back();
  found->second.pop_back();
  return data;
}

void Pool::put(int size_class, void* data) {
  std::lock_guard lock(mutex_);
  idle_[size_class].push_back(data);
}

void Pool::keep(void* data) {
  std::lock_guard lock(mutex_);
  kept_.push_back(data);
}

bool Pool::release(int device) {
  std::lock_guard lock(mutex_);
  bool any = !kept_.empty();
  for (void* data : kept_) cudaFree(data);
  kept_.clear();
  for (auto& [size_class, list] : idle_) {
    any |= !list.empty();
    for (void* data : list) {
      if (cudaFree(data) == cudaSuccess) contexts().reserved[device] -= class_bytes(size_class);
    }
    list.clear();
  }
  return any;
}

Pool::~Pool() {
  if (device_ >= 0) release(device_);
}

cublasHandle_t Context::blas() {
  if (!blas_) {
    check(cublasCreate(&blas_), "cublasCreate");
    check(cublasSetStream(blas_, stream), "cublasSetStream");
    // Its own workspace would be asked of the driver in the middle of a capture.
    check(cudaMalloc(&blas_workspace_, kBlasWorkspace), "cudaMalloc");
    check(cublasSetWorkspace(blas_, blas_workspace_, kBlasWorkspace), "cublasSetWorkspace");
  }
  return blas_;
}

cudnnHandle_t Context::dnn() {
  if (!dnn_) {
    check(cudnnCreate(&dnn_), "cudnnCreate");
    check(cudnnSetStream(dnn_, stream), "cudnnSetStream");
  }
  return dnn_;
}

void Context::hold(std::shared_ptr<void> memory) {
  if (const Deleter* d = std::get_deleter<Deleter>(memory)) {
    held_bytes_ += class_bytes(d->block->size_class);
  }
  held_.push_back(std::move(memory));
}

cudnnHandle_t Context::side_stream_dnn(std::vector<Tensor> reads, const Tensor& result) {
  if (!side_stream) {
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreate");
    side_stream = made;
  }
  if (!side_stream_dnn_) {
    cudnnHandle_t made = nullptr;
    check(cudnnCreate(&made), "cudnnCreate");
    check(cudnnSetStream(made, side_stream), "cudnnSetStream");
    side_stream_dnn_ = made;
  }
  if (held_bytes_ > kMostHeld) join();
  wait_for(side_stream, stream);
  side_stream_pending = true;
  for (const Tensor& t : reads) {
    hold(t.storage());
    if (Block* block = block_of(t)) block->read_on_side_stream = true;
  }
  hold(result.storage());
  if (Block* block = block_of(result)) block->written_on_side_stream = true;
  return side_stream_dnn_;
}

void* Context::allocate_on_side_stream(size_t bytes) {
  auto memory = allocate(bytes);
  void* data = memory.get();
  hold(std::move(memory));
  wait_for(side_stream, stream);  // until when it is allocated
  return data;
}

void Context::join() {
  if (!side_stream_pending) return;
  wait_for(stream, side_stream);
  side_stream_pending = false;
  held_bytes_ = 0;
  const auto done = std::move(held_);
  held_.clear();
}

int32_t* Context::counters(size_t n) {
  if (n > kCounters) fail("a matrix of so many columns is not supported", "CUDA");
  if (!counters_) {
    if (capturing())
      fail("the first batch norm is inside a captured step", "CUDA", "run the step once before");
    void* data = nullptr;
    check(cudaMalloc(&data, kCounters * sizeof(int32_t)), "cudaMalloc");
    check(cudaMemsetAsync(data, 0, kCounters * sizeof(int32_t), stream), "cudaMemsetAsync");
    counters_ = static_cast<int32_t*>(data);
  }
  return counters_;
}

std::shared_ptr<void> Context::allocate(size_t bytes) {
  auto block = std::make_unique<Block>();
  block->size_class = size_class(bytes);
  block->writer = this;
  block->pool = capture_pool;
  if (kExactMemory && !capture_pool) {
    block->exact = true;
    const cudaError_t result = cudaMallocAsync(&block->data, bytes, stream);
    if (result == cudaErrorMemoryAllocation) fail_full(device, bytes);
    check(result, "cudaMallocAsync");
  } else {
    block->data = (capture_pool ? capture_pool : pool)->take(block->size_class);
    if (!block->data) block->data = driver_allocate(*this, block->size_class);
  }
  void* data = block->data;
  return std::shared_ptr<void>(data, Deleter{block.release()});
}

void Context::make_stages() {
  if (capturing()) fail("host memory cannot take part in a captured step", "CUDA");
  if (stages_[1].data) return;
  for (Stage& s : stages_) {
    check(cudaMallocHost(&s.data, kStageBytes), "cudaMallocHost");
    check(cudaEventCreateWithFlags(&s.done, cudaEventDisableTiming), "cudaEventCreate");
  }
}

void Context::upload(void* dst, const void* src, size_t bytes) {
  make_stages();
  for (size_t at = 0; at < bytes; at += kStageBytes) {
    Stage& s = stages_[next_stage_ ^= 1];
    const size_t n = std::min(kStageBytes, bytes - at);
    check(cudaEventSynchronize(s.done), "cudaEventSynchronize");  // its last content has left
    std::memcpy(s.data, static_cast<const std::byte*>(src) + at, n);
    check(cudaMemcpyAsync(static_cast<std::byte*>(dst) + at, s.data, n, cudaMemcpyHostToDevice,
                          stream),
          "cudaMemcpyAsync");
    check(cudaEventRecord(s.done, stream), "cudaEventRecord");
  }
}

void Context::download(void* dst, const void* src, size_t bytes) {
  make_stages();
  // One piece is on its way while the one before it is copied out.
  const auto copy_out = [&](size_t at, Stage& s) {
    check(cudaEventSynchronize(s.done), "cudaEventSynchronize");
    std::memcpy(static_cast<std::byte*>(dst) + at, s.data, std::min(kStageBytes, bytes - at));
  };
  for (size_t at = 0; at < bytes; at += kStageBytes) {
    Stage& s = stages_[next_stage_ ^= 1];
    check(cudaEventSynchronize(s.done), "cudaEventSynchronize");
    check(cudaMemcpyAsync(s.data, static_cast<const std::byte*>(src) + at,
                          std::min(kStageBytes, bytes - at), cudaMemcpyDeviceToHost, stream),
          "cudaMemcpyAsync");
    check(cudaEventRecord(s.done, stream), "cudaEventRecord");
    if (at) copy_out(at - kStageBytes, stages_[next_stage_ ^ 1]);
  }
  if (bytes) copy_out((bytes - 1) / kStageBytes * kStageBytes, stages_[next_stage_]);
}

// Idle places for one float each. A place may be given back on any thread, and at the end of the
// program, so they live as long as somebody knows them.
struct Numbers {
  struct Place {
    float* host = nullptr;
    cudaEvent_t arrived = nullptr;
  };
  std::mutex mutex;
  std::vector<Place> idle;

  Place take() {
    {
      std::lock_guard lock(mutex);
      if (!idle.empty()) {
        const Place p = idle.back();
        idle.pop_back();
        return p;
      }
    }
    Place p;
    void* memory = nullptr;
    check(cudaMallocHost(&memory, sizeof(float)), "cudaMallocHost");
    p.host = static_cast<float*>(memory);
    check(cudaEventCreateWithFlags(&p.arrived, cudaEventDisableTiming), "cudaEventCreate");
    return p;
  }
  void give_back(const Place& p) {
    std::lock_guard lock(mutex);
    idle.push_back(p);
  }
};

std::function<float()> Context::download_later(const float* src) {
  if (capturing()) fail("host memory cannot take part in a captured step", "CUDA");
  if (!numbers_) numbers_ = std::make_shared<Numbers>();
  const std::shared_ptr<Numbers::Place> place(new Numbers::Place(numbers_->take()),
                                              [from = numbers_](Numbers::Place* p) {
                                                from->give_back(*p);
                                                delete p;
                                              });
  check(cudaMemcpyAsync(place->host, src, sizeof(float), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaEventRecord(place->arrived, stream), "cudaEventRecord");
  return [place] {
    check(cudaEventSynchronize(place->arrived), "cudaEventSynchronize");
    return *place->host;
  };
}

void Context::synchronize() {
  join();
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

Context& context(int device) {
  use_device(device);
  for (Context* c : lease.mine) {
    if (c->device == device) return *c;
  }
  Contexts& all = contexts();
  std::lock_guard lock(all.mutex);
  const auto idle = std::ranges::find_if(all.idle, [&](Context* c) { return c->device == device; });
  if (idle != all.idle.end()) {
    lease.mine.push_back(*idle);
    all.idle.erase(idle);
    return *lease.mine.back();
  }
  if (all.all.size() == kMaxContexts) {
    fail("more than " + std::to_string(kMaxContexts) + " threads use GPUs", "CUDA",
         "train or serve fewer networks in parallel");
  }
  auto made = std::make_unique<Context>();
  made->device = device;
  made->id = static_cast<int>(all.all.size());
  check(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  all.all.push_back(made.get());
  lease.mine.push_back(made.get());
  return *made.release();
}

void wait_for(Context& later, Context& earlier) {
  if (&later == &earlier) return;
  const auto mine = std::this_thread::get_id();
  if (later.capturing_thread == mine || earlier.capturing_thread == mine) {
    fail("memory of another thread was touched for the first time inside a captured step", "CUDA",
         "run the step once before");
  }
  const int before = current_device;
  use_device(earlier.device);  // an event belongs to a device
  // One after the other: nobody holds one of these and waits for the second.
  cudaEvent_t event = nullptr;
  {
    std::lock_guard lock(earlier.capture_mutex);
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    // join() is for the thread that owns the context: it gives up what is held.
    if (earlier.side_stream_pending) wait_for(earlier.stream, earlier.side_stream);
    check(cudaEventRecord(event, earlier.stream), "cudaEventRecord");
  }
  if (before >= 0) use_device(before);
  std::lock_guard lock(later.capture_mutex);
  check(cudaStreamWaitEvent(later.stream, event, 0), "cudaStreamWaitEvent");
  check(cudaEventDestroy(event), "cudaEventDestroy");  // when it has happened
}

const void* read_raw(Context& c, const Tensor& t) {
  check_place(c, t);
  return read_peer(c, t);
}

const void* read_peer(Context& c, const Tensor& t) {
  if (Block* b = block_of(t)) {
    Context* writer = b->writer;
    if (b->written_on_side_stream && writer == &c) c.join();
    const uint64_t me = uint64_t{1} << c.id;
    if (writer != &c && !(b->readers & me)) {
      wait_for(c, *writer);
      b->readers |= me;
    }
  }
  return t.raw();
}

void* write_raw(Context& c, const Tensor& t) {
  check_place(c, t);
  if (Block* b = block_of(t)) {
    Context* writer = b->writer;
    if ((b->written_on_side_stream || b->read_on_side_stream) && writer == &c) c.join();
    const uint64_t others = b->readers & ~(uint64_t{1} << c.id);
    if (writer != &c || others) {
      wait_for(c, *writer);
      if (others) {
        std::vector<Context*> all;
        {
          std::lock_guard lock(contexts().mutex);
          all = contexts().all;
        }
        for (Context* r : all) {
          if (others >> r->id & 1) wait_for(c, *r);
        }
      }
      b->readers = 0;
      b->writer = &c;
    }
  }
  return t.raw();
}

Capture::Capture(Context& c) : c_(c) {
  if (c.capturing()) fail("a captured step inside another", "CUDA");
  c.join();
  c.capture_mutex.lock();
  c.capture_pool = std::make_shared<Pool>(c.device);
  c.capturing_thread = std::this_thread::get_id();
  const cudaError_t result = cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal);
  if (result != cudaSuccess) {
    end();
    check(result, "cudaStreamBeginCapture");
  }
}

void Capture::end() {
  open_ = false;
  c_.capturing_thread = std::thread::id();
  c_.capture_pool = nullptr;
  c_.capture_mutex.unlock();
}

std::unique_ptr<Capture::Graph> Capture::finish() {
  auto graph = std::make_unique<Graph>();
  graph->pool = c_.capture_pool;
  c_.join();
  cudaGraph_t recorded = nullptr;
  const cudaError_t result = cudaStreamEndCapture(c_.stream, &recorded);
  end();
  check(result, "cudaStreamEndCapture");
  const cudaError_t made = cudaGraphInstantiate(&graph->exec, recorded, 0);
  cudaGraphDestroy(recorded);
  check(made, "cudaGraphInstantiate");
  return graph;
}

Capture::~Capture() {
  if (!open_) return;
  try {
    c_.join();
  } catch (const Error&) {  // the capture is spoilt, which is why it ends here
  }
  cudaGraph_t recorded = nullptr;
  if (cudaStreamEndCapture(c_.stream, &recorded) == cudaSuccess && recorded) {
    cudaGraphDestroy(recorded);
  }
  cudaGetLastError();
  end();
}

Capture::Graph::~Graph() {
  if (exec) cudaGraphExecDestroy(exec);
}

void Capture::Graph::launch(Context& c) const {
  check(cudaGraphLaunch(exec, c.stream), "cudaGraphLaunch");
}

size_t bytes_reserved(int device) { return contexts().reserved[device]; }

}  // namespace ens::cuda
