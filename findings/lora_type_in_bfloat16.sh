#!/usr/bin/env bash
# LoRA on a re-ranker loaded in bfloat16, once by `add_adapter`, once by peft's `get_peft_model`.
#
# sentence-transformers 6.2.0, transformers 5.23.0, peft 0.21.2.
# Guess: both hold the adapter in float32 (peft's `autocast_adapter_dtype`, on unless switched off).
# Seen: `add_adapter` leaves the adapter in bfloat16, where the steps of a small learning rate are lost in rounding.
#     add_adapter    bfloat16, ten steps at 1e-5 changed .8% of lora_A's entries
#     get_peft_model float32, 100%
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

save_small_bert("base")
lora = LoraConfig(r=4, target_modules=["query", "value"])


def share_changed(model, logits):
    """Ten steps of AdamW on the adapter; which share of lora_A's entries is another number afterwards."""
    first = {name: weight for name, weight in model.named_parameters() if "lora_A" in name}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    before = {name: weight.detach().clone() for name, weight in first.items()}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)
    for _ in range(10):
        logits().float().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = sum((weight != before[name]).sum().item() for name, weight in first.items())
    return {weight.dtype for weight in first.values()}, changed / sum(weight.numel() for weight in first.values())


reranker = CrossEncoder("base", device="cpu", model_kwargs={"dtype": torch.bfloat16})
tokens = reranker.tokenizer("a b", "c d e", return_tensors="pt")
reranker.add_adapter(lora)
model = reranker[0].auto_model.eval()
by_add_adapter = share_changed(model, lambda: model(**tokens).logits)

peft_model = get_peft_model(BertForSequenceClassification.from_pretrained("base", dtype=torch.bfloat16), lora).eval()
by_peft = share_changed(peft_model, lambda: peft_model(**tokens).logits)

print("add_adapter   ", *by_add_adapter)
print("get_peft_model", *by_peft)
assert by_add_adapter[0] == {torch.bfloat16}, by_add_adapter
assert by_peft[0] == {torch.float32}, by_peft
assert by_add_adapter[1] < 0.1 and by_peft[1] > 0.95
PYTHON
