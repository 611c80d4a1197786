// The row operations, compiled once per instruction set; the formulas are those of
// seqdistill/losses, the grouping of terms that of seqdistill/numerics.
#include "rows.h"

#include "losses.h"
#include "members.h"
#include "mixture.h"
#include "uncertainty.h"

#if LANES == 16
#define ROW_FUNCTIONS row_functions_avx512
#elif LANES == 8
#define ROW_FUNCTIONS row_functions_avx2
#else
#define ROW_FUNCTIONS row_functions_baseline
#endif

namespace {

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
  static const RowFunctions functions = {
      add_members_row, ensemble, student_row, uncertainty, mix_member, read_mixture, elementary};
  return functions;
}
