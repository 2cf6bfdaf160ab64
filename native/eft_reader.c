/* The reader of eft_reader.h. Compiles as C11 and as C++. */
#include "eft_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int eft_tokens_append(eft_tokens *to, const llama_token *ids, size_t n) {
    if (to->n + n > to->room) {
        const size_t room = to->n + n + to->n / 2 + 64;
        llama_token *grown = (llama_token *) realloc(to->id, room * sizeof *grown);
        if (!grown) {
            return -1;
        }
        to->id = grown;
        to->room = room;
    }
    if (n > 0) {
        memcpy(to->id + to->n, ids, n * sizeof *ids);
    }
    to->n += n;
    return 0;
}

int eft_reader_init(eft_reader *reader, struct llama_context *ctx, int32_t n_sequences) {
    reader->ctx = ctx;
    reader->sequences = (eft_sequence *) calloc((size_t) n_sequences, sizeof *reader->sequences);
    reader->n_sequences = n_sequences;
    reader->logits_of = -1;
    if (!reader->sequences) {
        return -1;
    }
    llama_memory_clear(llama_get_memory(ctx), true);
    return 0;
}

void eft_reader_free(eft_reader *reader) {
    for (int32_t i = 0; reader->sequences && i < reader->n_sequences; i++) {
        free(reader->sequences[i].read.id);
    }
    free(reader->sequences);
    reader->sequences = NULL;
}

static void forget(eft_reader *reader, int32_t sequence) {
    llama_memory_seq_rm(llama_get_memory(reader->ctx), sequence, -1, -1);
    reader->sequences[sequence].read.n = 0;
    reader->logits_of = reader->logits_of == sequence ? -1 : reader->logits_of;
}

/* Decodes text[from .. n) with logits of the last. Returns 0, llama_decode's code, or -1 without memory. */
static int decode(eft_reader *reader, int32_t sequence, const eft_tokens *text, size_t from) {
    const int32_t n_batch = (int32_t) llama_n_batch(reader->ctx);
    struct llama_batch batch = llama_batch_init(n_batch, 0, 1);
    int status = 0;
    reader->logits_of = -1;
    while (status == 0 && from < text->n) {
        for (batch.n_tokens = 0; batch.n_tokens < n_batch && from < text->n; batch.n_tokens++, from++) {
            const int32_t i = batch.n_tokens;
            batch.token[i] = text->id[from];
            batch.pos[i] = (llama_pos) from;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = sequence;
            batch.logits[i] = from == text->n - 1;
        }
        status = llama_decode(reader->ctx, batch);
        if (status == 0) {
            status = eft_tokens_append(&reader->sequences[sequence].read, batch.token, (size_t) batch.n_tokens);
        }
    }
    llama_batch_free(batch);
    return status;
}

int eft_reader_catch_up(eft_reader *reader, int32_t sequence, const eft_tokens *text, char *error, size_t room) {
    eft_tokens *read = &reader->sequences[sequence].read;
    const size_t holds = llama_n_ctx_seq(reader->ctx);
    size_t keep = 0;
    while (keep < read->n && keep < text->n && read->id[keep] == text->id[keep]) {
        keep++;
    }
    if (keep == text->n && keep == read->n && reader->logits_of == sequence) {
        return 0;
    }
    if (text->n > holds) {
        snprintf(error, room, "the text has %zu tokens, the context holds %zu", text->n, holds);
        return -1;
    }
    keep = keep == text->n ? keep - 1 : keep; /* the last token is read again, for its logits */
    if (keep < read->n) {
        llama_memory_t memory = llama_get_memory(reader->ctx);
        if (keep > 0 && llama_memory_seq_rm(memory, sequence, (llama_pos) keep, -1)) {
            read->n = keep;
        } else { /* recurrent states can't be cut back */
            forget(reader, sequence);
            keep = 0;
        }
    }
    const int status = decode(reader, sequence, text, keep);
    if (status != 0) {
        forget(reader, sequence); /* what a failed decode leaves behind is not known */
        snprintf(error, room, "%s (code %d)",
                 status == 1 ? "the KV cache has no room left" : "llama.cpp could not decode a batch", status);
        return -1;
    }
    reader->logits_of = sequence;
    return 0;
}

void eft_reader_copy(eft_reader *reader, int32_t from, int32_t to) {
    const eft_tokens *read = &reader->sequences[from].read;
    forget(reader, to);
    if (eft_tokens_append(&reader->sequences[to].read, read->id, read->n) == 0) {
        llama_memory_seq_cp(llama_get_memory(reader->ctx), from, to, -1, -1);
    }
}
