/* A step of synapses with few passes over memory: one, where the optimizer has them inside (adam_step, sgd_step); one
   before and one after the step of any other (pull, integrate).

   native.py compiles this for the machine at hand, once for float and once for double (REAL), and calls it with lists of
   tensors. functional.py says the same readably, torch's optimizers the rest; tests hold them together.

   Of each tensor there are n numbers at each address; an address that is 0 says that there is none. Without omega
   nothing pulls yet, without path there are no synapses; omega may be bfloat16, and is `coarse` then. The path takes the
   step that was stored, as eq. 3 has it. */
#include <math.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* Below this many numbers waking the other threads costs more than they do. */
enum { ALONE = 32768 };

/* Whether there is a pull, and where its importance lies. */
enum { NONE, OMEGA, COARSE };

/* A number in bfloat16 is the upper half of a float. */
INLINE float widened(uint16_t upper) {
    union { uint32_t bits; float number; } both = {(uint32_t)upper << 16};
    return both.number;
}

/* Adds to the path what this element's step lowered the loss by; what is not finite adds nothing and is told. */
INLINE int integrate(REAL *path, REAL gradient, REAL delta) {
    REAL increment = -gradient * delta;
    int finite = FABS(increment) <= LARGEST;
    *path += finite ? increment : 0;
    return !finite;
}

/* What an optimizer with synapses inside keeps: moments of Adam, or the momentum of SGD in `first`. */
typedef struct {
    REAL *theta;
    const REAL *grad;
    REAL *path;
    const REAL *anchor, *omega;
    REAL *first, *second, *largest;
    const uint16_t *coarse;
} Inside;

typedef struct {
    double lr, beta1, beta2, eps, l2, shrink, pull, sign, correction1, correction2;
} Adam;

INLINE int adam(Inside t, int64_t n, Adam a, const int pulls, const int integrates, const int amsgrad) {
    const REAL rate = a.lr / a.correction1, root = 1 / sqrt(a.correction2), eps = a.eps, pull = a.pull, sign = a.sign;
    const REAL l2 = a.l2, shrink = a.shrink, weight1 = 1 - a.beta1, weight2 = 1 - a.beta2;
    const REAL beta1 = a.beta1, beta2 = a.beta2;
    REAL *restrict theta = t.theta, *restrict path = t.path, *restrict m = t.first, *restrict v = t.second;
    REAL *restrict x = t.largest;
    const REAL *restrict grad = t.grad, *restrict anchor = t.anchor, *restrict omega = t.omega;
    const uint16_t *restrict coarse = t.coarse;
    int skipped = 0;
#pragma omp simd reduction(| : skipped)
    for (int64_t i = 0; i < n; i++) {
        REAL old = theta[i], task = sign * grad[i], used = task;
        if (pulls) used += pull * (pulls == COARSE ? (REAL)widened(coarse[i]) : omega[i]) * (old - anchor[i]);
        used += l2 * old;
        REAL first = beta1 * m[i] + weight1 * used, second = beta2 * v[i] + weight2 * used * used;
        m[i] = first;
        v[i] = second;
        if (amsgrad) x[i] = second = x[i] > second ? x[i] : second;
        REAL next = shrink * old - rate * (first / (SQRT(second) * root + eps));
        if (integrates) skipped |= integrate(&path[i], task, next - old);
        theta[i] = next;
    }
    return skipped;
}

typedef struct {
    double lr, momentum, fresh, nesterov, l2, pull, sign;
} Sgd;

INLINE int sgd(Inside t, int64_t n, Sgd s, const int pulls, const int integrates, const int remembers) {
    const REAL rate = s.lr, momentum = s.momentum, fresh = s.fresh, pull = s.pull, sign = s.sign, l2 = s.l2;
    const int nesterov = s.nesterov != 0;
    REAL *restrict theta = t.theta, *restrict path = t.path, *restrict buffer = t.first;
    const REAL *restrict grad = t.grad, *restrict anchor = t.anchor, *restrict omega = t.omega;
    const uint16_t *restrict coarse = t.coarse;
    int skipped = 0;
#pragma omp simd reduction(| : skipped)
    for (int64_t i = 0; i < n; i++) {
        REAL old = theta[i], task = sign * grad[i], used = task;
        if (pulls) used += pull * (pulls == COARSE ? (REAL)widened(coarse[i]) : omega[i]) * (old - anchor[i]);
        used += l2 * old;
        if (remembers) {
            REAL kept = buffer[i] = momentum * buffer[i] + fresh * used;
            used = nesterov ? used + momentum * kept : kept;
        }
        REAL next = old - rate * used;
        if (integrates) skipped |= integrate(&path[i], task, next - old);
        theta[i] = next;
    }
    return skipped;
}

/* Around the step of another optimizer: what it is given instead of the gradient, and theta from before it. */
typedef struct {
    const REAL *theta, *grad, *anchor, *omega;
    REAL *used, *before;
    const uint16_t *coarse;
} Before;

typedef struct {
    double pull;
} Pull;

INLINE int pull_(Before t, int64_t n, Pull s, const int pulls, const int kept, const int has_grad) {
    const REAL pull = s.pull;
    const REAL *restrict theta = t.theta, *restrict grad = t.grad, *restrict anchor = t.anchor, *restrict omega = t.omega;
    const uint16_t *restrict coarse = t.coarse;
    REAL *restrict used = t.used, *restrict before = t.before;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        REAL old = theta[i], sum = has_grad ? grad[i] : 0;
        if (pulls) sum += pull * (pulls == COARSE ? (REAL)widened(coarse[i]) : omega[i]) * (old - anchor[i]);
        used[i] = sum;
        if (kept) before[i] = old;
    }
    return 0;
}

typedef struct {
    const REAL *theta, *grad;
    REAL *path;
    const REAL *before;
} After;

typedef struct {
    double sign;
} Sign;

INLINE int integrate_(After t, int64_t n, Sign s, const int pulls, const int kept, const int third) {
    const REAL sign = s.sign;
    const REAL *restrict theta = t.theta, *restrict grad = t.grad, *restrict before = t.before;
    REAL *restrict path = t.path;
    int skipped = 0;
    (void)pulls, (void)kept, (void)third;
#pragma omp simd reduction(| : skipped)
    for (int64_t i = 0; i < n; i++) skipped |= integrate(&path[i], sign * grad[i], theta[i] - before[i]);
    return skipped;
}

/* The same tensors from one of their elements on. */
#define FROM(field) t.field = t.field ? t.field + start : 0
INLINE Inside inside_from(Inside t, int64_t start) {
    FROM(theta), FROM(grad), FROM(path), FROM(anchor), FROM(omega);
    FROM(first), FROM(second), FROM(largest), FROM(coarse);
    return t;
}

INLINE Before before_from(Before t, int64_t start) {
    FROM(theta), FROM(grad), FROM(anchor), FROM(omega), FROM(used), FROM(before), FROM(coarse);
    return t;
}

INLINE After after_from(After t, int64_t start) {
    FROM(theta), FROM(grad), FROM(path), FROM(before);
    return t;
}

/* A thread's share of a tensor: whole cache lines, so that no two threads write to one. */
INLINE int64_t share(int64_t n, int thread, int threads) {
    return thread == threads ? n : n / threads * thread / 64 * 64;
}

#ifdef _OPENMP
#define WHICH_THREAD thread = omp_get_thread_num(), of = omp_get_num_threads();
#else
#define WHICH_THREAD
#endif

/* Calls `rule` for each thread's share of each tensor, specialised for what there is. */
#define OVER_ALL(rule, from, pulls, b, c)                                                                             \
    int64_t total = 0;                                                                                                \
    for (int i = 0; i < count; i++) total += n[i];                                                                    \
    int skipped = 0;                                                                                                  \
    _Pragma("omp parallel num_threads(threads) reduction(| : skipped) if (total > ALONE)") {                          \
        int thread = 0, of = 1;                                                                                       \
        WHICH_THREAD                                                                                                  \
        for (int i = 0; i < count; i++) {                                                                             \
            int64_t start = share(n[i], thread, of), size = share(n[i], thread + 1, of) - start;                      \
            switch ((pulls) * 4 + (b) * 2 + (c)) {                                                                    \
                case 0: skipped |= rule(from(tensors[i], start), size, settings[i], NONE, 0, 0); break;               \
                case 1: skipped |= rule(from(tensors[i], start), size, settings[i], NONE, 0, 1); break;               \
                case 2: skipped |= rule(from(tensors[i], start), size, settings[i], NONE, 1, 0); break;               \
                case 3: skipped |= rule(from(tensors[i], start), size, settings[i], NONE, 1, 1); break;               \
                case 4: skipped |= rule(from(tensors[i], start), size, settings[i], OMEGA, 0, 0); break;              \
                case 5: skipped |= rule(from(tensors[i], start), size, settings[i], OMEGA, 0, 1); break;              \
                case 6: skipped |= rule(from(tensors[i], start), size, settings[i], OMEGA, 1, 0); break;              \
                case 7: skipped |= rule(from(tensors[i], start), size, settings[i], OMEGA, 1, 1); break;              \
                case 8: skipped |= rule(from(tensors[i], start), size, settings[i], COARSE, 0, 0); break;             \
                case 9: skipped |= rule(from(tensors[i], start), size, settings[i], COARSE, 0, 1); break;             \
                case 10: skipped |= rule(from(tensors[i], start), size, settings[i], COARSE, 1, 0); break;            \
                case 11: skipped |= rule(from(tensors[i], start), size, settings[i], COARSE, 1, 1); break;            \
            }                                                                                                         \
        }                                                                                                             \
    }                                                                                                                 \
    return skipped;

/* Whether the compiler knew OpenMP, so that threads share the work. */
int shares_work(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

#define PULLS (tensors[i].coarse ? COARSE : tensors[i].omega ? OMEGA : NONE)

int adam_step(int count, const int64_t *n, const Inside *tensors, const Adam *settings, int threads) {
    OVER_ALL(adam, inside_from, PULLS, !!tensors[i].path, !!tensors[i].largest)
}

int sgd_step(int count, const int64_t *n, const Inside *tensors, const Sgd *settings, int threads) {
    OVER_ALL(sgd, inside_from, PULLS, !!tensors[i].path, !!tensors[i].first)
}

int pull(int count, const int64_t *n, const Before *tensors, const Pull *settings, int threads) {
    OVER_ALL(pull_, before_from, PULLS, !!tensors[i].before, !!tensors[i].grad)
}

int integrate_all(int count, const int64_t *n, const After *tensors, const Sign *settings, int threads) {
    OVER_ALL(integrate_, after_from, NONE, 0, 0)
}
