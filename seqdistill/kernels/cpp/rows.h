// What is shared by the instruction sets: the arguments of the operations and the table of a set.
#pragma once

#include <stdint.h>

// The order of seqdistill.kernels.backend.KINDS.
enum Kind { PROXY_DIRICHLET, PROXY_DIRICHLET_FORWARD, END2, MEAN_KL };

struct MemberArguments {
  const void* const* logits;  // of each member: (n, V), rows logits_strides[m] apart
  const int64_t* logits_strides;
  float* mean_probs;
  float* mean_log_probs;
  float* negative_entropies;  // (members, n)
  int64_t members, n, V;
  float inverse_temperature, weight;
  int32_t is_bfloat16, is_first;
};

struct EnsembleArguments {
  const float* mean_probs;
  const float* mean_log_probs;
  float* total_uncertainty;
  float* mutual_information;  // the reverse one
  int64_t V;
};

struct StudentArguments {
  const void* logits;   // (n, V), rows logits_stride apart
  void* gradient;       // (n, V) of the same type, rows gradient_stride apart; may be the logits
  const float* target;  // (n, V) p̄, or ℓ̄ for END2
  const float* inverse_w;
  const float* inverse_precision;
  const int64_t* references;
  const float* row_weight;
  float* loss;
  float* log_sum;
  float* reference_logit;
  float* largest_logit;
  int64_t logits_stride, gradient_stride, target_stride, V;
  double mix_weight, label_smoothing;
  int32_t kind, offset, is_bfloat16;
};

struct UncertaintyArguments {
  const float* logits;  // (n, V), rows logits_stride apart
  float* measures;      // (6, n): TU, MI, EPKL, RMI, TU of the base, 1/α₀
  float* largest;       // (n) max z
  double* log_gap;      // (n) ln Σ e^z − max z
  float* log_probs;     // (n, V) of the base or the mean, or null
  int64_t logits_stride, n, V;
  int32_t offset, is_mean;
};

// Sums over members, of which this is one: Σ p, Σ ln p, and Σ w p where members have weights.
struct MixArguments {
  const float* logits;  // (n, V), rows logits_stride apart
  float* probs;         // (n, V); may be the first member's logits
  float* log_probs;     // (n, V)
  float* weighted;      // (n, V) = fade · before + share · p, or null
  const double* fade;   // (n)
  const double* share;  // (n)
  double* log_total;    // (n) ln Σ e^z
  double* entropy;      // (n) of p
  int64_t logits_stride, V;
  int32_t is_first;
};

struct ReadMixtureArguments {
  float* sums;             // (n, V) q = factor · sums
  const float* log_probs;  // (n, V) Σ ln p
  const double* factor;    // (n)
  double* measures;        // (4, n): H(q), Σ q (ln q − mean ln p), max q, min q
  int64_t members, n, V;
  int32_t wants_log;  // ln q in the place of the sums
};

// Each operation is one row; memory is V floats of the thread.
struct RowFunctions {
  void (*add_members)(const MemberArguments&, int64_t row, float* memory);
  void (*ensemble)(const EnsembleArguments&, int64_t row, float* memory);
  void (*student)(const StudentArguments&, int64_t row, float* memory);
  void (*uncertainty)(const UncertaintyArguments&, int64_t row, float* memory);
  void (*mix_member)(const MixArguments&, int64_t row, float* memory);
  void (*read_mixture)(const ReadMixtureArguments&, int64_t row, float* memory);
  // Elementary functions for tests: 0 exp (x ≤ 0), 1 exp, 2 log, 3 log1p on [0, 1].
  void (*elementary)(int32_t which, const float* x, float* y, int64_t count);
};

const RowFunctions& row_functions_baseline();
const RowFunctions& row_functions_avx2();
const RowFunctions& row_functions_avx512();
