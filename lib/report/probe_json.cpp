#include <nlohmann/json.hpp>

#include "report/json_parts.hpp"
#include "report/probe.hpp"

namespace refit::report {
namespace {

Json to_json(const PairMatrix& matrix) {
  Json json = {{"direction", matrix.direction},
               {"mechanism", matrix.mechanism},
               {"alone", matrix.alone},
               {"bytes", matrix.bytes}};
  if (matrix.bytes_between_hosts > 0) json["bytes_between_hosts"] = matrix.bytes_between_hosts;
  const PairSummary summary = summary_of(matrix);
  json["pairs"] = summary.pairs;
  json["sum"] = summary.sum;
  json["min"] = summary.min;
  json["max"] = summary.max;
  json["mean"] = summary.mean;
  for (const auto& row : matrix.rates) {
    Json values = Json::array();
    for (const std::optional<double>& rate : row) values.push_back(rate ? Json(*rate) : Json());
    json["bytes_per_second"].push_back(std::move(values));
  }
  return json;
}

Json to_json(const SizeRow& row) {
  return {{"pair", row.pair},
          {"from", row.from},
          {"to", row.to},
          {"mechanism", row.mechanism},
          {"bytes", row.bytes},
          {"seconds", row.seconds},
          {"bytes_per_second", row.rate}};
}

}  // namespace

std::string to_json(const Result& job, const ProbeResult& probe) {
  Json json = {{"schema", "refit.probe"}, {"schema_version", 1}};
  put_job(json, job);
  json["ranks"] = job.ranks;
  json["settings"] = to_json(job.settings);
  if (job.status == Status::passed) {
    json["matrices"] = Json::array();
    for (const PairMatrix& matrix : probe.matrices) json["matrices"].push_back(to_json(matrix));
    json["sizes"] = Json::array();
    for (const SizeRow& row : probe.sizes) json["sizes"].push_back(to_json(row));
    json["rates"] = object(job.rates);
    if (probe.latency > 0) json["latency_seconds"] = probe.latency;
    json["notes"] = job.notes;
  }
  return text_of(json);
}

}  // namespace refit::report
