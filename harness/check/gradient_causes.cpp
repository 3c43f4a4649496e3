#include "harness/check/gradient_causes.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "harness/check/hypothesis.h"
#include "harness/check/readable.h"

namespace moecheck::check {
namespace {

// Words only: no verdict hangs on these. A tenth of the size is far from rounding and near enough to recognise a cause.
constexpr double kRecognised = 0.1;

// "each rank is wrong and their sum over ep is right": the parts were never summed.
std::string missing_reduction(const CheckInput& input, Dim rank, std::string_view tap, const base::HostTensor& want) {
  const model::Mesh& mesh = input.one.problem.mesh;
  for (const model::MeshDim& dim : mesh.dims()) {
    if (dim.size == 1) continue;
    std::vector<double> sum(static_cast<std::size_t>(want.numel()), 0.0);
    bool is_complete = true, is_same = true;   // equal parts are not parts of a sum that was never made
    for (const Dim member : mesh.group(rank, dim.name)) {
      const base::HostTensor* part = rank_trace(input, member) == nullptr ? nullptr : rank_trace(input, member)->tensor(tap);
      is_complete = is_complete && part != nullptr && part->shape() == want.shape();
      is_same = is_same && is_complete && std::ranges::equal(part->bytes(), rank_trace(input, rank)->tensor(tap)->bytes());
      for (std::size_t i = 0; is_complete && i < sum.size(); ++i) sum[i] += part->at(static_cast<std::int64_t>(i));
    }
    if (is_complete && !is_same && relative_distance(sum, want) < kRecognised)
      return fmt::format("each rank is wrong, their sum over {} is right: a reduction is missing", dim.name);
  }
  return "";
}

}  // namespace

double relative_distance(const std::vector<double>& got, const base::HostTensor& want) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double expected = want.at(static_cast<std::int64_t>(i));
    if (!std::isfinite(expected)) continue;
    error += (got[i] - expected) * (got[i] - expected);
    size += expected * expected;
  }
  return size > 0 ? std::sqrt(error / size) : HUGE_VAL;
}

std::string gradient_cause(const CheckInput& input, Dim rank, std::string_view tap, const base::HostTensor& want) {
  const base::HostTensor& got = *rank_trace(input, rank)->tensor(tap);
  if (std::string missing = missing_reduction(input, rank, tap, want); !missing.empty()) return missing;
  return ratio_clause(want.to_doubles(), got.to_doubles(), input.one.problem);
}

}  // namespace moecheck::check
