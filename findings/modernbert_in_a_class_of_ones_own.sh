#!/usr/bin/env bash
# A checkpoint that lacks some weights of a ModernBERT, loaded by ModernBertModel and by a model of one's own around
# it.
#
# transformers 5.23.0.
# Guess: the missing weights start as ModernBERT starts them, since it is ModernBERT that holds them: what comes out
# of an attention layer with initializer_range / sqrt(2 * layers), cut at three deviations.
# Seen: so it is in ModernBertModel, and in a fresh model of either class. Loaded in a class outside transformers,
# missing attn.Wo and mlp.Wo start with the full initializer_range, uncut: 4.5 times too wide with 8 layers.
# Initialisation of outside code skips modules whose own parameters are all loaded; the layer that knows the scheme
# has none of its own, and `all()` of none is true.
#     std of attn.Wo: fresh .0044, loaded by ModernBertModel .0044, by one's own class .0201
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" TOKENIZERS_PARALLELISM=false
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import ModernBertConfig, ModernBertModel, PreTrainedModel

sizes = dict(vocab_size=32, hidden_size=64, num_hidden_layers=8, num_attention_heads=4, intermediate_size=64)
numbers = dict(pad_token_id=0, bos_token_id=1, cls_token_id=1, eos_token_id=2, sep_token_id=2)
config = ModernBertConfig(**sizes, **numbers, max_position_embeddings=64)


class Reranker(PreTrainedModel):
    config_class = ModernBertConfig
    _supports_sdpa = _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        self.encoder = ModernBertModel(config)
        self.score = torch.nn.Linear(config.hidden_size, 1)
        self.post_init()


def deviation(model, part):
    return torch.cat([weight.flatten() for name, weight in model.named_parameters() if part in name]).std().item()


def fresh_and_loaded(kind, part):
    """The deviation of `part` in a fresh model, and in one loaded from a checkpoint that lacks it."""
    torch.manual_seed(0)
    model = kind(config)
    kept = {name: weight for name, weight in model.state_dict().items() if part not in name}
    folder = f"{kind.__name__}-{part}"
    model.save_pretrained(folder, state_dict=kept)
    loaded, info = kind.from_pretrained(folder, output_loading_info=True)
    assert len(info["missing_keys"]) == config.num_hidden_layers
    return deviation(model, part), deviation(loaded, part)


for part in ("attn.Wo", "mlp.Wo"):
    theirs, own = fresh_and_loaded(ModernBertModel, part), fresh_and_loaded(Reranker, part)
    print(part, "fresh and loaded: ModernBertModel %.4f %.4f," % theirs, "own class %.4f %.4f" % own)
    assert max(*theirs, own[0]) < 0.005
    assert own[1] > 0.018, "a class of one's own starts missing weights as ModernBERT does"
PYTHON
