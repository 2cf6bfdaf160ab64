/* eft_reader.h: a context of llama.cpp that keeps on record what it has read, and decodes what it lacks of a text.
 * Internal to eft_sampler.c. MIT license, see LICENSE. */
#ifndef EFT_READER_H
#define EFT_READER_H

#include <stddef.h>
#include <stdint.h>

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A growing list of tokens; all zero is an empty one. */
typedef struct eft_tokens {
    llama_token *id;
    size_t n, room;
} eft_tokens;

/* Appends n tokens, which may not be those of `to` itself. Returns 0, or -1 without memory. */
int eft_tokens_append(eft_tokens *to, const llama_token *ids, size_t n);

/* What one sequence of a context has read, and how many samplers go by it. */
typedef struct eft_sequence {
    eft_tokens read;
    int users;
} eft_sequence;

typedef struct eft_reader {
    struct llama_context *ctx; /* borrowed */
    eft_sequence *sequences;
    int32_t n_sequences;
    int32_t logits_of; /* the sequence whose last token the context's logits follow; -1 for none */
} eft_reader;

/* Takes a context over: what it holds is dropped. Returns 0, or -1 without memory. */
int eft_reader_init(eft_reader *reader, struct llama_context *ctx, int32_t n_sequences);

/* Frees the record; the context stays. */
void eft_reader_free(eft_reader *reader);

/* Brings a sequence to where `text` (one token at least) ends, with the logits after it in the context: keeps what both
 * begin with, drops the rest, decodes what is missing in batches of the context's n_batch. Returns 0, or -1 with the
 * reason in `error`, of `room` bytes. */
int eft_reader_catch_up(eft_reader *reader, int32_t sequence, const eft_tokens *text, char *error, size_t room);

/* Lets sequence `to` have read what `from` has; memory holds it once. */
void eft_reader_copy(eft_reader *reader, int32_t from, int32_t to);

#ifdef __cplusplus
}
#endif
#endif /* EFT_READER_H */
