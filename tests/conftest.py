"""Tiny models and tokenizers, built in memory: no test reads the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
os.environ["HF_HUB_DISABLE_XET"] = "1"  # its sockets are not Python's, which is where tests are kept from the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from mice_st import MiceCrossEncoder, convert
from mice_st.data.collection import Collection, write_beir
from mice_st.data.wheels import find_backbone
from mice_st.loading import DEFAULT_MODEL, HUB_CARDS

# No test leaves this machine: not this process, nor any Python process that it starts.
CLOSED_SOCKETS = Path(__file__).parent / "closed_sockets"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CLOSED_SOCKETS), os.environ.get("PYTHONPATH")]))
_spec = importlib.util.spec_from_file_location("closed_sockets", CLOSED_SOCKETS / "sitecustomize.py")
assert _spec is not None
assert _spec.loader is not None
_spec.loader.exec_module(importlib.util.module_from_spec(_spec))

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = (
    "the of in on to and is was who what where how many people live berlin city museum population river bridge "
    "capital germany list sort file read write open close path string number function returns python cat dog bird"
)
VOCABULARY = [
    *SPECIAL_TOKENS,
    *"[].,:;!?'\"()-",
    *CHARACTERS,
    *(f"##{character}" for character in CHARACTERS),
    *WORDS.split(),
]

# What the drivers of fresh processes start with: the Hub copy has to run where mice_st is not installed.
HIDE_MICE_ST = "sys.modules['mice_st'] = None\n"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads that wait for each other cost more than these models do, five times where other work runs beside."""
    torch.set_num_threads(1)


def shake(model: torch.nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Move every parameter off its start: biases are born as zeros and norms as ones, and would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)


@pytest.fixture(scope="session", name="shake")
def shake_fixture() -> Callable[..., None]:
    return shake


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A BERT tokenizer that knows every lower-case letter, digit and some words."""
    ids = {token: place for place, token in enumerate(VOCABULARY)}
    backend = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bert_config(**fields: Any) -> BertConfig:
    """Four layers, four heads, 32 wide."""
    defaults = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    return BertConfig(**defaults | fields)


def seeded(kind: type[PreTrainedModel], config: BertConfig) -> PreTrainedModel:
    """A model with the same weights whichever tests ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config)


@pytest.fixture(scope="session", name="bert_config")
def bert_config_fixture() -> Callable[..., BertConfig]:
    return bert_config


@pytest.fixture(scope="session")
def encoder_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder with its pooler."""
    folder = tmp_path_factory.mktemp("encoder")
    model = seeded(BertModel, bert_config())
    shake(model, seed=1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cross_encoder_folder(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT cross-encoder with one label."""
    folder = tmp_path_factory.mktemp("cross-encoder")
    model = seeded(BertForSequenceClassification, bert_config(num_labels=1))
    shake(model, seed=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def embedding_folder(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding model with mean pooling and normalised vectors; its longest text is 24 tokens."""
    folder = tmp_path_factory.mktemp("embedding")
    transformer = Transformer(str(encoder_folder), max_seq_length=24)
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def mice_folder(cross_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MICE model with everything switched on; queries have 16 tokens at most, documents 32."""
    folder = tmp_path_factory.mktemp("mice")
    model, _ = convert(
        cross_encoder_folder, 2, 2, exact_match=True, pooled_residual=True, query_max_length=16, document_max_length=32
    )
    shake(model, seed=3)
    # Scores below 1, where float32 has seven digits behind the point: doors are compared at 1e-6.
    model.mice.pooled_residual_log_scale.data.fill_(0.0)
    model.mice.classifier.weight.data.mul_(0.5)
    model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def mice(mice_folder: Path) -> MiceCrossEncoder:
    """The model of ``mice_folder``. Shared: a test that changes it makes its own."""
    return MiceCrossEncoder(str(mice_folder), device="cpu")


@pytest.fixture(scope="session")
def stock(mice_folder: Path) -> CrossEncoder:
    """sentence-transformers' own class on the same folder; shared as well."""
    return CrossEncoder(str(mice_folder), trust_remote_code=True, device="cpu")


@pytest.fixture(scope="session")
def released_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``mice-mini``; where the repository has none yet, a model of its architecture that is not trained."""
    folder = HUB_CARDS / DEFAULT_MODEL
    if not (folder / "config.json").is_file():
        folder = tmp_path_factory.mktemp("released") / DEFAULT_MODEL
        model, _ = convert(find_backbone(), interaction_layers=2, max_sim_residual=True)
        model.save(str(folder))
    return folder


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``run_python(code_or_path, *arguments, without_mice_st)``: what a fresh process with empty caches prints.

    ``environment`` adds variables; with ``fails`` the process has to fail, and its standard error is returned.
    """

    def run(
        code_or_path: str | Path,
        *arguments: str | Path,
        without_mice_st: bool,
        environment: dict[str, str] | None = None,
        fails: bool = False,
    ) -> str:
        folder = tmp_path_factory.mktemp("process")
        script = folder / "script.py"
        if isinstance(code_or_path, Path):
            script = code_or_path.resolve()
        else:
            script.write_text(code_or_path, encoding="utf-8")
        driver = "import sys, runpy\n" + (HIDE_MICE_ST if without_mice_st else "")
        driver += "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
        caches = {"HF_HOME": str(folder / "hf"), "HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
        ran = subprocess.run(
            [sys.executable, "-c", driver, str(script), *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **caches, **(environment or {})},
            stdin=subprocess.DEVNULL,  # a question on standard input is a failure
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode != 0) is fails, ran.stdout + ran.stderr
        return ran.stderr if fails else ran.stdout

    return run


@pytest.fixture(scope="session")
def toy(tokenizer: PreTrainedTokenizerFast) -> Collection:
    """24 documents of four words; a query is three words of its document."""
    words = [token for token in tokenizer.get_vocab() if len(token) > 2 and token.isalpha()]
    generator = random.Random(0)
    texts = [generator.sample(sorted(words), 4) for _ in range(24)]
    return Collection(
        "toy",
        {f"d{place}": " ".join(text) for place, text in enumerate(texts)},
        {f"q{place}": " ".join(text[:3]) for place, text in enumerate(texts)},
        {f"q{place}": {f"d{place}": 1} for place in range(24)},
    )


@pytest.fixture(scope="session")
def toy_folder(toy: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection in BEIR layout, judgements as train and dev."""
    folder = tmp_path_factory.mktemp("toy")
    write_beir(toy, folder, "train")
    write_beir(toy, folder, "dev")
    return folder
