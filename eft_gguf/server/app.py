"""Puts the server together, and runs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from fastapi import FastAPI

from eft_gguf import __version__
from eft_gguf.errors import EFTError, OptionError
from eft_gguf.server import chat, completions, ollama, pages, routes
from eft_gguf.server.errors import add_handlers
from eft_gguf.server.heads import HeadAsGet
from eft_gguf.server.metrics import Counting, Metrics
from eft_gguf.server.process import Engine
from eft_gguf.server.protocol import Broken
from eft_gguf.server.security import Guard, patient_protocol
from eft_gguf.server.settings import Settings
from eft_gguf.server.state import State

DESCRIPTION = "Emulated fine-tuning: what OpenAI's clients can use, with the dials in the object `eft`."
ROUTERS = (chat.router, completions.router, ollama.router, routes.router, pages.router)


def create_app(settings: Settings, engine: Engine) -> FastAPI:
    """The application. It starts the engine and ends it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        engine.watch()
        yield
        await engine.stop()

    # FastAPI's own pages for trying requests load scripts from elsewhere, which the page's rule forbids.
    app = FastAPI(
        title="eft-gguf", version=__version__, description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    metrics = Metrics(engine)
    app.state.server = State(settings, engine, metrics)
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)

    app.add_middleware(Guard, settings=settings, open_paths={*pages.FILES, "/health"})
    app.add_middleware(Counting, metrics=metrics)
    app.add_middleware(HeadAsGet)
    return app


def serve(settings: Settings, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `started` is called with the address. Raises EFTError where that cannot be."""
    asyncio.run(_serve(settings, started))


async def _serve(settings: Settings, started: Callable[[str], None]) -> None:
    broken: list[Broken] = []
    listener = _listener(settings)

    def on_broken(found: Broken) -> None:
        # At the start that is the user's to mend; later the models were there, and what served stays up to say so.
        if engine.restarts == 0:
            broken.append(found)
            server.should_exit = True

    engine = Engine(settings, on_broken)
    config = uvicorn.Config(
        create_app(settings, engine),
        log_level="warning",
        access_log=False,
        server_header=False,
        http=patient_protocol(settings.patience),
        ws="none",
        limit_concurrency=settings.connections,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.grace) + 5,
    )
    server = _Server(config, engine)
    name, port = listener.getsockname()[:2]
    started(f"http://{f'[{name}]' if ':' in name else name}:{port}")
    await server.serve(sockets=[listener])
    if broken:
        raise EFTError(broken[0].message, hint=broken[0].hint)


class _Server(uvicorn.Server):
    """Ends gently at the first signal: replies under way get their grace time. A second one ends all at once."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        yield
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _end(self) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        logging.getLogger(__name__).info("stopping")
        self._engine.drain()
        self.should_exit = True


def _listener(settings: Settings) -> socket.socket:
    """The open port. Raises OptionError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named: without, small writes wait 40 ms for the
    # client's delayed acknowledgement of the one before.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}",
            hint="pass another --port; 0 finds a free one",
        ) from None
    return listener
