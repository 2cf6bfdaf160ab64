"""The process that holds the models: takes orders from a pipe, and sends back what each step brings.

It is a process of its own because llama.cpp ends the one that it runs in where something is badly wrong. Run by
`process.py` as `python -m eft_gguf.server.worker FD`; the first message on the pipe says what to load.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from eft_gguf.blend.compiled import likeliest, log_mass
from eft_gguf.completion import Chunk
from eft_gguf.eft import EFT
from eft_gguf.errors import ContextError, EFTError, OptionError, QueueFullError
from eft_gguf.inspection import InspectedToken, Witness, inspect_reply
from eft_gguf.reply import Reply
from eft_gguf.server.protocol import (
    About,
    Begin,
    Begun,
    Broken,
    Cancel,
    Done,
    Event,
    Failed,
    Figures,
    Inspect,
    Loading,
    Message,
    Piece,
    Read,
    Score,
    Steer,
    Stop,
    Token,
)

HEARTBEAT = 1.0
"""Seconds after which a step that brought nothing new is reported all the same: the other side watches for silence."""
SHOWN = 4
"""Alternatives told of an inspected token, by model."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Making:
    """A reply, and what was told of it. whole: what came of it is kept until it is finished."""

    reply: Reply
    witness: Witness | None
    whole: bool
    read: int = -1
    shown: int = 0
    kept: list[Piece] = field(default_factory=list)


class Worker:
    """Carries out orders on one EFT, in one thread; `inbox` is filled by another that reads the pipe."""

    def __init__(self, eft: EFT, pipe: Connection, inbox: queue.SimpleQueue[Message], parallel: int) -> None:
        self._eft, self._pipe, self._inbox, self._parallel = eft, pipe, inbox, parallel
        self._replies: dict[int, _Making] = {}
        self._readings: deque[tuple[int, Score | Inspect]] = deque()
        self._news: list[tuple[int, Event]] = []
        self._figures = Figures(0, 0)
        self._sent = 0.0

    def run(self) -> None:
        """Work until told to stop."""
        while self._take_orders():
            # Reading a text through takes a free slot, and goes before replies that wait for one.
            if self._readings and self._eft.running < self._parallel:
                self._read(*self._readings.popleft())
            if self._replies:
                self._step()
            self._send()

    def _take_orders(self) -> bool:
        """Take what came; wait for it where there is nothing else to do. False at the end."""
        while True:
            try:
                number, message = self._inbox.get(block=not (self._replies or self._readings or self._news))
            except queue.Empty:
                return True
            if isinstance(message, Stop):
                return False
            if isinstance(message, Cancel):
                self._drop(number)
                self._readings = deque(item for item in self._readings if item[0] != number)
                self._send()
            elif isinstance(message, Steer):
                if making := self._replies.get(number):
                    with self._guard(number):
                        making.reply.steer(message.blend)
            elif isinstance(message, Begin):
                with self._guard(number):
                    self._begin(number, message)
            else:
                self._readings.append((number, message))

    def _begin(self, number: int, order: Begin) -> None:
        witness = Witness(self._eft) if order.inspect else None
        reply = self._eft.begin(
            order.prompt,
            tools=order.tools,
            blend=order.blend,
            sampling=order.sampling,
            witness=witness,
            examples=order.examples,
            variables=order.variables,
        )
        self._replies[number] = _Making(reply, witness, order.whole)
        self._tell(number, Begun(reply.timings.seed, reply.timings.prompt_tokens))

    def _step(self) -> None:
        try:
            self._eft.step()
        except Exception as error:
            # What was decoded is lost for all that took part; those that wait have lost nothing.
            log.exception("a step failed")
            failure = replace(_failure(error), kind="failed")
            running = [number for number, making in self._replies.items() if making.reply.started]
            for number in running or list(self._replies):
                self._tell(number, failure)
                self._drop(number)
            return
        for number, making in list(self._replies.items()):
            with self._guard(number):
                self._show(number, making)

    def _show(self, number: int, making: _Making) -> None:
        """Tell what a step brought a reply."""
        reply = making.reply
        if not reply.pending:
            timings = reply.timings
            if making.witness is not None and not making.shown and timings.prefill_done != making.read:
                making.read = timings.prefill_done
                self._tell(number, Read(timings.prefill_done, timings.prefill_total))
            return
        while reply.pending and reply.finish_reason is None:
            chunk = reply.next_chunk()
            inspected = making.witness.tokens[making.shown] if making.witness is not None else None
            making.shown += 1
            piece = self._piece(chunk, inspected)
            if making.whole:
                making.kept.append(piece)
            else:
                self._tell(number, piece)
        if reply.finish_reason is not None:
            for piece in _joined(making.kept):
                self._tell(number, piece)
            # What was drafted behind a stop text counts only until the reply is closed.
            reply.close()
            self._tell(number, Done(reply.finish_reason, reply.timings.as_dict()))
            self._drop(number)

    def _piece(self, chunk: Chunk, inspected: InspectedToken | None) -> Piece:
        token: Token | None = None
        others: tuple[Token, ...] = ()
        # What ends a reply is no part of its text.
        ends = chunk.token in self._eft.end_tokens
        if chunk.token is not None and chunk.alternatives is not None and not ends:
            found = chunk.alternatives
            token = self._token(chunk.token, found.chosen)
            others = tuple(map(self._token, found.tokens, found.log_probabilities))
        return Piece(chunk.text, token, others, None if inspected is None else _plain(inspected))

    def _read(self, number: int, order: Score | Inspect) -> None:
        with self._guard(number):
            self._tell(number, Begun())
            if isinstance(order, Score):
                self._tell(number, Done(result=self._scores(order)))
            else:
                found = inspect_reply(
                    self._eft,
                    order.prompt,
                    order.reply,
                    blend=order.blend,
                    sampling=order.sampling,
                    examples=order.examples,
                )
                tokens = [{"text": token.text, **_plain(token)} for token in found.tokens]
                self._tell(
                    number, Done(result={"tokens": tokens, "voices": found.voices, "summary": asdict(found.summary)})
                )

    def _scores(self, order: Score) -> list[tuple[Token, tuple[Token, ...]]]:
        """Each token of the text with its log-probability, NaN for the first, and the likeliest in its place."""
        begins = isinstance(order.prompt, str) and self._eft.token_ids("", begin=True)
        ids = self._eft.token_ids(order.prompt, begin=True) if isinstance(order.prompt, str) else order.prompt
        if not ids:
            raise OptionError("the prompt is empty: there is nothing to score", hint="give a text")
        scored: list[tuple[Token, tuple[Token, ...]]] = [(self._token(ids[0], math.nan), ())]
        if len(ids) > 1:
            for token, logits in self._eft.replay(ids[:1], ids[1:], blend=order.blend):
                row = logits["blend"]
                mass = log_mass(row)
                best = _likeliest(row, order.likeliest)
                others = tuple(self._token(other, float(row[other]) - mass) for other in best)
                scored.append((self._token(token, float(row[token]) - mass), others))
        # A BOS token that the model wants is no part of the text.
        return scored[1:] if begins else scored

    def _token(self, token: int, logprob: float) -> Token:
        return Token(token, self._eft.bytes_of(token), logprob)

    def _tell(self, number: int, event: Event) -> None:
        self._news.append((number, event))

    def _send(self) -> None:
        figures = Figures(self._eft.running, self._eft.waiting + len(self._readings))
        now = time.monotonic()
        if self._news or figures != self._figures or now - self._sent > HEARTBEAT:
            self._pipe.send((self._news, figures))
            self._news, self._figures, self._sent = [], figures, now

    def _drop(self, number: int) -> None:
        if making := self._replies.pop(number, None):
            making.reply.close()

    def _guard(self, number: int) -> _Guard:
        return _Guard(self, number)

    def fail(self, number: int, error: Exception) -> None:
        """One order's failure is told to the one who gave it."""
        if not isinstance(error, EFTError):
            log.error("an order failed", exc_info=error)
        self._tell(number, _failure(error))
        self._drop(number)


@dataclass(frozen=True, slots=True)
class _Guard:
    """Turns what goes wrong within it into the failure of one order."""

    worker: Worker
    number: int

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self.worker.fail(self.number, error)
            return True
        return False


def _joined(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """A reply's pieces, in one where there is nothing but text."""
    if any(piece.token is not None or piece.inspected is not None for piece in pieces):
        return pieces
    return [Piece("".join(piece.text for piece in pieces))]


def _failure(error: Exception) -> Failed:
    if not isinstance(error, EFTError):
        return Failed("failed", f"an error inside the engine: {type(error).__name__}", "the server's log says more")
    # What one order alone runs into is of its own making: an empty prompt, a grammar that leads nowhere.
    kinds = {ContextError: "context", QueueFullError: "full"}
    kind = next((name for known, name in kinds.items() if isinstance(error, known)), "request")
    return Failed(kind, error.message, error.hint)


def _plain(token: InspectedToken) -> dict[str, Any]:
    """An inspected token as values for JSON."""
    return {
        "decided_by": token.decided_by,
        "probabilities": {name: round(value, 5) for name, value in token.probabilities.items()},
        "alternatives": {
            name: [[other.text, round(other.probability, 4)] for other in others[:SHOWN]]
            for name, others in token.alternatives.items()
        },
        "total_variation": {name: round(value, 4) for name, value in token.total_variation.items()},
    }


def _likeliest(row: Any, count: int) -> list[int]:
    import numpy as np

    if count == 0:
        return []
    ids = np.empty(count, np.int32)
    found: list[int] = ids[: likeliest(row, ids)].tolist()
    return found


def load(pipe: Connection, options: dict[str, Any], parallel: int, waiting: int) -> EFT | None:
    """The models, with what is going on told. None where they cannot be loaded, which is told as well."""
    try:
        eft = EFT.open(
            **options, probe=True, sequences=parallel, queue=waiting, progress=lambda line: pipe.send(Loading(line))
        )
    except EFTError as error:
        pipe.send(Broken(error.message, error.hint))
        return None
    except Exception as error:
        log.exception("loading failed")
        pipe.send(Broken(f"the models could not be loaded: {type(error).__name__}: {error}", ""))
        return None
    pipe.send(Loading("warming up"))
    _warm_up(eft)
    pipe.send(
        About(
            name=eft.family.name,
            members={name: reference.path.name for name, reference in eft.family.members.items()},
            traits={trait.name: trait.weight for trait in eft.family.tuned},
            ctx=eft.ctx,
            n_vocab=eft.n_vocab,
            warnings=[str(finding) for finding in eft.warnings],
            template=eft.chat_template,
            blend=eft.family.blend,
            examples=eft.examples(),
            bytes=sum({path: path.stat().st_size for path in _paths(eft)}.values()),
        )
    )
    return eft


def _paths(eft: EFT) -> list[Path]:
    return [reference.path for reference in eft.family.members.values()]


def _warm_up(eft: EFT) -> None:
    """Have the kernels compiled before the first client waits for them."""
    from eft_gguf.engine.sampling import Sampling

    witness = Witness(eft)
    reply = eft.begin(
        [eft.start_token], sampling=Sampling(max_tokens=2, temperature=0.7, logprobs=1, seed=0), witness=witness
    )
    try:
        while reply.finish_reason is None:
            if not reply.pending:
                eft.step()
            reply.next_chunk()
    finally:
        reply.close()


def main(arguments: Sequence[str]) -> int:
    """Load and work until the other side has gone."""
    # Ctrl-C reaches every process of a terminal: the server decides what it means, and closes the pipe.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(format="engine: %(message)s", level=logging.WARNING)
    pipe = Connection(int(arguments[0]))
    options, parallel, waiting = pipe.recv()
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def read_pipe() -> None:
        try:
            while True:
                inbox.put(pipe.recv())
        except (EOFError, OSError):
            # The server is gone: nothing that is under way is of use to anyone.
            os._exit(0)

    threading.Thread(target=read_pipe, daemon=True).start()
    try:
        eft = load(pipe, options, parallel, waiting)
        if eft is None:
            return 2
        with eft:
            Worker(eft, pipe, inbox, parallel).run()
    except (BrokenPipeError, ConnectionResetError):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
