/* eft_sampler.h on the models that ship with eft-gguf: test_sampler FOLDER
 *
 * What it gives is held to eft_blend over the rows of three contexts that the test decodes itself. Their batches differ
 * in size at times, and with it the last digits of logits: those compare up to CLOSE. */
#include "eft_sampler.h"

#include <stdbool.h>
#include <string.h>

#include "check.h"

#define CTX 128
#define MOST 64
#define CLOSE 2e-2

static struct llama_model *models[3]; /* base, untuned, tuned */
static const struct llama_vocab *vocab;
static int32_t n_vocab;
static const eft_role ROLES[3] = {EFT_BASE, EFT_UNTUNED, EFT_TUNED};

typedef struct reply {
    llama_token token[MOST];
    int32_t n;
} reply;

static float *new_row(void) {
    float *row = (float *) malloc((size_t) n_vocab * sizeof *row);
    CHECK(row);
    return row;
}

static struct llama_context *context(int model, uint32_t sequences) {
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = CTX * sequences;
    params.n_seq_max = sequences;
    params.kv_unified = true;
    params.n_batch = params.n_ubatch = 16;
    params.n_threads = params.n_threads_batch = 1;
    params.no_perf = false;
    struct llama_context *made = llama_init_from_model(models[model], params);
    CHECK(made);
    return made;
}

static reply tokens_of(const char *text) {
    reply prompt;
    prompt.n = llama_tokenize(vocab, text, (int32_t) strlen(text), prompt.token, MOST, false, true);
    CHECK(prompt.n > 0);
    return prompt;
}

static reply question(void) {
    return tokens_of("<|im_start|>user\nWhat is the capital of Norway?<|im_end|>\n<|im_start|>assistant\n");
}

/* Reads tokens from position `from` on. */
static void read_tokens(struct llama_context *ctx, const llama_token *token, int32_t from, int32_t n) {
    for (int32_t at = from; at < n;) {
        struct llama_batch batch = llama_batch_init(16, 0, 1);
        for (; batch.n_tokens < 16 && at < n; batch.n_tokens++, at++) {
            batch.token[batch.n_tokens] = token[at];
            batch.pos[batch.n_tokens] = at;
            batch.n_seq_id[batch.n_tokens] = 1;
            batch.seq_id[batch.n_tokens][0] = 0;
            batch.logits[batch.n_tokens] = at == n - 1;
        }
        CHECK(llama_decode(ctx, batch) == 0);
        llama_batch_free(batch);
    }
}

/* Tokens decoded, once there was a batch of several and one of a single token: llama.cpp gives no count below 1. */
static int32_t read_by(struct llama_context *ctx) {
    llama_synchronize(ctx);
    return llama_perf_context(ctx).n_eval + llama_perf_context(ctx).n_p_eval;
}

/* What may be said: as the sampler has it, but written down by itself. */
static bool barred(llama_token token) {
    const int attr = (int) llama_vocab_get_attr(vocab, token);
    return (attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_UNUSED)) != 0 &&
           !llama_vocab_is_eog(vocab, token);
}

/* The blend after `text`, from fresh contexts. */
static void expected_blend(const reply *text, const double *factors, const eft_filter *filter, float *out) {
    struct llama_context *ctx[3];
    eft_row rows[3];
    void *scratch = malloc(eft_scratch_size((size_t) n_vocab));
    for (int m = 0; m < 3; m++) {
        ctx[m] = context(m, 1);
        read_tokens(ctx[m], text->token, 0, text->n);
        rows[m].logits = llama_get_logits_ith(ctx[m], -1);
        rows[m].factor = factors[m];
        rows[m].role = ROLES[m];
    }
    float *first = llama_get_logits_ith(ctx[factors[0] != 0 ? 0 : factors[1] != 0 ? 1 : 2], -1);
    for (int32_t i = 0; i < n_vocab; i++) {
        first[i] = barred(i) ? -INFINITY : first[i];
    }
    CHECK(eft_blend_filtered(rows, 3, (size_t) n_vocab, filter, scratch, out) == 0);
    free(scratch);
    for (int m = 0; m < 3; m++) {
        llama_free(ctx[m]);
    }
}

/* The logits that a sampler gives after the last token its host has read. */
static void sampled_blend(struct llama_sampler *sampler, struct llama_context *host, float *out) {
    llama_token_data *data = (llama_token_data *) malloc((size_t) n_vocab * sizeof *data);
    const float *logits = llama_get_logits_ith(host, -1);
    for (int32_t i = 0; i < n_vocab; i++) { /* backwards: their order must not matter */
        data[i].id = n_vocab - 1 - i;
        data[i].logit = logits[data[i].id];
        data[i].p = 0;
    }
    llama_token_data_array candidates = {data, (size_t) n_vocab, -1, true};
    llama_sampler_apply(sampler, &candidates);
    CHECK(!candidates.sorted && candidates.size == (size_t) n_vocab);
    for (int32_t i = 0; i < n_vocab; i++) {
        out[data[i].id] = data[i].logit;
    }
    free(data);
}

static void check_close(const float *a, const float *b) {
    for (int32_t i = 0; i < n_vocab; i++) {
        if (isfinite(a[i]) || isfinite(b[i])) {
            CHECK(fabsf(a[i] - b[i]) < CLOSE);
        }
    }
}

typedef struct side_by_side {
    struct llama_context *ctx[3];
    struct llama_sampler *sampler;
    double factors[3];
} side_by_side;

static side_by_side start(int host, double knowledge, double behaviour, const eft_filter *filter, uint32_t sequences) {
    side_by_side made;
    eft_member members[3];
    const double weight = 1;
    CHECK(eft_factors(knowledge, behaviour, &weight, NULL, 1, made.factors) == 0);
    for (int m = 0; m < 3; m++) {
        made.ctx[m] = context(m, sequences);
        members[m].ctx = made.ctx[m];
        members[m].factor = made.factors[m];
        members[m].role = ROLES[m];
    }
    made.sampler = eft_sampler_init(members, 3, (size_t) host, filter);
    CHECK(made.sampler && strcmp(llama_sampler_name(made.sampler), "eft") == 0 && !eft_sampler_error(made.sampler));
    return made;
}

static void stop(side_by_side *s, bool sampler_too) {
    if (sampler_too) {
        llama_sampler_free(s->sampler);
    }
    for (int m = 0; m < 3; m++) {
        llama_free(s->ctx[m]);
    }
}

/* ---- Tests */

static void test_whichever_model_is_the_host_the_blend_is_the_same(void) {
    const double dials[4][2] = {{1, 1}, {1.3, 0.7}, {0, 1}, {1, 0}};
    eft_filter filters[2] = {eft_filter_none(), eft_filter_none()};
    const reply text = question();
    float *expected = new_row(), *out = new_row();
    filters[1].untuned_floor = -7, filters[1].base_min_p = 0.01, filters[1].tuned_top_p = 0.9;
    for (int f = 0; f < 2; f++) {
        for (int d = 0; d < 4; d++) {
            for (int host = 0; host < 3; host++) {
                side_by_side s = start(host, dials[d][0], dials[d][1], &filters[f], 1);
                expected_blend(&text, s.factors, &filters[f], expected);
                read_tokens(s.ctx[host], text.token, 0, text.n);
                CHECK(eft_sampler_prompt(s.sampler, text.token, (size_t) text.n) == 0);
                CHECK(eft_sampler_decode(s.sampler) == 0);
                sampled_blend(s.sampler, s.ctx[host], out);
                for (int32_t i = 0; i < n_vocab; i++) { /* batches of the same sizes: to the last bit */
                    CHECK(out[i] == expected[i]);
                }
                for (int m = 0; m < 3; m++) { /* models of factor 0 are not decoded but for a filter */
                    const bool looked_at = f == 1 && (m == 0 || (m == 1 && dials[d][0] != 0));
                    const int32_t read = llama_memory_seq_pos_max(llama_get_memory(s.ctx[m]), 0) + 1;
                    CHECK(m == host || read == (s.factors[m] != 0 || looked_at ? text.n : 0));
                }
                stop(&s, true);
            }
        }
    }
    free(expected);
    free(out);
}

static reply greedy(struct llama_sampler *chain, struct llama_context *host, const reply *prompt, int32_t most) {
    reply text = *prompt;
    read_tokens(host, text.token, 0, text.n);
    while (text.n < prompt->n + most && text.n < MOST) {
        const llama_token token = llama_sampler_sample(chain, host, -1);
        text.token[text.n++] = token;
        if (llama_vocab_is_eog(vocab, token)) {
            break;
        }
        read_tokens(host, text.token, text.n - 1, text.n);
    }
    return text;
}

static void append_piece(char *to, size_t room, llama_token token) {
    char piece[64];
    const int32_t n = llama_token_to_piece(vocab, token, piece, sizeof piece - 1, 0, false);
    CHECK(n >= 0 && strlen(to) + (size_t) n < room);
    strncat(to, piece, (size_t) n);
}

static void test_a_chain_with_other_samplers(void) {
    const char *grammar = "root ::= \"It is \" (\"Paris\" | \"Bergen\" | \"Oslo\") \".\"";
    const reply prompt = question();
    side_by_side s = start(0, 1, 1, NULL, 1);
    struct llama_sampler *chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, s.sampler);
    llama_sampler_chain_add(chain, llama_sampler_init_penalties(n_vocab, 16, 1, 0.1f, 0));
    llama_sampler_chain_add(chain, llama_sampler_init_grammar(vocab, grammar, "root"));
    llama_sampler_chain_add(chain, llama_sampler_init_top_k(20));
    llama_sampler_chain_add(chain, llama_sampler_init_min_p(0.05f, 1));
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    CHECK(eft_sampler_prompt(s.sampler, prompt.token, (size_t) prompt.n) == 0);
    const reply text = greedy(chain, s.ctx[0], &prompt, 16);
    char said[128] = "";
    for (int32_t i = prompt.n; i < text.n; i++) {
        append_piece(said, sizeof said, text.token[i]);
    }
    CHECK(strcmp(said, "It is Oslo.") == 0 && !eft_sampler_error(s.sampler));
    llama_sampler_free(chain);
    stop(&s, false);
}

static void test_what_is_impossible_before_stays_impossible(void) {
    const reply prompt = question();
    side_by_side s = start(0, 0, 1, NULL, 1); /* the tuned model alone: the host's row is not even read */
    llama_token_data data[3] = {{5, -INFINITY, 0}, {6, 1, 0}, {n_vocab + 3, 1, 0}};
    llama_token_data_array candidates = {data, 3, 0, true};
    read_tokens(s.ctx[0], prompt.token, 0, prompt.n);
    eft_sampler_prompt(s.sampler, prompt.token, (size_t) prompt.n);
    llama_sampler_apply(s.sampler, &candidates);
    CHECK(data[0].logit == -INFINITY && isfinite(data[1].logit) && data[2].logit == -INFINITY);
    stop(&s, true);
}

/* Original and clone go on with different words; each has the blend of its own text. */
static void test_clones_part_ways(uint32_t sequences) {
    const reply prompt = question();
    const reply words[2] = {tokens_of("Oslo is a city by the sea"), tokens_of("The answer, I think, is Bergen")};
    const eft_filter none = eft_filter_none();
    side_by_side s = start(0, 1, 1, NULL, sequences);
    struct llama_sampler *sampler[2] = {s.sampler, NULL};
    struct llama_context *host[2] = {s.ctx[0], context(0, 1)};
    reply text[2] = {prompt, prompt};
    float *expected = new_row(), *out = new_row();
    read_tokens(host[0], prompt.token, 0, prompt.n);
    read_tokens(host[1], prompt.token, 0, prompt.n);
    eft_sampler_prompt(s.sampler, prompt.token, (size_t) prompt.n);
    sampled_blend(s.sampler, host[0], out);
    sampler[1] = llama_sampler_clone(s.sampler);
    CHECK(sampler[1]);
    sampled_blend(sampler[1], host[1], expected); /* nothing happened since: the same logits, up to batches */
    check_close(out, expected);
    for (int at = 0; at < 4; at++) {
        for (int c = 0; c < 2; c++) {
            text[c].token[text[c].n++] = words[c].token[at];
            llama_sampler_accept(sampler[c], words[c].token[at]);
            read_tokens(host[c], text[c].token, text[c].n - 1, text[c].n);
            sampled_blend(sampler[c], host[c], out);
            CHECK(!eft_sampler_error(sampler[c]));
            expected_blend(&text[c], s.factors, &none, expected);
            check_close(out, expected);
        }
    }
    if (sequences > 1) { /* a sequence each: every token is read once, the clone's first logits apart */
        CHECK(read_by(s.ctx[1]) == prompt.n + 1 + 8);
    }
    /* The original goes first, and its clone's clone gets what it leaves. */
    llama_sampler_free(sampler[0]);
    struct llama_sampler *third = llama_sampler_clone(sampler[1]);
    sampled_blend(third, host[1], out);
    check_close(out, expected);
    llama_sampler_free(sampler[1]);
    sampled_blend(third, host[1], out);
    check_close(out, expected);
    llama_sampler_free(third);
    llama_free(host[1]);
    stop(&s, false);
    free(expected);
    free(out);
}

static void test_a_chain_is_cloned_with_it(void) {
    const reply prompt = question();
    side_by_side s = start(0, 1, 1, NULL, 1);
    struct llama_sampler *chain = llama_sampler_chain_init(llama_sampler_chain_default_params()), *clone;
    llama_sampler_chain_add(chain, s.sampler);
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    eft_sampler_prompt(s.sampler, prompt.token, (size_t) prompt.n);
    clone = llama_sampler_clone(chain);
    const reply one = greedy(chain, s.ctx[0], &prompt, 20);
    llama_memory_clear(llama_get_memory(s.ctx[0]), true);
    const reply other = greedy(clone, s.ctx[0], &prompt, 20);
    CHECK(one.n == other.n && memcmp(one.token, other.token, (size_t) one.n * sizeof *one.token) == 0);
    CHECK(eft_sampler_prompt(llama_sampler_chain_get(clone, 0), prompt.token, 1) == 0);
    llama_sampler_free(clone);
    llama_sampler_free(chain);
    stop(&s, false);
}

static void test_a_second_turn_reads_only_what_is_new(void) {
    reply text = question();
    side_by_side s = start(0, 1, 1, NULL, 1);
    struct llama_sampler *chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, s.sampler);
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    eft_sampler_prompt(s.sampler, text.token, (size_t) text.n);
    text = greedy(chain, s.ctx[0], &text, 6);
    CHECK(read_by(s.ctx[1]) == text.n - 1); /* the last one waits until it is needed */
    llama_sampler_reset(chain);
    const reply more = tokens_of("\n<|im_start|>user\nWhy?<|im_end|>\n");
    memcpy(text.token + text.n, more.token, (size_t) more.n * sizeof *more.token);
    text.n += more.n;
    llama_memory_clear(llama_get_memory(s.ctx[0]), true);
    read_tokens(s.ctx[0], text.token, 0, text.n);
    eft_sampler_prompt(s.sampler, text.token, (size_t) text.n);
    CHECK(eft_sampler_decode(s.sampler) == 0 && read_by(s.ctx[1]) == text.n);
    llama_sampler_free(chain);
    stop(&s, false);
}

static void test_dials_turn_between_tokens(void) {
    const reply prompt = question();
    const eft_filter none = eft_filter_none();
    side_by_side s = start(0, 1, 0, NULL, 1);
    float *expected = new_row(), *out = new_row();
    double factors[3] = {0.5, -0.5, 1}, wrong[3] = {1, NAN, 0};
    eft_filter impossible = eft_filter_none();
    read_tokens(s.ctx[0], prompt.token, 0, prompt.n);
    eft_sampler_prompt(s.sampler, prompt.token, (size_t) prompt.n);
    sampled_blend(s.sampler, s.ctx[0], out);
    expected_blend(&prompt, s.factors, &none, expected);
    check_close(out, expected);
    CHECK(llama_memory_seq_pos_max(llama_get_memory(s.ctx[2]), 0) == -1);
    impossible.base_top_p = 2;
    CHECK(eft_sampler_dials(s.sampler, wrong, NULL) == -1 && eft_sampler_dials(s.sampler, factors, &impossible) == -1);
    CHECK(eft_sampler_dials(s.sampler, factors, NULL) == 0);
    sampled_blend(s.sampler, s.ctx[0], out);
    expected_blend(&prompt, factors, &none, expected);
    check_close(out, expected);
    stop(&s, true);
    free(expected);
    free(out);
}

/* After a failure only the end is likely, and the reason is told. */
static void check_ends(side_by_side *s, const char *reason) {
    float *out = new_row();
    int32_t best = 0;
    CHECK(eft_sampler_decode(s->sampler) == -1);
    sampled_blend(s->sampler, s->ctx[0], out);
    for (int32_t i = 0; i < n_vocab; i++) {
        best = out[i] > out[best] ? i : best;
    }
    CHECK(llama_vocab_is_eog(vocab, best) && strstr(eft_sampler_error(s->sampler), reason));
    free(out);
}

static void test_failures_end_the_reply(void) {
    const reply prompt = question();
    side_by_side s = start(0, 1, 1, NULL, 1);
    llama_token long_text[CTX + 1];
    read_tokens(s.ctx[0], prompt.token, 0, prompt.n);
    check_ends(&s, "not told the prompt");
    eft_sampler_prompt(s.sampler, prompt.token, (size_t) prompt.n - 1);
    check_ends(&s, "the sampler was told of");
    for (int i = 0; i <= CTX; i++) {
        long_text[i] = prompt.token[i % prompt.n];
    }
    eft_sampler_prompt(s.sampler, long_text, CTX + 1);
    check_ends(&s, "the sampler was told of");
    long_text[0] = n_vocab;
    eft_sampler_prompt(s.sampler, long_text, (size_t) prompt.n);
    check_ends(&s, "is beyond the");
    llama_sampler_reset(s.sampler);
    CHECK(!eft_sampler_error(s.sampler));
    eft_sampler_prompt(s.sampler, prompt.token, (size_t) prompt.n);
    CHECK(eft_sampler_decode(s.sampler) == 0);
    stop(&s, true);

    /* The others' contexts are shorter than the host's. */
    s = start(0, 1, 1, NULL, 1);
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = 4 * CTX;
    struct llama_context *longer = llama_init_from_model(models[0], params);
    const eft_member members[2] = {{longer, 0.5, EFT_BASE}, {s.ctx[1], 0.5, EFT_UNTUNED}};
    llama_sampler_free(s.sampler);
    s.sampler = eft_sampler_init(members, 2, 0, NULL);
    struct llama_context *host = s.ctx[0];
    s.ctx[0] = longer;
    long_text[0] = prompt.token[0];
    llama_token far_too_long[3 * CTX];
    for (int i = 0; i < 3 * CTX; i++) {
        far_too_long[i] = prompt.token[i % prompt.n];
    }
    read_tokens(longer, far_too_long, 0, 3 * CTX);
    eft_sampler_prompt(s.sampler, far_too_long, 3 * CTX);
    check_ends(&s, "the context holds");
    llama_free(host);
    stop(&s, true);
}

static void test_wrong_arguments_are_refused(void) {
    struct llama_context *base = context(0, 1), *untuned = context(1, 1);
    eft_filter filter = eft_filter_none();
    const eft_member right[2] = {{base, 1, EFT_BASE}, {untuned, 0, EFT_UNTUNED}};
    const eft_member twice[2] = {{base, 1, EFT_BASE}, {base, 0, EFT_UNTUNED}};
    const eft_member missing[2] = {{base, 1, EFT_BASE}, {NULL, 0, EFT_UNTUNED}};
    const eft_member two_bases[2] = {{base, 1, EFT_BASE}, {untuned, 0, EFT_BASE}};
    const eft_member endless[2] = {{base, INFINITY, EFT_BASE}, {untuned, 0, EFT_UNTUNED}};
    CHECK(!eft_sampler_init(NULL, 1, 0, NULL) && !eft_sampler_init(right, 0, 0, NULL));
    CHECK(!eft_sampler_init(right, 2, 2, NULL));
    CHECK(!eft_sampler_init(twice, 2, 0, NULL) && !eft_sampler_init(missing, 2, 0, NULL));
    CHECK(!eft_sampler_init(two_bases, 2, 0, NULL) && !eft_sampler_init(endless, 2, 0, NULL));
    filter.tuned_top_p = 0.9;
    CHECK(!eft_sampler_init(right, 1, 0, &filter)); /* looks at an untuned model that is not there */
    filter.tuned_top_p = 0;
    CHECK(!eft_sampler_init(right, 2, 0, &filter));
    struct llama_sampler *other = llama_sampler_init_greedy();
    CHECK(eft_sampler_prompt(other, NULL, 0) == -1 && eft_sampler_decode(other) == -1 && !eft_sampler_error(other));
    CHECK(eft_sampler_decode(NULL) == -1);
    llama_sampler_free(other);
    llama_free(base);
    llama_free(untuned);
}

static void ignore(enum ggml_log_level level, const char *text, void *data) {
    (void) level, (void) text, (void) data;
}

int main(int argc, char **argv) {
    const char *names[3] = {"base-l.gguf", "base-s.gguf", "helpful-s.gguf"};
    CHECK(argc == 2);
    llama_log_set(ignore, NULL);
    llama_backend_init();
    for (int m = 0; m < 3; m++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], names[m]);
        struct llama_model_params params = llama_model_default_params();
        params.use_extra_bufts = false;
        models[m] = llama_model_load_from_file(path, params);
        CHECK(models[m]);
    }
    vocab = llama_model_get_vocab(models[2]);
    n_vocab = llama_vocab_n_tokens(vocab);
    test_whichever_model_is_the_host_the_blend_is_the_same();
    test_a_chain_with_other_samplers();
    test_what_is_impossible_before_stays_impossible();
    test_clones_part_ways(1);
    test_clones_part_ways(3);
    test_a_chain_is_cloned_with_it();
    test_a_second_turn_reads_only_what_is_new();
    test_dials_turn_between_tokens();
    test_failures_end_the_reply();
    test_wrong_arguments_are_refused();
    for (int m = 0; m < 3; m++) {
        llama_model_free(models[m]);
    }
    llama_backend_free();
    puts("ok");
    return 0;
}
