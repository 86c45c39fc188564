#include <nlohmann/json.hpp>

#include "report/printers.hpp"
#include "report/statistics.hpp"

namespace refit::report {

std::string to_m2n_metrics(const Result& result) {
  std::vector<double> milliseconds = weight_sync_samples(result);
  for (double& sample : milliseconds) sample *= 1e3;
  const nlohmann::json document = {{"schema", "nccl_m2n.benchmark.metrics"},
                                   {"schema_version", 1},
                                   {"benchmark", "refit"},
                                   {"world_size", result.ranks},
                                   {"iterations", milliseconds.size()},
                                   {"metrics",
                                    {{{"name", "weight_sync"},
                                      {"type", "samples"},
                                      {"unit", "milliseconds"},
                                      {"attributes",
                                       {{"interval_start", "after_barrier"},
                                        {"interval_stop", "after_bulk_misc_and_finalize"},
                                        {"rank_reduction", "max"},
                                        {"mpi_barrier_included", false}}},
                                      {"values", milliseconds}}}}};
  return document.dump(2) + "\n";
}

}  // namespace refit::report
