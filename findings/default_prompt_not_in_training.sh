#!/usr/bin/env bash
# A re-ranker whose default prompt is set, trained and then asked.
#
# sentence-transformers 6.2.0: `CrossEncoder(prompts=..., default_prompt_name=...)` and `CrossEncoderTrainer`.
# Guess: the default prompt stands before the query everywhere, since "this prompt applies unless overridden", as the
# model logs.
# Seen: `predict`, `rank` and the evaluator apply it, training does not: the model is asked with tokens that it never
# saw in training. The trainer has a setting of its own, `prompts`, which knows the text, not the model's names.
#     training [2, 4, 5, 3, 6, 7, 3], predict and evaluator [2, 29, 29, 4, 5, 3, ...]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 sentence-transformers==6.2.0 accelerate==1.15.0 \
    datasets==5.2.0
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

from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

save_small_bert("base")
rows = Dataset.from_list([{"query": "a b", "document": "c d", "label": 1.0}] * 4)
samples = [{"query": "a b", "positive": ["c d"], "negative": ["e"]}]


def tokens_of(action, **settings):
    """The ids of the last pair that `action` makes."""
    reranker = CrossEncoder("base", device="cpu", prompts={"search": "z z "}, default_prompt_name="search")
    seen = []
    preprocess = reranker.preprocess

    def watched(*args, **kwargs):
        features = preprocess(*args, **kwargs)
        seen.extend(features["input_ids"].tolist())
        return features

    reranker.preprocess = watched
    action(reranker, **settings)
    return seen[-1]


def train(reranker, **settings):
    common = dict(max_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True)
    arguments = CrossEncoderTrainingArguments("run", **common, **settings)
    CrossEncoderTrainer(model=reranker, args=arguments, train_dataset=rows).train()


plain, prompted = [2, 4, 5, 3, 6, 7, 3], [2, 29, 29, 4, 5, 3, 6, 7, 3]
seen = {
    "predict": tokens_of(lambda reranker: reranker.predict([("a b", "c d")])),
    "rank": tokens_of(lambda reranker: reranker.rank("a b", ["c d"])),
    "evaluator": tokens_of(lambda reranker: CrossEncoderRerankingEvaluator(samples)(reranker)),
    "training": tokens_of(train),
    "training, prompts=text": tokens_of(train, prompts="z z "),
    "training, prompts=name": tokens_of(train, prompts="search"),
}
for name, ids in seen.items():
    print(f"{name:24}", ids)
assert seen["predict"] == seen["rank"] == prompted
assert seen["evaluator"][:6] == prompted[:6]
assert seen["training"] == plain, "training applies the model's default prompt"
assert seen["training, prompts=text"] == prompted
assert seen["training, prompts=name"] != prompted, "the trainer knows the model's prompt names"
PYTHON
