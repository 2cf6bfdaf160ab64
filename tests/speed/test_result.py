"""Tables and plain values of figures made up."""

import pytest

from eft_gguf.speed.measure import _Clock
from eft_gguf.speed.result import Aggregate, Alone, Blended, Drafted, Peak, Speed, Turn
from eft_gguf.speed.spread import Spread


def spread(value: float) -> Spread:
    return Spread(value, value, value, 1)


def test_spread() -> None:
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert Spread.of([0.001, 0.002, 0.003]).text(1, scale=1e3) == "2.0 (1.5 – 2.5)"


def test_nothing_measured_is_nothing_shown() -> None:
    speed = Speed()
    assert speed.tables() == []
    assert speed.as_dict()["blend"] is None and speed.as_dict()["memory"] is None


def test_figures_in_tables_and_as_values() -> None:
    speed = Speed(
        settings={"threads": 2},
        alone={"base": Alone(spread(0.1), 50.0)},
        batch_cost={"base": {1: spread(0.1), 4: spread(0.25)}},
        blend=Blended(spread(0.2), 0.19, 20.0),
        drafts=[Drafted("0", spread(0.2), spread(1.0), None, 0.0), Drafted("2", spread(0.16), spread(1.25), 0.9, 1.8)],
        turns=[Turn(2, 63, 44, 0.38)],
        aggregate=[Aggregate(1, 5.0, 5.5), Aggregate(4, 8.0, 10.0)],
        memory=Peak(2_000_000_000, 2_100_000_000, 1_500_000_000, 300_000_000),
    )
    rates, batches, drafts, turns, replies, memory = speed.tables()
    assert rates.rows == [
        ("base", "10.0", "100.00 (100.00 – 100.00)", "50"),
        ("blend", "5.0", "200.00 (200.00 – 200.00)", "20"),
    ]
    assert rates.note.startswith("95.0%")
    assert batches.columns == ("n", "1", "4") and batches.rows == [("base", "1.0", "2.5")]
    assert drafts.rows == [
        ("0", "5.0", "1.00 (1.00 – 1.00)", "", "0.0"),
        ("2", "6.2", "1.25 (1.25 – 1.25)", "90%", "1.8"),
    ]
    assert turns.rows == [("2", "63", "44", "19", "380.0", "20.00")]
    assert replies.rows == [("1", "5.0", "1.00", "5.5"), ("4", "8.0", "1.60", "10.0")]
    assert memory.rows[0][1] == "2,000" and memory.rows[-1] == ("KV caches", "300")
    values = speed.as_dict()
    assert values["blend"]["decode_share"] == pytest.approx(0.95)
    assert values["drafts"][1]["acceptance"] == 0.9 and values["drafts"][1]["tokens_per_second"] == 6.25
    assert values["turns"] == [
        {"number": 2, "prompt_tokens": 63, "cached_tokens": 44, "first_token": 0.38, "decoded_tokens": 19}
    ]
    assert values["batch_cost"] == {"base": {"1": 0.1, "4": 0.25}}


def test_the_time_left_goes_down_from_part_to_part() -> None:
    told: list[float] = []
    clock = _Clock(parts=2, seconds=0.0, tick=lambda what, left: told.append(left))
    assert len(list(clock.rounds("one"))) == 3
    assert len(list(clock.rounds("two", least=1))) == 1
    clock = _Clock(parts=3, seconds=0.05, tick=lambda what, left: told.append(left))
    told.clear()
    for part in ("one", "two", "three"):
        list(clock.rounds(part))
    assert told[0] == pytest.approx(0.15, abs=0.01)
    assert told == sorted(told, reverse=True)
    assert told[-1] < 0.05
