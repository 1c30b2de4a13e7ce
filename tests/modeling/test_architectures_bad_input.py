"""What a backbone is refused for, when the object is made; and what conversion makes of every tensor of a checkpoint."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from mice_st import MiceCrossEncoder, convert
from mice_st.modeling.configuration_mice import MiceConfig
from mice_st.modeling.modeling_mice import MiceForSequenceClassification, split_pairs
from mice_st.states.fingerprint import fingerprint_of
from tests.modeling.backbones import BACKBONES, LAYERS, make_config, make_tokenizer

every_backbone = pytest.mark.parametrize("name", BACKBONES)


# --- types of backbone ---


def test_an_unknown_backbone_is_refused_and_the_known_are_listed() -> None:
    known = ".*".join(dict.fromkeys(f"'{backbone.model_type}'" for backbone in BACKBONES.values()))
    with pytest.raises(ValueError, match=rf"backbone_config: .*'distilbert'.*{known}"):
        MiceConfig(backbone_config={"model_type": "distilbert"})


def test_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone_config: is_decoder of 'bert'"):
        MiceConfig(backbone_config=BertConfig(is_decoder=True))
    with pytest.raises(ValueError, match=r"'llama'.*decoder-only"):
        MiceConfig(backbone_config={"model_type": "llama"})


def test_a_decoder_only_checkpoint_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes)).save_pretrained(tmp_path)
    make_tokenizer("bert").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'llama'.*decoder-only"):
        convert(tmp_path, 1, 1)


# --- depth and positions ---


@every_backbone
@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((0, 2), "contextualization_layers: .* 4 layers, got 0"),
        ((LAYERS + 1, 1), "contextualization_layers: .* 4 layers, got 5"),
        ((2, 3), r"interaction_layers: 3 layers from \[2, 3, 4\] do not fit a backbone of 4 layers"),
    ],
)
def test_layers_beyond_the_depth_are_refused(
    backbone_folders: dict[str, Path], name: str, layers: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(backbone_folders[name], *layers)


@every_backbone
def test_no_contextualisation_layer_is_refused(name: str) -> None:
    backbone = make_config(name)
    backbone.num_hidden_layers = 0
    with pytest.raises(ValueError, match="contextualization_layers: at least 1"):
        MiceConfig(backbone_config=backbone)


@every_backbone
def test_positions_beyond_the_backbones_are_refused(backbone_folders: dict[str, Path], name: str) -> None:
    too_long: list[dict[str, Any]] = [{"query_max_length": 41}, {"document_max_length": 41}]
    for fields in too_long:
        with pytest.raises(ValueError, match=f"{next(iter(fields))}: .* 40 positions, got 41"):
            convert(backbone_folders[name], 2, 2, **fields)
    model, _ = convert(backbone_folders[name], 2, 2, query_max_length=40, document_max_length=40)
    long = "river " * 60  # the last position is one that the backbone has
    assert len(model.encode_documents([long])[0]) == 40
    assert torch.isfinite(torch.tensor(model.predict([(long, long)]))).all()
    model.module.max_seq_length = 41  # as sentence-transformers clamps it
    assert model.max_seq_length == 40


# --- tokenizers ---


def edit_pair(folder: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Leave out parts of the tokenizer's template for pairs."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    template = tokenizer["post_processor"]
    template["pair"] = [part for part in template["pair"] if keep(part)]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


@every_backbone
def test_separators_that_cannot_be_recognised_are_refused(
    backbone_folders: dict[str, Path], name: str, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(backbone_folders[name], tmp_path / "source"))
    edit_pair(source, lambda part: "Sequence" in part)
    with pytest.raises(ValueError, match=r"joins query and document as \['a', 'b'\]: its separators"):
        convert(source, 2, 2)
    converted = tmp_path / "converted"
    convert(backbone_folders[name], 2, 2)[0].save(str(converted))
    edit_pair(converted, lambda part: "Sequence" in part)
    with pytest.raises(ValueError, match="its separators cannot be recognised"):
        MiceCrossEncoder(str(converted), device="cpu")


def test_another_number_of_separators_is_another_tokenizer(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    convert(backbone_folders["roberta"], 2, 2)[0].save(str(tmp_path))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    assert config["pair_separators"] == 2
    path.write_text(json.dumps(config | {"pair_separators": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"puts 2 \[SEP\] between query and document, the model expects 1"):
        MiceCrossEncoder(str(tmp_path), device="cpu")


@every_backbone
def test_pair_encodings_of_another_form_are_refused(name: str) -> None:
    config = MiceConfig(
        backbone_config=make_config(name, num_hidden_layers=1), query_max_length=9, document_max_length=9
    )
    tokenizer = make_tokenizer(name)
    config.cls_token_id, config.sep_token_id = cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    between = [sep] * BACKBONES[name].separators
    model = MiceForSequenceClassification(config).eval()
    good, lone = [cls, 9, *between, 8, sep], [cls, 9, 9, *between[1:], 8, sep]
    (query, _), (document, _) = split_pairs(model.config, torch.tensor([good]), None)
    assert (query.tolist(), document.tolist()) == ([[cls, 9, sep]], [[cls, 8, sep]])
    with pytest.raises(ValueError, match=r"input_ids: MICE is .* row 1 is not of the form"):
        split_pairs(model.config, torch.tensor([good, lone]), None)


@pytest.mark.parametrize(("name", "ids"), [("bert", (101, 102)), ("electra", (101, 102)), ("roberta", (0, 2))])
def test_special_tokens_and_separators_default_to_the_backbones(name: str, ids: tuple[int, int]) -> None:
    backbone = {"model_type": name, "max_position_embeddings": 514}
    config = MiceConfig(backbone_config=backbone)
    assert (config.cls_token_id, config.sep_token_id) == ids
    assert config.pair_separators == BACKBONES[name].separators
    with pytest.raises(ValueError, match="pair_separators: must be 1 or 2, got 3"):
        MiceConfig(backbone_config=backbone, pair_separators=3)


# --- every tensor of a checkpoint ---


@every_backbone
def test_every_tensor_is_accounted_for(backbone_folders: dict[str, Path], name: str) -> None:
    source = load_file(backbone_folders[name] / "model.safetensors")
    model, report = convert(backbone_folders[name], 2, 2)
    result = model.mice.state_dict()
    prefix = BACKBONES[name].layers.split(".")[0] + "."
    tensors = {key.removeprefix(prefix): tensor for key, tensor in source.items()}
    assert report.placed.keys() == result.keys()
    assert report.fresh == report.dropped == []
    assert set(report.placed.values()) == set(tensors)
    for key, origin in report.placed.items():
        if result[key].shape == tensors[origin].shape:
            assert torch.equal(result[key], tensors[origin]), key


PRE_TRAINED: list[tuple[str, Any, str]] = [
    ("roberta", AutoModelForMaskedLM, "lm_head."),
    ("xlm-roberta", AutoModelForMaskedLM, "lm_head."),
    ("electra", AutoModelForPreTraining, "discriminator_predictions."),
]
MODERNBERT_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"interaction_layer_types": ["full_attention"]}, "interaction_layer_types: .* each of 2 layers"),
    ({"interaction_layer_types": ["full_attention", "local"]}, "interaction_layer_types: .*'local'"),
    ({"interaction_attention": "joint"}, "interaction_attention: 'joint' is not possible with 'modernbert'"),
]


@pytest.mark.parametrize(("fields", "message"), MODERNBERT_OPTIONS)
def test_options_that_modernbert_has_no_place_for_are_refused(
    backbone_folders: dict[str, Path], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(backbone_folders["ettin"], 2, 2, **fields)


def test_layer_types_of_a_backbone_that_has_one_are_refused(backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="interaction_layer_types: 'bert' has one type of layer"):
        convert(backbone_folders["bert"], 2, 1, interaction_layer_types=["full_attention"])


def test_the_layer_without_a_norm_seeds_none(backbone_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="interaction_layers: layer 0 of 'modernbert'"):
        convert(backbone_folders["ettin"], 2, [0, 3])


def test_scaled_rotary_positions_are_refused() -> None:
    backbone = make_config("ettin")
    backbone.rope_parameters["full_attention"]["rope_type"] = "linear"
    with pytest.raises(ValueError, match="rope_parameters of full_attention are not of the default"):
        MiceConfig(backbone_config=backbone)


@pytest.mark.parametrize(("name", "kind", "head"), PRE_TRAINED)
def test_heads_of_the_pre_training_are_dropped(name: str, kind: Any, head: str, tmp_path: Path) -> None:
    kind.from_config(make_config(name)).save_pretrained(tmp_path)
    make_tokenizer(name).save_pretrained(tmp_path)
    model, report = convert(tmp_path, 2, 2)
    assert {key.split(".")[0] + "." for key in report.dropped} == {head}
    assert report.fresh == ["classifier.weight", "classifier.bias"]
    assert model.mice.pooler is None  # nothing but the raw [CLS] is there to read


def test_modernberts_prediction_head_is_kept_from_its_pre_training(tmp_path: Path) -> None:
    original = AutoModelForMaskedLM.from_config(make_config("ettin"))
    original.save_pretrained(tmp_path)
    make_tokenizer("ettin").save_pretrained(tmp_path)
    model, report = convert(tmp_path, 2, 2)
    assert report.fresh == ["classifier.weight", "classifier.bias"]
    assert all(key.startswith("decoder.") for key in report.dropped)
    tensors = model.mice.state_dict()
    for ours, theirs in (("pooler", "head"), ("final_norm", "model.final_norm")):
        for key, tensor in original.get_submodule(theirs).state_dict().items():
            assert torch.equal(tensors[f"{ours}.{key}"], tensor)


def test_an_encoders_pooler_is_kept(tmp_path: Path) -> None:
    AutoModel.from_config(make_config("xlm-roberta")).save_pretrained(tmp_path)
    make_tokenizer("xlm-roberta").save_pretrained(tmp_path)
    model, report = convert(tmp_path, 2, 2)
    assert report.placed["pooler.weight"] == "pooler.dense.weight"
    assert isinstance(model.mice.pooler, torch.nn.Linear)


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, dict):
        return {key: changed(other) for key, other in value.items()}
    if isinstance(value, list):
        return value[:1] * len(value)
    return {"gelu": "relu", "default": "default"}[value] if isinstance(value, str) else value * 2


@every_backbone
def test_every_choice_of_the_backbone_that_moves_states_is_in_the_fingerprint(
    backbone_folders: dict[str, Path], name: str
) -> None:
    model, _ = convert(backbone_folders[name], 2, 2)
    backbone = model.mice.config.backbone_config
    fingerprints = [fingerprint_of(model, "fp16").weights_sha256]
    for choice in model.mice.config.facts.state_choices:
        own = getattr(backbone, choice)
        setattr(backbone, choice, changed(own))
        fingerprints.append(fingerprint_of(model, "fp16").weights_sha256)
        setattr(backbone, choice, own)
    assert len(set(fingerprints)) == len(fingerprints)
