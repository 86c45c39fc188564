#include "digest/forms.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.hpp"
#include "core/text.hpp"
#include "kernels/bits.hpp"
#include "kernels/quantiser.hpp"

namespace refit::digest {
namespace {

constexpr std::array<std::string_view, kForms> kNames{"refit", "vllm", "sglang", "sglang-cpu"};
constexpr std::array<std::string_view, kForms> kOrigins{
    "refit: fingerprint of the storage under its name, low and high sum",
    "vLLM 0.33.0: model_loader/weight_checksum.py, compute_tensor_digests (SHA-256 of the bytes)",
    "SGLang 0.5.23: utils/weight_checker.py, checksum of tensors on a GPU (gpu_tensor_hash)",
    "SGLang 0.5.23: utils/weight_checker.py, checksum of tensors on a CPU (8 bytes of SHA-256)"};

// Of gpu_tensor_hash.
constexpr std::int64_t kTileWords = 8192;
constexpr std::uint32_t kSeed = 0x243F6A88;
constexpr std::uint32_t kSecondSeed = static_cast<std::uint32_t>(std::uint64_t{kSeed} * 0x9E3779B1U) ^ 0xDEADBEEFU;
constexpr std::uint32_t kFirstPosition = 0x27D4EB2D;
constexpr std::uint32_t kSecondPosition = 0x165667B1;

/// Murmur3's finaliser.
inline std::uint32_t mixed(std::uint32_t x) {
  x ^= x >> 16;
  x *= 0x85EBCA6BU;
  x ^= x >> 13;
  x *= 0xC2B2AE35U;
  return x ^ (x >> 16);
}

/// splitmix64's finaliser.
std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

Shape as_rows(const Shape& shape) {
  const std::int64_t columns = shape.size() == 0 ? 1 : shape[shape.size() - 1];
  return {columns == 0 ? 0 : product(shape) / columns, columns};
}

/// Adds the hashes of words to both sums of a tile; `at`: the index of the first, in the tensor.
REFIT_HOST_VECTORS void add_hashes(const std::byte* data, std::uint32_t at, std::int64_t words, std::uint32_t& first,
                                   std::uint32_t& second) {
  std::uint32_t one = 0;
  std::uint32_t two = 0;
  for (std::int64_t i = 0; i < words; ++i) {
    const auto value = kernels::load<std::uint32_t>(data, i);
    const std::uint32_t here = at + static_cast<std::uint32_t>(i);
    one += mixed(value ^ (here * kFirstPosition + kSeed) ^ (here << 15 | here >> 17));
    two += mixed(value ^ (here * kSecondPosition + kSecondSeed) ^ (here << 13 | here >> 19));
  }
  first += one;
  second += two;
}

/// Returns what SHA-256 gives SGLang of a tensor on a CPU.
std::string short_hex(const Sha256& sum) { return sum.hex().substr(0, 16); }

}  // namespace

Choices choices(Form) { return kNames; }

std::string_view origin(Form form) { return kOrigins[static_cast<std::size_t>(form)]; }

SglangHash::SglangHash(std::int64_t bytes) : count_(static_cast<std::uint32_t>(round_up(bytes, 4))) {}

void SglangHash::update(std::span<const std::byte> bytes) {
  if (held_ > 0) {
    const std::size_t part = std::min(pending_.size() - held_, bytes.size());
    std::copy_n(bytes.begin(), part, pending_.begin() + static_cast<std::ptrdiff_t>(held_));
    held_ += part;
    bytes = bytes.subspan(part);
    if (held_ < pending_.size()) return;
    held_ = 0;
    add_words(pending_.data(), 1);
  }
  const std::size_t words = bytes.size() / 4;
  add_words(bytes.data(), static_cast<std::int64_t>(words));
  bytes = bytes.subspan(4 * words);
  std::copy(bytes.begin(), bytes.end(), pending_.begin());
  held_ = bytes.size();
}

void SglangHash::add_words(const std::byte* data, std::int64_t words) {
  for (std::int64_t done = 0; done < words;) {
    const std::int64_t part = std::min(words - done, kTileWords - word_ % kTileWords);
    add_hashes(data + 4 * done, static_cast<std::uint32_t>(word_), part, first_, second_);
    done += part;
    word_ += part;
    if (word_ % kTileWords == 0) end_tile();
  }
}

void SglangHash::end_tile() {
  sum_ += std::uint64_t{mixed(first_ ^ count_)} << 32 | mixed(second_ ^ count_);
  first_ = second_ = 0;
}

std::string SglangHash::hex() {
  if (held_ > 0) {
    std::fill(pending_.begin() + static_cast<std::ptrdiff_t>(held_), pending_.end(), std::byte{0});
    held_ = 0;
    add_words(pending_.data(), 1);
  }
  if (word_ % kTileWords != 0) end_tile();
  return fmt::format("{:016x}", word_ == 0 ? 0 : mixed(sum_));
}

std::optional<SglangScales> SglangScales::of(const Shape& weight, const Shape& scales) {
  const int d = weight.size() - 2;
  if (d < 0 || scales.size() != weight.size()) return std::nullopt;
  SglangScales result;
  result.rows = weight[d];
  result.columns = weight[d + 1];
  result.scale_rows = scales[d];
  result.scale_columns = scales[d + 1];
  if (result.scale_columns == 0 || result.columns % result.scale_columns != 0) return std::nullopt;
  result.block = result.columns / result.scale_columns;
  if (result.block == 0 || result.scale_rows * result.block < result.rows) return std::nullopt;
  for (int i = 0; i < d; ++i) {
    if (weight[i] != scales[i]) return std::nullopt;
  }
  return result;
}

void SglangScales::dequantise(std::int64_t first, std::span<const std::byte> values, std::uint16_t* out) const {
  static const std::array<float, 256> kValues = [] {
    std::array<float, 256> all{};
    for (std::size_t byte = 0; byte < all.size(); ++byte)
      all[byte] = kernels::f32_from_e4m3(static_cast<std::uint8_t>(byte));
    return all;
  }();
  std::int64_t row = first / columns;  // of all matrices
  std::int64_t column = first % columns;
  for (std::size_t i = 0; i < values.size();) {
    const std::int64_t scale_row = row / rows * scale_rows + row % rows / block;
    const std::byte* of_row = scales.data() + scale_row * scale_columns * 4;
    for (; column < columns && i < values.size(); ++column, ++i) {
      float scale = 0;
      std::memcpy(&scale, of_row + column / block * 4, sizeof(scale));
      const float value = kValues[static_cast<std::size_t>(values[i])] * scale;
      // Torch has one NaN.
      out[i] = std::isnan(value)
                   ? std::uint16_t{0x7FC0}
                   : static_cast<std::uint16_t>(kernels::bf16_from_f32(std::bit_cast<std::uint32_t>(value)));
    }
    column = 0;
    ++row;
  }
}

Digester::Digester(const kernels::ExecutionSpace& space, std::string_view name, const Shape& shape, DType dtype,
                   const Forms& forms, const std::optional<SglangScales>& scales, bool hashes_sglang)
    : space_(space),
      name_(hash_name(name)),
      dtype_(dtype),
      scales_(scales),
      shape_(as_rows(shape)),
      hash_(product(shape) * (scales ? 2 : byte_size(dtype))) {
  columns_ = shape_[1];
  for (const Form form : {Form::refit, Form::vllm}) {
    if (forms.has(form)) forms_.add(form);
  }
  for (const Form form : {Form::sglang, Form::sglang_cpu}) {
    if (forms.has(form) && hashes_sglang) forms_.add(form);
  }
}

void Digester::add(std::span<std::byte> bytes) {
  const std::int64_t elements = std::ssize(bytes) / byte_size(dtype_);
  if (elements == 0) return;
  if (forms_.has(Form::refit)) {
    const std::int64_t column = done_ % columns_;
    const std::int64_t width = std::min(elements, columns_ - column);
    REFIT_ASSERT(width == elements || (column == 0 && elements % columns_ == 0));
    const Box box{{done_ / columns_, column}, {elements / width, width}};
    const kernels::Region region{bytes.data(), dtype_, box, shape_, {width, 1}};
    kernels::fingerprint(space_, region, dtype_, Transform::none, name_, &print_);
  }
  const bool of_bytes = forms_.has(Form::vllm) || (forms_.has(Form::sglang_cpu) && !scales_);
  if (of_bytes) bytes_.update(bytes);
  if (scales_) {
    add_values(bytes);
  } else if (forms_.has(Form::sglang)) {
    hash_.update(bytes);
  }
  done_ += elements;
}

void Digester::add_values(std::span<const std::byte> bytes) {
  if (!forms_.has(Form::sglang) && !forms_.has(Form::sglang_cpu)) return;
  constexpr std::size_t kValues = std::size_t{64} << 10;
  std::vector<std::uint16_t> values(std::min(kValues, bytes.size()));
  for (std::size_t done = 0; done < bytes.size(); done += kValues) {
    const auto part = bytes.subspan(done, std::min(kValues, bytes.size() - done));
    scales_->dequantise(done_ + static_cast<std::int64_t>(done), part, values.data());
    const auto as_bytes = std::as_bytes(std::span(values).first(part.size()));
    if (forms_.has(Form::sglang)) hash_.update(as_bytes);
    if (forms_.has(Form::sglang_cpu)) values_.update(as_bytes);
  }
}

Digests Digester::finish() {
  REFIT_ASSERT(done_ == product(shape_));
  Digests digests;
  const auto set = [&](Form form, std::string text) {
    if (forms_.has(form)) digests[static_cast<std::size_t>(form)] = std::move(text);
  };
  set(Form::refit, hexadecimal(print_));
  set(Form::vllm, bytes_.hex());
  set(Form::sglang, hash_.hex());
  set(Form::sglang_cpu, short_hex(scales_ ? values_ : bytes_));
  return digests;
}

std::string sglang_overall(const std::map<std::string, std::string>& checksums) {
  Sha256 all;
  for (const auto& [name, checksum] : checksums) {
    all.update(name);
    all.update(checksum);
  }
  return all.hex();
}

}  // namespace refit::digest
