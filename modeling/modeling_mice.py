"""MICE: Minimal Interaction Cross-Encoders. This code travels with every Hub repository.

A cross-encoder reads query and document together in every layer. MICE keeps the interactions that ranking needs
(arXiv 2602.16299): the lower layers of the backbone contextualise query and document apart, the document's states are
then frozen, and a few interaction layers let the query's tokens read those states, one way. The score is read off the
query's [CLS]. Documents never see a query, so their states can be computed once and stored.

``contextualization.py``, this file, ``layers.py`` and ``attention.py`` are the obvious reference: padded batches, one line
of mathematics per line of code, in the order of execution. ``interaction.py`` computes the same scores faster for one
query and many documents.

Shape letters used in comments:
    B  pairs in a batch              N  texts in a batch (queries or documents)
    Q  query tokens, padded          D  document tokens, padded
    R  rows that ask (Q or 1)        S  states that are read (Q or D)
    H  attention heads               h  width of the states: the backbone's, or interaction_hidden_size
    k  interaction layers            s  width of the document states: h, or a multiple of it where layers read their own

References:
    - MICE: https://arxiv.org/abs/2602.16299
    - Exact-match heads ("Lex") and the ``cross_first`` order: the authors' later version of the same paper.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from .attention import document_attention_mask, text_attention_mask
from .configuration_mice import MiceConfig
from .contextualization import MiceContextualization
from .interaction import CHUNK_DOCUMENTS, score_documents
from .layers import MiceInteractionLayer
from .modernbert_layers import scale_normalised
from .pairs import split_pairs
from .residuals import MiceMatchResidual, MiceMaxSimResidual, average_matches, exact_matches
from .states import DocumentStates, EncodedTexts


class MiceForSequenceClassification(MiceContextualization):
    """The re-ranker. ``forward`` takes ordinary pair encodings; ``encode_*`` and ``score`` take it apart."""

    def __init__(self, config: MiceConfig) -> None:
        super().__init__(config)
        self.interaction = nn.ModuleList(
            MiceInteractionLayer(config, index) for index in range(config.interaction_layers)
        )
        self.final_norm = config.backbone.build_final_norm(config)
        self.pooler = config.backbone.build_pooler(config) if config.pooler else None
        self.classifier = nn.Linear(config.interaction_width, 1)
        if config.pooled_residual:
            # Cosines lie in [-1, 1]: 20 is the usual scale of embedding models' own losses.
            self.pooled_residual_log_scale = nn.Parameter(torch.full((1,), math.log(20.0)))
        # An embedding model pools behind its last norm. Narrow states have none that would fit.
        has_norm = config.pooled_residual and config.interaction_hidden_size is None
        self.pooled_norm = config.backbone.build_final_norm(config) if has_norm else None
        self.match_residual = MiceMatchResidual(config) if config.match_residual else None
        self.max_sim_residual: Any = MiceMaxSimResidual(config) if config.max_sim_residual else None
        if config.global_cls:
            # Of a LayerNorm's size at its start, as the other rows are.
            self.global_cls = nn.Parameter(torch.randn(config.interaction_width))
        self.post_init()

    def score(self, queries: EncodedTexts, documents: EncodedTexts) -> Tensor:
        """Score query i against document i.

        Args:
            queries: B contextualised queries.
            documents: B contextualised documents.

        Returns:
            ``(B, 1)``, float32, logits: higher is more relevant.

        Raises:
            ValueError: If a score is not finite (outside training, where the trainer decides); names the rows.
        """
        config = self.config
        query_mask = text_attention_mask(
            queries.attention_mask, config.query_attends_cls, config.sep_attends_itself_alone
        )  # (B, 1, Q, Q)
        document_mask = document_attention_mask(
            queries.attention_mask, documents.attention_mask, config
        )  # (B, 1, Q or 1, D)
        matches, matched_states, is_matched = None, None, None
        if config.exact_match or config.match_residual or config.lexical_bias:
            matches = exact_matches(queries, documents, (config.cls_token_id, config.sep_token_id))  # (B, Q, D)
        if matches is not None and (config.exact_match or config.match_residual):
            matched_states, is_matched = average_matches(matches, documents.states)
        rows = self.replace_cls(queries.states)
        for index, layer in enumerate(self.interaction):
            states, matched = (self.layer_states(part, index) for part in (documents.states, matched_states))
            rows = layer(rows, states, query_mask, document_mask, matched, matches)
        logits = self.head(self.read_out(rows, queries.attention_mask))
        if self.config.pooled_residual:
            logits = logits + self.residual(self.pool_queries(queries), self.pool(documents))
        if self.match_residual is not None:
            logits = logits + self.match_residual(
                self.readable(queries.states), self.layer_states(matched_states, 0), is_matched
            )
        if self.max_sim_residual is not None:
            first: Any = self.layer_states(documents.states, 0)
            readable = queries._replace(states=self.readable(queries.states))
            logits = logits + self.max_sim_residual(readable, documents._replace(states=first))
        self.check_finite(logits)
        return logits

    def score_documents(self, query: EncodedTexts, documents: Any, chunk_documents: int = CHUNK_DOCUMENTS) -> Tensor:
        """``score`` for one query and many documents, many times faster; see ``interaction.score_documents``."""
        return score_documents(self, query, documents, chunk_documents)

    def replace_cls(self, rows: Tensor) -> Tensor:
        """Contextualised queries ``(..., Q, h)`` as the interaction layers find them: [CLS] is learned with ``global_cls``."""
        if not self.config.global_cls:
            return rows
        cls_row = self.global_cls.to(rows.dtype).expand(*rows.shape[:-2], 1, -1)
        return torch.cat([cls_row, rows[..., 1:, :]], dim=-2)

    def layer_states(self, states: Tensor | None, index: int) -> Tensor | None:
        """What interaction layer ``index`` reads of ``states`` ``(..., s)``: a view, ``(..., h)``.

        A last layer that reads nothing gets what the one before it reads.
        """
        if states is None or self.config.document_states == "frozen":
            return states
        width, index = self.config.interaction_width, min(index, self.config.reading_layers - 1)
        return states[..., index * width : (index + 1) * width]

    def read_out(self, rows: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the head reads of the query's rows ``(B, R, h)`` after the last layer, ``(B, h)``: [CLS] or their mean.

        ``attention_mask`` ``(B, R)``, bool, is False at padding; None where there is none.
        """
        if self.config.head_pooling == "cls":
            rows = rows[:, :1]
        if self.final_norm is not None:
            rows = self.final_norm(rows)
        if self.config.head_pooling == "cls":
            return rows[:, 0]
        if attention_mask is None:
            return rows.mean(1)
        mask = attention_mask.unsqueeze(-1)
        return (rows * mask).sum(1) / mask.sum(1)

    def head(self, cls_rows: Tensor) -> Tensor:
        """``(B, h)`` from ``read_out`` to ``(B, 1)`` logits; the classifier runs in float32 always."""
        if self.pooler is not None:
            cls_rows = self.pooler(cls_rows)
        with torch.autocast(cls_rows.device.type, enabled=False):
            return F.linear(cls_rows.float(), self.classifier.weight.float(), self.classifier.bias.float())

    def pool(self, documents: EncodedTexts) -> Tensor:
        """One vector per document, ``(N, h)``, float32: the embedding that the pooled residual compares."""
        states = documents.states[..., : self.config.interaction_width].float()
        if self.config.pooling == "cls":
            return self.scale_pooled(states[:, 0])
        mask = documents.attention_mask.unsqueeze(-1)
        return self.scale_pooled((states * mask).sum(1) / mask.sum(1))

    def pool_queries(self, queries: EncodedTexts) -> Tensor:
        """The same per query."""
        return self.pool(queries._replace(states=self.readable(queries.states)))

    def scale_pooled(self, pooled: Tensor) -> Tensor:
        """The scale of the embedding model's last norm, on the mean ``(N, h)`` of normalised states: the mean is linear."""
        return pooled if self.pooled_norm is None else scale_normalised(self.pooled_norm, pooled)

    def residual(self, pooled_queries: Tensor, pooled_documents: Tensor) -> Tensor:
        """``exp(s) * cos``, ``(B, 1)``, float32, of pooled vectors ``(B, h)``."""
        cosine = F.cosine_similarity(pooled_queries.float(), pooled_documents.float(), dim=-1)
        return (self.pooled_residual_log_scale.float().exp() * cosine).unsqueeze(-1)

    def check_finite(self, logits: Tensor) -> None:
        """Refuse NaN and infinite scores outside training, naming the rows of ``logits`` ``(B, 1)``."""
        if self.training or torch.compiler.is_compiling() or bool(logits.isfinite().all()):
            return
        rows = (~logits.isfinite()).any(-1).nonzero().flatten().tolist()
        raise ValueError(f"Scores are not finite in rows {rows[:10]}: the weights or the document states hold NaN.")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Score pair encodings ``[CLS] query [SEP] document [SEP]`` as any tokenizer of the backbone makes them.

        RoBERTa's have two [SEP] between query and document, see ``pair_separators``.

        Args:
            input_ids: ``(B, L)``, int64. Split inside at the first [SEP].
            attention_mask: ``(B, L)``; all ones where it is left out.
            token_type_ids: Accepted and not needed: both sides are encoded apart, each with its own token type.
            labels: ``(B,)``; with them, ``loss`` is the mean squared error of the logits, as transformers has it
                for one label.
            return_dict: False gives a tuple.

        Returns:
            ``logits`` ``(B, 1)``, float32, and ``loss`` with ``labels``.

        Raises:
            ValueError: If a row does not start with [CLS] or its [SEP] are not where they belong; names the row.
        """
        queries, documents = split_pairs(self.config, input_ids, attention_mask)
        logits = self.score(self.encode_queries(*queries), self.encode_documents(*documents))
        loss = None if labels is None else F.mse_loss(logits.squeeze(-1), labels.float())
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output


__all__ = [
    "DocumentStates",
    "EncodedTexts",
    "MiceForSequenceClassification",
]

MiceForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
