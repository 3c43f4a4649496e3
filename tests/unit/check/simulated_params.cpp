// The parameters of a simulated run: how the mesh cuts them, and what fsdp gathers.
#include <algorithm>

#include "harness/inputs/generator.h"
#include "harness/trace/layout.h"
#include "simulated_run.h"

namespace moecheck::check {
namespace {

using base::HostTensor;
using model::Dim;

// The c-th of n pieces of equal length, the last ones shorter or empty.
std::vector<Dim> piece(const std::vector<Dim>& all, Dim c, Dim n) {
  const Dim size = static_cast<Dim>(all.size()), length = (size + n - 1) / n;
  return {all.begin() + std::min(size, c * length), all.begin() + std::min(size, (c + 1) * length)};
}

// Mesh dimensions that the rows of the router and of the attention weight are cut over.
std::string_view plain_dims(const model::Problem& problem) {
  if (problem.mesh.size("fsdp") == 1) return "none";
  return problem.shards_tokens("ep") ? "fsdp,ep" : "fsdp";
}

}  // namespace

HostTensor SimulatedRun::experts_part(const std::string& tap, const std::vector<Dim>& experts, const std::vector<Dim>& rows,
                                      const std::vector<Dim>& columns) const {
  const inputs::Generator generator(one.problem);
  const bool is_down = tap == "param/experts/down_EDF";
  std::vector<float> row(static_cast<std::size_t>(is_down ? one.problem.model.d_ff : one.problem.model.d_model));
  HostTensor part(one.problem.dtype, {static_cast<Dim>(experts.size()), static_cast<Dim>(rows.size()), static_cast<Dim>(columns.size())});
  Dim at = 0;
  for (const Dim e : experts)
    for (const Dim r : rows) {
      if (is_down) generator.down_row(e, r, row);
      else generator.gate_up_row(e, r, row);
      for (const Dim c : columns) part.set(at++, static_cast<double>(row[static_cast<std::size_t>(c)]));
    }
  return part;
}

void SimulatedRun::load(trace::RankTrace& rank) const {
  const inputs::Generator generator(one.problem);
  const auto& m = one.problem.model;
  const model::Mesh& mesh = one.problem.mesh;
  const Dim tp = mesh.size("tp"), c_tp = mesh.coordinate(rank.rank, "tp");
  const Dim fsdp = mesh.size("fsdp"), c_fsdp = mesh.coordinate(rank.rank, "fsdp");
  const auto experts = indices(first_expert(rank.rank), num_local_experts());
  const bool is_cut = one.problem.expert_tp == model::ExpertTp::kTp;
  const auto columns_F = piece(indices(0, m.d_ff), is_cut ? c_tp : 0, is_cut ? tp : 1);
  auto rows_G = columns_F;
  for (const Dim f : columns_F) rows_G.push_back(m.d_ff + f);
  put(rank, "param/experts/gate_up_EGD",
      experts_part("param/experts/gate_up_EGD", experts, piece(rows_G, c_fsdp, fsdp), indices(0, m.d_model)));
  put(rank, "param/experts/down_EDF",
      experts_part("param/experts/down_EDF", experts, piece(indices(0, m.d_model), c_fsdp, fsdp), columns_F));
  const std::string_view dims = plain_dims(one.problem);
  const auto copy = [&](const std::string& tap, const HostTensor& from, const std::vector<Dim>& columns) {
    const auto rows = piece(indices(0, from.dim(0)), mesh.coordinate(rank.rank, dims), mesh.size(dims));
    HostTensor part(one.problem.dtype, {static_cast<Dim>(rows.size()), static_cast<Dim>(columns.size())});
    Dim at = 0;
    for (const Dim r : rows)
      for (const Dim c : columns) part.set(at++, from.at(r * from.dim(1) + c));
    put(rank, tap, part);
  };
  copy("param/router/w_ED", generator.router_ED(), indices(0, m.d_model));
  copy("param/attention/w_DD", generator.attention_DD(), piece(indices(0, m.d_model), c_tp, tp));
  for (auto& [tap, tapped] : rank.taps) {   // an honest subject's claims are the declared ones
    tapped.cuts = trace::declared_cuts(one.problem, tap);
    tapped.global_shape = trace::global_param_shape(m, tap);
  }
}

HostTensor SimulatedRun::whole(Dim rank, const std::string& tap) const {
  const bool is_router = tap == "param/router/w_ED";
  std::vector<const HostTensor*> parts;
  Dim rows = 0;
  for (const Dim member : one.problem.mesh.group(rank, is_router ? plain_dims(one.problem) : "fsdp")) {
    parts.push_back(at(member).tensor(tap));
    rows += parts.back()->dim(is_router ? 0 : 1);
  }
  base::Shape shape = parts.front()->shape();
  shape[is_router ? 0 : 1] = rows;
  HostTensor whole(one.problem.dtype, shape);
  Dim to = 0;
  for (Dim e = 0; e < (is_router ? 1 : shape[0]); ++e)
    for (const HostTensor* part : parts) {
      const Dim count = is_router ? part->numel() : part->dim(1) * part->dim(2);
      for (Dim i = 0; i < count; ++i) whole.set(to++, part->at(e * count + i));
    }
  return whole;
}

}  // namespace moecheck::check
