// SPDX-License-Identifier: Apache-2.0
// ensembler offload bench: what the schemes cost a small trusted side, all on this machine.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/flags.h"
#include "base/process.h"
#include "base/statistics.h"
#include "base/threads.h"
#include "ensemble/model/blinded_bundle.h"
#include "experiment/setup.h"
#include "lab/commands/commands.h"
#include "lab/config_flags.h"
#include "net/keys.h"
#include "nn/core/backend.h"
#include "nn/core/rng.h"
#include "nn/plan/float8.h"
#include "nn/plan/fuse.h"
#include "nn/plan/plan.h"
#include "offload/host/enclave_process.h"

namespace ens {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kNote =
    "The enclave is simulated: a process with a memory budget that protects nothing from the "
    "machine's owner.\nAll workers run on this machine, under one owner: times only, not "
    "private.\n";

struct BenchFlags {
  ConfigFlags config;
  std::string run;
  int64_t images = 16;
  int rounds = 5, worker_threads = 1;
};

// A folder for keys and logs, gone with this.
struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "ensembler-bench-XXXXXX").string();
    if (!::mkdtemp(name.data())) fail("cannot make a folder", name);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

// ensembler-worker processes, each with a key of its own.
class SpawnedWorkers {
 public:
  SpawnedWorkers(int count, int threads) {
    write_keys(folder_.path / "host", new_keys());
    for (int w = 0; w < count; ++w) {
      const fs::path stem = folder_.path / fmt::format("worker{}", w + 1);
      write_keys(stem, new_keys());
      processes_.push_back(std::make_unique<Process>(
          std::vector<std::string>{(program_folder() / "ensembler-worker").string(), "--bind",
                                   "tcp://127.0.0.1:*", "--threads", std::to_string(threads),
                                   "--secret-key", stem.string() + ".key", "--clients",
                                   (folder_.path / "host.pub").string(), "--ready-file",
                                   stem.string() + ".ready"},
          Process::Options{.out_file = stem.string() + ".out",
                           .err_file = stem.string() + ".log",
                           .no_input = true}));
    }
    for (int w = 0; w < count; ++w) {
      const fs::path stem = folder_.path / fmt::format("worker{}", w + 1);
      std::string address;
      while (address.empty()) {
        if (!processes_[static_cast<size_t>(w)]->running())
          fail("a worker did not start", "ensembler-worker");
        std::ifstream in(stem.string() + ".ready");
        std::getline(in, address);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
      addresses_.push_back(address);
    }
  }

  std::vector<EnclaveProcess::Worker> first(size_t count) const {
    std::vector<EnclaveProcess::Worker> workers;
    for (size_t w = 0; w < count; ++w) {
      const fs::path stem = folder_.path / fmt::format("worker{}", w + 1);
      const std::string key = read_public_key(stem.string() + ".pub");
      ClientSecurity security{read_secret_key(folder_.path / "host.key"), {key}};
      workers.push_back({addresses_[w], std::move(security), key_bytes(key.c_str())});
    }
    return workers;
  }

 private:
  Folder folder_;
  std::vector<std::unique_ptr<Process>> processes_;
  std::vector<std::string> addresses_;
};

// Of a run, or with random weights, whose times are those of trained ones.
Int8Net net_of(const BenchFlags& flags, const RunConfig& config) {
  if (!flags.run.empty()) return read_blinded_bundle(fs::path(flags.run) / "blinded.h5").net;
  ModelSpec spec = model_spec(config.model());
  if (config.data().image_size() > 0) spec.image_size = config.data().image_size();
  Rng rng(config.seed());
  const int cells = static_cast<int>(cell_names(spec).size());
  Graph fused = fuse(lower(*build_cells(spec, 0, cells, rng), spec.input_shape()));
  Tensor images = Tensor::empty(batched(4, spec.input_shape()));
  rng.fill_uniform(images.span<float>(), 0, 1);
  set_input_ranges(fused, input_ranges(fused, images));
  return quantize(fused);
}

struct Row {
  std::string name;
  std::unique_ptr<EnclaveProcess> enclave;
  std::string refused;          // why there are no times
  std::vector<double> seconds;  // of the images, each round
  EnclaveStatistics spent;      // of all rounds
  WorkerTraffic traffic;
  double error = 0;  // of the outputs of shares of reals
};

// The largest difference, as a share of the largest magnitude of what is right.
double relative_error(const std::vector<float>& found, const std::vector<float>& right) {
  double difference = 0, largest = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    difference = std::max(difference, std::abs(double{found[i]} - right[i]));
    largest = std::max(largest, std::abs(double{right[i]}));
  }
  return difference / largest;
}

class Bench {
 public:
  Bench(const BenchFlags& flags, const RunConfig& config)
      : flags_(flags),
        offload_(config.offload()),
        net_(net_of(flags, config)),
        shares_(static_cast<size_t>(offload_.virtual_batch() + offload_.noises() +
                                    offload_.spare_shares())),
        workers_(static_cast<int>(shares_), flags.worker_threads),
        images_(Tensor::empty(batched(flags.images, net_.graph.shape(net_.graph.input)))) {
    Rng(7).fill_uniform(images_.span<float>(), 0, 1);
  }

  void run() {
    add("inside, untiled", EnclaveMode::kInside, "", 0);
    add("inside, tiled", EnclaveMode::kTiled, "", 0);
    add("layers in clear", EnclaveMode::kShares, "clear", 1);
    add("slalom", EnclaveMode::kShares, "slalom", 1);
    add("darknight_field", EnclaveMode::kShares, "darknight_field", shares_);
    add("darknight_real", EnclaveMode::kShares, "darknight_real",
        static_cast<size_t>(offload_.virtual_batch() + offload_.noises()));
    const std::vector<float> want = run_int8(net_, images_).to_vector();
    for (int round = -1; round < flags_.rounds; ++round) {  // the first warms up
      for (Row& row : rows_) {
        if (row.enclave) measure(row, round, want);
      }
    }
    print();
  }

 private:
  void add(const std::string& name, EnclaveMode mode, const std::string& scheme, size_t workers) {
    EnclaveSettings settings;
    scheme.copy(settings.scheme, sizeof settings.scheme - 1);
    offload_.field().copy(settings.field, sizeof settings.field - 1);
    settings.mode = mode;
    settings.virtual_batch = static_cast<uint32_t>(offload_.virtual_batch());
    settings.noises = static_cast<uint32_t>(offload_.noises());
    settings.spare_shares = workers == shares_ ? static_cast<uint32_t>(offload_.spare_shares()) : 0;
    settings.noise_mean = offload_.noise_mean();
    settings.noise_stddev = offload_.noise_stddev();
    settings.repetitions = static_cast<uint32_t>(offload_.repetitions());
    settings.retries = static_cast<uint32_t>(offload_.retries());
    settings.check = offload_.integrity() == "freivalds";
    settings.seal = offload_.seal();
    settings.memory_bytes = static_cast<uint64_t>(offload_.memory_mb()) << 20;
    Row& row = rows_.emplace_back();
    row.name = name;
    try {
      row.enclave = std::make_unique<EnclaveProcess>(
          program_folder() / "ens-trusted", settings, net_, workers_.first(workers),
          std::chrono::milliseconds(offload_.timeout_ms()));
    } catch (const Error& error) {
      if (error.kind() != Error::Kind::kUsage) throw;
      row.refused = error.what();
    }
  }

  void measure(Row& row, int round, const std::vector<float>& want) {
    const bool ahead = row.name == "slalom";
    if (ahead) row.enclave->prepare(flags_.images);
    const WorkerTraffic before = row.enclave->traffic();
    const auto start = Clock::now();
    const Tensor outputs = row.enclave->run(images_);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (row.name == "darknight_real") {
      row.error = std::max(row.error, relative_error(outputs.to_vector(), want));
    } else if (outputs.to_vector() != want) {
      fail("other outputs than the int8 network's", row.name);
    }
    const EnclaveStatistics spent = row.enclave->statistics();
    row.spent.peak_bytes = spent.peak_bytes;
    row.spent.allocator_bytes = spent.allocator_bytes;
    if (round < 0) return;
    const WorkerTraffic after = row.enclave->traffic();
    row.traffic.sent += after.sent - before.sent;
    row.traffic.received += after.received - before.received;
    row.seconds.push_back(seconds);
    for (double EnclaveStatistics::*part :
         {&EnclaveStatistics::prepare_ms, &EnclaveStatistics::encode_ms,
          &EnclaveStatistics::wait_ms, &EnclaveStatistics::compute_ms, &EnclaveStatistics::check_ms,
          &EnclaveStatistics::decode_ms, &EnclaveStatistics::seal_ms, &EnclaveStatistics::total_ms})
      row.spent.*part += spent.*part;
  }

  void print() const {
    const double images = static_cast<double>(flags_.images);
    const auto rate = [&](const Row& row, double q) {
      return images / percentile(row.seconds, 1 - q);
    };
    double inside = 0;  // the better of both: a slow baseline would flatter the schemes
    for (const Row& row : rows_) {
      if (row.name.starts_with("inside") && row.enclave) inside = std::max(inside, rate(row, 0.5));
    }
    fmt::print(
        "{}\n{} layers in {} rounds, {} images a call, {} at once, field {}, integrity {}, "
        "shares {}; int8, one thread inside, {} a worker\nmemory budget {} MB; {} rounds\n\n",
        backend(Device{}).description(), layers(), net_.groups.size(), flags_.images,
        offload_.virtual_batch(), offload_.field(), offload_.integrity(),
        offload_.seal() ? "sealed" : "NOT sealed: the host reads them", flags_.worker_threads,
        offload_.memory_mb(), flags_.rounds);
    fmt::print("{:<22} {:>9} {:>19} {:>8} {:>10} {:>10} {:>11} {:>11}\n", "simulated enclave",
               "images/s", "[slowest, fastest]", "x inside", "peak MB", "tensors MB", "KB up",
               "KB down");
    for (const Row& row : rows_) {
      if (!row.enclave) {
        fmt::print("{:<22} refused: {}\n", row.name, row.refused);
        continue;
      }
      const double count = images * static_cast<double>(row.seconds.size());
      print_line(row, rate(row, 0.5), rate(row, 0), rate(row, 1), inside, count);
      if (row.spent.prepare_ms > 0) {
        // As if the masks were computed in the same time.
        const double seconds =
            percentile(row.seconds, 0.5) + row.spent.prepare_ms / 1000 / double(row.seconds.size());
        fmt::print("{:<22} {:>9.1f} {:>19} {:>8.2f}\n", "  with its offline part", images / seconds,
                   "", inside > 0 ? images / seconds / inside : 0.0);
      }
    }
    for (const Row& row : rows_) {
      if (row.error > 0) {
        fmt::print("{}: outputs differ from the int8 network's by up to {:.2g} of their largest\n",
                   row.name, row.error);
      }
    }
    fmt::print("\n{:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "ms an image",
               "offline", "encode", "seal", "wait", "workers", "check", "decode", "the rest");
    for (const Row& row : rows_) {
      if (!row.enclave) continue;
      const double count = images * static_cast<double>(row.seconds.size());
      const EnclaveStatistics& s = row.spent;
      // Sealing is part of the time that workers are waited for.
      const double wait = std::max(0.0, s.wait_ms - s.seal_ms);
      const double rest =
          s.total_ms - s.encode_ms - s.wait_ms - s.compute_ms - s.check_ms - s.decode_ms;
      fmt::print("{:<22}", row.name);
      for (const double ms : {s.prepare_ms, s.encode_ms, s.seal_ms, wait, s.compute_ms, s.check_ms,
                              s.decode_ms, std::max(0.0, rest)})
        fmt::print(" {:>9.2f}", ms / count);
      fmt::print("\n");
    }
    fmt::print("\n{}", kNote);
  }

  void print_line(const Row& row, double median, double slowest, double fastest, double inside,
                  double count) const {
    constexpr double kMB = 1 << 20;
    fmt::print("{:<22} {:>9.1f} {:>19} {:>8.2f} {:>10.1f} {:>10.1f} {:>11.1f} {:>11.1f}\n",
               row.name, median, fmt::format("[{:.1f}, {:.1f}]", slowest, fastest),
               inside > 0 ? median / inside : 0.0, static_cast<double>(row.spent.peak_bytes) / kMB,
               static_cast<double>(row.spent.allocator_bytes) / kMB,
               static_cast<double>(row.traffic.sent) / count / 1000,
               static_cast<double>(row.traffic.received) / count / 1000);
  }

  size_t layers() const {
    size_t count = 0;
    for (const Int8Group& group : net_.groups) count += group.steps.size();
    return count;
  }

  const BenchFlags& flags_;
  const OffloadConfig offload_;
  const Int8Net net_;
  const size_t shares_;
  const SpawnedWorkers workers_;
  const Tensor images_;
  std::vector<Row> rows_;
};

}  // namespace

void add_offload_bench_command(CLI::App& offload) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = offload.add_subcommand(
      "bench",
      "What each scheme costs a small trusted side: the simulated enclave, workers, memory, bytes "
      "and time, all on this machine. The enclave is simulated: it protects nothing from the "
      "machine's owner");
  command->add_option("run", flags->run,
                      "Run folder with blinded.h5; without one, random weights of --set model.*");
  flags->config.add_to(*command);
  command->add_option("--images", flags->images, "Images of a call")
      ->check(between(1, 100000))
      ->capture_default_str();
  command->add_option("--rounds", flags->rounds, "Rounds, in which the schemes take turns")
      ->check(between(1, 1000))
      ->capture_default_str();
  command->add_option("--worker-threads", flags->worker_threads, "CPU threads of each worker")
      ->check(at_least(1))
      ->capture_default_str();
  command->callback([flags] { Bench(*flags, flags->config.resolve()).run(); });
}

}  // namespace ens
