// The largest of a row and what its softmax is made of, in one pass over memory.
#pragma once

#include "vector.h"

namespace {

template <class T>
INLINE float largest_of(const T* x, int64_t V) {
  // Four at a time: a comparison waits for the one before it. NaN compares false and is passed by.
  F most[4];
  for (F& m : most) m = splat(-__builtin_inff());
  int64_t v = 0;
  for (; v + 4 * LANES <= V; v += 4 * LANES)
    for (int k = 0; k < 4; ++k) {
      const F next = load(x + v + k * LANES);
      most[k] = next > most[k] ? next : most[k];
    }
  for (; v < V; v += LANES) {
    const F next = load(x + v, V - v < LANES ? V - v : (int64_t)LANES);
    most[0] = next > most[0] ? next : most[0];
  }
  float result = -__builtin_inff();
  for (const F& m : most)
    for (int i = 0; i < LANES; ++i) result = m[i] > result ? m[i] : result;
  return result;
}

// Σ e^(d/T) and Σ e^(d/T) d of a row's differences d = z − max z, found in one pass: the largest so
// far is that of the blocks read so far; what was summed before a larger one came is scaled down.
struct SoftmaxSums {
  double largest = -LARGEST, exps = 0.0, weighted = 0.0;

  INLINE void rise(double next, double inverse_temperature) {
    const double d = largest - next, factor = __builtin_exp(d * inverse_temperature);
    weighted = factor * (weighted + d * exps);
    exps *= factor;
    largest = next;
  }
};

// Elements read twice in a row while the first level's cache holds them: 4 KiB of floats.
constexpr int64_t NEAR = 1024;
// How far ahead of the reading memory is asked for, in elements: a page is new to the processor.
constexpr int64_t AHEAD = 2 * NEAR;
template <class T>
INLINE SoftmaxSums softmax_sums(const T* logits, int64_t V, float inverse_temperature) {
  const Softmax softmax(inverse_temperature);
  SoftmaxSums sums;
  for (int64_t begin = 0; begin < V; begin += NEAR) {
    const int64_t size = V - begin < NEAR ? V - begin : NEAR;
    for (int64_t v = 0; v < size; v += 64 / (int64_t)sizeof(T))
      __builtin_prefetch(logits + begin + AHEAD + v);
    const float next = largest_of(logits + begin, size);
    if (next > sums.largest) sums.rise(next, inverse_temperature);
    const F largest = splat((float)sums.largest);
    Sum exps, weighted;
    over_row(
        size,
        [&](int64_t v, int64_t count) __attribute__((always_inline)) {
          // Bounded, for 0 · −∞ is 0 here: a piece that a member excludes has no entropy.
          const F d = softmax.bounded(load(logits + begin + v, count) - largest);
          const F e = softmax.exp_of_bounded(d);
          exps.add(e, count);
          weighted.add(e * d, count);
        },
        [&]() __attribute__((always_inline)) {
          exps.end_block();
          weighted.end_block();
        });
    sums.exps += exps.total();
    sums.weighted += weighted.total();
  }
  return sums;
}

}  // namespace
