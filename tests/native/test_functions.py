"""Each function of native/eft.h, at the edges of what it may be given."""

import ctypes

import numpy as np
import pytest

from eft_gguf import Filter
from eft_gguf.blend import drawing, kernels
from eft_gguf.blend.equation import blend_logits, coefficients, log_softmax
from eft_gguf.blend.filter import filtered_logits, log_probabilities
from eft_gguf.errors import EFTError

INF = np.inf


def floats(*values):
    return np.array(values, np.float32)


def sample(library, logits, u):
    return library.eft_sample(logits.ctypes.data, len(logits), u)


@pytest.mark.parametrize("models", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("size", [1, 5, 1024, 2500])
def test_any_number_of_models_is_summed_up(models, size, library):
    from eft_gguf.blend import native

    rng = np.random.default_rng(models * size)
    rows = tuple(rng.normal(size=size).astype(np.float32) * 8 for _ in range(models))
    factors = rng.normal(size=models)
    factors[rng.integers(models)] = 0
    out = np.full(size, 7, np.float32)
    native.blend_into(rows, factors, out)
    np.testing.assert_array_equal(out, blend_logits(rows, factors).astype(np.float32))
    candidates = np.zeros(size, kernels.CANDIDATE)
    native.blend_candidates(rows, factors, candidates)
    np.testing.assert_array_equal(candidates["id"], np.arange(size))
    np.testing.assert_array_equal(candidates["logit"], out)
    assert native.blend_argmax(rows, factors, size) == int(np.argmax(out))


def test_more_models_than_there_is_room_for_are_refused(library):
    from eft_gguf.blend import native

    with pytest.raises(EFTError, match="refused"):
        native.blend_into((floats(1, 2),) * 65, np.ones(65), floats(0, 0))


@pytest.mark.parametrize("k", [1, 3, 40, 10**6])
def test_the_top_candidates_are_those_of_the_numba_kernel(k, library):
    from eft_gguf.blend import native

    rng = np.random.default_rng(k)
    for size in (1, 50, 1024, 70_000):
        rows = tuple(np.round(rng.normal(size=size) * 3, 1).astype(np.float32) for _ in range(3))
        rows[0][rng.random(size) < 0.2] = -INF
        factors = np.array([1.0, -0.5, 0.5])
        ours, numba = (np.zeros(size, kernels.CANDIDATE) for _ in range(2))
        count = native.blend_top(rows, factors, k, ours)
        assert count == kernels.blend_top(rows, factors, k, numba)
        np.testing.assert_array_equal(ours[:count], numba[:count])


@pytest.mark.parametrize("bad", [np.nan, INF, -INF])
@pytest.mark.parametrize("member", [0, 1, 2])
def test_logits_that_are_no_numbers_are_impossible_and_do_not_spread(bad, member, library):
    from eft_gguf.blend import native

    rng = np.random.default_rng(member)
    rows = tuple(rng.normal(size=1500).astype(np.float32) for _ in range(3))
    factors = coefficients(1, 1, [1])
    for where in ([3, 700], slice(None)):
        rows[member][where] = bad
        out = np.empty(1500, np.float32)
        native.blend_into(rows, np.array(factors), out)
        np.testing.assert_array_equal(out, blend_logits(rows, factors).astype(np.float32))
        for filter in (Filter(0.9), Filter(None, 0.9), Filter(None, None, 0.1), Filter(0.9, 0.9, 0.1, -7)):
            ours = native.FilteredBlend(1500)(rows, [0, 1, 2], factors, filter)
            expected = filtered_logits(rows, factors, filter)
            np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(expected))
            if np.isfinite(expected).any():
                kept = np.isfinite(expected)
                np.testing.assert_allclose(
                    log_softmax(ours.astype(np.float64))[kept], log_softmax(expected)[kept], atol=1e-5
                )


def test_of_equal_tokens_the_smaller_ids_are_in_the_set(library):
    from eft_gguf.blend import native

    for size in (3, 5000, 262_144):
        row = np.zeros(size, np.float32)
        ours = native.FilteredBlend(size)((row,) * 3, [0, 1, 2], coefficients(1, 1, [1]), Filter(base_top_p=0.5))
        assert np.flatnonzero(np.isfinite(ours)).tolist() == list(range((size + 1) // 2))


def test_one_token(library):
    from eft_gguf.blend import native

    row = floats(-3)
    ours = native.FilteredBlend(1)((row,) * 3, [0, 1, 2], coefficients(1, 1, [1]), Filter(0.5, 0.5, 0.5, -1))
    assert np.isfinite(ours).all()
    assert native.log_mass(row) == -3
    assert [sample(library, row, u) for u in (0, 0.5, 1 - 2**-53)] == [0, 0, 0]


def test_extreme_logits_stay_finite(library):
    from eft_gguf.blend import native

    rng = np.random.default_rng(4)
    for scale in (1e5, 1e20, 1e30, 1e37):
        rows = tuple((rng.uniform(-1, 1, 1500) * scale).astype(np.float32) for _ in range(3))
        for filter in (Filter(0.9), Filter(None, 0.9), Filter(None, None, 0.1), Filter(0.9, 0.9, 0.1, -7)):
            ours = native.FilteredBlend(1500)(rows, [0, 1, 2], coefficients(1, 1, [1]), filter)
            assert np.isfinite(ours).any() and not np.isnan(ours).any() and not (ours == INF).any()


def test_of_what_a_float_cannot_hold_a_filter_leaves_the_next(library):
    """Found by the fuzzer: the one token that the filter kept has a blend beyond the floats."""
    from eft_gguf.blend import native

    base, untuned = floats(3e38, 0), floats(0, 1)
    ours = native.FilteredBlend(2)((base, untuned), [0, 1], (2.0, -1.0), Filter(base_min_p=0.5))
    assert ours.tolist() == [-INF, -1]


def test_factors_are_those_of_the_equation(library):
    rng = np.random.default_rng(0)
    for _ in range(300):
        knowledge, behaviour, *weights = rng.choice([0, 0.1, 0.3, 0.7, 1, 1.3, -0.2], 2 + int(rng.integers(0, 5)))
        untuned = rng.integers(0, 1 + int(rng.integers(0, 3)), len(weights), dtype=np.int32)
        expected = coefficients(knowledge, behaviour, weights, untuned.tolist())
        given, out = np.array(weights), np.full(len(expected) + 1, 9.0)
        pointers = given.ctypes.data, untuned.ctypes.data, len(weights), out.ctypes.data
        assert library.eft_factors(knowledge, behaviour, *pointers) == 0
        np.testing.assert_allclose(out, [*expected, 9.0], rtol=0, atol=1e-15)
        np.testing.assert_array_equal(out == 0, [*(factor == 0 for factor in expected), False])
        if not untuned.any():
            assert library.eft_factors(knowledge, behaviour, pointers[0], None, *pointers[2:]) == 0
            np.testing.assert_allclose(out, [*expected, 9.0], rtol=0, atol=1e-15)


def test_dials_that_are_no_numbers_are_refused(library):
    out, one, number = np.empty(3), np.ones(1), np.array([-1], np.int32)
    assert library.eft_factors(float("nan"), 1, None, None, 0, out.ctypes.data) == -1
    assert library.eft_factors(1, INF, one.ctypes.data, None, 1, out.ctypes.data) == -1
    assert library.eft_factors(1, 1, one.ctypes.data, number.ctypes.data, 1, out.ctypes.data) == -1


def test_a_floor_counts_for_every_untuned_model(library):
    from eft_gguf.blend import native

    rng = np.random.default_rng(1)
    base, untuned, tuned, own = (rng.normal(size=900).astype(np.float32) * 6 for _ in range(4))
    rows = (native.Row * 4)()
    for place, (row, factor, role) in enumerate(
        zip((base, untuned, tuned, own), (1.0, 0.0, 0.7, -0.7), (0, 1, 2, 3), strict=True)
    ):
        rows[place].logits, rows[place].factor, rows[place].role = row.ctypes.data, factor, role
    out, scratch = np.empty(900, np.float32), np.empty(library.eft_scratch_size(900), np.uint8)
    values = native.FilterValues(1, 1, 0, -5)
    assert library.eft_blend_filtered(rows, 4, 900, values, scratch.ctypes.data, out.ctypes.data) == 0
    floored = np.maximum(log_probabilities(own), -5)
    expected = log_probabilities(base) + 0.7 * (log_probabilities(tuned) - floored)
    np.testing.assert_allclose(log_softmax(out.astype(np.float64)), log_softmax(expected), atol=1e-5)


@pytest.mark.parametrize(
    "values", [(0, 1, 0, -1), (1, 1.5, 0, -1), (1, 1, -0.1, -1), (1, 1, 0, 0.1), (float("nan"), 1, 0, -1)]
)
def test_a_filter_out_of_its_ranges_is_refused(values, library):
    from eft_gguf.blend import native

    rows, out = (native.Row * 1)(), floats(0)
    rows[0].logits, rows[0].factor, rows[0].role = floats(1).ctypes.data, 1.0, 0
    scratch = np.empty(library.eft_scratch_size(1), np.uint8)
    filter = native.FilterValues(*values)
    assert library.eft_blend_filtered(rows, 1, 1, filter, scratch.ctypes.data, out.ctypes.data) == -1


def test_a_model_that_a_filter_looks_at_must_be_there(library):
    from eft_gguf.blend import native

    row, out = floats(1, 2), floats(0, 0)
    rows = (native.Row * 2)()
    rows[0].factor, rows[0].role = 0.0, 0  # a base without logits
    rows[1].logits, rows[1].factor, rows[1].role = row.ctypes.data, 1.0, 2
    scratch = np.empty(library.eft_scratch_size(2), np.uint8)

    def refused(*values):
        filter = native.FilterValues(*values)
        return library.eft_blend_filtered(rows, 2, 2, filter, scratch.ctypes.data, out.ctypes.data) != 0

    assert refused(1, 0.9, 0, -INF) and refused(1, 1, 0.1, -INF) and not refused(1, 1, 0, -INF)
    rows[0].factor = 1.0
    assert refused(1, 1, 0, -INF) and refused(0.9, 1, 0, -INF)


def test_log_softmax(library):
    logits = floats(1, 2, -INF, np.nan, 3, INF)
    library.eft_log_softmax(logits.ctypes.data, 6, logits.ctypes.data)
    expected = log_softmax(np.array([1, 2, -INF, -INF, 3, -INF]))
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    nothing = floats(-INF, -INF)
    library.eft_log_softmax(nothing.ctypes.data, 2, nothing.ctypes.data)
    assert (nothing == -INF).all()


def test_temperature(library):
    def tempered(values, temperature):
        logits = floats(*values)
        assert library.eft_temper(logits.ctypes.data, len(logits), temperature) == 0
        return logits.tolist()

    assert tempered([1, 3, -INF, 2], 0.5) == [-4, 0, -INF, -2]
    assert tempered([1, 3, np.nan, 3], 0) == [-INF, 0, -INF, -INF]
    assert tempered([-INF, INF], 1) == [-INF, -INF]
    for wrong in (-1, np.nan, INF):
        logits = floats(1, 2)
        assert library.eft_temper(logits.ctypes.data, 2, wrong) == -1 and logits.tolist() == [1, 2]


def test_drawing_at_the_borders(library):
    thirds = np.log(floats(1, 2, 0.0001, 1)) + floats(0, 0, -INF, 0)
    for u, token in ((0, 0), (0.2499, 0), (0.2501, 1), (0.7499, 1), (0.7501, 3), (1 - 2**-53, 3)):
        assert sample(library, thirds, u) == token
    assert sample(library, floats(-INF, 0), 0) == 1
    assert sample(library, floats(-INF, np.nan), 0.5) == -1
    # Whatever a caller passes as the random number, the token is a possible one.
    for u in (-1, 1, 2, np.nan):
        assert sample(library, floats(-INF, 0, 0, -INF), u) in (1, 2)


@pytest.mark.parametrize("size", [3, 1024, 5000, 600_000])
def test_every_part_of_a_vocabulary_is_drawn_from_by_its_share(size, library):
    rng = np.random.default_rng(size)
    logits = rng.normal(size=size).astype(np.float32) * 3
    logits[rng.random(size) < 0.3] = -INF
    p = drawing.softmax(logits)
    for u in [*rng.random(50), 0.0, 1 - 2**-53]:
        assert sample(library, logits, u) == drawing.draw(p, u)


def test_drafts_are_accepted_and_replaced_as_by_the_reference(library):
    from eft_gguf.blend import native

    rng = np.random.default_rng(7)
    outcomes = set()
    for _ in range(400):
        size = int(rng.choice([2, 5, 300, 3000]))
        q = rng.normal(size=size).astype(np.float32) * 3
        p = (q + rng.normal(size=size) * rng.choice([0, 0.3, 3])).astype(np.float32)
        p[rng.random(size) < 0.2], q[rng.random(size) < 0.2] = -INF, -INF
        p[0] = q[1] = 0
        p_mass, q_mass = native.log_mass(p), native.log_mass(q)
        u_draft, u_accept, u_draw = rng.random(3)
        draft = sample(library, q, u_draft)
        token, accepted, _ = drawing.verify(drawing.softmax(p), drawing.softmax(q), draft, u_accept, u_draw)
        assert library.eft_accept(float(p[draft]) - p_mass, float(q[draft]) - q_mass, u_accept) == accepted
        outcomes.add(accepted)
        if not accepted:
            pointers = p.ctypes.data, p_mass, q.ctypes.data, q_mass
            assert library.eft_sample_residual(*pointers, size, u_draw) == token
    assert outcomes == {True, False}


def test_a_refused_draft_where_both_are_equal_is_drawn_anew(library):
    row = floats(0, 1, 2)
    mass = float(np.log(np.exp(row).sum()))
    token = library.eft_sample_residual(row.ctypes.data, mass, row.ctypes.data, mass, 3, 0.5)
    assert token == sample(library, row, 0.5)


def test_an_impossible_token_is_never_accepted(library):
    assert library.eft_accept(-INF, -1.0, 0.0) == 0
    assert library.eft_accept(-INF, -INF, 0.0) == 0
    assert library.eft_accept(-1.0, -INF, 0.999) == 1


def test_the_library_writes_nothing_beyond_its_outputs(library):
    from eft_gguf.blend import native

    for size in (1, 31, 1023, 1025):
        rng = np.random.default_rng(size)
        rows = tuple(rng.normal(size=size).astype(np.float32) for _ in range(3))
        guarded = np.full(size + 64, 5, np.float32)
        native.blend_into(rows, np.array([1.0, -1, 1]), guarded[:size])
        assert (guarded[size:] == 5).all()
        candidates = np.zeros(size + 8, kernels.CANDIDATE)
        candidates["id"] = -9
        native.blend_top(rows, np.ones(3), 5, candidates[:size])
        assert (candidates["id"][size:] == -9).all()
        scratch = (ctypes.c_uint8 * (library.eft_scratch_size(size) + 64))(*([7] * 64))
        ctypes.memset(scratch, 7, len(scratch))
        structs = native._rows(rows, (1.0, -1.0, 1.0), (0, 1, 2))
        values = native.FilterValues(0.9, 0.9, 0.1, -5)
        library.eft_blend_filtered(structs, 3, size, values, ctypes.addressof(scratch), guarded.ctypes.data)
        assert all(byte == 7 for byte in scratch[-64:]) and (guarded[size:] == 5).all()
