"""transformers' common model tests on MICE, one class per type of backbone; ``run.py`` lays what this imports on the path.

A tester makes a small model and a batch of pair encodings, as the testers of transformers' own models do. What is overridden
says why.
"""

import unittest
from typing import Any

import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin, ids_tensor
from transformers import AutoConfig, PreTrainedModel, set_seed
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
from transformers.testing_utils import torch_device

from mice_st import MiceConfig, MiceForSequenceClassification

# The tests look here for what a model's labels are. Without the entry they skip whatever trains.
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["mice"] = "MiceForSequenceClassification"

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
ROBERTA_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
MODERNBERT_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
INTERACTION_LAYERS = 2
FIRST_WORD = 5  # ids below are special tokens, whichever backbone it is


class MiceModelTester:
    """A small MICE on one type of backbone, and a batch for it.

    Every row is ``[CLS] q [CLS] q [SEP] d d d [SEP] d [SEP]``. The tests mask the first or the last two tokens of a row;
    a [CLS] and a [SEP] that stand two tokens from the ends leave a pair then too.
    """

    def __init__(self, parent: "MiceModelTest") -> None:
        self.parent = parent
        self.model_type = parent.model_type
        self.batch_size = 13
        self.is_training = True
        self.hidden_size = SIZES["hidden_size"]
        self.num_hidden_layers = SIZES["num_hidden_layers"]
        self.num_attention_heads = SIZES["num_attention_heads"]
        self.vocab_size = SIZES["vocab_size"]
        self.query_length = 5  # [CLS] q [CLS] q [SEP]
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def get_config(self) -> MiceConfig:
        backbone = AutoConfig.for_model(self.model_type, **SIZES | self.parent.backbone_fields)
        return MiceConfig(
            backbone,
            interaction_layers=INTERACTION_LAYERS,
            global_cls=True,  # this and the next four bring parameters of their own
            pooled_residual=True,
            exact_match=True,
            lexical_bias=True,
            max_sim_residual=True,
            query_max_length=16,
            document_max_length=32,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MiceConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        cls_id, sep_id = ([number] for number in (config.cls_token_id, config.sep_token_id))
        between = sep_id * config.pair_separators
        words = ids_tensor([self.batch_size, 6], self.vocab_size - FIRST_WORD) + FIRST_WORD
        rows = [[*cls_id, a, *cls_id, b, *between, c, d, e, *sep_id, f, *sep_id] for a, b, c, d, e, f in words.tolist()]
        input_ids = torch.tensor(rows, device=torch_device)
        return config, {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class UncheckedMice(MiceForSequenceClassification):
    """MICE as transformers would load it: what a checkpoint lacks is left to ``_init_weights``."""

    from_pretrained = classmethod(PreTrainedModel.from_pretrained.__func__)


class MiceModelTest(ModelTesterMixin):
    """The common tests, with what is a fact of MICE."""

    model_type: str
    backbone_fields: dict[str, Any] = {}
    all_model_classes = (MiceForSequenceClassification,)
    _is_composite = True  # the backbone has a config of its own
    # MICE's files have no line of copyright, which the test would read the model's year from.
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self) -> None:
        self.model_tester = MiceModelTester(self)
        self.config_tester = ConfigTester(self, config_class=MiceConfig, common_properties=["hidden_size"])

    def test_config(self) -> None:
        # Apart, below: it fails, and the checks that follow it in the same test would not run.
        self.config_tester.create_and_test_config_with_num_labels = lambda: None
        self.config_tester.run_common_tests()

    def test_config_with_num_labels(self) -> None:
        self.config_tester.create_and_test_config_with_num_labels()

    def test_can_init_all_missing_weights(self) -> None:
        # It loads from nothing at all, which MICE refuses.
        self.all_model_classes = (UncheckedMice,)
        super().test_can_init_all_missing_weights()

    def test_hidden_states_output(self) -> None:
        self._expect_query_side()
        super().test_hidden_states_output()

    def test_attention_outputs(self) -> None:
        self._expect_query_side()
        super().test_attention_outputs()

    def test_sdpa_can_dispatch_composite_models(self) -> None:
        # The test knows towers of images and sound only; the one for plain models asks the same of all of MICE.
        self._is_composite = False
        super().test_sdpa_can_dispatch_non_composite_models()

    def test_gradients_with_checkpointing(self) -> None:
        # Ours. The common test cannot tell two calls of one layer apart, see docs/peers.md.
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        set_seed(0)
        model = MiceForSequenceClassification(config).train()
        inputs["labels"] = torch.zeros(self.model_tester.batch_size, device=torch_device)

        def gradients() -> dict[str, torch.Tensor]:
            model.zero_grad()
            set_seed(0)
            model(**inputs).loss.backward()
            return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

        expected = gradients()
        for use_reentrant in (False, True):
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            if use_reentrant:
                model.enable_input_require_grads()
            torch.testing.assert_close(gradients(), expected, rtol=1e-4, atol=1e-4)

    def _expect_query_side(self) -> None:
        """States and attentions are the query's: of the backbone's layers, then of the interaction layers."""
        layers = self.model_tester.num_hidden_layers + INTERACTION_LAYERS
        self.model_tester.num_hidden_layers = layers
        self.model_tester.encoder_seq_length = self.model_tester.query_length


class BertTest(MiceModelTest, unittest.TestCase):
    model_type = "bert"
    backbone_fields = {"pad_token_id": 0}


class RobertaTest(MiceModelTest, unittest.TestCase):
    model_type = "roberta"
    backbone_fields = ROBERTA_IDS | {"type_vocab_size": 1}


class XlmRobertaTest(MiceModelTest, unittest.TestCase):
    model_type = "xlm-roberta"
    backbone_fields = ROBERTA_IDS | {"type_vocab_size": 1}


class ElectraTest(MiceModelTest, unittest.TestCase):
    model_type = "electra"
    backbone_fields = {"pad_token_id": 0, "embedding_size": 16}


class ModernBertTest(MiceModelTest, unittest.TestCase):
    model_type = "modernbert"
    backbone_fields = MODERNBERT_IDS | {"local_attention": 4}
