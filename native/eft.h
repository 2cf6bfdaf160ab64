/* eft.h: emulated fine-tuning, the arithmetic, in one header of C11 without dependencies.
 *
 * Models that share a vocabulary run side by side; at every step their logits are added up and one token is sampled:
 *
 *     z = z_untuned + knowledge * (z_base - z_untuned) + behaviour * sum_i weight_i * (z_tuned_i - z_untuned)
 *
 * Mitchell et al., "An Emulator for Fine-Tuning Large Language Models using Small Language Models", arXiv 2310.12962.
 * What each function does is what eft_gguf/blend/equation.py and filter.py do in plain NumPy; tests hold both together.
 *
 * In exactly one source file:
 *
 *     #define EFT_IMPLEMENTATION
 *     #include "eft.h"
 *
 * and in all others #include "eft.h" alone. Link with -lm, compile with -O3 (the loops are plain, compilers turn them
 * into vector instructions) and without -ffast-math, which would do away with infinities.
 *
 * Nothing is allocated and nothing is remembered: each function reads its arguments, uses at most 40 KB of stack, and
 * where that is not enough the scratch memory that it is given. Threads may call all of them at the same time, with
 * scratch and outputs of their own. Outputs must not overlap inputs unless a function says that they may.
 *
 * Words: a row is the logits of one model for one position, n floats, one for each token of the shared vocabulary.
 * A logit that is not finite (infinity, NaN) means an impossible token. A token whose blend is no finite float is ruled
 * out: -INFINITY. Sums are taken in double: with tuned = untuned the blend is the base's row to the last bit.
 *
 * MIT license, see LICENSE.
 */
#ifndef EFT_H
#define EFT_H

#include <stddef.h>
#include <stdint.h>

#ifndef EFT_API
#if defined(_WIN32) && defined(EFT_SHARED)
#define EFT_API __declspec(dllexport)
#elif defined(EFT_SHARED)
#define EFT_API __attribute__((visibility("default")))
#else
#define EFT_API
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a function or struct changes in a way that callers must follow. */
#define EFT_ABI 1

/* The most rows that a blend may have. */
#define EFT_MAX_ROWS 64

/* ---- What is blended ------------------------------------------------------------------------------------------- */

/* What a row's model is in the blend. Only the filters ask. */
typedef enum eft_role {
    EFT_BASE = 0,       /* whose knowledge is wanted; at most one */
    EFT_UNTUNED = 1,    /* the small model before tuning; at most one */
    EFT_TUNED = 2,      /* a small model after tuning: a trait */
    EFT_OWN_UNTUNED = 3 /* what a trait was tuned from, where that is not the model of EFT_UNTUNED */
} eft_role;

/* One model's part. `logits` are n floats; NULL where the factor is 0 and no filter looks at the model. */
typedef struct eft_row {
    const float *logits;
    double factor;
    eft_role role;
} eft_row;

/* A token in the memory layout of llama.cpp's llama_token_data. */
typedef struct eft_candidate {
    int32_t id;
    float logit;
    float p;
} eft_candidate;

/* What keeps tokens from winning by noise in the tails. A top-p set is the smallest set of most likely tokens whose
 * probability reaches p, of equals those of smaller id.
 *
 * tuned_top_p: (0, 1], 1 is off. Knowledge counts only inside the top-p set of the tuned side, which is the blend at
 *     knowledge 0; tokens outside keep the probability that it gives them.
 * base_top_p: (0, 1], 1 is off. Tokens outside the base's top-p set are ruled out.
 * base_min_p: [0, 1], 0 is off. Tokens less than this times as likely as the base's likeliest are ruled out.
 * untuned_floor: -INFINITY (off) to 0. Log-probabilities of untuned models below it count as it, in nats.
 *
 * What would rule out every token leaves the most likely one of the blend. */
typedef struct eft_filter {
    double tuned_top_p;
    double base_top_p;
    double base_min_p;
    double untuned_floor;
} eft_filter;

/* The EFT_ABI that the implementation was compiled with. */
EFT_API int eft_abi(void);

/* A filter with everything off. */
EFT_API eft_filter eft_filter_none(void);

/* 1 if all values of the filter are inside their ranges, else 0, as for NULL. */
EFT_API int eft_filter_valid(const eft_filter *filter);

/* The equation sorted by model.
 *
 * knowledge, behaviour: the dials, any finite number; 1 is the paper's.
 * weights: n_traits finite numbers, the weight of each trait.
 * untuned: n_traits numbers, which untuned model each trait is measured against: 0 is EFT_UNTUNED, 1, 2, ... (at most
 *     EFT_MAX_ROWS) are further ones, EFT_OWN_UNTUNED. NULL if there is only the one.
 * factors: gets 2 + n_traits numbers, of the base, of the untuned model, of each tuned one, and after them one for each
 *     further untuned model: as many as the largest number in `untuned`.
 *
 * The factors sum to 1. A model of factor 0 has no part in the blend and, unless a filter looks at it, needs no decode.
 * Returns 0, or -1 if a number is not finite or out of its range. */
EFT_API int eft_factors(double knowledge, double behaviour, const double *weights, const int32_t *untuned,
                        size_t n_traits, double *factors);

/* ---- Blending --------------------------------------------------------------------------------------------------- */

/* All take `rows`, n_rows of them (at most EFT_MAX_ROWS), of n logits each (at most INT32_MAX). Rows of factor 0 are not
 * read. Rows may be longer than n: where vocabularies are padded to different lengths, n is the shared part. */

/* out[i] = the blended logit of token i; out has n floats. Returns 0, or -1 for too many rows or a missing one. */
EFT_API int eft_blend(const eft_row *rows, size_t n_rows, size_t n, float *out);

/* Fills n candidates with id and blended logit (p is set to 0), in the order of the ids. Returns as eft_blend. */
EFT_API int eft_blend_candidates(const eft_row *rows, size_t n_rows, size_t n, eft_candidate *out);

/* The token of the largest blended logit, of equals the smallest id, as llama.cpp's greedy sampler. Writes no memory.
 * -1 if no token is possible, or for wrong arguments. */
EFT_API int32_t eft_blend_argmax(const eft_row *rows, size_t n_rows, size_t n);

/* Puts the k largest blended logits, and what few others are found with them, into `out` (room for n candidates), in
 * the order of the ids: for samplers that begin with a top-k. Less is read and written than by eft_blend_candidates.
 * scratch: eft_scratch_size(n) bytes. Returns how many candidates there are, 0 for wrong arguments or k = 0. */
EFT_API size_t eft_blend_top(const eft_row *rows, size_t n_rows, size_t n, size_t k, void *scratch, eft_candidate *out);

/* The natural log-probability of `token`, 0 to n - 1, under the blend: -INFINITY or up to 0. NaN for wrong arguments. */
EFT_API double eft_blend_log_probability(const eft_row *rows, size_t n_rows, size_t n, int32_t token);

/* The bytes of scratch memory that a vocabulary of n tokens asks for: 24 n. Aligned as malloc aligns. */
EFT_API size_t eft_scratch_size(size_t n);

/* out[i] = the blended logit of token i under `filter`, up to a constant that is the same for all tokens.
 *
 * out: n floats. scratch: eft_scratch_size(n) bytes. The logits of a base of factor 0 must be there if base_top_p or
 * base_min_p is on, those of an untuned model of factor 0 if tuned_top_p is on and the base's factor is not 0.
 * Returns 0, or -1 for wrong arguments: too many rows, a missing row, a filter out of its ranges. */
EFT_API int eft_blend_filtered(const eft_row *rows, size_t n_rows, size_t n, const eft_filter *filter, void *scratch,
                               float *out);

/* ---- From logits to tokens -------------------------------------------------------------------------------------- */

/* log sum exp(logit) over the n finite logits: what lies between logits and log-probabilities. 0 if none is finite. */
EFT_API double eft_log_sum_exp(const float *logits, size_t n);

/* out[i] = the natural log-probability of token i, -INFINITY for impossible tokens. out may be logits. */
EFT_API void eft_log_softmax(const float *logits, size_t n, float *out);

/* Divides by a temperature, in place, after subtracting the largest logit: the largest becomes 0. Temperature 0 is the
 * limit: the most likely token, of equals the smallest id, gets 0 and all others -INFINITY. What is not finite becomes
 * -INFINITY. Returns 0, or -1 if the temperature is negative or not finite (nothing is changed then). */
EFT_API int eft_temper(float *logits, size_t n, float temperature);

/* Draws a token: the smallest id whose probability, with that of all smaller ids, exceeds `uniform`, a random number
 * from [0, 1). The same number gives the same token. -1 if no token is possible. */
EFT_API int32_t eft_sample(const float *logits, size_t n, double uniform);

/* ---- Speculation ------------------------------------------------------------------------------------------------ */

/* A draft is drawn from q and verified by p; both are logits after filter, temperature and whatever else. Accepted with
 * probability min(1, p / q), and replaced by a draw from the positive part of p - q where refused, the outcome has the
 * distribution p exactly (Leviathan et al., arXiv 2211.17192). */

/* 1 to accept the draft, 0 to refuse it.
 * log_p, log_q: the draft's log-probabilities (logit - eft_log_sum_exp). uniform: a random number from [0, 1). */
EFT_API int eft_accept(double log_p, double log_q, double uniform);

/* Draws from the positive part of p - q, normalised, by a random number from [0, 1), in the order of the ids.
 * p, q: n logits each. p_mass, q_mass: their eft_log_sum_exp. Where p - q is nowhere positive, p itself is drawn from.
 * -1 if no token is possible under p. */
EFT_API int32_t eft_sample_residual(const float *p, double p_mass, const float *q, double q_mass, size_t n,
                                    double uniform);

#ifdef __cplusplus
}
#endif
#endif /* EFT_H */

/* ================================================================================================================= */

#ifdef EFT_IMPLEMENTATION
#ifndef EFT_IMPLEMENTATION_DONE
#define EFT_IMPLEMENTATION_DONE

#ifdef __FAST_MATH__
#error "eft.h needs infinities and exact rounding: compile without -ffast-math"
#endif

#include <float.h>
#include <math.h>
#include <string.h>

#ifdef __cplusplus
#define EFT__RESTRICT __restrict
extern "C" {
#else
#define EFT__RESTRICT restrict
#endif

/* One rounding for a product and one for the sum, as NumPy does it. GCC has no such pragma, but does so by -std=c11. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

/* Tokens looked at together: their sums, 8 KB, stay in the first-level cache. */
#define EFT__BLOCK 1024
#define EFT__HALF (EFT__BLOCK / 2)

/* What a set's probability may lack of p, and a token's log-probability of its bound: float logits hold no more. */
#define EFT__ROUNDING 1e-6

#define EFT__BINS 256
#define EFT__FEW 64
#define EFT__CHUNK 32
#define EFT__SPANS 512

/* ---- Sums of rows, block by block */

typedef struct eft__term {
    const float *row;
    double factor;
    double floor; /* logits below it count as it; -INFINITY for none */
} eft__term;

/* The sum of factor * row. */
typedef struct eft__sum {
    eft__term term[EFT_MAX_ROWS];
    size_t count;
    int floored;
} eft__sum;

static void eft__sum_of_row(eft__sum *sum, const float *row) {
    sum->term[0].row = row;
    sum->term[0].factor = 1;
    sum->term[0].floor = -INFINITY;
    sum->count = 1;
    sum->floored = 0;
}

static int eft__sum_of_rows(eft__sum *sum, const eft_row *rows, size_t n_rows) {
    sum->count = 0;
    sum->floored = 0;
    if (n_rows > EFT_MAX_ROWS || (n_rows > 0 && !rows)) {
        return -1;
    }
    for (size_t m = 0; m < n_rows; m++) {
        if (rows[m].factor != 0) {
            if (!rows[m].logits) {
                return -1;
            }
            sum->term[sum->count].row = rows[m].logits;
            sum->term[sum->count].factor = rows[m].factor;
            sum->term[sum->count].floor = -INFINITY;
            sum->count++;
        }
    }
    return 0;
}

/* The sums of up to three rows, which are the usual cases, in one loop, to doubles or right to floats: that spares rounds
 * through the cache. Where rows are fewer, the first stands in by factor 0: what is not finite there rules the token out
 * anyway. NaN fails the comparison too, and what a float cannot hold is ruled out as well. */
#define EFT__SUMS(number, absolute, most)                                                                              \
    static int eft__sum_few_##number(const eft__sum *sum, size_t at, size_t n, number *EFT__RESTRICT out) {            \
        if (sum->floored || sum->count < 1 || sum->count > 3) {                                                        \
            return 0;                                                                                                  \
        }                                                                                                              \
        const eft__term *t = sum->term, *u = sum->count > 1 ? t + 1 : t, *v = sum->count > 2 ? t + 2 : t;              \
        const float *EFT__RESTRICT a = t->row + at, *EFT__RESTRICT b = u->row + at, *EFT__RESTRICT c = v->row + at;    \
        const double fa = t->factor, fb = u == t ? 0 : u->factor, fc = v == t ? 0 : v->factor;                         \
        for (size_t i = 0; i < n; i++) {                                                                               \
            const double total = fa * a[i] + fb * b[i] + fc * c[i];                                                    \
            const number rounded = (number) total;                                                                     \
            out[i] = absolute(rounded) <= most ? rounded : (number) -INFINITY;                                         \
        }                                                                                                              \
        return 1;                                                                                                      \
    }

EFT__SUMS(double, fabs, DBL_MAX)
EFT__SUMS(float, fabsf, FLT_MAX)

/* One term of more than three. */
static void eft__add(double *EFT__RESTRICT total, size_t width, const eft__term *t, size_t at) {
    const float *EFT__RESTRICT a = t->row + at;
    const double fa = t->factor;
    for (size_t i = 0; i < width; i++) {
        total[i] += fa * a[i];
    }
}

static void eft__add_floored(double *EFT__RESTRICT total, size_t width, const eft__term *t, size_t at) {
    const float *EFT__RESTRICT a = t->row + at;
    const double fa = t->factor, floor_ = t->floor;
    for (size_t i = 0; i < width; i++) {
        const double logit = a[i];
        const double raised = logit < INFINITY && logit > floor_ ? logit : floor_;
        total[i] += fa * raised;
    }
}

/* total[0 .. EFT__BLOCK) = the sums of the tokens from `at` on; -INFINITY where they are not finite, and beyond n. */
static void eft__sum_block(const eft__sum *sum, size_t at, size_t n, double *EFT__RESTRICT total) {
    const size_t width = n - at < EFT__BLOCK ? n - at : EFT__BLOCK;
    const eft__term *t = sum->term;
    for (size_t i = width; i < EFT__BLOCK; i++) {
        total[i] = -INFINITY;
    }
    if (eft__sum_few_double(sum, at, width, total)) {
        return;
    }
    for (size_t i = 0; i < width; i++) {
        total[i] = 0;
    }
    for (size_t m = 0; m < sum->count; m++) {
        if (t[m].floor > -INFINITY) {
            eft__add_floored(total, width, t + m, at);
        } else {
            eft__add(total, width, t + m, at);
        }
    }
    for (size_t i = 0; i < width; i++) {
        total[i] = fabs(total[i]) <= DBL_MAX ? total[i] : -INFINITY;
    }
}

/* Writes sums as floats. What a float cannot hold is ruled out like any other sum that is not finite. */
static void eft__store(const double *EFT__RESTRICT total, size_t width, float *EFT__RESTRICT out) {
    for (size_t i = 0; i < width; i++) {
        const float rounded = (float) total[i];
        out[i] = rounded <= FLT_MAX ? rounded : -INFINITY;
    }
}

/* Rules out sums that a float cannot hold. */
static void eft__fit_float(double *EFT__RESTRICT total) {
    for (size_t i = 0; i < EFT__BLOCK; i++) {
        total[i] = fabsf((float) total[i]) <= FLT_MAX ? total[i] : -INFINITY;
    }
}

static double eft__largest(const double *EFT__RESTRICT total) {
    /* Folding in halves: a compiler may not reorder a maximum or sum over a whole row, but works on several pairs an
     * instruction. */
    double high[EFT__HALF];
    for (size_t i = 0; i < EFT__HALF; i++) {
        high[i] = total[i] > total[i + EFT__HALF] ? total[i] : total[i + EFT__HALF];
    }
    for (size_t half = EFT__HALF / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            high[i] = high[i] > high[i + half] ? high[i] : high[i + half];
        }
    }
    return high[0];
}

static double eft__fold(double *part) {
    for (size_t half = EFT__HALF / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            part[i] += part[i + half];
        }
    }
    return part[0];
}

/* ---- Probabilities */

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define EFT__MULTIPLY_ADD(a, b, c) fma(a, b, c)
#else
#define EFT__MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

/* exp of x from -708 to 708, to some 3e-13 of its value; 0 for all else, NaN included. 2^k * exp(r), where r is log(2) / 2
 * at most and exp(r) its series up to r^10, in pairs that do not wait for each other. Adding 1.5 * 2^52 rounds to a whole
 * number, which then stands in the lowest bits; shifted into the exponent's place it multiplies by 2^k. */
static inline double eft__exp(double x) {
    const int inside = x <= 708 && x >= -708;
    const double y = inside ? x : 0;
    const double rounder = 6755399441055744.0;
    const double rounded = EFT__MULTIPLY_ADD(y, 1.4426950408889634, rounder);
    const double k = rounded - rounder;
    const double r = EFT__MULTIPLY_ADD(k, -1.42860682030941723212e-6, EFT__MULTIPLY_ADD(k, -6.93145751953125e-1, y));
    const double r2 = r * r, r4 = r2 * r2;
    const double e01 = 1.0 + r;
    const double e23 = EFT__MULTIPLY_ADD(r, 1.0 / 6.0, 0.5);
    const double e45 = EFT__MULTIPLY_ADD(r, 1.0 / 120.0, 1.0 / 24.0);
    const double e67 = EFT__MULTIPLY_ADD(r, 1.0 / 5040.0, 1.0 / 720.0);
    const double e89 = EFT__MULTIPLY_ADD(r, 1.0 / 362880.0, 1.0 / 40320.0);
    const double high = EFT__MULTIPLY_ADD(r4, EFT__MULTIPLY_ADD(r2, 1.0 / 3628800.0, e89), EFT__MULTIPLY_ADD(r2, e67, e45));
    double e = EFT__MULTIPLY_ADD(r4, high, EFT__MULTIPLY_ADD(r2, e23, e01));
    uint64_t bits, power;
    memcpy(&bits, &e, sizeof bits);
    memcpy(&power, &rounded, sizeof power);
    bits += power << 52;
    memcpy(&e, &bits, sizeof e);
    return inside ? e : 0;
}

/* The sum of exp(total - peak) over a block. */
static double eft__mass_of_block(const double *EFT__RESTRICT total, double peak) {
    double part[EFT__HALF];
    for (size_t i = 0; i < EFT__HALF; i++) {
        part[i] = eft__exp(total[i] - peak) + eft__exp(total[i + EFT__HALF] - peak);
    }
    return eft__fold(part);
}

typedef struct eft__mass {
    double peak;  /* the largest finite sum, -INFINITY if there is none */
    double log;   /* log sum exp, 0 if there is none */
    double token; /* the sum of the token asked for */
} eft__mass;

/* One pass: what was summed up is scaled down when a larger peak is found. */
static eft__mass eft__log_mass(const eft__sum *sum, size_t n, size_t token) {
    double total[EFT__BLOCK], mass = 0;
    eft__mass found;
    found.peak = found.token = -INFINITY;
    for (size_t at = 0; at < n; at += EFT__BLOCK) {
        eft__sum_block(sum, at, n, total);
        if (token >= at && token - at < EFT__BLOCK) {
            found.token = total[token - at];
        }
        const double high = eft__largest(total);
        if (high == -INFINITY) {
            continue;
        }
        if (high > found.peak) {
            mass *= exp(found.peak - high);
            found.peak = high;
        }
        mass += eft__mass_of_block(total, found.peak);
    }
    found.log = mass > 0 ? found.peak + log(mass) : 0;
    return found;
}

/* ---- Top-p sets */

/* A set: the tokens of a logit above `logit`, and of those equal to it the ids up to `last`. */
typedef struct eft__edge {
    double logit;
    size_t last;
} eft__edge;

typedef struct eft__entry {
    double logit;
    double mass;
    int32_t id;
} eft__entry;

/* Tokens that make up p at least. Of m tokens less likely than (1 - p) / m each, all together have less than 1 - p, and p
 * is reached without them. m = n is always true, and m = 1000 mostly, in a model's long tail; it leaves far fewer. */
static size_t eft__collect(const eft__sum *sum, size_t n, double p, double mass, eft__entry *entry) {
    double total[EFT__BLOCK];
    size_t count = 0;
    for (int round = 0; round < 2; round++) {
        const double lowest = mass + log((1 - p) / (round == 0 ? 1000.0 : (double) n));
        double collected = 0;
        count = 0;
        for (size_t at = 0; at < n; at += EFT__BLOCK) {
            eft__sum_block(sum, at, n, total);
            for (size_t from = 0; from < EFT__BLOCK; from += EFT__CHUNK) {
                const double *chunk = total + from;
                /* Most chunks hold none, and a count takes no branches. */
                int64_t found = 0;
                for (size_t i = 0; i < EFT__CHUNK; i++) {
                    found += chunk[i] >= lowest;
                }
                for (size_t i = 0; found > 0; i++) {
                    if (chunk[i] >= lowest) {
                        found--;
                        if (chunk[i] > -INFINITY) {
                            entry[count].logit = chunk[i];
                            entry[count].mass = eft__exp(chunk[i] - mass);
                            entry[count].id = (int32_t) (at + from + i);
                            collected += entry[count].mass;
                            count++;
                        }
                    }
                }
            }
        }
        if (collected >= p) {
            break;
        }
    }
    return count;
}

/* The top-p set. A histogram of probability over the logits finds the bin in which p is reached, then one of that bin
 * alone, until there are few tokens to sort, or only equals. mass: the log mass of all. */
static eft__edge eft__top_p(const eft__sum *sum, size_t n, double p, double mass, eft__entry *entry) {
    eft__edge edge;
    double missing = p - EFT__ROUNDING, mass_of_bin[EFT__BINS];
    size_t count = eft__collect(sum, n, p, mass, entry), j = 0;
    edge.logit = INFINITY;
    edge.last = 0;
    if (count == 0) {
        return edge;
    }
    while (count > EFT__FEW) {
        double high = entry[0].logit, low = entry[0].logit;
        size_t reaching = 0, kept = 0;
        for (j = 1; j < count; j++) {
            high = entry[j].logit > high ? entry[j].logit : high;
            low = entry[j].logit < low ? entry[j].logit : low;
        }
        if (high == low) {
            break;
        }
        memset(mass_of_bin, 0, sizeof mass_of_bin);
        for (int round = 0; round < 2; round++) {
            for (j = 0; j < count; j++) {
                /* The highest falls into the first bin, the lowest into the last: each round has fewer to look at. */
                const double place = (high - entry[j].logit) / (high - low) * (EFT__BINS - 0.5);
                const size_t bin = place < EFT__BINS - 1 ? (size_t) place : EFT__BINS - 1;
                if (round == 0) {
                    mass_of_bin[bin] += entry[j].mass;
                } else if (bin == reaching) {
                    entry[kept++] = entry[j];
                }
            }
            while (round == 0 && reaching < EFT__BINS - 1 && mass_of_bin[reaching] < missing) {
                missing -= mass_of_bin[reaching++];
            }
        }
        count = kept;
    }
    /* By falling logit, equals as they stand, which is by id. Insertion: for few, or for many that are equal. */
    for (j = 1; j < count; j++) {
        const eft__entry moved = entry[j];
        size_t k = j;
        for (; k > 0 && entry[k - 1].logit < moved.logit; k--) {
            entry[k] = entry[k - 1];
        }
        entry[k] = moved;
    }
    for (j = 0; j < count - 1 && entry[j].mass < missing; j++) {
        missing -= entry[j].mass;
    }
    edge.logit = entry[j].logit;
    edge.last = (size_t) entry[j].id;
    return edge;
}

/* How many tokens of the block from `at` on have ids up to the edge's: those count as inside if they equal it. */
static size_t eft__ids_up_to(const eft__edge *edge, size_t at) {
    if (edge->last < at) {
        return 0;
    }
    return edge->last - at < EFT__BLOCK ? edge->last - at + 1 : EFT__BLOCK;
}

/* total[i] = inside the set of `small` total[i], outside it small[i] + shift. */
static void eft__leave_outside(double *EFT__RESTRICT total, const double *EFT__RESTRICT small, const eft__edge *edge,
                               double shift, size_t at) {
    const double logit = edge->logit;
    const size_t cut = eft__ids_up_to(edge, at);
    for (size_t i = 0; i < cut; i++) {
        total[i] = small[i] >= logit ? total[i] : small[i] + shift;
    }
    for (size_t i = cut; i < EFT__BLOCK; i++) {
        total[i] = small[i] > logit ? total[i] : small[i] + shift;
    }
}

/* total[i] = -INFINITY outside the set of `base`. */
static void eft__rule_out(double *EFT__RESTRICT total, const double *EFT__RESTRICT base, const eft__edge *edge,
                          size_t at) {
    const double logit = edge->logit;
    const size_t cut = eft__ids_up_to(edge, at);
    for (size_t i = 0; i < cut; i++) {
        total[i] = base[i] >= logit ? total[i] : -INFINITY;
    }
    for (size_t i = cut; i < EFT__BLOCK; i++) {
        total[i] = base[i] > logit ? total[i] : -INFINITY;
    }
}

/* ---- Dials */

EFT_API int eft_abi(void) {
    return EFT_ABI;
}

EFT_API eft_filter eft_filter_none(void) {
    eft_filter none;
    none.tuned_top_p = none.base_top_p = 1;
    none.base_min_p = 0;
    none.untuned_floor = -INFINITY;
    return none;
}

EFT_API int eft_filter_valid(const eft_filter *f) {
    return f && f->tuned_top_p > 0 && f->tuned_top_p <= 1 && f->base_top_p > 0 && f->base_top_p <= 1 &&
           f->base_min_p >= 0 && f->base_min_p <= 1 && f->untuned_floor <= 0;
}

static double eft__without_rounding(double factor) {
    /* Dials such as 0.7 and 0.3 cancel only up to rounding, and a factor of 1e-17 would still cost a decode. */
    return fabs(factor) < 1e-12 ? 0 : factor;
}

EFT_API int eft_factors(double knowledge, double behaviour, const double *weights, const int32_t *untuned,
                        size_t n_traits, double *factors) {
    int32_t further = 0;
    if (!isfinite(knowledge)) {
        return -1;
    }
    for (size_t i = 0; i < n_traits; i++) {
        if (!isfinite(behaviour * weights[i]) || (untuned && (untuned[i] < 0 || untuned[i] > EFT_MAX_ROWS))) {
            return -1;
        }
        factors[2 + i] = behaviour * weights[i];
        further = untuned && untuned[i] > further ? untuned[i] : further;
    }
    factors[0] = knowledge;
    for (int32_t number = 0; number <= further; number++) {
        /* Neumaier's summation, which keeps what a plain sum would round away. */
        double total = number == 0 ? knowledge : 0, lost = 0;
        for (size_t i = 0; i < n_traits; i++) {
            if ((untuned ? untuned[i] : 0) == number) {
                const double factor = factors[2 + i], sum = total + factor;
                lost += fabs(total) >= fabs(factor) ? (total - sum) + factor : (factor - sum) + total;
                total = sum;
            }
        }
        factors[number == 0 ? 1 : 1 + n_traits + (size_t) number] =
            eft__without_rounding((number == 0 ? 1.0 : 0.0) - (total + lost));
    }
    return 0;
}

/* ---- Blending */

EFT_API int eft_blend(const eft_row *rows, size_t n_rows, size_t n, float *out) {
    eft__sum sum;
    double total[EFT__BLOCK];
    if (eft__sum_of_rows(&sum, rows, n_rows) != 0 || n > INT32_MAX) {
        return -1;
    }
    if (eft__sum_few_float(&sum, 0, n, out)) {
        return 0;
    }
    for (size_t at = 0; at < n; at += EFT__BLOCK) {
        eft__sum_block(&sum, at, n, total);
        eft__store(total, n - at < EFT__BLOCK ? n - at : EFT__BLOCK, out + at);
    }
    return 0;
}

EFT_API int eft_blend_candidates(const eft_row *rows, size_t n_rows, size_t n, eft_candidate *out) {
    eft__sum sum;
    double total[EFT__BLOCK];
    float logits[EFT__BLOCK];
    if (eft__sum_of_rows(&sum, rows, n_rows) != 0 || n > INT32_MAX) {
        return -1;
    }
    for (size_t at = 0; at < n; at += EFT__BLOCK) {
        const size_t width = n - at < EFT__BLOCK ? n - at : EFT__BLOCK;
        eft__sum_block(&sum, at, n, total);
        eft__store(total, width, logits);
        for (size_t i = 0; i < width; i++) {
            out[at + i].id = (int32_t) (at + i);
            out[at + i].logit = logits[i];
            out[at + i].p = 0;
        }
    }
    return 0;
}

/* The largest of a block as a float, which is what samplers will see. */
static float eft__peak(double *total) {
    float peak = (float) eft__largest(total);
    if (!(peak <= FLT_MAX)) { /* there are sums that a float cannot hold: take the largest of the others */
        eft__fit_float(total);
        peak = (float) eft__largest(total);
    }
    return peak;
}

EFT_API int32_t eft_blend_argmax(const eft_row *rows, size_t n_rows, size_t n) {
    eft__sum sum;
    double total[EFT__BLOCK];
    float best_logit = -INFINITY;
    int32_t best = -1;
    if (eft__sum_of_rows(&sum, rows, n_rows) != 0 || n > INT32_MAX) {
        return -1;
    }
    for (size_t at = 0; at < n; at += EFT__BLOCK) {
        eft__sum_block(&sum, at, n, total);
        const float peak = eft__peak(total);
        if (peak > best_logit) {
            size_t i = 0;
            while ((float) total[i] != peak) {
                i++;
            }
            best_logit = peak;
            best = (int32_t) (at + i);
        }
    }
    return best;
}

EFT_API size_t eft_blend_top(const eft_row *rows, size_t n_rows, size_t n, size_t k, void *scratch, eft_candidate *out) {
    eft__sum sum;
    double total[EFT__BLOCK];
    const size_t blocks = n / EFT__BLOCK + (n % EFT__BLOCK != 0);
    float *peaks = (float *) scratch, *sorted = peaks + blocks, floor_ = -INFINITY;
    size_t count = 0;
    if (eft__sum_of_rows(&sum, rows, n_rows) != 0 || n > INT32_MAX || k == 0) {
        return 0;
    }
    for (size_t b = 0; b < blocks; b++) {
        eft__sum_block(&sum, b * EFT__BLOCK, n, total);
        peaks[b] = eft__peak(total);
    }
    /* The k-th largest of the blocks' peaks is no larger than the k-th largest logit: tokens below it are none of the k.
     * With fewer than k blocks none is. Summing the few blocks that reach it again is faster than writing all sums. */
    if (k <= blocks) {
        size_t kept = 0;
        for (size_t b = 0; b < blocks; b++) {
            if (kept == k && peaks[b] <= sorted[k - 1]) {
                continue;
            }
            size_t j = kept < k ? kept++ : k - 1;
            for (; j > 0 && sorted[j - 1] < peaks[b]; j--) {
                sorted[j] = sorted[j - 1];
            }
            sorted[j] = peaks[b];
        }
        floor_ = sorted[k - 1];
    }
    for (size_t b = 0; b < blocks; b++) {
        if (peaks[b] >= floor_) {
            const size_t at = b * EFT__BLOCK;
            float logits[EFT__BLOCK];
            eft__sum_block(&sum, at, n, total);
            eft__store(total, EFT__BLOCK, logits);
            for (size_t i = 0; i < EFT__BLOCK && at + i < n; i++) {
                if (logits[i] >= floor_) {
                    out[count].id = (int32_t) (at + i);
                    out[count].logit = logits[i];
                    out[count].p = 0;
                    count++;
                }
            }
        }
    }
    return count;
}

EFT_API double eft_blend_log_probability(const eft_row *rows, size_t n_rows, size_t n, int32_t token) {
    eft__sum sum;
    if (eft__sum_of_rows(&sum, rows, n_rows) != 0 || n > INT32_MAX || token < 0 || (size_t) token >= n) {
        return NAN;
    }
    const eft__mass mass = eft__log_mass(&sum, n, (size_t) token);
    return mass.token - mass.log;
}

EFT_API size_t eft_scratch_size(size_t n) {
    return n * sizeof(eft__entry);
}

EFT_API int eft_blend_filtered(const eft_row *rows, size_t n_rows, size_t n, const eft_filter *filter, void *scratch,
                               float *out) {
    eft__sum blend, small, row;
    eft__edge tuned_edge = {-INFINITY, 0}, base_edge = {-INFINITY, INT32_MAX};
    eft__entry *entry = (eft__entry *) scratch;
    const eft_row *base = NULL, *untuned = NULL;
    double total[EFT__BLOCK], other[EFT__BLOCK], base_mass = 0, untuned_mass = 0, shift = 0;
    if (n_rows > EFT_MAX_ROWS || n > INT32_MAX || (n_rows > 0 && !rows) || !eft_filter_valid(filter)) {
        return -1;
    }
    for (size_t m = 0; m < n_rows; m++) {
        base = rows[m].role == EFT_BASE ? rows + m : base;
        untuned = rows[m].role == EFT_UNTUNED ? rows + m : untuned;
    }
    const double knowledge = base ? base->factor : 0;
    const int by_tuned = filter->tuned_top_p < 1 && knowledge != 0;
    const int by_base = filter->base_top_p < 1 || filter->base_min_p > 0;
    if ((by_base && !(base && base->logits)) || (by_tuned && !(untuned && untuned->logits))) {
        return -1;
    }

    /* The blend, and the same at knowledge 0: the tuned side. Untuned rows are raised to the floor in both. */
    blend.count = small.count = 0;
    blend.floored = small.floored = filter->untuned_floor > -INFINITY;
    for (size_t m = 0; m < n_rows; m++) {
        const double small_factor = rows + m == base      ? 0
                                    : rows + m == untuned ? eft__without_rounding(rows[m].factor + knowledge)
                                                          : rows[m].factor;
        const int in_blend = rows[m].factor != 0, in_small = by_tuned && small_factor != 0;
        const int is_untuned = rows[m].role == EFT_UNTUNED || rows[m].role == EFT_OWN_UNTUNED;
        eft__term term;
        if (!in_blend && !in_small && !(by_tuned && rows + m == untuned)) {
            continue;
        }
        if (!rows[m].logits) {
            return -1;
        }
        term.row = rows[m].logits;
        term.floor = -INFINITY;
        if (is_untuned && filter->untuned_floor > -INFINITY) {
            eft__sum_of_row(&row, term.row);
            const double mass = eft__log_mass(&row, n, n).log;
            term.floor = mass + filter->untuned_floor;
            untuned_mass = rows + m == untuned ? mass : untuned_mass;
        } else if (by_tuned && rows + m == untuned) {
            eft__sum_of_row(&row, term.row);
            untuned_mass = eft__log_mass(&row, n, n).log;
        }
        term.factor = rows[m].factor;
        if (in_blend) {
            blend.term[blend.count++] = term;
        }
        term.factor = small_factor;
        if (in_small) {
            small.term[small.count++] = term;
        }
    }

    if (by_tuned || by_base) {
        eft__sum_of_row(&row, base->logits);
        const eft__mass mass = eft__log_mass(&row, n, n);
        base_mass = mass.log;
        if (filter->base_top_p < 1) {
            base_edge = eft__top_p(&row, n, filter->base_top_p, mass.log, entry);
        }
        if (filter->base_min_p > 0) {
            const double lowest = mass.peak + log(filter->base_min_p) - EFT__ROUNDING;
            if (lowest > base_edge.logit) {
                base_edge.logit = lowest;
                base_edge.last = INT32_MAX;
            }
        }
    }
    if (by_tuned) {
        /* Inside the set log-probabilities are added to the tuned side, so the masses of their models count. */
        shift = knowledge * (base_mass - untuned_mass);
        tuned_edge = eft__top_p(&small, n, filter->tuned_top_p, eft__log_mass(&small, n, n).log, entry);
    }

    /* The likeliest before anything is ruled out is kept in mind, as a last choice. */
    double likeliest_logit = -INFINITY;
    size_t likeliest = 0;
    int left = 0;
    for (size_t at = 0; at < n; at += EFT__BLOCK) {
        const size_t width = n - at < EFT__BLOCK ? n - at : EFT__BLOCK;
        eft__sum_block(&blend, at, n, total);
        if (by_tuned) {
            eft__sum_block(&small, at, n, other);
            eft__leave_outside(total, other, &tuned_edge, shift, at);
        }
        if (by_base) {
            eft__fit_float(total);
            const double high = eft__largest(total);
            if (high > likeliest_logit) {
                likeliest_logit = high;
                for (likeliest = 0; total[likeliest] != high;) {
                    likeliest++;
                }
                likeliest += at;
            }
            eft__sum_block(&row, at, n, other);
            eft__rule_out(total, other, &base_edge, at);
            left = left || eft__largest(total) > -INFINITY;
        }
        eft__store(total, width, out + at);
    }
    if (by_base && !left && likeliest_logit > -INFINITY) {
        eft__store(&likeliest_logit, 1, out + likeliest);
    }
    return 0;
}

/* ---- From logits to tokens */

EFT_API double eft_log_sum_exp(const float *logits, size_t n) {
    eft__sum sum;
    eft__sum_of_row(&sum, logits);
    return eft__log_mass(&sum, n, n).log;
}

EFT_API void eft_log_softmax(const float *logits, size_t n, float *out) {
    const double mass = eft_log_sum_exp(logits, n);
    for (size_t i = 0; i < n; i++) {
        const float logit = logits[i];
        out[i] = fabsf(logit) <= FLT_MAX ? (float) (logit - mass) : -INFINITY;
    }
}

EFT_API int eft_temper(float *logits, size_t n, float temperature) {
    eft__sum sum;
    eft__sum_of_row(&sum, logits);
    if (!(temperature >= 0 && temperature <= FLT_MAX)) {
        return -1;
    }
    const double peak = eft__log_mass(&sum, n, n).peak;
    int first = 1;
    for (size_t i = 0; i < n; i++) {
        const double below = logits[i] - peak;
        if (!(fabsf(logits[i]) <= FLT_MAX)) {
            logits[i] = -INFINITY;
        } else if (temperature > 0) {
            logits[i] = (float) (below / temperature);
        } else {
            logits[i] = below == 0 && first ? 0 : -INFINITY;
            first = first && below != 0;
        }
    }
    return 0;
}

/* What is drawn from: exp(p - p_mass), or the positive part of its difference to the same of q. */
typedef struct eft__weights {
    eft__sum p, q;
    double p_mass, q_mass;
    int residual;
} eft__weights;

/* weight[0 .. EFT__BLOCK) of the tokens from `at` on; returns their sum. */
static double eft__weigh(const eft__weights *w, size_t at, size_t n, double *EFT__RESTRICT weight) {
    double p[EFT__BLOCK], q[EFT__BLOCK], part[EFT__HALF];
    const double p_mass = w->p_mass, q_mass = w->q_mass;
    eft__sum_block(&w->p, at, n, p);
    for (size_t i = 0; i < EFT__BLOCK; i++) {
        weight[i] = eft__exp(p[i] - p_mass);
    }
    if (w->residual) {
        eft__sum_block(&w->q, at, n, q);
        for (size_t i = 0; i < EFT__BLOCK; i++) {
            const double more = weight[i] - eft__exp(q[i] - q_mass);
            weight[i] = more > 0 ? more : 0;
        }
    }
    for (size_t i = 0; i < EFT__HALF; i++) {
        part[i] = weight[i] + weight[i + EFT__HALF];
    }
    return eft__fold(part);
}

/* The first token at which the running sum of weights exceeds uniform * their total; -1 if the total is 0. Spans of
 * blocks are summed up first, so that few tokens are walked through one by one. */
static int32_t eft__draw(const eft__weights *w, size_t n, double uniform) {
    double weight[EFT__BLOCK], of_span[EFT__SPANS], total = 0, below = 0;
    const size_t span = (n / EFT__SPANS / EFT__BLOCK + 1) * EFT__BLOCK;
    size_t spans = 0, chosen = 0;
    int32_t last = -1;
    for (size_t from = 0; from < n; from += span) {
        of_span[spans] = 0;
        for (size_t at = from; at < n && at - from < span; at += EFT__BLOCK) {
            of_span[spans] += eft__weigh(w, at, n, weight);
        }
        total += of_span[spans++];
    }
    if (!(total > 0)) {
        return -1;
    }
    const double target = (uniform > 0 ? uniform : 0) * total;
    while (chosen < spans && below + of_span[chosen] <= target) {
        below += of_span[chosen++];
    }
    if (chosen == spans) { /* rounding: the number is so near to 1 that the last possible token is meant */
        do {
            chosen--;
        } while (of_span[chosen] <= 0);
        below = -INFINITY;
    }
    for (size_t at = chosen * span; at < n && at < (chosen + 1) * span; at += EFT__BLOCK) {
        const double of_block = eft__weigh(w, at, n, weight);
        double sum = below;
        if (below + of_block <= target && at + EFT__BLOCK < n && at + EFT__BLOCK < (chosen + 1) * span) {
            for (size_t i = EFT__BLOCK; of_block > 0 && i > 0; i--) {
                if (weight[i - 1] > 0) {
                    last = (int32_t) (at + i - 1);
                    break;
                }
            }
            below += of_block;
            continue;
        }
        for (size_t i = 0; i < EFT__BLOCK; i++) {
            if (weight[i] > 0) {
                last = (int32_t) (at + i);
                sum += weight[i];
                if (sum > target) {
                    return last;
                }
            }
        }
        below += of_block;
    }
    return last;
}

EFT_API int32_t eft_sample(const float *logits, size_t n, double uniform) {
    eft__weights w;
    if (n > INT32_MAX) {
        return -1;
    }
    eft__sum_of_row(&w.p, logits);
    w.p_mass = eft__log_mass(&w.p, n, n).peak;
    w.residual = 0;
    w.q_mass = 0;
    return eft__draw(&w, n, uniform);
}

/* ---- Speculation */

EFT_API int eft_accept(double log_p, double log_q, double uniform) {
    if (!(log_p > -INFINITY)) {
        return 0;
    }
    return log_p >= log_q || uniform < exp(log_p - log_q);
}

EFT_API int32_t eft_sample_residual(const float *p, double p_mass, const float *q, double q_mass, size_t n,
                                    double uniform) {
    eft__weights w;
    if (n > INT32_MAX) {
        return -1;
    }
    eft__sum_of_row(&w.p, p);
    eft__sum_of_row(&w.q, q);
    w.p_mass = p_mass;
    w.q_mass = q_mass;
    w.residual = 1;
    const int32_t token = eft__draw(&w, n, uniform);
    return token >= 0 ? token : eft_sample(p, n, uniform);
}

#ifdef __clang__
#pragma STDC FP_CONTRACT DEFAULT
#endif

#ifdef __cplusplus
}
#endif
#endif /* EFT_IMPLEMENTATION_DONE */
#endif /* EFT_IMPLEMENTATION */
