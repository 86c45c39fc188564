#pragma once
// Transport jobs made at random from a seed: tensors, layouts, precisions, and every size that decides which way data
// takes, from a few bytes upwards. The same seed makes the same job on every rank and machine.

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "support/executor_harness.hpp"
#include "support/random_layout.hpp"

namespace refit::test_support {

/// Types that source and destination store.
enum class Precisions : std::uint8_t {
  mixed,      ///< every storage bf16 or fp32, with conversions
  bf16_bf16,  ///< the rest: all storages alike
  bf16_fp32,
  fp32_bf16,
  fp32_fp32,
  fp8_fp8,        ///< copied as they are
  quantised_fp8,  ///< bf16 or fp32 weights that are quantised on the way, beside tensors that are not
  quantised_mxfp8
};
std::vector<Precisions> all_precisions();
bool is_quantised_on_the_way(Precisions precisions);
std::string to_string(Precisions precisions);

/// A job, and everything that it borrows.
class RandomTransport {
 public:
  /// `ranks`: of the world, at least 2 where the sides are apart; 0: 1 to 8 of each side.
  RandomTransport(std::uint64_t seed, Precisions precisions, int ranks = 0, bool colocated = false,
                  Changes changes = Changes::all);

  /// Returns the job for every executor; for direct without fan-out, and with it in domains of two ranks and of all,
  /// into arenas and into foreign memory.
  std::vector<TransportCase> jobs() const;
  /// Returns the job for p2p with every kind of delta, of as many refits as Changes::sparse has kinds and more, with a
  /// restart on the way; the last one has a misc path too.
  std::vector<TransportCase> deltas() const;
  /// Returns the job with a misc path too, of a part of the tensors.
  TransportCase misc() const;
  /// Describes everything that was drawn.
  std::string describe(const TransportCase& job) const;

 private:
  TransportCase on_hosts(TransportCase direct) const;
  void make_model(std::mt19937_64& random);
  void make_layouts(std::mt19937_64& random, int ranks, bool colocated);
  void draw_sizes(std::mt19937_64& random);

  std::uint64_t seed_;
  Precisions precisions_;
  model::Model model_;
  std::unique_ptr<layout::Layout> source_, destination_;
  std::unique_ptr<Truth> truth_;
  TransportCase base_;
  std::vector<model::Tensor> bulk_, misc_;
};

/// Seeds and numbers of random tests: REFIT_TRANSPORT_SEED is the first seed (else 0), REFIT_TRANSPORT_CASES the number
/// of jobs of each kind of precisions. Printed by each test.
struct RandomCases {
  explicit RandomCases(std::int64_t cases_by_default);
  std::uint64_t first = 0;
  std::int64_t count = 0;
};

}  // namespace refit::test_support
