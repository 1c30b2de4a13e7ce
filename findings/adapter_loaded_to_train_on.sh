#!/usr/bin/env bash
# An adapter of a re-ranker, saved, loaded from its folder and trained further.
#
# sentence-transformers 6.2.0, transformers 5.23.0, peft 0.21.2.
# Guess: the loaded adapter can be trained, as the model that was saved could.
# Seen: nothing in the loaded model can; the trainer's first backward pass raises a RuntimeError that does not speak
# of adapters. `set_adapter("default")` mends it. `load_adapter(folder, is_trainable=True)` on the base does too; but
# under a name that is a part of weights' names, such as "query", it reports those weights of the base as MISSING and
# newly initialised: none has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 sentence-transformers==6.2.0 accelerate==1.15.0 \
    peft==0.21.2 datasets==5.2.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from string import ascii_lowercase

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast


def save_small_bert(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *ascii_lowercase]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, num_labels=1, initializer_range=0.2, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)

import logging

from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments


class Records(logging.Handler):
    text = ""

    def emit(self, record):
        self.text += record.getMessage()


def train(reranker):
    rows = Dataset.from_list([{"query": "a b", "document": "c d e", "label": 1.0}] * 4)
    arguments = CrossEncoderTrainingArguments("run", max_steps=2, learning_rate=0.01, save_strategy="no", report_to=[])
    CrossEncoderTrainer(model=reranker, args=arguments, train_dataset=rows).train()


trainable = lambda reranker: sum(weight.requires_grad for weight in reranker.parameters())
save_small_bert("base")
reranker = CrossEncoder("base", device="cpu")
reranker.add_adapter(LoraConfig(r=4, target_modules=["query", "value"]))
train(reranker)
reranker.save_pretrained("adapter")
score = reranker.predict([("a b", "c d e")]).item()

loaded = CrossEncoder("adapter", device="cpu")
print("trainable tensors, made:", trainable(reranker), "loaded:", trainable(loaded))
assert (trainable(reranker), trainable(loaded)) == (8, 0)
try:
    train(loaded)
    raise SystemExit("it trains")
except RuntimeError as error:
    print(type(error).__name__, error)
    assert "does not require grad" in str(error)
loaded.set_adapter("default")
train(loaded)
assert loaded.predict([("a b", "c d e")]).item() != score

before = CrossEncoder("base", device="cpu").state_dict()
for name, reported in (("default", False), ("query", True)):
    base, records = CrossEncoder("base", device="cpu"), Records()
    logging.getLogger("transformers").addHandler(records)
    base.load_adapter("adapter", adapter_name=name, is_trainable=True)
    after = {key.replace(".base_layer", ""): weight for key, weight in base.state_dict().items()}
    assert all(torch.equal(weight, after[key]) for key, weight in before.items())
    assert trainable(base) == 8 and abs(base.predict([("a b", "c d e")]).item() - score) < 1e-6
    said = "self.query.base_layer.weight" in records.text and "newly initialized" in records.text
    print(f"loaded as {name}: the base's weights are said to be newly initialised: {said}")
    assert said == reported
PYTHON
