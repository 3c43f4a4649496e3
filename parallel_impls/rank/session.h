// One rank's side of the protocol: opens a case, runs its phases, writes its traces.
#pragma once

#include <optional>

#include "harness/subject/protocol.h"
#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

subject::Capabilities describe();

// Told where in a save a rank is held; does not return.
using HoldObserver = std::function<void(cases::CrashPoint)>;

class Session {
 public:
  struct Observers {
    CollectiveObserver collective;
    HoldObserver hold;
  };

  // offered: what a case may ask for. Without recording no trace is written: there is nothing to judge, and no such run can pass.
  Session(model::Dim rank, model::Dim local_rank, Recording recording, Observers observers, std::vector<Implementation> offered);

  // Operations of the protocol. Errors: Unsupported, c10::Error, std::exception; rank_main turns them into replies.
  subject::Reply open(const subject::OpenRequest& request);
  // resume: the folder of saves of which the newest is loaded; empty: the checkpoint that the case begins with.
  subject::Reply load(const std::filesystem::path& resume);
  // batches: before it; names the trace.
  subject::Reply save(const std::filesystem::path& folder, model::Dim batches, cases::CrashPoint hold_at);
  // batch: names the trace; which tokens it has is for the layer's own progress to say.
  subject::Reply run_phase(const std::string& phase, model::Dim batch);
  void close();

 private:
  const Implementation& find_implementation(const std::string& name) const;
  std::shared_ptr<Communicator> communicator(const subject::OpenRequest& request);
  Origin origin_of(const std::filesystem::path& resume);
  void compute(const std::string& phase);
  // What a phase shows is written also if it raises: it helps to find the cause.
  subject::Reply record(const std::string& phase, model::Dim batch, const std::function<void()>& work);
  void write_phase(const std::string& phase, model::Dim batch, bool is_aborted);
  subject::Reply reply() const;

  model::Dim rank_;
  model::Dim local_rank_;
  Observers observers_;
  std::vector<Implementation> offered_;
  std::optional<subject::OpenRequest> request_;
  std::shared_ptr<Communicator> comm_;
  std::unique_ptr<Layer> layer_;
  bool is_loaded_ = false;
  model::Dim batch_ = 0;                  // of the last forward
  std::optional<model::Dim> steps_;       // taken before the save that was loaded
  Tapper tapper_;
  // Groups are kept while the driver names the same rendezvous and mesh.
  std::map<std::string, std::shared_ptr<Communicator>> communicators_;
};

}  // namespace moecheck::parallel_impls
