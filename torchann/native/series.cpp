// The elementwise part of `torchann/fast/series.py` in one pass over memory: for collapsed series with weights c [R],
// through an activation whose f′ is a polynomial p(o) = c₀ + c₁ o + c₂ o².
//
// A stack is [T, n, O] with T = R + 2: a value, R first derivatives, and the collapsed second derivative s.
#include <ATen/Parallel.h>
#include <torch/extension.h>

// GCC compiles such a function for several kinds of CPU, and the program picks one when it starts.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define INLINE inline __attribute__((always_inline))
#else
#define FOR_EACH_CPU
#define INLINE inline
#endif

namespace {

using at::Tensor;
using Polynomial = std::array<double, 3>;

constexpr int64_t CHUNK = 256;  // entries whose sums over the directions stay in the first-level cache
constexpr int64_t GRAIN = 4096;  // entries for one thread at least

// ȯ_r = p ż_r,  s_o = p (s_z + p′ Σ c_r ż_r²), over the terms of z; the value of the stack is o already.
template <typename T>
INLINE void activate(T* stack, int64_t size, int64_t count, int64_t directions, const T* c, const T* slope) {
  const T c0 = slope[0], c1 = slope[1], c2 = slope[2];
  T p[CHUNK], squares[CHUNK];
  for (int64_t i = 0; i < count; ++i) {
    p[i] = c0 + stack[i] * (c1 + c2 * stack[i]);
    squares[i] = 0;
  }
  for (int64_t r = 0; r < directions; ++r) {
    T* z = stack + (r + 1) * size;
    const T weight = c[r];
    if (weight != 0)
      for (int64_t i = 0; i < count; ++i) squares[i] += weight * z[i] * z[i];
    for (int64_t i = 0; i < count; ++i) z[i] *= p[i];
  }
  T* s = stack + (directions + 1) * size;
  for (int64_t i = 0; i < count; ++i) s[i] = p[i] * (s[i] + (c1 + 2 * c2 * stack[i]) * squares[i]);
}

// δ = p ē + p′ (Σ ȯ_r ē_r + s ē_s) + p″ Σ c_r ȯ_r² ē_s,  δ_r = p ē_r + 2 c_r p′ ȯ_r ē_s,  δ_s = p ē_s, over the ē's.
template <typename T>
INLINE void delta(T* grads, const T* o, int64_t size, int64_t count, int64_t directions, const T* c, const T* slope) {
  const T c0 = slope[0], c1 = slope[1], c2 = slope[2];
  T p[CHUNK], first[CHUNK], cross[CHUNK], squares[CHUNK], scaled[CHUNK];
  T* grad_s = grads + (directions + 1) * size;
  const T* s = o + (directions + 1) * size;
  for (int64_t i = 0; i < count; ++i) {
    p[i] = c0 + o[i] * (c1 + c2 * o[i]);
    first[i] = c1 + 2 * c2 * o[i];
    cross[i] = s[i] * grad_s[i];
    squares[i] = 0;
    scaled[i] = 2 * first[i] * grad_s[i];
  }
  for (int64_t r = 0; r < directions; ++r) {
    T* grad_r = grads + (r + 1) * size;
    const T* o_r = o + (r + 1) * size;
    const T weight = c[r];
    for (int64_t i = 0; i < count; ++i) {
      cross[i] += o_r[i] * grad_r[i];
      grad_r[i] *= p[i];
    }
    if (weight != 0)
      for (int64_t i = 0; i < count; ++i) {
        squares[i] += weight * o_r[i] * o_r[i];
        grad_r[i] += weight * o_r[i] * scaled[i];
      }
  }
  for (int64_t i = 0; i < count; ++i) {
    grads[i] = p[i] * grads[i] + first[i] * cross[i] + 2 * c2 * squares[i] * grad_s[i];
    grad_s[i] *= p[i];
  }
}

// FOR_EACH_CPU takes no templates.
using Size = int64_t;
FOR_EACH_CPU void activate_chunk(float* z, Size size, Size n, Size directions, const float* c, const float* slope) {
  activate(z, size, n, directions, c, slope);
}
FOR_EACH_CPU void activate_chunk(double* z, Size size, Size n, Size directions, const double* c, const double* slope) {
  activate(z, size, n, directions, c, slope);
}
FOR_EACH_CPU void delta_chunk(
    float* grads, const float* o, Size size, Size n, Size directions, const float* c, const float* slope) {
  delta(grads, o, size, n, directions, c, slope);
}
FOR_EACH_CPU void delta_chunk(
    double* grads, const double* o, Size size, Size n, Size directions, const double* c, const double* slope) {
  delta(grads, o, size, n, directions, c, slope);
}

template <typename Function>
void in_chunks(int64_t size, Function function) {
  at::parallel_for(0, size, GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t start = begin; start < end; start += CHUNK) function(start, std::min(CHUNK, end - start));
  });
}

}  // namespace

void activate_terms_(Tensor stack, std::vector<double> coefficients, Polynomial slope) {
  const int64_t size = stack[0].numel(), directions = stack.size(0) - 2;
  AT_DISPATCH_FLOATING_TYPES(stack.scalar_type(), "activate_terms_", [&] {
    const std::vector<scalar_t> c(coefficients.begin(), coefficients.end()), p(slope.begin(), slope.end());
    scalar_t* data = stack.data_ptr<scalar_t>();
    in_chunks(size, [&](int64_t start, int64_t count) {
      activate_chunk(data + start, size, count, directions, c.data(), p.data());
    });
  });
}

void delta_(Tensor grads, Tensor outputs, std::vector<double> coefficients, Polynomial slope) {
  const int64_t size = grads[0].numel(), directions = grads.size(0) - 2;
  AT_DISPATCH_FLOATING_TYPES(grads.scalar_type(), "delta_", [&] {
    const std::vector<scalar_t> c(coefficients.begin(), coefficients.end()), p(slope.begin(), slope.end());
    scalar_t* data = grads.data_ptr<scalar_t>();
    const scalar_t* o = outputs.data_ptr<scalar_t>();
    in_chunks(size, [&](int64_t start, int64_t count) {
      delta_chunk(data + start, o + start, size, count, directions, c.data(), p.data());
    });
  });
}
