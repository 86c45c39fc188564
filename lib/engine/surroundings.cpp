#include "engine/surroundings.hpp"

#include <ifaddrs.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string_view>

#include "transport/bytes.hpp"
#include "transport/location.hpp"

namespace refit::engine {
namespace {

namespace fs = std::filesystem;
using transport::Control;

/// Returns the first line of a file of the kernel's; "" where it has none.
std::string line_of(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("model name")) continue;
    const std::size_t begin = line.find_first_not_of(" \t", line.find(':') + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

/// Returns the interfaces that have an address, but for the loopback's, and the RDMA devices, each sorted by name.
std::vector<report::Nic> nics() {
  std::set<std::string> interfaces;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) == 0) {
    for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
      const bool is_up = (one->ifa_flags & IFF_UP) != 0 && (one->ifa_flags & IFF_LOOPBACK) == 0;
      if (!is_up || one->ifa_addr == nullptr) continue;
      const int family = one->ifa_addr->sa_family;
      if (family == AF_INET || family == AF_INET6) interfaces.insert(one->ifa_name);
    }
    freeifaddrs(all);
  }
  std::vector<report::Nic> found;
  for (const std::string& name : interfaces) {
    const std::string speed = line_of(fs::path("/sys/class/net") / name / "speed");
    found.push_back({name, speed.empty() || speed.front() == '-' ? "" : speed + " Mbit/s"});
  }
  std::set<std::string> devices;
  std::error_code error;
  for (const fs::directory_entry& one : fs::directory_iterator("/sys/class/infiniband", error))
    devices.insert(one.path().filename().string());
  for (const std::string& name : devices)
    found.push_back({name, line_of(fs::path("/sys/class/infiniband") / name / "ports/1/rate")});
  return found;
}

Control::Bytes encode(const report::HostInfo& host) {
  Control::Bytes bytes;
  for (const std::string& text : {host.name, host.cpu}) transport::append_text(bytes, text);
  transport::append(bytes, host.cores);
  transport::append(bytes, static_cast<std::int64_t>(host.nics.size()));
  for (const report::Nic& nic : host.nics) {
    for (const std::string& text : {nic.name, nic.rate}) transport::append_text(bytes, text);
  }
  return bytes;
}

report::HostInfo decode(const Control::Bytes& bytes) {
  transport::Reader in(bytes);
  report::HostInfo host;
  for (std::string* text : {&host.name, &host.cpu}) *text = in.take_text();
  host.cores = in.take<std::int64_t>();
  host.nics.resize(static_cast<std::size_t>(in.take<std::int64_t>()));
  for (report::Nic& nic : host.nics) {
    for (std::string* text : {&nic.name, &nic.rate}) *text = in.take_text();
  }
  return host;
}

}  // namespace

report::HostInfo this_host() {
  return {host_name(), std::max<std::int64_t>(0, sysconf(_SC_NPROCESSORS_ONLN)), cpu_model(), nics()};
}

std::vector<std::string> mpi_transports() {
  constexpr std::array<std::string_view, 4> kFrameworks{"pml", "mtl", "btl", "osc"};
  std::set<std::string> found;
  std::ifstream file("/proc/self/maps");
  for (std::string line; std::getline(file, line);) {
    const std::size_t begin = line.rfind("/mca_");
    if (begin == std::string::npos || !line.ends_with(".so")) continue;
    const std::string_view name = std::string_view(line).substr(begin + 5, line.size() - begin - 8);  // "btl_tcp"
    const std::size_t cut = name.find('_');
    const std::string_view framework = name.substr(0, cut);
    if (cut == std::string_view::npos || std::ranges::find(kFrameworks, framework) == kFrameworks.end()) continue;
    found.insert(std::string(framework) + "/" + std::string(name.substr(cut + 1)));
  }
  return {found.begin(), found.end()};
}

std::vector<std::pair<std::string, std::string>> network_variables() {
  constexpr std::array<std::string_view, 9> kBegins{
      "NCCL_", "UCX_", "FI_", "MPICH_", "OMPI_MCA_pml", "PSM2_", "OMPI_MCA_btl", "OMPI_MCA_mtl", "OMPI_MCA_osc",
  };
  std::vector<std::pair<std::string, std::string>> found;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view one = *variable;
    const std::size_t equals = one.find('=');
    if (equals == std::string_view::npos) continue;
    if (std::ranges::any_of(kBegins, [&](std::string_view begin) { return one.starts_with(begin); }))
      found.emplace_back(one.substr(0, equals), one.substr(equals + 1));
  }
  std::ranges::sort(found);
  return found;
}

std::string batch_job() {
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string(text == nullptr ? "" : text);
  };
  if (const std::string array = value("SLURM_ARRAY_JOB_ID"); !array.empty())
    return array + "_" + value("SLURM_ARRAY_TASK_ID");
  for (const char* name : {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"}) {
    if (std::string id = value(name); !id.empty()) return id;
  }
  return "";
}

report::JobInfo gather_job(transport::Control& world, const Launch& launch) {
  // The first rank of each host speaks for it.
  const std::vector<std::uint64_t> hosts = transport::gather_all(world, transport::location().host);
  const auto mine = static_cast<std::size_t>(world.rank());
  const bool is_first = std::ranges::find(hosts, hosts[mine]) - hosts.begin() == world.rank();
  report::JobInfo job{launch.launcher, batch_job(), {}, {}, {}};
  for (const Control::Bytes& bytes : world.gather_all(is_first ? encode(this_host()) : Control::Bytes{})) {
    if (!bytes.empty()) job.hosts.push_back(decode(bytes));
  }
  // The rest is rank 0's.
  Control::Bytes own;
  if (world.rank() == 0) {
    const std::vector<std::string> transports = mpi_transports();
    const auto variables = network_variables();
    transport::append(own, std::ssize(transports));
    for (const std::string& one : transports) transport::append_text(own, one);
    transport::append(own, std::ssize(variables));
    for (const auto& [name, value] : variables) {
      transport::append_text(own, name);
      transport::append_text(own, value);
    }
  }
  own = world.broadcast(std::move(own), 0);
  transport::Reader in(own);
  job.mpi_transports.resize(static_cast<std::size_t>(in.take<std::ptrdiff_t>()));
  for (std::string& one : job.mpi_transports) one = in.take_text();
  job.variables.resize(static_cast<std::size_t>(in.take<std::ptrdiff_t>()));
  for (auto& [name, value] : job.variables) {
    name = in.take_text();
    value = in.take_text();
  }
  return job;
}

}  // namespace refit::engine
