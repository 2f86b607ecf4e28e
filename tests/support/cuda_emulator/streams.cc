// SPDX-License-Identifier: Apache-2.0
// Streams, events, capture and graphs.
#include <algorithm>
#include <map>
#include <set>

#include "tests/support/cuda_emulator/emulator.h"

namespace ens::emulator {
namespace {

struct Node {
  Label what;
  Work work;
  int device = 0;
  bool on_host = false;
  std::vector<int> after;  // earlier nodes
  Work prelude;
};

struct Capture {
  uint64_t id = 0;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  cudaStream_t origin = nullptr;
  std::vector<cudaStream_t> streams;
  std::vector<Node> nodes;
  bool spoilt = false;
};

}  // namespace
}  // namespace ens::emulator

using ens::emulator::OpPtr;

// Handles are never freed, so that use after destruction is recognised.
struct CUstream_st {
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  bool legacy = false, destroyed = false;
  uint64_t lane = 0;
  OpPtr last;
  ens::emulator::Capture* capture = nullptr;
  std::vector<int> frontier;  // the nodes that what comes next waits for
};

struct CUevent_st {
  int device = 0;
  unsigned flags = 0;
  bool destroyed = false;
  OpPtr op;              // null: never recorded
  uint64_t capture = 0;  // recorded in this capture, whose nodes these are; 0: in none
  std::vector<int> nodes;
};

struct CUgraph_st {
  std::vector<ens::emulator::Node> nodes;
  bool destroyed = false;
};

struct CUgraphExec_st {
  std::vector<ens::emulator::Node> nodes;
  bool destroyed = false;
  OpPtr last;  // of the latest launch: launches of one graph follow one another
};

namespace ens::emulator {
namespace {

thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

struct Handles {
  std::set<cudaStream_t> streams;  // live ones
  std::map<int, cudaStream_t> legacy;
  std::map<std::thread::id, std::map<int, cudaStream_t>> per_thread;
  std::map<uint64_t, std::unique_ptr<Capture>> captures;  // those that go on
  uint64_t next_capture = 1;
};

Handles& handles() {
  static Handles* h = new Handles;
  return *h;
}

cudaStream_t make_stream(int device, unsigned flags, int priority) {
  auto* s = new CUstream_st;
  s->device = device;
  s->flags = flags;
  s->priority = priority;
  s->lane = new_lane();
  handles().streams.insert(s);
  return s;
}

template <typename Handle>
void require_live(Handle* h, const char* what) {
  if (!h) die(std::string("a null ") + what);
  if (h->destroyed) die(std::string("use of a destroyed ") + what);
}

// The stream behind a handle, which may be one of the default streams' names.
cudaStream_t resolve(cudaStream_t stream) {
  if (stream == nullptr || stream == cudaStreamLegacy) {
    cudaStream_t& legacy = handles().legacy[current_device()];
    if (!legacy) {
      legacy = make_stream(current_device(), cudaStreamDefault, 0);
      legacy->legacy = true;
      legacy->lane = ~static_cast<uint64_t>(current_device());  // whenever it was made
    }
    return legacy;
  }
  if (stream == cudaStreamPerThread) {
    cudaStream_t& mine = handles().per_thread[std::this_thread::get_id()][current_device()];
    if (!mine) mine = make_stream(current_device(), cudaStreamDefault, 0);
    return mine;
  }
  require_live(stream, "stream");
  return stream;
}

bool is_blocking(cudaStream_t s) { return !(s->flags & cudaStreamNonBlocking); }

// What the stream's next operation waits for.
std::vector<OpPtr> before(cudaStream_t s) {
  std::vector<OpPtr> ops{s->last};
  if (s->legacy) {
    for (cudaStream_t other : handles().streams) {
      if (other != s && other->device == s->device && is_blocking(other))
        ops.push_back(other->last);
    }
  } else if (is_blocking(s)) {
    const auto legacy = handles().legacy.find(s->device);
    if (legacy != handles().legacy.end()) ops.push_back(legacy->second->last);
  }
  return ops;
}

cudaError_t spoil(Capture* capture, cudaError_t error) {
  capture->spoilt = true;
  return error;
}

// The legacy stream would wait for the captured ones: never allowed.
cudaError_t legacy_during_capture(cudaStream_t s) {
  if (!s->legacy) return cudaSuccess;
  for (const auto& [id, capture] : handles().captures) {
    for (cudaStream_t other : capture->streams) {
      if (other->device == s->device && is_blocking(other)) {
        return spoil(capture.get(), cudaErrorStreamCaptureImplicit);
      }
    }
  }
  return cudaSuccess;
}

cudaError_t enqueue_op(cudaStream_t s, Label what, Work work, bool on_host,
                       const std::vector<OpPtr>& also_after = {}) {
  if (const cudaError_t error = legacy_during_capture(s)) return error;
  auto op = std::make_shared<Op>();
  op->what = what;
  op->work = std::move(work);
  op->device = s->device;
  op->on_host = on_host;
  op->lane = s->lane;
  std::vector<OpPtr> after = before(s);
  after.insert(after.end(), also_after.begin(), also_after.end());
  submit(op, after);
  s->last = op;
  let_time_pass();
  return cudaSuccess;
}

void add_to(std::vector<int>& frontier, const std::vector<int>& nodes) {
  for (int n : nodes) {
    if (std::ranges::find(frontier, n) == frontier.end()) frontier.push_back(n);
  }
}

// Do all nodes lead to the frontier?
bool all_joined(const std::vector<Node>& nodes, const std::vector<int>& frontier) {
  std::vector<bool> reached(nodes.size());
  for (int n : frontier) reached[static_cast<size_t>(n)] = true;
  for (size_t i = nodes.size(); i-- > 0;) {  // a node's predecessors come before it
    if (!reached[i]) return false;
    for (int n : nodes[i].after) reached[static_cast<size_t>(n)] = true;
  }
  return true;
}

cudaError_t query(const OpPtr& op) {
  run_one();  // a host that polls must see an end
  return !op || op->done ? cudaSuccess : cudaErrorNotReady;
}

cudaStreamCaptureStatus status_of(cudaStream_t s) {
  if (!s->capture) return cudaStreamCaptureStatusNone;
  return s->capture->spoilt ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}

}  // namespace

cudaError_t enqueue(cudaStream_t stream, Label what, Work work, bool on_host, Work prelude) {
  cudaStream_t s = resolve(stream);
  if (!s->capture) return enqueue_op(s, what, std::move(work), on_host);
  Capture& c = *s->capture;
  if (c.spoilt) return cudaErrorStreamCaptureInvalidated;
  c.nodes.push_back({what, std::move(work), s->device, on_host, s->frontier, std::move(prelude)});
  s->frontier = {static_cast<int>(c.nodes.size()) - 1};
  return cudaSuccess;
}

const void* kernel_before(cudaStream_t stream) {
  const cudaStream_t s = resolve(stream);
  if (!s->capture) return s->last ? s->last->what.kernel : nullptr;
  if (s->frontier.size() != 1) return nullptr;
  return s->capture->nodes[static_cast<size_t>(s->frontier[0])].what.kernel;
}

OpPtr last_op(cudaStream_t stream) { return resolve(stream)->last; }

void drain(int device) {
  for (;;) {
    OpPtr pending;
    for (cudaStream_t s : handles().streams) {
      if (s->device == device && s->last && !s->last->done) pending = s->last;
    }
    if (!pending) return;
    wait_for(pending);
  }
}

int device_of(cudaStream_t stream) { return resolve(stream)->device; }
bool is_capturing(cudaStream_t stream) { return resolve(stream)->capture != nullptr; }

cudaError_t spoil_capture(cudaStream_t stream) {
  return spoil(resolve(stream)->capture, cudaErrorStreamCaptureUnsupported);
}

cudaError_t forbidden_by_capture() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (const auto& [id, c] : handles().captures) {
    const bool mine = c->thread == std::this_thread::get_id();
    if ((mine && c->mode != cudaStreamCaptureModeRelaxed) ||
        (c->mode == cudaStreamCaptureModeGlobal && thread_mode == cudaStreamCaptureModeGlobal)) {
      return spoil(c.get(), cudaErrorStreamCaptureUnsupported);
    }
  }
  return cudaSuccess;
}

cudaError_t device_is_captured(int device) {
  for (const auto& [id, c] : handles().captures) {
    for (cudaStream_t s : c->streams) {
      if (s->device == device) return spoil(c.get(), cudaErrorStreamCaptureUnsupported);
    }
  }
  return forbidden_by_capture();
}

}  // namespace ens::emulator

using namespace ens::emulator;

// ---- streams

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  const Lock lock(machine());
  *stream = make_stream(current_device(), flags, priority);
  return set_error(cudaSuccess);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(machine());
  require_live(stream, "stream");
  if (stream->capture) stream->capture->spoilt = true;
  // Its work goes on; drain() finds it through what follows it.
  const OpPtr last = stream->last;
  handles().streams.erase(stream);
  stream->destroyed = true;
  wait_for(last);  // nothing tells the two apart
  return set_error(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(machine());
  cudaStream_t s = resolve(stream);
  if (s->capture) return set_error(spoil(s->capture, cudaErrorStreamCaptureUnsupported));
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  if (s->legacy) {
    for (const OpPtr& op : before(s)) wait_for(op);
  }
  wait_for(s->last);
  return set_error(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(machine());
  cudaStream_t s = resolve(stream);
  if (s->capture) return set_error(spoil(s->capture, cudaErrorStreamCaptureUnsupported));
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  return query(s->last);
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  const Lock lock(machine());
  *priority = resolve(stream)->priority;
  return set_error(cudaSuccess);
}
cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
  const Lock lock(machine());
  *flags = resolve(stream)->flags;
  return set_error(cudaSuccess);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return set_error(cudaSuccess);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  const Lock lock(machine());
  return set_error(enqueue(
      stream, {"a host function"}, [=] { function(data); }, true));
}

// ---- events

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Lock lock(machine());
  *event = new CUevent_st;
  (*event)->device = current_device();
  (*event)->flags = flags;
  return set_error(cudaSuccess);
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(machine());
  require_live(event, "event");
  event->destroyed = true;
  event->op = nullptr;
  return set_error(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(machine());
  require_live(event, "event");
  cudaStream_t s = resolve(stream);
  if (s->device != event->device) return set_error(cudaErrorInvalidResourceHandle);
  if (Capture* c = s->capture) {
    if (c->spoilt) return set_error(cudaErrorStreamCaptureInvalidated);
    event->capture = c->id;
    event->nodes = s->frontier;
    return set_error(cudaSuccess);
  }
  const cudaError_t error = enqueue_op(s, {"cudaEventRecord"}, nullptr, false);
  if (error == cudaSuccess) {
    event->op = s->last;
    event->capture = 0;
  }
  return set_error(error);
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (flags != cudaEventRecordDefault)
    die("cudaEventRecordWithFlags: these flags are not emulated");
  return cudaEventRecord(event, stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(machine());
  require_live(event, "event");
  cudaStream_t s = resolve(stream);
  if (s->capture && s->capture->spoilt) return set_error(cudaErrorStreamCaptureInvalidated);
  if (event->capture) {
    const auto found = handles().captures.find(event->capture);
    if (found == handles().captures.end()) return set_error(cudaErrorCapturedEvent);
    Capture* c = found->second.get();
    if (c->spoilt) return set_error(cudaErrorStreamCaptureInvalidated);
    if (s->legacy) return set_error(spoil(c, cudaErrorStreamCaptureImplicit));
    if (!s->capture) {  // the stream joins the capture
      s->capture = c;
      c->streams.push_back(s);
      s->frontier.clear();
    } else if (s->capture != c) {
      s->capture->spoilt = true;
      return set_error(spoil(c, cudaErrorStreamCaptureMerge));
    }
    add_to(s->frontier, event->nodes);
    return set_error(cudaSuccess);
  }
  if (s->capture) return set_error(spoil(s->capture, cudaErrorStreamCaptureIsolation));
  if (!event->op) return set_error(cudaSuccess);
  return set_error(enqueue_op(s, {"cudaStreamWaitEvent"}, nullptr, false, {event->op}));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(machine());
  require_live(event, "event");
  if (event->capture) return set_error(cudaErrorCapturedEvent);
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  wait_for(event->op);
  return set_error(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(machine());
  require_live(event, "event");
  if (event->capture) return set_error(cudaErrorCapturedEvent);
  if (const cudaError_t error = forbidden_by_capture()) return set_error(error);
  return query(event->op);
}

// The time on the host between the two: says nothing about a real device.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(machine());
  require_live(start, "event");
  require_live(end, "event");
  if (start->capture || end->capture) return set_error(cudaErrorCapturedEvent);
  if (!start->op || !end->op || (start->flags | end->flags) & cudaEventDisableTiming) {
    return set_error(cudaErrorInvalidResourceHandle);
  }
  if (!start->op->done || !end->op->done) return set_error(cudaErrorNotReady);
  *milliseconds = static_cast<float>((end->op->finished - start->op->finished) * 1e3);
  return set_error(cudaSuccess);
}

// ---- capture

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const Lock lock(machine());
  cudaStream_t s = resolve(stream);
  if (s->legacy) return set_error(cudaErrorStreamCaptureUnsupported);
  if (s->capture) return set_error(cudaErrorIllegalState);
  auto c = std::make_unique<Capture>();
  c->id = handles().next_capture++;
  c->mode = mode;
  c->thread = std::this_thread::get_id();
  c->origin = s;
  c->streams = {s};
  s->capture = c.get();
  s->frontier.clear();
  const uint64_t id = c->id;
  handles().captures[id] = std::move(c);
  return set_error(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(machine());
  *graph = nullptr;
  cudaStream_t s = resolve(stream);
  Capture* c = s->capture;
  if (!c) return set_error(cudaErrorIllegalState);
  if (c->origin != s) return set_error(spoil(c, cudaErrorStreamCaptureUnmatched));
  if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id()) {
    return set_error(spoil(c, cudaErrorStreamCaptureWrongThread));
  }
  cudaError_t error = cudaSuccess;
  if (c->spoilt) {
    error = cudaErrorStreamCaptureInvalidated;
  } else if (!all_joined(c->nodes, s->frontier)) {
    error = cudaErrorStreamCaptureUnjoined;
  } else {
    *graph = new CUgraph_st{std::move(c->nodes), false};
  }
  for (cudaStream_t each : c->streams) each->capture = nullptr;
  handles().captures.erase(c->id);
  return set_error(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock(machine());
  *status = status_of(resolve(stream));
  return set_error(cudaSuccess);
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(thread_mode, *mode);
  return set_error(cudaSuccess);
}

// ---- graphs

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const Lock lock(machine());
  require_live(graph, "graph");
  *exec = new CUgraphExec_st{graph->nodes, false, nullptr};
  return set_error(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Lock lock(machine());
  require_live(graph, "graph");
  graph->destroyed = true;
  graph->nodes.clear();
  return set_error(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  const Lock lock(machine());
  require_live(exec, "executable graph");
  exec->destroyed = true;
  exec->nodes.clear();
  return set_error(cudaSuccess);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t) {
  const Lock lock(machine());
  require_live(exec, "executable graph");
  return set_error(cudaSuccess);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  const Lock lock(machine());
  require_live(graph, "graph");
  if (nodes) die("cudaGraphGetNodes: only counting is emulated");
  *count = graph->nodes.size();
  return set_error(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const Lock lock(machine());
  require_live(exec, "executable graph");
  cudaStream_t s = resolve(stream);
  if (s->capture) die("cudaGraphLaunch into a stream that is captured is not emulated");
  if (const cudaError_t error = enqueue_op(s, {"cudaGraphLaunch"}, nullptr, false, {exec->last})) {
    return set_error(error);
  }
  const OpPtr start = s->last;
  std::vector<OpPtr> ops;
  for (const Node& node : exec->nodes) {
    auto op = std::make_shared<Op>();
    op->what = node.what;
    op->work = node.work;
    op->device = node.device;
    op->on_host = node.on_host;
    op->lane = new_lane();
    ops.push_back(op);
    if (!node.prelude || node.after.size() != 1) continue;
    Work& before = ops[static_cast<size_t>(node.after[0])]->work;
    before = [prelude = node.prelude, work = std::move(before)] {
      prelude();
      work();
    };
  }
  for (size_t i = 0; i < ops.size(); ++i) {
    std::vector<OpPtr> after;
    for (int n : exec->nodes[i].after) after.push_back(ops[static_cast<size_t>(n)]);
    if (after.empty()) after.push_back(start);
    submit(ops[i], after);
  }
  const cudaError_t error = enqueue_op(s, {"the end of a graph"}, nullptr, false, ops);
  exec->last = s->last;
  return set_error(error);
}
