#pragma once
// What moves by each path of a job, and what its executor's schedule should take: the same for `run` and `plan`.

#include <optional>
#include <string>
#include <vector>

#include "engine/case.hpp"
#include "plan/model.hpp"
#include "report/result.hpp"

namespace refit::engine {

/// The tensors of both paths, between two layouts. Borrows all.
struct Paths {
  const std::vector<model::Tensor>& bulk;
  const std::vector<model::Tensor>& misc;
  const layout::Layout& source;
  const layout::Layout& destination;
};

/// golden's broadcasts; nothing for other executors.
std::optional<plan::Broadcasts> broadcasts_of(ExecutorKind executor, const Paths& paths);

/// In which form an executor's copies travel.
plan::Form form_of(ExecutorKind executor);

/// What this case's executor, or another, should take: its bulk path, then misc. `loads`: of the plan that it carries
/// out, in its form.
plan::ModelSeconds model_seconds(ExecutorKind executor, const RefitSection& refit, const Paths& paths,
                                 const plan::Loads& loads, const plan::Machine& machine);

report::ModelSeconds to_report(const plan::ModelSeconds& model);

/// Bytes of one refit.
struct Moved {
  report::Wire wire;
  std::vector<std::int64_t> sent;      ///< by train rank, to gen ranks
  std::vector<std::int64_t> received;  ///< by gen rank, forwards included
};

/// Of the bulk path (golden: every shard from its first holder to all ranks of its communicator; else the planned
/// copies) and of misc, from train rank 0 to every gen rank.
Moved moved_by(const RefitSection& refit, const Paths& paths, const plan::Loads& loads,
               const plan::Placement& placement);

/// `planned`: bytes of the planned copies, [train rank][gen rank].
report::ByteMatrix byte_matrix(const RefitSection& refit, const Paths& paths, report::ByteMatrix planned);

/// What the misc path carries: repeated scales as often as layouts see them.
std::int64_t misc_stream_bytes(const std::vector<model::Tensor>& misc, const layout::Layout& source);

}  // namespace refit::engine
