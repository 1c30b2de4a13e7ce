"""The backbones that MICE knows, by the ``model_type`` of their config.

The rest of the code asks ``backbone_of(config.backbone_config)``. A new backbone is a class like those in
``bert_backbones.py`` and ``modernbert_backbone.py``, an entry in ``BACKBONES`` and a line in the tests' table of backbones.
"""

from transformers.configuration_utils import PretrainedConfig

from .bert_backbones import BertBackbone, ElectraBackbone, RobertaBackbone
from .modernbert_backbone import ModernBertBackbone

BACKBONES: dict[str, BertBackbone] = {
    "bert": BertBackbone(),
    "roberta": RobertaBackbone(),
    "xlm-roberta": RobertaBackbone(),
    "electra": ElectraBackbone(),
    "modernbert": ModernBertBackbone(),
}


def backbone_of(config: PretrainedConfig) -> BertBackbone:
    """What is particular to a backbone, by its config.

    Raises:
        ValueError: If its type is unknown; the message lists the known ones.
    """
    if config.model_type not in BACKBONES:
        raise ValueError(
            f"backbone_config: a backbone of type {config.model_type!r} is not one of {tuple(BACKBONES)}. MICE needs an "
            "encoder, whose tokens read in both directions; decoder-only models are none."
        )
    return BACKBONES[config.model_type]
