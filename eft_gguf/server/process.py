"""This side's hold on the worker: starts it, hands it orders, passes on what it sends, starts it anew if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import socket
import subprocess
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from eft_gguf.children import how_it_ended, module_command
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
    Loading,
    Message,
    Order,
    Steer,
    Stop,
)
from eft_gguf.server.settings import Settings

CRASHES = 5
"""Crashes in a row, none of them after a finished order, after which no further start is tried."""
CRASHED = "crashed"

log = logging.getLogger(__name__)


class OrderFailed(Exception):
    """An order that came to nothing. kind: as in `Failed`.  wait: seconds after which it may be tried again."""

    def __init__(self, failure: Failed, wait: int | None = None) -> None:
        super().__init__(failure.message)
        self.failure, self.wait = failure, wait


class Ticket:
    """What was ordered together, and its events as they come: (place of the order, event).

    Iterating ends when all orders are done, and raises OrderFailed where one of them failed, or time is up.
    `cancel` may always be called, and must be where not all events were taken.
    """

    def __init__(self, engine: Engine, orders: Sequence[Order], first: int) -> None:
        self.orders = list(orders)
        self.started = time.monotonic()
        self._engine, self._first = engine, first
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._held: deque[tuple[int, Event]] = deque()
        self._open = set(range(len(orders)))

    @property
    def numbers(self) -> range:
        """The numbers that the worker knows the orders by."""
        return range(self._first, self._first + len(self.orders))

    def put(self, number: int, event: Event) -> None:
        """Take an event of one of the orders."""
        self._events.put_nowait((number - self._first, event))

    def fail(self, failure: Failed) -> None:
        """End all of it."""
        self._events.put_nowait((min(self._open, default=0), failure))

    async def begun(self) -> list[Begun]:
        """Wait until the worker has found all orders right. Raises OrderFailed."""
        found: dict[int, Begun] = {}
        while len(found) < len(self.orders):
            place, event = await self._events.get()
            if isinstance(event, Begun):
                found[place] = event
            elif isinstance(event, Failed):
                self._raise(event)
            else:
                self._held.append((place, event))
        return [found[place] for place in sorted(found)]

    def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._open:
            raise StopAsyncIteration
        place, event = self._held.popleft() if self._held else await self._events.get()
        if isinstance(event, Failed):
            self._raise(event)
        if isinstance(event, Done):
            self._open.discard(place)
        return place, event

    def steer(self, blend: Any) -> None:
        """Go on with other dials."""
        for number in self.numbers:
            self._engine.send(number, Steer(blend))

    def cancel(self) -> None:
        """Nobody waits for what is left."""
        self._engine.forget(self)

    def _raise(self, failure: Failed) -> None:
        self.cancel()
        raise OrderFailed(failure, self._engine.wait() if failure.kind == "full" else None)


class Engine:
    """The worker process. All methods are called in the event loop's thread.

    state: "loading", "ready", or "failed", when there are no models and will be none.  progress: what goes on, in
    words.  about: the models, once they were loaded.
    """

    def __init__(self, settings: Settings, on_broken: Callable[[Broken], None] = lambda broken: None) -> None:
        self.settings = settings
        self.state = "loading"
        self.progress = "starting"
        self.about: About | None = None
        self.figures = Figures(0, 0)
        self.restarts = 0
        self.stopping = False
        self._on_broken = on_broken
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._tickets: dict[int, Ticket] = {}
        self._timers: dict[Ticket, asyncio.TimerHandle] = {}
        self._numbers = itertools.count(1)
        self._crashes = 0
        self._heard = 0.0
        self._seconds = 1.0
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- what the routes use

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        return self._process.pid if self._process else None

    @property
    def under_way(self) -> int:
        """Orders that are not done."""
        return len(self._tickets)

    def order(self, orders: Sequence[Order]) -> Ticket:
        """Hand orders to the worker. Raises OrderFailed where there is no room, or no worker."""
        if self.stopping:
            raise OrderFailed(Failed("stopping", "the server is being stopped"), wait=30)
        if self.state != "ready":
            kind = "loading" if self.state == "loading" else "failed"
            raise OrderFailed(Failed(kind, f"the models are not loaded: {self.progress}"), wait=5)
        room = self.settings.parallel + self.settings.queue
        if len(orders) > room:
            message = f"{len(orders)} replies were asked for, and {room} have a place here at most"
            raise OrderFailed(Failed("request", message, "ask for fewer at a time"))
        if len(self._tickets) + len(orders) > room:
            raise OrderFailed(Failed("full", f"{len(self._tickets)} replies are under way or wait"), wait=self.wait())
        first = next(self._numbers)
        for _ in orders[1:]:
            next(self._numbers)
        ticket = Ticket(self, orders, first)
        for number, order in zip(ticket.numbers, orders, strict=True):
            self._tickets[number] = ticket
            self.send(number, order)
        message = f"the request took longer than {self.settings.timeout:g} s"
        failure = Failed("timeout", message, "ask for less, or start the server with a longer --timeout")
        loop = asyncio.get_running_loop()
        self._timers[ticket] = loop.call_later(self.settings.timeout, ticket.fail, failure)
        return ticket

    def wait(self) -> int:
        """Seconds after which there may be room again, by what requests took of late."""
        rounds = math.ceil(max(1, len(self._tickets)) / self.settings.parallel)
        return max(1, min(60, math.ceil(self._seconds * rounds)))

    def send(self, number: int, message: Order | Steer | Cancel | Stop) -> None:
        """Say something to the worker, if there is one."""
        if self._pipe is not None:
            sent: Message = (number, message)
            with contextlib.suppress(OSError):  # it has just died: that comes to light where its pipe is read
                self._pipe.send(sent)

    def forget(self, ticket: Ticket) -> None:
        """Take out what is left of a ticket."""
        for number in ticket.numbers:
            if self._tickets.pop(number, None) is not None:
                self.send(number, Cancel())
        if timer := self._timers.pop(ticket, None):
            timer.cancel()

    # ---- the process

    def start(self) -> None:
        """Start the worker; loading goes on in the background."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = module_command("eft_gguf.server.worker", str(theirs.fileno()))
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._pipe = Connection(ours.detach())
        self._pipe.send((self.settings.models, self.settings.parallel, self.settings.queue))
        self.state, self.progress, self._heard = "loading", "starting", time.monotonic()
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._readable)

    def watch(self) -> None:
        """From now on, end a worker that has work and says nothing."""
        self._spawn(self._watch())

    def drain(self) -> None:
        """Take nothing more; what is not done after the grace time is ended."""
        if not self.stopping:
            self.stopping = True
            asyncio.get_running_loop().call_later(
                self.settings.grace, self.fail_all, Failed("stopping", "the server was stopped")
            )

    async def stop(self) -> None:
        """End the worker."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        self.fail_all(Failed("stopping", "the server was stopped"))
        self.send(0, Stop())
        process = self._process
        self._close_pipe()
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, 5)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)

    def fail_all(self, failure: Failed) -> None:
        """End all that is under way."""
        for ticket in set(self._tickets.values()):
            ticket.fail(failure)

    def _readable(self) -> None:
        assert self._pipe is not None
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            self._died()
            return
        self._heard = time.monotonic()
        if isinstance(message, Loading):
            self.progress = message.text
        elif isinstance(message, About):
            self.about, self.state, self.progress = message, "ready", "ready"
        elif isinstance(message, Broken):
            self.progress = f"{message.message} ({message.hint})" if message.hint else message.message
            self.state = "failed"
            self._on_broken(message)
        else:
            news, self.figures = message
            for number, event in news:
                if ticket := self._tickets.get(number):
                    ticket.put(number, event)
                    if isinstance(event, (Done, Failed)):
                        self._ended(number, ticket)

    def _ended(self, number: int, ticket: Ticket) -> None:
        """An order has no more events to come."""
        del self._tickets[number]
        self._crashes = 0
        self._seconds += 0.2 * (time.monotonic() - ticket.started - self._seconds)
        if not any(other in self._tickets for other in ticket.numbers) and (timer := self._timers.pop(ticket, None)):
            timer.cancel()

    def _died(self) -> None:
        """The worker has closed its end of the pipe: it is gone."""
        self._close_pipe()
        process = self._process
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
        if process.poll() is None:
            process.kill()
            process.wait()
        if self.stopping or self.state == "failed":
            return
        how = how_it_ended(process.returncode)
        log.error("the engine %s; it is started anew", how)
        self._crashes += 1
        self.restarts += 1
        self.figures = Figures(0, 0)
        self.state, self.progress = "loading", f"the engine {how}, and is started anew"
        self.fail_all(
            Failed(CRASHED, f"the engine {how} while this request was under way", "it is started anew: try again")
        )
        if self._crashes > CRASHES:
            self.state, self.progress = "failed", f"the engine {how}, {self._crashes} times in a row"
            log.error("%s: given up", self.progress)
            return
        self._spawn(self._start_later(0.0 if self._crashes == 1 else 2.0 ** (self._crashes - 2)))

    async def _start_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if not self.stopping:
            self.start()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self.settings.stall / 4))
            silent = time.monotonic() - max(self._heard, min((t.started for t in self._tickets.values()), default=0))
            if self.state == "ready" and self._tickets and silent > self.settings.stall and self._process:
                log.error("the engine has said nothing for %.0f s", silent)
                self._process.kill()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._pipe.close()
            self._pipe = None

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


__all__ = ["Begin", "Engine", "OrderFailed", "Ticket"]
