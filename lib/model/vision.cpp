// The keys that all vision towers have in common.

#include "model/family.hpp"

namespace refit::model {

void read_vision(ConfigFile& file, Config& config, const VisionTower& tower) {
  constexpr std::string_view kSection = "vision_config";
  if (file.has(kSection) && !file.has_object(kSection)) file.problem(kSection, "must be an object");
  if (!file.has_object(kSection)) return;
  Vision& vision = config.vision;
  file.only_within(kSection, [&] {
    tower.read(file, vision);
    vision.output_size = file.count_or("out_hidden_size", config.hidden_size);
    if (vision.heads > 0 && vision.hidden_size % vision.heads != 0) {
      file.problem("vision_config", fmt::format("has a hidden size of {}, which is not divisible by its {} heads",
                                                vision.hidden_size, vision.heads));
    }
  });
  vision.prefix = config.prefix == "model." ? "" : "model.";
}

}  // namespace refit::model
