#include "kernels/part_rows.hpp"

namespace refit::kernels {

REFIT_MXFP4_QUANTISERS(REFIT_DEFINE_STRETCHES)

}  // namespace refit::kernels
