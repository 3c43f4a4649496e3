#include "reference/weights.h"

#include <type_traits>
#include <vector>

namespace moecheck::reference {
namespace {

// fill(first_row, out) generates consecutive rows. float needs no second buffer; double goes row by row.
template <typename Scalar, typename Fill>
void fill_matrix(Matrix<Scalar>& matrix, Fill fill) {
  if constexpr (std::is_same_v<Scalar, float>) {
    fill(Dim{0}, std::span<float>(matrix.data(), static_cast<std::size_t>(matrix.size())));
  } else {
    std::vector<float> row(static_cast<std::size_t>(matrix.cols()));
    for (Dim r = 0; r < matrix.rows(); ++r) {
      fill(r, std::span<float>(row));
      matrix.row(r) = Eigen::Map<const Eigen::RowVectorXf>(row.data(), matrix.cols()).template cast<Scalar>();
    }
  }
}

}  // namespace

template <typename Scalar>
GeneratedWeights<Scalar>::GeneratedWeights(const inputs::Generator& generator) : generator_(generator) {}

template <typename Scalar>
Matrix<Scalar> GeneratedWeights<Scalar>::router_ED() {
  const model::ModelSpec& spec = generator_.problem().model;
  Matrix<float> w_ED(spec.num_experts, spec.d_model);
  for (Dim e = 0; e < spec.num_experts; ++e)
    generator_.router_row(e, std::span<float>(w_ED.row(e).data(), static_cast<std::size_t>(spec.d_model)));
  return w_ED.template cast<Scalar>();
}

template <typename Scalar>
const ExpertWeights<Scalar>& GeneratedWeights<Scalar>::expert(Dim expert_id) {
  const model::ModelSpec& spec = generator_.problem().model;
  weights_.w_gate_up_GD.resize(spec.gate_up_rows(), spec.d_model);
  weights_.w_down_DF.resize(spec.d_model, spec.d_ff);
  fill_matrix(weights_.w_gate_up_GD, [&](Dim row, std::span<float> out) { generator_.gate_up_rows(expert_id, row, out); });
  fill_matrix(weights_.w_down_DF, [&](Dim row, std::span<float> out) { generator_.down_rows(expert_id, row, out); });
  return weights_;
}

template <typename Scalar>
Matrix<Scalar> generated_tokens(const inputs::Generator& generator, Dim rank, Dim batch) {
  return matrix_of<Scalar>(generator.tokens_TD(rank, batch));
}

template class GeneratedWeights<float>;
template class GeneratedWeights<double>;
template Matrix<float> generated_tokens(const inputs::Generator&, Dim, Dim);
template Matrix<double> generated_tokens(const inputs::Generator&, Dim, Dim);

}  // namespace moecheck::reference
