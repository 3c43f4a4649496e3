#include "parallel_impls/layer/dispatcher.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;
using trace::DeclaredCollective;

class GatheringDispatcher final : public TokenDispatcher {
 public:
  GatheringDispatcher(LayerContext context, std::string dim)
      : context_(std::move(context)), problem_(context_.one.problem), dim_(std::move(dim)), is_gathered_(problem_.shards_tokens(dim_)) {
    for (const Dim member : problem_.mesh.group(context_.comm->rank(), dim_)) {
      rows_.push_back(problem_.num_tokens(member));
      const at::Tensor first = at::arange(problem_.num_tokens(member), at::kLong) + problem_.first_token(member);
      if (is_gathered_ || member == context_.comm->rank()) tokens_S_ = tokens_S_.defined() ? at::cat({tokens_S_, first}) : first;
    }
  }

  DispatchedTokens dispatch(const at::Tensor& x_TD, const RoutedSlots& routed, const LocalExperts& local, Tapper& tapper) override {
    const RoutedSlots global = is_gathered_ ? gathered(routed) : RoutedSlots{enter_scores(routed), routed.ids_TK};
    const RoutedSlots slots = dim_ == "ep" ? context_.seams.shard_routing(global, local) : global;
    if (is_gathered_) tapper.tap("dispatch/tokens_S", tokens_S_);
    tapper.tap("dispatch/scores_TK", slots.scores_TK);
    tapper.tap("dispatch/ids_TK", slots.ids_TK);
    const at::Tensor x_SD = is_gathered_ ? gather_from_group(x_TD, rows_, meeting("dispatch/tokens_S", "grad/x_TD"))
                                         : context_.seams.enter_tokens(x_TD, meeting("", "grad/x_TD"));
    return {x_SD, slots, score_rule(problem_.score_position)};
  }

  at::Tensor global_keys(const at::Tensor& rows_R3, const LocalExperts& local) const override {
    const at::Tensor expert_R = rows_R3.select(1, 2);
    const at::Tensor token_R = tokens_S_.to(rows_R3.device()).index_select(0, rows_R3.select(1, 0));
    return at::stack({token_R, rows_R3.select(1, 1), at::where(expert_R < 0, expert_R, expert_R + local.first)}, 1);
  }

  at::Tensor combine(const at::Tensor& partial_TD, Tapper& tapper) override {
    const std::string group = group_name(problem_.mesh, dim_);
    std::vector<model::Cut> cuts;
    if (!group.empty()) cuts.push_back({group, model::partial()});
    tapper.tap_placed("combine/partial_TD", partial_TD, cuts, {partial_TD.size(0), partial_TD.size(1)});
    if (is_gathered_) return reduce_scatter_to_group(partial_TD, rows_, meeting("output/y_TD", "grad/y_TD"));
    return context_.seams.combine(partial_TD, meeting("output/y_TD", ""));
  }

  std::vector<DeclaredCollective> declared(std::string_view phase) const override {
    const std::string group = group_name(problem_.mesh, dim_);
    const Dim tokens = problem_.num_tokens(context_.comm->rank());
    const Dim longest = *std::ranges::max_element(rows_);
    if (group.empty() || longest == 0) return {};
    const auto item = static_cast<Dim>(base::itemsize(problem_.dtype));
    const Dim k = problem_.model.top_k, d = problem_.model.d_model, padded = longest * static_cast<Dim>(rows_.size());
    constexpr Dim kIdBytes = 8;
    if (is_gathered_ && phase == "forward")
      return {{"all_gather", group, "dispatch/tokens_S", 1, longest * d * item}, {"all_gather", group, "dispatch/scores_TK", 1, longest * k * item},
              {"all_gather", group, "dispatch/ids_TK", 1, longest * k * kIdBytes}, {"reduce_scatter", group, "output/y_TD", 1, padded * d * item}};
    if (is_gathered_)
      return {{"reduce_scatter", group, "grad/x_TD", 1, padded * d * item}, {"reduce_scatter", group, "grad/scores_TK", 1, padded * k * item},
              {"all_gather", group, "grad/y_TD", 1, longest * d * item}};
    if (phase == "forward") return {{"all_reduce", group, "output/y_TD", 1, tokens * d * item}};
    return {{"all_reduce", group, "grad/x_TD", 1, tokens * d * item}, {"all_reduce", group, "grad/scores_TK", 1, tokens * k * item}};
  }

 private:
  Meeting meeting(std::string site, std::string backward_site) const { return {context_.comm, dim_, std::move(site), std::move(backward_site)}; }

  at::Tensor enter_scores(const RoutedSlots& routed) const { return context_.seams.enter_scores(routed.scores_TK, meeting("", "grad/scores_TK")); }

  RoutedSlots gathered(const RoutedSlots& routed) const {
    return {context_.seams.gather_scores(routed.scores_TK, rows_, meeting("dispatch/scores_TK", "grad/scores_TK")),
            context_.comm->all_gather(routed.ids_TK.contiguous(), rows_, dim_, "dispatch/ids_TK")};
  }

  LayerContext context_;
  const model::Problem& problem_;
  std::string dim_;
  bool is_gathered_;
  Rows rows_;            // tokens of each rank of the group
  at::Tensor tokens_S_;   // global indices of the tokens that this rank dispatches
};

}  // namespace

std::unique_ptr<TokenDispatcher> make_gathering_dispatcher(LayerContext context, std::string dim) {
  return std::make_unique<GatheringDispatcher>(std::move(context), std::move(dim));
}

}  // namespace moecheck::parallel_impls
