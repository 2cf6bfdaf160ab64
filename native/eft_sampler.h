/* eft_sampler.h: emulated fine-tuning as one of llama.cpp's samplers, for a chain with top-k, min-p, grammar and the rest.
 *
 * The program decodes one of the models, its host, and samples from its logits, as it would without EFT. The sampler
 * stands first in the chain and has the contexts of the other models: it decodes them itself and turns the host's
 * logits into those of the blend (the equation is in eft.h).
 *
 *     eft_member members[] = {{base, factors[0], EFT_BASE}, {untuned, factors[1], EFT_UNTUNED},
 *                             {tuned, factors[2], EFT_TUNED}};
 *     struct llama_sampler *eft = eft_sampler_init(members, 3, 0, NULL);        the host is members[0]
 *     llama_sampler_chain_add(chain, eft);                                      the chain frees it
 *     llama_sampler_chain_add(chain, llama_sampler_init_top_k(40));             ...
 *
 *     eft_sampler_prompt(eft, tokens, n);
 *     llama_decode(base, ...);                                                  the prompt, then each token
 *     token = llama_sampler_sample(chain, base, -1);                            which also accepts it
 *
 * Who decodes what. The program decodes the host alone. `accept` and eft_sampler_prompt only note tokens; `apply` (or
 * eft_sampler_decode before it) decodes on the other contexts what each has not read yet, in batches of their n_batch.
 * A context whose model has no part in the blend is left alone and catches up when a dial brings it in.
 *
 * What a context has read is kept on record. A prompt that begins like what was read before (the next turn of a chat,
 * a rolled back draft) costs only the rest. So `reset` forgets the text but not the record, and clones may part ways:
 * each finds what it shares with the context's content, drops the rest and decodes its own. Where the contexts were
 * made for several sequences (n_seq_max) each clone gets one to itself as long as there are any, and nothing is decoded
 * twice. A sampler, its clones and its contexts are for one thread at a time.
 *
 * The contexts are borrowed and must outlive the sampler and its clones. From init on all but the host's belong to it:
 * what they hold is dropped, and nobody else may decode on them. Sliding-window models need swa_full (the default).
 *
 * MIT license, see LICENSE.
 */
#ifndef EFT_SAMPLER_H
#define EFT_SAMPLER_H

#include "eft.h"
#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One model's part: its context, its factor in the blend (eft_factors), and what it is (only filters ask). A LoRA
 * adapter is set on its context by llama_set_adapters_lora. */
typedef struct eft_member {
    struct llama_context *ctx;
    double factor;
    eft_role role;
} eft_member;

/* A sampler that blends.
 *
 * members: 1 to EFT_MAX_ROWS, each with a context of its own; the models share a vocabulary. Where it is padded to
 *     different lengths, tokens that one of them lacks are impossible.
 * host: the index of the one that the program decodes; any of them can be it.
 * filter: copied; NULL for none.
 *
 * Returns NULL for wrong arguments: no or too many members, a context missing or given twice, a factor that is not
 * finite, two bases or two of EFT_UNTUNED, a filter out of its ranges or without the model it looks at, vocabularies of
 * different types, or no memory. */
struct llama_sampler *eft_sampler_init(const eft_member *members, size_t n_members, size_t host,
                                       const eft_filter *filter);

/* The functions below take what eft_sampler_init returned, or a clone of it (of a chain's clone: llama_sampler_chain_get
 * at the same place). They return 0, or -1 for any other sampler or where something failed. */

/* New factors (n_members of them, in the order of the members) and filter (NULL for none), from the next token on.
 * -1 where eft_sampler_init would refuse them; nothing is changed then. */
int eft_sampler_dials(struct llama_sampler *sampler, const double *factors, const eft_filter *filter);

/* Says what the next token follows: all n tokens that the host has read or is about to, from its beginning on, those
 * of earlier turns included. To be called once before a reply; after it llama_sampler_accept keeps count. */
int eft_sampler_prompt(struct llama_sampler *sampler, const llama_token *tokens, size_t n);

/* What base and untuned members read before the text, as examples of the tuned behaviour (n = 0: nothing); it stays for
 * all texts to come, of clones too. A host that is base or untuned must have read it before the text as well, without a
 * second token that begins all texts. -1 for a token that not all models have. */
int eft_sampler_show(struct llama_sampler *sampler, const llama_token *tokens, size_t n);

/* Decodes now what `apply` would decode first. Worth a call for its return value, and on a GPU between the host's
 * llama_decode and llama_sampler_sample: all models then compute without waiting for each other. */
int eft_sampler_decode(struct llama_sampler *sampler);

/* Why the last token could not be blended, or NULL. Until the next eft_sampler_prompt or llama_sampler_reset, `apply`
 * then makes the tokens that end a reply as good as certain: a program that does not ask stops there, and does not go
 * on by another distribution. The text lives as long as the sampler. */
const char *eft_sampler_error(const struct llama_sampler *sampler);

#ifdef __cplusplus
}
#endif
#endif /* EFT_SAMPLER_H */
