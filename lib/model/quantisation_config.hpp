#pragma once
// Parts of the reading of quantization_config. Private to lib/model.

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_file.hpp"
#include "model/model.hpp"

namespace refit::model {

inline constexpr std::size_t kLongestName = 1000;  ///< of a module, or of an expression for modules
inline constexpr char kKnownFormats[] =
    "known are fp8 (with weight_block_size [128, 128], or a scale for each tensor), mxfp8, fbgemm_fp8, mxfp4, gptq, "
    "awq, modelopt with quant_algo FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO, NVFP4, W4A16_NVFP4 or MXFP8, and "
    "compressed-tensors with format float-quantized, nvfp4-pack-quantized, mxfp4-pack-quantized, mxfp8-quantized or "
    "pack-quantized";

using Values = std::initializer_list<std::string_view>;

/// Returns a list of modules (model/modules.hpp). Entries that cannot be read are problems.
std::vector<std::string> read_modules(ConfigFile& file, std::string_view key);

/// Excepts every module but those.
void except_all_but(ConfigFile& file, std::string_view section, const std::vector<std::string>& converted,
                    Config& config);

/// Adds a problem of `section` where a key has another value than those. `why`: what else a message says.
void require_value(ConfigFile& file, std::string_view section, std::string_view key, Values values,
                   std::string_view why = "");

/// Reads the section of that name, in which `file` looks keys up.
void read_compressed_tensors(ConfigFile& file, std::string_view section, Config& config);

}  // namespace refit::model
