// SPDX-License-Identifier: Apache-2.0
// ens-serve: what serving costs end to end, over loopback.
//
//   ./run bench serve                    ResNet-18 of width 16, N = 4, random weights
//   ./run bench serve --width 64 --nets 10 --csv serve.csv
//
// First the runtime's own cost: the same nets behind a bare socket (one thread that receives,
// computes and answers: no header, no checks, no queue, no batching) are the peer, measured in
// turns with ours. Then requests a second and latency against concurrency, dtype on the wire, CURVE
// and the batch window, with whole edges: head, noise, wire, cloud, selector, tail. Edges and cloud
// share this machine's cores, as they would not in use.
#include <google/protobuf/stubs/logging.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "base/error.h"
#include "base/flags.h"
#include "base/program.h"
#include "base/statistics.h"
#include "base/threads.h"
#include "cloud/lanes.h"
#include "cloud/server.h"
#include "edge/client.h"
#include "ensemble/model/edge_bundle.h"
#include "net/keys.h"
#include "net/message.h"
#include "nn/core/rng.h"
#include "proto/tensor_codec.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::duration;

constexpr int64_t kMaxBatch = 32;

double ms_since(Clock::time_point start) {
  return duration<double, std::milli>(Clock::now() - start).count();
}

struct Options {
  int width = 16, nets = 4, selected = 2;
  double seconds = 2;
  int rounds = 15;
  std::string csv;
};

// Bundles and keys in a folder of their own, gone at the end.
struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "ens-serve-XXXXXX").string();
    if (!mkdtemp(name.data())) fail("cannot make a folder", name);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

CloudBundle make_bundles(const Options& options, const fs::path& folder) {
  BundleInfo info;
  info.model.width = options.width;
  info.nets = options.nets;
  info.data = "random weights";
  Rng rng(1);
  CloudBundle cloud{.info = info};
  for (int i = 0; i < options.nets; ++i) {
    cloud.bodies.push_back(build_body(info.model, info.split, rng));
    cloud.bodies.back()->freeze();
    cloud.bodies.back()->train(false);
  }
  write_cloud_bundle(folder / "cloud.h5", cloud);
  std::vector<int> selected;
  for (int i = 0; i < options.selected; ++i) selected.push_back(i);
  EdgeBundle edge{
      .info = cloud.info,
      .head = build_head(info.model, info.split, rng),
      .tail = build_tail(info.model, info.split, rng, options.selected),
      .selector = Selector(options.nets, selected),
      .protection = {{"fixed_noise", Tensor::zeros(smashed_shape(info.model, info.split))}}};
  for (auto* module : {edge.head.get(), edge.tail.get()}) {
    module->freeze();
    module->train(false);
  }
  for (int i = 0; i < info.model.classes; ++i) edge.class_names.push_back(std::to_string(i));
  write_edge_bundle(folder / "edge.h5", edge);
  for (const char* name : {"cloud", "edge"}) write_keys(folder / name, new_keys());
  return cloud;
}

struct Setting {
  std::string wire = "float32";
  bool curve = false;
  int window_us = 0;
};

class Cloud {
 public:
  Cloud(const fs::path& folder, const Setting& setting) : folder_(folder), setting_(setting) {
    CloudConfig config;
    config.set_bundle(folder / "cloud.h5");
    config.set_bind("tcp://127.0.0.1:*");
    config.set_dtype("float32");
    config.set_max_batch(kMaxBatch);
    config.set_batch_delay_us(setting.window_us);
    if (setting.curve) {
      config.set_secret_key(folder / "cloud.key");
      config.set_clients(folder / "edge.pub");
    }
    complete(config);
    server_ = std::make_unique<Server>(config);
    server_->start();
    // Every batch size prepares its kernels when it is first met.
    const auto first = edge();
    for (int64_t batch = 1; batch <= kMaxBatch; ++batch) {
      const Shape images = batched(batch, first->info().model.input_shape());
      if (const auto result = first->classify(Tensor::zeros(images)); !result.status.ok()) {
        fail(result.status.str(), address());
      }
    }
  }

  std::string address() const { return server_->endpoint(); }
  std::string fingerprint() const { return server_->info().fingerprint; }

  std::unique_ptr<EdgeClient> edge() const {
    EdgeConfig config;
    config.set_bundle(folder_ / "edge.h5");
    config.set_cloud(address());
    config.set_wire_dtype(setting_.wire);
    config.set_timeout_ms(60000);
    if (setting_.curve) {
      config.set_server_key(folder_ / "cloud.pub");
      config.set_secret_key(folder_ / "edge.key");
    }
    complete(config);
    auto client = std::make_unique<EdgeClient>(config);
    if (const Status status = client->check(); !status.ok()) fail(status.str(), address());
    return client;
  }

 private:
  const fs::path folder_;
  const Setting setting_;
  std::unique_ptr<Server> server_;
};

// The peer: as little as can be between a socket and the nets.
class BareCloud {
 public:
  BareCloud(const CloudBundle& bundle, int threads)
      : input_(smashed_shape(bundle.info.model, bundle.info.split)),
        lanes_(bundle, {Device{}}, Dtype::kF32, kMaxBatch, threads),
        socket_(context_, zmq::socket_type::router) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.bind("tcp://127.0.0.1:*");
    address_ = socket_.get(zmq::sockopt::last_endpoint);
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  }
  const std::string& address() const { return address_; }

 private:
  // What is there is computed together; nothing is checked.
  void run(const std::stop_token& stop) {
    const size_t bytes = static_cast<size_t>(input_.numel()) * sizeof(float);
    Tensor features = Tensor::empty(batched(kMaxBatch, input_));
    std::vector<zmq::message_t> peers(kMaxBatch), headers(kMaxBatch);
    zmq::pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
    while (!stop.stop_requested()) {
      zmq::poll(&item, 1, std::chrono::milliseconds(20));
      int64_t count = 0;
      zmq::message_t frame;
      while (count < kMaxBatch &&
             socket_.recv(peers[static_cast<size_t>(count)], zmq::recv_flags::dontwait)) {
        (void)socket_.recv(headers[static_cast<size_t>(count)]);
        (void)socket_.recv(frame);
        std::memcpy(features.rows(count++, 1).raw(), frame.data(), bytes);
      }
      if (count == 0) continue;
      const Tensor outputs = lanes_.run(features.rows(0, count));
      const int64_t nets = outputs.dim(0), size = outputs.numel() / nets / count;
      for (int64_t i = 0; i < count; ++i) {
        zmq::message_t reply(static_cast<size_t>(nets * size) * sizeof(float));
        for (int64_t net = 0; net < nets; ++net) {
          std::copy_n(outputs.data<float>() + (net * count + i) * size, size,
                      reply.data<float>() + net * size);
        }
        socket_.send(peers[static_cast<size_t>(i)], zmq::send_flags::sndmore);
        socket_.send(headers[static_cast<size_t>(i)], zmq::send_flags::sndmore);
        socket_.send(reply, zmq::send_flags::none);
      }
    }
  }

  const Shape input_;
  Lanes lanes_;
  zmq::context_t context_;
  zmq::socket_t socket_;
  std::string address_;
  std::jthread thread_;
};

// Requests of one image as raw frames, `window` of them under way all the time, on one thread.
class Requests {
 public:
  Requests(const std::string& address, std::string header, Tensor features)
      : header_(std::move(header)), features_(std::move(features)) {
    for (int i = 0; i < 8; ++i) {
      zmq::socket_t& socket = sockets_.emplace_back(context_, zmq::socket_type::dealer);
      socket.set(zmq::sockopt::linger, 0);
      socket.connect(address);
      items_.push_back({socket.handle(), 0, ZMQ_POLLIN, 0});
    }
  }

  double images_per_second(int window, double seconds) {
    int64_t done = 0, under_way = 0;
    size_t next = 0;
    const auto start = Clock::now();
    auto last = start;
    while (ms_since(start) < 1e3 * seconds || under_way > 0) {
      while (under_way < window && ms_since(start) < 1e3 * seconds) {
        zmq::socket_t& socket = sockets_[next++ % sockets_.size()];
        socket.send(zmq::buffer(header_), zmq::send_flags::sndmore);
        socket.send(zmq::buffer(features_.raw(), features_.bytes()), zmq::send_flags::none);
        ++under_way;
      }
      zmq::poll(items_, std::chrono::seconds(10));
      for (zmq::socket_t& socket : sockets_) {
        zmq::message_t header, tensor;
        while (socket.recv(header, zmq::recv_flags::dontwait)) {
          if (!header.more() || !socket.recv(tensor)) fail("a request was refused");
          --under_way, ++done;
          last = Clock::now();
        }
      }
    }
    return static_cast<double>(done) / duration<double>(last - start).count();
  }

 private:
  const std::string header_;
  const Tensor features_;
  zmq::context_t context_;
  std::vector<zmq::socket_t> sockets_;
  std::vector<zmq::pollitem_t> items_;
};

std::string infer_header(const std::string& fingerprint, const Encoded& encoded) {
  wire::Request request;
  request.set_version(kProtocolVersion);
  request.set_kind(wire::Request::INFER);
  request.set_id(1);
  request.set_fingerprint(fingerprint);
  *request.mutable_tensor() = encoded.info;
  return request.SerializeAsString();
}

double time_call(const std::function<void()>& call) {  // milliseconds
  const auto start = Clock::now();
  call();
  return ms_since(start);
}

void own_cost(const Options& options, const CloudBundle& bundle, const fs::path& folder,
              std::ofstream& csv) {
  const Cloud cloud(folder, {});
  const BareCloud bare(bundle, 0);
  const auto edge = cloud.edge();
  EdgePipeline pipeline(read_edge_bundle(folder / "edge.h5"), 1);
  const ModelSpec& model = bundle.info.model;
  Tensor image = Tensor::empty(batched(1, model.input_shape()));
  Rng(3).fill_uniform(image.span<float>(), 0, 1);
  const Shape output =
      batched(options.nets, batched(1, body_output_shape(model, bundle.info.split)));

  zmq::context_t context;
  zmq::socket_t socket(context, zmq::socket_type::dealer);
  socket.set(zmq::sockopt::linger, 0);
  socket.connect(bare.address());
  const auto ours = [&] {
    if (const auto result = edge->classify(image); !result.status.ok()) fail(result.status.str());
  };
  const auto peer = [&] {
    const Tensor features = pipeline.smash(image);
    zmq::message_t header, tensor;
    socket.send(zmq::message_t(8), zmq::send_flags::sndmore);
    socket.send(zmq::buffer(features.raw(), features.bytes()), zmq::send_flags::none);
    (void)socket.recv(header);
    (void)socket.recv(tensor);
    Tensor outputs = Tensor::empty(output);
    std::memcpy(outputs.raw(), tensor.data(), outputs.bytes());
    pipeline.finish(outputs);
  };
  const Encoded encoded = encode(pipeline.smash(image), wire::FLOAT32);
  Requests to_ours(cloud.address(), infer_header(cloud.fingerprint(), encoded), encoded.frame);
  Requests to_peer(bare.address(), "12345678", encoded.frame);

  std::vector<double> first;
  for (int i = 0; i < 50; ++i) first.push_back(time_call(ours)), peer();
  const int calls = std::clamp(static_cast<int>(400 / percentile(first, 0.5)), 5, 200);
  std::vector<double> cost, ours_ms, peer_ms, loss, ours_rate, peer_rate;
  for (int round = 0; round < options.rounds; ++round) {
    // Call by call in turns, and a pair's difference counts: a machine's speed drifts.
    std::vector<double> a, b, more;
    for (int i = 0; i < calls; ++i) {
      a.push_back(time_call(ours));
      b.push_back(time_call(peer));
      more.push_back(1e3 * (a.back() - b.back()));
    }
    ours_ms.push_back(percentile(a, 0.5)), peer_ms.push_back(percentile(b, 0.5));
    cost.push_back(percentile(more, 0.5));
    csv << "own_cost_alone," << round << ",us," << cost.back() << ",ms," << ours_ms.back() << ','
        << peer_ms.back() << '\n';
  }
  to_ours.images_per_second(64, 0.5), to_peer.images_per_second(64, 0.5);
  for (int round = 0; round < options.rounds; ++round) {
    ours_rate.push_back(to_ours.images_per_second(64, options.seconds / 4));
    peer_rate.push_back(to_peer.images_per_second(64, options.seconds / 4));
    loss.push_back(100 * (1 - ours_rate.back() / peer_rate.back()));
    csv << "own_cost_saturated," << round << ",percent," << loss.back() << ",images_per_second,"
        << ours_rate.back() << ',' << peer_rate.back() << '\n';
  }
  const auto middle = [](std::vector<double>& v) {  // half of the turns lie between
    return std::pair(percentile(v, 0.25), percentile(v, 0.75));
  };
  std::printf(
      "the runtime's own cost, over the same nets behind a bare socket (medians of %d turns, and\n"
      "what half of them lie between)\n",
      options.rounds);
  std::printf("  one image at a time: %.3f ms, bare %.3f ms: %+.0f us (%+.0f to %+.0f)\n",
              percentile(ours_ms, 0.5), percentile(peer_ms, 0.5), percentile(cost, 0.5),
              middle(cost).first, middle(cost).second);
  std::printf(
      "  saturated (64 under way): %.0f images/s, bare %.0f: %+.1f %% lost (%+.1f to %+.1f)\n\n",
      percentile(ours_rate, 0.5), percentile(peer_rate, 0.5), percentile(loss, 0.5),
      middle(loss).first, middle(loss).second);
  std::fflush(stdout);
}

// `concurrency` edges, each with one image under way.
void end_to_end(const Cloud& cloud, const Setting& setting, int concurrency, const Options& options,
                std::ofstream& csv) {
  std::vector<std::unique_ptr<EdgeClient>> edges;
  for (int i = 0; i < concurrency; ++i) edges.push_back(cloud.edge());
  Tensor image = Tensor::empty(batched(1, edges[0]->info().model.input_shape()));
  Rng(3).fill_uniform(image.span<float>(), 0, 1);
  std::vector<std::vector<double>> times(edges.size());
  std::atomic<int64_t> bytes_sent = 0;
  std::atomic<bool> failed = false;
  const auto warm = Clock::now() + std::chrono::milliseconds(300);
  const auto end =
      warm + std::chrono::duration_cast<Clock::duration>(duration<double>(options.seconds));
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < edges.size(); ++i) {
      threads.emplace_back([&, i] {
        set_compute_threads(1);
        for (auto start = Clock::now(); start < end; start = Clock::now()) {
          const auto result = edges[i]->classify(image);
          if (!result.status.ok()) failed = true;
          bytes_sent = result.value.times.bytes_sent;
          if (start >= warm) times[i].push_back(ms_since(start));
        }
      });
    }
  }
  if (failed) fail("an edge got no answer", cloud.address());
  std::vector<double> all;
  for (const auto& t : times) all.insert(all.end(), t.begin(), t.end());
  const double rate = static_cast<double>(all.size()) / options.seconds;
  const double p50 = percentile(all, 0.5), p95 = percentile(all, 0.95), p99 = percentile(all, 0.99);
  std::printf("%-8s %-6s %9d %12d %11lld %12.0f %9.2f %9.2f %9.2f\n", setting.wire.c_str(),
              setting.curve ? "CURVE" : "plain", setting.window_us, concurrency,
              static_cast<long long>(bytes_sent), rate, p50, p95, p99);
  std::fflush(stdout);
  csv << "end_to_end," << setting.wire << ',' << (setting.curve ? "curve" : "plain") << ','
      << setting.window_us << ',' << concurrency << ',' << bytes_sent << ',' << rate << ',' << p50
      << ',' << p95 << ',' << p99 << '\n';
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"What serving costs, end to end over loopback.", "ens-serve"};
  app.add_option("--width", options.width, "of the ResNet-18")->capture_default_str();
  app.add_option("--nets", options.nets, "N, the server nets")->capture_default_str();
  app.add_option("--selected", options.selected, "P of them count")->capture_default_str();
  app.add_option("--seconds", options.seconds, "of each row")->capture_default_str();
  app.add_option("--rounds", options.rounds, "turns of ours and the bare socket")
      ->capture_default_str();
  app.add_option("--csv", options.csv, "raw numbers to this file");
  parse_flags(app, argc, argv);
  if (options.nets < 1 || options.selected < 1 || options.selected > options.nets) {
    usage_fail("--selected is from 1 to --nets", "", "see --help");
  }
  spdlog::set_level(spdlog::level::off);
  std::ofstream csv(options.csv);
  const Folder folder;
  const CloudBundle bundle = make_bundles(options, folder.path);
  std::printf("ResNet-18, width %d, N = %d, float32, on %s; edges and cloud share it\n\n",
              options.width, options.nets, backend(Device{}).description().c_str());
  own_cost(options, bundle, folder.path, csv);

  std::printf("%-8s %-6s %9s %12s %11s %12s %9s %9s %9s\n", "wire", "keys", "window us",
              "concurrency", "bytes up", "requests/s", "p50 ms", "p95 ms", "p99 ms");
  const std::vector<int> all = {1, 2, 4, 8, 16, 32, 64}, some = {1, 8, 64};
  const auto rows = [&](const Setting& setting, const std::vector<int>& concurrencies) {
    const Cloud cloud(folder.path, setting);
    for (const int c : concurrencies) end_to_end(cloud, setting, c, options, csv);
  };
  rows({}, all);
  rows({.wire = "float16"}, some);
  rows({.wire = "int8"}, some);
  rows({.curve = true}, all);
  rows({.wire = "int8", .curve = true}, some);
  rows({.window_us = 500}, some);
  rows({.window_us = 2000}, some);
  return 0;
}

}  // namespace
}  // namespace ens

int main(int argc, char** argv) {
  google::protobuf::SetLogHandler(nullptr);
  return ens::run_program("ens-serve", argv, [&] { return ens::run(argc, argv); });
}
