// SPDX-License-Identifier: Apache-2.0
// ens-bench: how fast this machine serves and trains with us, with PyTorch, and serves with ONNX
// Runtime.
//
//   ./run bench cpu                   eleven minutes: a table; cpu.csv and cpu.html in runs/bench
//   ./run bench cpu --out FOLDER
//   ./run bench cpu --only 1 32       inference at batch 1, 8, 32, 128; training; decoder; growth;
//   int8
//
// Ours and the peers take turns, in rounds; a row's figures are medians over its rounds. Beside
// each round the machine's peak is measured (the largest counts as the machine's), and where it
// moved by more than a tenth within a row, the row is measured again: two virtual processors on one
// core have half of it. Neither computes while the other does.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/flags.h"
#include "base/process.h"
#include "base/program.h"
#include "base/statistics.h"
#include "base/threads.h"
#include "bench/cpu/machine.h"
#include "bench/cpu/ours.h"
#include "bench/cpu/peer.h"
#include "bench/planes.h"
#include "nn/core/backend.h"
#include "report/html.h"

namespace ens::bench {
namespace {

namespace fs = std::filesystem;
constexpr int kNets = 10, kWidth = 64;
constexpr int kTryNets =
    1;  // with which the peer's modes are compared: that is quicker, and enough
constexpr int kRounds = 5, kMostTries = 3;
constexpr double kSeconds = 0.3;  // of each side in a round
constexpr int64_t kGrowthBatch = 32;
constexpr int kTurns = 8;      // of each size, for growth
constexpr double kTurn = 0.8;  // seconds, or one call

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double median(std::vector<double> v) { return percentile(std::move(v), 0.5); }

std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> all;
  for (size_t i = 0; i < a.size(); ++i) all.push_back(a[i] / b[i]);
  return all;
}

// Seconds of one call of step(), the median over kSeconds of them, after one that does not count.
double repeat(const std::function<void()>& step) {
  step();
  std::vector<double> times;
  const double end = now() + kSeconds;
  while (times.empty() || now() < end) {
    const double start = now();
    step();
    times.push_back(now() - start);
  }
  return median(times);
}

struct Peaks {
  double flops = 0, flops_bf16 = 0, bandwidth = 0;
};

struct Row {
  std::string name, why_not;  // why_not: this row cannot be measured here
  Dtype dtype = Dtype::kF32;
  int64_t batch = 1;
  enum class Work { kInference, kTraining, kDecoder } work = Work::kInference;
  bool training() const { return work != Work::kInference; }
  std::vector<double> ours, peer, peak;  // a number a round: images/s, images/s, FLOP/s
  std::string mode, peer_missing;
  std::vector<double> onnx;     // images/s of ONNX Runtime; inference in float32 alone
  std::optional<double> error;  // relative, of our results against the peer's in float32
  double peer_error = 0;        // the peer's own, in this row's type
};

struct Memory {
  Dtype dtype;
  double weights = 0, activations = 0, packed = 0, serving = 0, starting = 0;
};

class Benchmark {
  using Work = Row::Work;

 public:
  explicit Benchmark(const std::string& source)
      : peer_("PyTorch", {"/usr/bin/python3", "-W", "ignore", source + "/bench/cpu/peer.py"},
              "apt-get install python3-torch"),
        onnx_("ONNX Runtime", {"/usr/bin/node", source + "/bench/cpu/peer.js"},
              "npm install --ignore-scripts --prefix build/node onnxruntime-node@1.30.0") {}
  ~Benchmark() {
    for (const char* ending : {"", ".input", ".output"}) {
      std::error_code none;
      fs::remove(onnx_file_.string() + ending, none);
    }
  }

  void measure_peaks() {
    peaks_ = {peak_flops(0.3), peak_flops_bf16(0.5), peak_bandwidth(0.5)};
    say("peaks measured");
  }
  void inference(Dtype dtype, const std::vector<int64_t>& batches) {
    const bool can = backend(Device{}).serves(dtype);
    std::vector<Row> rows;
    for (int64_t batch : batches) {
      rows.push_back(row(fmt::format("inference N={}, batch {}", kNets, batch), dtype, batch,
                         Work::kInference));
    }
    if (can && !rows.empty()) {
      choose_modes(rows);
      check(rows, "body");
      if (dtype == Dtype::kF32) check_onnx();
      Serving serving(kWidth, kNets, dtype, 128);
      for (Row& r : rows) {
        measure(r, [&] { serving.run(r.batch); });
      }
    }
    rows_.insert(rows_.end(), rows.begin(), rows.end());
  }

  void training(Dtype dtype) {
    std::vector<Row> rows{row(fmt::format("training step, batch {}", kTrainBatch), dtype,
                              kTrainBatch, Work::kTraining)};
    if (backend(Device{}).supports(dtype)) {
      choose_modes(rows);
      check(rows, "training");
      Training training(kWidth, dtype);
      measure(rows[0], [&] { training.step(); });
    }
    rows_.push_back(rows[0]);
  }

  // The decoder that ends the attacks.
  void decoder(Dtype dtype) {
    std::vector<Row> rows{row(fmt::format("decoder's training step, batch {}", kDecoderBatch),
                              dtype, kDecoderBatch, Work::kDecoder)};
    if (backend(Device{}).supports(dtype)) {
      choose_modes(rows);
      check(rows, "decoder");
      DecoderTraining training(dtype);
      measure(rows[0], [&] { training.step(); });
    }
    rows_.push_back(rows[0]);
  }

  void growth() {
    std::map<double, Serving> of_nets, of_width;
    for (int nets : {1, 2, 4, 8, 12, 16}) {
      of_nets.try_emplace(nets, kWidth, nets, Dtype::kF32, kGrowthBatch);
    }
    by_nets_ = in_turns(of_nets);
    of_nets.clear();
    for (int width : {16, 24, 32, 48, 64}) {
      of_width.try_emplace(width, width, kNets, Dtype::kF32, kGrowthBatch);
    }
    by_width_ = in_turns(of_width);
    say("growth measured");
    for (int width : {16, kWidth})
      waiting_.emplace_back(width, share_waiting(width, compute_threads()));
    say("waiting for data measured");
  }

  void int8() {
    planes_ = time_planes({});
    say("int8 planes measured");
  }

  // In processes of their own, so that nothing else is in the figure.
  void memory(const std::string& program) {
    for (Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
      if (!backend(Device{}).serves(dtype)) continue;
      Process child({program, "--memory", name(dtype)}, {.capture = true});
      if (child.wait() != 0) fail("the process whose memory is measured failed", "memory");
      Memory m{dtype};
      std::istringstream(child.output()) >> m.weights >> m.activations >> m.packed >> m.serving >>
          m.starting;
      memory_.push_back(m);
    }
  }

  std::string text() const;
  std::string csv() const;
  std::string html() const;

 private:
  void say(const std::string& what) const {
    fmt::print(stderr, "{:5.0f} s  {}\n", now() - start_, what);
  }

  Row row(const std::string& what, Dtype dtype, int64_t batch, Work work) const {
    Row r;
    r.name = what;
    r.dtype = dtype;
    r.batch = batch;
    r.work = work;
    const Backend& cpu = backend(Device{});
    if (!(r.training() ? cpu.supports(dtype) : cpu.serves(dtype))) {
      r.why_not = "this processor has no bfloat16 instructions";
    }
    return r;
  }

  // What arithmetic is in, ours and the peer's: without the instructions bfloat16 is for our
  // weights only, and the peer, which would take some 25 times as long in it, stays with float32.
  static Dtype arithmetic(Dtype dtype) {
    return backend(Device{}).supports(dtype) ? dtype : Dtype::kF32;
  }

  // What the machine allows, images/s.
  struct Limit {
    double images;
    const char* of;
  };
  Limit limit(const Row& r) const {
    const double peak = arithmetic(r.dtype) == Dtype::kBF16 ? peaks_.flops_bf16 : peaks_.flops;
    const double flops = r.work == Work::kTraining  ? train_flops(kWidth)
                         : r.work == Work::kDecoder ? decoder_flops()
                                                    : kNets * body_flops(kWidth);
    const Limit computing{peak / flops, "arithmetic"};
    const double streams =
        peaks_.bandwidth / (kNets * body_weights(kWidth) * static_cast<double>(size_of(r.dtype)));
    const Limit memory{streams * static_cast<double>(r.batch), "memory"};
    return !r.training() && memory.images < computing.images ? memory : computing;
  }

  std::string job(const Row& r, const std::string& mode, int nets = kNets) const {
    const char* dtype = name(arithmetic(r.dtype));
    return r.work == Work::kTraining ? fmt::format("train {} {} {}", r.batch, dtype, mode)
           : r.work == Work::kDecoder
               ? fmt::format("decode {} {} {}", r.batch, dtype, mode)
               : fmt::format("infer {} {} {} {}", nets, r.batch, dtype, mode);
  }

  // Every mode once; the quickest is the one that is measured.
  void choose_modes(std::vector<Row>& rows) {
    static const std::vector<std::string> kInference = {
        "eager",        "eager,channels_last",       "jit,freeze", "jit,freeze,fusion",
        "jit,optimize", "jit,optimize,channels_last"};
    static const std::vector<std::string> kTraining = {"eager", "eager,channels_last", "jit",
                                                       "jit,channels_last"};
    for (Row& r : rows) {
      if (!peer_.missing().empty()) {
        r.peer_missing = peer_.missing();
        continue;
      }
      double best = 1e30;
      for (const std::string& mode : r.training() ? kTraining : kInference) {
        try {
          peer_.ask(job(r, mode, kTryNets));
          double seconds = std::stod(peer_.ask("run 0.1"));
          if (!r.training()) seconds *= static_cast<double>(kNets) / kTryNets;
          tried_.push_back({r.name, name(r.dtype), mode, static_cast<double>(r.batch) / seconds});
          if (seconds < best) best = seconds, r.mode = mode;
        } catch (const Error& e) {
          say(fmt::format("PyTorch, {}: {}", mode, e.what()));
        }
      }
      if (r.mode.empty()) r.peer_missing = "PyTorch failed in every mode";
      say(fmt::format("{}, {}: PyTorch is quickest with {}", r.name, name(r.dtype), r.mode));
    }
  }

  void check(std::vector<Row>& rows, const std::string& what) {
    if (!peer_.missing().empty()) return;
    const fs::path file = fs::temp_directory_path() / fmt::format("ens-bench-{}.weights", getpid());
    const Dtype dtype = rows[0].dtype;
    (what == "body"      ? export_body
     : what == "decoder" ? export_decoder
                         : export_training)(file, dtype);
    double error = 0, own = 0;
    std::istringstream(
        peer_.ask(fmt::format("{} {} {}", what, file.string(), name(arithmetic(dtype))))) >>
        error >> own;
    fs::remove(file);
    // In bfloat16 a training step, some sixty roundings of all activations on top of each other,
    // leads further away than that whoever computes it: as far as PyTorch, and half of that more.
    const double most = dtype == Dtype::kBF16 ? std::max(2e-2, 1.5 * own) : 1e-4;
    if (!(error <= most)) {
      fail(
          fmt::format("our result differs from PyTorch's in float32 by {:.2g} on the same weights; "
                      "at most {:.2g} is right",
                      error, most),
          what);
    }
    for (Row& r : rows) r.error = error, r.peer_error = own;
  }

  void check_onnx() {
    if (!onnx_.missing().empty()) return;
    export_onnx(onnx_file_, kWidth, kNets);
    const std::string file = onnx_file_.string();
    onnx_.ask("model " + file + words(batched(1, features_of(kWidth))));
    const std::string answer = onnx_.ask("check " + file + ".input " + file + ".output" +
                                         words(batched(4, features_of(kWidth))));
    onnx_error_ = std::stod(answer);
    if (!(onnx_error_ <= 1e-4)) {
      fail(fmt::format("our result differs from ONNX Runtime's by {:.2g} on the same weights",
                       onnx_error_),
           "inference");
    }
    say("ONNX Runtime has the same results");
  }
  static std::string words(const Shape& shape) {
    std::string text;
    for (const int64_t dim : shape.dims()) text += " " + std::to_string(dim);
    return text;
  }

  void measure(Row& r, const std::function<void()>& step) {
    const double batch = static_cast<double>(r.batch);
    const bool with_peer = r.peer_missing.empty();
    const bool with_onnx = onnx_error_ >= 0 && !r.training() && r.dtype == Dtype::kF32;
    if (with_peer) peer_.ask(job(r, r.mode));
    if (with_onnx) {
      onnx_.ask("model " + onnx_file_.string() + words(batched(r.batch, features_of(kWidth))));
    }
    for (int tries = 0; tries < kMostTries; ++tries) {
      r.ours.clear(), r.peer.clear(), r.onnx.clear(), r.peak.clear();
      for (int i = 0; i < kRounds; ++i) {
        r.peak.push_back(peak_flops(0.05));
        peaks_.flops = std::max(peaks_.flops, r.peak.back());
        r.ours.push_back(batch / repeat(step));
        const auto take_turn = [&](Peer& peer, std::vector<double>& speeds) {
          // Its threads of the round before sleep by now; ours must, too.
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
          speeds.push_back(batch / std::stod(peer.ask(fmt::format("run {}", kSeconds))));
          std::this_thread::sleep_for(std::chrono::milliseconds(20));
        };
        if (with_peer) take_turn(peer_, r.peer);
        if (with_onnx) take_turn(onnx_, r.onnx);
      }
      const auto [low, high] = std::minmax_element(r.peak.begin(), r.peak.end());
      if (*high <= 1.1 * *low) break;
      say(fmt::format("{}: the machine's peak moved by {:.0f} %", r.name,
                      100 * (*high / *low - 1)));
      repeated_ += 1;
    }
    say(fmt::format("{}, {}: {:.1f} images/s", r.name, name(r.dtype), median(r.ours)));
  }

  // Images/s of each. Each size gets as many turns, as long ones, and its best turn counts: what
  // disturbs a machine for seconds must not bend the curve.
  static std::vector<std::pair<double, double>> in_turns(std::map<double, Serving>& sizes) {
    std::map<double, double> best;
    for (int turn = 0; turn < kTurns; ++turn) {
      for (auto& [size, serving] : sizes) {
        const double begin = now();
        int64_t images = 0;
        do serving.run(kGrowthBatch), images += kGrowthBatch;
        while (now() - begin < kTurn);
        best[size] = std::max(best[size], static_cast<double>(images) / (now() - begin));
      }
    }
    return {best.begin(), best.end()};
  }

  struct Tried {
    std::string row, dtype, mode;
    double images;
  };

  const double start_ = now();
  Peer peer_, onnx_;
  const fs::path onnx_file_ =
      fs::temp_directory_path() / fmt::format("ens-bench-{}.onnx", getpid());
  double onnx_error_ = -1;  // of our results against ONNX Runtime's; -1: it is not there
  Peaks peaks_;
  std::vector<Row> rows_;
  std::vector<Tried> tried_;
  std::vector<Memory> memory_;
  std::vector<std::pair<double, double>> by_nets_, by_width_, waiting_;
  std::vector<PlanesTime> planes_;
  int repeated_ = 0;

  std::vector<std::string> head() const;
  std::vector<std::vector<std::string>> table() const;
  std::vector<std::string> notes() const;
};

std::vector<std::string> Benchmark::head() const {
  std::vector<std::string> lines{
      processor(),
      fmt::format("{}; {}; {}", libraries(),
                  peer_.missing().empty() ? peer_.version() : peer_.missing(),
                  onnx_.missing().empty() ? onnx_.version() : onnx_.missing()),
      fmt::format(
          "peak: {:.0f} GFLOP/s float32 (multiply-adds in registers), {}, {:.1f} GB/s read from "
          "memory",
          peaks_.flops / 1e9,
          peaks_.flops_bf16 > 0
              ? fmt::format("{:.0f} GFLOP/s bfloat16 (the same, or oneDNN's product of matrices)",
                            peaks_.flops_bf16 / 1e9)
              : "no bfloat16",
          peaks_.bandwidth / 1e9),
      fmt::format(
          "body: ResNet-18 of width {} after a pooled stem, {:.3f} GFLOP an image (direct), {:.1f} "
          "MB of float32 weights; medians of {} rounds{}",
          kWidth, body_flops(kWidth) / 1e9, 4e-6 * body_weights(kWidth), kRounds,
          repeated_ ? fmt::format("; {} rows measured again because the peak moved", repeated_)
                    : "")};
  return lines;
}

std::vector<std::vector<std::string>> Benchmark::table() const {
  std::vector<std::vector<std::string>> lines;
  for (const Row& r : rows_) {
    std::vector<std::string> line{r.name, name(r.dtype)};
    if (!r.why_not.empty()) {
      line.push_back(r.why_not);
      lines.push_back(line);
      continue;
    }
    const bool weights_only = arithmetic(r.dtype) != r.dtype;
    if (weights_only) line.back() += " weights";
    line.push_back(fmt::format("{:.1f}", median(r.ours)));
    if (r.peer.empty()) {
      line.insert(line.end(), {"-", r.peer_missing, "-"});
    } else {
      line.insert(line.end(), {fmt::format("{:.1f}", median(r.peer)),
                               (weights_only ? "float32: " : "") + r.mode,
                               fmt::format("{:.2f}", median(ratios(r.ours, r.peer)))});
    }
    if (r.onnx.empty()) {
      line.insert(line.end(), {"-", "-"});
    } else {
      line.insert(line.end(), {fmt::format("{:.1f}", median(r.onnx)),
                               fmt::format("{:.2f}", median(ratios(r.ours, r.onnx)))});
    }
    const Limit most = limit(r);
    line.push_back(fmt::format("{:.1f} ({})", most.images, most.of));
    line.push_back(fmt::format("{:.0f} %", 100 * median(r.ours) / most.images));
    std::string error = r.error ? fmt::format("{:.1e}", *r.error) : "-";
    if (r.peer_error > 0) error += fmt::format(" (PyTorch's {:.1e})", r.peer_error);
    line.push_back(error);
    lines.push_back(line);
  }
  return lines;
}

const std::vector<std::string> kColumns = {"images/s",      "dtype",    "ours",         "PyTorch",
                                           "its best mode", "ratio",    "ONNX Runtime", "ratio",
                                           "limit",         "of limit", "error"};

std::vector<std::string> Benchmark::notes() const {
  std::vector<std::string> lines;
  for (const Memory& m : memory_) {
    lines.push_back(
        fmt::format("memory, serving N={} at batch 32, {}: {:.0f} MB resident at most ({:.0f} MB "
                    "while starting), {:.2f} of weights {:.0f} MB + largest live activations "
                    "{:.0f} MB; packed weights {:.0f} MB",
                    kNets, name(m.dtype), m.serving / 1e6, m.starting / 1e6,
                    m.serving / (m.weights + m.activations), m.weights / 1e6, m.activations / 1e6,
                    m.packed / 1e6));
  }
  if (!by_nets_.empty()) {
    std::vector<double> each;
    for (const auto& [n, images] : by_nets_) each.push_back(n * images);
    const double middle = median(each);
    double worst = 0;
    for (double e : each) worst = std::max(worst, std::abs(e / middle - 1));
    lines.push_back(
        fmt::format("growth: N x images/s at batch 32 over N = 1..16 is {:.0f}, within {:.1f} % "
                    "(the best of {} turns each)",
                    middle, 100 * worst, kTurns));
  }
  for (const auto& [width, share] : waiting_) {
    lines.push_back(fmt::format(
        "data: {} nets of width {:.0f} trained in parallel wait for data {:.2f} % of the time",
        compute_threads(), width, 100 * share));
  }
  for (const PlanesTime& p : planes_) {
    lines.push_back(fmt::format(
        "int8: a 3x3 convolution of {}: {:.2f} ms in float32, {:.2f} ms for four exact int8 "
        "planes, {:.2f} times as long",
        p.convolution, p.float_ms, p.planes_ms, p.ratio));
  }
  return lines;
}

std::string Benchmark::text() const {
  std::string out;
  for (const std::string& line : head()) out += line + "\n";
  out += "\n";
  std::vector<std::vector<std::string>> lines = table();
  lines.insert(lines.begin(), kColumns);
  lines.insert(lines.begin() + 1, std::vector<std::string>(kColumns.size(), "---"));
  std::vector<size_t> widths(kColumns.size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size() && line.size() == kColumns.size(); ++i)
      widths[i] = std::max(widths[i], line[i].size());
  }
  for (const auto& line : lines) {
    for (size_t i = 0; i < kColumns.size(); ++i) {
      const std::string cell = i < line.size() ? line[i] : "";
      out += fmt::format("| {:<{}} ", cell, widths[i]);
    }
    out += "|\n";
  }
  out += "\n";
  for (const std::string& line : notes()) out += line + "\n";
  return out;
}

std::string Benchmark::csv() const {
  std::string out;
  for (const std::string& line : head()) out += "# " + line + "\n";
  out += "what,dtype,who,round,value,unit\n";
  const auto add = [&](const std::string& what, const std::string& dtype, const std::string& who,
                       size_t round, double value, const char* unit) {
    out += fmt::format("\"{}\",{},\"{}\",{},{:.6g},{}\n", what, dtype, who, round, value, unit);
  };
  for (const Row& r : rows_) {
    for (size_t i = 0; i < r.ours.size(); ++i) {
      add(r.name, name(r.dtype), "peak", i, r.peak[i], "FLOP/s");
      add(r.name, name(r.dtype), "ours", i, r.ours[i], "images/s");
      if (i < r.peer.size())
        add(r.name, name(r.dtype), "PyTorch " + r.mode, i, r.peer[i], "images/s");
      if (i < r.onnx.size()) add(r.name, name(r.dtype), "ONNX Runtime", i, r.onnx[i], "images/s");
    }
  }
  for (const Tried& t : tried_)
    add(t.row, t.dtype, "PyTorch tried " + t.mode, 0, t.images, "images/s");
  for (const auto& [n, images] : by_nets_)
    add(fmt::format("batch 32, N={:.0f}", n), "float32", "ours", 0, images, "images/s");
  for (const auto& [w, images] : by_width_)
    add(fmt::format("batch 32, N={}, width {:.0f}", kNets, w), "float32", "ours", 0, images,
        "images/s");
  for (const auto& [w, share] : waiting_)
    add(fmt::format("waiting for data, width {:.0f}", w), "float32", "ours", 0, share, "share");
  for (const PlanesTime& p : planes_) {
    add(p.convolution, "float32", "ours", 0, p.float_ms, "ms");
    add(p.convolution, "four int8 planes", "ours", 0, p.planes_ms, "ms");
  }
  for (const Memory& m : memory_) {
    add("weights", name(m.dtype), "ours", 0, m.weights, "bytes");
    add("largest live activations", name(m.dtype), "ours", 0, m.activations, "bytes");
    add("resident, serving", name(m.dtype), "ours", 0, m.serving, "bytes");
    add("resident, starting", name(m.dtype), "ours", 0, m.starting, "bytes");
  }
  return out;
}

std::string Benchmark::html() const {
  using namespace report;
  std::string intro;
  for (const std::string& line : head()) intro += "<p class=\"muted\">" + escape(line) + "</p>\n";
  std::vector<Cell> columns;
  for (const std::string& c : kColumns) columns.push_back(left(escape(c)));
  Table rows(columns);
  for (const auto& line : table()) {
    if (line.size() < kColumns.size()) {
      rows.add_wide(escape(line[0] + ", " + line[1]), escape(line[2]));
      continue;
    }
    std::vector<Cell> cells;
    for (size_t i = 0; i < line.size(); ++i) {
      cells.push_back(i < 2 || i == 4 ? left(escape(line[i])) : right(escape(line[i])));
    }
    rows.add(cells);
  }
  std::string body = section("Speed", "<div class=\"wide\">" + rows.str() + "</div>");
  std::string list;
  for (const std::string& line : notes()) list += "<p>" + escape(line) + "</p>\n";
  body += section("Memory, growth, data, int8", list);
  if (!by_nets_.empty()) {
    FigureList figures;
    const auto cost = [](const std::vector<std::pair<double, double>>& speeds) {
      std::vector<std::pair<double, double>> ms;
      for (const auto& [x, images] : speeds) ms.emplace_back(x, 1e3 / images);
      return ms;
    };
    const auto figure = [&](const char* title, const char* x,
                            const std::vector<std::pair<double, double>>& values) {
      Line ours{"ours", {}};
      for (const auto& [at, value] : values) ours.points.push_back({.x = at, .y = value});
      return figures.add(title, {.title = title, .x_label = x, .lines = {ours}});
    };
    body += section(
        "As it grows",
        "<div class=\"plots\">" + figure("images/s, batch 32, width 64", "nets N", by_nets_) +
            figure("milliseconds an image, batch 32, width 64", "nets N", cost(by_nets_)) +
            figure("images/s, batch 32, N = 10", "width", by_width_) +
            figure("milliseconds an image, batch 32, N = 10", "width", cost(by_width_)) + "</div>",
        "Lines through the origin in N: a net more costs what the one before did. Work "
        "grows with the square of the width.");
  }
  return "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
         "content=\"width=device-width\"><title>CPU benchmark</title><style>" +
         std::string(kStyle) + "</style></head><body><h1>CPU benchmark</h1>" + intro + body +
         "</body></html>\n";
}

// The process that --memory starts.
void print_memory(Dtype dtype) {
  Serving serving(kWidth, kNets, dtype, 32);
  const double starting = resident_peak();
  reset_resident_peak();
  for (int i = 0; i < 3; ++i) serving.run(32);
  fmt::print("{} {} {} {} {}\n", kNets * body_weights(kWidth) * static_cast<double>(size_of(dtype)),
             largest_activations(kWidth, 32) / 4 * static_cast<double>(size_of(dtype)),
             static_cast<double>(serving.lanes().weight_bytes()), resident_peak(), starting);
}

int run(int argc, char** argv) {
  CLI::App app{"Speed of this machine, ours and PyTorch's.", "ens-bench"};
  std::string out = "runs/bench", memory_of, source = ENS_SOURCE_DIR;
  const std::vector<std::string> all{"1",        "8",       "32",     "128",
                                     "training", "decoder", "growth", "int8"};
  std::vector<std::string> parts = all;
  app.add_option("--out", out, "folder for cpu.csv and cpu.html")->capture_default_str();
  app.add_option(
         "--only", parts,
         "what to measure: inference at batch 1, 8, 32, 128; training; decoder; growth; int8")
      ->check(CLI::IsMember(all));
  app.add_option("--memory", memory_of)->group("");
  parse_flags(app, argc, argv);
  if (!memory_of.empty()) {
    print_memory(parse_dtype(memory_of));
    return 0;
  }
  const auto wanted = [&](const char* part) {
    return std::ranges::find(parts, part) != parts.end();
  };
  Benchmark bench(source);
  bench.measure_peaks();
  std::vector<int64_t> batches;
  for (const char* batch : {"1", "8", "32", "128"}) {
    if (wanted(batch)) batches.push_back(std::stoi(batch));
  }
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16}) bench.inference(dtype, batches);
  for (Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    if (wanted("training")) bench.training(dtype);
    if (wanted("decoder")) bench.decoder(dtype);
  }
  if (wanted("growth")) {
    bench.memory(fs::read_symlink("/proc/self/exe").string());
    bench.growth();
  }
  if (wanted("int8")) bench.int8();
  fs::create_directories(out);
  std::ofstream(out + "/cpu.csv") << bench.csv();
  std::ofstream(out + "/cpu.html") << bench.html();
  fmt::print("{}\n{}/cpu.csv, {}/cpu.html\n", bench.text(), out, out);
  return 0;
}

}  // namespace
}  // namespace ens::bench

int main(int argc, char** argv) {
  return ens::run_program("ens-bench", argv, [&] {
    ens::pin_compute_threads();
    return ens::bench::run(argc, argv);
  });
}
