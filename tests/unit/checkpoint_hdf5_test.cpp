// HDF5 files that others made, good and bad, and what h5dump says of ours.

#include <fmt/format.h>
#include <hdf5.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "checkpoint/isolated.hpp"
#include "checkpoint_support.hpp"
#include "core/error.hpp"

namespace refit::checkpoint::test {
namespace {

/// A dataset "w" as a foreign writer would make it.
struct Foreign {
  hid_t type = H5T_STD_U16LE;
  std::vector<hsize_t> shape{4};
  hid_t properties = H5P_DEFAULT;  ///< closed by make
  bool write = true;
  std::string attribute{};  ///< of `dtype`; empty: none
  bool variable = false;    ///< the attribute is a variable-length string, as h5py writes them
};

void add_attribute(hid_t dataset, const Foreign& foreign) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, foreign.variable ? H5T_VARIABLE : foreign.attribute.size());
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(dataset, "dtype", type, space, H5P_DEFAULT, H5P_DEFAULT);
  const char* text = foreign.attribute.c_str();
  H5Awrite(attribute, type, foreign.variable ? static_cast<const void*>(&text) : text);
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

void make(const std::string& path, const Foreign& foreign) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t space = H5Screate_simple(static_cast<int>(foreign.shape.size()), foreign.shape.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, "w", foreign.type, space, H5P_DEFAULT, foreign.properties, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  const std::array<std::byte, 256> zeros{};
  if (foreign.write) H5Dwrite(dataset, foreign.type, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data());
  if (!foreign.attribute.empty()) add_attribute(dataset, foreign);
  H5Dclose(dataset);
  H5Sclose(space);
  if (foreign.properties != H5P_DEFAULT) H5Pclose(foreign.properties);
  H5Fclose(file);
}

hid_t chunked() {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk = 2;
  H5Pset_chunk(properties, 1, &chunk);
  return properties;
}

hid_t compact() {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_layout(properties, H5D_COMPACT);
  return properties;
}

hid_t external() {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(properties, "/dev/zero", 0, H5F_UNLIMITED);
  return properties;
}

TEST(CheckpointHdf5, ForeignDatasetsAreRefusedByName) {
  struct Case {
    Foreign foreign;
    std::string cause;
  };
  const hid_t compound = H5Tcreate(H5T_COMPOUND, 4);
  H5Tinsert(compound, "x", 0, H5T_STD_I32LE);
  const std::vector<Case> cases{
      {{.properties = chunked()}, "not stored contiguously"},
      {{.properties = compact()}, "not stored contiguously"},
      {{.properties = external(), .write = false}, "in another file"},
      {{.write = false}, "never written"},
      {{.type = H5T_STD_U16BE}, "element type"},
      {{.type = H5T_IEEE_F32BE}, "element type"},
      {{.type = compound}, "element type"},
      {{.shape = {1, 1, 1, 1, 1, 1}}, "6 dimensions"},
      {{.attribute = "F4"}, "'F4'"},
      {{.attribute = "F8_E4M3"}, "stored as U16, but its attribute dtype says F8_E4M3"},
      {{.attribute = std::string(500, 'x')}, "not known"},
      {{.type = H5T_STD_U8LE, .attribute = "BF16", .variable = true}, "stored as U8"},
  };
  for (const Case& c : cases) {
    const Folder folder;
    make(folder.file("model.h5"), c.foreign);
    expect_usage([&] { open(folder.path()); }, {folder.file("model.h5"), "'w'", c.cause});
  }
  H5Tclose(compound);
}

TEST(CheckpointHdf5, OtherThingsAtTheRootAreRefusedByName) {
  for (const bool group : {true, false}) {
    const Folder folder;
    const hid_t file = H5Fcreate(folder.file("model.h5").c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (group) {
      H5Gclose(H5Gcreate2(file, "inner", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    } else {
      H5Lcreate_external("/etc/passwd", "/", file, "inner", H5P_DEFAULT, H5P_DEFAULT);
    }
    H5Fclose(file);
    expect_usage([&] { open(folder.path()); }, {"model.h5", "'inner'", group ? "no dataset" : "external link"});
  }
}

TEST(CheckpointHdf5, AttributesOfBothStringKindsAreRead) {
  for (const bool variable : {true, false}) {
    const Folder folder;
    make(folder.file("model.h5"), {.attribute = "BF16", .variable = variable});
    EXPECT_EQ(open(folder.path()).find("w")->info.dtype, DType::bf16);
  }
}

TEST(CheckpointHdf5, CorruptFilesGiveOneErrorAndNoStackTrace) {
  const Folder folder;
  const std::string path = folder.file("model.h5");
  make(path, {});
  const std::string good = read_file(path);
  std::string smashed = good;
  for (std::size_t i = 8; i < 96; ++i) smashed[i] = '\x5A';
  for (const std::string& bad :
       {std::string(), std::string("text"), good.substr(0, 60), good.substr(0, good.size() - 1), smashed}) {
    write_file(path, bad);
    testing::internal::CaptureStderr();
    expect_usage([&] { open(path); }, {path});
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  }
}

TEST(CheckpointHdf5, NamesThatHdf5CannotHoldAreRefused) {
  for (const std::string name : {"a/b", ".", ""}) {
    const Folder folder;
    expect_usage(
        [&] {
          Writer::create(Format::hdf5, folder.path(), {{name, {1}, DType::u8}}, 0, false);
        },
        {folder.path(), fmt::format("'{}'", name)});
    EXPECT_TRUE(folder.list().empty());
  }
}

TEST(CheckpointHdf5, ACrashOfTheLibraryIsAUsageError) {
  EXPECT_EQ(run_isolated("file.h5", [] { return std::string(100'000, 'x'); }), std::string(100'000, 'x'));
  EXPECT_EQ(run_isolated("file.h5", [] { return std::string(); }), "");
  expect_usage([] { run_isolated("file.h5", []() -> std::string { fail_usage("the cause"); }); }, {"the cause"});
  expect_usage([] { run_isolated("file.h5", []() -> std::string { throw std::runtime_error("out of range"); }); },
               {"file.h5", "out of range"});
  testing::internal::CaptureStderr();
  expect_usage([] { run_isolated("file.h5", []() -> std::string { std::abort(); }); }, {"file.h5", "Aborted"});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

std::string output_of(const std::string& command) {
  std::string text;
  std::array<char, 4096> part{};
  FILE* pipe = popen(command.c_str(), "r");
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) text += part.data();
  EXPECT_EQ(pclose(pipe), 0) << command;
  return text;
}

TEST(CheckpointHdf5, H5dumpReadsWhatIsWritten) {
  if (std::system("command -v h5dump > /dev/null 2>&1") != 0) GTEST_SKIP() << "h5dump is not installed (hdf5-tools)";
  const Folder folder;
  const std::vector<std::byte> bytes{std::byte{0x80}, std::byte{0x3F}, std::byte{0x00}, std::byte{0xC0}};
  std::mt19937_64 random(1);
  Tensor bfloat = random_tensor("model.w", {2}, DType::bf16, random);
  Tensor half = random_tensor("half", {2}, DType::f16, random);
  bfloat.bytes = half.bytes = bytes;
  write_checkpoint(Format::hdf5, folder.path(), {bfloat, half}, 0);
  const std::string text = output_of("h5dump " + folder.file("model.h5"));
  for (const std::string part : {"DATASET \"model.w\"", "H5T_STD_U16LE", "(0): 16256, 49152", "ATTRIBUTE \"dtype\"",
                                 "\"BF16\"", "16-bit little-endian floating-point", "(0): 1.875, -2"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in\n" << text;
  }
}

}  // namespace
}  // namespace refit::checkpoint::test
