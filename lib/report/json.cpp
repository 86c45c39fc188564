#include <nlohmann/json.hpp>

#include "report/format.hpp"
#include "report/json_parts.hpp"
#include "report/printers.hpp"
#include "report/statistics.hpp"
#include "report/sweep.hpp"

namespace refit::report {
namespace {

Json to_json(const Case& test_case) {
  Json json = {{"name", test_case.name}, {"description", test_case.description}};
  put_text(json, "file", test_case.file);
  return json;
}

Json to_json(const Model& model) {
  return {{"family", model.family},
          {"source", model.source},
          {"tensors", model.tensors},
          {"parameters", model.parameters},
          {"bytes", model.bytes}};
}

Json to_json(const Group& group, const char* made_by) {
  return {{made_by, group.made_by}, {"layout", group.layout}, {"ranks", group.ranks}, {"precision", group.precision}};
}

Json to_json(const Kl& kl) {
  Json json = {{"max", kl.max}, {"mean", kl.mean}, {"tensor", kl.tensor}};
  if (kl.not_finite > 0) json["not_finite"] = kl.not_finite;
  return json;
}

Json to_json(const Engine& engine) {
  Json json = to_json(engine.group, "engine");
  json["first_rank"] = engine.first_rank;
  if (engine.payload_bytes) json["payload_bytes"] = *engine.payload_bytes;
  if (engine.bytes) json["bytes"] = *engine.bytes;
  if (!engine.proof) return json;
  json["tensors"] = engine.proof->tensors;
  json["tensors_wrong"] = engine.proof->tensors_wrong;
  json["elements"] = engine.proof->elements;
  json["elements_wrong"] = engine.proof->elements_wrong;
  json["kl"] = to_json(engine.proof->kl);
  return json;
}

/// Adds what became of an engine.
void put(Json& json, const EngineLives& lives) {
  json["version"] = lives.version;
  json["refits"] = lives.refits;
  json["weight_sync"] = lives.weight_sync;
  json["joins"] = Json::array();
  for (const auto& [refit, seconds] : lives.joins)
    json["joins"].push_back({{"before_refit", refit}, {"seconds", seconds}});
  if (lives.dead_since) json["dead_since"] = *lives.dead_since;
}

Json to_json(const Payload& payload) {
  return {{"bulk_bytes", payload.bulk_bytes},     {"misc_bytes", payload.misc_bytes},
          {"total_bytes", payload.total_bytes()}, {"bulk_fraction", payload.bulk_fraction()},
          {"qkv_to_misc", payload.qkv_to_misc},   {"from_checkpoint_bytes", payload.from_checkpoint_bytes}};
}

Json to_json(const Wire& wire) {
  Json json{{"bytes", wire.bytes},
            {"copies", wire.copies},
            {"egress_bytes_max", wire.egress_bytes_max},
            {"ingress_bytes_max", wire.ingress_bytes_max},
            {"local_bytes", wire.local_bytes},
            {"forwarded_bytes", wire.forwarded_bytes}};
  if (wire.between_hosts_bytes) json["between_hosts_bytes"] = *wire.between_hosts_bytes;
  if (wire.within_hosts_bytes) json["within_hosts_bytes"] = *wire.within_hosts_bytes;
  json["self_bytes"] = wire.self_bytes;
  json["self_copies"] = wire.self_copies;
  return json;
}

Json to_json(const Memory& memory) {
  return {{"train_bytes_max", memory.train_bytes_max},
          {"gen_bytes_max", memory.gen_bytes_max},
          {"staging_bytes_max", memory.staging_bytes_max},
          {"staged_bytes_max", memory.staged_bytes_max}};
}

Json to_json(const M2n& m2n) {
  Json json = {{"operations", m2n.operations},
               {"bytes", m2n.bytes},
               {"p2p_bytes", m2n.p2p_bytes},
               {"library_bytes_max", m2n.library_bytes_max}};
  json["leftovers"] = Json::array();
  for (const M2n::Leftover& leftover : m2n.leftovers)
    json["leftovers"].push_back({{"reason", leftover.reason}, {"tensors", leftover.tensors}});
  return json;
}

Json to_json(const Schedule& schedule) {
  return {{"groups_max", schedule.groups_max},
          {"group_operations_max", schedule.group_operations_max},
          {"serial_groups_max", schedule.serial_groups_max}};
}

Json to_json(const Load& load) { return {{"bytes_read", load.bytes_read}, {"bytes_needed", load.bytes_needed}}; }

template <typename Value>
Json to_json(const BoundTerms<Value>& terms) {
  return {{"ingress", terms.ingress}, {"egress", terms.egress}, {"fanout", terms.fanout}, {"memory", terms.memory}};
}

Json to_json(const Bound& bound) {
  Json json = Json::object();
  if (bound.seconds) json["seconds"] = *bound.seconds;
  put_text(json, "term", bound.term);
  if (bound.terms) json["terms"] = to_json(*bound.terms);
  json["bytes"] = to_json(bound.bytes);
  return json;
}

Json to_json(const ModelSeconds& model) {
  return {{"total", model.total},       {"term", model.term},       {"port", model.port},       {"wire", model.wire},
          {"schedule", model.schedule}, {"staging", model.staging}, {"latency", model.latency}, {"misc", model.misc}};
}

/// Adds samples and, if there are any, their summary.
void put_samples(Json& json, const std::vector<double>& samples) {
  json["samples"] = samples;
  if (const auto summary = summarise(samples)) {
    json["min"] = summary->min;
    json["median"] = summary->median;
    json["mean"] = summary->mean;
    json["p95"] = summary->p95;
    json["p99"] = summary->p99;
    json["max"] = summary->max;
  }
}

Json weight_sync(const Result& result) {
  Json json = {{"first", result.refits.front().weight_sync}};
  put_samples(json, weight_sync_samples(result));
  return json;
}

/// What refits were called, and what gen has at the end.
Json versions(const Result& result) {
  Json json = {{"plan", result.plan_hash},
               {"first", result.refits.front().version.number},
               {"last", result.refits.back().version.number},
               {"held", Json::array()},
               {"served_wrong", served_wrong(result)}};
  for (const Engine& engine : result.engines) json["held"].push_back(engine.version.value_or(-1));
  put_text(json, "weights", proved_weights(result));
  return json;
}

Json phases(const Result& result) {
  Json json = Json::object();
  for (const auto& [phase, samples] : phase_samples(result)) {
    if (const auto summary = summarise(samples)) {
      json[phase] = {{"min", summary->min}, {"median", summary->median}, {"max", summary->max}};
    }
  }
  return json;
}

Json to_json(const WrongTensor& wrong, const std::vector<Engine>& engines) {
  Json json = {{"tensor", wrong.tensor},
               {"gen_rank", wrong.gen_rank},
               {"elements_wrong", wrong.elements_wrong},
               {"first_index", wrong.first_index}};
  if (engines.size() > 1) json["engine"] = engine_of(engines, wrong.gen_rank);
  if (!wrong.counted) json["counted"] = false;
  return json;
}

Json to_json(const Verification& verification, const std::vector<Engine>& engines) {
  Json json = {{"refits", verification.refits},
               {"tensors", verification.tensors},
               {"tensors_wrong", verification.tensors_wrong},
               {"elements", verification.elements},
               {"elements_wrong", verification.elements_wrong}};
  if (verification.tensors_not_counted > 0) json["tensors_not_counted"] = verification.tensors_not_counted;
  json["elements_overflowed"] = verification.elements_overflowed;
  json["wrong"] = Json::array();
  for (const WrongTensor& wrong : verification.wrong) json["wrong"].push_back(to_json(wrong, engines));
  for (const WrongReplica& odd : verification.wrong_replicas) {
    json["wrong_replicas"].push_back({{"tensor", odd.tensor}, {"train_rank", odd.train_rank}, {"refit", odd.refit}});
  }
  for (const Overflow& overflow : verification.overflows) {
    json["overflows"].push_back({{"tensor", overflow.tensor},
                                 {"dtype", overflow.dtype},
                                 {"elements", overflow.elements},
                                 {"first_index", overflow.first_index},
                                 {"refit", overflow.refit}});
  }
  put_text(json, "fingerprint_train", verification.fingerprint_train);
  put_text(json, "fingerprint_gen", verification.fingerprint_gen);
  if (verification.kl) json["kl"] = to_json(*verification.kl);
  return json;
}

Json to_json(const Plan& plan, const ByteMatrix& byte_matrix) {
  Json json = {
      {"seconds", plan.seconds}, {"peak_bytes", plan.peak_bytes}, {"copies", plan.copies}, {"hash", plan.hash}};
  if (plan.memory)
    json["memory"] = {{"train_bytes", plan.memory->train},
                      {"gen_bytes", plan.memory->gen},
                      {"staged_bytes", plan.memory->staged},
                      {"kept_bytes", plan.memory->kept}};
  if (plan.world) {
    json["world"] = {{"seconds", plan.world->seconds},
                     {"copies", plan.world->copies},
                     {"sent", plan.world->sent},
                     {"received", plan.world->received}};
    if (!byte_matrix.empty()) json["world"]["byte_matrix"] = byte_matrix;
  }
  for (const ModelRow& row : plan.models) {
    Json entry = {{"bulk", row.bulk}, {"executor", row.executor}};
    entry.update(to_json(row.model));
    json["models"].push_back(std::move(entry));
  }
  return json;
}

Json delta(const Result& result) {
  const Delta& delta = *result.delta;
  Json json = {{"form", delta.form}, {"dense_bytes", delta.dense_bytes}};
  const auto samples = delta_bytes_samples(result);
  if (const auto bytes = summarise(samples)) {
    json["bytes"] = static_cast<std::int64_t>(bytes->median);
    json["bytes_samples"] = Json::array();
    for (const double sample : samples) json["bytes_samples"].push_back(static_cast<std::int64_t>(sample));
  }
  if (const auto changed = summarise(changed_samples(result))) json["changed_fraction"] = changed->median;
  json["kept_bytes_max"] = delta.kept_bytes_max;
  json["break_even"] = Json::array();
  for (const Delta::BreakEven& one : delta.break_even)
    json["break_even"].push_back({{"value_bytes", one.value_bytes}, {"index", one.index}, {"bitmap", one.bitmap}});
  return json;
}

/// Adds a part where there is one.
template <typename Part>
void put_part(Json& json, const char* key, const std::optional<Part>& part) {
  if (part) json[key] = to_json(*part);
}

void put_measurements(Json& json, const Result& result) {
  put_part(json, "payload", result.payload);
  put_part(json, "wire", result.wire);
  put_part(json, "memory", result.memory);
  put_part(json, "schedule", result.schedule);
  if (result.delta) json["delta"] = delta(result);
  put_part(json, "m2n", result.m2n);
  put_part(json, "load", result.load);
  put_part(json, "bound", result.bound);
  put_part(json, "model_seconds", result.model_seconds);
  if (!result.rates.empty()) json["rates"] = object(result.rates);
  if (result.efficiency) json["efficiency"] = *result.efficiency;
  if (result.plan) {
    json["plan"] = to_json(*result.plan, result.byte_matrix);
  } else {
    if (!result.refits.empty()) {
      json["versions"] = versions(result);
      json["weight_sync"] = weight_sync(result);
    }
    if (const auto samples = host_samples(result); !samples.empty()) put_samples(json["host_seconds"], samples);
    json["phases"] = phases(result);
    if (result.verification) json["verification"] = to_json(*result.verification, result.engines);
  }
  if (!result.notes.empty()) json["notes"] = result.notes;
}

/// Returns what a document begins with: whose it is, and how it ended.
Json head(const Result& result, const char* schema) {
  Json json = {{"schema", schema}, {"schema_version", 1}};
  json["case"] = to_json(result.test_case);
  put_job(json, result);
  return json;
}

Json document(const Result& result) {
  Json json = head(result, result.plan ? "refit.plan" : "refit.result");
  put_part(json, "model", result.model);
  json["ranks"] = result.ranks;
  json["train"] = to_json(result.train, "trainer");
  json["gen"] = to_json(result.gen, "engine");
  for (const Engine& engine : result.engines) json["gen"]["engines"].push_back(to_json(engine));
  const std::vector<EngineLives> all = lives(result);
  for (std::size_t e = 0; e < all.size(); ++e) put(json["gen"]["engines"][e], all[e]);
  json["settings"] = report::to_json(result.settings);
  put_measurements(json, result);
  return json;
}

}  // namespace

std::string to_json(const Result& result) { return text_of(document(result)); }

std::string to_json(const Result& whole, const Sweep& sweep) {
  Json json = head(whole, "refit.sweep");
  json["ranks"] = whole.ranks;
  json["keys"] = Json::array();
  for (const auto& [key, value] : sweep.planned.front()) json["keys"].push_back(key);
  json["planned"] = sweep.planned.size();
  json["combinations"] = Json::array();
  for (const Combination& one : sweep.combinations)
    json["combinations"].push_back({{"values", object(one.values)}, {"result", document(one.result)}});
  return text_of(json);
}

}  // namespace refit::report
