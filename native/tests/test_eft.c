/* eft.h on distributions worked out by hand. tests/native/ of the package holds it to the NumPy reference at length. */
#define EFT_IMPLEMENTATION
#include "eft.h"

#include "check.h"

#define N 5

static const float BASE[N] = {2, 1, 0, -1, -INFINITY};
static const float UNTUNED[N] = {0, 1, 0, 1, 0};
static const float TUNED[N] = {1, 0, 3, 1, 5};

static void three_rows(eft_row *rows, double knowledge, double behaviour) {
    double factors[3];
    const double weight = 1;
    CHECK(eft_factors(knowledge, behaviour, &weight, NULL, 1, factors) == 0);
    CHECK_NEAR(factors[0] + factors[1] + factors[2], 1);
    rows[0].logits = BASE, rows[0].factor = factors[0], rows[0].role = EFT_BASE;
    rows[1].logits = UNTUNED, rows[1].factor = factors[1], rows[1].role = EFT_UNTUNED;
    rows[2].logits = TUNED, rows[2].factor = factors[2], rows[2].role = EFT_TUNED;
}

static void test_factors(void) {
    const double weights[3] = {0.5, 0.25, 1};
    const int32_t untuned[3] = {0, 1, 0}, wrong[3] = {0, -1, 0};
    double factors[6];
    CHECK(eft_factors(1, 2, weights, untuned, 3, factors) == 0);
    CHECK(factors[0] == 1 && factors[1] == -3 && factors[2] == 1 && factors[3] == 0.5 && factors[4] == 2);
    CHECK(factors[5] == -0.5);
    CHECK(eft_factors(1, 2, weights, wrong, 3, factors) == -1);
    CHECK(eft_factors(NAN, 2, weights, NULL, 3, factors) == -1);
    CHECK(eft_factors(0.25, 0, NULL, NULL, 0, factors) == 0 && factors[0] == 0.25 && factors[1] == 0.75);
}

static void test_blend(void) {
    eft_row rows[3];
    float out[N];
    eft_candidate candidates[N];
    double scratch[3 * N];
    three_rows(rows, 1, 1); /* base - untuned + tuned */
    CHECK(eft_blend(rows, 3, N, out) == 0);
    CHECK(out[0] == 3 && out[1] == 0 && out[2] == 3 && out[3] == -1 && out[4] == -INFINITY);
    CHECK(eft_blend_argmax(rows, 3, N) == 0); /* of equals the smaller id */
    CHECK(eft_blend_candidates(rows, 3, N, candidates) == 0);
    CHECK(candidates[2].id == 2 && candidates[2].logit == 3 && candidates[2].p == 0);
    CHECK(eft_scratch_size(N) <= sizeof scratch);
    CHECK(eft_blend_top(rows, 3, N, 1, scratch, candidates) == 2 && candidates[1].id == 2);
    CHECK(eft_blend_top(rows, 3, N, 0, scratch, candidates) == 0);
    /* exp(3), 1, exp(3), exp(-1) */
    CHECK_NEAR(eft_blend_log_probability(rows, 3, N, 1), -log(2 * exp(3) + 1 + exp(-1)));
    CHECK(eft_blend_log_probability(rows, 3, N, 4) == -INFINITY);
    CHECK(isnan(eft_blend_log_probability(rows, 3, N, N)));
    three_rows(rows, 1, 0);
    rows[1].logits = rows[2].logits = NULL; /* of factor 0: not read */
    CHECK(eft_blend(rows, 3, N, out) == 0 && out[0] == 2 && out[3] == -1);
    rows[0].logits = NULL;
    CHECK(eft_blend(rows, 3, N, out) == -1 && eft_blend_argmax(rows, 3, N) == -1);
    CHECK(eft_blend(rows, EFT_MAX_ROWS + 1, N, out) == -1);
}

static void test_filters(void) {
    eft_row rows[3];
    float out[N];
    double scratch[3 * N];
    eft_filter filter = eft_filter_none();
    CHECK(eft_filter_valid(&filter) && !eft_filter_valid(NULL));
    three_rows(rows, 1, 1);
    filter.base_min_p = 0.3; /* exp(-1) > 0.3 > exp(-2): tokens 0 and 1 */
    CHECK(eft_blend_filtered(rows, 3, N, &filter, scratch, out) == 0);
    CHECK(out[0] == 3 && out[1] == 0 && out[2] == -INFINITY && out[3] == -INFINITY && out[4] == -INFINITY);
    filter = eft_filter_none();
    filter.base_top_p = 0.6; /* the likeliest has 0.64 */
    CHECK(eft_blend_filtered(rows, 3, N, &filter, scratch, out) == 0);
    CHECK(out[0] == 3 && out[1] == -INFINITY && out[2] == -INFINITY);
    CHECK(eft_blend_filtered(rows, 3, 0, &filter, scratch, out) == 0); /* no tokens at all */
    filter.base_top_p = 0;
    CHECK(!eft_filter_valid(&filter) && eft_blend_filtered(rows, 3, N, &filter, scratch, out) == -1);
    filter = eft_filter_none();
    filter.untuned_floor = -1; /* in a row of 0, 1, 0, 1, 0 all are less likely than that, and count as it */
    CHECK(eft_blend_filtered(rows, 3, N, &filter, scratch, out) == 0);
    const double mass = log(3 + 2 * exp(1)), floor_ = mass - 1; /* about 1.13 */
    CHECK_NEAR(out[0], 2 - floor_ + 1);
    CHECK_NEAR(out[1], 1 - floor_ + 0);
}

static void test_drawing(void) {
    const float quarters[4] = {0, (float) log(2), -INFINITY, 0}; /* 1/4, 1/2, 0, 1/4 */
    float logits[4];
    CHECK_NEAR(eft_log_sum_exp(quarters, 4), log(4));
    eft_log_softmax(quarters, 4, logits);
    CHECK_NEAR(logits[1], log(0.5));
    CHECK(eft_sample(quarters, 4, 0) == 0 && eft_sample(quarters, 4, 0.3) == 1 && eft_sample(quarters, 4, 0.7) == 1);
    CHECK(eft_sample(quarters, 4, 0.8) == 3 && eft_sample(quarters, 4, 1) == 3 && eft_sample(quarters, 0, 0.5) == -1);
    CHECK(eft_temper(logits, 4, 0.5f) == 0);
    CHECK_NEAR(logits[0], -2 * log(2));
    CHECK(logits[1] == 0);
    CHECK(eft_temper(logits, 4, 0) == 0 && logits[0] == -INFINITY && logits[1] == 0);
    CHECK(eft_temper(logits, 4, -1) == -1);
}

static void test_speculation(void) {
    const float p[3] = {0, 0, -INFINITY}, q[3] = {(float) log(3), 0, -INFINITY}; /* 1/2, 1/2 and 3/4, 1/4 */
    CHECK(eft_accept(log(0.5), log(0.75), 0.66) == 1 && eft_accept(log(0.5), log(0.75), 0.67) == 0);
    CHECK(eft_accept(-INFINITY, -1, 0) == 0);
    CHECK(eft_sample_residual(p, log(2), q, log(4), 3, 0) == 1); /* only token 1 is likelier under p */
    CHECK(eft_sample_residual(p, log(2), p, log(2), 3, 0.9) == 1);
}

int main(void) {
    CHECK(eft_abi() == EFT_ABI);
    test_factors();
    test_blend();
    test_filters();
    test_drawing();
    test_speculation();
    puts("ok");
    return 0;
}
