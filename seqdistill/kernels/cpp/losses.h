// The losses at one vector of logits: value and derivative, grouped so that no large terms cancel.
// What belongs to a row is computed once in double; at() is float.
#pragma once

#include "dirichlet.h"

namespace {

// What is one number a row before the loss is known.
struct RowState {
  int64_t V;
  double largest, log_sum_gap;      // max z; ln Σ e^(z − largest)
  double centred_sum;               // Σ (z − largest)
  double mean_mass, mean_largest;   // Σ p̄ and max p̄, for the losses that need them first
  double inverse_w, inverse_precision;
  // out = distil · ∂distillation + cross · softmax(z) − other; distil and cross hold the row weight
  double distil, cross, other;

  double inverse_sum() const { return __builtin_exp(-log_sum_gap); }
};

// A loss at one vector of logits: its derivative, weighted and mixed, and the terms of its value.
struct Terms {
  F gradient, a, b, c;
};

// Losses. Arguments of at(): logits z, e = e^(z − largest), and p̄ or ℓ̄.

template <bool offset_one>
struct ProxyDirichlet {
  static constexpr bool mean_first = false;
  RowTotal total;
  double inverse_w;
  float largest, positive, probs_factor, distil, distil_w, other, w;

  ProxyDirichlet(const RowState& row)
      : total(row.largest, row.log_sum_gap, row.V, offset_one), inverse_w(row.inverse_w) {
    const RowGamma& y = total.gamma;
    double shared;
    if (offset_one) {
      // With b = α₀ − 1 = e^y and ρ = S/b: U₀ = ρ u(y) and G₀ = ρ (g(y) + (V − 1) u(y)).
      const double share = __builtin_exp(row.largest + row.log_sum_gap - y.y);
      shared = share * (y.trigamma() +
                        (y.trigamma_gap() + (double)(row.V - 1) * y.trigamma()) * inverse_w);
    } else {
      const double slope = y.trigamma() + __builtin_exp(-y.y);
      shared = slope * (1 + (double)row.V * inverse_w) - (1 - y.trigamma_gap()) * inverse_w;
    }
    largest = (float)row.largest;
    positive = -(float)larger(row.largest, 0.0);
    probs_factor = (float)((row.distil * shared + row.cross) * row.inverse_sum());
    distil = (float)row.distil;
    distil_w = (float)(row.distil * inverse_w);
    other = (float)row.other;
    w = (float)inverse_w;
  }

  INLINE Terms at(F z, F e, F mean) const {
    const ExpGamma gamma(z);
    const F q = gamma.q();
    const F u = gamma.s * (1.0f + gamma.t * q), g = gamma.s * (1.0f - gamma.s * q);
    // ψ(1 + e^z) − max(largest, 0): relative to the largest first, a gap may be small beside it.
    const F digamma = larger(z - largest, splat(positive)) + gamma.digamma_rest();
    const F h = gamma.entropy_term(z);
    if (offset_one)
      return {e * probs_factor - other - (mean * u * distil + g * distil_w), mean * digamma, mean, h};
    const F inverse = exp_scaled(-z, 0.0f);
    const F gradient = e * probs_factor - other - (u + inverse) * (mean * distil + distil_w) +
                       (1.0f - g) * distil_w;
    const F excess = larger(-z, F{}) + gamma.digamma_rest();
    return {gradient, mean * (digamma - inverse), mean, h + excess - inverse};
  }

  double loss(const RowState& row, double a, double b, double c) const {
    const RowGamma& y = total.gamma;
    const double V = (double)row.V;
    if (offset_one) {
      const double entropy = c - y.entropy_term() + (V - 1) * (1 - y.digamma());
      return total.digamma_gap * b - a - entropy * inverse_w;
    }
    const double inverse = __builtin_exp(-y.y);
    const double entropy =
        c - y.entropy_term() - V * (y.digamma_excess() - inverse) + (V - 1) * (1 - y.y);
    return (total.digamma_gap - inverse) * b - a - entropy * inverse_w;
  }
};

template <bool offset_one>
struct ProxyDirichletForward {
  static constexpr bool mean_first = true;
  // p̄ below e^−80 counts as e^−80, as in the loss.
  static constexpr float LEAST = 1.80485139e-35f;
  double log_precision, log_mean_largest;
  RowTotal total, proxy;
  double inverse_w;
  float largest, positive, proxy_largest, proxy_positive, log_beta, gap, scale, exponent;
  float distil, probs_factor, other;

  ProxyDirichletForward(const RowState& row)
      : log_precision(-__builtin_log(row.inverse_precision)),
        log_mean_largest(__builtin_log(row.mean_largest)),
        total(row.largest, row.log_sum_gap, row.V, offset_one),
        // The proxy is a Dirichlet of the same form: β = e^b + 1 with b = ln(β̃₀ p̄).
        proxy(log_mean_largest + log_precision, __builtin_log(row.mean_mass) - log_mean_largest,
              row.V, true),
        inverse_w(row.inverse_w) {
    int power;
    // a/w before anything else: e^80 times a vocabulary does not fit into float.
    const double fraction = __builtin_frexp(inverse_w, &power);
    scale = (float)fraction;
    exponent = (float)power;
    largest = (float)row.largest;
    positive = -(float)larger(row.largest, 0.0);
    proxy_largest = (float)log_mean_largest;
    proxy_positive = -(float)larger(log_mean_largest + log_precision, 0.0);
    log_beta = (float)log_precision;
    gap = (float)(proxy.digamma_gap - total.digamma_gap);
    distil = (float)row.distil;
    other = (float)(row.other + (offset_one ? 0.0 : row.distil * inverse_w));
    probs_factor = (float)((row.cross + (offset_one ? 0.0 : row.distil * inverse_w)) *
                           row.inverse_sum());
  }

  INLINE Terms at(F z, F e, F mean) const {
    const F log_mean = log_positive(larger(mean, splat(LEAST)));
    const F b = log_mean + log_beta;
    const ExpGamma gamma(z), beta(b);
    const F digamma = larger(z - largest, splat(positive)) + gamma.digamma_rest();
    const F proxy_digamma =
        larger(log_mean - proxy_largest, splat(proxy_positive)) + beta.digamma_rest();
    const F weighted = exp_scaled(z, exponent) * scale * ((digamma - proxy_digamma) + gap);
    const F local = gamma.entropy_term(z) - beta.entropy_term(b);
    const F digamma_beta = larger(b, F{}) + beta.digamma_rest();
    return {weighted * distil + e * probs_factor - other, weighted, local, digamma_beta - z};
  }

  double loss(const RowState& row, double a, double b, double c) const {
    const RowGamma &y = total.gamma, &beta = proxy.gamma;
    const double V = (double)row.V;
    double local = b + beta.entropy_term() - y.entropy_term();
    if (offset_one)
      local += (V - 1) * (beta.digamma() - y.digamma());
    else
      local += c - beta.digamma() - (V - 1) + y.y;
    return local * inverse_w + a;
  }
};

template <bool offset_one>
struct End2 {
  static constexpr bool mean_first = false;
  RowTotal total;
  float largest, positive, gap, scale, distil, probs_factor, other;

  End2(const RowState& row) : total(row.largest, row.log_sum_gap, row.V, offset_one) {
    // Terms of size e^z are added up relative to the largest, which leaves room for V of them.
    scale = (float)__builtin_exp(row.largest < -80 ? 80 : row.largest > 80 ? -80 : -row.largest);
    largest = (float)row.largest;
    positive = -(float)larger(row.largest, 0.0);
    gap = (float)total.digamma_gap;
    distil = (float)row.distil;
    other = (float)(row.other + (offset_one ? 0.0 : row.distil));
    probs_factor = (float)((row.cross + (offset_one ? 0.0 : row.distil)) * row.inverse_sum());
  }

  INLINE Terms at(F z, F e, F log_probs) const {
    const ExpGamma gamma(z);
    const F digamma = larger(z - largest, splat(positive)) + gamma.digamma_rest();
    // ± S ln S cancels on paper: what is left is a weighted misfit and bounded terms.
    const F misfit = (digamma - gap) - log_probs;
    const F a = exp_scaled(z, 0.0f);
    F local = gamma.entropy_term(z);
    if (!offset_one) local = local - z + log_probs;
    return {a * misfit * distil + e * probs_factor - other, a * scale * misfit, local, F{}};
  }

  double loss(const RowState& row, double a, double b, double) const {
    const RowGamma& y = total.gamma;
    const double weighted = a / scale;
    if (offset_one) return weighted + b + (double)(row.V - 1) * (1 - y.digamma()) - y.entropy_term();
    return weighted + b + y.y - y.entropy_term();
  }
};

template <bool>
struct MeanKl {
  static constexpr bool mean_first = true;
  float largest, gap, distil, probs_factor, other;

  MeanKl(const RowState& row) {
    largest = (float)row.largest;
    gap = (float)row.log_sum_gap;
    distil = (float)row.distil;
    other = (float)row.other;
    // Σ p̄ is 1 up to rounding; the exact derivative uses the sum itself.
    probs_factor = (float)((row.distil * row.mean_mass + row.cross) * row.inverse_sum());
  }

  INLINE Terms at(F z, F e, F mean) const {
    const F log_mean = log_positive(larger(mean, splat(SMALLEST_NORMAL)));
    const F misfit = log_mean - ((z - largest) - gap);
    return {e * probs_factor - mean * distil - other, mean * misfit, F{}, F{}};
  }

  double loss(const RowState&, double a, double, double) const { return a; }
};

}  // namespace
