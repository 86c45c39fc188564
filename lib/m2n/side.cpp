// A side whose meshes a system file lists: no key of a case describes it.

#include <utility>

#include "m2n/m2n.hpp"

namespace refit::m2n {
namespace {

std::unique_ptr<layout::SideSpec> no_side() { fail_invariant("a listed side is not made by its name"); }

const std::vector<layout::SideKey>& no_keys() {
  static const std::vector<layout::SideKey> none;
  return none;
}

constexpr layout::SideRow kListed = {"listed", "as NCCL M2N's files say", "m2n.model and m2n.system", "", no_keys,
                                     no_side};

class ListedSide final : public layout::SideSpec {
 public:
  ListedSide(std::string path, Mesh System::*side, std::string name)
      : SideSpec(kListed), path_(std::move(path)), side_(side), name_(std::move(name)) {}
  std::unique_ptr<layout::SideSpec> clone() const override { return std::make_unique<ListedSide>(*this); }

  void complete() override {
    if (!path_.empty()) mesh_ = read_system(path_).*side_;
  }
  layout::Parallelism sizes() const override { return mesh_.parallelism(); }
  std::optional<layout::Precision> precision() const override { return std::nullopt; }
  std::unique_ptr<layout::Layout> make_layout(const model::Model& model) const override {
    return m2n::make_layout(model, mesh_, name_);
  }

 private:
  std::string path_;
  Mesh System::*side_;
  std::string name_;  ///< of the side, in the file
  Mesh mesh_;
};

}  // namespace

std::unique_ptr<layout::SideSpec> listed_train(const std::string& path) {
  return std::make_unique<ListedSide>(path, &System::train, "train");
}

std::unique_ptr<layout::SideSpec> listed_gen(const std::string& path) {
  return std::make_unique<ListedSide>(path, &System::gen, "generation");
}

}  // namespace refit::m2n
