#!/usr/bin/env bash
# A pair joined from a query and a document that were encoded apart (each once, for many pairs) against the pair
# encoded at once.
#
# tokenizers 0.23.3: `Tokenizer.post_process(query, document)`.
# Guess: the same Encoding in every field.
# Seen: with TemplateProcessing, the processor of most tokenizer.json files, ids, type ids, masks, offsets and word
# ids are equal, but the query's tokens belong to no sequence: sequence_ids None, token_to_chars None, as for special
# tokens. The way back is worse: a character of the query leads to a token of the *document*. With BertProcessing and
# RobertaProcessing all is equal.
#     at once [None, 0, 0, None, 1, 1, None], joined [None, None, None, None, 1, 1, None]; char_to_token(0, 0): 1 and
#     4
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from tokenizers import Tokenizer, models, pre_tokenizers, processors

words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdef"]
special = [("[CLS]", 2), ("[SEP]", 3)]
processors_by_name = {
    "template": processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special),
    "bert": processors.BertProcessing(*reversed(special)),
    "roberta": processors.RobertaProcessing(*reversed(special)),
}
equal = ("ids", "type_ids", "attention_mask", "special_tokens_mask", "tokens", "offsets", "word_ids", "n_sequences")


def make(processor, length):
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processor
    if length:
        tokenizer.enable_truncation(length)
    return tokenizer


for name, processor in processors_by_name.items():
    for length in (None, 6):
        tokenizer = make(processor, length)
        whole = tokenizer.encode("a b", "c d")
        query, document = (tokenizer.encode(text, add_special_tokens=False) for text in ("a b", "c d"))
        joined = tokenizer.post_process(query, document)
        print(f"{name:9} {length}", whole.sequence_ids, joined.sequence_ids, joined.char_to_token(0, 0))
        assert all(getattr(whole, field) == getattr(joined, field) for field in equal), name
        assert whole.char_to_token(0, 0) == 1 and whole.token_to_chars(1) == (0, 1)
        if name != "template":
            assert whole.sequence_ids == joined.sequence_ids and joined.char_to_token(0, 0) == 1
            continue
        assert 0 in whole.sequence_ids and 0 not in joined.sequence_ids, "the query has its sequence"
        assert joined.token_to_chars(1) is None
        assert joined.char_to_token(0, 0) == joined.sequence_ids.index(1), "a query's character leads to its own token"
        assert tokenizer.post_process(query).sequence_ids == tokenizer.encode("a b").sequence_ids
PYTHON
