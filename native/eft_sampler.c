/* The sampler of eft_sampler.h. Compiles as C11 and as C++. */
#include "eft_sampler.h"

#include "eft_reader.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a sampler and its clones share. */
typedef struct shared {
    int users;
    size_t n_members, host;
    eft_reader *readers; /* one a member; the host's is without sequences, the others have as many as each other */
    size_t n_vocab;
    char *barred; /* by token: 1 if no reply may hold it */
    char *ends;   /* by token: 1 if it ends a reply */
    eft_tokens shown; /* what base and untuned read before the text */
} shared;

/* One sampler. */
typedef struct state {
    struct llama_sampler_i functions; /* first six only: the others are for samplers inside llama.cpp's graphs */
    shared *common;
    int32_t sequence; /* which one it has in all contexts */
    eft_tokens said;  /* what the next token follows */
    int fresh;        /* nothing was sampled since `said` began anew */
    eft_row *rows;
    eft_filter filter;
    float *from_host, *blended;
    void *scratch;
    char error[160];
} state;

/* ---- Small things */

static int fail(state *s, const char *format, ...) {
    if (!s->error[0]) { /* the first failure is the cause of those after it */
        va_list values;
        va_start(values, format);
        vsnprintf(s->error, sizeof s->error, format, values);
        va_end(values);
    }
    return -1;
}

static const struct llama_vocab *vocab_of(const struct llama_context *ctx) {
    return llama_model_get_vocab(llama_get_model(ctx));
}

/* Whether a member has to be decoded: it has part in the blend, or a filter looks at it (see eft_blend_filtered). */
static int needed(const eft_row *row, double knowledge, const eft_filter *filter) {
    return row->factor != 0 || (row->role == EFT_BASE && (filter->base_top_p < 1 || filter->base_min_p > 0)) ||
           (row->role == EFT_UNTUNED && filter->tuned_top_p < 1 && knowledge != 0);
}

static double knowledge_of(const eft_row *rows, size_t n) {
    for (size_t m = 0; m < n; m++) {
        if (rows[m].role == EFT_BASE) {
            return rows[m].factor;
        }
    }
    return 0;
}

/* Whether a member reads what is shown before the text. */
static int is_shown(const state *s, size_t m) {
    return s->common->shown.n > 0 && s->rows[m].role != EFT_TUNED;
}

/* What base and untuned read: what is shown, then the text, without a second token that begins all texts. */
static int read_after_shown(const state *s, eft_tokens *whole) {
    const eft_tokens *shown = &s->common->shown;
    const struct llama_vocab *vocab = vocab_of(s->common->readers[s->common->host].ctx);
    const size_t skip = s->said.id[0] == llama_vocab_bos(vocab) && shown->id[0] == s->said.id[0];
    return eft_tokens_append(whole, shown->id, shown->n) != 0 ||
           eft_tokens_append(whole, s->said.id + skip, s->said.n - skip) != 0;
}

/* Decodes on the others' contexts what has part in the next token. */
static int decode_needed(state *s) {
    shared *common = s->common;
    struct llama_context *host = common->readers[common->host].ctx;
    const double knowledge = knowledge_of(s->rows, common->n_members);
    if (s->error[0]) {
        return -1;
    }
    if (s->said.n == 0) {
        return fail(s, "the sampler was not told the prompt: call eft_sampler_prompt");
    }
    for (size_t i = 0; i < s->said.n; i++) {
        if (s->said.id[i] < 0 || (size_t) s->said.id[i] >= common->n_vocab) {
            return fail(s, "token %d is beyond the %zu that all models share", (int) s->said.id[i], common->n_vocab);
        }
    }
    /* A forgotten or doubled token would shift the models against each other, and the blend would look like noise. */
    eft_tokens whole = {NULL, 0, 0};
    if (common->shown.n > 0 && read_after_shown(s, &whole) != 0) {
        free(whole.id);
        return fail(s, "no memory");
    }
    int status = 0;
    if (llama_n_seq_max(host) == 1) {
        const size_t read = (size_t) (llama_memory_seq_pos_max(llama_get_memory(host), 0) + 1);
        const size_t told = is_shown(s, common->host) ? whole.n : s->said.n;
        if (s->fresh ? read != told : read < told) {
            status = fail(s, "the host has read %zu tokens, the sampler was told of %zu", read, told);
        }
    }
    for (size_t m = 0; status == 0 && m < common->n_members; m++) {
        char reason[sizeof s->error - 32];
        const eft_tokens *text = is_shown(s, m) ? &whole : &s->said;
        if (m != common->host && needed(&s->rows[m], knowledge, &s->filter) &&
            eft_reader_catch_up(&common->readers[m], s->sequence, text, reason, sizeof reason) != 0) {
            status = fail(s, "member %d: %s", (int) m, reason);
        }
    }
    free(whole.id);
    return status;
}

/* ---- llama_sampler */

static const char *sampler_name(const struct llama_sampler *sampler) {
    (void) sampler;
    return "eft";
}

static void sampler_accept(struct llama_sampler *sampler, llama_token token) {
    state *s = (state *) sampler->ctx;
    if (eft_tokens_append(&s->said, &token, 1) != 0) {
        fail(s, "no memory");
    }
}

/* The end is as good as certain. The others keep a chance, for a grammar that does not allow the end yet: llama.cpp
 * ends the process where a grammar is told of a token that it had refused. */
static void prefer_ends(const shared *common, llama_token_data_array *candidates) {
    for (size_t i = 0; i < candidates->size; i++) {
        llama_token_data *c = &candidates->data[i];
        const int ends = c->id >= 0 && (size_t) c->id < common->n_vocab && common->ends[c->id];
        c->logit = ends ? c->logit : c->logit - 1e6f;
    }
}

static void sampler_apply(struct llama_sampler *sampler, llama_token_data_array *candidates) {
    state *s = (state *) sampler->ctx;
    shared *common = s->common;
    const size_t n = common->n_vocab;
    const double knowledge = knowledge_of(s->rows, common->n_members);
    float *first = NULL;
    candidates->sorted = false;
    candidates->selected = -1;
    if (decode_needed(s) != 0) {
        prefer_ends(common, candidates);
        return;
    }
    s->fresh = 0;
    /* The host's row. What samplers before this one have left out is impossible. */
    for (size_t i = 0; i < n; i++) {
        s->from_host[i] = -INFINITY;
    }
    for (size_t i = 0; i < candidates->size; i++) {
        const llama_token_data *c = &candidates->data[i];
        if (c->id >= 0 && (size_t) c->id < n) {
            s->from_host[c->id] = c->logit;
        }
    }
    for (size_t m = 0; m < common->n_members; m++) {
        float *logits = NULL;
        if (needed(&s->rows[m], knowledge, &s->filter)) {
            logits = m == common->host ? s->from_host : llama_get_logits_ith(common->readers[m].ctx, -1);
            if (!logits) {
                fail(s, "member %d: its context gave no logits", (int) m);
                prefer_ends(common, candidates);
                return;
            }
            first = first ? first : logits;
        }
        s->rows[m].logits = logits;
    }
    /* One row ruling a token out rules it out of the blend; but a filter may go by other rows alone. */
    for (size_t i = 0; first && i < n; i++) {
        first[i] = common->barred[i] ? -INFINITY : first[i];
    }
    eft_blend_filtered(s->rows, common->n_members, n, &s->filter, s->scratch, s->blended);
    for (size_t i = 0; i < candidates->size; i++) {
        llama_token_data *c = &candidates->data[i];
        const int possible = isfinite(c->logit) && c->id >= 0 && (size_t) c->id < n && !common->barred[c->id];
        c->logit = possible ? s->blended[c->id] : -INFINITY;
    }
}

static void sampler_reset(struct llama_sampler *sampler) {
    state *s = (state *) sampler->ctx;
    s->said.n = 0;
    s->fresh = 1;
    s->error[0] = 0;
}

static void release(shared *common) {
    if (!common || --common->users > 0) {
        return;
    }
    for (size_t m = 0; common->readers && m < common->n_members; m++) {
        eft_reader_free(&common->readers[m]);
    }
    free(common->readers);
    free(common->barred);
    free(common->ends);
    free(common->shown.id);
    free(common);
}

static void state_free(state *s) {
    if (!s) {
        return;
    }
    for (size_t m = 0; s->common && m < s->common->n_members; m++) {
        if (s->common->readers[m].sequences) {
            s->common->readers[m].sequences[s->sequence].users--;
        }
    }
    release(s->common);
    free(s->said.id);
    free(s->rows);
    free(s->from_host);
    free(s->blended);
    free(s->scratch);
    free(s);
}

static void sampler_free(struct llama_sampler *sampler) {
    state_free((state *) sampler->ctx);
}

static struct llama_sampler *sampler_clone(const struct llama_sampler *sampler);

static struct llama_sampler *sampler_of(state *s) {
    s->functions.name = sampler_name;
    s->functions.accept = sampler_accept;
    s->functions.apply = sampler_apply;
    s->functions.reset = sampler_reset;
    s->functions.clone = sampler_clone;
    s->functions.free = sampler_free;
    return llama_sampler_init(&s->functions, s);
}

static state *state_of(const struct llama_sampler *sampler) {
    return sampler && sampler->iface->free == sampler_free ? (state *) sampler->ctx : NULL;
}

/* ---- Making one */

static int make_room(state *s, size_t n_members, size_t n_vocab) {
    s->rows = (eft_row *) calloc(n_members, sizeof *s->rows);
    s->from_host = (float *) malloc(n_vocab * sizeof *s->from_host);
    s->blended = (float *) malloc(n_vocab * sizeof *s->blended);
    s->scratch = malloc(eft_scratch_size(n_vocab));
    s->fresh = 1;
    return s->rows && s->from_host && s->blended && s->scratch ? 0 : -1;
}

static struct llama_sampler *sampler_clone(const struct llama_sampler *sampler) {
    const state *from = (const state *) sampler->ctx;
    shared *common = from->common;
    state *s = (state *) calloc(1, sizeof *s);
    if (!s || make_room(s, common->n_members, common->n_vocab) != 0 ||
        eft_tokens_append(&s->said, from->said.id, from->said.n) != 0) {
        state_free(s);
        return NULL;
    }
    memcpy(s->rows, from->rows, common->n_members * sizeof *s->rows);
    memcpy(s->error, from->error, sizeof s->error);
    s->filter = from->filter;
    s->fresh = from->fresh;
    s->common = common;
    s->sequence = from->sequence;
    common->users++;
    /* A sequence that nobody uses, or else the other's. */
    const eft_reader *any = &common->readers[common->host == 0 ? common->n_members - 1 : 0];
    for (int32_t i = 0; any->sequences && s->sequence == from->sequence && i < any->n_sequences; i++) {
        s->sequence = any->sequences[i].users == 0 ? i : s->sequence;
    }
    for (size_t m = 0; m < common->n_members; m++) {
        eft_reader *reader = &common->readers[m];
        if (reader->sequences) {
            reader->sequences[s->sequence].users++;
            if (s->sequence != from->sequence) {
                eft_reader_copy(reader, from->sequence, s->sequence);
            }
        }
    }
    return sampler_of(s);
}

/* What no reply may hold: what a vocabulary marks as unknown, unused or control, and does not end a reply; and what its
 * file says to suppress. A base may never have been trained on such tokens, and then base - untuned is noise. */
static void mark_tokens(shared *common, const struct llama_vocab *vocab) {
    int32_t n = 0;
    const llama_token *suppressed = llama_vocab_get_suppress_tokens(vocab, &n);
    for (size_t i = 0; i < common->n_vocab; i++) {
        const int attr = (int) llama_vocab_get_attr(vocab, (llama_token) i);
        const int bars = LLAMA_TOKEN_ATTR_UNKNOWN | LLAMA_TOKEN_ATTR_UNUSED | LLAMA_TOKEN_ATTR_CONTROL;
        common->ends[i] = common->ends[i] || llama_vocab_is_eog(vocab, (llama_token) i);
        common->barred[i] = common->barred[i] || (attr & bars) != 0;
    }
    for (int32_t i = 0; suppressed && i < n; i++) {
        if (suppressed[i] >= 0 && (size_t) suppressed[i] < common->n_vocab) {
            common->barred[suppressed[i]] = 1;
        }
    }
}

static shared *share(const eft_member *members, size_t n_members, size_t host) {
    shared *common = (shared *) calloc(1, sizeof *common);
    if (!common) {
        return NULL;
    }
    common->users = 1;
    common->n_members = n_members;
    common->host = host;
    common->readers = (eft_reader *) calloc(n_members, sizeof *common->readers);
    common->n_vocab = (size_t) llama_vocab_n_tokens(vocab_of(members[0].ctx));
    int32_t n_sequences = INT32_MAX;
    for (size_t m = 0; m < n_members; m++) {
        const size_t own = (size_t) llama_vocab_n_tokens(vocab_of(members[m].ctx));
        const int32_t most = m == host ? INT32_MAX : (int32_t) llama_n_seq_max(members[m].ctx);
        common->n_vocab = own < common->n_vocab ? own : common->n_vocab;
        n_sequences = most < n_sequences ? most : n_sequences;
    }
    common->barred = (char *) calloc(common->n_vocab, 1);
    common->ends = (char *) calloc(common->n_vocab, 1);
    if (!common->readers || !common->barred || !common->ends) {
        release(common);
        return NULL;
    }
    for (size_t m = 0; m < n_members; m++) {
        mark_tokens(common, vocab_of(members[m].ctx));
        common->readers[m].ctx = members[m].ctx;
        if (m != host) {
            if (eft_reader_init(&common->readers[m], members[m].ctx, n_sequences) != 0) {
                release(common);
                return NULL;
            }
            common->readers[m].sequences[0].users = 1;
        }
    }
    for (size_t i = 0; i < common->n_vocab; i++) {
        common->barred[i] = common->barred[i] && !common->ends[i];
    }
    return common;
}

static int filter_has_its_models(const eft_row *rows, size_t n_members, const eft_filter *filter) {
    int has_base = 0, has_untuned = 0;
    for (size_t m = 0; m < n_members; m++) {
        has_base = has_base || rows[m].role == EFT_BASE;
        has_untuned = has_untuned || rows[m].role == EFT_UNTUNED;
    }
    return (has_base || (filter->base_top_p >= 1 && filter->base_min_p <= 0)) &&
           (has_untuned || filter->tuned_top_p >= 1 || knowledge_of(rows, n_members) == 0);
}

struct llama_sampler *eft_sampler_init(const eft_member *members, size_t n_members, size_t host,
                                       const eft_filter *filter) {
    int bases = 0, untuned = 0;
    if (!members || n_members == 0 || n_members > EFT_MAX_ROWS || host >= n_members) {
        return NULL;
    }
    for (size_t m = 0; m < n_members; m++) {
        if (!members[m].ctx || llama_vocab_n_tokens(vocab_of(members[m].ctx)) < 1 ||
            llama_vocab_type(vocab_of(members[m].ctx)) != llama_vocab_type(vocab_of(members[0].ctx))) {
            return NULL;
        }
        for (size_t other = 0; other < m; other++) {
            if (members[other].ctx == members[m].ctx) {
                return NULL;
            }
        }
        bases += members[m].role == EFT_BASE;
        untuned += members[m].role == EFT_UNTUNED;
    }
    state *s = (state *) calloc(1, sizeof *s);
    if (!s || bases > 1 || untuned > 1 || !(s->common = share(members, n_members, host)) ||
        make_room(s, n_members, s->common->n_vocab) != 0) {
        state_free(s);
        return NULL;
    }
    double factors[EFT_MAX_ROWS];
    for (size_t m = 0; m < n_members; m++) {
        factors[m] = members[m].factor;
        s->rows[m].role = members[m].role;
    }
    struct llama_sampler *sampler = sampler_of(s);
    if (sampler && eft_sampler_dials(sampler, factors, filter) != 0) {
        llama_sampler_free(sampler);
        return NULL;
    }
    return sampler;
}

int eft_sampler_dials(struct llama_sampler *sampler, const double *factors, const eft_filter *filter) {
    state *s = state_of(sampler);
    eft_row rows[EFT_MAX_ROWS];
    const eft_filter chosen = filter ? *filter : eft_filter_none();
    if (!s || !factors || !eft_filter_valid(&chosen)) {
        return -1;
    }
    const size_t n_members = s->common->n_members;
    memcpy(rows, s->rows, n_members * sizeof *rows);
    for (size_t m = 0; m < n_members; m++) {
        if (!isfinite(factors[m])) {
            return -1;
        }
        rows[m].factor = factors[m];
    }
    if (!filter_has_its_models(rows, n_members, &chosen)) {
        return -1;
    }
    memcpy(s->rows, rows, n_members * sizeof *rows);
    s->filter = chosen;
    return 0;
}

int eft_sampler_prompt(struct llama_sampler *sampler, const llama_token *tokens, size_t n) {
    state *s = state_of(sampler);
    if (!s) {
        return -1;
    }
    sampler_reset(sampler);
    return eft_tokens_append(&s->said, tokens, n) == 0 ? 0 : fail(s, "no memory");
}

int eft_sampler_show(struct llama_sampler *sampler, const llama_token *tokens, size_t n) {
    state *s = state_of(sampler);
    if (!s) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || (size_t) tokens[i] >= s->common->n_vocab) {
            return -1;
        }
    }
    s->common->shown.n = 0;
    return eft_tokens_append(&s->common->shown, tokens, n) == 0 ? 0 : fail(s, "no memory");
}

int eft_sampler_decode(struct llama_sampler *sampler) {
    state *s = state_of(sampler);
    return s ? decode_needed(s) : -1;
}

const char *eft_sampler_error(const struct llama_sampler *sampler) {
    const state *s = state_of(sampler);
    return s && s->error[0] ? s->error : NULL;
}
