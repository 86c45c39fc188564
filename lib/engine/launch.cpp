#include "engine/launch.hpp"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string_view>

namespace refit::engine {
namespace {

std::string text(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::optional<std::int64_t> number(std::string_view digits) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end == digits.data() || value < 0) return std::nullopt;
  return value;
}

/// Returns the first of these variables that is a number.
std::optional<std::int64_t> first(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const auto value = number(text(name))) return value;
  }
  return std::nullopt;
}

/// Returns the number of tasks that Slurm has started on this node: "4(x2),3" is 4 on each of two nodes and 3 on the
/// third.
std::optional<std::int64_t> slurm_tasks() {
  const auto node = first({"SLURM_NODEID"});
  const std::string all = text("SLURM_STEP_TASKS_PER_NODE");
  if (!node) return std::nullopt;
  std::int64_t index = 0;
  for (std::string_view rest = all; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const std::size_t repeated = part.find("(x");
    const auto tasks = number(part.substr(0, repeated));
    std::int64_t times = 1;
    if (repeated != std::string_view::npos) {
      const std::string_view count = part.substr(repeated + 2);
      times = number(count.substr(0, count.find(')'))).value_or(1);
    }
    index += times;
    if (*node < index) return tasks;
  }
  return std::nullopt;
}

}  // namespace

Launch read_launch() {
  Launch launch;
  // A batch script itself is no task of a step, though it has SLURM_PROCID and SLURM_NTASKS.
  const auto tasks = first({"SLURM_STEP_NUM_TASKS"});
  auto rank = first({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"});
  if (!rank && tasks) rank = first({"SLURM_PROCID"});
  if (!rank) return launch;
  launch.rank = *rank;
  launch.size = std::max(*rank + 1, first({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}).value_or(tasks.value_or(1)));
  const bool by_proxy = first({"MPI_LOCALRANKID"}).has_value();  // Hydra's, which srun may have started
  launch.launcher = first({"OMPI_COMM_WORLD_RANK"}) ? "mpirun" : tasks && !by_proxy ? "srun" : "mpiexec";
  const auto local_rank = first({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"});
  auto local_size = first({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"});
  if (!local_size) local_size = slurm_tasks();
  std::string job;
  if (const std::string name = text("PMIX_NAMESPACE"); !name.empty()) {
    job = name;
  } else if (const std::string id = text("OMPI_MCA_ess_base_jobid"); !id.empty()) {
    job = id;
  } else if (const std::string slurm = text("SLURM_JOB_ID"); !slurm.empty()) {
    job = slurm + "." + text("SLURM_STEP_ID");
  }
  if (!local_rank || !local_size || *local_rank >= *local_size || job.empty()) return launch;
  for (char& c : job) {
    if (c == '/' || c == '.') c = '-';
  }
  launch.local_rank = *local_rank;
  launch.local_size = *local_size;
  launch.job = job;
  return launch;
}

const Launch& this_launch() {
  static const Launch launch = read_launch();
  return launch;
}

bool lacks_interface(const Launch& launch) {
  if (launch.launcher != "srun") return false;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view one = *variable;
    // PMI_RANK, PMI_FD, PMIX_RANK, ... are the launcher's; PMIX_MCA_... are settings of the user's.
    if (one.starts_with("PMI") && !one.starts_with("PMIX_MCA_")) return false;
  }
  return true;
}

std::string srun_interface() { return text("SLURM_MPI_TYPE"); }

std::string start_hint(const Launch& launch, const std::string& ranks, const LauncherOptions& options) {
  const bool by_slurm = launch.launcher == "srun" || (launch.launcher.empty() && !text("SLURM_JOB_ID").empty());
  if (!by_slurm)
    return "mpirun " + (options.mpirun.empty() ? "" : options.mpirun + " ") + "-np " + ranks + " refit run ...";
  const std::string type = srun_interface();
  return "srun --mpi=" + (type.empty() ? "pmix" : type) + (options.srun.empty() ? "" : " " + options.srun) + " -n " +
         ranks + " refit run ...";
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  return name;
}

}  // namespace refit::engine
