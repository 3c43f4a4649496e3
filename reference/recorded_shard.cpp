#include "reference/recorded_shard.h"

#include "harness/trace/layout.h"

namespace moecheck::reference {

std::optional<Flat> recorded_shard(const cases::Case& one, const trace::Trace& batch, Dim rank, std::string_view tap) {
  if (rank >= static_cast<Dim>(batch.ranks.size())) return std::nullopt;
  const base::HostTensor* tensor = batch.ranks[static_cast<std::size_t>(rank)].tensor(tap);
  if (tensor == nullptr || !base::is_floating(tensor->dtype())) return std::nullopt;
  if (tensor->shape() != *trace::declared_shape(one.problem, tap, rank, {})) return std::nullopt;
  Flat flat(1, tensor->numel());
  for (Dim i = 0; i < flat.size(); ++i) flat(0, i) = tensor->at(i);
  return flat;
}

}  // namespace moecheck::reference
