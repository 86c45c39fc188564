#include <hdf5.h>

#include <algorithm>
#include <map>

#include "core/error.hpp"
#include "report/format.hpp"
#include "report/printers.hpp"
#include "report/statistics.hpp"

namespace refit::report {
namespace {

constexpr std::size_t kIndexColumns = 4;

void check(bool good, const std::string& what) {
  if (!good) fail_runtime("HDF5 cannot store {}", what);
}

/// The owner of one HDF5 identifier.
class Handle {
 public:
  Handle(hid_t id, herr_t (*closer)(hid_t), const std::string& what) : id_(id), closer_(closer) {
    check(id >= 0, what);
  }
  ~Handle() { closer_(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  hid_t get() const { return id_; }

 private:
  hid_t id_;
  herr_t (*closer_)(hid_t);
};

Handle string_type() {
  const hid_t type = H5Tcopy(H5T_C_S1);
  check(type >= 0 && H5Tset_size(type, H5T_VARIABLE) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0, "a string type");
  return Handle(type, H5Tclose, "a string type");
}

void write_attribute(hid_t object, const std::string& key, hid_t type, const void* value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose, key);
  const Handle attribute(H5Acreate2(object, key.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose, key);
  check(H5Awrite(attribute.get(), type, value) >= 0, key);
}

void write_attribute(hid_t object, const std::string& key, const std::string& value) {
  const Handle type = string_type();
  const char* text = value.c_str();
  write_attribute(object, key, type.get(), &text);
}

void write_attribute(hid_t object, const std::string& key, const char* value) {
  write_attribute(object, key, std::string(value));
}

void write_attribute(hid_t object, const std::string& key, std::int64_t value) {
  write_attribute(object, key, H5T_NATIVE_INT64, &value);
}

void write_attribute(hid_t object, const std::string& key, double value) {
  write_attribute(object, key, H5T_NATIVE_DOUBLE, &value);
}

/// A dataset of `dimensions`; `unit` becomes an attribute where it is not empty.
void write_dataset(hid_t parent, const std::string& key, hid_t type, const std::vector<hsize_t>& dimensions,
                   const void* data, const std::string& unit) {
  const Handle space(H5Screate_simple(static_cast<int>(dimensions.size()), dimensions.data(), nullptr), H5Sclose, key);
  const Handle dataset(H5Dcreate2(parent, key.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                       H5Dclose, key);
  if (std::find(dimensions.begin(), dimensions.end(), hsize_t{0}) == dimensions.end()) {
    check(H5Dwrite(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, key);
  }
  if (!unit.empty()) write_attribute(dataset.get(), "unit", unit);
}

void write_doubles(hid_t parent, const std::string& key, const std::vector<double>& values) {
  write_dataset(parent, key, H5T_NATIVE_DOUBLE, {values.size()}, values.data(), "s");
}

Handle create_group(hid_t parent, const std::string& key) {
  return Handle(H5Gcreate2(parent, key.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Gclose, key);
}

void write_setting(hid_t file, const std::string& key, const SettingValue& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    write_attribute(file, key, *integer);
  } else if (const auto* real = std::get_if<double>(&value)) {
    write_attribute(file, key, *real);
  } else {
    write_attribute(file, key, format_setting(value));
  }
}

void write_case(hid_t file, const Result& result) {
  write_attribute(file, "schema", result.plan ? "refit.plan" : "refit.result");
  write_attribute(file, "schema_version", std::int64_t{1});
  write_attribute(file, "case", result.test_case.name);
  write_attribute(file, "description", result.test_case.description);
  write_attribute(file, "command", result.command);
  write_attribute(file, "start_time", result.start_time);
  write_attribute(file, "refit", result.environment.refit);
  write_attribute(file, "commit", result.environment.commit);
  write_attribute(file, "status", name(result.status));
  write_attribute(file, "exit_code", std::int64_t{result.exit_code});
  if (result.error) write_attribute(file, "error", result.error->message);
  if (result.model) {
    write_attribute(file, "model", result.model->source);
    write_attribute(file, "family", result.model->family);
  }
  write_attribute(file, "trainer", result.train.made_by);
  write_attribute(file, "train", result.train.layout);
  write_attribute(file, "gen", result.gen.layout);
  for (const auto& [key, value] : result.settings) write_setting(file, "settings." + key, value);
  if (result.payload) {
    write_attribute(file, "bulk_bytes", result.payload->bulk_bytes);
    write_attribute(file, "misc_bytes", result.payload->misc_bytes);
  }
  if (!result.wire) return;
  write_attribute(file, "wire_bytes", result.wire->bytes);
  write_attribute(file, "self_bytes", result.wire->self_bytes);
}

void write_samples(hid_t file, const Result& result) {
  write_doubles(file, "weight_sync", weight_sync_samples(result));
  if (!result.refits.empty()) {
    const Handle dataset(H5Dopen2(file, "weight_sync", H5P_DEFAULT), H5Dclose, "weight_sync");
    write_attribute(dataset.get(), "first", result.refits.front().weight_sync);
  }
  const Handle group = create_group(file, "phases");
  for (const auto& [phase, samples] : phase_samples(result)) write_doubles(group.get(), phase, samples);
}

void write_matrix(hid_t file, const ByteMatrix& matrix) {
  std::vector<std::int64_t> flat;
  for (const auto& row : matrix) flat.insert(flat.end(), row.begin(), row.end());
  const hsize_t columns = matrix.empty() ? 0 : matrix.front().size();
  write_dataset(file, "byte_matrix", H5T_NATIVE_INT64, {matrix.size(), columns}, flat.data(), "bytes");
}

void write_tensors(hid_t file, const Result& result) {
  std::map<std::string_view, std::int64_t> wrong;
  if (result.verification) {
    for (const WrongTensor& each : result.verification->wrong) wrong[each.tensor] += each.elements_wrong;
  }
  std::vector<const char*> names;
  std::vector<const char*> paths;
  std::vector<std::int64_t> bytes;
  std::vector<std::int64_t> elements_wrong;
  for (const MovedTensor& tensor : result.tensors) {
    names.push_back(tensor.name.c_str());
    paths.push_back(tensor.path);
    bytes.push_back(tensor.bytes);
    elements_wrong.push_back(wrong[tensor.name]);
  }
  const Handle type = string_type();
  const Handle group = create_group(file, "tensors");
  write_dataset(group.get(), "name", type.get(), {names.size()}, names.data(), "");
  write_dataset(group.get(), "path", type.get(), {paths.size()}, paths.data(), "");
  write_dataset(group.get(), "bytes", H5T_NATIVE_INT64, {bytes.size()}, bytes.data(), "bytes");
  write_dataset(group.get(), "elements_wrong", H5T_NATIVE_INT64, {elements_wrong.size()}, elements_wrong.data(), "");
}

void write_numbers(hid_t group, const std::string& key, const std::vector<std::int64_t>& values,
                   const std::string& unit) {
  write_dataset(group, key, H5T_NATIVE_INT64, {values.size()}, values.data(), unit);
}

/// Writes an entry for each engine; -1 where a number is not known.
void write_engines(hid_t file, const std::vector<Engine>& engines) {
  std::vector<const char*> names, layouts;
  std::vector<std::int64_t> ranks, payload, bytes, tensors_wrong, elements, elements_wrong;
  std::vector<double> kl;
  for (const Engine& engine : engines) {
    const auto of_proof = [&](auto member) { return engine.proof ? *engine.proof.*member : std::int64_t{-1}; };
    names.push_back(engine.group.made_by.c_str());
    layouts.push_back(engine.group.layout.c_str());
    ranks.push_back(engine.group.ranks);
    payload.push_back(engine.payload_bytes.value_or(-1));
    bytes.push_back(engine.bytes.value_or(-1));
    tensors_wrong.push_back(of_proof(&EngineProof::tensors_wrong));
    elements.push_back(of_proof(&EngineProof::elements));
    elements_wrong.push_back(of_proof(&EngineProof::elements_wrong));
    kl.push_back(engine.proof ? engine.proof->kl.max : -1);
  }
  const Handle type = string_type();
  const Handle group = create_group(file, "engines");
  write_dataset(group.get(), "engine", type.get(), {names.size()}, names.data(), "");
  write_dataset(group.get(), "layout", type.get(), {layouts.size()}, layouts.data(), "");
  write_numbers(group.get(), "ranks", ranks, "ranks");
  write_numbers(group.get(), "payload_bytes", payload, "bytes");
  write_numbers(group.get(), "bytes", bytes, "bytes");
  write_numbers(group.get(), "tensors_wrong", tensors_wrong, "");
  write_numbers(group.get(), "elements", elements, "");
  write_numbers(group.get(), "elements_wrong", elements_wrong, "");
  write_dataset(group.get(), "kl_max", H5T_NATIVE_DOUBLE, {kl.size()}, kl.data(), "nats");
}

void write_wrong(hid_t file, const std::vector<WrongTensor>& wrong, const std::vector<Engine>& engines) {
  std::vector<const char*> tensors;
  std::vector<std::int64_t> ranks;
  std::vector<std::int64_t> engine;
  std::vector<std::int64_t> counts;
  std::vector<std::int64_t> counted;
  std::vector<std::int64_t> indices(wrong.size() * kIndexColumns, -1);
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    tensors.push_back(wrong[i].tensor.c_str());
    ranks.push_back(wrong[i].gen_rank);
    engine.push_back(static_cast<std::int64_t>(engine_of(engines, wrong[i].gen_rank)));
    counts.push_back(wrong[i].elements_wrong);
    counted.push_back(wrong[i].counted ? 1 : 0);
    const auto used = static_cast<std::ptrdiff_t>(std::min(wrong[i].first_index.size(), kIndexColumns));
    std::copy_n(wrong[i].first_index.begin(), used, indices.begin() + static_cast<std::ptrdiff_t>(i * kIndexColumns));
  }
  const Handle type = string_type();
  const Handle group = create_group(file, "wrong");
  write_dataset(group.get(), "tensor", type.get(), {wrong.size()}, tensors.data(), "");
  write_dataset(group.get(), "gen_rank", H5T_NATIVE_INT64, {wrong.size()}, ranks.data(), "");
  write_dataset(group.get(), "engine", H5T_NATIVE_INT64, {wrong.size()}, engine.data(), "");
  write_dataset(group.get(), "elements_wrong", H5T_NATIVE_INT64, {wrong.size()}, counts.data(), "");
  write_dataset(group.get(), "counted", H5T_NATIVE_INT64, {wrong.size()}, counted.data(), "");
  write_dataset(group.get(), "first_index", H5T_NATIVE_INT64, {wrong.size(), kIndexColumns}, indices.data(), "");
}

}  // namespace

std::string to_hdf5(const Result& result) {
  constexpr const char* kName = "a result";
  constexpr std::size_t kGrowth = 64 << 10;
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // the thrown error says what is wrong; no stack trace on stderr
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, kName);
  check(H5Pset_fapl_core(access.get(), kGrowth, false) >= 0, kName);
  const Handle file(H5Fcreate(kName, H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose, kName);
  write_case(file.get(), result);
  write_samples(file.get(), result);
  write_matrix(file.get(), result.byte_matrix);
  write_tensors(file.get(), result);
  write_engines(file.get(), result.engines);
  write_wrong(file.get(), result.verification ? result.verification->wrong : std::vector<WrongTensor>{},
              result.engines);
  check(H5Fflush(file.get(), H5F_SCOPE_GLOBAL) >= 0, kName);
  const ssize_t bytes = H5Fget_file_image(file.get(), nullptr, 0);
  check(bytes > 0, kName);
  std::string image(static_cast<std::size_t>(bytes), '\0');
  check(H5Fget_file_image(file.get(), image.data(), image.size()) == bytes, kName);
  return image;
}

}  // namespace refit::report
