#include "checkpoint/hdf5_types.hpp"

#include <array>
#include <vector>

namespace refit::checkpoint {
namespace {

constexpr const char* kAttribute = "dtype";
constexpr std::size_t kLongestName = 64;
constexpr std::array kNative{DType::f64, DType::f32, DType::f16, DType::i64, DType::i32, DType::i16,
                             DType::i8,  DType::u64, DType::u32, DType::u16, DType::u8};

/// Returns IEEE half precision, as h5py and NumPy write it; HDF5 has no predefined name for it before 1.14.4.
Hdf5Handle half_type() {
  Hdf5Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  H5Tset_fields(type.get(), 15, 10, 5, 0, 10);
  H5Tset_size(type.get(), 2);
  H5Tset_ebias(type.get(), 15);
  return type;
}

hid_t predefined(DType dtype) {
  switch (dtype) {
    case DType::f64: return H5T_IEEE_F64LE;
    case DType::f32: return H5T_IEEE_F32LE;
    case DType::i64: return H5T_STD_I64LE;
    case DType::i32: return H5T_STD_I32LE;
    case DType::i16: return H5T_STD_I16LE;
    case DType::i8: return H5T_STD_I8LE;
    case DType::u64: return H5T_STD_U64LE;
    case DType::u32: return H5T_STD_U32LE;
    case DType::bf16:
    case DType::f16:
    case DType::u16: return H5T_STD_U16LE;
    case DType::f8_e4m3:
    case DType::f8_e5m2:
    case DType::f8_e8m0:
    case DType::boolean:
    case DType::u8: return H5T_STD_U8LE;
  }
  return H5I_INVALID_HID;
}

std::string read_fixed(hid_t attribute, hid_t type) {
  std::vector<char> text(H5Tget_size(type) + 1, '\0');
  if (text.size() > kLongestName || H5Aread(attribute, type, text.data()) < 0) return "";
  return text.data();
}

std::string read_variable(hid_t attribute, hid_t type) {
  char* text = nullptr;
  if (H5Aread(attribute, type, &text) < 0 || text == nullptr) return "";
  std::string result(text);
  H5free_memory(text);
  return result;
}

}  // namespace

Hdf5Handle hdf5_type(DType dtype) {
  return dtype == DType::f16 ? half_type() : Hdf5Handle(H5Tcopy(predefined(dtype)), H5Tclose);
}

bool needs_attribute(DType dtype) {
  for (DType native : kNative) {
    if (native == dtype) return false;
  }
  return true;
}

std::optional<DType> native_dtype(hid_t type) {
  for (DType dtype : kNative) {
    if (H5Tequal(type, hdf5_type(dtype).get()) > 0) return dtype;
  }
  return std::nullopt;
}

std::optional<std::string> read_dtype_attribute(hid_t dataset) {
  const htri_t exists = H5Aexists(dataset, kAttribute);
  if (exists == 0) return std::nullopt;
  const Hdf5Handle attribute(exists < 0 ? H5I_INVALID_HID : H5Aopen(dataset, kAttribute, H5P_DEFAULT), H5Aclose);
  const Hdf5Handle type(attribute ? H5Aget_type(attribute.get()) : H5I_INVALID_HID, H5Tclose);
  const Hdf5Handle space(attribute ? H5Aget_space(attribute.get()) : H5I_INVALID_HID, H5Sclose);
  if (!type || !space || H5Tget_class(type.get()) != H5T_STRING || H5Sget_simple_extent_npoints(space.get()) != 1) {
    return "";
  }
  return H5Tis_variable_str(type.get()) > 0 ? read_variable(attribute.get(), type.get())
                                            : read_fixed(attribute.get(), type.get());
}

bool write_dtype_attribute(hid_t dataset, DType dtype) {
  const std::string text(name(dtype));
  const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), text.size());
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Hdf5Handle attribute(H5Acreate2(dataset, kAttribute, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT),
                             H5Aclose);
  return attribute && H5Awrite(attribute.get(), type.get(), text.data()) >= 0;
}

}  // namespace refit::checkpoint
