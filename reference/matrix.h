// Row-major matrices of the reference, and their exchange with host tensors.
#pragma once

#include <Eigen/Core>

#include "harness/base/host_tensor.h"
#include "harness/model/dims.h"

namespace moecheck::reference {

using model::Dim;

template <typename Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using IdMatrix = Matrix<Dim>;

// Requires: two dimensions. Any dtype; upcast, or rounded once where Scalar is narrower.
template <typename Scalar>
Matrix<Scalar> matrix_of(const base::HostTensor& tensor);

// Requires: two dimensions, an integer dtype.
IdMatrix ids_of(const base::HostTensor& tensor);

base::HostTensor tensor_of(const Matrix<float>& matrix);   // F32
base::HostTensor tensor_of(const Matrix<double>& matrix);  // F64
base::HostTensor tensor_of(const IdMatrix& matrix);        // I64

}  // namespace moecheck::reference
