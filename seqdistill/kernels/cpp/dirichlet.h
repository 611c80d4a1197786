// Scalars of one row in double: the terms of α₀ through one logit y, as in
// seqdistill.numerics.DirichletTerms (o = 1: y = ln(S + V − 1); o = 0: y = ln S).
#pragma once

#include "vector.h"

namespace {

INLINE double larger(double x, double y) { return x < y ? y : x; }

INLINE double log_add_exp(double x, double y) {
  const double high = x < y ? y : x, low = x < y ? x : y;
  return high + __builtin_log1p(__builtin_exp(low - high));
}

template <size_t N>
INLINE double horner(const double (&c)[N], double x) {
  double value = c[N - 1];
  for (size_t k = 2; k <= N; ++k) value = value * x + c[N - k];
  return value;
}

// The functions of seqdistill.numerics.ExpGamma at one y.
struct RowGamma {
  double y, t, s, log1p;

  explicit RowGamma(double logit) : y(logit) {
    const double small = __builtin_exp(-__builtin_fabs(y));
    const double large_share = 1.0 / (1.0 + small), small_share = small * large_share;
    t = y > 0 ? small_share : large_share;
    s = y > 0 ? large_share : small_share;
    log1p = __builtin_log1p(small);
  }
  double tr() const { return t * horner(R_DOUBLE, t); }
  double trigamma() const { return s * (1 + t * horner(Q_DOUBLE, t)); }
  double trigamma_gap() const { return s * (1 - s * horner(Q_DOUBLE, t)); }
  double digamma() const { return larger(y, 0.0) + log1p - tr(); }
  double digamma_excess() const { return larger(-y, 0.0) + log1p - tr(); }
  double entropy_term() const {
    return 0.5 * (larger(y, 0.0) + log1p) + s * horner(C_DOUBLE, s);
  }
};

// y and ψ(1 + e^y) of a row with the largest logit and ln Σ e^(z − largest).
struct RowTotal {
  RowGamma gamma;
  // ψ(1 + e^y) − max(largest, 0). As a difference: beside a largest logit of 80 it may be 1e-3.
  double digamma_gap;

  RowTotal(double largest, double log_sum_gap, int64_t V, bool offset_one)
      : gamma(offset_one ? log_add_exp(largest + log_sum_gap, __builtin_log((double)(V - 1)))
                         : largest + log_sum_gap) {
    const double gap = offset_one
                           ? log_add_exp(log_sum_gap, __builtin_log((double)(V - 1)) - largest)
                           : log_sum_gap;
    digamma_gap = largest > 0 ? gap + gamma.digamma_excess() : gamma.digamma();
  }
};

}  // namespace
