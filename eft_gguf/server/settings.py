"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eft_gguf.blend.equation import Blend
from eft_gguf.engine.sampling import Sampling
from eft_gguf.errors import OptionError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. Raises OptionError where that would not be safe.

    models: what `EFT.open` takes.  dials: which of the family's are replaced, as arguments of `Blend`.  sampling: what
    requests that say nothing else get.
    name: what clients call the models; the family's name unless given.
    parallel: replies at a time.  queue: how many more may wait; beyond, clients are told to come back.
    api_keys: one of them must come with each request; none needed where there are none, on the loopback address only.
    allowed_hosts: names, besides IP addresses and localhost, by which clients may call this server.
    allowed_origins: web pages of other servers that may use it, as "https://example.org".
    timeout: seconds that a request may take.  stall: seconds without a sign of life after which the engine is
    started anew.  patience: seconds that a client may take to send a request, or to take in what is sent.
    grace: seconds that replies under way are given when the server is stopped.
    body_limit: bytes of a request.  connections: open at a time.
    """

    models: dict[str, Any] = field(default_factory=dict)
    dials: dict[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    parallel: int = 4
    queue: int = 64
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    timeout: float = 600.0
    stall: float = 300.0
    patience: float = 30.0
    grace: float = 10.0
    body_limit: int = 4 * MEGABYTE
    connections: int = 1000

    def __post_init__(self) -> None:
        Blend(**self.dials)
        for name in ("parallel", "body_limit", "connections"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be 1 or more, not {getattr(self, name)}")
        for name in ("timeout", "stall", "patience"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be above 0 seconds, not {getattr(self, name)}")
        for name in ("queue", "grace"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.host not in LOOPBACK and not self.api_keys:
            raise OptionError(
                f"{self.host} can be reached from other machines, and no API key is set",
                hint="pass --api-key-file FILE (or set EFT_GGUF_API_KEY), or serve on 127.0.0.1",
            )
        for origin in self.allowed_origins:
            if origin == "*" or "://" not in origin or origin.count("/") != 2:
                raise OptionError(
                    f"{origin!r} is no origin",
                    hint="write it as the browser does: https://example.org or http://host:3000",
                )


def read_keys(path: Path) -> tuple[str, ...]:
    """The API keys in a file, one a line. Raises OptionError."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise OptionError(
            f"cannot read the API keys in {path}: {reason}", hint="name a file with a key a line"
        ) from None
    if not lines:
        raise OptionError(f"{path} holds no API key", hint="write one a line, for example: openssl rand -hex 24")
    return tuple(lines)
