#pragma once
// The digests of one gen rank, from the checkpoint or from its dump.

#include <map>
#include <string>

#include "diagnose/dumps.hpp"
#include "digest/digest.hpp"

namespace refit::digest {

/// The parameters of a rank that SGLang's weight checker does not hash as they are.
class SglangPairs {
 public:
  explicit SglangPairs(const std::vector<Parameter>& parameters);

  /// Returns the number of the scales of an FP8 weight, or -1.
  std::int64_t scales_of(std::size_t parameter) const;
  /// Returns whether the checker has a hash of the parameter.
  bool is_hashed(std::size_t parameter) const;
  /// Returns the weights whose shape the checker refuses.
  const std::vector<std::string>& refused() const { return refused_; }

 private:
  const std::vector<Parameter>& parameters_;
  std::map<std::size_t, std::size_t> scales_;  ///< by weight
  std::map<std::size_t, std::size_t> weights_;
  std::vector<std::string> refused_;
};

/// Digests what ranks must hold. Remembers what parameters were made of: replicas are digested once.
class Expected {
 public:
  Expected(const kernels::ExecutionSpace& space, const Request& request) : space_(space), request_(request) {}
  /// Returns one parameter's digests.
  Digests of(RankContents& contents, const SglangPairs& pairs, std::size_t parameter);

 private:
  const kernels::ExecutionSpace& space_;
  const Request& request_;
  std::map<std::string, Digests> known_;  ///< by digest of description
};

/// Returns the digests of a parameter in a dump, which has it as it must be.
Digests of_dump(const kernels::ExecutionSpace& space, const Request& request, const diagnose::Dumps& dumps, Rank rank,
                const std::vector<Parameter>& parameters, const SglangPairs& pairs, std::size_t parameter);

}  // namespace refit::digest
