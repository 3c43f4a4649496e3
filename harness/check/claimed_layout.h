// What a subject says about how a tensor lies, beside what the mesh declares.
#pragma once

#include <set>
#include <span>
#include <string>
#include <utility>

#include "harness/model/placement.h"
#include "harness/trace/trace.h"

namespace moecheck::check {

// (mesh dimensions, placement): cuts without their order, without dimensions of size 1 and without those that cut nothing.
using Layout = std::set<std::pair<std::string, std::string>>;
Layout layout_of(std::span<const model::Cut> cuts, const model::Mesh& mesh);

// What the claimed cuts leave of the claimed global shape, if that is not the rank's local shape; empty if it is.
// Requires: a global shape that fits into memory: the true one.
std::string shape_misfit(const model::Mesh& mesh, model::Dim rank, const trace::Tapped& tapped);

// In what a claimed layout differs from the declared one: group, dimension or blocks; empty if in more than one cut for another.
std::string difference(const Layout& claimed, const Layout& declared);

}  // namespace moecheck::check
