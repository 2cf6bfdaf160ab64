"""Files of Hugging Face: from the user's cache where they are there, else fetched into it.

Layout of the cache (https://huggingface.co/docs/huggingface_hub/guides/manage-cache): models--OWNER--REPO/ with
refs/main, snapshots/REVISION/FILE and blobs/, which the files link to; what is half fetched is blobs/….incomplete.
"""

from __future__ import annotations

import os
from pathlib import Path

from eft_gguf.errors import ModelFileError, OptionError
from eft_gguf.models.repository import Wanted, inside, parse, parts_of, quantizations

SCHEME = "hf:"
INSTALL = "pip install 'eft-gguf[hub]'"


def find(name: str) -> Path | None:
    """The file on this disk, whole; None if it is not there. Raises OptionError, ModelFileError for unsafe links."""
    wanted = parse(name, SCHEME)
    folder = cache() / f"models--{wanted.owner}--{wanted.repo}"
    for snapshot in _snapshots(folder):
        names = sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*.gguf"))
        chosen = wanted.choose(names, str(snapshot))
        if chosen is not None:
            paths = [inside(snapshot / part, folder) for part in parts_of(chosen)]
            if all(path.exists() for path in paths):
                return paths[0]
    return None


def fetch(name: str) -> Path:
    """Fetch the file, or go on with a fetch that was broken off; its progress is drawn on a terminal.

    Raises OptionError without huggingface_hub, ModelFileError for what cannot be fetched.
    """
    wanted = parse(name, SCHEME)
    if offline():
        raise ModelFileError(
            f"{SCHEME}{name} is not on this disk, and HF_HUB_OFFLINE is set{_begun(wanted)}",
            hint=f"unset HF_HUB_OFFLINE, or fetch it elsewhere into {cache()}",
        )
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise OptionError(
            f"{SCHEME}{name} is not on this disk, and fetching needs huggingface_hub", hint=f"install it: {INSTALL}"
        ) from None
    try:
        chosen = wanted.file
        if chosen is None:
            names = huggingface_hub.HfApi().list_repo_files(wanted.repository)
            chosen = wanted.choose(names, f"{SCHEME}{wanted.repository}")
            if chosen is None:
                there = quantizations(names)
                hint = f"there are: {', '.join(there)}" if there else "take a repository of GGUF files"
                asked = f"no file at {wanted.quantization}" if wanted.quantization else "no GGUF file"
                raise ModelFileError(f"{SCHEME}{wanted.repository} has {asked}", hint=hint)
        paths = [huggingface_hub.hf_hub_download(wanted.repository, part) for part in parts_of(chosen)]
    except errors.GatedRepoError:
        raise ModelFileError(
            f"{SCHEME}{wanted.repository} is for those who accepted its terms",
            hint=f"accept them at https://huggingface.co/{wanted.repository}, then log in: hf auth login",
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelFileError(
            f"there is no repository {wanted.repository} at Hugging Face, or it is private",
            hint="check the name; for a private one log in: hf auth login",
        ) from None
    except errors.LocalEntryNotFoundError:  # what huggingface_hub makes of a network that is not there
        raise ModelFileError(
            f"cannot fetch {SCHEME}{name}: Hugging Face cannot be reached{_begun(wanted)}",
            hint="see to the connection; what was fetched is kept: the same command goes on from there",
        ) from None
    except errors.EntryNotFoundError:
        raise ModelFileError(
            f"{wanted.repository} has no file {chosen}",
            hint=f"see https://huggingface.co/{wanted.repository}/tree/main for the files",
        ) from None
    except (ModelFileError, OptionError):
        raise
    except Exception as error:  # of the network, in the words of several libraries
        raise ModelFileError(
            f"cannot fetch {SCHEME}{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            hint="what was fetched is kept: the same command goes on from there",
        ) from error
    return Path(paths[0])


def cache() -> Path:
    """The folder that huggingface_hub keeps repositories in."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def offline() -> bool:
    """Whether the user wants nothing fetched."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _snapshots(folder: Path) -> list[Path]:
    """The revisions in the cache, that of the main branch first."""
    try:
        main = (folder / "refs" / "main").read_text().strip()
        revisions = sorted((folder / "snapshots").iterdir())
    except OSError:
        main = ""
        revisions = sorted((folder / "snapshots").glob("*"))
    return sorted(revisions, key=lambda path: path.name != main)


def _begun(wanted: Wanted) -> str:
    halves = list((cache() / f"models--{wanted.owner}--{wanted.repo}" / "blobs").glob("*.incomplete"))
    size = sum(path.stat().st_size for path in halves)
    return f"; a fetch was broken off after {size / 1e6:,.0f} MB" if halves else ""
