// SPDX-License-Identifier: Apache-2.0
// Speed of one GPU: what it reaches at all, serving N bodies, training. bench/gpu runs this beside
// PyTorch and prints the table; alone it prints its samples as CSV:
// what,batch,who,sample,value,unit.
#include <algorithm>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/flags.h"
#include "base/program.h"
#include "base/threads.h"
#include "bench/planes.h"
#include "nn/autograd/ops.h"
#include "nn/core/backend.h"
#include "nn/models/model.h"
#include "nn/optim/optim.h"
#include "nn/plan/float8.h"
#include "nn/plan/plan.h"

namespace ens {
namespace {

struct Settings {
  std::string device = "cuda", dtype = "float16", train_dtype = "bfloat16";
  int nets = 10, width = 64, samples = 9;
  double sample_ms = 30;  // at least
  std::vector<int64_t> batches = {1, 8, 32, 128, 512}, train_batches = {128, 512};
  std::vector<std::string> only;  // peak, serve, serve8, train, int8; empty: all
};

double now_ms() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

void print_sample(const char* what, int64_t batch, int sample, double value, const char* unit) {
  std::printf("%s,%lld,ours,%d,%.6g,%s\n", what, static_cast<long long>(batch), sample, value,
              unit);
  std::fflush(stdout);
}

// Milliseconds of one run, `samples` times: each the mean of as many as take sample_ms, asked for
// back to back.
std::vector<double> time_runs(const Settings& s, Backend& be, const std::function<void()>& run) {
  const auto many = [&](int count) {
    const double begin = now_ms();
    for (int i = 0; i < count; ++i) run();
    be.synchronize();
    return (now_ms() - begin) / count;
  };
  many(3);
  const int count = std::clamp(static_cast<int>(s.sample_ms / many(3)), 1, 2000);
  std::vector<double> times;
  for (int i = 0; i < s.samples; ++i) times.push_back(many(count));
  return times;
}

Tensor random_tensor(const Shape& shape, Rng& rng, float low = 0, float high = 1) {
  Tensor t = Tensor::empty(shape);
  rng.fill_uniform(t.span<float>(), low, high);
  return t;
}

// What the device reaches: bytes copied (read and written) and products of large matrices.
void peak(const Settings& s, Device device) {
  Backend& be = backend(device);
  Rng rng(1);
  const int64_t bytes = device.type == Device::Type::kCuda ? int64_t{1} << 30 : 1 << 26;
  const Tensor from = Tensor::zeros({bytes / 4}, Dtype::kF32, device);
  Tensor to = Tensor::empty_like(from);
  int sample = 0;
  for (double ms : time_runs(s, be, [&] { to.copy_from(from); })) {
    print_sample("copy", 0, sample++, 2 * static_cast<double>(bytes) / ms / 1e9, "TB/s");
  }
  // Random numbers: products of zeros draw less power and run faster than real ones.
  const int64_t n = device.type == Device::Type::kCuda ? 8192 : 512;
  const Dtype type = be.supports(Dtype::kBF16) ? Dtype::kBF16 : Dtype::kF32;
  const Tensor a = random_tensor({n, n}, rng, -1, 1).to(device).to(type);
  const Tensor b = random_tensor({n, n}, rng, -1, 1).to(device).to(type);
  Tensor c = Tensor::empty_like(a);
  sample = 0;
  for (double ms : time_runs(s, be, [&] { be.gemm(false, false, 1, a, b, 0, c); })) {
    print_sample("gemm", 0, sample++, 2.0 * n * n * n / ms / 1e9, "TFLOP/s");
  }
}

double relative_error(const std::vector<float>& want, const std::vector<float>& got) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(got[i] - want[i], 2);
    size += std::pow(want[i], 2);
  }
  return std::sqrt(error / size);
}

void serve(const Settings& s, Device device, Dtype dtype) {
  Backend& be = backend(device);
  ModelSpec spec;
  spec.width = s.width;
  const Split split;
  const Shape one = smashed_shape(spec, split);
  std::vector<Graph> bodies;
  for (int i = 0; i < s.nets; ++i) {
    Rng rng(1, static_cast<uint64_t>(i));
    bodies.push_back(lower(*build_body(spec, split, rng), one));
  }
  Rng rng(2);
  const Tensor few = random_tensor(batched(2, one), rng);
  const bool float8 = dtype == Dtype::kF8;
  const std::string suffix = float8 ? "8" : "";  // of the samples' names
  if (float8) {
    for (Graph& body : bodies) set_input_ranges(body, input_ranges(body, few));
  }
  const int64_t most = *std::ranges::max_element(s.batches);
  Plan plan(bodies, device, dtype, most);
  // The floor: every weight read once, every product made once.
  std::printf("weights%s,0,ours,0,%.6g,bytes\n", suffix.c_str(),
              static_cast<double>(plan.parameters()) * static_cast<double>(size_of(dtype)));
  std::printf("flops,1,ours,0,%.6g,FLOP\n", static_cast<double>(plan.flops()));

  const Tensor want = Plan(bodies[0], {}, Dtype::kF32, 2).run(few);
  const double error = relative_error(want.to_vector(), plan.run_all(few).to_vector());
  std::printf("error%s,2,ours,0,%.3g,relative\n", suffix.c_str(), error);
  // In float8 a number's last bit is a sixteenth of it.
  if (!(error < (float8 ? 0.15 : 2e-2))) {
    fail("the first network's outputs differ from the CPU's by " + std::to_string(error),
         "serve" + suffix);
  }

  for (int64_t batch : s.batches) {
    const Tensor host = random_tensor(batched(batch, one), rng);
    const Tensor features = host.to(device);
    int sample = 0;
    for (double ms : time_runs(s, be, [&] { plan.run_all(features); })) {
      print_sample(("serve" + suffix).c_str(), batch, sample++, ms, "ms");
    }
    if (float8) continue;  // the way to the device and back is the same
    sample = 0;
    for (double ms : time_runs(s, be, [&] { plan.run_all(host).to(Device{}); })) {
      print_sample("serve_host", batch, sample++, ms, "ms");
    }
  }
}

// One net's training step, captured where the device can.
class Training {
 public:
  Training(const Settings& s, Device device, int64_t batch, int index)
      : dtype_(parse_dtype(s.train_dtype)), device_(device) {
    Rng rng(3, static_cast<uint64_t>(index));
    ModelSpec spec;
    spec.width = s.width;
    net_ = build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng);
    net_->to(device);
    optimizer_ = std::make_unique<Optimizer>(net_->parameters(), OptimSpec{});
    images_ = random_tensor(batched(batch, spec.input_shape()), rng).to(device);
    std::vector<int32_t> labels(static_cast<size_t>(batch));
    for (int32_t& l : labels) l = static_cast<int32_t>(rng.below(10));
    labels_ = Tensor::from_labels(labels).to(device);
    optimizer_->set_rate(0.01f);
    for (int i = 0; i < 3; ++i) work();
    captured_ = backend(device).capture([this] { work(); });
  }
  void step() {
    optimizer_->set_rate(0.01f);
    captured_ ? captured_->run() : work();
  }
  void wait() { backend(device_).synchronize(); }

 private:
  void work() {
    optimizer_->prepare();
    softmax_cross_entropy(net_->forward(cast(Var(images_), dtype_)), labels_).backward();
    optimizer_->apply();
  }
  const Dtype dtype_;
  const Device device_;
  std::shared_ptr<Sequential> net_;
  std::unique_ptr<Optimizer> optimizer_;
  Tensor images_, labels_;
  std::unique_ptr<CapturedGraph> captured_;
};

void train(const Settings& s, Device device) {
  {
    ModelSpec spec;
    spec.width = s.width;
    Rng rng(3);
    const auto net = build_cells(spec, 0, static_cast<int>(cell_names(spec).size()), rng);
    // Each product once forward and, for two gradients, twice backward.
    std::printf("train_flops,1,ours,0,%.6g,FLOP\n",
                3.0 * static_cast<double>(lower(*net, spec.input_shape()).flops()));
  }
  for (int64_t batch : s.train_batches) {
    Training one(s, device, batch, 0);
    int sample = 0;
    for (double ms : time_runs(s, backend(device), [&] { one.step(); })) {
      print_sample("train", batch, sample++, ms, "ms");
    }
  }
  // Side by side, a thread and a stream each: all begin a sample together, and end it together.
  const int64_t batch = s.train_batches.front();
  std::barrier together(s.nets);
  std::vector<double> times;
  int count = 0;
  double begin = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < s.nets; ++i) {
      threads.emplace_back([&, i] {
        set_compute_threads(1);  // where there is no GPU
        Training net(s, device, batch, i);
        for (int sample = -1; sample < s.samples; ++sample) {
          net.wait();
          together.arrive_and_wait();
          if (i == 0) {
            // The first round says how many steps a sample takes.
            if (sample >= 0 && count == 1) {
              count = std::clamp(static_cast<int>(s.sample_ms / times.back()), 2, 500);
              times.clear();
            }
            if (sample < 0) count = 1;
            begin = now_ms();
          }
          together.arrive_and_wait();
          for (int step = 0; step < count; ++step) net.step();
          net.wait();
          together.arrive_and_wait();
          if (i == 0) times.push_back((now_ms() - begin) / count);
        }
      });
    }
  }
  for (size_t i = 0; i < times.size(); ++i) {
    print_sample("train_all", batch, static_cast<int>(i), times[i], "ms");
  }
}

int run(int argc, char** argv) {
  Settings s;
  CLI::App app{"Speed of one GPU as CSV; bench/gpu prints it as a table beside PyTorch's.",
               "ens-bench-gpu"};
  app.add_option("--device", s.device, "cuda, cuda:1, cpu");
  app.add_option("--dtype", s.dtype, "of serving");
  app.add_option("--train-dtype", s.train_dtype, "of training's activations");
  app.add_option("--nets", s.nets)->check(between(1, 32));
  app.add_option("--width", s.width)->check(between(1, 1024));
  app.add_option("--samples", s.samples)->check(between(1, 1000));
  app.add_option("--sample-ms", s.sample_ms, "least time of a sample");
  app.add_option("--batches", s.batches)->delimiter(',');
  app.add_option("--train-batches", s.train_batches)->delimiter(',');
  app.add_option("--only", s.only, "peak, serve, serve8, train, int8")->delimiter(',');
  parse_flags(app, argc, argv);
  offer_gpus();
  const Device device = parse_device(s.device);
  std::printf("# %s\nwhat,batch,who,sample,value,unit\n", backend(device).description().c_str());
  const auto wanted = [&](const char* part) {
    return s.only.empty() || std::ranges::find(s.only, part) != s.only.end();
  };
  if (wanted("peak")) peak(s, device);
  if (wanted("serve")) serve(s, device, parse_dtype(s.dtype));
  if (wanted("train")) train(s, device);
  if (wanted("int8")) {
    for (const bench::PlanesTime& p : bench::time_planes(device)) {
      std::printf(
          "# a 3x3 convolution of %s: %.3f ms in float32 without TF32, %.3f ms for four exact int8 "
          "planes, %.2f times as long\n",
          p.convolution.c_str(), p.float_ms, p.planes_ms, p.ratio);
    }
  }
  // Last: cuDNN compiles its kernels for float8 now.
  if (wanted("serve8") && backend(device).serves(Dtype::kF8)) serve(s, device, Dtype::kF8);
  return 0;
}

}  // namespace
}  // namespace ens

int main(int argc, char** argv) {
  return ens::run_program("ens-bench-gpu", argv, [&] { return ens::run(argc, argv); });
}
