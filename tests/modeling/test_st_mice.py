"""The Hub folder in processes that cannot import mice_st, and the sentence-transformers module itself."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import PreTrainedTokenizerFast

from mice_st import MiceCrossEncoder
from mice_st.modeling.st_mice import MiceTransformer
from tests.text_pairs import rank_alike

PAIRS = [
    ("where is berlin", "the capital of germany"),
    ("where is berlin", "a river and a bridge in the city, open to people"),
    ("How many people live in Berlin?", "The POPULATION of berlin was 3,520,031"),
    ("how [SEP] many", "people [SEP] live [CLS] in [PAD] the [MASK] city [UNK]"),
    ("how [ sep ] many", "people [ sep ] live [ cls ] in [ pad ] the [ mask ] city [ unk ]"),
    ("", ""),
    ("", "a dog"),
    ("a cat", ""),
    ("zürich \u4e2d\u6587 \U0001f600", "caf\u00e9 \u00df \u0130stanbul"),
    ("sort a list of number " * 6, "write and read a file " * 20),
]

DOCUMENTS = list(dict.fromkeys(document for _, document in PAIRS[:4] + PAIRS[5:]))  # no two score the same

# Runs where mice_st cannot be imported: arguments are the Hub folder, pairs, documents, and where to save it again.
DOORS = """
import json, sys

from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, pairs = sys.argv[1], [tuple(pair) for pair in json.loads(sys.argv[2])]
try:
    import mice_st
except ImportError:
    pass
else:
    raise SystemExit("mice_st can be imported")

tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
encoding = tokenizer(*map(list, zip(*pairs)), padding=True, return_tensors="pt")
result = {"auto": model(**encoding).logits.squeeze(-1).tolist(), "auto_module": type(model).__module__}

model = CrossEncoder(folder, trust_remote_code=True, device="cpu")
result["stock"] = model.predict(pairs).tolist()
result["stock_modules"] = [type(model[0]).__module__, type(model.model).__module__]
query, documents = pairs[0][0], json.loads(sys.argv[3])
result["rank"] = model.rank(query, documents)

module = model[0]
states = module.model.encode_documents(**module.preprocess(documents)).unpad()
assert type(states[0]).__name__ == "DocumentStates"
result["states"] = model.predict([(query, document) for document in states]).tolist()
mixed = [document if place % 2 else text for place, (text, document) in enumerate(zip(documents, states))]
result["mixed"] = model.rank(query, mixed)
if len(sys.argv) > 4:
    model.save(sys.argv[4])
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def resaved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("again") / "folder"


@pytest.fixture(scope="module")
def doors(run_python: Callable[..., str], mice_folder: Path, resaved: Path) -> dict[str, Any]:
    printed = run_python(DOORS, mice_folder, json.dumps(PAIRS), json.dumps(DOCUMENTS), resaved, without_mice_st=True)
    return json.loads(printed.splitlines()[-1])


def agree(scores: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(scores, dtype=np.float64), expected, atol=1e-6, rtol=0)


def test_three_doors_give_one_score(doors: dict[str, Any], mice: MiceCrossEncoder) -> None:
    expected = mice.predict(PAIRS)
    assert np.ptp(expected) > 0.1  # they differ, so that agreement says something
    agree(doors["auto"], expected)
    agree(doors["stock"], expected)
    assert doors["auto_module"].startswith("transformers_modules.")
    assert all(name.startswith("transformers_modules.") for name in doors["stock_modules"])


def test_special_tokens_in_a_text_are_characters(doors: dict[str, Any], mice: MiceCrossEncoder) -> None:
    """The fourth pair holds special tokens, the fifth the same characters with spaces between."""
    for scores in (doors["auto"], doors["stock"], mice.predict(PAIRS)):
        assert scores[3] == pytest.approx(scores[4], abs=1e-6)
    assert abs(doors["auto"][3] - doors["auto"][2]) > 1e-3


def test_the_hub_copy_ranks_texts_and_states_alike(doors: dict[str, Any], mice: MiceCrossEncoder) -> None:
    query = PAIRS[0][0]
    expected = mice.rank(query, DOCUMENTS)
    for ranking in (doors["rank"], doors["mixed"]):
        rank_alike(ranking, expected)
    agree(doors["states"], mice.predict([(query, document) for document in DOCUMENTS]))


def test_what_stock_cross_encoder_saves_opens_every_door(
    doors: dict[str, Any],
    run_python: Callable[..., str],
    resaved: Path,
    tmp_path: Path,
) -> None:
    code = {path.name for path in resaved.glob("*.py")}
    assert code == {"configuration_mice.py", "interaction_mice.py", "layers_mice.py", "modeling_mice.py", "st_mice.py"}
    moved = shutil.move(resaved, tmp_path / "moved")  # what it needs lies in the folder
    again = json.loads(
        run_python(DOORS, moved, json.dumps(PAIRS), json.dumps(DOCUMENTS), without_mice_st=True).splitlines()[-1]
    )
    agree(again["auto"], doors["auto"])
    agree(again["stock"], doors["stock"])
    agree(MiceCrossEncoder(str(moved), device="cpu").predict(PAIRS), doors["stock"])


# --- the module in this process ---


@pytest.fixture
def module(mice_folder: Path) -> MiceTransformer:
    """One that a test may change."""
    return MiceTransformer(str(mice_folder))


def test_both_sides_are_framed_and_cut_each_at_its_own_length(
    module: MiceTransformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    words = "berlin river " * 40
    ids = tokenizer(words)["input_ids"]
    queries = module.tokenize_side(["berlin", "", words], "query")
    documents = module.tokenize_side([words], "document")
    assert queries == [tokenizer("berlin")["input_ids"], [2, 3], [*ids[:15], 3]]
    assert documents == [[*ids[:31], 3]]
    assert module.cut_texts == {"query": 1, "document": 1}
    assert module.tokenize_side([], "query") == []


def test_a_text_that_just_fits_is_not_cut(module: MiceTransformer) -> None:
    fits, long = " ".join(["berlin"] * 14), " ".join(["berlin"] * 15)
    assert [len(row) for row in module.tokenize_side([fits, long], "query")] == [16, 16]
    assert module.cut_texts == {"query": 1, "document": 0}


def test_special_tokens_are_characters_whatever_the_tokenizer_says(module: MiceTransformer) -> None:
    module.tokenizer.split_special_tokens = False
    rows = module.tokenize_side(["who [SEP] is", "who [ sep ] is"], "query")
    assert rows[0] == rows[1]


def test_preprocess_tokenises_each_equal_text_once(module: MiceTransformer) -> None:
    pairs = [("who", "a dog"), ("who", "a cat"), ("where", "a dog"), ("who", "a dog")]
    features = module.preprocess(pairs)
    assert type(features) is dict  # DistributedDataParallel cannot take a BatchEncoding apart
    assert all(isinstance(value, torch.Tensor) for value in features.values())
    assert len(features["query_ids"]) == 2
    assert len(features["document_ids"]) == 2
    assert features["query_index"].tolist() == [0, 0, 1, 0]
    assert features["document_index"].tolist() == [0, 1, 0, 0]


def test_preprocess_takes_single_texts_as_documents(
    module: MiceTransformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    features = module.preprocess(["a dog", "the capital of germany"])
    rows = [ids[mask].tolist() for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True)]
    assert rows == tokenizer(["a dog", "the capital of germany"])["input_ids"]


def test_a_prompt_stands_before_the_query_alone(module: MiceTransformer) -> None:
    prompted = module.preprocess([("who", "a dog")], prompt="find: ")
    written = module.preprocess([("find: who", "a dog")])
    assert prompted.keys() == written.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in prompted.items())


def test_stock_cross_encoder_takes_states_of_any_class(stock: CrossEncoder, mice: MiceCrossEncoder) -> None:
    texts = ["a dog", "the capital of germany"]
    expected = stock.predict([("where is berlin", text) for text in texts])
    states = mice.encode_documents(texts)
    agree(stock.predict([("where is berlin", document) for document in states]), expected)
    other = [SimpleNamespace(states=document.states, input_ids=document.input_ids) for document in states]
    agree(stock.predict([("where is berlin", other[0]), ("where is berlin", texts[1])]), expected)


BAD_PAIRS: list[tuple[Any, str]] = [
    (None, r"pair 0: expected \(query, document\), got None"),
    (7, r"pair 0: expected \(query, document\), got 7"),
    (b"who", r"expected \(query, document\)(, got b'who'| pairs, got one bytes)"),
    ("who", r"predict: expected \(query, document\) pairs, got one str|pairs in place of single texts"),
    (["who", "a dog", "a cat"], r"pair 0: expected \(query, document\)"),
    ([("who", None)], "pair 0: the document is of type NoneType"),
    ([("who", 7)], "pair 0: the document is of type int"),
    ([("who", b"a dog")], "pair 0: the document is of type bytes"),
    ([(None, "a dog")], "pair 0: the query is of type NoneType"),
    ([("who", "a dog"), (7, "a dog")], "pair 1: the query is of type int"),
    ([("who", "a dog"), ("\ud800", "a dog")], "pair 1: the query holds a lone surrogate at character 0"),
    ([("who", "a dog"), ("who", "cat\udfff")], "pair 1: the document holds a lone surrogate at character 3"),
    ([("who", "a dog"), ("who", "a cat", "a bird")], r"pair 1: expected \(query, document\)"),
    ([("who", "a dog"), []], r"pair 1: expected \(query, document\), got \[\]"),
]


def test_stock_cross_encoder_refuses_passages_that_it_would_read_as_one_text(
    stock: CrossEncoder, mice: MiceCrossEncoder
) -> None:
    short, long = mice.encode_documents(["the city", "people live in berlin " * 40], passages=True)
    with pytest.raises(ValueError, match=r"pair 1: the document is made of \d+ passages, .* MiceCrossEncoder"):
        stock.predict([("where", short), ("where", long)])
    assert np.isfinite(mice.predict([("where", short), ("where", long)])).all()


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(("inputs", "message"), BAD_PAIRS)
def test_what_is_no_pair_of_texts_is_named(
    mice: MiceCrossEncoder, stock: CrossEncoder, inputs: Any, message: str, ours: bool
) -> None:
    if not ours:  # it sorts the pairs by length first
        message = message.replace("pair 1", "pair [01]")
    with pytest.raises(ValueError, match=message):
        (mice if ours else stock).predict(inputs)


def test_a_surrogate_pair_written_in_full_is_text(mice: MiceCrossEncoder) -> None:
    assert mice.predict([("who", "\U0001f600")]).shape == (1,)


@pytest.mark.parametrize("ours", [True, False])
def test_ten_megabytes_are_cut_before_they_are_tokenised(
    mice_folder: Path, ours: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if ours:
        model: CrossEncoder = MiceCrossEncoder(str(mice_folder), device="cpu")
    else:
        model = CrossEncoder(str(mice_folder), trust_remote_code=True, device="cpu")
    short = model.predict([("who", "berlin city " * 15)])  # 30 tokens, [CLS] and [SEP]: it just fits
    caplog.clear()
    document = "berlin city " * 900_000
    assert len(document.encode()) > 10_000_000
    start = time.perf_counter()
    scores = model.predict([("who", document)])
    assert time.perf_counter() - start < 0.5
    agree(scores, short)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "1 documents at 32 tokens" in caplog.text


def test_stock_cross_encoder_warns_once_of_cut_texts(mice_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = CrossEncoder(str(mice_folder), trust_remote_code=True, device="cpu")
    caplog.clear()
    model.predict([("who", "berlin " * 40)] * 5 + [("who " * 40, "berlin")] * 5, batch_size=2)
    assert len([record for record in caplog.records if "Cut" in record.getMessage()]) == 1


# --- what does not belong together ---


@pytest.fixture
def folder(mice_folder: Path, tmp_path: Path) -> Path:
    """A copy of the Hub folder that a test may spoil."""
    return Path(shutil.copytree(mice_folder, tmp_path / "copy"))


def load_ours(folder: Path) -> CrossEncoder:
    return MiceCrossEncoder(str(folder), device="cpu")


def load_stock(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(folder), trust_remote_code=True, device="cpu")


LOADERS = pytest.mark.parametrize("load", [load_ours, load_stock])


@LOADERS
def test_a_tokenizer_with_more_tokens_is_refused(
    folder: Path, load: Callable[[Path], CrossEncoder], mice: MiceCrossEncoder
) -> None:
    larger = PreTrainedTokenizerFast.from_pretrained(folder)
    assert larger.add_tokens(["mississippi"]) == 1
    larger.save_pretrained(folder)
    size = mice.mice.config.vocab_size
    with pytest.raises(ValueError, match=rf"tokenizer has {size + 1} tokens, the model's vocabulary {size}"):
        load(folder)


@LOADERS
@pytest.mark.parametrize(("token", "place"), [("cls", 2), ("sep", 3)])
def test_a_tokenizer_with_other_special_tokens_is_refused(
    folder: Path, load: Callable[[Path], CrossEncoder], token: str, place: int
) -> None:
    other = PreTrainedTokenizerFast.from_pretrained(folder)
    setattr(other, f"{token}_token", "[MASK]")
    other.save_pretrained(folder)
    with pytest.raises(ValueError, match=rf"tokenizer's {token}_token_id is 4, the model's {place}"):
        load(folder)


@LOADERS
@pytest.mark.parametrize("missing", [True, False])
def test_a_checkpoint_that_does_not_fit_is_refused(
    folder: Path, load: Callable[[Path], CrossEncoder], missing: bool
) -> None:
    edit(folder, lambda tensors: tensors.pop("pooler.bias") if missing else tensors.update(stray=torch.ones(1)))
    kind, name = ("missing", "pooler.bias") if missing else ("unexpected", "stray")
    with pytest.raises(ValueError, match=rf"{kind}_keys: \['{name}'\]"):
        load(folder)


@LOADERS
def test_nan_weights_never_become_a_score(folder: Path, load: Callable[[Path], CrossEncoder]) -> None:
    edit(folder, lambda tensors: tensors["interaction.1.feed_forward.output.weight"].fill_(torch.nan))
    model = load(folder)
    for call in (lambda: model.predict(PAIRS[:2]), lambda: model.rank(PAIRS[0][0], ["a dog", "a cat"])):
        with pytest.raises(ValueError, match="not finite"):
            call()


@LOADERS
def test_a_folder_without_its_config_is_refused(folder: Path, load: Callable[[Path], CrossEncoder]) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"model_type.*config\.json"):
        load(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        load_ours(tmp_path)


@LOADERS
def test_a_longest_document_beyond_the_positions_is_clamped_to_them(
    folder: Path, load: Callable[[Path], CrossEncoder]
) -> None:
    model = load(folder)
    model.max_length = 10_000
    assert model.max_length == 64
    assert np.isfinite(model.predict([("where", "berlin " * 200)])).all()


@LOADERS
@pytest.mark.parametrize("length", [2, 0, -1])
def test_an_impossible_longest_document_is_refused(
    folder: Path, load: Callable[[Path], CrossEncoder], length: int
) -> None:
    model = load(folder)
    with pytest.raises(ValueError, match=f"max_seq_length: must be at least 3 tokens, got {length}"):
        model.max_seq_length = length


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a saved model."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_the_module_is_trained_like_any_other(module: MiceTransformer) -> None:
    """Gradients flow through preprocess and forward to every parameter."""
    assert isinstance(module, nn.Module)
    features = module.preprocess([("who", "a dog"), ("where is berlin", "the capital of berlin")])
    module(features)["scores"].sum().backward()
    without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert without == []
