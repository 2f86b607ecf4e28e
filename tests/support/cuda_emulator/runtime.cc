// SPDX-License-Identifier: Apache-2.0
// The rest of the runtime: devices, errors, memory, copies, launches.
#include <cstring>
#include <map>
#include <set>

#include "tests/support/cuda_emulator/emulator.h"
#include "tests/support/cuda_emulator/launch.h"
#include "tests/support/cuda_emulator/sanitizer.h"

namespace ens::emulator {
namespace {

constexpr size_t kSharedBytes = 48 << 10;  // of a block, unless it asks for more
constexpr size_t kParameterBytes = 4096;   // the older limit, which every GPU has

thread_local int device = 0;
thread_local cudaError_t last_error = cudaSuccess;

// Kernels that may use more shared memory than kSharedBytes.
std::map<const void*, size_t>& shared_limits() {
  static auto* limits = new std::map<const void*, size_t>;
  return *limits;
}

bool valid(int d) { return d >= 0 && d < device_count(); }

int place_of(const void* p) {
  const Memory* m = find_memory(p);
  return m ? m->device : kHost;
}

// Do the two ends lie where `kind` says?
bool fits(cudaMemcpyKind kind, const void* dst, const void* src) {
  const bool to_host = place_of(dst) == kHost, from_host = place_of(src) == kHost;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return from_host && to_host;
    case cudaMemcpyHostToDevice:
      return from_host && !to_host;
    case cudaMemcpyDeviceToHost:
      return !from_host && to_host;
    case cudaMemcpyDeviceToDevice:
      return !from_host && !to_host;
    default:
      return true;
  }
}

struct Plane {  // `height` rows of `width` bytes
  size_t width, height, dst_pitch, src_pitch;
  size_t reach(size_t pitch) const { return height ? (height - 1) * pitch + width : 0; }
};

void copy_now(void* dst, const void* src, const Plane& p) {
  const int to = place_of(dst), from = place_of(src);
  check_access(dst, p.reach(p.dst_pitch), to, "a copy's target");
  check_access(src, p.reach(p.src_pitch), from, "a copy's source");
  const Open open_to(to), open_from(from);
  for (size_t row = 0; row < p.height; ++row) {
    std::memcpy(static_cast<char*>(dst) + row * p.dst_pitch,
                static_cast<const char*>(src) + row * p.src_pitch, p.width);
  }
}

// A copy that the host may or may not wait for. What touches pageable memory behaves as if it were
// staged: read before this returns, written before this returns.
cudaError_t copy(void* dst, const void* src, const Plane& p, cudaMemcpyKind kind,
                 cudaStream_t stream, bool wait) {
  if (!fits(kind, dst, src)) return set_error(cudaErrorInvalidValue);
  if (p.width == 0 || p.height == 0) return set_error(cudaSuccess);
  const bool pageable_source = !find_memory(src), pageable_target = !find_memory(dst);
  if (is_capturing(stream) && (pageable_source || pageable_target)) {
    return set_error(spoil_capture(stream));
  }
  if (wait) {
    if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  }
  Work work;
  if (pageable_source) {
    std::vector<char> staged(p.reach(p.src_pitch));
    std::memcpy(staged.data(), src, staged.size());
    work = [=, data = std::move(staged)] { copy_now(dst, data.data(), p); };
  } else {
    work = [=] { copy_now(dst, src, p); };
  }
  const cudaError_t error = enqueue(stream, {"a copy"}, std::move(work));
  if (error == cudaSuccess && (wait || pageable_target)) wait_for(last_op(stream));
  return set_error(error);
}

cudaError_t set(void* dst, int value, size_t bytes, cudaStream_t stream, bool wait) {
  if (wait) {
    if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  }
  const int d = device_of(stream);
  const cudaError_t error = enqueue(stream, {"cudaMemset"}, [=] {
    check_access(dst, bytes, d, "cudaMemset");
    std::memset(dst, value, bytes);
  });
  return set_error(error);
}

cudaError_t allocate(void** p, size_t bytes, Memory** made) {
  *p = nullptr;
  *made = nullptr;
  if (!valid(current_device())) return cudaErrorNoDevice;
  if (bytes == 0) return cudaSuccess;
  *made = reserve(current_device(), bytes);
  if (!*made) return cudaErrorMemoryAllocation;
  *p = (*made)->start;
  return cudaSuccess;
}

cudaError_t allocate_pinned(void** p, size_t bytes) {
  if (const cudaError_t error = forbidden_by_capture()) return error;
  *p = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  std::memset(*p, 0xff, bytes);
  poison(static_cast<char*>(*p) + bytes, (bytes + 4095) / 4096 * 4096 - bytes);
  pin(*p, bytes);
  return cudaSuccess;
}

Memory* memory_to_free(void* p, const char* call) {
  Memory* m = find_memory(p);
  if (!m || m->start != p || m->device == kHost) die(std::string(call) + ": not an allocation");
  return m;
}

}  // namespace

int current_device() { return device; }

cudaError_t set_error(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t launch_kernel(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
                          cudaStream_t stream, bool dependent, size_t parameter_bytes,
                          std::vector<const void*> pointers, std::function<void()> thread) {
  const Lock lock(machine());
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return set_error(cudaErrorInvalidConfiguration);
  }
  const auto limit = shared_limits().find(kernel);
  if (shared_bytes > (limit == shared_limits().end() ? kSharedBytes : limit->second)) {
    return set_error(cudaErrorInvalidValue);
  }
  if (parameter_bytes > kParameterBytes) return set_error(cudaErrorInvalidValue);
  if (device_of(stream) != current_device()) return set_error(cudaErrorInvalidResourceHandle);
  const Label label{"a kernel", kernel};
  for (size_t i = 0; i < pointers.size(); ++i) {
    if (pointers[i] && !belongs_to_device(pointers[i], current_device())) {
      die("kernel " + describe(label) + ": its " + std::to_string(i + 1) +
          ". pointer is not memory of device " + std::to_string(current_device()));
    }
  }
  const void* const previous = kernel_before(stream);
  const auto asked = std::make_shared<Asked>();  // a graph's replays come one after another
  Work prelude;
  if (dependent) prelude = [=] { *asked = run_until_wait(label, grid, block, thread); };
  const auto work = [=] {
    run_grid(label, grid, block, shared_bytes, thread, std::exchange(*asked, {}));
    if (dependent) check_dependent(label, previous);
  };
  return set_error(enqueue(stream, label, work, false, std::move(prelude)));
}

}  // namespace ens::emulator

using namespace ens::emulator;

// ---- errors

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define ENS_NAME(e) \
  case e:           \
    return #e;
    ENS_NAME(cudaSuccess)
    ENS_NAME(cudaErrorInvalidValue)
    ENS_NAME(cudaErrorMemoryAllocation)
    ENS_NAME(cudaErrorInvalidConfiguration)
    ENS_NAME(cudaErrorInvalidDevice)
    ENS_NAME(cudaErrorNoDevice)
    ENS_NAME(cudaErrorInvalidResourceHandle)
    ENS_NAME(cudaErrorIllegalState)
    ENS_NAME(cudaErrorNotReady)
    ENS_NAME(cudaErrorPeerAccessAlreadyEnabled)
    ENS_NAME(cudaErrorStreamCaptureUnsupported)
    ENS_NAME(cudaErrorStreamCaptureInvalidated)
    ENS_NAME(cudaErrorStreamCaptureMerge)
    ENS_NAME(cudaErrorStreamCaptureUnmatched)
    ENS_NAME(cudaErrorStreamCaptureUnjoined)
    ENS_NAME(cudaErrorStreamCaptureIsolation)
    ENS_NAME(cudaErrorStreamCaptureImplicit)
    ENS_NAME(cudaErrorCapturedEvent)
    ENS_NAME(cudaErrorStreamCaptureWrongThread)
#undef ENS_NAME
    default:
      return "a CUDA error without a name in the emulator";
  }
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

// ---- devices

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return set_error(*count ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int d) {
  if (!valid(d)) return set_error(device_count() ? cudaErrorInvalidDevice : cudaErrorNoDevice);
  device = d;
  return set_error(cudaSuccess);
}
cudaError_t cudaGetDevice(int* d) {
  *d = device;
  return set_error(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int d) {
  if (!valid(d)) return set_error(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      break;
    case cudaDevAttrWarpSize:
      *value = 32;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = kSharedBytes;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = kMostSharedBytes;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      break;
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrUnifiedAddressing:
      *value = 1;
      break;
    default:
      die("cudaDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
  }
  return set_error(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int d) {
  if (!valid(d)) return set_error(cudaErrorInvalidDevice);
  *p = {};
  std::strcpy(p->name, "Emulated GPU");
  p->totalGlobalMem = kDeviceMemory;
  p->sharedMemPerBlock = kSharedBytes;
  p->sharedMemPerBlockOptin = kMostSharedBytes;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->major = 9;
  p->minor = 0;
  p->multiProcessorCount = 4;
  p->maxThreadsPerMultiProcessor = 2048;
  p->l2CacheSize = 50 << 20;
  p->unifiedAddressing = 1;
  return set_error(cudaSuccess);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return set_error(cudaSuccess);
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return set_error(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize() {
  const Lock lock(machine());
  if (const cudaError_t error = device_is_captured(device)) return set_error(error);
  drain(device);
  return set_error(cudaSuccess);
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int d, int peer) {
  if (!valid(d) || !valid(peer)) return set_error(cudaErrorInvalidDevice);
  *can = d != peer;
  return set_error(cudaSuccess);
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  const Lock lock(machine());
  if (!valid(peer) || peer == device) return set_error(cudaErrorInvalidDevice);
  if (peer_allowed(device, peer)) return set_error(cudaErrorPeerAccessAlreadyEnabled);
  allow_peer(device, peer);
  return set_error(cudaSuccess);
}

// ---- memory

cudaError_t cudaMalloc(void** p, size_t bytes) {
  const Lock lock(machine());
  *p = nullptr;
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  Memory* made;
  const cudaError_t error = allocate(p, bytes, &made);
  if (made) make_live(*made);
  return set_error(error);
}

// Waits for the whole device, as the real one does.
cudaError_t cudaFree(void* p) {
  const Lock lock(machine());
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  if (!p) return set_error(cudaSuccess);
  Memory* m = memory_to_free(p, "cudaFree");
  drain(m->device);
  if (!m->live) die("cudaFree: freed before");
  make_dead(*m);
  return set_error(cudaSuccess);
}

cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  const Lock lock(machine());
  *p = nullptr;
  if (is_capturing(stream)) die("cudaMallocAsync into a stream that is captured is not emulated");
  Memory* made;
  const cudaError_t error = allocate(p, bytes, &made);
  if (!made) return set_error(error);
  return set_error(enqueue(stream, {"cudaMallocAsync"}, [made] { make_live(*made); }));
}

cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  const Lock lock(machine());
  if (!p) return set_error(cudaSuccess);
  if (is_capturing(stream)) die("cudaFreeAsync into a stream that is captured is not emulated");
  Memory* m = memory_to_free(p, "cudaFreeAsync");
  return set_error(enqueue(stream, {"cudaFreeAsync"}, [m] {
    if (!m->live) die("cudaFreeAsync: not allocated at this point of the stream");
    make_dead(*m);
  }));
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int d) {
  if (!valid(d)) return set_error(cudaErrorInvalidDevice);
  *pool = reinterpret_cast<cudaMemPool_t>(static_cast<uintptr_t>(d) + 1);
  return set_error(cudaSuccess);
}
// What pools keep is not emulated: addresses come back late, whatever the settings.
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return set_error(cudaSuccess);
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return set_error(cudaSuccess); }

cudaError_t cudaMallocHost(void** p, size_t bytes) {
  const Lock lock(machine());
  return set_error(allocate_pinned(p, bytes));
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  const Lock lock(machine());
  return set_error(allocate_pinned(p, bytes));
}
cudaError_t cudaFreeHost(void* p) {
  const Lock lock(machine());
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  if (!p) return set_error(cudaSuccess);
  Memory* m = find_memory(p);
  if (!m || m->start != p || m->device != kHost) die("cudaFreeHost: not an allocation");
  for (int d = 0; d < device_count(); ++d) drain(d);
  unpoison(p, (m->bytes + 4095) / 4096 * 4096);
  unpin(p);
  std::free(p);
  return set_error(cudaSuccess);
}
cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
  const Lock lock(machine());
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  pin(p, bytes);
  return set_error(cudaSuccess);
}
cudaError_t cudaHostUnregister(void* p) {
  const Lock lock(machine());
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  for (int d = 0; d < device_count(); ++d) drain(d);
  unpin(p);
  return set_error(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  const Lock lock(machine());
  *total = kDeviceMemory;
  *available = kDeviceMemory - memory_in_use(device);
  return set_error(cudaSuccess);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  const Lock lock(machine());
  *a = {};
  const Memory* m = find_memory(p);
  a->type = !m                   ? cudaMemoryTypeUnregistered
            : m->device == kHost ? cudaMemoryTypeHost
                                 : cudaMemoryTypeDevice;
  a->device = m && m->device != kHost ? m->device : device;
  if (m) a->devicePointer = const_cast<void*>(p);
  if (m && m->device == kHost) a->hostPointer = const_cast<void*>(p);
  return set_error(cudaSuccess);
}

// ---- copies

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Lock lock(machine());
  return copy(dst, src, {bytes, 1, bytes, bytes}, kind, stream, false);
}
cudaError_t cudaMemcpy(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(machine());
  return copy(dst, src, {bytes, 1, bytes, bytes}, kind, nullptr, true);
}
cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  const Lock lock(machine());
  if (width > dst_pitch || width > src_pitch) return set_error(cudaErrorInvalidPitchValue);
  return copy(dst, src, {width, height, dst_pitch, src_pitch}, kind, stream, false);
}
cudaError_t cudaMemcpyPeerAsync(void* dst, int dst_device, const void* src, int src_device,
                                size_t bytes, cudaStream_t stream) {
  const Lock lock(machine());
  if (place_of(dst) != dst_device || place_of(src) != src_device) {
    return set_error(cudaErrorInvalidValue);
  }
  return copy(dst, src, {bytes, 1, bytes, bytes}, cudaMemcpyDeviceToDevice, stream, false);
}

cudaError_t cudaMemsetAsync(void* dst, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock(machine());
  return set(dst, value, bytes, stream, false);
}
cudaError_t cudaMemset(void* dst, int value, size_t bytes) {
  const Lock lock(machine());
  return set(dst, value, bytes, nullptr, true);
}

// ---- kernels

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Lock lock(machine());
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<size_t>(value) > kMostSharedBytes) {
      return set_error(cudaErrorInvalidValue);
    }
    shared_limits()[kernel] = static_cast<size_t>(value);
  }
  return set_error(cudaSuccess);
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->ptxVersion = attributes->binaryVersion = 90;
  return set_error(cudaSuccess);
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads,
                                                          size_t) {
  *blocks = std::max(1, 2048 / std::max(threads, 1));
  return set_error(cudaSuccess);
}
