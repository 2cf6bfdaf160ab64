"""Train a LoRA adapter on a small model, in an evening, at home.

    pip install torch transformers peft
    python train_lora.py MODEL chats.jsonl my-adapter

MODEL is a checkpoint folder, or a name on the Hugging Face hub such as Qwen/Qwen2.5-0.5B-Instruct. chats.jsonl holds
one conversation a line, of which the last message is the reply to be learnt:

    {"messages": [{"role": "user", "content": "What is the capital of Peru?"},
                  {"role": "assistant", "content": "Answer: Lima\\nConfidence: high"}]}

Some 200 lines are enough for a manner, such as a form of reply. The tutorial goes on from here: docs/tutorial-lora.md.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from blended_loss import BaseRows

IGNORED = -100  # PyTorch's cross entropy passes over this label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint folder, or a name on the hub")
    parser.add_argument("chats", type=Path, help="conversations, one JSON object a line")
    parser.add_argument("output", type=Path, help="the folder for the adapter")
    parser.add_argument("--rank", type=int, default=8, help="of each layer's change; more holds more (default: 8)")
    parser.add_argument(
        "--last-layers", type=int, metavar="N", help="adapt the last N layers only: several times as fast"
    )
    parser.add_argument(
        "--for-base", type=Path, metavar="GGUF", help="train for the blend with this large model: see blended_loss.py"
    )
    parser.add_argument("--behaviour", type=float, default=1.0, help="with --for-base: the dial (default: 1)")
    parser.add_argument(
        "--examples", type=Path, metavar="JSONL", help="with --for-base: what base and untuned read before each chat"
    )
    parser.add_argument("--epochs", type=int, default=3, help="how often each chat is seen (default: 3)")
    parser.add_argument("--batch", type=int, default=8, help="chats a step (default: 8)")
    parser.add_argument("--rate", type=float, default=2e-4, help="the highest learning rate (default: 2e-4)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="to compute in (default: bfloat16 on a GPU)")
    parser.add_argument("--held-out", type=float, default=0.1, help="the share of chats to watch only (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed trains the same adapter (default: 0)")
    options = parser.parse_args()
    if options.output.exists():
        sys.exit(f"error: {options.output} exists already; name another folder")
    if options.for_base is not None and not options.for_base.is_file():
        sys.exit(f"error: there is no file {options.for_base}")
    if options.examples is not None and options.for_base is None:
        sys.exit("error: --examples is for training with --for-base")
    torch.manual_seed(options.seed)
    shuffled = random.Random(options.seed)

    # A GPU if there is one. On the processor float32, unless told otherwise: bfloat16 is slow on most, and faster only
    # on those that compute with it (avx512_bf16 or amx_bf16 in /proc/cpuinfo). The adapter is float32 in any case.
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    dtype = getattr(torch, options.dtype or ("float32" if device == "cpu" else "bfloat16"))
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).to(device)

    # All linear layers of the blocks. Embedding and output layer stay as they are: llama.cpp could not apply an adapter
    # of theirs, and a manner needs neither. lora_alpha / rank is what the change is multiplied by.
    count = model.config.num_hidden_layers
    first = max(0, count - (options.last_layers or count))
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=2 * options.rank,
        lora_dropout=0.05,
        target_modules=linear_layers(model, first) if first else "all-linear",
    )
    model = get_peft_model(model, lora)
    trained, count = model.get_nb_trainable_parameters()
    print(f"training {trained:,} of {count:,} numbers on {device}")

    chats = read_chats(options.chats)
    examples = [Example(*example(tokenizer, chat)) for chat in chats]
    if options.for_base is not None:
        add_base(examples, chats, tokenizer, options)
    shuffled.shuffle(examples)
    below = torch.nn.ModuleList()
    if first:
        below = read_first_layers(model, [*examples, *(one.shown for one in examples if one.shown)], first, device)
    watched = examples[: int(len(examples) * options.held_out)]
    examples = examples[len(watched) :]
    if not examples:
        sys.exit("error: no chat is left to train on; give more, or --held-out 0")

    steps = options.epochs * math.ceil(len(examples) / options.batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=options.rate)
    # Up within the first tenth of the steps, then down along a cosine.
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / max(1, steps // 10)) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    started, step = time.monotonic(), 0
    for epoch in range(options.epochs):
        shuffled.shuffle(examples)
        model.train()
        for start in range(0, len(examples), options.batch):
            loss = batch_loss(model, examples[start : start + options.batch], device, options.behaviour)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            step += 1
            left = (time.monotonic() - started) / step * (steps - step)
            print(f"\rstep {step} of {steps}, loss {loss.item():.3f}, {left:.0f} s left ", end="", file=sys.stderr)
        print(file=sys.stderr)
        if watched:
            # Training has gone too far when this rises again: take fewer epochs then, or more chats.
            model.eval()
            with torch.no_grad():
                losses = [batch_loss(model, [chat], device, options.behaviour).item() for chat in watched]
            print(f"epoch {epoch + 1}: loss on {len(watched)} chats held out: {sum(losses) / len(losses):.3f}")
        save(model, below, options.output)  # after each epoch, so that an evening cut short leaves an adapter
    print(f"written: {options.output}, after {time.monotonic() - started:.0f} s of training")


def linear_layers(model, first: int) -> list[str]:
    """The names of all linear layers in blocks from number `first` on."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    numbered = ((name, re.search(r"\.layers\.(\d+)\.", name)) for name in names)
    return [name for name, number in numbered if number and int(number[1]) >= first]


@dataclass
class Example:
    """A conversation as token ids, and their labels.

    hidden: what the layers below the trained ones make of it, (tokens, width).  shown: with --for-base, the same
    conversation after the examples, as the untuned model reads it.  base: the large model's rows before the reply.
    """

    ids: list[int]
    labels: list[int]
    hidden: torch.Tensor | None = None
    shown: Example | None = None
    base: BaseRows | None = None

    @property
    def reply(self) -> list[int]:
        return [label for label in self.labels if label != IGNORED]


def add_base(examples: list[Example], chats: list[list[dict[str, str]]], tokenizer, options) -> None:
    """Give each conversation the rows of the large model, which reads it after the examples."""
    from blended_loss import base_rows

    turns = [] if options.examples is None else read_examples(options.examples)
    texts = [
        tokenizer.apply_chat_template([*turns, *chat[:-1]], tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    contexts = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    for one, context in zip(examples, contexts, strict=True):
        if turns:
            one.shown = Example(context + one.reply, [IGNORED] * len(context) + one.reply)
    rows = base_rows(options.for_base, contexts, [one.reply for one in examples], texts)
    for one, own in zip(examples, rows, strict=True):
        one.base = own


def read_examples(path: Path) -> list[dict[str, str]]:
    """The turns of a file of examples, as eft-gguf shows them. Ends the program where one has no reply."""
    from eft_gguf import EFTError
    from eft_gguf.models.examples import checked_choice, read_examples

    try:
        found = read_examples(checked_choice(path))
    except EFTError as error:
        sys.exit(f"error: {error}")
    if any(one.reply is None for one in found):
        sys.exit(f"error: {path}: write a reply into each line")
    return [turn for one in found for turn in (*one.messages, {"role": "assistant", "content": one.reply})]


def save(model, below: torch.nn.ModuleList, folder: Path) -> None:
    """Write the adapter, its layers numbered as those of the whole model."""
    base = model.get_base_model().model
    trained = base.layers
    base.layers = torch.nn.ModuleList([*below, *trained])
    model.save_pretrained(folder)
    base.layers = trained


def read_first_layers(model, examples: list[Example], first: int, device: str) -> torch.nn.ModuleList:
    """Run the layers below the first trained one once, for they say the same in every epoch; then take them out.

    Returns these layers.
    """
    started = time.monotonic()
    base = model.get_base_model().model
    layers, norm = base.layers, base.norm
    base.layers, base.norm = layers[:first], torch.nn.Identity()
    with torch.no_grad():
        for start in range(0, len(examples), 8):
            batch = examples[start : start + 8]
            hidden = base(**padded(batch, device), use_cache=False).last_hidden_state
            for one, row in zip(batch, hidden, strict=True):
                one.hidden = row[: len(one.ids)].clone()
            done = start + len(batch)
            left = (time.monotonic() - started) / done * (len(examples) - done)
            print(f"\rreading chat {done} of {len(examples)}, {left:.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)
    base.layers, base.norm = layers[first:], norm
    return layers[:first]


def padded(batch: list[Example], device: str) -> dict[str, torch.Tensor]:
    """The model's inputs of several conversations; shorter ones are filled up at their ends."""
    longest = max(len(one.ids) for one in batch)
    mask = torch.tensor([[1] * len(one.ids) + [0] * (longest - len(one.ids)) for one in batch], device=device)
    if batch[0].hidden is not None:
        hidden = torch.nn.utils.rnn.pad_sequence([one.hidden for one in batch], batch_first=True)
        return {"inputs_embeds": hidden, "attention_mask": mask}
    ids = torch.tensor([one.ids + [0] * (longest - len(one.ids)) for one in batch], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def read_chats(path: Path) -> list[list[dict[str, str]]]:
    """The conversations of a file. Ends the program where a line is none that ends with a reply."""
    chats = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            messages = json.loads(line)["messages"]
            if messages[-1]["role"] != "assistant":
                raise ValueError("the last message is not the assistant's")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            sys.exit(f"error: {path}, line {number}: {error}")
        chats.append(messages)
    return chats


def example(tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation by the model's own template, and their labels: only the last reply is learnt.

    What ends the reply is learnt too. Without it a tuned model goes on talking.
    """
    before = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    if not whole.startswith(before):
        sys.exit("error: the chat template writes a question otherwise once it is answered")
    context = tokenizer(before, add_special_tokens=False).input_ids
    reply = tokenizer(whole[len(before) :], add_special_tokens=False).input_ids
    return context + reply, [IGNORED] * len(context) + reply


def batch_loss(model, batch: list[Example], device: str, behaviour: float = 1.0) -> torch.Tensor:
    """The mean loss over the reply tokens: of the model alone, or of its blend with the base if there is one."""
    tuned = reply_logits(model, batch, device)
    labels = torch.tensor([label for one in batch for label in one.reply], device=device)
    if batch[0].base is None:
        return torch.nn.functional.cross_entropy(tuned.float(), labels)
    from blended_loss import blended_loss, joined

    with torch.no_grad(), model.disable_adapter():
        untuned = reply_logits(model, [one.shown or one for one in batch], device)
    return blended_loss(tuned, untuned, joined([one.base for one in batch]), labels, behaviour)


def reply_logits(model, batch: list[Example], device: str) -> torch.Tensor:
    """The logits before each token of the replies, one reply after the other: (tokens, vocabulary)."""
    longest = max(len(one.ids) for one in batch)
    # Logits from the token before the first reply on: those of a prompt are not needed, and a vocabulary is large.
    first = min(len(one.ids) - len(one.reply) for one in batch)
    logits = model(**padded(batch, device), logits_to_keep=longest - first + 1).logits[:, :-1]
    return torch.cat(
        [
            row[len(one.ids) - len(one.reply) - first : len(one.ids) - first]
            for one, row in zip(batch, logits, strict=True)
        ]
    )


if __name__ == "__main__":
    main()
