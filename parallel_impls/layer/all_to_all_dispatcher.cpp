#include "parallel_impls/layer/dispatcher.h"

namespace moecheck::parallel_impls {
namespace {

using model::Dim;
using trace::DeclaredCollective;

Rows rows_of(const at::Tensor& counts_P) {
  const at::Tensor counts = counts_P.cpu().contiguous();
  return {counts.data_ptr<Dim>(), counts.data_ptr<Dim>() + counts.numel()};
}

class AllToAllDispatcher final : public TokenDispatcher {
 public:
  explicit AllToAllDispatcher(LayerContext context)
      : context_(std::move(context)), problem_(context_.one.problem), expert_dims_(problem_.expert_dims()) {
    for (const std::string_view dim : {"ep", "tp"})
      if (expert_dims_.find(dim) != std::string::npos && !problem_.shards_tokens(dim)) slice_dims_ += (slice_dims_.empty() ? "" : ",") + std::string(dim);
    slice_dims_ = group_name(problem_.mesh, slice_dims_);
    cut_dim_ = problem_.cuts_experts() ? "tp" : "";
    first_token_ = problem_.first_token(context_.comm->rank());
  }

  DispatchedTokens dispatch(const at::Tensor& x_TD, const RoutedSlots& routed, const LocalExperts& local, Tapper&) override {
    num_tokens_ = x_TD.size(0);
    const at::Tensor x_SD = slice_of(context_.seams.enter_tokens(x_TD, meeting(cut_dim_, "", "grad/x_TD")), "grad/x_TD");
    const at::Tensor scores_SK = slice_of(context_.seams.enter_scores(routed.scores_TK, meeting(cut_dim_, "", "grad/scores_TK")), "grad/scores_TK");
    const auto [first, count] = slice_range();
    const at::Tensor ids_SK = routed.ids_TK.narrow(0, first, count);
    order_rows(ids_SK, first, local.count);
    scores_N_ = scores_SK.reshape({-1}).index_select(0, order_N_);
    exchange_keys();
    const ScoreRule rule = score_rule(problem_.score_position);
    const at::Tensor x_ND = rule.rows(x_SD.index_select(0, keys_N3_.select(1, 0) - (first_token_ + first)), scores_N_);
    const at::Tensor x_RD = exchange(x_ND, send_, receive_, meeting(expert_dims_, "experts/in_RD", "grad/in_RD"));
    const at::Tensor ids_R1 = (keys_R3_.select(1, 2) - local.first).unsqueeze(1);
    return {x_RD, {at::ones({x_RD.size(0), 1}, x_RD.options()), ids_R1}, no_scores()};
  }

  at::Tensor global_keys(const at::Tensor& rows_R3, const LocalExperts&) const override {
    return keys_R3_.index_select(0, rows_R3.select(1, 0));
  }

  at::Tensor combine(const at::Tensor& partial_RD, Tapper& tapper) override {
    const at::Tensor back_ND = exchange(partial_RD, receive_, send_, meeting(expert_dims_, "combine/partial_TD", "grad/out_RD"));
    const at::Tensor weighted_ND = score_rule(problem_.score_position).weighted(back_ND, scores_N_);
    const at::Tensor token_N = context_.seams.returned_to(keys_N3_.select(1, 0) - first_token_);
    const at::Tensor partial_TD = at::zeros({num_tokens_, partial_RD.size(1)}, partial_RD.options()).index_add(0, token_N, weighted_ND);
    const std::string group = sum_dims();
    std::vector<model::Cut> cuts;
    if (!group.empty()) cuts.push_back({group, model::partial()});
    tapper.tap("combine/rows_N3", keys_N3_);
    tapper.tap_placed("combine/partial_TD", partial_TD, cuts, {partial_TD.size(0), partial_TD.size(1)});
    return context_.seams.combine(partial_TD, meeting(group, "output/y_TD", ""));
  }

  std::vector<DeclaredCollective> declared(std::string_view phase) const override {
    const auto item = static_cast<Dim>(base::itemsize(problem_.dtype));
    const Dim tokens = problem_.num_tokens(context_.comm->rank());
    const Dim k = problem_.model.top_k, d = problem_.model.d_model;
    const Dim sent = slice_range(tokens).second * k;
    constexpr Dim kIdBytes = 8;
    std::vector<DeclaredCollective> all;
    if (const std::string group = group_name(problem_.mesh, expert_dims_); !group.empty()) {
      if (phase == "forward") {
        all = {{"all_to_all", group, "dispatch/counts_e", 1, problem_.mesh.size(group) * kIdBytes}, {"all_to_all", group, "dispatch/rows_R3", 1, sent * 3 * kIdBytes},
               {"all_to_all", group, "experts/in_RD", 1, sent * d * item}, {"all_to_all", group, "combine/partial_TD", 1, -1}};
      } else {
        all = {{"all_to_all", group, "grad/in_RD", 1, -1}, {"all_to_all", group, "grad/out_RD", 1, sent * d * item}};
      }
    }
    if (tokens == 0) return all;
    if (const std::string group = sum_dims(); !group.empty() && phase == "forward") all.push_back({"all_reduce", group, "output/y_TD", 1, tokens * d * item});
    for (const std::string& group : {slice_dims_, group_name(problem_.mesh, cut_dim_)})
      if (!group.empty() && phase == "backward") {
        all.push_back({"all_reduce", group, "grad/x_TD", 1, tokens * d * item});
        all.push_back({"all_reduce", group, "grad/scores_TK", 1, tokens * k * item});
      }
    return all;
  }

 private:
  Meeting meeting(std::string dims, std::string site, std::string backward_site) const {
    return {context_.comm, std::move(dims), std::move(site), std::move(backward_site)};
  }

  // Where tokens are replicated over an expert dimension each rank sends its slice; pieces of ceil(T / n).
  std::pair<Dim, Dim> slice_range(Dim tokens) const {
    const Dim pieces = problem_.mesh.size(slice_dims_);
    const Dim piece = (tokens + pieces - 1) / pieces;
    const Dim first = std::min(tokens, context_.comm->coordinate(slice_dims_) * piece);
    return {first, std::min(piece, tokens - first)};
  }
  std::pair<Dim, Dim> slice_range() const { return slice_range(num_tokens_); }

  at::Tensor slice_of(const at::Tensor& whole, const std::string& backward_site) const {
    if (slice_dims_.empty()) return whole;
    const auto [first, count] = slice_range();
    return context_.seams.enter_slice(whole, meeting(slice_dims_, "", backward_site)).narrow(0, first, count);
  }

  // Rows in the order in which they are sent: by expert, so by rank, then by token and slot.
  void order_rows(const at::Tensor& ids_SK, Dim first, Dim experts_a_rank) {
    const Dim k = ids_SK.size(1);
    const at::Tensor ids_N = ids_SK.reshape({-1});
    order_N_ = at::argsort(ids_N, /*stable=*/true, /*dim=*/0, /*descending=*/false);
    const at::Tensor n = at::arange(ids_N.numel(), ids_N.options());
    keys_N3_ = at::stack({n.div(k, "floor") + (first_token_ + first), n.remainder(k), ids_N}, 1).index_select(0, order_N_);
    send_ = rows_of(at::bincount(ids_N.div(experts_a_rank, "floor"), {}, problem_.mesh.size(expert_dims_)));
  }

  void exchange_keys() {
    const Rows one_each(send_.size(), 1);
    const at::Tensor counts_P = at::tensor(send_, keys_N3_.options());
    receive_ = rows_of(context_.comm->all_to_all(counts_P, one_each, one_each, expert_dims_, "dispatch/counts_e"));
    keys_R3_ = context_.comm->all_to_all(context_.seams.sent_keys(keys_N3_), send_, receive_, expert_dims_, "dispatch/rows_R3");
  }

  // Over these the partial sums are reduced: ranks that hold the same tokens and computed parts of them.
  std::string sum_dims() const { return group_name(problem_.mesh, slice_dims_ + "," + cut_dim_); }

  LayerContext context_;
  const model::Problem& problem_;
  std::string expert_dims_;
  std::string slice_dims_;   // expert dimensions in which tokens are replicated
  std::string cut_dim_;      // "tp" where it cuts every expert
  Dim first_token_ = 0;

  // Of the last dispatch.
  Dim num_tokens_ = 0;
  at::Tensor order_N_;       // row n is sent at place i: order[i] = n
  at::Tensor keys_N3_;       // of sent rows: global token, slot, expert
  at::Tensor scores_N_;
  at::Tensor keys_R3_;       // of received rows
  Rows send_, receive_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> make_all_to_all_dispatcher(LayerContext context) {
  return std::make_unique<AllToAllDispatcher>(std::move(context));
}

}  // namespace moecheck::parallel_impls
