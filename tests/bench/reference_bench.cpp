// How fast the reference is, beside plain Eigen in the same run, and that its memory does not grow with the experts.
//
//   reference_bench [--json]
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/files.h"
#include "harness/base/json.h"
#include "reference/evaluate.h"
#include "reference/moe_layer.h"

namespace {

using moecheck::base::Json;
using moecheck::model::Dim;
using namespace moecheck::reference;

constexpr double kGiga = 1e9;
constexpr double kMega = 1e6;
constexpr int kRepeats = 5;
constexpr double kMinSeconds = 0.2;

// Best of kRepeats, each long enough for the clock.
double seconds_of(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  double best = 1e30;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    int calls = 0;
    const auto start = Clock::now();
    double elapsed = 0;
    do {
      work();
      ++calls;
      elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    } while (elapsed < kMinSeconds / kRepeats);
    best = std::min(best, elapsed / calls);
  }
  return best;
}

moecheck::cases::Case sized_case(Dim num_experts, Dim top_k, Dim d_model, Dim d_ff, Dim num_tokens) {
  moecheck::cases::Case one;
  one.problem.model.num_experts = num_experts;
  one.problem.model.top_k = top_k;
  one.problem.model.d_model = d_model;
  one.problem.model.d_ff = d_ff;
  one.problem.tokens_per_rank = {num_tokens};
  one.problem.dtype = moecheck::base::DType::kBF16;
  return one;
}

// The sizes of one expert of Qwen3-30B-A3B.
constexpr Dim kModelDim = 2048;
constexpr Dim kHiddenDim = 768;

Json bench_gemm(Dim num_rows) {
  const Matrix<float> x_RD = Matrix<float>::Random(num_rows, kModelDim);
  const Matrix<float> w_GD = Matrix<float>::Random(2 * kHiddenDim, kModelDim);
  Matrix<float> plain_RG(num_rows, 2 * kHiddenDim);
  float sink = 0;
  const double reference = seconds_of([&] { sink += gate_up(x_RD, w_GD)(0, 0); });
  const double eigen = seconds_of([&] {
    plain_RG.noalias() = x_RD * w_GD.transpose();
    sink += plain_RG(0, 0);
  });
  const double flop = 2.0 * static_cast<double>(num_rows * kModelDim * 2 * kHiddenDim);
  return {{"rows", num_rows},
          {"reference_gflops", flop / reference / kGiga},
          {"eigen_gflops", flop / eigen / kGiga},
          {"ratio", eigen / reference},
          {"checksum", sink}};
}

Json bench_generator(moecheck::base::DType dtype) {
  auto one = sized_case(8, 2, kModelDim, kHiddenDim, 8);
  one.problem.dtype = dtype;
  const moecheck::inputs::Generator generator(one.problem);
  GeneratedWeights<float> weights(generator);
  const double seconds = seconds_of([&] { weights.expert(3); });
  return {{"dtype", moecheck::base::knob_name(dtype)}, {"melements_per_s", 3.0 * static_cast<double>(kModelDim * kHiddenDim) / seconds / kMega}};
}

// Runs `work` in a child of its own; its peak resident set in MiB (VmHWM).
double peak_mib_of(const std::function<void()>& work) {
  int ends[2];
  if (pipe(ends) != 0) return 0;
  const pid_t child = fork();
  if (child == 0) {
    work();
    const auto status = moecheck::base::read_file("/proc/self/status").value();
    const std::string number = status.substr(status.find("VmHWM:") + std::strlen("VmHWM:"));
    const double mib = std::stod(number) / 1024;
    const bool is_written = write(ends[1], &mib, sizeof mib) == sizeof mib;
    _exit(is_written ? 0 : 1);
  }
  close(ends[1]);
  double mib = 0;
  const bool is_read = read(ends[0], &mib, sizeof mib) == sizeof mib;
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return is_read && status == 0 ? mib : 0;
}

Json bench_memory(Dim num_experts) {
  const double peak = peak_mib_of([&] {
    const auto one = sized_case(num_experts, 8, kModelDim, kHiddenDim, 64);
    const moecheck::inputs::Generator generator(one.problem);
    GeneratedWeights<float> weights(generator);
    MoeLayer<float>(one.problem.model, weights).forward(generated_tokens<float>(generator, 0));
  });
  return {{"experts", num_experts}, {"peak_mib", peak}};
}

using moecheck::trace::Tapped;
Tapped whole(moecheck::base::HostTensor tensor) { return {tensor, {}, tensor.shape()}; }

// A rank that shows every tap, with zeros where values do not matter to the cost.
moecheck::trace::RankTrace shown_rank(const moecheck::cases::Case& one, Dim rank) {
  using moecheck::base::DType;
  using moecheck::base::HostTensor;
  const auto& spec = one.problem.model;
  const moecheck::inputs::Generator generator(one.problem);
  GeneratedWeights<float> weights(generator);
  const auto x_TD = generated_tokens<float>(generator, rank);
  const auto logits_TE = router_logits(x_TD, weights.router_ED());
  const IdMatrix ids_TK = choose_experts(logits_TE, spec);
  const Dispatch rows = dispatch(ids_TK, spec.num_experts);
  const Dim num_local = spec.num_experts / one.problem.mesh.size("ep");
  const Dim first = one.problem.mesh.coordinate(rank, "ep") * num_local;
  const auto begin = rows.first_row[static_cast<std::size_t>(first)];
  const auto end = rows.first_row[static_cast<std::size_t>(first + num_local)];
  const auto num_rows = static_cast<Dim>(end - begin);
  IdMatrix keys_R3(num_rows, 3);
  for (std::size_t i = begin; i < end; ++i)
    keys_R3.row(static_cast<Dim>(i - begin)) << rows.rows_N[i].token, rows.rows_N[i].slot, rows.rows_N[i].expert;
  const Dim num_tokens = x_TD.rows();
  moecheck::trace::RankTrace trace;
  trace.rank = rank;
  trace.taps["input/x_TD"] = whole(tensor_of(x_TD));
  trace.taps["router/logits_TE"] = whole(tensor_of(logits_TE));
  trace.taps["router/ids_TK"] = whole(tensor_of(ids_TK));
  trace.taps["router/scores_TK"] = whole(tensor_of(scores_from_logits(logits_TE, ids_TK, spec)));
  trace.taps["dispatch/rows_R3"] = whole(tensor_of(keys_R3));
  trace.taps["experts/gate_up_RG"] = whole(HostTensor(DType::kBF16, {num_rows, spec.gate_up_rows()}));
  trace.taps["experts/act_RF"] = whole(HostTensor(DType::kBF16, {num_rows, spec.d_ff}));
  trace.taps["experts/out_RD"] = whole(HostTensor(DType::kBF16, {num_rows, spec.d_model}));
  trace.taps["output/y_TD"] = whole(HostTensor(DType::kBF16, {num_tokens, spec.d_model}));
  trace.taps["combine/partial_TD"] = {HostTensor(DType::kBF16, {num_tokens, spec.d_model}), {{"ep", moecheck::model::partial()}},
                                      {num_tokens, spec.d_model}};
  return trace;
}

Json bench_evaluate(const std::string& name, moecheck::cases::Case one) {
  one.problem.mesh = moecheck::model::Mesh::parse("ep=4").value();
  std::vector<moecheck::trace::Trace> batches(1);
  for (Dim r = 0; r < one.world_size(); ++r) batches[0].ranks.push_back(shown_rank(one, r));
  std::size_t num_taps = 0;
  const double seconds = seconds_of([&] { num_taps = evaluate(one, batches).ranks[0].taps.size(); });
  const double peak = peak_mib_of([&] { evaluate(one, batches); });
  return {{"case", name}, {"milliseconds", seconds * 1e3}, {"peak_mib", peak}, {"taps", num_taps}};
}

Json run_all() {
  Json result;
  // First, while this process is small: children inherit its peak.
  for (const Dim num_experts : {8, 128}) result["forward_memory"].push_back(bench_memory(num_experts));
  for (const Dim num_rows : {4, 64, 512}) result["expert_gemm"].push_back(bench_gemm(num_rows));
  for (const auto dtype : {moecheck::base::DType::kF32, moecheck::base::DType::kBF16}) result["generator"].push_back(bench_generator(dtype));
  result["evaluate"].push_back(bench_evaluate("small", sized_case(12, 3, 48, 96, 7)));
  result["evaluate"].push_back(bench_evaluate("qwen3_30b_a3b", sized_case(128, 8, kModelDim, kHiddenDim, 64)));
  return result;
}

void print_table(const Json& result) {
  for (const Json& row : result["expert_gemm"])
    fmt::print("expert GEMM   {:4} rows   {:7.1f} GFLOP/s   plain Eigen {:7.1f}   ratio {:.2f}\n", row["rows"].get<Dim>(),
               row["reference_gflops"].get<double>(), row["eigen_gflops"].get<double>(), row["ratio"].get<double>());
  for (const Json& row : result["generator"])
    fmt::print("generator     {:9} {:7.0f} M elements/s\n", row["dtype"].get<std::string>(), row["melements_per_s"].get<double>());
  for (const Json& row : result["forward_memory"])
    fmt::print("forward       {:4} experts   peak {:6.1f} MiB\n", row["experts"].get<Dim>(), row["peak_mib"].get<double>());
  for (const Json& row : result["evaluate"])
    fmt::print("evaluate      {:14} {:9.2f} ms   peak {:6.1f} MiB\n", row["case"].get<std::string>(),
               row["milliseconds"].get<double>(), row["peak_mib"].get<double>());
}

}  // namespace

int main(int argc, char** argv) {
  const bool as_json = argc > 1 && std::string(argv[1]) == "--json";
  const Json result = run_all();
  if (as_json) {
    fmt::print("{}\n", result.dump(2));
  } else {
    print_table(result);
  }
  return 0;
}
