// The library's C interface: chooses the instruction set and shares the rows among threads.
#include <stdint.h>
#include <stdlib.h>

#include "rows.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Level { BASELINE, AVX2, AVX512, LEVELS };

const RowFunctions& functions(int32_t level) {
#if defined(__x86_64__)
  if (level == AVX2) return row_functions_avx2();
  if (level == AVX512) return row_functions_avx512();
#endif
  (void)level;
  return row_functions_baseline();
}

// While it lives, numbers below the smallest normal one are 0: on x86 each would cost a hundred
// cycles, and rows whose logits are far apart are full of them.
class WithoutSubnormals {
 public:
#if defined(__x86_64__)
  WithoutSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~WithoutSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

template <class Arguments>
int32_t for_rows(void (*row_function)(const Arguments&, int64_t, float*), const Arguments& arguments,
                 int64_t rows, int32_t threads) {
  int32_t failed = 0;
  if (rows < 1) return failed;
  if (threads > rows) threads = (int32_t)rows;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : failed)
  {
    [[maybe_unused]] const WithoutSubnormals mode;
    float* memory = (float*)malloc((size_t)arguments.V * sizeof(float));
    failed = memory == nullptr;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row)
      if (memory != nullptr) row_function(arguments, row, memory);
    free(memory);
  }
  return failed;
}

}  // namespace

// The highest level this processor has: 0 baseline, 1 AVX2 with FMA, 2 AVX-512.
EXPORT int32_t seqdistill_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return BASELINE;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return AVX512;
  return AVX2;
#else
  return BASELINE;
#endif
}

EXPORT int32_t seqdistill_has_openmp() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

// Each returns 0, or 1 where memory ran out.
EXPORT int32_t seqdistill_add_members(int32_t level, int32_t threads, int64_t rows,
                                     const MemberArguments* arguments) {
  return for_rows(functions(level).add_members, *arguments, rows, threads);
}

EXPORT int32_t seqdistill_ensemble(int32_t level, int32_t threads, int64_t rows,
                                   const EnsembleArguments* arguments) {
  return for_rows(functions(level).ensemble, *arguments, rows, threads);
}

EXPORT int32_t seqdistill_student(int32_t level, int32_t threads, int64_t rows,
                                  const StudentArguments* arguments) {
  return for_rows(functions(level).student, *arguments, rows, threads);
}

EXPORT int32_t seqdistill_uncertainty(int32_t level, int32_t threads, int64_t rows,
                                      const UncertaintyArguments* arguments) {
  return for_rows(functions(level).uncertainty, *arguments, rows, threads);
}

EXPORT int32_t seqdistill_mix_member(int32_t level, int32_t threads, int64_t rows,
                                     const MixArguments* arguments) {
  return for_rows(functions(level).mix_member, *arguments, rows, threads);
}

EXPORT int32_t seqdistill_read_mixture(int32_t level, int32_t threads, int64_t rows,
                                       const ReadMixtureArguments* arguments) {
  return for_rows(functions(level).read_mixture, *arguments, rows, threads);
}

EXPORT void seqdistill_elementary(int32_t level, int32_t which, const float* x, float* y,
                                  int64_t count) {
  functions(level).elementary(which, x, y, count);
}
