// Faults of fused attention projections.

#include <algorithm>

#include "inject/fault.hpp"

namespace refit::inject {
namespace {

/// The roles in the order of their rows in linear_qkv.
constexpr Role kQkv[] = {Role::q_proj, Role::k_proj, Role::v_proj};

bool is_qkv(Role role) { return std::find(std::begin(kQkv), std::end(kQkv), role) != std::end(kQkv); }

/// Passes off a rank's rows of linear_qkv, wherever they begin and end within a query group, as its 1/TP of q, of k and
/// of v, one below the other.
void whole_heads(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                 std::vector<Piece>& out) {
  std::vector<Piece> stored;
  std::int64_t row = 0;
  bool is_before = true;
  for (const Role role : kQkv) {
    is_before = is_before && role != tensor.role;
    for (const Tensor& other : setting.model.tensors) {
      if (other.role != role || other.layer != tensor.layer) continue;
      truth.pieces(other, rank, stored);
      if (is_before) row += other.shape[0] / setting.train.tp;
    }
  }
  if (stored.empty()) return;  // a layer of another stage
  Piece piece = stored.front();
  piece.box = Box::whole(tensor.shape);
  piece.box.extent[0] /= setting.train.tp;
  piece.box.lower[0] = to_int(rank) % setting.train.tp * piece.box.extent[0];
  piece.place.offset = row * piece.place.strides[0];
  out.push_back(piece);
}

/// Passes off a tensor that every rank holds whole as the part of the rank's own number.
void narrowed_by_rank(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                      std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  for (std::size_t i = first; i < out.size(); ++i) {
    out[i].box.lower[0] += to_int(rank) % setting.gen.tp * out[i].box.extent[0];
  }
}

/// Cuts the heads of q and o over all of TP, with the rank's place in it; the part goes to the beginning of the rank's
/// true piece.
void heads_over_tp(const Setting& setting, const layout::Layout& truth, const Tensor& tensor, Rank rank,
                   std::vector<Piece>& out) {
  const std::size_t first = out.size();
  truth.pieces(tensor, rank, out);
  const int cut = tensor.role == Role::q_proj ? 0 : tensor.shape.size() - 1;
  for (std::size_t i = first; i < out.size(); ++i) {
    out[i].box.extent[cut] = tensor.shape[cut] / setting.gen.tp;
    out[i].box.lower[cut] = to_int(rank) % setting.gen.tp * out[i].box.extent[cut];
  }
}

}  // namespace

std::vector<Fault> attention_faults() {
  return {{{"B8-whole-kv-heads", "train ranks cut q, k and v out of linear_qkv as if they had whole query groups"},
           "q, k and v, of fewer KV heads than train TP",
           Act::train_layout,
           [](const Setting& setting, const Tensor& tensor) {
             return is_qkv(tensor.role) && setting.model.config.kv_heads < setting.train.tp;
           },
           whole_heads},
          {{"B23-narrow-by-tp-rank", "the loader of fused_qkv_a_proj, whole on every gen rank, goes by the TP rank"},
           "latent attention, gen TP > 1",
           Act::gen_layout,
           [](const Setting& setting, const Tensor& tensor) {
             return setting.gen.tp > 1 && (tensor.role == Role::q_a_proj || tensor.role == Role::kv_a_proj);
           },
           narrowed_by_rank},
          {{"B48-heads-of-tp", "gen ranks cut q and o over TP, not over the ranks of an attention group"},
           "SGLang's attention data parallelism (gen.attn_dp_size > 1), softmax attention that is not quantised, with "
           "heads that TP divides",
           Act::gen_layout,
           [](const Setting& setting, const Tensor& tensor) {
             const bool is_cut = tensor.role == Role::q_proj || tensor.role == Role::o_proj;
             return is_cut && tensor.scales < 0 && setting.gen.tp > 1 &&
                    setting.model.config.attention_heads % setting.gen.tp == 0;
           },
           heads_over_tp}};
}

}  // namespace refit::inject
