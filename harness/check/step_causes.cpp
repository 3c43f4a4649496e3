#include "harness/check/step_causes.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include <fmt/format.h>

#include "harness/check/hypothesis.h"
#include "harness/tolerance/bounds.h"
#include "harness/trace/tap_points.h"

namespace moecheck::check {
namespace {

using Values = std::vector<double>;

// A tenth of the error is far from rounding and near enough to recognise a cause.
constexpr double kRecognised = 0.1;

Values row_of(const base::HostTensor& tensor, Dim row) {
  const Dim columns = tensor.numel() / tensor.dim(0);
  Values values(static_cast<std::size_t>(columns));
  for (Dim i = 0; i < columns; ++i) values[static_cast<std::size_t>(i)] = tensor.at(row * columns + i);
  return values;
}

double distance(const Values& a, const Values& b, double factor_of_b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - factor_of_b * b[i]) * (a[i] - factor_of_b * b[i]);
  return std::sqrt(sum);
}

bool is_shown(const CheckInput& input, std::string_view tap) {
  return std::ranges::any_of(input.observed.ranks, [&](const trace::RankTrace& rank) { return rank.find(tap) != nullptr; });
}

// What a weight errs by is what it should have decayed by.
std::string decay_clause(const CheckInput& input, const WrongState& wrong, const Values& begun) {
  const Dim step = input.one.step_of(wrong.tap.starts_with("param/") ? input.batch - 1 : input.batch);
  const double decay = input.one.learning_rate_of(step) * input.one.training.weight_decay;
  Values error = row_of(wrong.got, wrong.row);
  std::ranges::transform(error, row_of(wrong.expected.value, wrong.row), error.begin(), std::minus<>{});
  const bool is_missing = decay > 0 && tolerance::within(distance(error, begun, decay), kRecognised * decay * distance(begun, begun, 0));
  return is_missing ? "the weight decay is missing" : "";
}

struct Squares {
  double once = 0;        // every shard once
  double here = 0;        // of one rank
  double everywhere = 0;  // as often as it lies on ranks
  bool is_known = true;
};

Squares squares_of_gradient(const CheckInput& input, Dim rank, std::string_view parameter) {
  // The only microbatch's gradient is their sum.
  const bool is_summed = input.one.training.microbatches > 1 || is_shown(input, fmt::format("optim/grad/{}", parameter));
  const std::string tap = fmt::format("{}grad/{}", is_summed ? "optim/" : "", parameter);
  Squares sum;
  for (Dim other = 0; other < input.one.world_size(); ++other) {
    const base::HostTensor* gradient = fitting_tensor(input, other, tap);
    if (gradient == nullptr) return {.is_known = false};
    double squares = 0;
    for (const double g : gradient->to_doubles()) squares += g * g;
    sum.everywhere += squares;
    if (other == rank) sum.here += squares;
    if (trace::replica_group(input.one.problem, tap, other).front() == other) sum.once += squares;
  }
  return sum;
}

}  // namespace

std::string_view trainable_of(std::string_view tap) {
  const auto found = std::ranges::find_if(kTrainable, [&](std::string_view parameter) { return tap.ends_with(parameter); });
  return found == kTrainable.end() ? "" : *found;
}

bool is_optimizer_tap(std::string_view tap) { return tap.starts_with("optim/"); }

std::vector<std::string_view> step_taps(const CheckInput& input, bool are_of_parameters) {
  std::vector<std::string_view> taps;
  for (const trace::TapPoint& tap : trace::tap_points())
    if (is_optimizer_tap(tap.name) && trainable_of(tap.name).empty() != are_of_parameters) taps.push_back(tap.name);
  return asked_taps(input, taps);
}

std::vector<std::string_view> lacking_state(const CheckInput& input, const trace::RankTrace& rank, std::string_view parameter) {
  const auto is_offered = [&](std::string_view tap) {
    const std::string_view kind = tap.substr(0, tap.size() - parameter.size());
    return std::ranges::any_of(kTrainable, [&](std::string_view other) { return is_shown(input, fmt::format("{}{}", kind, other)); });
  };
  std::vector<std::string_view> lacking;
  for (const std::string_view tap : step_taps(input, true))
    if (trainable_of(tap) == parameter && rank.find(tap) == nullptr && is_offered(tap)) lacking.push_back(tap);
  return lacking;
}

const base::HostTensor* before_step(const CheckInput& input, Dim rank, std::string_view parameter) {
  const auto index = static_cast<std::size_t>(rank);
  for (auto batch = input.earlier.rbegin(); batch != input.earlier.rend(); ++batch)
    if (index < batch->ranks.size())
      if (const auto* master = batch->ranks[index].tensor(fmt::format("optim/master/{}", parameter))) return master;
  return fitting_tensor(input, rank, fmt::format("param/{}", parameter));
}

const base::HostTensor* weights_before(const CheckInput& input, Dim rank, std::string_view tap) {
  if (tap.starts_with("optim/master/")) return before_step(input, rank, trainable_of(tap));
  if (tap.starts_with("optim/param/")) return fitting_tensor(input, rank, trace::parameter_of(tap));
  const auto index = static_cast<std::size_t>(rank);
  if (!tap.starts_with("param/") || input.earlier.empty() || index >= input.earlier.back().ranks.size()) return nullptr;
  return input.earlier.back().ranks[index].tensor(tap);
}

std::string norm_clause(const CheckInput& input, Dim rank, double got, double want) {
  double whole = 0, here = 0, everywhere = 0;
  std::array<double, kTrainable.size()> share = {};
  for (std::size_t p = 0; p < kTrainable.size(); ++p) {
    const Squares squares = squares_of_gradient(input, rank, kTrainable[p]);
    if (!squares.is_known) return "";
    share[p] = squares.once;
    whole += squares.once;
    here += squares.here;
    everywhere += squares.everywhere;
  }
  const std::pair<double, std::string> causes[] = {{whole - share[1] - share[2], "the norm lacks the experts"},
                                                   {whole - share[0], "the norm lacks the router"},
                                                   {whole - share[1], "the norm lacks the gate and up weights"},
                                                   {whole - share[2], "the norm lacks the down weights"},
                                                   {here, "the norm is that of the rank's own shards"},
                                                   {everywhere, "the norm counts what is replicated once for each rank"}};
  const double error = std::fabs(got * got - want * want);
  for (const auto& [squares, words] : causes)
    if (tolerance::within(std::fabs(got * got - squares), kRecognised * error)) return words;
  return "";
}

std::string update_clause(const CheckInput& input, const WrongState& wrong) {
  const base::HostTensor* before = weights_before(input, wrong.rank, wrong.tap);
  if (before == nullptr || before->shape() != wrong.got.shape()) return "";
  const std::string_view parameter = trainable_of(wrong.tap);
  Values want = row_of(wrong.expected.value, wrong.row), got = row_of(wrong.got, wrong.row);
  const Values begun = row_of(*before, wrong.row);
  // Before all else, since a decay is all that moves an expert without tokens.
  if (std::string decay = decay_clause(input, wrong, begun); !decay.empty()) return decay;
  if (wrong.got.to_doubles() == before->to_doubles()) return fmt::format("{} did not move, though its update is not zero", parameter);
  if (got == begun) return fmt::format("the expert's part of {} did not move, though its update is not zero", parameter);
  std::ranges::transform(want, begun, want.begin(), std::minus<>{});
  std::ranges::transform(got, begun, got.begin(), std::minus<>{});
  const std::string ratio = ratio_clause(want, got, input.one.problem);
  return ratio.empty() ? "" : fmt::format("the update is {}", ratio);
}

std::string state_clause(const CheckInput& input, const WrongState& wrong) {
  const base::HostTensor* before = before_step(input, wrong.rank, trainable_of(wrong.tap));
  if (wrong.tap.starts_with("optim/master/") && before != nullptr && before->shape() == wrong.got.shape())
    return update_clause(input, wrong);
  const base::HostTensor* begun = fitting_tensor(input, wrong.rank, trace::parameter_of(wrong.tap));
  if (wrong.tap.starts_with("optim/param/") && begun != nullptr && base::same_bytes(*begun, wrong.got))
    return fmt::format("{} did not move: it is not refreshed from the master", trainable_of(wrong.tap));
  const Values want = row_of(wrong.expected.value, wrong.row), got = row_of(wrong.got, wrong.row);
  const auto batches = static_cast<double>(input.one.training.microbatches);
  const bool is_mean = batches > 1 && tolerance::within(distance(got, want, 1 / batches), kRecognised * distance(got, want, 1));
  if (is_mean && wrong.tap.starts_with("optim/grad/")) return "the microbatches are averaged, declared summed";
  return ratio_clause(want, got, input.one.problem);
}

}  // namespace moecheck::check
