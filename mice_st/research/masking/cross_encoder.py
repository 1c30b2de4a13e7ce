"""``MaskedCrossEncoder``: sentence-transformers' ``CrossEncoder`` over a model whose interactions are masked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from torch import Tensor

from mice_st.research.masking.attention import SegmentMasks, attention_implementation, check_masks_are_read, check_model
from mice_st.research.masking.pair_layout import PROBE_DOCUMENT, PROBE_QUERY, PairLayout, position_offset
from mice_st.research.masking.patches import Patch, as_patches, make_preset, readable_segments


class MaskedTransformer(Transformer):
    """sentence-transformers' module around a transformers model, with masks; saves them in its own config file.

    Args:
        model_name_or_path: Folder or Hub id.
        patches: As ``MaskedCrossEncoder.set_masking`` takes them; None masks nothing.
        restart_positions: As for ``MaskedCrossEncoder``.
        **kwargs: As for sentence-transformers' ``Transformer``.
    """

    config_keys = [*Transformer.config_keys, "patches", "restart_positions"]

    def __init__(
        self,
        model_name_or_path: str,
        *,
        patches: Sequence[Patch | Sequence] | None = None,
        restart_positions: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self.mask(patches or (), restart_positions)

    def mask(self, patches: Sequence[Patch | Sequence], restart_positions: bool) -> None:
        """Mask the model, in place of earlier masks.

        Raises:
            ValueError: If a patch is faulty, or this model or its tokenizer cannot be masked; the message says why.
        """
        check_model(self.model)
        layers = self.model.config.num_hidden_layers
        checked = as_patches(patches, layers)
        layout = PairLayout.of_tokenizer(self.tokenizer)
        self._check_length()
        self.tokenizer.split_special_tokens = True  # a text like "[SEP]" is text and moves no segment
        self.model.set_attn_implementation(attention_implementation(self.model))
        self.patches = [
            [list(patch.rows), list(patch.columns), patch.first_layer, patch.last_layer] for patch in checked
        ]
        self.restart_positions = restart_positions
        self.masks = SegmentMasks(
            layout, readable_segments(checked, layers), position_offset(self.model) if restart_positions else None
        )
        probe = self.tokenizer(PROBE_QUERY, PROBE_DOCUMENT, return_tensors="pt")["input_ids"].to(self.model.device)
        check_masks_are_read(self.model, probe, self.masks.make_arguments(probe, None))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """As in sentence-transformers, with the masks.

        Raises:
            ValueError: If a row of ``input_ids`` is no pair; names the row.
        """
        masks = self.masks.make_arguments(features["input_ids"], features.get("attention_mask"))
        return super().forward(features, **masks, **kwargs)

    def _check_length(self) -> None:
        positions = getattr(self.model.config, "max_position_embeddings", None)
        longest = self.tokenizer.model_max_length + position_offset(self.model)
        if positions is not None and longest > positions:
            raise ValueError(
                f"max_length: pairs of {self.tokenizer.model_max_length} tokens need {longest} positions, the model has "
                f"{positions}; give max_length={positions - position_offset(self.model)}"
            )


class MaskedCrossEncoder(CrossEncoder):
    """A cross-encoder with some of its interactions removed; predicts, ranks, trains, saves and loads as any other.

    Takes any model that transformers loads as sequence classification and whose attention goes through its interface
    (BERT, RoBERTa, XLM-RoBERTa, ELECTRA, ModernBERT among them), with SDPA or eager attention. Texts that spell special
    tokens, such as "[SEP]", are read as their characters.

    ``save`` writes an ordinary model folder; the patches lie in ``sentence_bert_config.json`` and come back with
    ``MaskedCrossEncoder(folder)``. Plain ``CrossEncoder(folder)`` refuses it: it would compute without the masks.

    Args:
        model_name_or_path: Folder or Hub id.
        masking: Name of a preset (see ``make_preset``), or a list of patches, each a ``Patch`` or its four fields
            ``(rows, columns, first layer, last layer)``. None takes those that were saved with the model, or none.
        restart_positions: Count the document's positions from 0, as MICE does, in place of going on after the query.
            None takes what was saved with the model, or False.
        **kwargs: As for ``CrossEncoder``.

    Raises:
        ValueError: If there is no such preset, segment or layer, the model is a decoder or numbers no layers, the
            tokenizer's separators cannot be recognised, or its longest pair has more tokens than the model positions.

    Example:
        >>> model = MaskedCrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2", "mask3-l3")  # doctest: +SKIP
        >>> model.rank("what is python", ["A language.", "A snake."])  # doctest: +SKIP
    """

    def __init__(
        self,
        model_name_or_path: str,
        masking: str | Sequence[Patch | Sequence] | None = None,
        restart_positions: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name_or_path, **kwargs)
        module = self[0]
        if (
            len(self) != 1
            or not isinstance(module, Transformer)
            or module.transformer_task != "sequence-classification"
        ):
            raise ValueError(
                f"{model_name_or_path}: masking needs one model for sequence classification, not "
                f"{[type(part).__name__ for part in self]}; decoders that answer yes or no cannot be masked."
            )
        if not isinstance(module, MaskedTransformer):
            module.__class__ = MaskedTransformer  # the same module, with what masks, saves and loads it
            module.patches, module.restart_positions = [], False
        self.set_masking(
            module.patches if masking is None else masking,
            module.restart_positions if restart_positions is None else restart_positions,
        )

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self[0].model.config.num_hidden_layers

    @property
    def patches(self) -> list[Patch]:
        """The patches in force."""
        return as_patches(self[0].patches, self.layers)

    @property
    def readable(self) -> Tensor:
        """The segments that are left to read: ``(layers, 5, 5)``, bool, from ``readable_segments``."""
        return readable_segments(self.patches, self.layers)

    def set_masking(self, masking: str | Sequence[Patch | Sequence], restart_positions: bool | None = None) -> None:
        """Mask otherwise from now on; weights stay as they are.

        Args:
            masking: As for the class.
            restart_positions: As for the class; None leaves it as it is.

        Raises:
            ValueError: As for the class.
        """
        patches = make_preset(masking, self.layers) if isinstance(masking, str) else masking
        self[0].mask(patches, self[0].restart_positions if restart_positions is None else restart_positions)

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        # sentence-transformers would ask for trust_remote_code; this is the installed code, and already trusted.
        if class_ref == f"{MaskedTransformer.__module__}.{MaskedTransformer.__name__}":
            return MaskedTransformer
        return super()._load_module_class_from_ref(class_ref, *args, **kwargs)
