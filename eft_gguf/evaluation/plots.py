"""What all plots share: matplotlib where it is installed, colours, and files that come out alike each time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eft_gguf.errors import EFTError, OptionError
from eft_gguf.files import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
COLOURS = {
    # Told apart also by those who see no red or green: Okabe and Ito, 2008.
    "facts": "#009E73",
    "single facts": "#009E73",
    "helpful": "#0072B2",
    "caution": "#D55E00",
    "mixed": "#777777",
}


def check_plot(path: Path) -> None:
    """Raise now, before minutes of work, what `save` would raise afterwards: EFTError or OptionError."""
    if path.suffix.removeprefix(".").lower() not in FORMATS:
        raise OptionError(f"{path.name} is no name of a picture", hint=f"end it in .{', .'.join(FORMATS)}")
    if not path.resolve().parent.is_dir():
        raise OptionError(f"there is no folder {path.resolve().parent}", hint="make it first, or name another file")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise EFTError("plots need matplotlib, which is not installed", hint="pip install 'eft-gguf[plot]'") from None


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plain(axes: Any) -> None:
    """The look of all panels: a faint grid, no box."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def inline_svg(figure: Figure) -> str:
    """The figure as an element of an HTML page: no background, and black drawn in the colour of the page's text."""
    import matplotlib

    data = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "eft-gguf"}):
        figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
    element = data.getvalue()
    element = element[element.index("<svg") :]
    # Matplotlib leaves the colour of black text away, and that is SVG's black.
    element = element.replace("#000000", "currentColor").replace("<svg ", '<svg fill="currentColor" role="img" ', 1)
    return element


def save(figure: Figure, path: Path) -> None:
    """Write the figure in the format that the file's name asks for; the same figure gives the same bytes."""
    import matplotlib

    kind, data = path.suffix.removeprefix(".").lower(), io.BytesIO()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with matplotlib.rc_context({"svg.hashsalt": "eft-gguf"}):
        figure.savefig(data, format=kind, dpi=150, metadata=metadata)
    write_aside(path, data.getvalue())
