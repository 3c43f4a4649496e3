#include "harness/conformance/declared.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "harness/base/dtype.h"
#include "harness/model/mesh.h"

namespace moecheck::conformance {

std::vector<std::string> meshes_of(const subject::ImplementationInfo& impl) {
  std::vector<std::string> meshes = {"none"};
  for (const std::string& dim : impl.mesh_dims)
    for (const int size : {2, 4}) meshes.push_back(fmt::format("{}={}", dim, size));
  for (std::size_t outer = 0; outer < impl.mesh_dims.size(); ++outer)
    for (std::size_t inner = outer + 1; inner < impl.mesh_dims.size(); ++inner)
      meshes.push_back(fmt::format("{}=2,{}=2", impl.mesh_dims[outer], impl.mesh_dims[inner]));
  return meshes;
}

std::string phases_of(const subject::Capabilities& capabilities) {
  std::vector<std::string> phases;
  for (const char* phase : {"load", "forward", "backward", "step"}) {
    if (std::ranges::find(capabilities.phases, phase) == capabilities.phases.end()) break;
    phases.emplace_back(phase);
  }
  return fmt::format("{}", fmt::join(phases, ","));
}

std::string usual_backend(const subject::ImplementationInfo& impl) {
  if (impl.experts_backends.empty() || std::ranges::find(impl.experts_backends, "eager") != impl.experts_backends.end()) return "eager";
  return impl.experts_backends.front();
}

std::string basic_case(const subject::Capabilities& capabilities, const subject::ImplementationInfo& impl, const std::string& mesh) {
  const std::string dtype = capabilities.dtypes.empty() ? "fp32" : capabilities.dtypes.front();
  return fmt::format("impl={} model=qwen3_moe mesh={} dtype={} experts_backend={} phases={}", impl.name, mesh, dtype,
                     usual_backend(impl), phases_of(capabilities));
}

std::string tokens_over_all(const std::string& mesh) {
  std::vector<std::string> dims = {"dp", "fsdp"};
  const auto parsed = model::Mesh::parse(mesh);
  if (!parsed) return "dp,fsdp";
  for (const model::MeshDim& dim : parsed->dims())
    if (std::ranges::find(dims, dim.name) == dims.end()) dims.push_back(dim.name);
  return fmt::format("{}", fmt::join(dims, ","));
}

}  // namespace moecheck::conformance
