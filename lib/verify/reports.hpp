#pragma once
// What each rank found, gathered at world rank 0 and turned into the lists of a result.

#include <cstdint>
#include <string>
#include <vector>

#include "verify/counts.hpp"
#include "verify/result.hpp"

namespace refit::verify {

/// A finding of some rank, with what world rank 0 needs to name it.
struct Report {
  std::int32_t world_rank = 0;
  std::int32_t tensor = -1;  ///< -1: a fill
  std::string storage;       ///< of a fill
  Box box;                   ///< of the piece; of a fill its extent
  bool shared = false;       ///< an earlier tensor of that rank has its piece in the same place
  Finding finding;
};

/// Pieces of this rank whose place an earlier piece has too: one storage under two names. By piece, 0 or 1.
std::vector<std::uint8_t> shared_pieces(const layout::LocalLayout& layout);

/// All ranks' findings, at world rank 0; empty elsewhere. Collective over the world.
std::vector<Report> gather_reports(const LocalMemory& local, const std::vector<Finding>& pieces,
                                   const std::vector<Finding>& fills, const std::vector<std::uint8_t>& shared);

/// Writes what gen ranks reported into `result`: wrong, tensors_wrong, elements_wrong and tensors_not_counted.
void add_wrong(const std::vector<Report>& reports, const model::Model& model, std::int32_t train_ranks,
               StepResult& result);

/// Appends the overwritten fills of train ranks.
void add_train_fills(const std::vector<Report>& reports, std::int32_t train_ranks, std::vector<TrainDisagreement>& out);

/// A result as bytes, and back.
Bytes pack(const StepResult& result);
StepResult unpack_result(const Bytes& bytes);
Bytes pack(const std::vector<TrainDisagreement>& list);
std::vector<TrainDisagreement> unpack_disagreements(const Bytes& bytes);

}  // namespace refit::verify
