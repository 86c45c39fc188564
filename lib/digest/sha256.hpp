#pragma once
// SHA-256 (FIPS 180-4), fed piece by piece: the digest that vLLM's weight checker takes of a parameter's bytes.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace refit::digest {

class Sha256 {
 public:
  /// What computes it: the processor's own instructions, where it has them, or plain code.
  enum class By : std::uint8_t { instructions, plain_code };
  explicit Sha256(By by = By::instructions) : by_(by) {}

  /// Adds bytes behind those that were added before.
  void update(std::span<const std::byte> bytes);
  void update(const std::string& text) { update(std::as_bytes(std::span(text))); }
  /// Returns the digest of everything added so far: 64 hexadecimal digits. More may be added afterwards.
  std::string hex() const;

 private:
  static constexpr std::size_t kBlock = 64;

  void compress(const std::byte* data, std::size_t blocks);

  By by_;
  std::array<std::uint32_t, 8> state_{0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                                      0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
  std::array<std::byte, kBlock> pending_{};  ///< the begin of a block
  std::uint64_t bytes_ = 0;
};

}  // namespace refit::digest
