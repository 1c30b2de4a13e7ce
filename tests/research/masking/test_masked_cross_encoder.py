"""What the masks do inside real models of four families, and that a masked model is a CrossEncoder like any other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification
from transformers.models.bert.modeling_bert import BertSelfAttention

from mice_st.data.collection import Collection
from mice_st.loading import load_model
from mice_st.research.masking import SEGMENTS, MaskedCrossEncoder
from mice_st.training.recipe import TrainingRecipe
from mice_st.training.trainer import train

FAMILIES = ("bert", "roberta", "electra", "modernbert")
PAIRS = [
    ("what is the city", "the berlin museum is a bridge over the river, the capital of germany"),
    ("who", "cat"),
    ("list sort", "python function returns a sorted list and writes the file"),
]
ALL = "CLS Q SEP1 D SEP2"
# What each preset leaves: segment -> segments that it reads, below the fusion layer (2) and from there on.
LEFT: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "full": (dict.fromkeys(SEGMENTS, ALL),) * 2,
    "mask0": ({"CLS": ALL, "Q": "Q SEP1 D", "SEP1": "SEP1", "D": "Q D SEP2", "SEP2": "SEP2"},) * 2,
    "mask1": ({"CLS": "CLS Q SEP1", "Q": "Q SEP1 D", "SEP1": "SEP1", "D": "Q D SEP2", "SEP2": "SEP2"},) * 2,
    "mask2": ({"CLS": "CLS Q SEP1", "Q": "Q SEP1 D", "SEP1": "SEP1", "D": "D SEP2", "SEP2": "SEP2"},) * 2,
    "mask3-l2": (
        {"CLS": "CLS Q SEP1", "Q": "Q SEP1", "SEP1": "SEP1", "D": "D SEP2", "SEP2": "SEP2"},
        {"CLS": "CLS Q SEP1", "Q": "Q SEP1 D", "SEP1": "SEP1", "D": "D SEP2", "SEP2": "SEP2"},
    ),
    "prettr-l2": (
        {segment: "D SEP2" if segment in ("D", "SEP2") else "CLS Q SEP1" for segment in SEGMENTS},
        dict.fromkeys(SEGMENTS, ALL),
    ),
    "sparse-ce": ({"CLS": ALL, "Q": "Q SEP1", "SEP1": "Q SEP1", "D": ALL, "SEP2": ALL},) * 2,
}


def load(folder: Path, masking: Any, implementation: str = "sdpa", **kwargs: Any) -> MaskedCrossEncoder:
    options: dict[str, Any] = {
        "device": "cpu",
        "activation_fn": nn.Identity(),
        "model_kwargs": {"attn_implementation": implementation},
    }
    return MaskedCrossEncoder(str(folder), masking, **options | kwargs)


def attention_parts(model: MaskedCrossEncoder, layer: int) -> tuple[nn.Module, slice, nn.Module]:
    """What makes a layer's values (and where they lie in its output), and what reads the attention's output."""
    backbone = model[0].model.base_model
    if hasattr(backbone, "encoder"):
        attention = backbone.encoder.layer[layer].attention
        return attention.self.value, slice(None), attention.output.dense
    attention = backbone.layers[layer].attn
    return attention.Wqkv, slice(2 * backbone.config.hidden_size, None), attention.Wo


@contextmanager
def hooked(*hooks: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attention_output(model: MaskedCrossEncoder, layer: int, features: dict[str, Tensor], shaken: Tensor) -> Tensor:
    """What a layer's attention gives ``(B, L, h)`` when the values of the tokens ``shaken`` ``(B, L)`` are moved."""
    values, where, reader = attention_parts(model, layer)
    seen: list[Tensor] = []

    def move(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[..., where] += shaken.unsqueeze(-1)
        return output

    hooks = (
        values.register_forward_hook(move),
        reader.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
    )
    with hooked(*hooks):
        model.forward(dict(features))
    return seen[0]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_presets_leave_exactly_what_the_table_says(
    family: str, implementation: str, family_folder: Callable[[str], Path]
) -> None:
    model = load(family_folder(family), "full", implementation)
    if family == "modernbert":  # a window that hides nothing: what it hides is tested below
        model[0].model.config.sliding_window = 64
    features = model.preprocess([PAIRS[1], ("the city", "a dog")])
    segments = model[0].masks.layout.find_segments(features["input_ids"], features["attention_mask"])
    for preset, left in LEFT.items():
        model.set_masking(preset)
        for layer in range(4):
            before = attention_output(model, layer, features, torch.zeros(segments.shape))
            for place, column in enumerate(SEGMENTS):
                after = attention_output(model, layer, features, (segments == place).float())
                changed = (after != before).any(-1)
                for row_place, row in enumerate(SEGMENTS):
                    rows = changed[segments == row_place]
                    reads = column in left[layer >= 2][row].split()
                    assert rows.all() if reads else not rows.any(), (preset, layer, row, column)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_patches_it_is_transformers_own_model(
    family: str, implementation: str, family_folder: Callable[[str], Path]
) -> None:
    folder = family_folder(family)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    batch = tokenizer([list(pair) for pair in PAIRS], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = plain(**batch).logits.squeeze(-1)
    scores = load(folder, [], implementation).predict(PAIRS)
    assert np.abs(scores - expected.numpy()).max() < 1e-5


@pytest.mark.parametrize("preset", ["mask0", "mask3-l2", "prettr-l2", "sparse-ce"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_equals_eager_and_padding_moves_no_score(
    family: str, preset: str, family_folder: Callable[[str], Path]
) -> None:
    sdpa, eager = (load(family_folder(family), preset, name) for name in ("sdpa", "eager"))
    together = sdpa.predict(PAIRS)
    alone = np.concatenate([sdpa.predict([pair]) for pair in PAIRS])
    assert np.ptp(together) > 1e-2  # scores that are all alike would prove nothing
    assert np.abs(together - eager.predict(PAIRS)).max() < 1e-5
    assert np.abs(together - alone).max() < 1e-5


def test_the_window_of_modernbert_stays(family_folder: Callable[[str], Path]) -> None:
    model = load(family_folder("modernbert"), "mask0")
    features = model.preprocess([PAIRS[0]])
    length = features["input_ids"].shape[1]
    shaken = torch.zeros(1, length)
    shaken[0, length - 3] = 1.0  # a token of the document
    for layer, reach in ((0, length), (1, 4)):
        before = attention_output(model, layer, features, torch.zeros(1, length))
        changed = (attention_output(model, layer, features, shaken) != before).any(-1)[0]
        distance = (torch.arange(length) - (length - 3)).abs()
        segments = model[0].masks.layout.find_segments(features["input_ids"], None)[0]
        readers = (segments == 0) | (segments == 1) | (segments == 3)  # CLS, Q, D; the separators read themselves
        assert changed.tolist() == (readers & (distance <= reach)).tolist()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_with_nothing_to_read_gets_exactly_zero(
    family: str, implementation: str, family_folder: Callable[[str], Path]
) -> None:
    model = load(family_folder(family), [(["Q"], list(SEGMENTS), 1, 1)], implementation)
    features = model.preprocess(PAIRS)
    segments = model[0].masks.layout.find_segments(features["input_ids"], features["attention_mask"])
    for layer in (0, 1):
        output = attention_output(model, layer, features, torch.zeros(segments.shape))
        assert bool((output[segments == 1] == 0).all()) is (layer == 1)
        assert output.isfinite().all()
    assert np.isfinite(model.predict(PAIRS)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_under_mask2_do_not_depend_on_the_query(family: str, family_folder: Callable[[str], Path]) -> None:
    """With restarted positions the document's states, in every layer, are the same whatever the query is."""
    document = PAIRS[0][1]
    made: dict[bool, list[Tensor]] = {True: [], False: []}
    for restart, states in made.items():
        model = load(family_folder(family), "mask2", restart_positions=restart)
        for query in ("who", "what is the population of berlin"):
            features = model.preprocess([(query, document)])
            segments = model[0].masks.layout.find_segments(features["input_ids"], None)
            arguments = model[0].masks.make_arguments(features["input_ids"], None)
            inputs = {name: features[name] for name in ("input_ids", "token_type_ids") if name in features}
            with torch.no_grad():
                output = model[0].model(**inputs, **arguments, output_hidden_states=True)
            states.append(torch.stack(output.hidden_states)[:, (segments == 3) | (segments == 4)])
    restarted, running = ((states[0] - states[1]).abs().max() for states in made.values())
    assert restarted < 1e-5
    if family != "modernbert":  # rotary positions are relative: a document reads itself alike wherever it stands
        assert running > 1e-2


def test_special_tokens_in_a_text_move_no_segment(family_folder: Callable[[str], Path]) -> None:
    model = load(family_folder("bert"), "mask3-l2")
    ids = model.preprocess([("a [SEP] b", "c [CLS] d")])["input_ids"][0].tolist()
    assert ids.count(model.tokenizer.sep_token_id) == 2
    assert ids.count(model.tokenizer.cls_token_id) == 1


def test_saved_and_loaded_it_masks_as_before(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = load(family_folder("bert"), [(["D"], ["Q"], 1, 2)], restart_positions=True)
    model.save(str(tmp_path))
    again = MaskedCrossEncoder(str(tmp_path), device="cpu")
    assert (again.patches, again[0].restart_positions) == (model.patches, True)
    assert np.array_equal(again.predict(PAIRS), model.predict(PAIRS))
    loaded = load_model(str(tmp_path), device="cpu")  # as mice-st evaluate and mice-st train load any model
    assert isinstance(loaded, MaskedCrossEncoder)
    assert np.array_equal(loaded.predict(PAIRS), model.predict(PAIRS))
    unmasked = MaskedCrossEncoder(str(tmp_path), "full", device="cpu")
    assert np.abs(unmasked.predict(PAIRS) - model.predict(PAIRS)).max() > 1e-3
    with pytest.raises(ValueError, match="trust_remote_code"):
        CrossEncoder(str(tmp_path), device="cpu")
    trusted = CrossEncoder(str(tmp_path), device="cpu", trust_remote_code=True)
    assert np.array_equal(trusted.predict(PAIRS), model.predict(PAIRS))


def test_called_without_its_masks_it_refuses(family_folder: Callable[[str], Path]) -> None:
    model = load(family_folder("bert"), "mask1")
    features = model.preprocess(PAIRS)
    with pytest.raises(ValueError, match="without its segment masks"):
        model[0].model(input_ids=features["input_ids"])


def test_gradient_checkpointing_recomputes_with_the_same_masks(family_folder: Callable[[str], Path]) -> None:
    """Two batches before one backward pass: recomputing the first must not see the masks of the second."""
    gradients = []
    for checkpointing in (False, True):
        model = load(family_folder("bert"), "mask3-l2")
        if checkpointing:
            model[0].model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        for layer in model[0].model.bert.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        total = sum(model.forward(dict(model.preprocess([pair])))["scores"].sum() for pair in PAIRS)
        assert isinstance(total, Tensor)
        total.backward()
        gradients.append(model[0].model.bert.encoder.layer[0].attention.self.value.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    assert gradients[0].abs().max() > 0


def test_it_trains_in_our_trainer_and_the_best_checkpoint_is_masked(
    family_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    texts = [text for pair in PAIRS for text in pair] * 2
    corpus = {f"d{place}": f"{text} {place}" for place, text in enumerate(texts)}
    queries = {f"q{place}": text for place, text in enumerate(texts[:6])}
    collection = Collection("tiny", corpus, queries, {name: {f"d{name[1:]}": 1} for name in queries})
    recipe = TrainingRecipe.from_flat(
        model="", train_data=[""], output=str(tmp_path), batch_size=2, negatives=2, max_steps=4, save_steps=2, cpu=True
    )
    model = load(family_folder("bert"), "mask3-l2")
    before = model.predict(PAIRS)
    result = train(recipe, model=model, train_collection=collection, dev_collection=collection)
    assert result.best_step is not None
    assert np.abs(model.predict(PAIRS) - before).max() > 1e-6
    again = MaskedCrossEncoder(str(tmp_path), device="cpu")
    assert again.patches == model.patches != []
    assert np.abs(again.predict(PAIRS) - model.predict(PAIRS)).max() < 1e-6


def test_decoders_are_refused(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=129, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(family_folder("bert")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="LlamaForSequenceClassification is a decoder"):
        load(tmp_path, "mask0")


def test_a_layer_that_reads_no_mask_is_found(family_folder: Callable[[str], Path], monkeypatch: Any) -> None:
    """As with a model that computes its attention in its own way: its masks would be passed over in silence."""
    plain = BertSelfAttention.forward

    def own_way(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states, None) if self.layer_idx == 2 else plain(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(BertSelfAttention, "forward", own_way)
    with pytest.raises(ValueError, match=r"attention interface in layers \[2\]"):
        load(family_folder("bert"), "mask0")


def test_pairs_longer_than_the_positions_are_refused(family_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"max_length: pairs of 66 tokens need 67 positions.*give max_length=65"):
        load(family_folder("roberta"), "mask0", max_length=66)
