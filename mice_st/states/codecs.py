"""How the states of one token become bytes: fp32, fp16, int8 and int4, each with its exact size.

Every codec works on one token (row) at a time, so that a document's bytes do not depend on its neighbours and a range
of tokens can be decoded without the rest. int8 and int4 are symmetric: value = integer x scale, with one float16 scale
per token.

| codec | payload per token, bytes | scale | 384 wide | 128 wide |
|---|---|---|---|---|
| fp32 | 4 x width | | 1536 | 512 |
| fp16 | 2 x width | | 768 | 256 |
| int8 | width | 2 | 386 | 130 |
| int4 | ceil(width / 2) | 2 | 194 | 66 |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


def _refuse(bad_rows: Tensor, reason: str) -> None:
    """Raise ValueError naming the first True row of ``bad_rows``, ``(n_tokens,)`` bool."""
    if bool(bad_rows.any()):
        raise ValueError(f"row {int(bad_rows.nonzero()[0])} of the states {reason}")


class Codec(ABC):
    """One way to store states.

    Attributes:
        name: What the fingerprint and the packed states call it.
        dtype: Element type of the payload.
        scaled: Whether each token carries a float16 scale.
    """

    name: ClassVar[str]
    dtype: ClassVar[torch.dtype]
    scaled: ClassVar[bool]

    @abstractmethod
    def columns(self, width: int) -> int:
        """Payload elements per token for states ``width`` wide."""

    @abstractmethod
    def _encode(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode finite float32 states ``(n_tokens, width)``."""

    @abstractmethod
    def _decode(self, payload: Tensor, scales: Tensor | None, out: Tensor) -> None:
        """Write the states of ``payload`` into ``out``, ``(n_tokens, width)`` float32."""

    def bytes_per_token(self, width: int) -> int:
        """Bytes that one token's states occupy, scale included, ids excluded."""
        return self.columns(width) * self.dtype.itemsize + (2 if self.scaled else 0)

    def encode(self, states: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode the states of any number of tokens.

        Args:
            states: ``(n_tokens, width)``, any floating dtype and device.

        Returns:
            The payload, ``(n_tokens, columns(width))`` of ``dtype``, and the scales, ``(n_tokens,)`` float16, or None
            where the codec has none; both on the CPU.

        Raises:
            ValueError: If ``states`` is not a floating matrix, or a row holds NaN, an infinity or a value beyond what
                the codec can hold; the message names the row.
        """
        if states.ndim != 2 or not states.is_floating_point() or states.shape[1] == 0:
            raise ValueError(
                f"states must be floating and (n_tokens, width), width > 0; got {states.dtype} {tuple(states.shape)}"
            )
        states = states.detach().to("cpu", torch.float32)
        _refuse(~torch.isfinite(states).all(dim=1), "is not finite")
        return self._encode(states)

    def decode(self, payload: Tensor, scales: Tensor | None, width: int, out: Tensor | None = None) -> Tensor:
        """Decode the payload of any number of tokens.

        Args:
            payload: ``(n_tokens, columns(width))`` of ``dtype``.
            scales: ``(n_tokens,)`` float16, or None for a codec without scales.
            width: Values per token.
            out: Optional buffer, float32, ``(at least n_tokens, width)``; writing into memory already in cache is about
                ten times faster than into fresh pages.

        Returns:
            ``(n_tokens, width)`` float32: the first rows of ``out`` where it is given.

        Raises:
            ValueError: If payload, scales or ``out`` do not fit each other.
        """
        n_tokens = payload.shape[0]
        if payload.dtype != self.dtype or payload.shape != (n_tokens, self.columns(width)):
            raise ValueError(
                f"{self.name}: payload {payload.dtype} {tuple(payload.shape)} does not fit states {width} wide"
            )
        if (scales is not None) != self.scaled or (scales is not None and scales.shape != (n_tokens,)):
            raise ValueError(f"{self.name}: scales do not fit a payload of {n_tokens} tokens")
        if out is None:
            out = torch.empty(n_tokens, width, dtype=torch.float32, device=payload.device)
        if out.dtype != torch.float32 or out.ndim != 2 or out.shape[0] < n_tokens or out.shape[1] != width:
            raise ValueError(f"out {out.dtype} {tuple(out.shape)} cannot hold ({n_tokens}, {width}) float32")
        out = out[:n_tokens]
        self._decode(payload, scales, out)
        return out


class _Float(Codec):
    """States kept as floating numbers."""

    scaled = False

    def columns(self, width: int) -> int:
        return width

    def _encode(self, states: Tensor) -> tuple[Tensor, None]:
        encoded = states.to(self.dtype)
        _refuse(torch.isinf(encoded).any(dim=1), f"overflows {self.name}")
        return encoded.contiguous(), None

    def _decode(self, payload: Tensor, scales: Tensor | None, out: Tensor) -> None:
        out.copy_(payload)


class Float32(_Float):
    """Exact: 4 bytes a value."""

    name = "fp32"
    dtype = torch.float32


class Float16(_Float):
    """2 bytes a value, relative error at most 2^-11 above 6e-5; refuses values from 65520 on."""

    name = "fp16"
    dtype = torch.float16


def _scales(states: Tensor, levels: int, name: str) -> tuple[Tensor, Tensor]:
    """The float16 scale of each row, rounded up so that nothing is clipped, and the rows divided by it.

    Args:
        states: ``(n_tokens, width)`` float32, finite.
        levels: Largest integer of the codec: the scale is the row's largest magnitude over it.
        name: Of the codec, for the message.

    Returns:
        Scales ``(n_tokens,)`` float16 and the rounded integers ``(n_tokens, width)`` float32, within ``[-levels,
        levels]``.
    """
    wanted = states.abs().amax(dim=1) / levels
    scales = wanted.to(torch.float16)
    _refuse(torch.isinf(scales), f"overflows {name}")
    too_small = scales.to(torch.float32) < wanted
    # The bits of a positive float16, plus one, are its upper neighbour.
    scales = torch.where(too_small, (scales.view(torch.int16) + 1).view(torch.float16), scales)
    _refuse(torch.isinf(scales), f"overflows {name}")
    divisor = scales.to(torch.float32).clamp(min=2.0**-24)  # smallest float16: a row of zeros stays zeros
    return scales, (states / divisor[:, None]).round_().clamp_(-levels, levels)


class Int8(Codec):
    """One byte a value in [-127, 127]; error at most half a scale, about 1/254 of the token's largest magnitude."""

    name = "int8"
    dtype = torch.int8
    scaled = True

    def columns(self, width: int) -> int:
        """Payload elements per token for states ``width`` wide."""
        return width

    def _encode(self, states: Tensor) -> tuple[Tensor, Tensor]:
        scales, integers = _scales(states, 127, self.name)
        return integers.to(torch.int8), scales

    def _decode(self, payload: Tensor, scales: Tensor | None, out: Tensor) -> None:
        assert scales is not None  # decode() has checked it
        out.copy_(payload)  # two passes over a buffer in cache beat one mixed-dtype multiplication
        out.mul_(scales.to(torch.float32)[:, None])


class Int4(Codec):
    """Two values a byte in [-7, 7], stored plus 8; error at most half a scale, 1/14 of the token's largest magnitude.

    Byte ``j`` holds column ``j`` in its low nibble and column ``ceil(width / 2) + j`` in its high one, so that decoding
    writes two contiguous halves; an odd width is padded with one zero.
    """

    name = "int4"
    dtype = torch.uint8
    scaled = True

    def columns(self, width: int) -> int:
        """Payload elements per token for states ``width`` wide."""
        return (width + 1) // 2

    def _encode(self, states: Tensor) -> tuple[Tensor, Tensor]:
        scales, integers = _scales(states, 7, self.name)
        half = self.columns(states.shape[1])
        nibbles = torch.full((states.shape[0], 2 * half), 8, dtype=torch.uint8)
        nibbles[:, : states.shape[1]] = (integers + 8).to(torch.uint8)
        return nibbles[:, :half] | (nibbles[:, half:] << 4), scales

    def _decode(self, payload: Tensor, scales: Tensor | None, out: Tensor) -> None:
        assert scales is not None  # decode() has checked it
        half = payload.shape[1]
        out[:, :half].copy_(payload & 15)
        out[:, half:].copy_((payload >> 4)[:, : out.shape[1] - half])
        out.sub_(8).mul_(scales.to(torch.float32)[:, None])


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Float32(), Float16(), Int8(), Int4())}


def get_codec(name: str) -> Codec:
    """The codec called ``name``.

    Raises:
        ValueError: If there is none; the message lists those there are.
    """
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}; there are {', '.join(CODECS)}")
    return CODECS[name]
