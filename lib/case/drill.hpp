#pragma once
// What befalls the engines of a run between its refits (run.drill), worked out: the refits in which each takes part.
//
// Example, of two engines and five refits: "kill engine 1 after refit 2; rejoin before refit 4" gives engine 0 one
// life, refits 1 to 5, and engine 1 two of them, 1 to 2 and 4 to 5.

#include <cstdint>
#include <string>
#include <vector>

namespace refit::cases {

/// The refits in which an engine takes part from when it is made until it is killed, or the run ends.
struct Life {
  std::int64_t first = 1;
  std::int64_t last = 0;
  friend bool operator==(const Life&, const Life&) = default;
};

/// The lives of all engines, each in order. Refits count from 1.
class Drill {
 public:
  /// Returns a drill in which nothing happens.
  Drill(std::size_t engines, std::int64_t refits) : refits_(refits), lives_(engines, {{1, refits}}) {}

  std::size_t engines() const { return lives_.size(); }
  std::int64_t refits() const { return refits_; }
  const std::vector<Life>& lives(std::size_t engine) const { return lives_[engine]; }
  std::vector<Life>& lives(std::size_t engine) { return lives_[engine]; }

  /// Returns whether an engine takes part in a refit, by its own words.
  bool takes_part(std::size_t engine, std::int64_t refit) const;
  /// Returns whether an engine is made between the refit before and this one: for refit 1, whether it is there.
  bool joins(std::size_t engine, std::int64_t refit) const;
  /// Returns whether an engine is killed between the refit before and this one.
  bool dies(std::size_t engine, std::int64_t refit) const;
  /// Returns whether an engine that joins before this refit has taken part in earlier ones.
  bool is_new_life(std::size_t engine, std::int64_t refit) const;
  /// Returns whether some engine is made anew in the course of the run.
  bool has_new_life() const;
  /// Returns the refits in which no engine takes part.
  std::vector<std::int64_t> idle() const;

 private:
  std::int64_t refits_;
  std::vector<std::vector<Life>> lives_;
};

/// A drill as it was read, and everything that is wrong with it, as sentences. Where there is any, the drill is of no
/// use.
struct DrillText {
  Drill drill;
  std::vector<std::string> wrong;
};

/// Reads clauses with a `;` between them, those of an engine in the order in which they happen:
///
///   kill engine N after refit R       restart engine N after refit R        it is made anew before refit R + 1
///   join engine N before refit R      rejoin engine N before refit R        without "engine N": that of the clause
///   before
///
/// A join of an engine that was not killed before makes it late: it is not there from the beginning. An empty text is a
/// drill in which nothing happens.
DrillText read_drill(const std::string& text, std::size_t engines, std::int64_t refits);

}  // namespace refit::cases
