// Matrices whose elements are known within bounds, and the formulas of the layer on them.
//
// Each formula is that of router.h, experts.h or backward.h; here it carries with it how far an honest implementation that computed all
// its inputs may be from the value (harness/tolerance/composed.h).
#pragma once

#include "harness/model/model_spec.h"
#include "harness/tolerance/composed.h"
#include "reference/matrix.h"

namespace moecheck::reference {

struct Tracked {
  Matrix<double> value;
  Matrix<double> bound;
  // Of the l2 norm of each row's error. A product with W stretches it by |W|_2 at most, where element by element only the sums over |w|
  // bound it: these are larger by about the root of the number of summands.
  Eigen::VectorXd norm;

  Matrix<double> largest() const { return value.cwiseAbs() + bound; }
  bool is_exact() const { return norm.isZero(0); }
};

// With the norms that the elements' bounds have.
Tracked tracked(Matrix<double> value, Matrix<double> bound);
Tracked exactly(Matrix<double> value);
// As it is recorded on the way (tolerance::recorded_copy).
Tracked recorded(const Matrix<double>& value, base::DType store);
Tracked transposed(const Tracked& a);
Tracked columns_of(const Tracked& a, const std::vector<Dim>& columns);
Tracked rows_of(const Tracked& a, const std::vector<Dim>& rows);

// A sum of products before it is stored.
struct TrackedSum {
  Matrix<double> value;
  Matrix<double> plain;     // sum of |a b|
  Matrix<double> largest;   // sum of what |a b| can be at most; what it is more than `plain` bounds what the inputs' errors move
  Eigen::VectorXd moved;    // what these move a row by at most, l2

  static TrackedSum zeros(Dim rows, Dim columns);
  // Row `row` += weight * a.row(a_row).
  void add_row(Dim row, const tolerance::Near& weight, const Tracked& a, Dim a_row);
};

// At least |A|_2, and at most 1.3 times it for a matrix of rank 1,000; infinite where it would take longer than the layer.
double largest_stretch(const Matrix<double>& a);

// sum_k a_mk b_nk
TrackedSum products(const Tracked& a_MK, const Tracked& b_NK);
// What is stored of such a sum, or of one element-wise product of two.
Tracked stored(const TrackedSum& sum, const tolerance::StageBound& stage);

// Row i times its weight, stored.
Tracked weighted(const Tracked& a_RD, const Tracked& weight_R1, const tolerance::StageBound& stage);

Tracked swiglu(const Tracked& gate_up_RG, const model::Activation& activation, base::DType store);
Tracked swiglu_backward(const Tracked& gate_up_RG, const Tracked& d_act_RF, const model::Activation& activation, base::DType store);

// Scores of given experts. Requires: 0 <= id < E.
Tracked scores_from_logits(const Tracked& logits_TE, const IdMatrix& ids_TK, const model::ModelSpec& spec, base::DType store);
Tracked scores_backward(const Tracked& logits_TE, const IdMatrix& ids_TK, const Tracked& d_scores_TK, const model::ModelSpec& spec,
                        base::DType store);

}  // namespace moecheck::reference
