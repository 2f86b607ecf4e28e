// SPDX-License-Identifier: Apache-2.0
#include "offload/host/enclave_process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/process.h"
#include "nn/core/rng.h"
#include "nn/plan/int8_bytes.h"
#include "offload/wire/messages.h"

namespace ens {
namespace {

// A line of /proc/PID/status, in bytes; 0 if it is not there.
int64_t process_status(pid_t pid, const std::string& line) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string text; std::getline(in, text);) {
    if (text.starts_with(line + ":")) return std::stoll(text.substr(line.size() + 1)) * 1024;
  }
  return 0;
}

std::vector<std::byte> bytes_of(const void* data, size_t size) {
  const auto* from = static_cast<const std::byte*>(data);
  return {from, from + size};
}

}  // namespace

struct EnclaveProcess::Impl {
  Impl(const std::filesystem::path& program, EnclaveSettings s, const Int8Net& network,
       const std::vector<Worker>& workers, std::chrono::milliseconds timeout)
      : net(network) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      fail(std::strerror(errno), "a socket pair");
    own_end = Fd(ends[0]);
    socket = ends[0];
    const Fd other(ends[1]);
    const Fd child(::fcntl(ends[1], F_DUPFD, 3));  // inherited, as the others are not
    process.emplace(
        std::vector<std::string>{program.string(), "--socket", std::to_string(child.get())});
    layers = worker_layers(net);
    links = std::vector<Link>(workers.size());
    for (size_t w = 0; w < workers.size(); ++w) {
      std::optional<ClientSecurity> security;
      if (workers[w].security) {
        security.emplace();
        security->keys.public_key = workers[w].security->keys.public_key;
        security->keys.secret_key = SecretKey(workers[w].security->keys.secret_key.z85());
        security->server_keys = workers[w].security->server_keys;
      }
      links[w].link = std::make_unique<WorkerLink>(
          static_cast<int>(w), workers[w].address, std::move(security), timeout,
          [this](const WorkerReply& reply) { carry_back(reply); });
    }
    begin(std::move(s), workers);
  }

  ~Impl() { send_frame(socket, {.kind = Frame::kStop, .number = 0, .data = {}}); }

  void begin(EnclaveSettings s, const std::vector<Worker>& workers) {
    const std::vector<std::byte> model = to_bytes(net);
    std::memcpy(s.session_key, session_key.data(), session_key.size());
    std::memcpy(s.model_sha256, sha256(model.data(), model.size()).data(), 32);
    s.workers = static_cast<uint32_t>(workers.size());
    Frame settings{.kind = Frame::kSettings, .number = 0, .data = {}};
    put(settings.data, s);
    for (const Worker& worker : workers) put(settings.data, worker.key);
    call(settings);
    resident_at_start = process_status(process->pid(), "VmRSS");
    // A backstop behind the enclave's own count, of tensors alone; beside it, what brings the
    // network.
    const auto data = static_cast<rlim_t>(process_status(process->pid(), "VmData"));
    const auto limit = [&](size_t more) {
      const rlimit most{data + s.memory_bytes + more, RLIM_INFINITY};
      ::prlimit(process->pid(), RLIMIT_DATA, &most, nullptr);
    };
    limit(4 * model.size() + (size_t{8} << 20));
    call({.kind = Frame::kModel, .number = 0, .data = model});
    limit(0);
  }

  // Sends a request and carries shares until it is answered.
  std::vector<std::byte> call(const Frame& request) {
    const auto gone = [&]() -> std::vector<std::byte> {
      const int code = process->wait(std::chrono::milliseconds(2000));
      fail("the simulated enclave has ended, code " + std::to_string(code), "ens-trusted");
    };
    {
      const std::lock_guard lock(sending);
      if (!send_frame(socket, request)) return gone();
    }
    Frame frame;
    while (receive_frame(socket, frame)) {
      if (frame.kind == Frame::kJob) {
        carry(frame);
      } else if (frame.kind == Frame::kDone) {
        return std::move(frame.data);
      } else if (frame.kind == Frame::kError) {
        const std::string what(reinterpret_cast<const char*>(frame.data.data()), frame.data.size());
        if (frame.number == 1) usage_fail(what);
        fail(what);
      }
    }
    return gone();
  }

  void carry(const Frame& frame) {
    std::span<const std::byte> data = frame.data;
    JobHeader header;
    if (!take(data, header) || frame.number >= links.size() || header.group >= net.groups.size())
      fail("the enclave asks a worker that there is not", "ens-trusted");
    WorkerJob out{.layers = layers[header.group]};
    out.request.set_kind(offload::Request::JOB);
    offload::Job& job = *out.request.mutable_job();
    job.set_step(header.step);
    job.set_share(header.share);
    for (const auto& layer : out.layers) job.add_layer(layer->described.hash());
    job.set_field(wire_field(header.numbers, static_cast<int>(header.planes)));
    job.set_is_unsigned(header.is_unsigned != 0);
    job.add_shape(header.planes);
    job.add_shape(header.batches);
    for (const int64_t size : net.groups[header.group].input.dims()) job.add_shape(size);
    if (header.is_sealed != 0) {
      job.set_seal_key(header.seal_key, sizeof header.seal_key);
      job.set_sealed_seed(header.is_seed != 0);
    }
    if (header.is_seed != 0 && header.is_sealed == 0) {
      job.set_seed(data.data(), data.size());
    } else {
      out.frame = Tensor::empty({std::ssize(data)}, Dtype::kI8);
      std::memcpy(out.frame.host(), data.data(), data.size());
    }
    Link& link = links[frame.number];
    const std::lock_guard lock(mutex);  // the reply waits for the ticket
    link.enclave_ticket = header.ticket;
    link.ticket = link.link->post(std::move(out));
  }

  // By a link's thread. While it sends, the enclave may send as well: call() must not wait for
  // this.
  void carry_back(const WorkerReply& reply) {
    uint64_t ticket = 0;
    {
      const std::lock_guard lock(mutex);
      const Link& link = links[static_cast<size_t>(reply.worker)];
      if (reply.ticket != link.ticket) return;
      ticket = link.enclave_ticket;
    }
    ReplyHeader header{.ticket = ticket,
                       .step = reply.header.step(),
                       .share = reply.header.share(),
                       .failed = !reply.status.ok(),
                       .compute_ms = static_cast<double>(reply.header.compute_us()) / 1000};
    Frame frame{.kind = Frame::kReply, .number = static_cast<uint32_t>(reply.worker), .data = {}};
    put(frame.data, header);
    const auto more = !reply.status.ok()
                          ? bytes_of(reply.status.message.data(), reply.status.message.size())
                      : reply.has_frame ? bytes_of(reply.frame.data(), reply.frame.size())
                                        : std::vector<std::byte>{};
    frame.data.insert(frame.data.end(), more.begin(), more.end());
    const std::lock_guard lock(sending);
    send_frame(socket, frame);
  }

  struct Link {
    std::unique_ptr<WorkerLink> link;
    uint64_t ticket = 0, enclave_ticket = 0;  // of the job that it has
  };

  const Int8Net& net;
  Fd own_end;
  int socket = -1;
  std::optional<Process> process;
  std::vector<std::vector<std::shared_ptr<const WorkerLayer>>> layers;  // of each group
  const Seed session_key = secure_seed();
  uint64_t calls = 0;
  int64_t resident_at_start = 0;
  std::mutex mutex;         // of the tickets
  std::mutex sending;       // to the enclave
  std::vector<Link> links;  // last: their threads use what is above
};

EnclaveProcess::EnclaveProcess(const std::filesystem::path& program, EnclaveSettings settings,
                               const Int8Net& net, const std::vector<Worker>& workers,
                               std::chrono::milliseconds timeout)
    : impl_(std::make_unique<Impl>(program, settings, net, workers, timeout)) {}
EnclaveProcess::~EnclaveProcess() = default;

Tensor EnclaveProcess::run(const Tensor& images) {
  const uint64_t number = impl_->calls++;
  const std::string inputs = call_context("images", number);
  const std::string outputs = call_context("outputs", number);
  const Tensor plain = images.plain();
  const auto reply =
      impl_->call({.kind = Frame::kImages,
                   .number = static_cast<uint32_t>(images.dim(0)),
                   .data = seal(impl_->session_key, std::as_bytes(std::span(inputs)),
                                {static_cast<const std::byte*>(plain.host()), plain.bytes()})});
  const Shape one = impl_->net.graph.shape(impl_->net.graph.output);
  Tensor out = Tensor::empty(batched(images.dim(0), one));
  std::vector<std::byte> opened;
  if (!unseal(impl_->session_key, std::as_bytes(std::span(outputs)), reply, opened) ||
      opened.size() != out.bytes()) {
    fail("the outputs are not sealed by the enclave", "ens-trusted");
  }
  std::memcpy(out.host(), opened.data(), opened.size());
  return out;
}

void EnclaveProcess::prepare(int64_t images) {
  impl_->call({.kind = Frame::kPrepare, .number = static_cast<uint32_t>(images), .data = {}});
}

EnclaveStatistics EnclaveProcess::statistics() {
  const auto reply = impl_->call({.kind = Frame::kStatistics, .number = 0, .data = {}});
  std::span<const std::byte> data = reply;
  EnclaveStatistics out;
  if (!take(data, out)) fail("the enclave's statistics are damaged", "ens-trusted");
  const int64_t grown = process_status(impl_->process->pid(), "VmHWM") - impl_->resident_at_start;
  out.peak_bytes = static_cast<uint64_t>(std::max<int64_t>(0, grown));
  return out;
}

WorkerTraffic EnclaveProcess::traffic() const {
  WorkerTraffic sum;
  for (const auto& link : impl_->links) {
    const WorkerTraffic one = link.link->traffic();
    sum.sent += one.sent;
    sum.received += one.received;
    sum.refused += one.refused;
  }
  return sum;
}

int EnclaveProcess::pid() const { return impl_->process->pid(); }

}  // namespace ens
