// A mixture of members that are read one after another: PE with equal weights, EP with weights of
// each row. Three rows of sums are kept, whatever the number of members is.
#pragma once

#include "rows.h"
#include "softmax.h"

namespace {

// A member of which all is known but p itself: a second pass over its row, from a near cache. The
// sum may lie where the first member's logits are: each vector is read before it is written.
template <bool begins, bool has_weights>
INLINE void add_mixed(const MixArguments& a, int64_t row, const float* logits,
                      const SoftmaxSums& sums, double log_gap) {
  float* probs = a.probs + row * a.V;
  float* log_probs = a.log_probs + row * a.V;
  float* weighted = has_weights ? a.weighted + row * a.V : nullptr;
  const Softmax softmax(1.0);
  const F largest = splat((float)sums.largest), down = splat((float)log_gap);
  const F scale = splat((float)(1.0 / sums.exps));
  const F fade = splat(has_weights ? (float)a.fade[row] : 0.0f);
  const F share = splat(has_weights ? (float)(a.share[row] / sums.exps) : 0.0f);
  over_row(
      a.V,
      [&](int64_t v, int64_t count) __attribute__((always_inline)) {
        const F d = load(logits + v, count) - largest;
        const F e = softmax.exp_of_bounded(softmax.bounded(d));
        F p = e * scale, l = d - down, w = e * share;
        if (!begins) {
          p += load(probs + v, count);
          l += load(log_probs + v, count);
          if (has_weights) w += load(weighted + v, count) * fade;
        }
        store(probs + v, p, count);
        store(log_probs + v, l, count);
        if (has_weights) store(weighted + v, w, count);
      },
      []() {});
}

void mix_member(const MixArguments& a, int64_t row, float*) {
  const float* logits = a.logits + row * a.logits_stride;
  const SoftmaxSums sums = softmax_sums(logits, a.V, 1.0f);
  const double log_gap = __builtin_log(sums.exps);
  a.log_total[row] = sums.largest + log_gap;
  a.entropy[row] = log_gap - sums.weighted / sums.exps;
  if (a.is_first)
    a.weighted ? add_mixed<true, true>(a, row, logits, sums, log_gap)
               : add_mixed<true, false>(a, row, logits, sums, log_gap);
  else
    a.weighted ? add_mixed<false, true>(a, row, logits, sums, log_gap)
               : add_mixed<false, false>(a, row, logits, sums, log_gap);
}

// One distribution q = factor · sums against ℓ̄ = log_probs/members: H(q), Σ q (ln q − ℓ̄), and the
// largest and the least q; ln q in the sums' place where it is wanted.
void read_mixture(const ReadMixtureArguments& a, int64_t row, float*) {
  float* sums = a.sums + row * a.V;
  const float* log_probs = a.log_probs + row * a.V;
  const F factor = splat((float)a.factor[row]);
  const F mean = splat((float)(1.0 / (double)a.members));
  Sum entropy, mutual;
  F most = F{}, least = splat(LARGEST);
  over_row(
      a.V,
      [&](int64_t v, int64_t count) __attribute__((always_inline)) {
        const F q = load(sums + v, count) * factor;
        // Where q = 0 the factor q makes the bounded logarithms irrelevant.
        const F log_q = log_positive(larger(q, splat(SMALLEST_NORMAL)));
        const F expected = larger(load(log_probs + v, count) * mean, splat(-LARGEST));
        entropy.add(q * log_q, count);
        // Differences first, then the sum: nearly equal members would cancel otherwise.
        mutual.add(q * (log_q - expected), count);
        most = larger(most, q);
        least = smaller(least, q);
        if (a.wants_log) store(sums + v, q > 0.0f ? log_q : splat(-__builtin_inff()), count);
      },
      [&]() __attribute__((always_inline)) {
        entropy.end_block();
        mutual.end_block();
      });
  float highest = most[0], lowest = least[0];
  for (int i = 1; i < LANES; ++i) {
    highest = most[i] > highest ? most[i] : highest;
    lowest = least[i] < lowest ? least[i] : lowest;
  }
  double information = larger(mutual.total(), 0.0);
  // Members that exclude each other's pieces: the largest number, as eager has it.
  if (information > LARGEST) information = LARGEST;
  double* out = a.measures + row;
  out[0] = -entropy.total();
  out[a.n] = information;
  out[2 * a.n] = highest;
  out[3 * a.n] = lowest;
}

}  // namespace
