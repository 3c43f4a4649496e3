#include "reference/matrix.h"

#include <cstring>

namespace moecheck::reference {
namespace {

using base::DType;
using base::HostTensor;

// Tensors out of a mapped file may be unaligned.
template <typename Stored, typename Scalar, typename Convert>
void convert_all(const HostTensor& tensor, Matrix<Scalar>& into, Convert convert) {
  const std::byte* at = tensor.bytes().data();
  for (Eigen::Index i = 0; i < into.size(); ++i, at += sizeof(Stored)) {
    Stored stored;
    std::memcpy(&stored, at, sizeof stored);
    into.data()[i] = static_cast<Scalar>(convert(stored));
  }
}

template <typename Scalar>
HostTensor tensor_with(DType dtype, const Matrix<Scalar>& matrix) {
  HostTensor tensor(dtype, {matrix.rows(), matrix.cols()});
  std::copy_n(matrix.data(), matrix.size(), tensor.mutable_view<Scalar>().begin());
  return tensor;
}

}  // namespace

template <typename Scalar>
Matrix<Scalar> matrix_of(const HostTensor& tensor) {
  MOECHECK_REQUIRE(tensor.shape().size() == 2, base::shape_text(tensor.shape()));
  Matrix<Scalar> matrix(tensor.dim(0), tensor.dim(1));
  const auto same = [](auto value) { return value; };
  switch (tensor.dtype()) {
    case DType::kF32: convert_all<float>(tensor, matrix, same); break;
    case DType::kF64: convert_all<double>(tensor, matrix, same); break;
    case DType::kBF16: convert_all<std::uint16_t>(tensor, matrix, base::float_from_bf16); break;
    default:
      for (Eigen::Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<Scalar>(tensor.at(i));
  }
  return matrix;
}

IdMatrix ids_of(const HostTensor& tensor) {
  MOECHECK_REQUIRE(tensor.shape().size() == 2 && !base::is_floating(tensor.dtype()), base::shape_text(tensor.shape()));
  IdMatrix ids(tensor.dim(0), tensor.dim(1));
  for (Eigen::Index i = 0; i < ids.size(); ++i) ids.data()[i] = tensor.int_at(i);
  return ids;
}

HostTensor tensor_of(const Matrix<float>& matrix) { return tensor_with(DType::kF32, matrix); }
HostTensor tensor_of(const Matrix<double>& matrix) { return tensor_with(DType::kF64, matrix); }
HostTensor tensor_of(const IdMatrix& matrix) { return tensor_with(DType::kI64, matrix); }

template Matrix<float> matrix_of<float>(const HostTensor& tensor);
template Matrix<double> matrix_of<double>(const HostTensor& tensor);

}  // namespace moecheck::reference
