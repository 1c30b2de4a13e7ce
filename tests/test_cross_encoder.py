"""MiceCrossEncoder: the contract of CrossEncoder, and documents that are encoded once."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers import CrossEncoder
from torch import nn

import mice_st
from mice_st import DocumentStates, MiceCrossEncoder
from mice_st.modeling.st_mice import MiceTransformer

PAIRS = [
    ("where is berlin", "the capital of germany"),
    ("where is berlin", "a river and a bridge in the city, open to people"),
    ("how many people live in berlin", "the population of berlin was 3,520,031"),
    ("where is berlin", "a dog"),
    ("how many people live in berlin", "a dog"),
    ("where [SEP] is", "a dog [SEP] and a cat"),
    ("", "a bird"),
    ("where is berlin", ""),
    ("where is berlin", "a dog"),
    ("sort a list of number " * 6, "write and read a file " * 20),
]
QUERY = "where is berlin"
DOCUMENTS = [
    "a dog",
    "the capital of germany",
    "",
    "the city of berlin is open to people",
    "write a file " * 20,
    "a cat",
]


@pytest.fixture
def model(mice_folder: Path) -> MiceCrossEncoder:
    """One that a test may change."""
    return MiceCrossEncoder(str(mice_folder), device="cpu")


def agree(scores: Any, expected: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(scores), np.asarray(expected), atol=tolerance, rtol=0)


def cut_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("Cut ")]


# --- the contract ---


@pytest.mark.parametrize("method", ["predict", "rank"])
def test_arguments_are_those_of_sentence_transformers(method: str) -> None:
    """What MICE adds can only be given by name, and can be left out."""
    ours, theirs = (inspect.signature(getattr(cls, method)).parameters for cls in (MiceCrossEncoder, CrossEncoder))
    added = [parameter for name, parameter in ours.items() if name not in theirs]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in added)
    assert [name for name in ours if name in theirs] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].kind is parameter.kind
        assert parameter.default in (parameter.empty, ours[name].default), name  # what they demand may be left out


CALLS: list[dict[str, Any]] = [
    {},
    {"batch_size": 1},
    {"batch_size": 3},
    {"batch_size": 64},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"convert_to_numpy": False, "convert_to_tensor": True},
    {"activation_fn": nn.Sigmoid()},
    {"activation_fn": nn.Sigmoid(), "convert_to_tensor": True},
    {"apply_softmax": True},
    {"prompt": "find: "},
    {"device": "cpu"},
    {"show_progress_bar": False},
    {"activation_fct": nn.Sigmoid(), "num_workers": 0},  # earlier names
]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_predict_is_what_stock_cross_encoder_returns(
    mice: MiceCrossEncoder, stock: CrossEncoder, call: dict[str, Any]
) -> None:
    for inputs in (PAIRS, tuple(PAIRS), [list(pair) for pair in PAIRS], np.array(PAIRS, dtype=object), PAIRS[:1]):
        ours, theirs = mice.predict(inputs, **call), stock.predict(inputs, **call)
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs) == len(inputs)
        agree(ours, theirs)
        if isinstance(ours, list):
            assert {(type(score), score.dtype, score.shape) for score in ours} == {(torch.Tensor, torch.float32, ())}
        else:
            assert ours.dtype == theirs.dtype
            assert ours.dtype in (np.float32, torch.float32)


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_one_pair_gives_one_score(mice: MiceCrossEncoder, stock: CrossEncoder, call: dict[str, Any]) -> None:
    for pair in (PAIRS[0], list(PAIRS[0]), np.array(PAIRS[0])):
        ours, theirs = mice.predict(pair, **call), stock.predict(pair, **call)
        assert type(ours) is type(theirs)
        assert ours.shape == theirs.shape == ()
        assert ours.dtype == theirs.dtype
        agree(ours, theirs)


def test_no_pairs_give_no_scores(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    for call in ({}, {"convert_to_tensor": True}, {"convert_to_numpy": False}, {"activation_fn": nn.Sigmoid()}):
        ours, theirs = mice.predict([], **call), stock.predict([], **call)
        assert type(ours) is type(theirs)
        assert len(ours) == 0
    assert mice.predict([]).shape == (0,)
    assert mice.rank(QUERY, []) == stock.rank(QUERY, []) == []


def test_scores_are_logits(mice: MiceCrossEncoder) -> None:
    assert isinstance(mice.activation_fn, nn.Identity)
    scores = mice.predict(PAIRS)
    with torch.no_grad():
        encoding = mice.tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
        agree(scores, mice.mice(**encoding).logits.squeeze(-1))
    agree(mice.predict(PAIRS, activation_fn=nn.Sigmoid()), 1 / (1 + np.exp(-scores.astype(np.float64))))


def test_scores_are_logits_where_the_folder_does_not_say(
    mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    settings = read(folder, "config_sentence_transformers.json")
    del settings["activation_fn"]
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings), encoding="utf-8")
    agree(MiceCrossEncoder(str(folder), device="cpu").predict(PAIRS), mice.predict(PAIRS))


def test_each_pair_scores_as_it_does_alone(mice: MiceCrossEncoder) -> None:
    together = mice.predict(PAIRS)
    assert np.ptp(together) > 0.1  # they differ, so that agreement says something
    agree(together, [mice.predict(pair) for pair in PAIRS])
    agree(together[::-1], mice.predict(PAIRS[::-1]))
    agree(np.tile(together, 3), mice.predict(PAIRS * 3, batch_size=4))


RANKS: list[dict[str, Any]] = [
    {},
    {"top_k": 2},
    {"top_k": 100},
    {"return_documents": True},
    {"return_documents": True, "top_k": 1},
    {"batch_size": 2},
    {"activation_fn": nn.Sigmoid()},
    {"prompt": "find: "},
    {"device": "cpu", "show_progress_bar": False},
    {"convert_to_tensor": True},  # accepted and ignored, as they do
]


@pytest.mark.parametrize("call", RANKS, ids=str)
def test_rank_is_what_stock_cross_encoder_returns(
    mice: MiceCrossEncoder, stock: CrossEncoder, call: dict[str, Any]
) -> None:
    ours, theirs = mice.rank(QUERY, DOCUMENTS, **call), stock.rank(QUERY, DOCUMENTS, **call)
    assert [list(hit) for hit in ours] == [list(hit) for hit in theirs]
    assert [hit["corpus_id"] for hit in ours] == [hit["corpus_id"] for hit in theirs]
    assert [hit.get("text") for hit in ours] == [hit.get("text") for hit in theirs]
    assert {type(hit["score"]) for hit in ours} == {float}
    assert {type(hit["corpus_id"]) for hit in ours} == {int}
    agree([hit["score"] for hit in ours], [hit["score"] for hit in theirs])
    json.dumps(ours)


def test_rank_takes_its_arguments_by_position(mice: MiceCrossEncoder) -> None:
    ranking = mice.rank(QUERY, DOCUMENTS, 2, True)
    assert len(ranking) == 2
    assert all(hit["text"] == DOCUMENTS[hit["corpus_id"]] for hit in ranking)


def test_rank_sorts_what_predict_scores(mice: MiceCrossEncoder) -> None:
    scores = mice.predict([(QUERY, document) for document in DOCUMENTS])
    ranking = mice.rank(QUERY, DOCUMENTS)
    assert [hit["corpus_id"] for hit in ranking] == np.argsort(-scores).tolist()
    agree([hit["score"] for hit in ranking], np.sort(scores)[::-1])


# --- prompts ---


def test_a_prompt_stands_before_the_query_alone(mice: MiceCrossEncoder) -> None:
    written = mice.predict([("find: " + query, document) for query, document in PAIRS])
    assert np.abs(written - mice.predict(PAIRS)).max() > 1e-3
    agree(mice.predict(PAIRS, prompt="find: "), written)
    states = mice.encode_documents([document for _, document in PAIRS])
    stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
    agree(mice.predict(stored, prompt="find: "), written)


def test_named_prompts_are_saved_and_found(mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path) -> None:
    prompts = {"question": "find: ", "title": "title: "}
    MiceCrossEncoder(str(mice_folder), prompts=prompts, default_prompt_name="title", device="cpu").save(str(tmp_path))
    question, title = (mice.predict(PAIRS, prompt=prompt) for prompt in prompts.values())
    for loaded in (
        MiceCrossEncoder(str(tmp_path), device="cpu"),
        CrossEncoder(str(tmp_path), trust_remote_code=True, device="cpu"),
    ):
        agree(loaded.predict(PAIRS, prompt_name="question"), question)
        agree(loaded.predict(PAIRS), title)
        agree(loaded.predict(PAIRS, prompt=""), mice.predict(PAIRS))
        with pytest.raises(ValueError, match="nowhere"):
            loaded.predict(PAIRS, prompt_name="nowhere")


# --- documents encoded once ---


def test_encoded_documents_come_in_input_order(mice: MiceCrossEncoder) -> None:
    documents = [*DOCUMENTS, DOCUMENTS[1]]
    encoded = mice.encode_documents(documents)
    assert [type(document) for document in encoded] == [DocumentStates] * len(documents)
    for text, document in zip(documents, encoded, strict=True):
        ids = mice.tokenizer(text, split_special_tokens=True)["input_ids"]
        ids = ids if len(ids) <= 32 else [*ids[:31], 3]
        assert document.input_ids.tolist() == ids
        row = torch.tensor([ids])
        with torch.no_grad():
            alone = mice.mice.encode_documents(row, torch.ones_like(row)).states[0]
        assert document.states.shape == (len(ids), 32)
        assert document.states.dtype == torch.float32
        torch.testing.assert_close(document.states, alone, atol=5e-6, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_the_size_of_a_batch_does_not_move_states(mice: MiceCrossEncoder, batch_tokens: int) -> None:
    for document, expected in zip(
        mice.encode_documents(DOCUMENTS, batch_tokens=batch_tokens), mice.encode_documents(DOCUMENTS), strict=True
    ):
        torch.testing.assert_close(document.states, expected.states, atol=5e-6, rtol=0)
        assert torch.equal(document.input_ids, expected.input_ids)


def test_encoded_documents_own_their_memory(mice: MiceCrossEncoder) -> None:
    """A view would keep the whole padded batch alive for as long as one document is kept."""
    for document in mice.encode_documents(DOCUMENTS):
        assert document.states.untyped_storage().nbytes() == document.states.numel() * 4
        assert not document.states.requires_grad


def test_no_documents_encode_to_nothing(mice: MiceCrossEncoder) -> None:
    assert mice.encode_documents([]) == []


@pytest.mark.parametrize("ours", [True, False])
def test_states_score_as_their_texts(mice: MiceCrossEncoder, stock: CrossEncoder, ours: bool) -> None:
    model = mice if ours else stock
    expected = mice.predict(PAIRS)
    states = mice.encode_documents([document for _, document in PAIRS])
    stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
    mixed = [pair if place % 2 else other for place, (pair, other) in enumerate(zip(PAIRS, stored, strict=True))]
    for inputs in (stored, mixed):
        agree(model.predict(inputs, batch_size=3), expected)
        agree(model.predict(inputs[2]), expected[2])
    half = DocumentStates(states[0].states.half(), states[0].input_ids)
    agree(model.predict([(PAIRS[0][0], half), *stored[1:3]]), expected[:3], tolerance=5e-3)


def test_rank_over_states(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    expected = mice.rank(QUERY, DOCUMENTS)
    states = mice.encode_documents(DOCUMENTS)
    mixed = [
        text if place % 2 else document for place, (text, document) in enumerate(zip(DOCUMENTS, states, strict=True))
    ]
    for documents in (states, mixed, tuple(states)):
        for model in (mice, stock):
            ranking = model.rank(QUERY, documents, return_documents=True)
            assert [hit["corpus_id"] for hit in ranking] == [hit["corpus_id"] for hit in expected]
            agree([hit["score"] for hit in ranking], [hit["score"] for hit in expected])
            assert all(hit["text"] is documents[hit["corpus_id"]] for hit in ranking)


def test_states_are_read_and_left_as_they_are(mice: MiceCrossEncoder) -> None:
    states = mice.encode_documents(DOCUMENTS)
    before = [document.states.clone() for document in states]
    mice.rank(QUERY, states)
    assert all(torch.equal(document.states, copy) for document, copy in zip(states, before, strict=True))


# --- cut texts ---


def test_cut_documents_are_counted_in_one_warning(mice: MiceCrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    long = "berlin " * 31
    mice.encode_documents(["a dog", long, "a cat " + long, long + "end"], batch_tokens=40)
    assert len(cut_warnings(caplog)) == 1
    assert "0 queries at 16 tokens and 3 documents at 32 tokens" in cut_warnings(caplog)[0]
    caplog.clear()
    mice.predict([(f"{'who ' * 20}{place}", f"{long} {place % 2}") for place in range(8)], batch_size=2)
    assert len(cut_warnings(caplog)) == 1
    assert "8 queries at 16 tokens and 2 documents at 32 tokens" in cut_warnings(caplog)[0]
    caplog.clear()
    mice.rank(QUERY, [long, "a dog"])
    assert "0 queries at 16 tokens and 1 documents at 32 tokens" in "".join(cut_warnings(caplog))
    caplog.clear()
    mice.rank(QUERY, ["berlin " * 30, "a dog"])  # fits
    mice.encode_documents(["a dog"])
    assert cut_warnings(caplog) == []


def test_a_cut_text_scores_as_what_is_left_of_it(mice: MiceCrossEncoder) -> None:
    agree(mice.predict(("who " * 50, "berlin " * 50)), mice.predict(("who " * 14, "berlin " * 30)))
    assert abs(mice.predict(("who", "berlin " * 29)) - mice.predict(("who", "berlin " * 30))) > 1e-4


def test_max_length_is_that_of_documents(mice: MiceCrossEncoder, mice_folder: Path, tmp_path: Path) -> None:
    text = "the city of berlin " * 10
    expected = mice.predict((QUERY, " ".join(text.split()[:8])))
    ours = MiceCrossEncoder(str(mice_folder), max_length=10, device="cpu")
    theirs = CrossEncoder(str(mice_folder), max_length=10, trust_remote_code=True, device="cpu")
    assert ours.max_seq_length == theirs.max_seq_length == 10
    agree(ours.predict((QUERY, text)), expected)
    agree(theirs.predict((QUERY, text)), expected)
    ours.save(str(tmp_path))
    agree(MiceCrossEncoder(str(tmp_path), device="cpu").predict((QUERY, text)), expected)


# --- bad input ---


@pytest.mark.parametrize("text", ["a dog", b"a dog"])
def test_one_text_is_not_a_list_of_documents(mice: MiceCrossEncoder, text: Any) -> None:
    with pytest.raises(ValueError, match=f"documents: expected a list of texts, got one {type(text).__name__}"):
        mice.rank(QUERY, text)
    with pytest.raises(ValueError, match=f"documents: expected a list of texts, got one {type(text).__name__}"):
        mice.encode_documents(text)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "is of type NoneType, not a string"),
        (7, "is of type int, not a string"),
        (b"a dog", "is of type bytes, not a string"),
        ("cat\ud800", "holds a lone surrogate at character 3"),
    ],
)
def test_a_document_that_is_no_text_is_named_by_its_place(mice: MiceCrossEncoder, document: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"document 2 {message}"):
        mice.encode_documents(["a dog", "a cat", document])
    with pytest.raises(ValueError, match=f"pair 2: the document {message}"):
        mice.rank(QUERY, ["a dog", "a dog", document])


def test_a_query_that_is_no_text_is_named(mice: MiceCrossEncoder) -> None:
    with pytest.raises(ValueError, match="pair 0: the query is of type NoneType"):
        mice.rank(None, DOCUMENTS)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1])
def test_an_impossible_batch_size_is_refused(mice: MiceCrossEncoder, stock: CrossEncoder, size: int) -> None:
    for model in (mice, stock):
        with pytest.raises(ValueError, match=f"batch_size must be a positive integer, got {size}"):
            model.predict(PAIRS, batch_size=size)


def test_states_that_are_not_finite_never_become_a_score(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    states = mice.encode_documents(["a dog", "a cat"])
    states[1].states[0, 0] = torch.nan
    for model in (mice, stock):
        with pytest.raises(ValueError, match="not finite"):
            model.rank(QUERY, states)


def test_a_refused_call_leaves_the_model_as_it_was(model: MiceCrossEncoder, caplog: pytest.LogCaptureFixture) -> None:
    expected = model.predict(PAIRS[:3])
    with pytest.raises(ValueError, match="pair 1"):
        model.predict([("who " * 40, "a dog"), ("who", "\ud800")])
    caplog.clear()
    agree(model.predict(PAIRS[:3]), expected)
    assert cut_warnings(caplog) == []  # what the refused call cut is not counted in the next


def test_another_models_folder_is_refused(cross_encoder_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"not a MICE model.*mice_st\.convert"):
        MiceCrossEncoder(str(cross_encoder_folder), device="cpu")


# --- modes and precisions ---


def test_scoring_switches_dropout_off(model: MiceCrossEncoder, mice: MiceCrossEncoder) -> None:
    model.train()
    agree(model.predict(PAIRS), mice.predict(PAIRS))
    model.train()
    agree(model.encode_documents(DOCUMENTS)[1].states, mice.encode_documents(DOCUMENTS)[1].states)
    model.train()
    agree(
        [hit["score"] for hit in model.rank(QUERY, mice.encode_documents(DOCUMENTS))],
        [hit["score"] for hit in mice.rank(QUERY, DOCUMENTS)],
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_half_precision_gives_float32_scores(
    mice: MiceCrossEncoder, mice_folder: Path, dtype: torch.dtype, tolerance: float
) -> None:
    expected = mice.predict(PAIRS)
    for model in (
        MiceCrossEncoder(str(mice_folder), model_kwargs={"dtype": dtype}, device="cpu"),
        CrossEncoder(str(mice_folder), model_kwargs={"dtype": dtype}, trust_remote_code=True, device="cpu"),
    ):
        scores = model.predict(PAIRS)
        assert scores.dtype == np.float32
        agree(scores, expected, tolerance)
        states = mice.encode_documents([document for _, document in PAIRS])
        stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
        agree(model.predict(stored), expected, tolerance)


# --- the folder ---


@pytest.fixture(scope="module")
def hub_files(mice_folder: Path) -> set[str]:
    code = {path.name for path in Path(mice_st.modeling.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert {"configuration_mice.py", "modeling_mice.py", "st_mice.py"} <= code
    configs = {"config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"}
    return code | configs | {"model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_the_saved_folder_is_the_hub_repository(mice_folder: Path, hub_files: set[str]) -> None:
    assert files(mice_folder) == hub_files
    for path in Path(mice_st.modeling.__file__).parent.glob("*.py"):
        if path.name != "__init__.py":
            assert (mice_folder / path.name).read_bytes() == path.read_bytes()
    config = read(mice_folder, "config.json")
    assert config["model_type"] == "mice"
    assert config["backbone_config"]["model_type"] == "bert"
    assert config["auto_map"] == {
        "AutoConfig": "configuration_mice.MiceConfig",
        "AutoModelForSequenceClassification": "modeling_mice.MiceForSequenceClassification",
    }
    assert [module["type"] for module in read(mice_folder, "modules.json")] == ["st_mice.MiceTransformer"]
    settings = read(mice_folder, "config_sentence_transformers.json")
    assert settings["model_type"] == "CrossEncoder"
    assert settings["activation_fn"] == "torch.nn.modules.linear.Identity"
    assert set(settings["requirements"]) == {"sentence-transformers", "transformers"}
    tokenizer = read(mice_folder, "tokenizer_config.json")
    assert tokenizer["split_special_tokens"] is True
    assert not {"is_local", "local_files_only"} & set(tokenizer)


def test_the_saved_folder_names_no_folder_of_this_machine(
    mice_folder: Path, cross_encoder_folder: Path, tmp_path: Path
) -> None:
    MiceCrossEncoder(str(mice_folder), device="cpu").save(str(tmp_path))
    for folder in (mice_folder, tmp_path):
        for path in folder.glob("*.json"):
            text = path.read_text(encoding="utf-8")
            for private in (cross_encoder_folder, mice_folder, tmp_path, Path.home()):
                assert str(private) not in text, path.name


def test_saving_again_changes_nothing(mice_folder: Path, hub_files: set[str], tmp_path: Path) -> None:
    MiceCrossEncoder(str(mice_folder), device="cpu").save(str(tmp_path / "first"))
    MiceCrossEncoder(str(tmp_path / "first"), device="cpu").save_pretrained(str(tmp_path / "second"))
    for folder in (tmp_path / "first", tmp_path / "second"):
        assert files(folder) == hub_files
        for name in hub_files - {"README.md", "tokenizer.json"}:
            assert (folder / name).read_bytes() == (mice_folder / name).read_bytes(), name
        assert read(folder, "tokenizer.json")["model"] == read(mice_folder, "tokenizer.json")["model"]


def test_a_folder_of_other_code_runs_the_installed_code(
    mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path
) -> None:
    """No trust is asked for, so nothing of the folder may run."""
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    for path in folder.glob("*.py"):
        path.write_text("raise RuntimeError('code of the folder ran')\n", encoding="utf-8")
    agree(MiceCrossEncoder(str(folder), device="cpu").predict(PAIRS), mice.predict(PAIRS))


def test_the_hook_that_finds_our_module_class_is_still_called(mice: MiceCrossEncoder, mice_folder: Path) -> None:
    """``_load_module_class_from_ref`` is private to sentence-transformers; here is what we rely on."""
    theirs = inspect.signature(CrossEncoder._load_module_class_from_ref)
    assert list(theirs.parameters)[:2] == ["self", "class_ref"]
    assert type(mice[0]) is MiceTransformer
    seen: list[str] = []

    class Watching(MiceCrossEncoder):
        def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
            seen.append(class_ref)
            return super()._load_module_class_from_ref(class_ref, *args, **kwargs)

    Watching(str(mice_folder), device="cpu")
    assert seen == ["st_mice.MiceTransformer"]
    # Every other class is sentence-transformers' business.
    reference = "sentence_transformers.base.modules.transformer.Transformer"
    found = mice._load_module_class_from_ref(reference, str(mice_folder), False, None, {})
    assert found is sentence_transformers.base.modules.transformer.Transformer


def test_a_type_that_an_older_save_wrote_is_found(mice_folder: Path, mice: MiceCrossEncoder, tmp_path: Path) -> None:
    """``CrossEncoder.save`` of an installed class names it in full."""
    folder = Path(shutil.copytree(mice_folder, tmp_path / "copy"))
    text = (folder / "modules.json").read_text(encoding="utf-8")
    (folder / "modules.json").write_text(text.replace("st_mice.", "mice_st.modeling.st_mice."), encoding="utf-8")
    loaded = MiceCrossEncoder(str(folder), device="cpu")
    agree(loaded.predict(PAIRS), mice.predict(PAIRS))
    loaded.save(str(tmp_path / "again"))
    assert read(tmp_path / "again", "modules.json")[0]["type"] == "st_mice.MiceTransformer"


# --- several processes ---


@pytest.mark.slow
def test_worker_processes_give_the_same_scores(mice: MiceCrossEncoder, stock: CrossEncoder) -> None:
    expected = mice.predict(PAIRS)
    pool = mice.start_multi_process_pool(["cpu", "cpu"])
    try:
        agree(mice.predict(PAIRS, pool=pool, chunk_size=3), expected)
        states = mice.encode_documents([document for _, document in PAIRS])
        stored = [(query, document) for (query, _), document in zip(PAIRS, states, strict=True)]
        agree(mice.predict(stored, pool=pool, chunk_size=4), expected)
        ranking = mice.rank(QUERY, DOCUMENTS, pool=pool)
        assert [hit["corpus_id"] for hit in ranking] == [hit["corpus_id"] for hit in mice.rank(QUERY, DOCUMENTS)]
        with pytest.raises(ValueError, match="pair 1: the document is of type NoneType"):
            mice.predict([("who", "a dog"), ("who", None)], pool=pool)
        agree(mice.predict(PAIRS[0], pool=pool), expected[0])
    finally:
        mice.stop_multi_process_pool(pool)


@pytest.mark.slow
def test_a_list_of_devices_gives_the_same_scores(mice: MiceCrossEncoder) -> None:
    agree(mice.predict(PAIRS, device=["cpu", "cpu"]), mice.predict(PAIRS))
