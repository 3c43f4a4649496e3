// What the ranks of a life hold when they save, or have loaded: the tensors of a training checkpoint, under its names.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/check/registry.h"

namespace moecheck::check {

struct HeldState {
  std::vector<std::map<std::string, base::HostTensor, std::less<>>> ranks;

  // By rank; nullptr where a rank does not show it.
  std::vector<const base::HostTensor*> parts(std::string_view name) const;
  bool is_shown(std::string_view name) const;   // by any rank
};

HeldState loaded_state(const LifeInput& life);

// After so many steps of the case; shows nothing if the life has no such batch.
HeldState state_after(const LifeInput& life, Dim steps);

// A tensor of a save, and the tap that it is or that it is a part of.
struct DeclaredTensor {
  std::string name;
  std::string_view tap;
  base::DType dtype = base::DType::kF32;
  base::Shape shape;
  std::optional<Dim> expert = {};   // of which alone it is
};

// What a save has too little or too much of.
struct SaveDifference {
  std::string message;
  std::optional<Dim> expert = {};   // the first that the message is about
};

// What a save of the case after so many steps has to hold, in the form that the case asks for.
std::vector<DeclaredTensor> declared_tensors(const cases::Case& one, Dim steps);

// The tensors of a save as taps, whatever its form.
class SavedTensors {
 public:
  // Requires: the checkpoint has no problem; it and the case outlive this.
  SavedTensors(const checkpoint::Checkpoint& save, const cases::Case& one, Dim steps);

  // Taps that are there as declared, in stage order.
  const std::vector<std::string_view>& taps() const { return taps_; }
  // Assembled over all ranks. Requires: one of taps().
  base::HostTensor global(std::string_view tap) const;

  // What is missing, additional, or of another dtype or shape than declared: one sentence for each kind. Experts of which nothing is
  // there are named by their numbers.
  std::vector<SaveDifference> differences() const;

 private:
  const checkpoint::Checkpoint& save_;
  const model::ModelSpec& model_;
  std::vector<DeclaredTensor> declared_;
  std::vector<std::string_view> taps_;
};

// The part of a global tensor that the layout declares to be a rank's; all of it for what is no parameter and none's state.
base::HostTensor declared_part(const model::Problem& problem, std::string_view tap, const base::HostTensor& global, Dim rank);

// Put together from the lowest rank of each group of replicas; zeros where nobody shows a fitting part. Of no dim if nobody does.
base::HostTensor assembled(const model::Problem& problem, std::string_view tap, const std::vector<const base::HostTensor*>& parts);

// "the save after 2 steps"
std::string save_text(Dim steps);

}  // namespace moecheck::check
