// The group of all ranks of a mesh.
#pragma once

#include <string>

#include "harness/model/mesh.h"

namespace moecheck::parallel_impls {

// All dimensions of the mesh: ranks have their own number as coordinate.
inline std::string all_dims(const model::Mesh& mesh) {
  std::string dims;
  for (const model::MeshDim& dim : mesh.dims()) dims += (dims.empty() ? "" : ",") + dim.name;
  return dims;
}

}  // namespace moecheck::parallel_impls
