// Uncertainty of a Dirichlet student, α = e^z + o, as in seqdistill/uncertainty/dirichlet.py.
#pragma once

#include "dirichlet.h"
#include "rows.h"
#include "softmax.h"

namespace {

// Σ over a row of what the measures with o = 1 need beside its softmax. With M = max(max z, 0) and
// relative to e^M, because e^z itself may not fit into float; where log_mean is given, it receives
// ln(α/α₀), log_whole being ln α₀ − M.
struct DirichletSums {
  double r = 0.0;        // Σ R(t), R = x (ln x − ψ(x)) at x = α
  double surprise = 0.0;  // Σ α e^−M (ln α − M)
};

INLINE DirichletSums dirichlet_sums(const float* logits, int64_t V, float largest, float* log_mean,
                                    float log_whole) {
  const F whole = splat(log_whole), top = splat(largest > 0 ? largest : 0.0f);
  const F bottom = splat((float)__builtin_exp(-(double)top[0]));
  DirichletSums sums;
  Sum r_sum, surprise_sum;
  over_row(
      V,
      [&](int64_t v, int64_t count) __attribute__((always_inline)) {
        const F z = load(logits + v, count);
        const F small = exp_nonpositive(-as_float((I)z & 0x7fffffff));
        const F one_more = small + 1.0f, large_share = 1.0f / one_more;
        const F t = z > 0.0f ? small * large_share : large_share;
        r_sum.add(horner(R_FLOAT, t), count);
        // α = (1 + e^−|z|) e^max(z, 0); where no logit is above 0 the second factor is one number.
        const F positive = larger(z, F{}) - top;
        const F factor = any(z > 0.0f) ? exp_nonpositive(positive) : bottom;
        const F log_alpha = positive + log1p_unit(small);
        surprise_sum.add(one_more * factor * log_alpha, count);
        if (log_mean) store(log_mean + v, log_alpha - whole, count);
      },
      [&]() __attribute__((always_inline)) {
        r_sum.end_block();
        surprise_sum.end_block();
      });
  sums.r = r_sum.total();
  sums.surprise = surprise_sum.total();
  return sums;
}

// Σ e^(z − max z) (ψ(1 + e^z) − z): what MI is made of where o = 0.
INLINE double digamma_excess_sum(const float* logits, int64_t V, float largest) {
  const F top = splat(largest);
  Sum sum;
  over_row(
      V,
      [&](int64_t v, int64_t count) __attribute__((always_inline)) {
        const F z = load(logits + v, count);
        const F excess = larger(-z, F{}) + ExpGamma(z).digamma_rest();
        sum.add(exp_nonpositive(z - top) * excess, count);
      },
      [&]() __attribute__((always_inline)) { sum.end_block(); });
  return sum.total();
}

void uncertainty(const UncertaintyArguments& a, int64_t row, float*) {
  const float* logits = a.logits + row * a.logits_stride;
  float* log_probs = a.log_probs ? a.log_probs + row * a.V : nullptr;
  const SoftmaxSums sums = softmax_sums(logits, a.V, 1.0f);
  const double V = (double)a.V, log_gap = __builtin_log(sums.exps);
  const double base = log_gap - sums.weighted / sums.exps;
  const RowTotal total(sums.largest, log_gap, a.V, a.offset == 1);
  const RowGamma& y = total.gamma;
  double inverse_precision, epkl, mutual_information, rmi, total_uncertainty;
  if (a.offset == 1) {
    // α₀ = 1 + e^y.
    inverse_precision = y.t;
    epkl = (V - 1) * inverse_precision;
    // α₀ e^−M.
    const double top = larger(sums.largest, 0.0);
    const double whole = sums.exps * __builtin_exp(sums.largest - top) + V * __builtin_exp(-top);
    const double log_whole = __builtin_log(whole);
    const DirichletSums parts = dirichlet_sums(logits, a.V, (float)sums.largest,
                                               a.is_mean ? log_probs : nullptr, (float)log_whole);
    rmi = (parts.r - y.tr() / y.t) * inverse_precision;
    mutual_information = epkl - rmi;
    total_uncertainty = log_whole - parts.surprise / whole;
  } else {
    inverse_precision = __builtin_exp(-y.y);
    epkl = (V - 1) * inverse_precision;
    const double excess = digamma_excess_sum(logits, a.V, (float)sums.largest) / sums.exps;
    mutual_information = excess - y.digamma_excess();
    rmi = epkl - mutual_information;
    total_uncertainty = base;
  }
  if (log_probs && !(a.is_mean && a.offset == 1)) {
    const F largest = splat((float)sums.largest), down = splat((float)log_gap);
    over_row(
        a.V,
        [&](int64_t v, int64_t count) __attribute__((always_inline)) {
          store(log_probs + v, (load(logits + v, count) - largest) - down, count);
        },
        []() {});
  }
  float* out = a.measures + row;
  out[0] = (float)total_uncertainty;
  out[a.n] = (float)mutual_information;
  out[2 * a.n] = (float)epkl;
  out[3 * a.n] = (float)rmi;
  out[4 * a.n] = (float)base;
  out[5 * a.n] = (float)inverse_precision;
  a.largest[row] = (float)sums.largest;
  a.log_gap[row] = log_gap;
}

}  // namespace
