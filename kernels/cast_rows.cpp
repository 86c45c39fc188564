#include "kernels/cast_rows.hpp"

namespace refit::kernels {

#define REFIT_CAST_ROW(FROM, TO)                                                                                    \
  REFIT_HOST_VECTORS void cast_row(FROM, TO, const std::byte* source, std::byte* destination, std::int64_t count) { \
    for (std::int64_t i = 0; i < count; ++i) {                                                                      \
      store(destination, i, convert<FROM, TO>(load<FROM::Bits>(source, i)));                                        \
    }                                                                                                               \
  }
REFIT_CAST_ROW(F32, F16)
REFIT_CAST_ROW(F32, BF16)
REFIT_CAST_ROW(F16, F32)
REFIT_CAST_ROW(F16, BF16)
REFIT_CAST_ROW(BF16, F32)
REFIT_CAST_ROW(BF16, F16)
#undef REFIT_CAST_ROW

}  // namespace refit::kernels
