#pragma once
// Checks whether a dump is of the layout that the user says, from names, shapes and dtypes alone.

#include <string>

#include "case/setup.hpp"
#include "diagnose/dumps.hpp"

namespace refit::diagnose {

/// Elements of the parameters that gen's layout has on all ranks.
struct Fit {
  std::int64_t elements = 0;
  std::int64_t missing = 0;                        ///< of parameters that are not in the dump
  std::int64_t misshaped = 0;                      ///< of parameters that have another shape or dtype there
  bool all_shapes = true;                          ///< no dtype is wrong among them
  std::string missing_example, misshaped_example;  ///< the first ones; the latter with its error
};

Fit fit_of(const cases::Setup& setup, const Dumps& gen);

/// Returns the layout of as many gen ranks, with nothing else changed, that a dump fits in every parameter: "TP1xDP2";
/// empty where there is none.
std::string fitting_layout(const cases::Setup& setup, const Dumps& gen);

}  // namespace refit::diagnose
