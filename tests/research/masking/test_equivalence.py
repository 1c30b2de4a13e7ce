"""A cross-encoder under Mask3 becomes MICE without loss; each step beyond that has its price."""

import json
import re
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from transformers import AutoTokenizer

from mice_st.commands.main import main
from mice_st.cross_encoder import MiceCrossEncoder
from mice_st.data.collection import Collection, write_beir
from mice_st.research.laboratory.equivalence import VARIANTS, choose_lengths, convert_masked, cut_texts
from mice_st.research.masking import MaskedCrossEncoder

PAIRS = [
    ("what is the city", "the berlin museum is a bridge over the river, the capital of germany"),
    ("who", "cat"),
    ("list sort", "python function returns a sorted list and writes the file"),
    ("where do the people of the city live", "many people live on the river"),
]


@pytest.mark.parametrize(("family", "fusion_layer"), [("bert", 1), ("bert", 2), ("electra", 1)])
def test_the_lossless_conversion_scores_as_the_masked_cross_encoder(
    family: str, fusion_layer: int, family_folder: Callable[[str], Path]
) -> None:
    source = str(family_folder(family))
    masked = MaskedCrossEncoder(source, f"mask3-l{fusion_layer}", True, device="cpu", activation_fn=nn.Identity())
    expected = masked.predict(PAIRS)
    assert np.ptp(expected) > 1e-2
    lengths = choose_lengths(masked)
    differences = {}
    for name, fields in VARIANTS.items():
        model = convert_masked(source, fusion_layer, masked, fields, lengths)
        differences[name] = float(np.abs(model.predict(PAIRS) - expected).max())
        states = model.encode_documents([document for _, document in PAIRS])
        stored = [model.predict([(query, state)])[0] for (query, _), state in zip(PAIRS, states, strict=True)]
        assert np.abs(np.array(stored) - model.predict(PAIRS)).max() < 1e-5
    assert differences["lossless"] < 1e-5
    assert differences["split softmax"] > 1e-4
    # What the query's tokens read of the document in the last layer comes too late for [CLS]; so of two interaction
    # layers only the first counts, and it reads the same states whether they are frozen or not.
    assert differences["frozen states"] > 1e-4 if fusion_layer == 1 else differences["frozen states"] < 1e-5


def test_one_interaction_layer_is_too_few(family_folder: Callable[[str], Path]) -> None:
    """[CLS] reads the query alone: what a single layer brings to the query's tokens never reaches it."""
    source = str(family_folder("bert"))
    masked = MaskedCrossEncoder(source, "mask3-l3", True, device="cpu", activation_fn=nn.Identity())
    same_query = [(PAIRS[0][0], document) for _, document in PAIRS]
    assert np.ptp(masked.predict(same_query)) < 1e-5
    with pytest.raises(ValueError, match="interaction_layers: at least 2"):
        convert_masked(source, 3, masked, VARIANTS["lossless"], choose_lengths(masked))


def test_cut_texts_have_the_first_tokens(family_folder: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(family_folder("bert"))
    text = "the berlin museum, riverside: xyz"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for tokens in range(1, len(ids) + 2):
        cut = cut_texts({"d": text}, tokenizer, tokens)["d"]
        assert tokenizer(cut, add_special_tokens=False)["input_ids"] == ids[:tokens]


def test_the_command_prints_the_difference_and_leaves_the_model(
    family_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = {f"d{place}": document * (1 + 4 * place) for place, (_, document) in enumerate(PAIRS)}  # some too long
    queries = {f"q{place}": f"{query} {PAIRS[place][1].split()[0]}" for place, (query, _) in enumerate(PAIRS)}
    write_beir(
        Collection("tiny", corpus, queries, {query: {f"d{query[1:]}": 1} for query in queries}), tmp_path, "test"
    )
    source, output = str(family_folder("bert")), tmp_path / "output"
    flags = ["--model", source, "--data", str(tmp_path), "--output", str(output), "--fusion-layer", "1"]
    assert main(["mask", *flags, "--convert"]) == 0
    rows = json.loads((output / "results.json").read_text())["conversion"]
    assert [row["step"] for row in rows] == ["mask3-l1", *VARIANTS]
    assert rows[1]["difference"] < 1e-5 < min(row["difference"] for row in rows[2:])
    assert rows[1]["ndcg@10"] == rows[0]["ndcg@10"]
    # In one softmax the last layer's only row, [CLS], reads no document, and there is no state for it.
    assert [row["bytes_per_token"] for row in rows] == [None, 128, 64, 192, 64]
    assert "Without loss" in capsys.readouterr().out
    model = MiceCrossEncoder(str(output / "mice-lossless"), device="cpu")
    masked = MaskedCrossEncoder(source, "mask3-l1", True, device="cpu", activation_fn=nn.Identity())
    assert np.abs(model.predict(PAIRS) - masked.predict(PAIRS)).max() < 1e-5


@pytest.mark.parametrize(
    ("family", "fusion_layer", "message"),
    [
        ("roberta", 2, "2 separators between query and document"),
        ("modernbert", 2, "interaction_attention: 'joint' is not possible with 'modernbert'"),
        ("bert", 3, "interaction_layers: at least 2"),
    ],
)
def test_what_does_not_convert_is_refused_before_the_ladder(
    family: str,
    fusion_layer: int,
    message: str,
    family_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model", str(family_folder(family)), "--fusion-layer", str(fusion_layer), "--output", str(tmp_path)]
    assert main(["mask", *flags, "--convert"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out


def test_the_example_runs(
    family_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a cross-encoder to MICE in one page; what it prints of the lossless conversion is true of this one too."""
    collection = Collection(
        "tiny",
        {f"d{place}": f"{document} {place}" for place, (_, document) in enumerate(PAIRS * 3)},
        {f"q{place}": f"{query} {PAIRS[place % 4][1]}" for place, (query, _) in enumerate(PAIRS * 3)},
        {f"q{place}": {f"d{place}": 1} for place in range(12)},
    )
    for split, places in (("train", range(6)), ("test", range(6, 12))):
        write_beir(replace(collection, qrels={f"q{at}": {f"d{at}": 1} for at in places}), tmp_path, split)
    example = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "derive_mice.py"))
    example["main"](str(family_folder("bert")), str(tmp_path), "test")
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:5]] == ["full", "mask0", "mask1", "mask2", "mask3-l2"]
    found = re.search(r"lossless +largest difference of a score (\S+)", printed)
    assert found is not None
    assert float(found[1]) < 1e-5
    assert "after 4 steps" in printed
