#include "layout/names.hpp"

namespace refit::layout {
namespace {

/// Returns the name without its last `words` words and with the dot before them: "a.b." of "a.b.c.d" and 2.
std::string without_words(const std::string& name, int words) {
  std::size_t end = name.size();
  for (int i = 0; i < words && end != std::string::npos; ++i) end = name.rfind('.', end - 1);
  return end == std::string::npos ? "" : name.substr(0, end + 1);
}

}  // namespace

void replace_first(std::string& text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
}

std::string fused_name(const Parameter& parameter, const Tensor& tensor, std::string_view experts) {
  if (parameter.name.empty()) return tensor.name;
  if (parameter.experts != Experts::none) {
    constexpr std::string_view kExperts = ".experts.";
    std::string name = tensor.name.substr(0, tensor.name.find(kExperts) + kExperts.size());
    return name.append(experts) + parameter.name + parameter.suffix;
  }
  const int words = parameter.name.find('.') == std::string::npos ? 1 : 2;
  return without_words(tensor.name, words) + parameter.name + parameter.suffix;
}

}  // namespace refit::layout
