#include <gmock/gmock.h>
#include <hdf5.h>

#include "report/files.hpp"
#include "report/printers.hpp"
#include "report_sample.hpp"

namespace refit::report {
namespace {

using testing::ElementsAre;

/// Reads a file that the test wrote; identifiers are closed with the file.
class Reader {
 public:
  explicit Reader(const std::string& path) : file_(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT)) {}
  ~Reader() { H5Fclose(file_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  template <typename Value>
  std::vector<Value> dataset(const std::string& name, hid_t type) const {
    const hid_t id = H5Dopen2(file_, name.c_str(), H5P_DEFAULT);
    const hid_t space = H5Dget_space(id);
    std::vector<Value> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
    EXPECT_GE(H5Dread(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0) << name;
    H5Sclose(space);
    H5Dclose(id);
    return values;
  }

  std::vector<double> doubles(const std::string& name) const { return dataset<double>(name, H5T_NATIVE_DOUBLE); }
  std::vector<std::int64_t> integers(const std::string& name) const {
    return dataset<std::int64_t>(name, H5T_NATIVE_INT64);
  }

  std::vector<hsize_t> shape(const std::string& name) const {
    const hid_t id = H5Dopen2(file_, name.c_str(), H5P_DEFAULT);
    const hid_t space = H5Dget_space(id);
    std::vector<hsize_t> dimensions(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
    H5Sget_simple_extent_dims(space, dimensions.data(), nullptr);
    H5Sclose(space);
    H5Dclose(id);
    return dimensions;
  }

  std::vector<std::string> strings(const std::string& name) const {
    const hid_t type = string_type();
    const auto raw = dataset<char*>(name, type);
    std::vector<std::string> values(raw.begin(), raw.end());
    for (char* text : raw) H5free_memory(text);
    H5Tclose(type);
    return values;
  }

  std::string text_attribute(const std::string& object, const std::string& name) const {
    char* raw = nullptr;
    const hid_t type = string_type();
    read_attribute(object, name, type, &raw);
    std::string value = raw == nullptr ? "" : raw;
    H5free_memory(raw);
    H5Tclose(type);
    return value;
  }

  double number_attribute(const std::string& object, const std::string& name) const {
    double value = -1;
    read_attribute(object, name, H5T_NATIVE_DOUBLE, &value);
    return value;
  }

 private:
  static hid_t string_type() {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
  }

  void read_attribute(const std::string& object, const std::string& name, hid_t type, void* value) const {
    const hid_t id = H5Aopen_by_name(file_, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT);
    EXPECT_GE(H5Aread(id, type, value), 0) << name;
    H5Aclose(id);
  }

  hid_t file_;
};

TEST(ReportHdf5, SamplesPhasesMatrixAndWrongTensors) {
  const TemporaryFolder folder;
  Result result = sample_result();
  result.byte_matrix = {{1, 2, 3}, {4, 5, 6}};
  result.verification->wrong.push_back({"experts.weight", 2, 99, {1, 2, 3}});
  write_file(folder / "r.h5", to_hdf5(result));
  const Reader reader(folder / "r.h5");
  EXPECT_THAT(reader.doubles("weight_sync"), ElementsAre(0.5, 0.25));
  EXPECT_EQ(reader.number_attribute("weight_sync", "first"), 1);
  EXPECT_EQ(reader.text_attribute("weight_sync", "unit"), "s");
  EXPECT_THAT(reader.doubles("phases/load"), ElementsAre(2));
  EXPECT_THAT(reader.doubles("phases/bulk"), ElementsAre(0.375, 0.125));
  EXPECT_THAT(reader.shape("byte_matrix"), ElementsAre(2, 3));
  EXPECT_THAT(reader.integers("byte_matrix"), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(reader.strings("wrong/tensor"), ElementsAre("norm.weight", "experts.weight"));
  EXPECT_THAT(reader.integers("wrong/gen_rank"), ElementsAre(0, 2));
  EXPECT_THAT(reader.integers("wrong/elements_wrong"), ElementsAre(1, 99));
  EXPECT_THAT(reader.shape("wrong/first_index"), ElementsAre(2, 4));
  EXPECT_THAT(reader.integers("wrong/first_index"), ElementsAre(7, -1, -1, -1, 1, 2, 3, -1));
}

TEST(ReportHdf5, AllTensorsWithWhatIsWrongInThem) {
  const TemporaryFolder folder;
  Result result = sample_result();
  result.verification->wrong.push_back({"norm.weight", 1, 4, {2}});
  write_file(folder / "r.h5", to_hdf5(result));
  const Reader reader(folder / "r.h5");
  EXPECT_THAT(reader.strings("tensors/name"), ElementsAre("w", "norm.weight"));
  EXPECT_THAT(reader.strings("tensors/path"), ElementsAre("bulk", "misc"));
  EXPECT_THAT(reader.integers("tensors/bytes"), ElementsAre(1500, 500));
  EXPECT_THAT(reader.integers("tensors/elements_wrong"), ElementsAre(0, 5));
}

TEST(ReportHdf5, EnginesHaveProofsOfTheirOwn) {
  const TemporaryFolder folder;
  Result result = sample_engines();
  write_file(folder / "r.h5", to_hdf5(result));
  const Reader reader(folder / "r.h5");
  EXPECT_THAT(reader.strings("engines/engine"), ElementsAre("vllm", "sglang"));
  EXPECT_THAT(reader.strings("engines/layout"), ElementsAre("TP1", "DP2"));
  EXPECT_THAT(reader.integers("engines/ranks"), ElementsAre(1, 2));
  EXPECT_THAT(reader.integers("engines/payload_bytes"), ElementsAre(2000, 1500));
  EXPECT_THAT(reader.integers("engines/bytes"), ElementsAre(2100, 3000));
  EXPECT_THAT(reader.integers("engines/tensors_wrong"), ElementsAre(0, 1));
  EXPECT_THAT(reader.integers("engines/elements"), ElementsAre(400, 600));
  EXPECT_THAT(reader.integers("engines/elements_wrong"), ElementsAre(0, 1));
  EXPECT_THAT(reader.doubles("engines/kl_max"), ElementsAre(0, 0.5));
  EXPECT_THAT(reader.integers("wrong/engine"), ElementsAre(1));
  result.engines.front().proof.reset();
  write_file(folder / "other.h5", to_hdf5(result));
  EXPECT_THAT(Reader(folder / "other.h5").integers("engines/elements"), ElementsAre(-1, 600));
}

TEST(ReportHdf5, AttributesSayWhichCaseItWas) {
  const TemporaryFolder folder;
  write_file(folder / "r.h5", to_hdf5(sample_result()));
  const Reader reader(folder / "r.h5");
  EXPECT_EQ(reader.text_attribute("/", "schema"), "refit.result");
  EXPECT_EQ(reader.text_attribute("/", "case"), "tiny");
  EXPECT_EQ(reader.text_attribute("/", "description"), "TP1 -> TP1: \"one\" & <one>");
  EXPECT_EQ(reader.text_attribute("/", "status"), "failed");
  EXPECT_EQ(reader.number_attribute("/", "exit_code"), 1);
  EXPECT_EQ(reader.text_attribute("/", "settings.bulk"), "ffn");
  EXPECT_EQ(reader.number_attribute("/", "settings.steps"), 2);
  EXPECT_EQ(reader.number_attribute("/", "settings.fraction"), 0.5);
  EXPECT_EQ(reader.text_attribute("/", "settings.check_agreement"), "true");
  EXPECT_EQ(reader.number_attribute("/", "bulk_bytes"), 1500);
}

TEST(ReportHdf5, AnEarlyErrorMakesAFileWithEmptyDatasets) {
  const TemporaryFolder folder;
  Result result;
  result.status = Status::error;
  result.error = Failure{"usage", "no such file", {}, ""};
  write_file(folder / "r.h5", to_hdf5(result));
  const Reader reader(folder / "r.h5");
  EXPECT_THAT(reader.shape("weight_sync"), ElementsAre(0));
  EXPECT_THAT(reader.shape("byte_matrix"), ElementsAre(0, 0));
  EXPECT_THAT(reader.shape("wrong/tensor"), ElementsAre(0));
  EXPECT_EQ(reader.text_attribute("/", "error"), "no such file");
}

}  // namespace
}  // namespace refit::report
