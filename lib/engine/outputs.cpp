#include "engine/outputs.hpp"

#include <fmt/ranges.h>

#include <chrono>
#include <filesystem>
#include <utility>

#include "checkpoint/file.hpp"
#include "checkpoint/rank_files.hpp"
#include "core/console.hpp"
#include "core/error.hpp"
#include "core/files.hpp"
#include "engine/launch.hpp"
#include "engine/process.hpp"
#include "report/files.hpp"
#include "report/printers.hpp"
#include "report/statistics.hpp"
#include "report/timeline.hpp"

namespace refit::engine {
namespace {

/// Checks a folder for dumps of one side: it is made, writable, and without dumps that must not be replaced.
void check_folder(const std::string& folder, const std::string& side, bool force) {
  make_folder(folder);
  try {
    const TemporaryFile probe((std::filesystem::path(folder) / (side + "-rank")).string());
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}; choose another folder for dumps", error.what()));
  }
  const std::vector<std::string> found = checkpoint::side_files(folder, side);
  if (!found.empty() && !force) {
    fail_usage("{}: already holds dumps ({}); give another folder or --force", folder,
               std::filesystem::path(found.front()).filename().string());
  }
  for (const std::string& path : found) checkpoint::require_replaceable(path);
}

/// Removes one side's dumps: a run of fewer ranks must not leave those of an earlier run beside its own.
void remove_dumps(const std::string& folder, const std::string& side) {
  for (const std::string& path : checkpoint::side_files(folder, side)) {
    std::error_code error;
    if (!checkpoint::is_own_dump(path)) continue;
    std::filesystem::remove(path, error);
    if (error)
      throw Error(output_error_kind(error.value()), fmt::format("{}: cannot remove: {}", path, error.message()));
  }
}

/// Returns a file of results that have a timeline.
template <typename Make>
Outputs::Make with_timeline(Make make) {
  return [make](const report::Result& result) {
    return result.timeline == nullptr ? std::nullopt : std::optional(make(result, *result.timeline));
  };
}

std::optional<std::string> metrics(const report::Result& result) {
  if (report::weight_sync_samples(result).empty()) return std::nullopt;
  return report::to_m2n_metrics(result);
}

}  // namespace

Outputs::Outputs(const cases::OutputSection& output) : force_(output.force) {
  add(output.json, report::to_json);
  add(output.csv, report::to_csv);
  add(output.hdf5, report::to_hdf5);
  add(output.junit, report::to_junit);
  add(output.m2n_metrics, metrics);
  add(output.trace, with_timeline(report::to_chrome_trace));
  add(output.timeline, with_timeline(report::to_svg));
  if (!output.dump_train.empty()) dumps_.push_back({output.dump_train, "train"});
  if (!output.dump_gen.empty()) dumps_.push_back({output.dump_gen, "gen"});
}

void Outputs::add(const std::string& path, Make make) {
  if (!path.empty()) files_.push_back({path, std::move(make)});
}

void Outputs::check() {
  std::vector<std::string> paths;
  for (const File& file : files_) paths.push_back(file.path);
  std::vector<report::Refusal> refusals = report::refused_outputs(paths, force_);
  assume_checked();
  for (const report::Refusal& refusal : refusals) files_[refusal.index].accepted = false;
  add_refused_folders(refusals);
  report::fail_refused(refusals);
}

void Outputs::add_refused_folders(std::vector<report::Refusal>& refusals) const {
  for (const Dumps& dumps : dumps_) {
    try {
      check_folder(dumps.folder, dumps.side, force_);
    } catch (const Error& error) {
      refusals.push_back({files_.size(), error.kind(), error.what()});
    }
  }
}

void Outputs::check_folders() const {
  std::vector<report::Refusal> refusals;
  add_refused_folders(refusals);
  for (report::Refusal& refusal : refusals) refusal.reason = fmt::format("host {}: {}", host_name(), refusal.reason);
  report::fail_refused(refusals);
}

void Outputs::assume_checked() {
  for (File& file : files_) file.accepted = true;
}

void Outputs::leave_written() {
  for (File& file : files_) {
    std::error_code error;
    if (std::filesystem::is_regular_file(file.path, error)) file.accepted = false;
  }
}

bool Outputs::take_older_away() {
  try {
    check();
    remove_older_than_this_process();
    return true;
  } catch (const Error&) {
    return false;
  }
}

void Outputs::remove_older_than_this_process() const {
  if (!force_) return;
  const double age = age_of_this_process();
  for (const File& file : files_) {
    std::error_code error;
    const auto written = std::filesystem::last_write_time(file.path, error);
    const std::chrono::duration<double> since = std::filesystem::file_time_type::clock::now() - written;
    if (!error && since.count() > age) report::remove_output(file.path);
  }
}

void Outputs::remove_older() const {
  if (!force_) return;
  for (const File& file : files_) report::remove_output(file.path);
  remove_older_dumps();
}

void Outputs::remove_older_dumps() const {
  if (!force_) return;
  for (const Dumps& dumps : dumps_) remove_dumps(dumps.folder, dumps.side);
}

/// The content of a file, complete beside it; nothing where this result has no such file.
struct Outputs::Complete {
  const File* file;
  std::optional<TemporaryFile> content;
};

std::vector<Outputs::Complete> Outputs::prepare(const report::Result& result, Failures& failures) const {
  std::vector<Complete> complete;
  for (const File& file : files_) {
    if (!file.accepted || failures.contains(file.path) || report::is_stream(file.path)) continue;
    try {
      const std::optional<std::string> content = file.make(result);
      complete.push_back({&file, std::nullopt});
      if (content) complete.back().content.emplace(report::write_beside(file.path, *content));
    } catch (const std::exception& error) {
      if (!complete.empty() && complete.back().file == &file) complete.pop_back();
      failures.emplace(file.path, error.what());
    }
  }
  return complete;
}

void Outputs::replace(std::vector<Complete> files, Failures& failures) const {
  for (Complete& complete : files) {
    try {
      if (complete.content) {
        complete.content->commit();
      } else {
        report::remove_output(complete.file->path);
      }
    } catch (const std::exception& error) {
      failures.emplace(complete.file->path, error.what());
    }
  }
}

void Outputs::write_streams(const report::Result& result, Failures& failures) const {
  for (const File& file : files_) {
    if (!file.accepted || !report::is_stream(file.path)) continue;
    try {
      if (const std::optional<std::string> content = file.make(result)) report::write_file(file.path, *content);
    } catch (const std::exception& error) {
      failures.emplace(file.path, error.what());
    }
  }
}

void Outputs::write(report::Result& result) {
  constexpr auto kPatience = std::chrono::seconds(1);  // with a file system that does not answer
  const bool first = !begun_.exchange(true);
  std::unique_lock pen(pen_, std::defer_lock);
  if (!first) {
    if (!pen.try_lock_for(kPatience)) return;
    pen.release();  // no other thread gets it after this one
  }
  Failures failures;
  // Returns true where the result is a failure by now.
  const auto judge = [&] {
    if (const std::string reason = stdout_failure(); !reason.empty())
      failures.emplace("", "cannot write to stdout: " + reason);
    if (failures.empty() || result.exit_code != 0) return result.exit_code != 0;
    std::vector<std::string> reasons;
    for (const auto& [path, reason] : failures) reasons.push_back(reason);
    result.status = report::Status::error;
    result.exit_code = static_cast<int>(ErrorKind::runtime);
    result.error =
        report::Failure{name(ErrorKind::runtime), fmt::format("{}", fmt::join(reasons, "; ")), std::nullopt, ""};
    return true;
  };
  bool streams = first;
  if (!judge()) {
    std::vector<Complete> complete = prepare(result, failures);
    judge();
    if (std::exchange(streams, false)) write_streams(result, failures);
    if (first) pen.lock();
    if (!judge()) replace(std::move(complete), failures);
  }
  if (judge()) {
    if (first && !pen.owns_lock()) pen.lock();
    const Failures before = failures;
    replace(prepare(result, failures), failures);
    // Files that were written before say "passed".
    for (const auto& [path, reason] : failures) {
      if (!path.empty() && !before.contains(path)) report::remove_output(path);
    }
    if (first) pen.unlock();
    if (streams) write_streams(result, failures);
  }
  for (const auto& [path, reason] : failures) {
    if (!path.empty()) print_error("refit: error: {}\n", reason);
  }
}

}  // namespace refit::engine
