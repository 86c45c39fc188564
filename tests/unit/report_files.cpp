#include <gmock/gmock.h>

#include <filesystem>

#include "core/error.hpp"
#include "report/files.hpp"
#include "report_sample.hpp"

namespace refit::report {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// The message of the usage error of check_outputs; "" where it accepts.
std::string refusal(const std::vector<std::string>& paths, bool force) {
  try {
    check_outputs(paths, force);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "";
}

std::ptrdiff_t files_in(const std::string& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

TEST(ReportFiles, NewFilesAreAcceptedAndNotCreated) {
  const TemporaryFolder folder;
  EXPECT_EQ(refusal({folder / "a.json", "", folder / "b.csv", ""}, false), "");
  EXPECT_EQ(files_in(folder.path()), 0);
}

TEST(ReportFiles, AnExistingFileNeedsForce) {
  const TemporaryFolder folder;
  write_file(folder / "a.json", "old");
  EXPECT_THAT(refusal({folder / "a.json"}, false), AllOf(HasSubstr(folder / "a.json"), HasSubstr("--force")));
  EXPECT_EQ(refusal({folder / "a.json"}, true), "");
  EXPECT_EQ(read_text(folder / "a.json"), "old");
}

TEST(ReportFiles, AMissingFolderIsNamed) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal({folder / "none/a.json"}, true), AllOf(HasSubstr(folder / "none"), HasSubstr("does not exist")));
}

TEST(ReportFiles, AFolderIsNoFile) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal({folder.path()}, true), HasSubstr("is a folder"));
}

TEST(ReportFiles, AFolderWithoutWritePermissionIsRefused) {
  // /proc refuses new files even to root, whom permission bits do not stop.
  EXPECT_THAT(refusal({"/proc/refit.json"}, false), AllOf(HasSubstr("/proc/refit.json"), HasSubstr("choose another")));
}

TEST(ReportFiles, TwoOutputsCannotShareAFile) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal({folder / "a", folder / "./a"}, false), HasSubstr("two outputs"));
}

TEST(ReportFiles, ACommittedOutputReplacesItsTarget) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  write_file(folder / "a", "new");
  EXPECT_EQ(read_text(folder / "a"), "new");
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(ReportFiles, AnUncommittedOutputLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    const Output output(folder / "a");
    write_file(output.temporary_path(), "half");
    EXPECT_EQ(files_in(folder.path()), 2);
  }
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(ReportFiles, AFailedWriteIsARuntimeError) {
  const TemporaryFolder folder;
  try {
    write_file(folder / "none/a", "text");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::runtime);
    EXPECT_THAT(error.what(), HasSubstr(folder / "none/a"));
  }
}

}  // namespace
}  // namespace refit::report
