// One rank's side of the protocol: opens a case, runs its phases, writes its traces.
#pragma once

#include <optional>

#include "harness/subject/protocol.h"
#include "parallel_impls/layer/layer.h"

namespace moecheck::parallel_impls {

subject::Capabilities describe();

class Session {
 public:
  // Without recording no trace is written: there is nothing to judge, and no such run can pass.
  Session(model::Dim rank, model::Dim local_rank, Recording recording, CollectiveObserver observer);

  // Operations of the protocol. Errors: Unsupported, c10::Error, std::exception; rank_main turns them into replies.
  subject::Reply open(const subject::OpenRequest& request);
  subject::Reply run_phase(const std::string& phase, model::Dim batch);
  void close();

 private:
  std::shared_ptr<Communicator> communicator(const subject::OpenRequest& request);
  void compute(const std::string& phase, model::Dim batch);
  void write_phase(const std::string& phase, model::Dim batch, bool is_aborted);
  subject::Reply reply() const;

  model::Dim rank_;
  model::Dim local_rank_;
  CollectiveObserver observer_;
  std::optional<subject::OpenRequest> request_;
  std::shared_ptr<Communicator> comm_;
  std::unique_ptr<Layer> layer_;
  Tapper tapper_;
  // Groups are kept while the driver names the same rendezvous and mesh.
  std::map<std::string, std::shared_ptr<Communicator>> communicators_;
};

}  // namespace moecheck::parallel_impls
