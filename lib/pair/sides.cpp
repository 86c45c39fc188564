#include "pair/sides.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "gen/engines.hpp"
#include "train/trainers.hpp"

namespace refit::pair {
namespace {

/// Refuses keys of the section that were given and mean nothing to its side.
void check_section(const GivenKeys& given, const std::string& section, const layout::SideSpec& side,
                   Complaints& complaints) {
  for (const auto& [key, place] : given) {
    const bool chooses = key == "train.trainer" || key == "gen.engine";
    if (!key.starts_with(section) || side.find_key(key) != nullptr || (chooses && !side.row().keys().empty())) continue;
    complaints.meaningless({key}, fmt::format("with {}", side.row().chosen_by));
  }
}

/// Returns the given keys as they would be if the engine were the only one.
GivenKeys given_to_engine(const Sides& c, std::size_t engine) {
  GivenKeys given;
  const std::string own = key_of_engine("gen.", engine, c.gen.size());
  for (const auto& [key, place] : c.given) {
    if (key.starts_with(own)) given.emplace("gen." + key.substr(own.size()), place);
    if (!key.starts_with("gen.")) given.emplace(key, place);
  }
  return given;
}

/// Calls check(engine, given keys, complaints) for each engine.
template <typename Check>
void check_engines(const Sides& c, Complaints& complaints, const Check& check) {
  for (std::size_t e = 0; e < c.gen.size(); ++e) {
    const GivenKeys given = given_to_engine(c, e);
    Complaints mine(given, name_of_engine(e, c.gen.size()));
    check(*c.gen[e], given, mine);
    complaints.take(mine);
  }
}

/// Requires that weights go to all engines in one form: train makes it once.
void check_alike(const Sides& c, Complaints& complaints) {
  const layout::SideSpec& first = c.engine();
  const auto scales = [](const layout::SideSpec& engine) {
    const layout::SideKey* key = engine.has_cache_scales() ? engine.find_key("gen.kv_scales") : nullptr;
    return key == nullptr ? std::string() : key->get(engine);
  };
  const bool all_read_it =
      std::ranges::all_of(c.gen, [](const layout::Side& side) { return side->find_key("gen.kv_cache_dtype"); });
  const char* cache_for_all =
      all_read_it ? "all engines one FP8 KV cache, or none" : "no engine an FP8 KV cache, which not all of them have";
  check_engines(c, complaints, [&](const layout::SideSpec& engine, const GivenKeys&, Complaints& mine) {
    mine.require(engine.precision() == first.precision(), "gen.precision",
                 "is not that of engine 0: train sends all engines the same weights; give all engines one precision");
    mine.require(
        engine.precision() != first.precision() || engine.quantiser() == first.quantiser(), "gen.quantiser",
        "is not that of engine 0: weights are quantised once, for all engines; give all engines one quantiser");
    mine.require(engine.has_cache_scales() == first.has_cache_scales() && scales(engine) == scales(first),
                 "gen.kv_cache_dtype",
                 fmt::format("is not that of engine 0, or has other scales (gen.kv_scales): give {}", cache_for_all));
  });
}

}  // namespace

Sides::Sides() : train(train::trainers().front()->make()) { gen.emplace_back(gen::engines().front()->make()); }

std::int64_t Sides::gen_ranks() const {
  std::int64_t ranks = 0;
  for (const layout::Side& side : gen) ranks += side->sizes().ranks();
  return ranks;
}

WorldMap Sides::world(bool colocated) const {
  return {static_cast<std::int32_t>(train_ranks()), static_cast<std::int32_t>(gen_ranks()), colocated};
}

std::string Sides::gen_layout() const {
  std::vector<std::string> layouts;
  for (const layout::Side& engine : gen) layouts.push_back(to_string(engine->sizes()));
  return fmt::format("{}", fmt::join(layouts, "+"));
}

std::vector<layout::Parallelism> Sides::gen_sizes() const {
  std::vector<layout::Parallelism> sizes;
  for (const layout::Side& engine : gen) sizes.push_back(engine->sizes());
  return sizes;
}

std::int64_t Sides::gen_tp() const {
  std::int64_t most = 1;
  for (const layout::Side& engine : gen) most = std::max(most, engine->sizes().tp);
  return most;
}

std::string key_of_engine(const std::string& key, std::size_t engine, std::size_t engines) {
  constexpr std::string_view kSection = "gen.";
  return engines == 1 ? key : fmt::format("gen.{}.{}", engine, key.substr(kSection.size()));
}

std::string name_of_engine(std::size_t engine, std::size_t engines) {
  return engines == 1 ? "" : fmt::format("engine {}: ", engine);
}

void complete(Sides& c) {
  c.train->complete();
  for (layout::Side& side : c.gen) side->complete();
}

void check_sides(const Sides& c, Complaints& complaints) {
  check_section(c.given, "train.", *c.train, complaints);
  c.train->check(complaints, c.engine());
  check_engines(c, complaints, [&](const layout::SideSpec& engine, const GivenKeys& given, Complaints& mine) {
    check_section(given, "gen.", engine, mine);
    engine.check(mine, *c.train);
  });
  check_alike(c, complaints);
}

std::optional<Library> quantiser_of(const Sides& c) {
  const std::optional<layout::Precision> train = c.train->precision();
  return train && is_quantised(*train) ? std::nullopt : c.engine().quantiser();
}

void require_precisions(const Sides& c, std::string_view where) {
  const std::optional<layout::Precision> train = c.train->precision();
  const std::optional<layout::Precision> gen = c.engine().precision();
  if (!train || !gen || !is_quantised(*train) || *gen == *train) return;
  Complaints complaints(c.given);
  complaints.add("train.precision",
                 fmt::format("{0} weights are copied as they are: {0} -> {1} is not possible; set gen.precision = "
                             "{0}, or train.precision = bf16{2}",
                             name(*train), name(*gen), where));
  fail_usage("{}", complaints.texts().front());
}

void validate_for_model(const Sides& c, const model::Model& model) {
  Complaints complaints(c.given);
  c.train->check_model(complaints, model);
  check_engines(c, complaints, [&](const layout::SideSpec& engine, const GivenKeys&, Complaints& mine) {
    engine.check_model(mine, model);
  });
  if (!complaints.texts().empty()) fail_usage("{}", fmt::join(complaints.texts(), "; "));
}

std::string with_reference(std::string text) {
  if (text.find("[V") == std::string::npos && text.find("[L") == std::string::npos) return text;
  const bool is_one_line = text.find('\n') == std::string::npos;
  return text + (is_one_line ? " " : "\n  ") + "(docs/layouts.md has the rules by number)";
}

}  // namespace refit::pair
