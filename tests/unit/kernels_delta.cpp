// Deltas of blocks, element by element against what was changed, however blocks lie at either end.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <deque>

#include "kernels/delta.hpp"
#include "kernels/kernels.hpp"
#include "kernels/memory.hpp"
#include "unit/kernels_random.hpp"

namespace refit::kernels {
namespace {

using namespace kernels_test;

constexpr DeltaForm kForms[] = {DeltaForm::dense, DeltaForm::index, DeltaForm::bitmap};

/// Which elements change.
enum class Pattern : std::uint8_t { none, all, first, last, some, few };

bool changes(Pattern pattern, std::int64_t element, std::int64_t elements, Random& random) {
  switch (pattern) {
    case Pattern::none: return false;
    case Pattern::all: return true;
    case Pattern::first: return element == 0;
    case Pattern::last: return element == elements - 1;
    case Pattern::some: return pick(random, 0, 2) == 0;
    case Pattern::few: return pick(random, 0, 99) == 0;
  }
  return false;
}

/// One block at a source, where it is kept, and at a destination.
struct Case {
  Extents extent, strides, kept_strides, destination_strides;
  DType from = DType::bf16, to = DType::bf16;
  Transform transform = Transform::none;
  Bytes source, kept, destination;
  std::int64_t changed = 0;

  DeltaBlock sent() { return {source.data(), kept.data(), extent, strides, kept_strides, from, from, Transform::none}; }
  DeltaBlock received() { return {destination.data(), nullptr, extent, destination_strides, {}, from, to, transform}; }
};

Case make_case(Random& random, const Extents& extent, DType from, DType to, Transform transform, Pattern pattern) {
  Case one{extent,
           random_strides(random, extent),
           random_strides(random, extent),
           random_strides(random, extent),
           from,
           to,
           transform,
           {},
           {},
           {},
           0};
  if (pick(random, 0, 1) == 0) one.strides = row_major_strides(extent);
  if (pick(random, 0, 1) == 0) one.kept_strides = row_major_strides(extent);
  one.source = random_memory(random, extent, one.strides, from);
  one.kept = random_memory(random, extent, one.kept_strides, from);
  one.destination = random_memory(random, extent, one.destination_strides, to);
  for_each_index(extent, [&](const Extents& index, std::int64_t element) {
    const std::int64_t at = offset_of(index, one.strides);
    const std::uint64_t bits = read_bits(one.source.data(), at, from);
    const bool is_changed = changes(pattern, element, product(extent), random);
    one.changed += is_changed ? 1 : 0;
    // A sign, a lowest bit, or any other: also of zeros, infinities and NaN, which comparing values would miss.
    const std::uint64_t flip = std::uint64_t{1} << pick(random, 0, 8 * byte_size(from) - 1);
    write_bits(one.kept.data(), offset_of(index, one.kept_strides), from, is_changed ? bits ^ flip : bits);
  });
  return one;
}

std::uint64_t converted(const Case& one, std::uint64_t bits) {
  if (one.from == one.to && one.transform == Transform::none) return bits;
  return convert_bits(static_cast<std::uint32_t>(bits), one.from, one.to, one.transform);
}

/// Runs blocks through every step in one table, each in the form that `form_of` returns.
template <typename FormOf>
void run(std::deque<Case>& cases, const FormOf& form_of, const std::string& what) {
  const ExecutionSpace space(Runtime::has_device() ? 1 : 2);
  std::vector<DeltaBlock> sent, received;
  for (Case& one : cases) {
    sent.push_back(one.sent());
    received.push_back(one.received());
  }
  const DeltaTable source(space, sent), destination(space, received);
  const SharedBuffer counts_memory(std::ssize(cases) * 4);
  auto* counts = reinterpret_cast<std::uint32_t*>(counts_memory.data());
  source.count(space, counts);
  space.fence();

  std::int64_t bytes = 0;
  std::vector<DeltaJob> jobs;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    ASSERT_EQ(counts[i], cases[i].changed) << what << ", block " << i << " " << to_string(cases[i].extent);
    if (counts[i] == 0) continue;
    jobs.push_back({nullptr, static_cast<std::uint32_t>(i), counts[i], form_of(i)});
    bytes += delta_bytes(jobs.back().form, product(cases[i].extent), counts[i], byte_size(cases[i].from));
  }
  constexpr std::byte kGuard{0xA5};
  const SharedBuffer wire(bytes + kDeltaAlignment);
  std::ranges::fill(wire.span(), kGuard);
  const SharedBuffer job_memory(std::max<std::int64_t>(1, std::ssize(jobs)) * std::int64_t{sizeof(DeltaJob)});
  auto* shared = reinterpret_cast<DeltaJob*>(job_memory.data());
  std::byte* next = wire.data();
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    shared[i] = jobs[i];
    shared[i].wire = next;
    const Case& one = cases[jobs[i].block];
    next += delta_bytes(jobs[i].form, product(one.extent), jobs[i].changed, byte_size(one.from));
  }
  const std::span<const DeltaJob> all(shared, jobs.size());
  source.encode(space, all);
  space.fence();
  EXPECT_EQ(std::ranges::count(wire.span().subspan(static_cast<std::size_t>(bytes)), kGuard), kDeltaAlignment) << what;

  std::vector<Bytes> expected;
  for (Case& one : cases) {
    Bytes image = one.destination;
    for_each_index(one.extent, [&](const Extents& index, std::int64_t) {
      const std::uint64_t bits = read_bits(one.source.data(), offset_of(index, one.strides), one.from);
      const std::uint64_t kept = read_bits(one.kept.data(), offset_of(index, one.kept_strides), one.from);
      const auto job = std::ranges::find_if(jobs, [&](const DeltaJob& each) { return &cases[each.block] == &one; });
      const bool comes = job != jobs.end() && (bits != kept || job->form == DeltaForm::dense);
      if (comes) write_bits(image.data(), offset_of(index, one.destination_strides), one.to, converted(one, bits));
    });
    expected.push_back(std::move(image));
  }
  destination.decode(space, all);
  space.fence();
  for (std::size_t i = 0; i < cases.size(); ++i)
    ASSERT_EQ(cases[i].destination, expected[i]) << what << ", block " << i << " " << to_string(cases[i].extent);

  source.keep(space, counts);
  space.fence();
  source.count(space, counts);
  space.fence();
  for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(counts[i], 0) << what << ", block " << i;
  // All of it, whatever was counted.
  for (Case& one : cases) write_bits(one.kept.data(), 0, one.from, ~read_bits(one.kept.data(), 0, one.from));
  source.keep(space, nullptr);
  space.fence();
  source.count(space, counts);
  space.fence();
  for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_EQ(counts[i], 0) << what << ", block " << i << ", all kept";
}

TEST(Delta, BringsWhatChangedInEveryForm) {
  Random random(1);
  for (const DType dtype : kAllTypes) {
    for (const Pattern pattern :
         {Pattern::none, Pattern::all, Pattern::first, Pattern::last, Pattern::some, Pattern::few}) {
      for (const DeltaForm form : kForms) {
        std::deque<Case> cases;
        for (int i = 0; i < 8; ++i) {
          const Extents extent = random_extent(random, static_cast<int>(pick(random, 0, 4)), 12);
          cases.push_back(make_case(random, extent, dtype, dtype, Transform::none, pattern));
        }
        run(
            cases, [&](std::size_t) { return form; }, std::string(name(dtype)));
      }
    }
  }
}

TEST(Delta, BringsLargeBlocks) {
  Random random(2);
  const Extents extents[] = {{65536}, {1, 65535}, {16, 4096}, {64, 1000}, {3, 5, 7, 600}, {4095}, {1025}, {2, 1024}};
  for (const DType dtype : {DType::bf16, DType::f32, DType::u8}) {
    for (const DeltaForm form : kForms) {
      std::deque<Case> cases;
      for (const Extents& extent : extents)
        cases.push_back(make_case(random, extent, dtype, dtype, Transform::none, Pattern::few));
      run(
          cases, [&](std::size_t) { return form; }, std::string(name(dtype)));
    }
  }
}

TEST(Delta, ConvertsWhatChanged) {
  Random random(3);
  for (const DType from : kCastable) {
    for (const DType to : kCastable) {
      for (const Transform transform : {Transform::none, Transform::add_one, Transform::negative_exp}) {
        std::deque<Case> cases;
        for (int i = 0; i < 6; ++i) {
          const Extents extent = random_extent(random, static_cast<int>(pick(random, 1, 3)), 20);
          cases.push_back(make_case(random, extent, from, to, transform, Pattern::some));
        }
        run(
            cases, [&](std::size_t i) { return kForms[i % 3]; },
            fmt::format("{} to {}, transform {}", name(from), name(to), static_cast<int>(transform)));
      }
    }
  }
}

TEST(Delta, OneTableHasBlocksOfAllTypesAndForms) {
  Random random(4);
  for (int round = 0; round < 20; ++round) {
    std::deque<Case> cases;
    std::vector<DeltaForm> forms;
    for (int i = 0; i < 40; ++i) {
      const DType dtype = kAllTypes[pick(random, 0, std::ssize(kAllTypes) - 1)];
      const Extents extent = random_extent(random, static_cast<int>(pick(random, 1, 4)), 9);
      cases.push_back(
          make_case(random, extent, dtype, dtype, Transform::none, static_cast<Pattern>(pick(random, 0, 5))));
      forms.push_back(kForms[pick(random, 0, 2)]);
    }
    run(
        cases, [&](std::size_t i) { return forms[i]; }, fmt::format("round {}", round));
  }
}

}  // namespace
}  // namespace refit::kernels
