// All tokens of a batch as they were recorded, each once, with what goes into the layer behind the router.
#pragma once

#include <optional>
#include <vector>

#include "reference/dispatch.h"
#include "reference/observed_layer.h"
#include "reference/tracked.h"

namespace moecheck::reference {

// Row s belongs to token s (global within the batch). Ranks that hold a token must show the same of it: where they differ, nothing
// can be said about the token (replica_agreement does).
class WholeTokens {
 public:
  // w_router_ED: nullptr if it is not known. Requires: the layer outlives this.
  WholeTokens(const ObservedLayer& layer, const Matrix<float>* w_router_ED);

  const Tracked& x_SD() const { return x_SD_; }
  const IdMatrix& ids_SK() const { return ids_SK_; }
  // The recorded scores, or else those of the logits.
  const Tracked& scores_SK() const { return scores_SK_; }
  // Scores of the logits, recorded or not.
  const Tracked& own_scores_SK() const { return own_scores_SK_; }
  // The recorded logits, or else those of the recorded tokens; not there if neither is known.
  const std::optional<Tracked>& logits_SE() const { return logits_SE_; }
  // Token, choice and scores are known.
  bool is_known(Dim token) const { return is_known_[static_cast<std::size_t>(token)] != 0; }
  bool are_all_known() const;
  // What a token adds to the expert's gradients is not known.
  bool is_spoiled(Dim expert) const { return is_spoiled_[static_cast<std::size_t>(expert)] != 0; }
  // Of known tokens, in ascending order.
  std::vector<RoutedRow> rows_of(Dim expert) const;

  // Of a tap with a row for each own token: the recorded rows of all tokens; none if some rank does not show its tokens'.
  std::optional<Tracked> recorded_rows(TokenTap tap, Dim columns) const;

 private:
  bool take_token(Dim token);
  void take_logits(const Matrix<float>* w_router_ED);
  void take_scores();
  bool agree(Dim token, TokenTap tap) const;
  void spoil(Dim token);

  const ObservedLayer& layer_;
  Tracked x_SD_;
  IdMatrix ids_SK_;
  Tracked scores_SK_, own_scores_SK_;
  std::optional<Tracked> logits_SE_;
  std::vector<std::uint8_t> is_known_, is_spoiled_;
};

}  // namespace moecheck::reference
