"""The systems that MICE is compared with, each set up as its own users would set it up, or better.

- ``cross-encoder``: 12 layers, sentence-transformers' ``CrossEncoder.rank``, float32. It sorts pairs by length itself.
  Pairs are cut at 512 tokens, so that a document of 512 tokens loses as many as the query has.
- ``cross-encoder-onnx-int8``: the same weights in ONNX Runtime, weights quantised to int8 and activations on the fly,
  pairs sorted by length and padded within their batch only.
- ``mice-plain``: the Hub folder through stock ``CrossEncoder(..., trust_remote_code=True).rank``.
- ``mice-upstream-text`` and ``-fp16``: what the authors' code does: the query encoded for every pair, keys and values
  of every document projected in every layer, everything padded; without and with stored states.
- ``colbert``: the 12-layer encoder with a projection to 128, sentence-transformers' ``MultiVectorEncoder``. The query is
  encoded once, without query expansion; the documents' vectors are there, in float32 and already padded into one tensor,
  which is the fastest form that ``similarity`` takes. Vectors of float16 would take half the bytes and more time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mice_st.modeling.layers_mice import EncodedTexts
from mice_st.modeling.st_mice import pad_ids
from mice_st.research.benchmark.corpus import VECTOR_WIDTH
from mice_st.research.benchmark.flops import bytes_per_document
from mice_st.research.benchmark.models import Models
from mice_st.research.benchmark.systems import BATCH, Case, Ranker, Ranking, Skipped, System, to_ranking


def _through_sentence_transformers(name: str) -> Any:
    """``CrossEncoder.rank`` of the model of that name."""

    def prepare(case: Case) -> Ranker:
        model = getattr(case.models, name)

        def run() -> Ranking:
            ranking = model.rank(case.query, case.texts, batch_size=BATCH, show_progress_bar=False)
            return [(entry["corpus_id"], entry["score"]) for entry in ranking]

        return run

    return prepare


@torch.inference_mode()
def rank_as_upstream(case: Case, stored: bool) -> Ranking:
    """The authors' way: every pair has its own copy of the query, every batch is padded, nothing is shared."""
    module, mice = case.models.wide.module, case.models.wide.mice
    count = len(case.texts)
    scores = []
    for start in range(0, count, BATCH):
        pairs = range(start, min(start + BATCH, count))
        queries = mice.encode_queries(*pad_ids(module.tokenize_side([case.query] * len(pairs), "query")))
        if stored:
            states = [case.corpus.half_documents[pair] for pair in pairs]
            documents = EncodedTexts.pad(states, torch.float32, mice.device)
        else:
            texts = [case.texts[pair] for pair in pairs]
            documents = mice.encode_documents(*pad_ids(module.tokenize_side(texts, "document")))
        scores.append(mice.score(queries, documents))
    return to_ranking(torch.cat(scores).squeeze(-1))


def _upstream_text(case: Case) -> Ranker:
    return lambda: rank_as_upstream(case, stored=False)


def _upstream_stored(case: Case) -> Ranker:
    assert len(case.corpus.half_documents) == len(case.corpus.texts)  # made before the clock starts
    return lambda: rank_as_upstream(case, stored=True)


def _colbert(case: Case) -> Ranker:
    model = case.models.colbert
    vectors, mask = case.corpus.vectors

    @torch.inference_mode()
    def run() -> Ranking:
        query = model.encode_query([case.query], show_progress_bar=False)
        return to_ranking(model.similarity(query, vectors, b_mask=mask)[0])

    return run


class OnnxCrossEncoder:
    """The cross-encoder in ONNX Runtime, int8.

    Args:
        models: The models; the graph is exported once into their folder.
        threads: Of ONNX Runtime.

    Raises:
        Skipped: If onnx, onnxruntime or onnxscript is not installed.
    """

    def __init__(self, models: Models, threads: int) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise Skipped('onnxruntime is not installed: pip install "mice-st[bench]"') from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(export_int8(models)), options, ["CPUExecutionProvider"])
        self._tokenizer = models.tokenizer
        self._names = [argument.name for argument in self._session.get_inputs()]

    def rank(self, query: str, texts: list[str]) -> Ranking:
        """Tokenise all pairs, run them longest first in batches, sort."""
        pairs = [query] * len(texts)
        encoded = self._tokenizer(pairs, texts, truncation="longest_first", max_length=512)
        order = sorted(range(len(texts)), key=lambda place: -len(encoded["input_ids"][place]))
        scores = np.empty(len(texts), dtype=np.float32)
        for start in range(0, len(texts), BATCH):
            places = order[start : start + BATCH]
            rows = {name: [encoded[name][place] for place in places] for name in self._names}
            batch = self._tokenizer.pad(rows, return_tensors="np")
            feeds = {name: batch[name].astype(np.int64) for name in self._names}
            scores[places] = self._session.run(None, feeds)[0][:, 0]
        return to_ranking(torch.from_numpy(scores))


def export_int8(models: Models) -> Path:
    """Export the cross-encoder to ONNX and quantise it dynamically.

    Raises:
        Skipped: If a package that this needs is not installed.
    """
    path = models.folder / "cross-encoder-int8.onnx"
    if path.exists():
        return path
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx.export is written in it)
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ModuleNotFoundError as error:
        raise Skipped(f'{error.name} is not installed: pip install "mice-st[bench]"') from error
    full = models.folder / "cross-encoder.onnx"
    example = dict(models.tokenizer(["a b", "c"], ["d e f", "g h"], padding=True, return_tensors="pt"))
    # Two dimensions of every input are free: pairs and tokens.
    free = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example}
    wrapped = _Logits(models.cross_encoder[0].model).eval()
    torch.onnx.export(
        wrapped,
        kwargs=example,
        f=str(full),
        dynamo=True,
        dynamic_shapes=free,
        input_names=list(example),
        output_names=["logits"],
        optimize=True,
        verbose=False,
    )
    graph = onnx.load(str(full))
    del graph.graph.value_info[:]  # the exporter's shapes of inner tensors contradict those that the quantiser infers
    onnx.save(graph, str(full))
    quantize_dynamic(str(full), str(path), weight_type=QuantType.QInt8)
    return path


class _Logits(torch.nn.Module):
    """The logits alone: an ONNX graph returns tensors."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask).logits


def _onnx(case: Case) -> Ranker:
    model = OnnxCrossEncoder(case.models, case.threads)
    return lambda: model.rank(case.query, case.texts)


PEERS = [
    System("cross-encoder", _through_sentence_transformers("cross_encoder"), slow=True),
    System("cross-encoder-onnx-int8", _onnx, slow=True),
    System("mice-plain", _through_sentence_transformers("plain"), slow=True, variant="wide"),
    System("mice-upstream-text", _upstream_text, slow=True, variant="wide"),
    System(
        "mice-upstream-fp16",
        _upstream_stored,
        lambda size: bytes_per_document("fp16", size.width, 1),
        variant="wide",
        codec="fp16",
    ),
    System("colbert", _colbert, lambda size: 4.0 * VECTOR_WIDTH),
]
