#include "digest/expected.hpp"

#include <algorithm>

namespace refit::digest {
namespace {

/// Returns the name that SGLang's checker looks for beside a weight's, in the module that has both.
std::string scale_name(const std::string& weight) {
  constexpr std::string_view kWeight = "weight";
  std::string name = weight;
  const std::size_t module = name.rfind('.') == std::string::npos ? 0 : name.rfind('.') + 1;
  for (std::size_t at = name.find(kWeight, module); at != std::string::npos;) {
    name.insert(at + kWeight.size(), "_scale_inv");
    at = name.find(kWeight, at + kWeight.size() + std::string_view("_scale_inv").size());
  }
  return name;
}

std::optional<SglangScales> scales_of(const Parameter& weight, const Parameter& scales,
                                      const kernels::SharedBuffer& values) {
  std::optional<SglangScales> result = SglangScales::of(weight.storage.shape, scales.storage.shape);
  if (result) result->scales = values.span();
  return result;
}

/// The forms of a parameter: what is derived is one to vLLM (replace_parameter of W_UK_T), but not to SGLang (w_kc).
Forms forms_of(const Forms& asked, const Parameter& parameter) {
  if (parameter.kind != Kind::derived) return asked;
  Forms forms;
  for (const Form form : {Form::refit, Form::vllm}) {
    if (asked.has(form)) forms.add(form);
  }
  return forms;
}

}  // namespace

SglangPairs::SglangPairs(const std::vector<Parameter>& parameters) : parameters_(parameters) {
  std::map<std::string, std::size_t> by_name;
  for (std::size_t i = 0; i < parameters.size(); ++i) by_name.emplace(parameters[i].storage.name, i);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const layout::Storage& weight = parameters[i].storage;
    if (weight.dtype != DType::f8_e4m3 || !weight.name.ends_with("weight")) continue;
    const auto found = by_name.find(scale_name(weight.name));
    if (found == by_name.end() || parameters[found->second].storage.dtype != DType::f32) continue;
    scales_.emplace(i, found->second);
    weights_.emplace(found->second, i);
    const Shape& shape = parameters[found->second].storage.shape;
    if (!SglangScales::of(weight.shape, shape))
      refused_.push_back(fmt::format("{} {} with scales {}", weight.name, to_string(weight.shape), to_string(shape)));
  }
}

std::int64_t SglangPairs::scales_of(std::size_t parameter) const {
  const auto found = scales_.find(parameter);
  return found == scales_.end() ? -1 : static_cast<std::int64_t>(found->second);
}

bool SglangPairs::is_hashed(std::size_t parameter) const {
  if (weights_.contains(parameter)) return false;
  const std::int64_t scales = scales_of(parameter);
  return scales < 0 || SglangScales::of(parameters_[parameter].storage.shape,
                                        parameters_[static_cast<std::size_t>(scales)].storage.shape);
}

Digests Expected::of(RankContents& contents, const SglangPairs& pairs, std::size_t parameter) {
  const Parameter& what = contents.parameters()[parameter];
  const Forms forms = forms_of(request_.forms, what);
  const bool hashes = forms.has(Form::sglang) || forms.has(Form::sglang_cpu);
  const std::int64_t scales = hashes ? pairs.scales_of(parameter) : -1;
  Sha256 description;
  description.update(contents.description(parameter));
  if (scales >= 0) description.update(contents.description(static_cast<std::size_t>(scales)));
  const auto [known, is_new] = known_.try_emplace(description.hex());
  if (!is_new) return known->second;
  const layout::Storage& storage = what.storage;
  kernels::SharedBuffer values;
  std::optional<SglangScales> dequantised;
  if (scales >= 0 && pairs.is_hashed(parameter)) {
    values = contents.whole(static_cast<std::size_t>(scales));
    dequantised = digest::scales_of(what, contents.parameters()[static_cast<std::size_t>(scales)], values);
  }
  Digester digester(space_, storage.name, storage.shape, storage.dtype, forms, dequantised, pairs.is_hashed(parameter));
  contents.stream(parameter, request_.chunk_bytes, [&](std::span<std::byte> bytes) { digester.add(bytes); });
  return known->second = digester.finish();
}

Digests of_dump(const kernels::ExecutionSpace& space, const Request& request, const diagnose::Dumps& dumps, Rank rank,
                const std::vector<Parameter>& parameters, const SglangPairs& pairs, std::size_t parameter) {
  const Parameter& what = parameters[parameter];
  const layout::Storage& storage = what.storage;
  const std::int64_t scales = pairs.scales_of(parameter);
  kernels::SharedBuffer values;
  std::optional<SglangScales> dequantised;
  if (scales >= 0 && pairs.is_hashed(parameter)) {
    const Parameter& of = parameters[static_cast<std::size_t>(scales)];
    if (dumps.problem(rank, of.storage) || dumps.is_transposed(rank, of.storage)) {
      values = kernels::SharedBuffer(of.storage.bytes());  // the scales are wrong by themselves
      std::ranges::fill(values.span(), std::byte{0});
    } else {
      values = dumps.read(rank, of.storage, 0, of.storage.elements());
    }
    dequantised = digest::scales_of(what, of, values);
  }
  Digester digester(space, storage.name, storage.shape, storage.dtype, forms_of(request.forms, what), dequantised,
                    pairs.is_hashed(parameter));
  const std::int64_t size = byte_size(storage.dtype);
  for (const auto& [first, count] : ranges(storage.shape, request.chunk_bytes / size)) {
    const kernels::SharedBuffer bytes = dumps.read(rank, storage, first, count);
    digester.add(bytes.span());
  }
  return digester.finish();
}

}  // namespace refit::digest
