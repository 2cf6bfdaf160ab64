from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eft_gguf.engine.text import TextStream


def said(pieces, stop=()):
    stream = TextStream(stop)
    return [stream.push(piece) for piece in pieces] + [stream.flush()], stream


def test_half_a_character_waits_for_its_other_half():
    chunks, stream = said([b"caf\xc3", b"\xa9 \xf0\x9f", b"\x98", b"\x80"])
    assert chunks == ["caf", "é ", "", "😀", ""]
    assert stream.text == "café 😀"


def test_bytes_that_are_no_text_become_the_replacement_character():
    chunks, _ = said([b"a\xff", b"b\xc3"])
    assert "".join(chunks) == "a\ufffdb\ufffd"


def test_a_stop_text_is_never_shown_not_even_its_beginning():
    chunks, stream = said([b"one", b"\nUs", b"er", b": two"], stop=("\nUser:",))
    assert chunks == ["one", "", "", "", ""]
    assert stream.stopped


def test_what_only_looked_like_a_stop_text_is_shown_after_all():
    chunks, stream = said([b"a\n", b"b", b"\n"], stop=("\n\n",))
    assert chunks == ["a", "\nb", "", "\n"]
    assert not stream.stopped


def test_the_earliest_of_several_stop_texts_counts():
    chunks, _ = said([b"x END y STOP"], stop=("STOP", "END"))
    assert "".join(chunks) == "x "


@given(
    st.text(max_size=60),
    st.lists(st.integers(0, 60), max_size=12),
    st.lists(st.text(min_size=1, max_size=4), max_size=3),
)
def test_any_cut_into_pieces_gives_the_same_text(text, cuts, stop):
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()
    text = data.decode()
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    chunks, stream = said([data[a:b] for a, b in pairwise(edges)], stop)
    ends = [text.find(s) for s in stop if s in text]
    assert "".join(chunks) == stream.text
    if not ends:
        assert stream.text == text
    else:
        # Pieces may show a later stop text's end first; what is shown never holds one, and is the text's beginning.
        assert stream.stopped
        assert text.startswith(stream.text)
        assert not any(s in stream.text for s in stop)


@pytest.mark.parametrize("stop", [(), ("zzz",)])
def test_nothing_in_nothing_out(stop):
    assert said([], stop)[0] == [""]
