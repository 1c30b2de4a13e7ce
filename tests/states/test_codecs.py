"""Codecs: worked examples, bounds on the error, exact sizes, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mice_st.states.codecs import CODECS, get_codec
from mice_st.states.packed import PackedStates
from tests.states.made import made

matrices = st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(-25, 19)).map(
    lambda drawn: torch.from_numpy(
        (np.random.default_rng(drawn[2]).standard_normal(drawn[:2]) * 2.0 ** drawn[3]).astype(np.float32)
    )
)


def test_int8_by_hand() -> None:
    # Row 0: the scale is 127 / 127 = 1. Row 1: 2 / 127 = 0.0157480..., whose upper float16 neighbour is 1033 / 65536 = 0.0157623...
    payload, scales = get_codec("int8").encode(torch.tensor([[127.0, -3.4, 0.5], [2.0, -1.0, 0.0]]))
    assert scales is not None
    assert scales.tolist() == [1.0, 1033 / 65536]
    assert payload.tolist() == [[127, -3, 0], [127, -63, 0]]  # 0.5 goes to the even 0; 1 / 0.0157623 = 63.4
    assert get_codec("int8").decode(payload, scales, 3).tolist() == [
        [127.0, -3.0, 0.0],
        [127 * 1033 / 65536, -63 * 1033 / 65536, 0.0],
    ]


def test_int4_by_hand() -> None:
    # Scale 7 / 7 = 1; bytes hold columns (0, 2) and (1, padding), plus 8, the later one high.
    payload, scales = get_codec("int4").encode(torch.tensor([[7.0, -7.0, 2.0]]))
    assert scales is not None
    assert scales.tolist() == [1.0]
    assert payload.tolist() == [[15 | (10 << 4), 1 | (8 << 4)]]
    assert get_codec("int4").decode(payload, scales, 3).tolist() == [[7.0, -7.0, 2.0]]


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [
        *[("fp32", 384, 1536), ("fp16", 384, 768), ("int8", 384, 386), ("int4", 384, 194)],
        *[("fp16", 128, 256), ("int8", 128, 130), ("int4", 128, 66), ("int4", 3, 4)],
    ],
)
def test_bytes_per_token_are_what_encode_returns(name: str, width: int, size: int) -> None:
    payload, scales = get_codec(name).encode(torch.randn(5, width, generator=torch.Generator().manual_seed(0)))
    assert get_codec(name).bytes_per_token(width) == size
    assert payload.nbytes + (0 if scales is None else scales.nbytes) == 5 * size


@settings(max_examples=200, deadline=None)
@given(matrices, st.sampled_from(sorted(CODECS)))
def test_error_stays_within_the_bound(states: torch.Tensor, name: str) -> None:
    levels = {"fp32": 2.0**60, "fp16": 1, "int8": 127, "int4": 7}[name]
    states = states.clamp(-65504.0 * levels, 65504.0 * levels)  # beyond, they are refused: see below
    codec = get_codec(name)
    payload, scales = codec.encode(states)
    error = (codec.decode(payload, scales, states.shape[1]) - states).abs()
    largest = states.abs().amax(dim=1, keepdim=True)
    tiny = 2.0**-24  # smallest float16, of values and of scales
    # A scale is rounded up by at most one part in 1024 (or one tiny); the error is half of it.
    bound = {
        "fp32": torch.zeros_like(states),
        "fp16": (states.abs() * 2.0**-11).clamp(min=tiny / 2),
        "int8": ((largest / 127 * (1 + 2.0**-10)).clamp(min=tiny) + tiny) / 2,
        "int4": ((largest / 7 * (1 + 2.0**-10)).clamp(min=tiny) + tiny) / 2,
    }[name]
    assert bool((error <= bound * (1 + 1e-5)).all())


@settings(max_examples=50, deadline=None)
@given(matrices, st.sampled_from(sorted(CODECS)))
def test_a_token_does_not_depend_on_its_neighbours(states: torch.Tensor, name: str) -> None:
    codec = get_codec(name)
    states = states.clamp(-60000, 60000)
    payload, scales = codec.encode(states)
    for i in range(len(states)):
        alone, scale = codec.encode(states[i : i + 1])
        assert torch.equal(alone[0], payload[i])
        assert scale is None or scales is None or torch.equal(scale[0], scales[i])


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_states_are_refused_by_row(name: str, bad: float) -> None:
    states = torch.zeros(4, 6)
    states[2, 5] = bad
    with pytest.raises(ValueError, match=r"row 2 .*not finite"):
        get_codec(name).encode(states)


@pytest.mark.parametrize(("name", "limit"), [("fp16", 65504.0), ("int8", 65504.0 * 127), ("int4", 65504.0 * 7)])
def test_overflow_is_refused_by_row(name: str, limit: float) -> None:
    codec = get_codec(name)
    states = torch.ones(3, 2)
    states[1, 0] = limit
    payload, scales = codec.encode(states)
    assert codec.decode(payload, scales, 2)[1, 0] == limit
    states[1, 0] = limit * 1.01
    with pytest.raises(ValueError, match=f"row 1 .*overflows {name}"):
        codec.encode(states)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_zeros_stay_zeros_and_float16_input_is_accepted(name: str) -> None:
    codec = get_codec(name)
    states = torch.zeros(2, 4, dtype=torch.float16)
    states[1, 1] = 7
    assert torch.equal(codec.decode(*codec.encode(states), 4)[0], torch.zeros(4))
    assert codec.decode(*codec.encode(states), 4)[1, 1] == pytest.approx(7, rel=1e-3)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_decode_writes_into_the_buffer_and_checks_it(name: str) -> None:
    codec = get_codec(name)
    payload, scales = codec.encode(torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))
    buffer = torch.full((4, 5), 9.0)
    decoded = codec.decode(payload, scales, 5, buffer)
    assert decoded.data_ptr() == buffer.data_ptr()
    assert torch.equal(decoded, codec.decode(payload, scales, 5))
    assert bool((buffer[3] == 9).all())
    for wrong in (buffer[:2], buffer[:, :4], buffer.double()):
        with pytest.raises(ValueError, match="cannot hold"):
            codec.decode(payload, scales, 5, wrong)
    with pytest.raises(ValueError, match="does not fit"):
        codec.decode(payload, scales, 11)
    with pytest.raises(ValueError, match="scales"):
        codec.decode(payload, torch.ones(2, dtype=torch.float16), 5)


def test_unknown_codec_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="'fp8'; there are fp32, fp16, int8, int4"):
        get_codec("fp8")


@pytest.mark.parametrize("name", sorted(CODECS))
def test_packed_documents_decode_over_borders(name: str) -> None:
    documents = [made(f"d{i}", 1) for i in range(4)]
    packed = PackedStates.from_documents(documents, name)  # type: ignore[arg-type]
    parts = [get_codec(name).decode(*get_codec(name).encode(d.states), 16) for d in documents]
    assert packed.offsets == [0, *np.cumsum([len(d.input_ids) for d in documents]).tolist()]
    assert torch.equal(packed.decode(0, packed.offsets[-1]), torch.cat(parts))
    start, end = packed.offsets[1] - 1, packed.offsets[2] + 1
    assert torch.equal(packed.decode(start, end), torch.cat(parts)[start:end])
    assert torch.equal(packed.input_ids, torch.cat([d.input_ids for d in documents]))
    assert torch.equal(packed.document(2).states, parts[2])
    assert torch.equal(packed.document(2).input_ids, documents[2].input_ids)
    with pytest.raises(IndexError, match="document 4 of 4"):
        packed.document(4)
    with pytest.raises(ValueError, match="outside"):
        packed.decode(0, packed.offsets[-1] + 1)
    with pytest.raises(ValueError, match="lengths add up"):
        PackedStates(name, 16, packed.payload, packed.scales, packed.lengths + 1, packed.input_ids)
