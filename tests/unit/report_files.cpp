#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "core/files.hpp"
#include "report/files.hpp"
#include "report_sample.hpp"

namespace refit::report {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// The message of the usage error for refused outputs; "" where all are accepted.
std::string refusal(const std::vector<std::string>& paths, bool force) {
  try {
    fail_refused(refused_outputs(paths, force));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "";
}

/// The message of the runtime error that `action` throws.
std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::runtime);
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

/// The message of the usage error for an output beside inputs; "" where it is accepted.
std::string read_as_well(const std::string& output, const std::vector<std::string>& inputs) {
  try {
    require_not_read(output, inputs);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    return error.what();
  }
  return "";
}

TEST(ReportFiles, WhatIsReadIsNotReplaced) {
  const TemporaryFolder folder;
  for (const char* name : {"model.safetensors", "config.json", "gen-rank-00000.h5", "result.json"})
    write_file(folder / name, "old");
  fs::create_symlink(folder / "model.safetensors", folder / "link.json");
  const std::vector<std::string> inputs{"", folder.path(), folder / "answer.json"};
  for (const char* name : {"model.safetensors", "config.json", "gen-rank-00000.h5", "link.json"})
    EXPECT_THAT(read_as_well(folder / name, inputs), AllOf(HasSubstr(folder / name), HasSubstr("which is read")))
        << name;
  EXPECT_EQ(read_as_well(folder / "result.json", inputs), "");
  EXPECT_EQ(read_as_well(folder / "new.safetensors", inputs), "");
  EXPECT_THAT(read_as_well(folder / "result.json", {folder / "./result.json"}), HasSubstr("an input"));
  EXPECT_EQ(read_as_well("", inputs), "");
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

TEST(ReportFiles, AnUncommittedFileLeavesTheOldOne) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    const TemporaryFile file(folder / "a");
    EXPECT_EQ(files_in(folder.path()), 2);
    EXPECT_EQ(fs::path(file.path()).parent_path(), folder.path());
  }
  EXPECT_EQ(read_text(folder / "a"), "old");
  EXPECT_EQ(files_in(folder.path()), 1);
}

TEST(ReportFiles, AllRefusalsComeAtOnce) {
  const TemporaryFolder folder;
  write_file(folder / "old", "old");
  const std::string text = refusal({folder / "good", folder.path(), folder / "old", folder / "none/a"}, false);
  EXPECT_THAT(text, AllOf(HasSubstr("3 outputs"), HasSubstr("is a folder"), HasSubstr("--force"), HasSubstr("none")));
  EXPECT_EQ(refused_outputs({"", folder / "good", folder.path()}, false).front().index, 2U);
}

TEST(ReportFiles, ALinkStaysAndItsTargetIsReplaced) {
  const TemporaryFolder folder;
  fs::create_directory(folder / "far");
  fs::create_symlink("far/a", folder / "link");
  EXPECT_EQ(refusal({folder / "link"}, false), "");  // replaces nothing yet
  write_file(folder / "link", "first");
  EXPECT_EQ(read_text(folder / "far/a"), "first");
  EXPECT_THAT(refusal({folder / "link"}, false), HasSubstr("--force"));
  write_file(folder / "link", "second");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_text(folder / "far/a"), "second");
  EXPECT_EQ(files_in(folder / "far"), 1);
  EXPECT_THAT(refusal({folder / "link", folder / "far/a"}, true), HasSubstr("two outputs"));
  remove_output(folder / "link");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_FALSE(fs::exists(folder / "far/a"));
}

TEST(ReportFiles, DevicesAndFifosAreWrittenTo) {
  const TemporaryFolder folder;
  EXPECT_EQ(refusal({"/dev/null", "/dev/null"}, false), "");  // only looked at: a mistake here would replace it
  const std::string fifo = folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  std::thread writer([&] { write_file(fifo, "through"); });
  EXPECT_EQ(read_text(fifo), "through");
  writer.join();
  remove_output(fifo);
  EXPECT_TRUE(fs::is_fifo(fifo));
}

TEST(ReportFiles, WhatAKilledProcessLeftIsRemovedAndNothingElse) {
  const TemporaryFolder folder;
  std::string left;
  {
    const TemporaryFile own(folder.path() + "/../unseen");
    left = fs::path(own.path()).filename();  // ".unseen.MACHINE-PID-START-N.refit.tmp"
  }
  const std::string start = "-" + std::to_string(::getpid()) + "-";
  const std::size_t place = left.find(start);
  ASSERT_NE(place, std::string::npos);
  const std::string earlier = left.substr(0, place + start.size()) + "1-0.refit.tmp";  // the number, used before
  const std::string elsewhere = ".a.0123456789abcdef" + start + "1-0.refit.tmp";
  for (const std::string& name : {left, earlier, elsewhere, std::string(".a.refit.tmp"), std::string("a.tmp")})
    std::ofstream(folder / name) << "x";
  fs::create_directory(folder / (".b" + earlier));
  const TemporaryFile file(folder / "new");
  EXPECT_FALSE(fs::exists(folder / earlier));
  EXPECT_TRUE(fs::exists(folder / left));  // its writer lives
  EXPECT_TRUE(fs::exists(folder / elsewhere));
  EXPECT_EQ(files_in(folder.path()), 6);
}

TEST(ReportFiles, AFailedWriteIsARuntimeError) {
  const TemporaryFolder folder;
  EXPECT_THAT(message_of([&] { write_file(folder / "none/a", "text"); }), HasSubstr(folder / "none/a"));
}

}  // namespace
}  // namespace refit::report
