#pragma once
// The two sides of a refit as somebody asked for them: a trainer and one or several engines with their options, and
// what is wrong with them whatever the model.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/complaints.hpp"
#include "core/stored_format.hpp"
#include "core/world.hpp"
#include "layout/side.hpp"

namespace refit::pair {

struct Sides {
  /// Makes sides of the first trainer and the first engine.
  Sides();

  layout::Side train;
  /// The engines of the gen side, whose ranks follow each other.
  std::vector<layout::Side> gen;

  /// Keys that somebody gave, with the place for messages: "refit.streams" -> "case.toml:12:3". Those of engines have
  /// the names of `key_of_engine`.
  GivenKeys given;

  /// Returns the first engine: for what all engines have in common (`check_sides` sees to it), as the form of weights.
  const layout::SideSpec& engine() const { return *gen.front(); }
  std::int64_t train_ranks() const { return train->sizes().ranks(); }
  std::int64_t gen_ranks() const;
  /// Returns which ranks of the two sides the processes are.
  WorldMap world(bool colocated) const;
  /// Returns the engines' layouts, "TP4+DP4".
  std::string gen_layout() const;
  std::vector<layout::Parallelism> gen_sizes() const;
  /// Returns the largest TP of an engine.
  std::int64_t gen_tp() const;
};

/// Returns the name of an engine's key "gen.KEY" among so many engines: "gen.KEY", or "gen.1.KEY".
std::string key_of_engine(const std::string& key, std::size_t engine, std::size_t engines);

/// Returns "engine 1: ", which messages about one of several engines begin with; empty where there is one.
std::string name_of_engine(std::size_t engine, std::size_t engines);

/// Completes both sides. Errors (usage): those of files that sides read for it.
void complete(Sides& sides);

/// Adds everything that is wrong with complete sides by themselves: keys that mean nothing to them, contradictions,
/// engines that want unlike weights.
void check_sides(const Sides& sides, Complaints& complaints);

/// Returns the quantiser whose bits gen gets, where precision changes on the way to it (from bf16, fp16 or fp32 to a
/// quantised one); nothing elsewhere. The sides have no complaints.
std::optional<Library> quantiser_of(const Sides& sides);

/// Throws (usage) for precisions between which nothing converts. `where`: added to the advice.
void require_precisions(const Sides& sides, std::string_view where = {});

/// Throws (usage) for keys that mean nothing for the model, e.g. gen.moe_backend of a dense one.
void validate_for_model(const Sides& sides, const model::Model& model);

/// Returns a refusal, with the page that explains its rules where it has numbers of rules.
std::string with_reference(std::string text);

}  // namespace refit::pair
