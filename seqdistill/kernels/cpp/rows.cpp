// The row operations, compiled once per instruction set; the formulas are those of
// seqdistill/losses, the grouping of terms that of seqdistill/numerics.
#include "rows.h"

#include "losses.h"

#if LANES == 16
#define ROW_FUNCTIONS row_functions_avx512
#elif LANES == 8
#define ROW_FUNCTIONS row_functions_avx2
#else
#define ROW_FUNCTIONS row_functions_baseline
#endif

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

// --- teachers -----------------------------------------------------------------------------------

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
// Bytes of a row's logits that the second level's cache keeps beside the two rows of sums.
constexpr int64_t GROUP_BYTES = 1 << 20;
constexpr int64_t GROUP = 16;

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

// Two passes over a row of every member, nothing kept between them but three numbers: the
// exponential is computed again, which is faster than to write it to memory and read it.
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
    float largest[GROUP], share[GROUP], shift[GROUP];
    for (int64_t m = first; m < stop; ++m) {
      const int64_t k = m - first;
      logits[k] = (const T*)a.logits[m] + row * a.logits_strides[m];
      const SoftmaxSums sums = softmax_sums(logits[k], a.V, a.inverse_temperature);
      const double log_total = __builtin_log(sums.exps);
      const double mean_gap = sums.weighted / sums.exps * a.inverse_temperature;
      a.negative_entropies[m * a.n + row] = (float)(a.weight * (mean_gap - log_total));
      largest[k] = (float)sums.largest;
      share[k] = (float)(a.weight / sums.exps);
      shift[k] = (float)(a.weight * log_total);
    }
    for (int64_t begin = 0; begin < a.V; begin += NEAR) {
      const int64_t size = a.V - begin < NEAR ? a.V - begin : NEAR;
      for (int64_t m = first; m < stop; ++m) {
        const T* z = logits[m - first] + begin;
        const F high = splat(largest[m - first]), down = splat(shift[m - first]);
        const F factor = splat(share[m - first]);
        const bool begins = a.is_first && m == 0;
        over_row(
            size,
            [&](int64_t v, int64_t count) __attribute__((always_inline)) {
              const F d = load(z + v, count) - high;
              const F e = softmax.exp_of_bounded(softmax.bounded(d));
              F p = F{}, l = F{};
              if (!begins) {
                p = load(mean_probs + begin + v, count);
                l = load(mean_log_probs + begin + v, count);
              }
              store(mean_probs + begin + v, e * factor + p, count);
              store(mean_log_probs + begin + v, d * slope + (l - down), count);
            },
            []() {});
      }
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

// --- student ------------------------------------------------------------------------------------

template <class T, class Loss>
void student(const StudentArguments& a, int64_t row_index, float* exps) {
  const T* logits = (const T*)a.logits + row_index * a.logits_stride;
  T* gradient = (T*)a.gradient + row_index * a.gradient_stride;
  const float* target = a.target + row_index * a.target_stride;
  RowState row{};
  row.V = a.V;
  row.largest = largest_of(logits, a.V);
  Sum exp_sum, centred, mass;
  F most = F{};
  const F largest = splat((float)row.largest);
  over_row(
      a.V,
      [&](int64_t v, int64_t count) __attribute__((always_inline)) {
        const F gap = load(logits + v, count) - largest;
        const F e = exp_nonpositive(gap);
        store(exps + v, e, count);
        exp_sum.add(e, count);
        centred.add(gap, count);
        if (Loss::mean_first) {
          const F mean = load(target + v, count);
          mass.add(mean, count);
          most = larger(most, mean);
        }
      },
      [&]() __attribute__((always_inline)) {
        exp_sum.end_block();
        centred.end_block();
        mass.end_block();
      });
  row.log_sum_gap = __builtin_log(exp_sum.total());
  row.centred_sum = centred.total();
  if (Loss::mean_first) {
    row.mean_mass = mass.total();
    for (int i = 0; i < LANES; ++i) row.mean_largest = larger(row.mean_largest, (double)most[i]);
  }
  row.inverse_w = a.inverse_w ? a.inverse_w[row_index] : 0.0;
  row.inverse_precision = a.inverse_precision ? a.inverse_precision[row_index] : 0.0;
  const double row_weight = a.row_weight ? a.row_weight[row_index] : 1.0;
  const double other = a.label_smoothing > 0 ? a.label_smoothing / (double)(a.V - 1) : 0.0;
  const double at_reference = 1 - a.label_smoothing - other;
  row.distil = row_weight * (1 - a.mix_weight);
  row.cross = row_weight * a.mix_weight;
  row.other = row.cross * other;

  const int64_t reference = a.references ? a.references[row_index] : 0;
  float z_reference = 0.0f;
  if (a.references) {
    z_reference = load(logits + reference, 1)[0];
    a.reference_logit[row_index] = z_reference;
  }
  a.log_sum[row_index] = (float)(row.largest + row.log_sum_gap);
  a.largest_logit[row_index] = (float)row.largest;

  const Loss loss(row);
  Sum first, second, third;
  over_row(
      a.V,
      [&](int64_t v, int64_t count) __attribute__((always_inline)) {
        const Terms terms =
            loss.at(load(logits + v, count), load(exps + v, count), load(target + v, count));
        store(gradient + v, terms.gradient, count);
        first.add(terms.a, count);
        second.add(terms.b, count);
        third.add(terms.c, count);
      },
      [&]() __attribute__((always_inline)) {
        first.end_block();
        second.end_block();
        third.end_block();
      });
  double value = row.distil * loss.loss(row, first.total(), second.total(), third.total());
  if (a.mix_weight != 0) {
    const double log_prob = z_reference - row.largest - row.log_sum_gap;
    const double all = row.centred_sum - (double)a.V * row.log_sum_gap;
    value -= row.cross * (at_reference * log_prob + other * all);
    // Once more at the reference, before it was rounded to the logits' type.
    const F z = splat(z_reference), e = splat(exps[reference]), t = splat(target[reference]);
    store(gradient + reference, loss.at(z, e, t).gradient - (float)(row.cross * at_reference), 1);
  }
  a.loss[row_index] = (float)value;
}

template <class T, template <bool> class Loss>
void student_offset(const StudentArguments& a, int64_t row, float* exps) {
  if (a.offset)
    student<T, Loss<true>>(a, row, exps);
  else
    student<T, Loss<false>>(a, row, exps);
}

template <class T>
void student_kind(const StudentArguments& a, int64_t row, float* exps) {
  switch (a.kind) {
    case PROXY_DIRICHLET: return student_offset<T, ProxyDirichlet>(a, row, exps);
    case PROXY_DIRICHLET_FORWARD: return student_offset<T, ProxyDirichletForward>(a, row, exps);
    case END2: return student_offset<T, End2>(a, row, exps);
    default: return student<T, MeanKl<true>>(a, row, exps);
  }
}

void add_members_row(const MemberArguments& a, int64_t row, float*) {
  a.is_bfloat16 ? add_members<bfloat16>(a, row) : add_members<float>(a, row);
}

void student_row(const StudentArguments& a, int64_t row, float* memory) {
  a.is_bfloat16 ? student_kind<bfloat16>(a, row, memory) : student_kind<float>(a, row, memory);
}

void elementary(int32_t which, const float* x, float* y, int64_t count) {
  for (int64_t v = 0; v < count; v += LANES) {
    const int64_t part = count - v < LANES ? count - v : (int64_t)LANES;
    const F in = load(x + v, part);
    const F out = which == 0   ? exp_nonpositive(in)
                  : which == 1 ? exp_scaled(in, 0.0f)
                  : which == 2 ? log_positive(in)
                               : log1p_unit(in);
    store(y + v, out, part);
  }
}

}  // namespace

const RowFunctions& ROW_FUNCTIONS() {
  static const RowFunctions functions = {add_members_row, ensemble, student_row, elementary};
  return functions;
}
