// A case with several lives in which all goes well: what each life loads, shows and saves is cut from global tensors that are a pure
// function of the tap and the steps before, whatever the layout. Tests damage it and look at what the checks say. Saves are real
// ones, on disk.
#pragma once

#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "harness/check/registry.h"

namespace moecheck::check {

// adamw, two steps of two microbatches, saved after the first; E=4, K=2, D=6, F=4, fp32; two controls.
cases::Case case_with_lives(const std::string& mesh, const std::vector<std::string>& restarts);

struct SimulatedLife {
  cases::Life life;
  trace::Trace loaded;
  std::vector<trace::Trace> batches;
  std::vector<trace::Expected> expected;
  std::map<Dim, checkpoint::Checkpoint> saves;
};

class SimulatedLives {
 public:
  // Takes the case as it stands.
  explicit SimulatedLives(const cases::Case& one);
  ~SimulatedLives();
  SimulatedLives(const SimulatedLives&) = delete;
  SimulatedLives& operator=(const SimulatedLives&) = delete;

  // A rank's tensor of what a life loaded, or of one of its batches; of its own, to be damaged.
  base::HostTensor& loaded(std::size_t life, std::size_t rank, const std::string& tap);
  base::HostTensor& shown(std::size_t life, std::size_t batch, std::size_t rank, const std::string& tap);

  // Local tensors of a rank, by name, before they are written.
  using Change = std::function<void(Dim rank, std::map<std::string, base::HostTensor>& tensors)>;
  // Writes the save of a life again, changed. A Hugging Face one is changed as a whole, as of rank 0.
  void save_again(std::size_t life, Dim steps, const Change& change);
  std::filesystem::path folder_of(std::size_t life, Dim steps) const;
  void read_again(std::size_t life, Dim steps);

  CheckOutcome check(const std::string& name) const;
  // A check of batches, on one batch of a life.
  CheckOutcome check_batch(const std::string& name, std::size_t life, Dim batch) const;

  cases::Case one;
  std::deque<SimulatedLife> lives;

 private:
  void add_life(const cases::Life& life, Dim steps_before);
  trace::Trace batch_of(const cases::Case& one, Dim batch) const;
  void show_state(const cases::Case& one, Dim steps, bool is_step, trace::Trace& trace) const;
  void write_sharded(std::size_t life, Dim steps, const Change& change);
  void write_weights(std::size_t life, Dim steps, const Change& change);

  std::filesystem::path root_;
};

// The global tensor of a parameter, a state or a counter after so many steps.
base::HostTensor global_state(const cases::Case& one, const std::string& name, Dim steps);

}  // namespace moecheck::check
