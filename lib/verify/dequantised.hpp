#pragma once
// The values of quantised weights, from all the parts that a rank keeps of them.

#include <cstdint>
#include <functional>

#include "verify/local_memory.hpp"

namespace refit::verify {

/// Calls with the float32 values of a piece of a quantised weight, or of its packed values, in bounded chunks: regions
/// of the weight, in the weight's own dimensions. Their memory is reused after the call. E.g. bytes [0:8, 4:8] of
/// NVFP4 become [0:8, 8:16]. Errors (usage): this rank does not store all scales or zero points of the piece; the part
/// is named.
void for_each_dequantised(const LocalMemory& local, std::int32_t piece,
                          const std::function<void(const kernels::Region&)>& with);

}  // namespace refit::verify
