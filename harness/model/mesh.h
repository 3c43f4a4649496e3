// A mesh: named dimensions over ranks 0..P-1, row-major, the first dimension outermost ("dp=2,ep=4").
//
// Where a dimension is asked for, several may be named, "ep,tp": they count as one, flattened with the first named outermost.
// Names that the mesh does not have count as dimensions of size 1.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness/base/result.h"
#include "harness/model/dims.h"

namespace moecheck::model {

struct MeshDim {
  std::string name;  // dp, fsdp, ep or tp
  Dim size = 1;
  bool operator==(const MeshDim&) const = default;
};

class Mesh {
 public:
  Mesh() = default;
  explicit Mesh(std::vector<MeshDim> dims) : dims_(std::move(dims)) {}

  // "ep=2" or "dp=2,ep=2"; "none" is one rank without parallelism. Errors: kUsage, with the remedy.
  static base::Result<Mesh> parse(std::string_view text);
  std::string text() const;

  const std::vector<MeshDim>& dims() const { return dims_; }
  Dim world_size() const;
  Dim size(std::string_view dims) const;                   // 1 if the mesh has no such dimension
  bool has(std::string_view dim) const;                    // one name only
  Dim coordinate(Dim rank, std::string_view dims) const;   // the mesh-local rank; 0 without such a dimension
  // Ranks that differ from `rank` in `dims` only, in order of their coordinate; {rank} without such a dimension.
  std::vector<Dim> group(Dim rank, std::string_view dims) const;

  bool operator==(const Mesh&) const = default;

 private:
  std::vector<MeshDim> dims_;
};

}  // namespace moecheck::model
