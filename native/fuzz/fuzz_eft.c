/* libFuzzer: every function of eft.h on arguments made from arbitrary bytes.
 *
 * Sanitizers watch memory and arithmetic; what the functions promise is checked here. All arrays are of the exact size
 * that the header asks for, so that a step too far is seen. */
#define EFT_IMPLEMENTATION
#include "eft.h"

#include <stdlib.h>

#define MOST_TOKENS 2600 /* more than two blocks */
#define MOST_ROWS 6
#define PROMISE(condition)     \
    do {                       \
        if (!(condition)) {    \
            __builtin_trap();  \
        }                      \
    } while (0)

typedef struct bytes {
    const uint8_t *data;
    size_t size, at, laps;
} bytes;

/* The next byte; from the beginning again where they end, changed a little, so that few bytes make long rows. */
static uint8_t byte(bytes *from) {
    if (from->size == 0) {
        return 0;
    }
    if (from->at == from->size) {
        from->at = 0;
        from->laps++;
    }
    return (uint8_t) (from->data[from->at++] ^ (uint8_t) (from->laps * 37));
}

static uint32_t word(bytes *from) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        value = value << 8 | byte(from);
    }
    return value;
}

/* Any float: its bits as they come, or a small number, of which many are equal; infinities and NaN now and then. */
static float any_float(bytes *from) {
    const uint8_t kind = byte(from);
    if (kind < 16) {
        const uint32_t bits = word(from);
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    if (kind < 24) {
        return kind < 20 ? -INFINITY : kind < 22 ? NAN : INFINITY;
    }
    return (float) ((int8_t) byte(from)) / (kind < 128 ? 8.0f : 1.0f);
}

static double any_double(bytes *from) {
    return byte(from) < 64 ? (double) any_float(from) : (int8_t) byte(from) / 32.0;
}

/* Mostly inside [0, 1]. */
static double any_share(bytes *from) {
    return byte(from) < 16 ? any_double(from) : byte(from) / 255.0;
}

static void *room(size_t size) {
    void *memory = malloc(size > 0 ? size : 1);
    PROMISE(memory);
    return memory;
}

static int possible(float logit) {
    return fabsf(logit) <= FLT_MAX;
}

static void check_logits(const float *logits, size_t n) {
    for (size_t i = 0; i < n; i++) {
        PROMISE(!isnan(logits[i]) && logits[i] < INFINITY);
    }
}

static void check_draw(const float *logits, size_t n, int32_t token) {
    size_t i = 0;
    while (i < n && !possible(logits[i])) {
        i++;
    }
    PROMISE(i == n ? token == -1 : token >= 0 && (size_t) token < n && possible(logits[token]));
}

static void blends(const eft_row *rows, size_t n_rows, size_t n, bytes *from, float *blended) {
    eft_candidate *all = (eft_candidate *) room(n * sizeof *all), *top = (eft_candidate *) room(n * sizeof *top);
    void *scratch = room(eft_scratch_size(n));
    const int32_t likeliest = eft_blend_argmax(rows, n_rows, n);
    const size_t k = byte(from) % 70;
    PROMISE(eft_blend(rows, n_rows, n, blended) == 0 && eft_blend_candidates(rows, n_rows, n, all) == 0);
    check_logits(blended, n);
    for (size_t i = 0; i < n; i++) {
        PROMISE(all[i].id == (int32_t) i && all[i].logit == blended[i] && all[i].p == 0);
        PROMISE(likeliest < 0 ? !possible(blended[i]) : blended[i] <= blended[likeliest]);
    }
    const size_t count = eft_blend_top(rows, n_rows, n, k, scratch, top);
    PROMISE(count <= n && (k == 0 ? count == 0 : count >= (k < n ? k : n)));
    for (size_t i = 0; i < count; i++) {
        PROMISE(top[i].logit == blended[top[i].id] && (i == 0 || top[i - 1].id < top[i].id));
    }
    const int32_t token = (int32_t) (word(from) % (n + 2)) - 1;
    const double log_p = eft_blend_log_probability(rows, n_rows, n, token);
    PROMISE(token < 0 || (size_t) token >= n ? isnan(log_p) : log_p <= 1e-6);
    free(all);
    free(top);
    free(scratch);
}

static void filtered(const eft_row *rows, size_t n_rows, size_t n, bytes *from, const float *blended) {
    eft_filter filter = eft_filter_none();
    float *out = (float *) room(n * sizeof *out);
    void *scratch = room(eft_scratch_size(n));
    const uint8_t which = byte(from);
    filter.tuned_top_p = which & 1 ? any_share(from) : 1;
    filter.base_top_p = which & 2 ? any_share(from) : 1;
    filter.base_min_p = which & 4 ? any_share(from) : 0;
    filter.untuned_floor = which & 8 ? -16 * any_share(from) : -INFINITY;
    if (eft_blend_filtered(rows, n_rows, n, &filter, scratch, out) == 0) {
        PROMISE(eft_filter_valid(&filter));
        check_logits(out, n);
        /* Whatever a filter rules out, one token is left if one was possible. A floor may make more of them possible. */
        size_t before = 0, after = 0;
        for (size_t i = 0; i < n; i++) {
            before += possible(blended[i]);
            after += possible(out[i]);
        }
        PROMISE((which & 9) != 0 || before == 0 || after > 0);
        PROMISE((which & 15) != 0 || memcmp(out, blended, n * sizeof *out) == 0);
        check_draw(out, n, eft_sample(out, n, any_double(from)));
    }
    free(out);
    free(scratch);
}

static void draws(const float *logits, const float *other, size_t n, bytes *from) {
    float *out = (float *) room(n * sizeof *out);
    const double mass = eft_log_sum_exp(logits, n), other_mass = eft_log_sum_exp(other, n), uniform = any_share(from);
    const float temperature = (float) any_share(from) * 4;
    PROMISE(!isnan(mass));
    eft_log_softmax(logits, n, out);
    check_logits(out, n);
    memcpy(out, logits, n * sizeof *out);
    if (eft_temper(out, n, temperature) == 0) {
        check_logits(out, n);
    } else {
        PROMISE(!(temperature >= 0 && temperature <= FLT_MAX));
    }
    PROMISE(eft_accept(any_double(from), any_double(from), uniform) <= 1);
    check_draw(logits, n, eft_sample(logits, n, uniform));
    check_draw(logits, n, eft_sample_residual(logits, mass, other, other_mass, n, uniform));
    free(out);
}

static void factors_of(bytes *from) {
    const size_t n_traits = byte(from) % 5;
    double weights[5], factors[7 + EFT_MAX_ROWS];
    int32_t untuned[5];
    for (size_t i = 0; i < n_traits; i++) {
        weights[i] = any_double(from);
        untuned[i] = (int8_t) byte(from) % (EFT_MAX_ROWS + 2);
    }
    (void) eft_factors(any_double(from), any_double(from), weights, byte(from) & 1 ? untuned : NULL, n_traits, factors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bytes from = {data, size, 0, 0};
    const size_t n_rows = byte(&from) % (MOST_ROWS + 1), n = word(&from) % (byte(&from) & 1 ? MOST_TOKENS : 40) + 1;
    eft_row rows[MOST_ROWS + 1];
    float *logits[MOST_ROWS + 1], *blended = (float *) room(n * sizeof *blended);
    for (size_t m = 0; m <= n_rows; m++) {
        const uint8_t kind = byte(&from);
        logits[m] = (float *) room(n * sizeof **logits);
        for (size_t i = 0; i < n; i++) {
            logits[m][i] = any_float(&from);
        }
        rows[m].logits = logits[m];
        rows[m].factor = kind < 64 ? 0 : any_double(&from);
        rows[m].role = (eft_role) (m < 3 ? m : 2 + kind % 2);
    }
    for (size_t m = 0; m < n_rows; m++) { /* a model that is not needed may be missing */
        rows[m].logits = rows[m].factor == 0 && (byte(&from) & 1) ? NULL : rows[m].logits;
    }
    blends(rows, n_rows, n, &from, blended);
    filtered(rows, n_rows, n, &from, blended);
    draws(blended, logits[n_rows], n, &from);
    draws(logits[n_rows], blended, n, &from);
    factors_of(&from);
    for (size_t m = 0; m <= n_rows; m++) {
        free(logits[m]);
    }
    free(blended);
    return 0;
}
