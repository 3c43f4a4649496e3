#include "harness/subject/protocol.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "harness/cases/fields.h"

namespace moecheck::subject {
namespace {

using base::Error;
using base::ErrorCode;
using base::Json;

Error malformed(std::string_view what, const std::string& why) {
  return {ErrorCode::kSubject, fmt::format("{} does not follow protocol {}: {}", what, kProtocol, why), ""};
}

// No limit is null: JSON has no infinity.
Json activation_json(const model::Activation& activation) {
  Json json = {{"alpha", activation.alpha}, {"limit", nullptr}, {"up_shift", activation.up_shift}};
  if (std::isfinite(activation.limit)) json["limit"] = activation.limit;
  return json;
}

model::Activation activation_from_json(const Json& json) {
  model::Activation activation{.alpha = json.at("alpha").get<double>(), .up_shift = json.at("up_shift").get<double>()};
  if (!json.at("limit").is_null()) activation.limit = json.at("limit").get<double>();
  return activation;
}

Json family_json(const cases::Case& one) {
  const model::ModelSpec& m = one.problem.model;
  return {{"family", m.family},   {"experts", m.num_experts}, {"top_k", m.top_k},
          {"d_model", m.d_model}, {"d_ff", m.d_ff},           {"softmax", cases::find_field("softmax")->get(one)},
          {"renormalise", m.renormalise}, {"routed_scale", m.routed_scale}, {"activation", activation_json(m.activation)},
          {"checkpoint", {{"router", m.names.router}, {"gate", m.names.gate}, {"up", m.names.up}, {"down", m.names.down},
                          {"attention", m.names.attention}}}};
}

model::ModelSpec family_from_json(const Json& json) {
  model::ModelSpec m;
  m.family = json.at("family").get<std::string>();
  m.num_experts = json.at("experts").get<model::Dim>();
  m.top_k = json.at("top_k").get<model::Dim>();
  m.d_model = json.at("d_model").get<model::Dim>();
  m.d_ff = json.at("d_ff").get<model::Dim>();
  m.renormalise = json.at("renormalise").get<bool>();
  m.routed_scale = json.at("routed_scale").get<double>();
  m.activation = activation_from_json(json.at("activation"));
  const Json& names = json.at("checkpoint");
  m.names = {names.at("router").get<std::string>(), names.at("gate").get<std::string>(), names.at("up").get<std::string>(),
             names.at("down").get<std::string>(), names.at("attention").get<std::string>()};
  return m;
}

// A message with a missing or mistyped field becomes an error that names it.
template <typename T, typename Read>
base::Result<T> read_message(std::string_view what, Read read) {
  try {
    return read();
  } catch (const Json::exception& e) {
    return malformed(what, e.what());
  }
}

bool contains(const std::vector<std::string>& list, std::string_view name) { return std::ranges::find(list, name) != list.end(); }

}  // namespace

Json to_json(const OpenRequest& request) {
  Json config = Json::object();
  for (const auto& [knob, value] : cases::config_of(request.one)) config[knob] = value;
  return {{"config", config}, {"model", family_json(request.one)}, {"rendezvous", request.rendezvous.string()},
          {"checkpoint", request.checkpoint.string()}, {"trace", request.trace.string()}};
}

base::Result<OpenRequest> open_request_from_json(const Json& json) {
  return read_message<OpenRequest>("open", [&]() -> base::Result<OpenRequest> {
    const model::ModelSpec family = family_from_json(json.at("model"));
    cases::KnobValues knobs;
    for (const auto& [knob, value] : json.at("config").items()) knobs[knob] = value.get<std::string>();
    auto one = cases::make_case(knobs, [&](std::string_view) -> base::Result<model::ModelSpec> { return family; });
    if (!one) return one.error();
    return OpenRequest{*one, json.at("rendezvous").get<std::string>(), json.at("checkpoint").get<std::string>(),
                       json.at("trace").get<std::string>()};
  });
}

Json to_json(const Reply& reply) {
  if (reply.is_ok) {
    Json json = {{"ok", true}, {"implementation", reply.implementation}, {"experts_backend", reply.experts_backend}};
    if (reply.steps) json["steps"] = *reply.steps;
    return json;
  }
  return {{"ok", false}, {"code", reply.code}, {"message", reply.message}, {"traceback", reply.traceback}};
}

base::Result<Reply> reply_from_json(const Json& json) {
  return read_message<Reply>("reply", [&]() -> base::Result<Reply> {
    Reply reply;
    reply.is_ok = json.at("ok").get<bool>();
    reply.implementation = json.value("implementation", "");
    reply.experts_backend = json.value("experts_backend", "");
    if (reply.is_ok && json.contains("steps")) reply.steps = json.at("steps").get<model::Dim>();
    if (reply.is_ok) return reply;
    reply.code = json.at("code").get<std::string>();
    reply.message = json.value("message", "");
    reply.traceback = json.value("traceback", "");
    if (reply.code != "unsupported" && reply.code != "oom" && reply.code != "io" && reply.code != "error")
      return malformed("reply", fmt::format("code '{}' is none of unsupported, oom, io, error", reply.code));
    return reply;
  });
}

Json to_json(const CollectiveEvent& event) {
  Json json = trace::to_json(event.collective);
  json["event"] = event.is_enter ? "enter" : "leave";
  return json;
}

base::Result<CollectiveEvent> collective_event_from_json(const Json& json) {
  return read_message<CollectiveEvent>("event", [&]() -> base::Result<CollectiveEvent> {
    return CollectiveEvent{json.at("event").get<std::string>() == "enter", trace::collective_from_json(json)};
  });
}

const FaultInfo* Capabilities::find_fault(std::string_view fault) const {
  const auto found = std::ranges::find(faults, fault, &FaultInfo::name);
  return found == faults.end() ? nullptr : &*found;
}

std::string Capabilities::refusal(const cases::Case& one) const {
  const auto impl = std::ranges::find(implementations, one.impl, &ImplementationInfo::name);
  if (impl == implementations.end()) return fmt::format("{} has no implementation '{}'", name, one.impl);
  for (const model::MeshDim& dim : one.problem.mesh.dims())
    if (!contains(impl->mesh_dims, dim.name)) return fmt::format("{} does not support mesh dimension {}", one.impl, dim.name);
  if (!contains(impl->experts_backends, one.experts_backend))
    return fmt::format("{} has no experts backend '{}'", one.impl, one.experts_backend);
  if (!contains(dtypes, base::knob_name(one.problem.dtype))) return fmt::format("{} does not support dtype {}", name, base::knob_name(one.problem.dtype));
  if (!contains(devices, one.device)) return fmt::format("{} does not offer device {}", name, one.device);
  for (const std::string& phase : one.phases)
    if (!contains(phases, phase)) return fmt::format("{} does not offer phase {}", name, phase);
  if (one.checkpointing.save != cases::SaveFormat::kNone && !contains(phases, "save")) return fmt::format("{} does not offer phase save", name);
  if (!one.fault.empty() && find_fault(one.fault) == nullptr) return fmt::format("{} has no fault '{}'", name, one.fault);
  return "";
}

Json to_json(const Capabilities& c) {
  Json json = {{"protocol", c.protocol}, {"name", c.name}, {"version", c.version}, {"implementations", Json::array()},
               {"dtypes", c.dtypes}, {"devices", c.devices}, {"phases", c.phases}, {"taps", c.taps}, {"weight_layouts", c.weight_layouts},
               {"faults", Json::array()}, {"fork_server", c.has_fork_server}, {"one_shot", c.is_one_shot}};
  for (const ImplementationInfo& impl : c.implementations)
    json["implementations"].push_back({{"name", impl.name}, {"summary", impl.summary}, {"mesh_dims", impl.mesh_dims},
                                       {"experts_backends", impl.experts_backends}});
  for (const FaultInfo& fault : c.faults) {
    Json expected = Json::array();
    for (const ExpectedCatch& one : fault.expected)
      expected.push_back({{"check", one.check}, {"stage", one.stage}, {"rank", one.rank ? Json(*one.rank) : Json(nullptr)},
                          {"expert", one.expert ? Json(*one.expert) : Json(nullptr)}});
    json["faults"].push_back({{"name", fault.name}, {"origin", fault.origin}, {"summary", fault.summary},
                              {"replaces", fault.replaces}, {"trigger", fault.trigger}, {"expected", expected}, {"control", fault.is_control}});
  }
  return json;
}

base::Result<Capabilities> capabilities_from_json(const Json& json) {
  return read_message<Capabilities>("description", [&]() -> base::Result<Capabilities> {
    Capabilities c;
    c.protocol = json.at("protocol").get<int>();
    if (c.protocol != kProtocol) return malformed("description", fmt::format("it says protocol {}", c.protocol));
    c.name = json.at("name").get<std::string>();
    c.version = json.value("version", "");
    for (const Json& impl : json.at("implementations"))
      c.implementations.push_back({impl.at("name").get<std::string>(), impl.value("summary", ""),
                                   impl.at("mesh_dims").get<std::vector<std::string>>(),
                                   impl.at("experts_backends").get<std::vector<std::string>>()});
    c.dtypes = json.at("dtypes").get<std::vector<std::string>>();
    c.devices = json.value("devices", std::vector<std::string>{"cpu"});
    c.phases = json.at("phases").get<std::vector<std::string>>();
    c.taps = json.value("taps", std::vector<std::string>{});
    c.weight_layouts = json.value("weight_layouts", std::vector<std::string>{});
    for (const Json& f : json.value("faults", Json::array())) {
      FaultInfo fault{f.at("name").get<std::string>(), f.value("origin", ""), f.value("summary", ""), f.value("replaces", ""),
                      f.value("trigger", ""), {}, f.value("control", false)};
      for (const Json& e : f.value("expected", Json::array())) {
        ExpectedCatch one{e.at("check").get<std::string>(), e.value("stage", ""), std::nullopt, std::nullopt};
        if (e.contains("rank") && !e["rank"].is_null()) one.rank = e["rank"].get<std::int64_t>();
        if (e.contains("expert") && !e["expert"].is_null()) one.expert = e["expert"].get<std::int64_t>();
        fault.expected.push_back(one);
      }
      c.faults.push_back(std::move(fault));
    }
    c.has_fork_server = json.value("fork_server", false);
    c.is_one_shot = json.value("one_shot", false);
    return c;
  });
}

}  // namespace moecheck::subject
