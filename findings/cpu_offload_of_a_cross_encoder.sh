#!/usr/bin/env bash
# accelerate's `cpu_offload`, called on the model inside a re-ranker that is already loaded.
#
# sentence-transformers 6.2.0, accelerate 1.15.0.
# Guess: accelerate's hooks bring inputs and weights together, as they do for the plain model inside.
# Seen: the plain model works; `predict` raises "Cannot copy out of meta tensor", on a re-ranker that has never
# predicted too. `clear_placement_cache()` is what to call, but before the first `predict`: the one that raised has
# moved the model's buffers to "meta" for good, and from then on it raises with the cleared cache as well, while the
# device is said to be "cpu".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 sentence-transformers==6.2.0 accelerate==1.15.0
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

from accelerate import cpu_offload
from sentence_transformers import CrossEncoder

save_small_bert("base")
pairs = [("a b", "c d e"), ("f", "g h")]
before = CrossEncoder("base", device="cpu").predict(pairs)


def offloaded():
    reranker = CrossEncoder("base", device="cpu")
    cpu_offload(reranker[0].auto_model, execution_device="cpu")
    return reranker


def raises(reranker):
    try:
        reranker.predict(pairs)
    except NotImplementedError as error:
        print("  ", type(error).__name__, error)
        return "meta tensor" in str(error)
    return False


def buffers(reranker):
    return {buffer.device.type for buffer in reranker.buffers()}


reranker = offloaded()
tokens = reranker.tokenizer("a b", "c d e", return_tensors="pt")
inside = reranker[0].auto_model(**tokens).logits.sigmoid().item()
assert abs(inside - before[0]) < 1e-5
reranker.clear_placement_cache()
print("cleared at once:", reranker.device, buffers(reranker), reranker.predict(pairs))
assert abs(reranker.predict(pairs) - before).max() < 1e-6

late = offloaded()
print("not cleared:", late.device, buffers(late))
assert late.device.type == "meta" and buffers(late) == {"cpu"}
assert raises(late), "predict works without clear_placement_cache"
late.clear_placement_cache()
print("cleared after that:", late.device, buffers(late))
assert late.device.type == "cpu" and buffers(late) == {"meta"}
assert raises(late), "clear_placement_cache mends it afterwards"
PYTHON
