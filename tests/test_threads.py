"""Who uses the models when: threads, streams that are dropped, replays side by side, closing, forks."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

import eft_gguf
from eft_gguf import EFT, Blend, EFTError, OptionError, Sampling

GREEDY = Sampling(temperature=0, max_tokens=12)


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"question {number}"}]


@pytest.fixture(params=[1, 3])
def eft(tiny, request):
    with EFT.open(**tiny.family(), threads=1, speculate="off", sequences=request.param) as eft:
        yield eft


def test_a_pool_of_threads_gets_the_replies_of_one_thread(eft) -> None:
    expected = [eft.complete(question(number), sampling=GREEDY).text for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: eft.complete(question(number), sampling=GREEDY).text, range(24)))
    # Side by side the batches are of other sizes, and near-ties may fall otherwise.
    alike = sum(text == wanted for text, wanted in zip(found, expected, strict=True))
    assert alike == 24 if eft.sequences == 1 else alike > 12


def test_streams_of_several_threads_scores_and_replays_at_once(eft) -> None:
    expected = eft.complete(question(0), sampling=GREEDY)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(6):
                if number % 3 == 0:
                    text = "".join(chunk.text for chunk in eft.chat(question(0), sampling=GREEDY))
                    # Side by side the batches are of other sizes, and near-ties may fall otherwise.
                    assert text == expected.text if eft.sequences == 1 else text
                elif number % 3 == 1:
                    stream = eft.chat(question(number), sampling=GREEDY)
                    next(stream)
                    del stream
                else:
                    eft.read(question(number))
                    assert np.isfinite(eft.score("some text").blend[1:]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    # A score needs a free slot, and says so where replies have them all.
    assert [error for error in failures if "sequences are in use" not in str(error)] == []
    assert eft.complete(question(0), sampling=GREEDY).text == expected.text


def test_a_stream_that_is_collected_in_the_middle_of_a_step_leaves_after_it(tiny, monkeypatch) -> None:
    from eft_gguf.engine.ensemble import Ensemble

    with EFT.open(**tiny.family(), threads=1, speculate="off", sequences=2) as eft:
        expected = eft.complete(question(0), sampling=GREEDY).text
        decode, dropped = Ensemble.decode, []

        def dropping(self, member, parts):
            if dropped:
                dropped.clear()  # the last reference: the stream is closed here, in the middle of the step
                gc.collect()
            return decode(self, member, parts)

        monkeypatch.setattr(Ensemble, "decode", dropping)
        stream = eft.chat(question(0), sampling=GREEDY)
        other = eft.chat(question(1), sampling=GREEDY)
        text = next(stream).text
        next(other)
        dropped.append(other)
        del other
        assert text + "".join(chunk.text for chunk in stream) == expected
        assert eft.running == 0


def test_replays_side_by_side_raise_instead_of_giving_wrong_logits(eft) -> None:
    alone = [{name: row.copy() for name, row in rows.items()} for _, rows in eft.replay("ab", "cdef")]
    first, second = eft.replay("ab", "cdef"), eft.replay("xy", "zzzz")
    _, rows = next(first)
    next(second)
    assert all(np.allclose(rows[name], alone[0][name], atol=1e-4) for name in rows)
    with pytest.raises(EFTError, match="in the middle of a replay"):
        next(first)
    assert len(list(second)) == 3
    replay = eft.replay("ab", "cdef")
    next(replay)
    eft.complete("other", sampling=GREEDY)
    with pytest.raises(EFTError, match="list"):
        next(replay)


def test_what_was_given_out_does_not_change(eft) -> None:
    taken = [rows["blend"] for _, rows in eft.replay("ab", "cdef")]
    assert len({row.tobytes() for row in taken}) == len(taken)


def test_nothing_is_read_after_close(tiny) -> None:
    eft = EFT.open(**tiny.family(), threads=1, sequences=2)
    replay, stream = eft.replay("ab", "cdef"), eft.chat(question(0), sampling=GREEDY)
    next(replay)
    eft.close()
    for iterator in (replay, stream):
        with pytest.raises(EFTError, match="closed"):
            for _ in iterator:
                pass
    eft.close()
    with pytest.raises(EFTError, match="closed"):
        eft.complete("a")


def test_one_that_is_dropped_frees_its_models(tiny) -> None:
    def opened() -> weakref.ref:
        eft = EFT.open(**tiny.family(), threads=1, speculate="off", force=True)
        eft.complete("a", sampling=GREEDY)
        return weakref.ref(eft)

    opened()
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(12):
        assert opened()() is None or gc.collect() is not None
    gc.collect()
    # Each holds some 10 MB; a third of that is room for what the allocator keeps.
    assert psutil.Process().memory_info().rss - before < 40e6


def _in_a_fork(eft: EFT, pipe) -> None:
    try:
        eft.complete("a", sampling=GREEDY)
        pipe.send("worked")
    except EFTError as error:
        pipe.send(str(error))
    eft.close()


def test_a_forked_process_is_told_and_does_not_hang(tiny) -> None:
    with EFT.open(**tiny.family(), threads=1) as eft:
        expected = eft.complete("a", sampling=GREEDY).text
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(eft, theirs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
            process.start()
        assert ours.poll(30) and "forked" in ours.recv()
        process.join(30)
        assert process.exitcode == 0
        assert eft.complete("a", sampling=GREEDY).text == expected


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda eft: eft.chat("hello"), "chat takes messages, not str"),
        (lambda eft: eft.score(question(0)), "score takes a text, not list"),
        (lambda eft: eft.complete([1, "a"]), "entry 1 is 'a'"),
        (lambda eft: eft.complete([1, True]), "entry 1 is True"),
        (lambda eft: Blend(traits=["helpful"]), "traits must be a mapping"),
        (lambda eft: Blend(knowledge=1e308), "at most 1,000"),
        (lambda eft: Blend(behaviour=10**400), "finite"),
        (lambda eft: EFT.bundled(ctx="abc"), "ctx must be 1 or more, not 'abc'"),
        (lambda eft: EFT.bundled(sequences=2.5), "sequences must be 1 or more, not 2.5"),
        (lambda eft: EFT.bundled(batch=True), "batch must be 1 or more, not True"),
    ],
)
def test_wrong_kinds_of_arguments_are_one_clear_error(eft, call, says) -> None:
    with pytest.raises(OptionError) as error:
        call(eft)
    assert says in error.value.message and error.value.hint


def test_numpys_numbers_are_taken(eft) -> None:
    ids = eft.token_ids("hello")
    expected = eft.complete(ids, sampling=GREEDY).text
    assert eft.complete(np.array(ids), sampling=GREEDY).text == expected
    assert eft.complete([np.int64(token) for token in ids], sampling=GREEDY).text == expected
    assert Blend(np.float32(0.5), np.int64(1)) == Blend(0.5, 1)


def test_what_the_package_offers_is_listed() -> None:
    assert {"EFT", "Blend", "Sampling"} <= set(dir(eft_gguf))
