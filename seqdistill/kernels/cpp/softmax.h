// The largest of a row and what its softmax is made of, in one pass over memory.
#pragma once

#include "vector.h"

namespace {

// The largest lane, halves against halves: one after another each would wait for the one before.
INLINE float largest_lane(F x) {
  float lanes[LANES];
  memcpy(lanes, &x, sizeof x);
#pragma GCC unroll 4
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
  return lanes[0];
}

// NaN compares false and is passed by.
template <class T>
INLINE float largest_of(const T* x, int64_t V) {
  // Four at a time: a comparison waits for the one before it.
  F a = splat(-__builtin_inff()), b = a, c = a, d = a;
  int64_t v = 0;
  for (; v + 4 * LANES <= V; v += 4 * LANES) {
    a = larger(a, load(x + v));
    b = larger(b, load(x + v + LANES));
    c = larger(c, load(x + v + 2 * LANES));
    d = larger(d, load(x + v + 3 * LANES));
  }
  for (; v < V; v += LANES) a = larger(a, load(x + v, V - v < LANES ? V - v : (int64_t)LANES));
  return largest_lane(larger(larger(a, b), larger(c, d)));
}

// Elements between two looks at what the largest is by now.
constexpr int64_t STRETCH = 1024;
// How far ahead of the reading memory is asked for, in elements: a page is new to the processor.
constexpr int64_t AHEAD = 2048;
// d/T up to which a logit may be above what the differences are from. A large one would be taken off
// the sums again when they are scaled, and leave its roundings.
constexpr float ROOM = 1.0f;

// Σ e^(d/T) and Σ e^(d/T) d of a row's differences d = z − max z.
struct SoftmaxSums {
  double largest, exps, weighted;
};

// One pass over memory: differences are from a logit that was the largest so far, and what was
// summed is scaled when a larger one is found.
template <class T>
INLINE SoftmaxSums softmax_sums(const T* logits, int64_t V, float inverse_temperature) {
  const Softmax softmax(inverse_temperature);
  const float room = ROOM / inverse_temperature;
  float top = largest_of(logits, V < STRETCH ? V : STRETCH);
  if (top < -LARGEST) top = -LARGEST;
  Sum exps, weighted;
  const auto rise = [&](float next) __attribute__((always_inline)) {
    const double d = (double)top - next, factor = __builtin_exp(d * inverse_temperature);
    weighted.blocks = (weighted.blocks + exps.blocks * d) * factor;
    exps.blocks *= factor;
    top = next;
  };
  for (int64_t begin = 0; begin < V; begin += STRETCH) {
    const int64_t size = V - begin < STRETCH ? V - begin : STRETCH;
    const D exps_before = exps.blocks, weighted_before = weighted.blocks;
    const F from = splat(top);
    F most = from;
    over_row(
        size,
        [&](int64_t v, int64_t count) __attribute__((always_inline)) {
          __builtin_prefetch(logits + begin + v + AHEAD);
          const F z = load(logits + begin + v, count);
          most = larger(most, z);
          // Bounded, for 0 · −∞ is 0 here: a piece that a member excludes has no entropy.
          const F d = softmax.bounded(z - from);
          const F e = softmax.exp_of_bounded(d);
          exps.add(e, count);
          weighted.add(e * d, count);
        },
        [&]() __attribute__((always_inline)) {
          exps.end_block();
          weighted.end_block();
        });
    const float next = largest_lane(most);
    if (next > top + room) {
      // Once more, from there.
      exps.blocks = exps_before;
      weighted.blocks = weighted_before;
      rise(next);
      begin -= STRETCH;
    } else if (next > top) {
      rise(next);
    }
  }
  return {top, exps.total(), weighted.total()};
}

}  // namespace
