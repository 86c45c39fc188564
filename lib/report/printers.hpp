#pragma once
// Observers of a Result that make files of it, as the bytes of the file. They are written with write_file (files.hpp).

#include <string>

#include "report/result.hpp"

namespace refit::report {

/// Returns the document of schema `refit.result` version 1, or `refit.plan` where result.plan is set; two spaces of
/// indentation. Absent parts are left out; a number that is not finite becomes null.
std::string to_json(const Result& result);

/// Returns a heading, then one row per refit (warm-up included): case, model, executor, bulk, train, gen, train_ranks,
/// gen_ranks, train_precision, gen_precision, refit, warmup, weight_sync_seconds, a column `<phase>_seconds` per phase,
/// payload_bytes, wire_bytes, self_bytes, algbw_gb_per_s, elements_wrong, kl_max. Unknown values are empty.
std::string to_csv(const Result& result);

/// Returns the document of schema `nccl_m2n.benchmark.metrics` version 1, as NCCL M2N's benchmarks write it:
/// weight_sync of the refits after the warm-up, at least one, in milliseconds. Source: nccl-extensions,
/// nccl_m2n/benchmarks/bench_metrics.h.
std::string to_m2n_metrics(const Result& result);

/// Returns a JUnit document with one test case: plain when passed, else with a failure, error or skipped element.
std::string to_junit(const Result& result);

/// An HDF5 file. Errors: runtime.
///
///     /                   attributes schema, case, description, status, exit_code, train, gen, settings.<key>,
///                         bulk_bytes, misc_bytes, wire_bytes, self_bytes, ...
///     /weight_sync        float64 [refits after the warm-up], seconds; attribute `first`: refit 1
///     /phases/<name>      float64 [1 for load, plan, ...; else as weight_sync], seconds
///     /byte_matrix        int64 [train ranks, gen ranks], bytes
///     /tensors/name       string [tensors of the payload]; likewise bytes (int64), path ("bulk", "misc", "checkpoint")
///                         and elements_wrong (int64, over all gen ranks)
///     /wrong/tensor       string [wrong tensors]; likewise gen_rank, elements_wrong (int64), and counted (1; 0 where
///                         elements_wrong is a lower bound)
///     /wrong/first_index  int64 [wrong tensors, 4], -1 beyond the tensor's dimensions
std::string to_hdf5(const Result& result);

}  // namespace refit::report
