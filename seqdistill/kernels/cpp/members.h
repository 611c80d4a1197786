// Teachers: the sums over members of a row, and the ensemble's measures.
#pragma once

#include "rows.h"
#include "softmax.h"

namespace {

// Bytes of a row's logits that the second level's cache keeps beside the two rows of sums.
constexpr int64_t GROUP_BYTES = 1 << 20;
constexpr int64_t GROUP = 16;
// Elements of the sums that the first level's cache keeps while the members are added.
constexpr int64_t NEAR = 1024;

// Two passes over a row of every member, nothing kept between them but three numbers: the
// exponential is computed again, because to write it to memory and read it was no faster.
template <class T>
void add_members(const MemberArguments& a, int64_t row) {
  float* mean_probs = a.mean_probs + row * a.V;
  float* mean_log_probs = a.mean_log_probs + row * a.V;
  const Softmax softmax(a.inverse_temperature);
  const F slope = splat(a.weight * a.inverse_temperature);
  int64_t group = GROUP_BYTES / (a.V * (int64_t)sizeof(T));
  group = group < 1 ? 1 : group > GROUP ? GROUP : group;
  for (int64_t first = 0; first < a.members; first += group) {
    const int64_t stop = first + group < a.members ? first + group : a.members;
    const T* logits[GROUP];
    float largest[GROUP], share[GROUP];
    double log_totals = 0.0;
    for (int64_t m = first; m < stop; ++m) {
      const int64_t k = m - first;
      logits[k] = (const T*)a.logits[m] + row * a.logits_strides[m];
      const SoftmaxSums sums = softmax_sums(logits[k], a.V, a.inverse_temperature);
      const double log_total = __builtin_log(sums.exps);
      const double mean_gap = sums.weighted / sums.exps * a.inverse_temperature;
      a.negative_entropies[m * a.n + row] = (float)(a.weight * (mean_gap - log_total));
      largest[k] = (float)sums.largest;
      share[k] = (float)(a.weight / sums.exps);
      log_totals += log_total;
    }
    // In two parts: what one is rounded to would be the same error in all of the row.
    const double down = a.weight * log_totals;
    const F high_part = splat((float)down), low_part = splat((float)(down - (double)(float)down));
    const bool is_first = a.is_first && first == 0;
    for (int64_t begin = 0; begin < a.V; begin += NEAR) {
      const int64_t size = a.V - begin < NEAR ? a.V - begin : NEAR;
      float* probs = mean_probs + begin;
      float* log_probs = mean_log_probs + begin;
      for (int64_t k = 0; k < stop - first; ++k) {
        const T* z = logits[k] + begin;
        const F high = splat(largest[k]), factor = splat(share[k]);
        const auto add = [&](auto before) __attribute__((always_inline)) {
          over_row(
              size,
              [&](int64_t v, int64_t count) __attribute__((always_inline)) {
                const F d = load(z + v, count) - high;
                const F e = softmax.exp_of_bounded(softmax.bounded(d));
                F p, l;
                before(v, count, p, l);
                store(probs + v, e * factor + p, count);
                store(log_probs + v, d * slope + l, count);
              },
              []() {});
        };
        if (k > 0 || !is_first)
          add([&](int64_t v, int64_t count, F& p, F& l) __attribute__((always_inline)) {
            p = load(probs + v, count);
            l = load(log_probs + v, count);
          });
        else
          add([](int64_t, int64_t, F& p, F& l) __attribute__((always_inline)) { p = l = F{}; });
      }
      // Once for all members: their differences are small numbers, and lose less beside each other.
      over_row(
          size,
          [&](int64_t v, int64_t count) __attribute__((always_inline)) {
            const F l = load(log_probs + v, count) - low_part;
            store(log_probs + v, l - high_part, count);
          },
          []() {});
    }
  }
}

void ensemble(const EnsembleArguments& a, int64_t row, float*) {
  const float* mean_probs = a.mean_probs + row * a.V;
  const float* mean_log_probs = a.mean_log_probs + row * a.V;
  Sum entropy, mutual;
  over_row(
      a.V,
      [&](int64_t v, int64_t count) __attribute__((always_inline)) {
        const F p = load(mean_probs + v, count);
        // Where p̄ = 0 the factor p̄ makes the bounded logarithms irrelevant.
        const F log_p = log_positive(larger(p, splat(SMALLEST_NORMAL)));
        const F log_probs = larger(load(mean_log_probs + v, count), splat(-LARGEST));
        entropy.add(p * log_p, count);
        // Differences first, then the sum: nearly equal members would cancel otherwise.
        mutual.add(p * (log_p - log_probs), count);
      },
      [&]() __attribute__((always_inline)) {
        entropy.end_block();
        mutual.end_block();
      });
  a.total_uncertainty[row] = (float)-entropy.total();
  double information = larger(mutual.total(), 0.0);
  // Members that exclude each other's pieces: the largest number, as eager has it.
  if (information > LARGEST) information = LARGEST;
  a.mutual_information[row] = (float)information;
}

}  // namespace
