#pragma once
// Digests of one parameter as an engine stores it, in refit's form and in those of the engines' own weight checkers.
//
//   refit       kernels::fingerprint of the storage by itself, under its name: 128 bits, position-dependent.
//   vllm        vLLM 0.33.0, model_executor/model_loader/weight_checksum.py, compute_tensor_digests: SHA-256 of the
//               bytes of the contiguous tensor (POST /weight_checker).
//   sglang      SGLang 0.5.23, srt/utils/weight_checker.py, _hash_tensor of a tensor on a GPU (kernels/ops/memory/
//               gpu_tensor_hash.py): 64 bits, position-dependent (/weights_checker).
//   sglang-cpu  the same of a tensor on a CPU (srt/managers/mm_utils.py, tensor_hash): the first 8 bytes of SHA-256.
//
// SGLang hashes weights in FP8 with block scales as the bf16 values that they stand for, and has no digest of their
// scales (srt/utils/weight_checker_comparator.py, Fp8BlockComparable).

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/choice.hpp"
#include "core/dtype.hpp"
#include "core/hash.hpp"
#include "digest/sha256.hpp"
#include "kernels/kernels.hpp"

namespace refit::digest {

enum class Form : std::uint8_t { refit, vllm, sglang, sglang_cpu };
inline constexpr int kForms = 4;
Choices choices(Form);
/// Returns the version and function that a form is that of.
std::string_view origin(Form form);

/// Some of the forms.
class Forms {
 public:
  constexpr bool has(Form form) const { return has_[static_cast<std::size_t>(form)]; }
  constexpr void add(Form form) { has_[static_cast<std::size_t>(form)] = true; }
  static constexpr Forms all() {
    Forms forms;
    forms.has_.fill(true);
    return forms;
  }

 private:
  std::array<bool, kForms> has_{};
};

/// The digests of a parameter; empty: not asked for, or the engine's checker has none.
using Digests = std::array<std::string, kForms>;
inline const std::string& digest_of(const Digests& digests, Form form) {
  return digests[static_cast<std::size_t>(form)];
}

/// SGLang's hash on a GPU, piece by piece. Its 32-bit words go in tiles of 8,192, each with a hash of its own that the
/// count of all bytes is part of; the hash is made of the sum of the tiles'.
class SglangHash {
 public:
  /// `bytes`: of the whole tensor.
  explicit SglangHash(std::int64_t bytes);
  void update(std::span<const std::byte> bytes);
  /// Returns 16 hexadecimal digits. Call once, when all bytes have been added.
  std::string hex();

 private:
  void add_words(const std::byte* data, std::int64_t words);
  void end_tile();

  std::uint32_t count_ = 0;  ///< of bytes, padded to words
  std::int64_t word_ = 0;    ///< the next one's index
  std::uint32_t first_ = 0, second_ = 0;
  std::uint64_t sum_ = 0;
  std::array<std::byte, 4> pending_{};
  std::size_t held_ = 0;
};

/// The scales of an FP8 weight [..., rows, columns], as SGLang's checker multiplies with them: it takes blocks to be
/// square, and as wide as the weight has columns for each column of scales.
struct SglangScales {
  std::int64_t block = 0;
  std::int64_t rows = 0, columns = 0;              ///< of a matrix of the weight
  std::int64_t scale_rows = 0, scale_columns = 0;  ///< of a matrix of scales
  std::span<const std::byte> scales;               ///< float32

  /// Returns the scales without their values; nothing where the checker refuses the shapes.
  static std::optional<SglangScales> of(const Shape& weight, const Shape& scales);
  /// Writes the values, as bf16, of elements first .. of the weight: value x scale in float32, then rounded to bf16.
  void dequantise(std::int64_t first, std::span<const std::byte> values, std::uint16_t* out) const;
};

/// Takes all digests of a storage, of which it is given the elements in order.
class Digester {
 public:
  /// `scales`: of a weight that SGLang's checker hashes dequantised. `hashes_sglang`: false where the checker has no
  /// hash of the parameter. Keeps a reference to `space`.
  Digester(const kernels::ExecutionSpace& space, std::string_view name, const Shape& shape, DType dtype,
           const Forms& forms, const std::optional<SglangScales>& scales, bool hashes_sglang);

  /// Adds elements that follow those before: whole rows (of the last dimension), or a part of one. The bytes are where
  /// both the host and kernels see them.
  void add(std::span<std::byte> bytes);
  /// Returns the digests. Call once, when all elements have been added.
  Digests finish();

 private:
  void add_values(std::span<const std::byte> bytes);

  const kernels::ExecutionSpace& space_;
  std::uint64_t name_;
  std::int64_t columns_;
  DType dtype_;
  Forms forms_;
  std::optional<SglangScales> scales_;
  Shape shape_;  ///< [rows, columns]
  std::int64_t done_ = 0;
  Sum128 print_;
  Sha256 bytes_, values_;
  SglangHash hash_;
};

/// Returns SGLang's checksum of all parameters of a rank (per_gpu_checksum), by name.
std::string sglang_overall(const std::map<std::string, std::string>& checksums);

}  // namespace refit::digest
