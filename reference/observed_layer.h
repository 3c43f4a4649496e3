// All ranks of one batch: who knows a token, and who computed a row.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "reference/observed_rank.h"

namespace moecheck::reference {

// A row of somebody's recorded matrix.
struct RecordedRow {
  const ObservedRank* owner = nullptr;
  const Matrix<double>* matrix = nullptr;
  Dim row = 0;

  auto values() const { return matrix->row(row); }
};

// A tap with a row for each own token.
using TokenTap = std::optional<Matrix<double>> ObservedRank::*;

class ObservedLayer {
 public:
  // Requires: problem and trace outlive this.
  ObservedLayer(const model::Problem& problem, const trace::Trace& trace);
  ObservedLayer(const ObservedLayer&) = delete;
  ObservedLayer& operator=(const ObservedLayer&) = delete;

  const model::Problem& problem() const { return problem_; }
  std::span<const ObservedRank> ranks() const { return ranks_; }
  const ObservedRank* find(Dim rank) const;   // nullptr for one that shows nothing
  // All of problem.layer_group(), nullptr where one shows nothing.
  std::vector<const ObservedRank*> layer_group(const ObservedRank& seen) const;

  // What is recorded of a token: by `seen` itself if it has the token, else by the lowest rank of its layer group that does.
  std::optional<RecordedRow> token_row(const ObservedRank& seen, Dim token, TokenTap tap) const;
  // What the experts of `seen` were given as row `row`: experts/in_RD as recorded, or the token where that is the same.
  std::optional<RecordedRow> expert_input(const ObservedRank& seen, Dim row) const;
  // The routing weight of a key. Requires: the key is routed.
  std::optional<double> score_of(const ObservedRank& seen, const RoutedRow& key) const;
  bool weighs_before() const { return problem_.score_position == model::ScorePosition::kBeforeExperts; }

  // Rows that `seen` sums up: those that came back to it, or those that it computed; nullptr if it shows neither.
  const KeyedRows* combined_rows(const ObservedRank& seen) const;
  // The output that combined_rows().keys[i] names: its own row i, or the row with this key on the rank that computed it, of the
  // same tp coordinate if the experts are cut by tp.
  std::optional<RecordedRow> combined_output(const ObservedRank& seen, std::size_t i) const;

 private:
  struct Place {
    Dim rank;
    Dim row;
  };
  bool may_send(const Place& place, const ObservedRank& to) const;

  const model::Problem& problem_;
  std::vector<ObservedRank> ranks_;
  std::vector<std::vector<Dim>> layer_groups_;   // by rank, each in ascending order
  std::map<std::vector<Dim>, std::vector<Place>> computed_;   // by token, slot, expert; only where rows come back
};

}  // namespace moecheck::reference
