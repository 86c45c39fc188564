#include "report/json_parts.hpp"

#include <nlohmann/json.hpp>

namespace refit::report {

void put_text(Json& json, const char* key, const std::string& value) {
  if (!value.empty()) json[key] = value;
}

template <typename Value>
Json object(const std::vector<std::pair<std::string, Value>>& members) {
  Json json = Json::object();
  for (const auto& [key, value] : members) json[key] = value;
  return json;
}
template Json object(const std::vector<std::pair<std::string, std::int64_t>>& members);
template Json object(const std::vector<std::pair<std::string, double>>& members);
template Json object(const std::vector<std::pair<std::string, std::string>>& members);

namespace {

Json to_json(const Failure& failure) {
  Json json = {{"kind", failure.kind}, {"message", failure.message}};
  if (failure.rank) json["rank"] = *failure.rank;
  put_text(json, "phase", failure.phase);
  return json;
}

Json to_json(const RankInfo& info) {
  Json json = {{"rank", info.rank}};
  put_text(json, "group", info.group);
  json["pid"] = info.pid;
  json["host"] = info.host;
  json["device"] = info.device;
  if (!info.group.empty()) json["coordinates"] = object(info.coordinates);
  return json;
}

Json to_json(const HostInfo& host) {
  Json json = {{"name", host.name}};
  if (host.cores > 0) json["cores"] = host.cores;
  put_text(json, "cpu", host.cpu);
  for (const Nic& nic : host.nics) {
    Json one = {{"name", nic.name}};
    put_text(one, "rate", nic.rate);
    json["nics"].push_back(std::move(one));
  }
  return json;
}

/// Adds what is known.
void put(Json& json, const JobInfo& job) {
  put_text(json, "launcher", job.launcher);
  put_text(json, "job", job.id);
  for (const HostInfo& host : job.hosts) json["hosts"].push_back(to_json(host));
  if (!job.mpi_transports.empty()) json["mpi_transports"] = job.mpi_transports;
  if (!job.variables.empty()) json["variables"] = object(job.variables);
}

}  // namespace

Json to_json(const Environment& environment) {
  Json json = Json::object();
  put_text(json, "refit", environment.refit);
  put_text(json, "commit", environment.commit);
  put_text(json, "compiler", environment.compiler);
  put_text(json, "mpi", environment.mpi);
  put_text(json, "nccl", environment.nccl);
  put_text(json, "cuda", environment.cuda);
  put_text(json, "kokkos", environment.kokkos);
  put_text(json, "hdf5", environment.hdf5);
  put(json, environment.job);
  json["ranks"] = Json::array();
  for (const RankInfo& info : environment.ranks) json["ranks"].push_back(to_json(info));
  return json;
}

Json to_json(const Settings& settings) {
  Json json = Json::object();
  for (const auto& [key, value] : settings) {
    std::visit([&json, &key = key](const auto& held) { json[key] = held; }, value);
  }
  return json;
}

void put_job(Json& json, const Result& result) {
  json["command"] = result.command;
  json["start_time"] = result.start_time;
  if (result.elapsed_seconds) json["elapsed_seconds"] = *result.elapsed_seconds;
  json["status"] = name(result.status);
  json["exit_code"] = result.exit_code;
  if (result.error) json["error"] = to_json(*result.error);
  json["environment"] = to_json(result.environment);
}

std::string text_of(const Json& json) { return json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n'; }

}  // namespace refit::report
