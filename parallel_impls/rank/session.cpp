#include "parallel_impls/rank/session.h"

#include <algorithm>

#include "harness/base/files.h"
#include "harness/checkpoint/commit.h"
#include "harness/inputs/generator.h"
#include "harness/trace/tap_points.h"
#include "parallel_impls/faults/fault.h"
#include "parallel_impls/layer/tensor_bridge.h"

namespace moecheck::parallel_impls {
namespace {

Seams seams_for(const cases::Case& one) {
  Seams seams = sound_seams();
  if (one.fault.empty()) return seams;
  const auto fault = std::ranges::find(faults(), one.fault, [](const Fault& f) { return f.info.name; });
  if (fault == faults().end()) throw Unsupported(fmt::format("there is no fault '{}'", one.fault));
  fault->apply(seams);
  return seams;
}

bool is_on_gpu(const cases::Case& one) { return one.device == "cuda"; }

std::shared_ptr<Communicator> make_communicator(const cases::Case& one, model::Dim rank, const std::filesystem::path& folder,
                                                const CollectiveObserver& observer) {
#ifdef MOECHECK_CUDA
  if (is_on_gpu(one)) return make_nccl_communicator(one.problem.mesh, rank, folder, observer);
#endif
  if (is_on_gpu(one)) throw Unsupported("device=cuda needs a build with MOECHECK_CUDA");
  return make_gloo_communicator(one.problem.mesh, rank, folder, observer);
}

}  // namespace

subject::Capabilities describe() {
  subject::Capabilities c;
  c.protocol = subject::kProtocol;
  c.name = "moecheck-rank";
  c.version = MOECHECK_VERSION;
  for (const Implementation& impl : implementations()) c.implementations.push_back({impl.name, impl.summary, impl.mesh_dims, backend_names()});
  c.dtypes = {"fp32", "bf16"};
  c.devices = {"cpu"};
#ifdef MOECHECK_CUDA
  c.devices.emplace_back("cuda");
#endif
  c.phases = {"load", "forward", "backward", "step", "save"};
  for (const trace::TapPoint& tap : trace::tap_points()) c.taps.emplace_back(tap.name);
  c.weight_layouts = {"huggingface"};
  for (const Fault& fault : faults()) c.faults.push_back(fault.info);
  return c;
}

Session::Session(model::Dim rank, model::Dim local_rank, Recording recording, Observers observers, std::vector<Implementation> offered)
    : rank_(rank), local_rank_(local_rank), observers_(std::move(observers)), offered_(std::move(offered)), tapper_(recording) {}

const Implementation& Session::find_implementation(const std::string& name) const {
  const auto found = std::ranges::find(offered_, name, &Implementation::name);
  if (found == offered_.end()) throw Unsupported(fmt::format("there is no implementation '{}'", name));
  return *found;
}

subject::Reply Session::open(const subject::OpenRequest& request) {
  close();
  const Implementation& impl = find_implementation(request.one.impl);
  for (const model::MeshDim& dim : request.one.problem.mesh.dims())
    if (std::ranges::find(impl.mesh_dims, dim.name) == impl.mesh_dims.end())
      throw Unsupported(fmt::format("{} does not support mesh dimension {}", impl.name, dim.name));
  request_ = request;
  const at::Device device = is_on_gpu(request.one) ? at::Device(at::kCUDA, static_cast<at::DeviceIndex>(local_rank_)) : at::Device(at::kCPU);
  comm_ = communicator(request);
  comm_->take_log();
  layer_ = impl.make({request_->one, comm_, local_rank_, device, seams_for(request.one)});
  return reply();
}

subject::Reply Session::record(const std::string& phase, model::Dim batch, const std::function<void()>& work) {
  if (layer_ == nullptr) throw std::runtime_error(fmt::format("'{}' before 'open'", phase));
  // Parameters, masters and groups are made by the load.
  if (!is_loaded_ && phase != "load") throw std::runtime_error(fmt::format("'{}' before 'load'", phase));
  try {
    work();
  } catch (const std::exception&) {
    write_phase(phase, batch, true);
    throw;
  }
  write_phase(phase, batch, false);
  return reply();
}

subject::Reply Session::run_phase(const std::string& phase, model::Dim batch) {
  return record(phase, batch, [&] { compute(phase); });
}

Origin Session::origin_of(const std::filesystem::path& resume) {
  if (resume.empty()) return {request_->checkpoint, false};
  auto newest = checkpoint::latest_save(resume);
  if (!newest) throw FileFailure("checkpoint " + newest.error().text());
  steps_ = newest->steps;
  return {newest->folder, true};
}

subject::Reply Session::load(const std::filesystem::path& resume) {
  steps_.reset();
  subject::Reply loaded = record("load", 0, [&] { layer_->load(origin_of(resume), tapper_); });
  is_loaded_ = true;
  loaded.steps = steps_;
  return loaded;
}

subject::Reply Session::save(const std::filesystem::path& folder, model::Dim batches, cases::CrashPoint hold_at) {
  const SavePoint held = [&](cases::CrashPoint point) {
    if (point == hold_at) observers_.hold(point);
  };
  return record("save", batches, [&] { layer_->save(folder, hold_at == cases::CrashPoint::kNone ? SavePoint{} : held); });
}

void Session::compute(const std::string& phase) {
  const inputs::Generator generator(request_->one.problem);
  if (phase == "forward") {
    batch_ = layer_->next_batch();
    layer_->forward(to_torch(generator.tokens_TD(rank_, batch_)).to(layer_->device()), tapper_);
  } else if (phase == "backward") {
    layer_->backward(to_torch(generator.output_grad_TD(rank_, batch_)).to(layer_->device()), tapper_);
  } else if (phase == "step") {
    layer_->step(tapper_);
  } else {
    throw Unsupported(fmt::format("there is no phase '{}'", phase));
  }
}

void Session::close() {
  is_loaded_ = false;
  layer_.reset();
  request_.reset();
  tapper_.take();
}

std::shared_ptr<Communicator> Session::communicator(const subject::OpenRequest& request) {
  const std::string key = fmt::format("{}@{}@{}", request.one.problem.mesh.text(), request.one.device, request.rendezvous.string());
  auto& comm = communicators_[key];
  if (comm == nullptr) {
    const auto folder = request.rendezvous / (request.one.device + "," + request.one.problem.mesh.text());
    if (auto made = base::make_folders(folder); !made) throw std::runtime_error(made.error().text());
    comm = make_communicator(request.one, rank_, folder, observers_.collective);
  }
  return comm;
}

void Session::write_phase(const std::string& phase, model::Dim batch, bool is_aborted) {
  trace::RankTrace rank;
  rank.rank = rank_;
  rank.taps = tapper_.take();
  rank.comm = comm_->take_log();
  if (!tapper_.is_recording()) return;
  rank.aborted = is_aborted;
  rank.implementation = request_->one.impl;
  rank.experts_backend = layer_->experts_backend();
  if (!is_aborted) rank.declared_comm = layer_->declared(phase);
  if (phase == "load") rank.plan = layer_->plan();
  std::map<std::string, model::Dim> coordinate;
  for (const model::MeshDim& dim : request_->one.problem.mesh.dims())
    coordinate[dim.name] = request_->one.problem.mesh.coordinate(rank_, dim.name);
  if (auto written = trace::write_rank_phase(request_->trace, trace::phase_folder(phase, batch), rank, coordinate); !written)
    throw FileFailure("trace: " + written.error().text());
}

subject::Reply Session::reply() const { return {true, "", "", "", request_->one.impl, layer_->experts_backend(), {}}; }

}  // namespace moecheck::parallel_impls
