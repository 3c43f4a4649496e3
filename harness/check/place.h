// Where a row of a tap belongs: token, slot and expert, in global numbers.
#pragma once

#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "harness/check/join.h"
#include "harness/check/registry.h"

namespace moecheck::check {

// Sets token, slot and expert of a finding as far as they can be told from a row (an index of dim 0) of a tap of its rank: by
// the keys of routed rows, by the tokens that the rank holds or gathered, by the experts whose shard it holds.
void set_place(const CheckInput& input, std::string_view tap, Dim row, record::Finding& finding);

// A finding about one (token, slot, expert).
void set_place(const RowKey& key, record::Finding& finding);

// Where a token's router row is found.
struct TokenRow {
  Dim rank = 0;
  Dim row = 0;
};

// The tokens that the ranks of a layer group have between them, as one of these ranks sees them: its own routing where it holds
// a token, else that of the first rank that does.
class GroupRouting {
 public:
  GroupRouting(const CheckInput& input, Dim rank);

  const std::map<Dim, TokenRow>& tokens() const { return tokens_; }
  // -1: the group has no such token or slot, or nobody shows a readable choice for it.
  Dim expert_of(Dim token, Dim slot) const;
  // False: nobody shows a readable choice for the token.
  bool is_known(Dim token) const;
  // Ranks of the group that hold the token, in order.
  std::vector<Dim> owners(Dim token) const;

 private:
  const CheckInput& input_;
  std::vector<Dim> group_;
  std::map<Dim, TokenRow> tokens_;
  std::map<Dim, const base::HostTensor*> ids_TK_;   // by rank; nullptr where they are not readable
};

}  // namespace moecheck::check
