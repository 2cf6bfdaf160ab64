"""What would abort the process or go by unseen in llama.cpp is an error here."""

import numpy as np
import pytest

from eft_gguf import DecodeError, LoadError
from eft_gguf.engine.llama import Adapter, Batch, Context, Model


@pytest.fixture
def model(tiny):
    model = Model(tiny.base)
    yield model
    model.close()


@pytest.fixture
def context(model):
    context = Context(model, ctx=64, batch=16, sequences=2, outputs=4, threads=1)
    yield context
    context.close()


def decode(context, tokens, *, position=0, sequence=0, outputs=1):
    context.batch.clear()
    context.batch.add(tokens, position=position, sequence=sequence, outputs=outputs)
    context.decode()
    return [row.copy() for row in context.rows()]


def test_tokens_and_pieces(model):
    ids = model.tokenize("a t<|im_end|>é", special=True)
    assert [model.piece(token, special=True) for token in ids] == [b"a", b" t", b"<|im_end|>", b"\xc3", b"\xa9"]
    assert b"".join(map(model.piece, ids)) == "a té".encode()  # control tokens have no text
    assert len(model.tokenize("<|im_end|>", special=False)) == len("<|im_end|>")
    assert model.is_control(ids[2])
    assert not model.is_control(ids[0])
    assert model.is_end(ids[2])
    assert not model.is_end(ids[0])
    assert model.tokenize("", special=True) == []
    assert model.piece(10**6) == b""


def test_a_batch_refuses_more_than_it_holds():
    batch = Batch(3)
    batch.add([1, 2], position=0, sequence=0, outputs=0)
    with pytest.raises(DecodeError, match="a batch holds 3 tokens, not 4"):
        batch.add([3, 4], position=2, sequence=0, outputs=0)


def test_more_outputs_than_there_is_room_for_are_refused(context):
    with pytest.raises(DecodeError, match="5 rows of logits asked for, room for 4"):
        decode(context, [5, 6, 7, 8, 9], outputs=5)


def test_there_are_no_rows_where_none_were_asked_for(context):
    decode(context, [5, 6, 7], outputs=0)
    assert context.rows() == []


def test_a_gap_in_the_positions_is_refused(context):
    decode(context, [5])
    with pytest.raises(DecodeError, match="could not decode"):
        decode(context, [6], position=9)


def test_sequences_do_not_see_each_other_and_can_be_cut_back(context):
    alone = decode(context, [5, 6, 7])[0]
    decode(context, [50, 60], sequence=1)
    again = decode(context, [8], position=3)[0]
    assert context.forget(0, 3)
    np.testing.assert_allclose(decode(context, [8], position=3)[0], again, atol=1e-5)
    assert context.forget(0, 0)
    np.testing.assert_allclose(decode(context, [5, 6, 7])[0], alone, atol=1e-5)


def test_an_adapter_changes_its_own_context_only(model, tiny, context):
    adapter = Adapter(model, tiny.adapter)
    adapted = Context(model, ctx=64, batch=16, sequences=1, outputs=4, threads=1, adapter=adapter)
    try:
        plain, changed = decode(context, [5, 6, 7])[0], decode(adapted, [5, 6, 7])[0]
        assert np.abs(plain - changed).max() > 0.1
        assert context.forget(0, 0)
        np.testing.assert_array_equal(decode(context, [5, 6, 7])[0], plain)
    finally:
        adapted.close()
        adapter.close()


def test_what_llama_cpp_cannot_load_is_an_error_with_its_reason(tmp_path, model, tiny):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(LoadError, match=r"bad\.gguf: llama\.cpp could not load") as caught:
        Model(path)
    assert "gave no reason" not in caught.value.message
    with pytest.raises(LoadError, match="could not put this adapter"):
        Adapter(model, tiny.untuned)
