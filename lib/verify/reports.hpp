#pragma once
// The findings of all ranks, gathered at world rank 0 and turned into the lists of a result.

#include <cstdint>
#include <string>
#include <vector>

#include "verify/counts.hpp"
#include "verify/result.hpp"

namespace refit::verify {

/// A finding of some rank, with the facts by which world rank 0 names it.
struct Report {
  Group group = Group::train;
  Rank rank{};
  std::int32_t tensor = -1;  ///< -1: a fill
  std::string storage;       ///< of a fill
  Box box;                   ///< of the piece; for a fill its extent
  bool shared = false;       ///< an earlier tensor of that rank has its piece in the same place
  Finding finding;
};

/// Returns 1 for each piece of this rank whose place an earlier piece has too (one storage under two names), else 0.
std::vector<std::uint8_t> shared_pieces(const layout::LocalLayout& layout);

/// Returns all ranks' findings, at world rank 0; empty elsewhere. Collective over the world.
std::vector<Report> gather_reports(const LocalMemory& local, const std::vector<Finding>& pieces,
                                   const std::vector<Finding>& fills, const std::vector<std::uint8_t>& shared);

/// Writes the reports of gen ranks into `result`: wrong, tensors_wrong, elements_wrong and tensors_not_counted.
void add_wrong(const std::vector<Report>& reports, const model::Model& model, StepResult& result);

/// Appends the overwritten fills of train ranks.
void add_train_fills(const std::vector<Report>& reports, std::vector<TrainDisagreement>& out);

/// Return a result as bytes, and a result from bytes.
Bytes pack(const StepResult& result);
StepResult unpack_result(const Bytes& bytes);
Bytes pack(const std::vector<TrainDisagreement>& list);
std::vector<TrainDisagreement> unpack_disagreements(const Bytes& bytes);

}  // namespace refit::verify
