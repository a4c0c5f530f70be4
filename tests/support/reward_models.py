"""Tiny models, random and saved on the spot: classifiers, an encoder and a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.model.load.random_model import random_tokenizer


def pair_tokenizer() -> Any:
    """BERT's way: a token a letter, [CLS] and [SEP] around one text or two, no chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: index for index, token in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _bert_config(**settings: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        **settings,
    )


def save_chat_classifier(folder: Path, *, outputs: int = 1, hidden_size: int = 16) -> Path:
    """A Llama that reads ChatML and has `outputs` numbers to say about it."""
    from tokenizers.processors import TemplateProcessing
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = random_tokenizer()
    # As many do, it begins what has no chat template around it with a token of its own.
    begin = ("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin[0]} $A", pair=f"{begin[0]} $A $B", special_tokens=[begin]
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        num_labels=outputs,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _saved(LlamaForSequenceClassification(config), tokenizer, folder)


def save_pair_classifier(folder: Path, *, outputs: int = 2) -> Path:
    """A BERT that reads two texts."""
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    return _saved(BertForSequenceClassification(_bert_config(num_labels=outputs)), pair_tokenizer(), folder)


def save_encoder(folder: Path) -> Path:
    """A BERT without a head, and without its pooler, as sentence-transformers saves many."""
    from transformers import BertModel

    torch.manual_seed(0)
    return _saved(BertModel(_bert_config(), add_pooling_layer=False), pair_tokenizer(), folder)


def save_roberta(folder: Path) -> Path:
    """A RoBERTa without a head, of 16 positions, whose tokenizer states no limit."""
    from transformers import RobertaConfig, RobertaModel

    tokenizer = pair_tokenizer()
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _saved(RobertaModel(config, add_pooling_layer=False), tokenizer, folder)


def save_causal(folder: Path, *, tied: bool = False, rows: int | None = None) -> Path:
    """A Llama that reads ChatML, with an output layer of its own unless `tied`; `rows` of its embedding."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = random_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return _saved(LlamaForCausalLM(config), tokenizer, folder)


def save_gguf(path: Path, *, without: str = "") -> Path:
    """A Llama of zeros as a GGUF file, without a tokenizer; `without`: a tensor that is left out."""
    import gguf
    import numpy as np

    width, inner, rows = 32, 64, 96
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(rows)
    shapes = {
        "token_embd": (rows, width),
        "output": (rows, width),
        "output_norm": (width,),
        **{f"blk.0.{name}_norm": (width,) for name in ("attn", "ffn")},
        **{f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{name}": (inner, width) for name in ("gate", "up")},
        "blk.0.ffn_down": (width, inner),
    }
    for name, shape in shapes.items():
        if name != without:
            writer.add_tensor(f"{name}.weight", np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
