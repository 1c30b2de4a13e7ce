#!/usr/bin/env bash
# A re-ranker with a LoRA adapter and a trained head, switched off for a comparison with its base and on again.
#
# sentence-transformers 6.2.0, transformers 5.23.0, peft 0.21.2: `disable_adapters()`, `enable_adapters()`.
# Guess: the scores from before come back.
# Seen: the LoRA layers come back, the head of `modules_to_save` stays the base model's. The scores are neither the
# adapter's nor the base's, `set_adapter` does not mend it, and the folder saved in that state loads with the right
# scores. peft's own model is right.
#     base .329, adapter .359, off .329, on again .526, set_adapter .526, saved and loaded .359
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 sentence-transformers==6.2.0 accelerate==1.15.0 \
    peft==0.21.2
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

from peft import LoraConfig, get_peft_model
from sentence_transformers import CrossEncoder


def train(model):
    """Stand-in for training: every trainable weight moves."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and ("lora_B" in name or "modules_to_save" in name):
                weight.add_(0.3)


save_small_bert("base")
lora = LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["classifier"])
reranker = CrossEncoder("base", device="cpu")
pairs = [("a b", "c d e")]
seen = {"base": reranker.predict(pairs).item()}
reranker.add_adapter(lora)
train(reranker)
seen["adapter"] = reranker.predict(pairs).item()
reranker.disable_adapters()
seen["off"] = reranker.predict(pairs).item()
reranker.enable_adapters()
seen["on again"] = reranker.predict(pairs).item()
reranker.set_adapter("default")
seen["set_adapter"] = reranker.predict(pairs).item()
reranker.save_pretrained("saved")
seen["saved and loaded"] = CrossEncoder("saved", device="cpu").predict(pairs).item()
assert reranker.active_adapters() == ["default"]

peft_model = get_peft_model(BertForSequenceClassification.from_pretrained("base"), lora).eval()
train(peft_model)
tokens = reranker.tokenizer("a b", "c d e", return_tensors="pt")
before = peft_model(**tokens).logits.sigmoid().item()
with peft_model.disable_adapter():
    assert abs(peft_model(**tokens).logits.sigmoid().item() - seen["base"]) < 1e-5
assert abs(peft_model(**tokens).logits.sigmoid().item() - before) < 1e-6, "peft's own switch"

print({name: round(score, 3) for name, score in seen.items()})
assert abs(seen["off"] - seen["base"]) < 1e-5
assert abs(seen["adapter"] - seen["saved and loaded"]) < 1e-5
assert seen["set_adapter"] == seen["on again"]
assert min(abs(seen["on again"] - seen[other]) for other in ("adapter", "base")) > 0.01, "the head came back"
PYTHON
