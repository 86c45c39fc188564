#include "report/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "report/format.hpp"
#include "report/statistics.hpp"

namespace refit::report {
namespace {

constexpr std::size_t kRanksShown = 64;

std::string group_text(const Group& group) {
  return fmt::format("{} {}, {}", group.layout, group.precision, counted(group.ranks, "rank"));
}

std::string coordinates_text(const RankInfo& info) {
  std::string text;
  for (const auto& [axis, index] : info.coordinates) text += fmt::format(" {}{}", axis, index);
  return text;
}

void print_ranks(std::ostream& out, const std::vector<RankInfo>& ranks) {
  if (ranks.empty()) return;
  const auto shown = std::min(ranks.size(), kRanksShown);
  std::size_t host_width = 4;
  std::size_t device_width = 6;
  for (std::size_t i = 0; i < shown; ++i) {
    host_width = std::max(host_width, ranks[i].host.size());
    device_width = std::max(device_width, ranks[i].device.size());
  }
  out << fmt::format("#\n# {:>5}  {:<5}  {:>8}  {:<{}}  {:<{}}  coordinates\n", "rank", "group", "pid", "host",
                     host_width, "device", device_width);
  for (std::size_t i = 0; i < shown; ++i) {
    const RankInfo& info = ranks[i];
    out << fmt::format("# {:>5}  {:<5}  {:>8}  {:<{}}  {:<{}} {}\n", info.rank, info.group, info.pid, info.host,
                       host_width, info.device, device_width, coordinates_text(info));
  }
  if (shown == ranks.size()) return;
  std::set<std::string> hosts;
  for (const RankInfo& info : ranks) hosts.insert(info.host);
  out << fmt::format("#   ... and {} more ranks; {} hosts in all\n", ranks.size() - shown, hosts.size());
}

bool has_pause(const Result& result) {
  return std::ranges::any_of(result.settings, [](const auto& setting) { return setting.first == "commit"; });
}

std::string milliseconds(std::optional<double> seconds) {
  return seconds ? fmt::format("{:.3f}", *seconds * 1e3) : "-";
}

}  // namespace

std::string versions_text(const Environment& environment) {
  std::string line = "# refit " + environment.refit;
  const auto add = [&line](const char* what, const std::string& version) {
    if (!version.empty()) line += fmt::format("  {}{}", what, version);
  };
  if (!environment.commit.empty()) line += fmt::format(" ({})", environment.commit);
  add("", environment.compiler);
  add("", environment.mpi);
  add("NCCL ", environment.nccl);
  add("CUDA ", environment.cuda);
  add("Kokkos ", environment.kokkos);
  add("HDF5 ", environment.hdf5);
  return line + '\n';
}

std::string job_text(const JobInfo& job) {
  if (job.hosts.empty() || (job.hosts.size() == 1 && job.id.empty())) return "";
  std::string text = job.id.empty() ? "" : fmt::format("job {} ", job.id);
  if (!job.launcher.empty()) text += fmt::format("by {}; ", job.launcher);
  text += counted(std::ssize(job.hosts), "host");
  const HostInfo& first = job.hosts.front();
  const bool alike = std::ranges::all_of(job.hosts, [&](const HostInfo& host) {
    return host.cores == first.cores && host.cpu == first.cpu && host.nics == first.nics;
  });
  text += fmt::format("{} {}", alike ? ":" : ", the first of them with", counted(first.cores, "core"));
  if (!first.cpu.empty()) text += ", " + first.cpu;
  for (const Nic& nic : first.nics) text += ", " + nic.name + (nic.rate.empty() ? "" : " " + nic.rate);
  return text;
}

std::string settings_text(const Settings& settings) {
  std::string text;
  for (const auto& [key, value] : settings) text += fmt::format("{}={} ", key, format_setting(value));
  return text;
}

void print_start(std::ostream& out, const Result& result) {
  out << versions_text(result.environment);
  if (!result.start_time.empty()) out << labelled("start", result.start_time);
  if (!result.command.empty()) out << labelled("command", result.command);
  if (!result.test_case.name.empty()) out << labelled("case", result.test_case.name);
  if (!result.test_case.description.empty()) out << labelled("", result.test_case.description);
}

void print_header(std::ostream& out, const Result& result) {
  print_start(out, result);
  if (result.model) {
    const Model& model = *result.model;
    out << labelled("model", fmt::format("{}, {} tensors, {} parameters, {}", model.family, grouped(model.tensors),
                                         grouped(model.parameters), format_bytes(model.bytes)));
    out << labelled("", model.source);
  }
  out << labelled("train", result.train.made_by + " " + group_text(result.train))
      << labelled("gen", result.gen.made_by + " " + group_text(result.gen));
  for (std::size_t e = 0; result.engines.size() > 1 && e < result.engines.size(); ++e) {
    const Engine& engine = result.engines[e];
    out << labelled(fmt::format("engine {}", e), fmt::format("{}, {} from gen rank {} on", engine.group.made_by,
                                                             group_text(engine.group), engine.first_rank));
  }
  if (!result.settings.empty()) out << labelled("settings", settings_text(result.settings));
  if (const std::string job = job_text(result.environment.job); !job.empty()) out << labelled("started", job);
  print_ranks(out, result.environment.ranks);
  out << std::flush;
}

void print_step_heading(std::ostream& out, const Result& result) {
  const bool pauses = has_pause(result);
  out << fmt::format("#\n# {:>5} {:>11} {}{:>9} {:>9} {:>9} {:>7} {:>10} {:>9}\n", "refit", "weight_sync",
                     pauses ? fmt::format("{:>9} ", "pause") : "", "bulk", "misc", "finalize", "algbw", "#wrong",
                     "KL max");
  out << fmt::format("# {:>5} {:>11} {}{:>9} {:>9} {:>9} {:>7} {:>10}\n", "", "(ms)",
                     pauses ? fmt::format("{:>9} ", "(ms)") : "", "(ms)", "(ms)", "(ms)", "(GB/s)", "(elements)")
      << std::flush;
}

void print_step(std::ostream& out, const Result& result, const Refit& refit) {
  const auto bandwidth = algorithm_bandwidth(result, refit);
  out << fmt::format(
             "  {:>5} {:>11} {}{:>9} {:>9} {:>9} {:>7} {:>10} {:>9}{}{}\n", refit.number,
             milliseconds(refit.weight_sync),
             has_pause(result) ? fmt::format("{:>9} ", milliseconds(find_phase(refit, "pause"))) : "",
             milliseconds(find_phase(refit, "bulk")), milliseconds(find_phase(refit, "misc")),
             milliseconds(find_phase(refit, "finalize")), bandwidth ? fmt::format("{:.2f}", *bandwidth) : "-",
             refit.elements_wrong ? fmt::format("{}{}", refit.counted ? "" : ">=", *refit.elements_wrong) : "N/A",
             refit.kl_max ? fmt::format("{:.3g}", *refit.kl_max) : "N/A", refit.warmup ? " w" : "",
             refit.is_committed ? "" : " given up")
      << std::flush;
}

}  // namespace refit::report
