"""Tiny text towers of transformers, tokenizer folders and configurations in open_clip's layout."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CustomTextCLIP
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from clip_tools import VISION

PIECES = ["x", ".", "no", "finding", "a", "lesion", "in", "the", "liver", "normal"]
LETTERS = list("abcdefghijklmnopqrstuvwxyz0123456789,'-()")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]

_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_BERT, "max_position_embeddings": 64, "pad_token_id": 0},
    "roberta": {**_BERT, "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": {**_BERT, "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1},
    "mt5": {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "pad_token_id": 1},
    "m2m_100": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
        "pad_token_id": 1,
    },
}  # fmt: skip


def wordpiece(folder: Path) -> int:
    """BERT's files: vocab.txt and tokenizer_config.json; the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]
    words += [letter for letter in LETTERS if letter not in words] + [f"##{letter}" for letter in LETTERS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 1000})
    )
    return len(words)


def sentencepiece(folder: Path, template: str, padding_side: str = "right") -> int:
    """A unigram tokenizer.json as T5 ("$A </s>") or XLM-R ("<s> $A </s>") have it; the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    scored = [(piece, 0.0) for piece in SPECIAL] + [("▁", -4.0)]
    scored += [(f"▁{piece}", -1.0) for piece in PIECES if piece.isalpha()] + [("▁X", -1.0)]
    scored += [(letter, -6.0) for letter in [*LETTERS, "."]]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": padding_side, **names})
    )
    return len(scored)


def text_folder(folder: Path, kind: str) -> dict[str, Any]:
    """config.json and tokenizer of a tiny text tower; what was written into config.json."""
    template = "$A </s>" if kind == "mt5" else "<s> $A </s>"
    size = wordpiece(folder) if kind == "bert" else sentencepiece(folder, template)
    config = {"model_type": kind, "vocab_size": size, **CONFIGS[kind]}
    (folder / "config.json").write_text(json.dumps(config))
    return config


def hf_config(**text: Any) -> dict[str, Any]:
    """An open_clip configuration with a tiny image tower and a text tower of transformers."""
    names = {"hf_model_name": "org/text-tower", "hf_tokenizer_name": "org/text-tower"}
    return {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": {**names, "context_length": 64, **text}}


def hf_reference(config: dict[str, Any], folder: Path, seed: int = 3) -> nn.Module:
    """open_clip's own network with the text tower described in a folder, every tensor random."""
    arguments = copy.deepcopy(config)
    arguments.pop("custom_text", None)
    arguments["text_cfg"].update(hf_model_name=str(folder), hf_model_pretrained=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = CustomTextCLIP(**arguments)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def bundle(folder: Path, config: dict[str, Any], model: nn.Module) -> None:
    """The configuration and weights as open_clip pushes them to the Hub."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
