// Vectors of floats and the elementary functions of the row kernels.
//
// Compiled once per instruction set: LANES floats fit one register. The types are the vector
// extension that g++ and clang++ share, so that nothing depends on what a compiler's vectoriser
// makes of a loop. Everything is in an unnamed namespace and no template of the standard library is
// used: a function compiled for AVX-512 must never be the one that the linker keeps for all.
#pragma once

#include <stdint.h>
#include <string.h>

#include "coefficients.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#else
#define LANES 4
#endif

#if LANES == 16
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace {

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));
typedef double D __attribute__((vector_size(8 * LANES)));

// The upper half of a float; arithmetic is in float.
struct bfloat16 {
  uint16_t bits;
};

INLINE F splat(float x) { return x - F{}; }
INLINE F as_float(I x) { return (F)x; }
// One instruction where they are written in its order of arguments; x if one is NaN.
INLINE F larger(F x, F y) { return y > x ? y : x; }
INLINE F smaller(F x, F y) { return y < x ? y : x; }

// Whether a comparison holds in any lane.
INLINE bool any(I truth) {
  int32_t all[LANES], one = 0;
  memcpy(all, &truth, sizeof truth);
  for (int32_t lane : all) one |= lane;
  return one != 0;
}

// --- memory: count is LANES but for the last vector of a row ------------------------------------

INLINE F load(const float* p) {
  F x;
  memcpy(&x, p, sizeof x);
  return x;
}

INLINE F load(const bfloat16* p) {
  H h;
  memcpy(&h, p, sizeof h);
  return (F)(__builtin_convertvector(h, U) << 16);
}

// Lanes beyond the row repeat its last element: no value that the row does not have.
template <class T>
INLINE F load(const T* p, int64_t count) {
  if (count == LANES) return load(p);
  T padded[LANES];
  for (int64_t i = 0; i < LANES; ++i) padded[i] = p[i < count ? i : count - 1];
  return load(padded);
}

INLINE void store(float* p, F x) { memcpy(p, &x, sizeof x); }

INLINE void store(bfloat16* p, F x) {
  const U bits = (U)x;
  // To nearest, ties to even; a NaN would be rounded into another number.
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U nan = (bits >> 16) | 0x40u;
  const H h = __builtin_convertvector(x == x ? rounded : nan, H);
  memcpy(p, &h, sizeof h);
}

template <class T>
INLINE void store(T* p, F x, int64_t count) {
  if (count == LANES) return store(p, x);
  T padded[LANES];
  store(padded, x);
  for (int64_t i = 0; i < count; ++i) p[i] = padded[i];
}

// --- sums: float within a block of a row, double over the blocks --------------------------------

// Vectors in a block: each lane adds up so many floats before they become doubles.
constexpr int64_t BLOCK = 16;

struct Sum {
  F part = F{};
  D blocks = D{};

  INLINE void add(F x, int64_t count) {
    if (count != LANES)
      for (int64_t i = count; i < LANES; ++i) x[i] = 0.0f;
    part += x;
  }
  INLINE void end_block() {
    blocks += __builtin_convertvector(part, D);
    part = F{};
  }
  INLINE double total() const {
    double sum = 0.0;
    for (int i = 0; i < LANES; ++i) sum += blocks[i];
    return sum;
  }
};

// Call step(v, count) for each vector of a row, and end_block() after each block of vectors.
template <class Step, class End>
INLINE void over_row(int64_t V, Step step, End end_block) {
  int64_t v = 0;
  while (v + LANES <= V) {
    const int64_t left = (V - v) / LANES;
    const int64_t stop = v + (left < BLOCK ? left : BLOCK) * LANES;
    for (; v < stop; v += LANES) step(v, (int64_t)LANES);
    end_block();
  }
  if (v < V) {
    step(v, V - v);
    end_block();
  }
}

// --- elementary functions; relative errors below 1.5e-7 -----------------------------------------

template <size_t N>
INLINE F horner(const float (&c)[N], F x) {
  F value = splat(c[N - 1]);
#pragma GCC unroll 16
  for (size_t k = 2; k <= N; ++k) value = value * x + c[N - k];
  return value;
}

constexpr float LOG2_E = 1.44269504f;
// ln 2 = high + low; high has 16 bits, so that a whole number times it is exact.
constexpr float LN2_HIGH = 0.693145751953125f, LN2_LOW = 1.42860677e-6f;
// Adding 1.5 · 2^23 rounds to a whole number and leaves it in the lowest bits.
constexpr float ROUND = 12582912.0f;
constexpr float SMALLEST_NORMAL = 1.17549435e-38f, LARGEST = 3.40282347e38f;

// (e^r − 1 − r)/r² for |r| ≤ ln 2/2: minimax, 3e-9 of e^r.
constexpr float EXP[] = {0.49999994f, 0.166665211f, 0.0416682661f, 0.00836867746f, 0.00138207339f};
// (ln(1 + f) − f + f²/2)/f³ for √½ ≤ 1 + f ≤ √2: minimax, 6e-9 of ln(1 + f).
constexpr float LOG[] = {0.333333313f, -0.250008255f, 0.200012505f, -0.1662319f,
                         0.142011762f, -0.13161464f,  0.127662078f, -0.0763644949f};
// ln(1 + y)/y for 0 ≤ y ≤ 1: minimax, 5e-9.
constexpr float LOG1P[] = {1.0f,         -0.499999315f, 0.333304644f,  -0.249580204f, 0.196921214f,
                           -0.153449774f, 0.106613711f, -0.0574604832f, 0.0200884603f, -0.00329107419f};

// 2^n for whole n from −127, which gives 0, to 128, which gives infinity.
INLINE F power_of_two(F rounded) { return as_float(((I)rounded << 23) + 0x3f800000); }

INLINE F exp_of_remainder(F x, F n) {
  const F r = (x - n * LN2_HIGH) - n * LN2_LOW;
  return (r * r * horner(EXP, r) + r) + 1.0f;
}

// e^x for x ≤ 0, −∞ included; 0 from −88 on.
INLINE F exp_nonpositive(F x) {
  x = larger(x, splat(-88.0f));
  const F rounded = x * LOG2_E + ROUND;
  return exp_of_remainder(x, rounded - ROUND) * power_of_two(rounded);
}

// (2^f − 1)/f for |f| ≤ ½: minimax, 1.6e-8 of 2^f.
constexpr float EXP2[] = {0.693147182f, 0.240226477f,  0.0555033237f,
                          0.00961843785f, 0.0013398875f, 0.000153533489f};

// x · 2^n for whole n = rounded − ROUND ≤ 127; below LOWEST_POWER it may be anything.
#if LANES == 16
constexpr double LOWEST_POWER = -160.0;
INLINE F times_power_of_two(F x, F rounded) {
  return (F)_mm512_scalef_ps((__m512)x, (__m512)(rounded - ROUND));
}
#else
constexpr double LOWEST_POWER = -127.0;
INLINE F times_power_of_two(F x, F rounded) { return x * power_of_two(rounded); }
#endif

// e^(d/T) for differences d of logits up to 80 T, −∞ included; 0 from −88 T on. The whole part n of
// d/T in base 2 is split off with fused multiplications, so that neither 1/T nor log2 e is rounded
// twice: all of a row would be off the same way, and its entropy with it.
struct Softmax {
  F high, low, lowest;

  INLINE explicit Softmax(double inverse_temperature) {
    const double factor = inverse_temperature * 1.4426950408889634;
    high = splat((float)factor);
    low = splat((float)(factor - (double)(float)factor));
    lowest = splat((float)(LOWEST_POWER / factor));
  }
  INLINE F bounded(F d) const { return larger(d, lowest); }
  INLINE F exp_of_bounded(F d) const {
    const F rounded = d * high + ROUND;
    const F f = d * low + (d * high - (rounded - ROUND));
    return times_power_of_two(f * horner(EXP2, f) + 1.0f, rounded);
  }
};

// e^x · 2^k for any x and whole k: 0 below the normal numbers, infinity from 2^127.5 on.
INLINE F exp_scaled(F x, float k) {
  x = smaller(larger(x, splat(-500.0f)), splat(500.0f));
  const F n = (x * LOG2_E + ROUND) - ROUND;
  const F power = smaller(larger(n + k, splat(-127.0f)), splat(128.0f));
  return exp_of_remainder(x, n) * power_of_two(power + ROUND);
}

// ln x for normal numbers x > 0.
INLINE F log_positive(F x) {
  const I bits = (I)x;
  const I exponent = (bits - 0x3f3504f3) >> 23;  // of x/√½
  const F f = as_float(bits - (exponent << 23)) - 1.0f;
  const F n = __builtin_convertvector(exponent, F);
  const F correction = f * f * (f * horner(LOG, f) - 0.5f);
  return n * LN2_HIGH + (f + (correction + n * LN2_LOW));
}

// ln(1 + y) for 0 ≤ y ≤ 1.
INLINE F log1p_unit(F y) { return y * horner(LOG1P, y); }

// The functions of seqdistill.numerics.ExpGamma at z: see there.
struct ExpGamma {
  F t, s, log1p, tr;

  INLINE explicit ExpGamma(F z) {
    const F magnitude = as_float((I)z & 0x7fffffff);
    const F small = exp_nonpositive(-magnitude);
    const F large_share = 1.0f / (1.0f + small);
    const F small_share = small * large_share;
    t = z > 0.0f ? small_share : large_share;
    s = z > 0.0f ? large_share : small_share;
    log1p = log1p_unit(small);
    tr = t * horner(R_FLOAT, t);
  }
  INLINE F q() const { return horner(Q_FLOAT, t); }
  // ψ(1 + e^z) − max(z, 0)
  INLINE F digamma_rest() const { return log1p - tr; }
  // lnΓ(1 + a) − a ψ(1 + a) + a at a = e^z
  INLINE F entropy_term(F z) const {
    return 0.5f * (larger(z, F{}) + log1p) + s * horner(C_FLOAT, s);
  }
};

}  // namespace
