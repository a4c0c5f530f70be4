"""Pretrained models that rewards compute with: loaded from safetensors, run in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RewardError
from pgrpo_cli.pretrained.loading import check_vocabulary, load_model, load_tokenizer
from pgrpo_cli.pretrained.location import Location, located
from pgrpo_cli.pretrained.memory import is_out_of_memory, release_caches, release_memory
from pgrpo_cli.recipe.reward_base import PretrainedFields

CLASSIFIER, ENCODER = "AutoModelForSequenceClassification", "AutoModel"
"""The classes of transformers that make a reward model and an embedding model."""

Encode = Callable[[Sequence[int]], Mapping[str, Any]]
"""From the places of some inputs to the padded tensors [batch, tokens] that the model takes, on the CPU."""


@dataclass(frozen=True)
class Pretrained:
    """A model in evaluation mode on its device, with its tokenizer; the two numbers limit a batch.

    `where` begins messages, `rows` is the number of tokens that have an embedding.
    """

    model: Any
    tokenizer: Any
    device: Any
    max_tokens: int
    batch_size: int
    where: str
    rows: int

    def tokenized(self, *texts: Sequence[str], special_tokens: bool = True) -> Mapping[str, Any]:
        """Tensors of a batch of texts, or of pairs of texts. Too long ones lose their beginning; of a pair
        the first text does, and only if nothing is left of it the second.
        """
        rows = [self._cut(*row, special_tokens=special_tokens) for row in zip(*texts, strict=True)]
        tensors: Mapping[str, Any] = self.tokenizer.pad(rows, return_tensors="pt")
        self._refuse_unknown(tensors["input_ids"])
        return tensors

    def _cut(self, *texts: str, special_tokens: bool) -> Any:
        cut: bool | str = True
        if len(texts) == 2:
            room = self.max_tokens - self.tokenizer.num_special_tokens_to_add(pair=True)
            alone = self.tokenizer(texts[1], add_special_tokens=False, verbose=False)
            fits = len(alone["input_ids"]) < room
            texts, cut = (texts[0] if fits else "", texts[1]), "only_first" if fits else "only_second"
        return self.tokenizer(
            *texts, truncation=cut, max_length=self.max_tokens, add_special_tokens=special_tokens
        )

    def _refuse_unknown(self, ids: Any) -> None:
        largest = int(ids.max()) if ids.numel() else 0
        if largest >= self.rows:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise RewardError(
                f"{self.where}: a text has the special token {token!r}, number {largest}, and the model's "
                f"embedding has {self.rows} rows",
                remedy="Name another model, or take that token out of the data.",
            )

    def outputs(
        self, lengths: Sequence[int], encode: Encode, read: Callable[[Any, Mapping[str, Any]], Any]
    ) -> list[Any]:
        """What `read` makes of the model's output, a row for each input, in order.

        Inputs of like length share a batch. Raises RewardError where a single one does not fit in memory.
        """
        order = sorted(range(len(lengths)), key=lambda place: (lengths[place], place))
        found: dict[int, Any] = {}
        size, spared = self.batch_size, False
        while order:
            places = order[:size]
            rows, shortage = self._rows(places, encode, read)
            if shortage is None:
                found.update(zip(places, rows, strict=True))
                order, spared = order[size:], False
                continue
            # First what others keep for speed alone, then smaller batches.
            spared, more = True, not spared and release_caches()
            release_memory()
            if more:
                continue
            if size == 1:
                raise RewardError(
                    f"{self.where}: its model does not fit in the GPU's memory beside the run: {shortage}",
                    remedy="Lower its max_tokens, set its quantization to nf4, or take a smaller model.",
                )
            size = max(1, size // 2)
        return [found[place] for place in range(len(lengths))]

    def _rows(
        self, places: Sequence[int], encode: Encode, read: Callable[[Any, Mapping[str, Any]], Any]
    ) -> tuple[Any, str | None]:
        """The rows of a batch, or what the device says that has no memory for it."""
        import torch

        try:
            with torch.inference_mode():
                tensors = {name: value.to(self.device) for name, value in encode(places).items()}
                return read(self.model(**tensors), tensors).float().cpu(), None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None, str(error).splitlines()[0]


def load_pretrained(
    factory: str,
    section: PretrainedFields,
    at: Location,
    *,
    unused: str | None = None,
    device: Any = None,
) -> Pretrained:
    """The model that transformers' class `factory` makes, on `device` (None: the GPU if there is one).

    `unused`: prefix of weights that the checkpoint may lack, because nothing is read from them. Raises
    ModelError.
    """
    import torch

    from pgrpo_cli.pretrained.device import choose_device, set_up

    device = device or choose_device()
    set_up(device)
    tokenizer = load_tokenizer(at)
    model = load_model(
        at,
        factory,
        unused=unused,
        dtype="auto" if device.type == "cuda" else torch.float32,
        device_map={"": device},
        quantization_config=_quantization(section, device),
    )
    rows = model.get_input_embeddings().weight.shape[0]
    check_vocabulary(at.shown, tokenizer, rows)
    # A classifier finds the last token of an input by it.
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.truncation_side = "left"
    limits = (tokenizer.model_max_length, _positions(model))
    longest = min(section.max_tokens, *filter(None, limits))
    return Pretrained(model.eval(), tokenizer, device, longest, section.batch_size, at.where, rows)


def _positions(model: Any) -> int | None:
    """How many tokens have a position; None where the model does not say."""
    most: int | None = getattr(model.config, "max_position_embeddings", None)
    tables = (table for name, table in model.named_modules() if name.endswith("position_embeddings"))
    padding = next((table.padding_idx for table in tables if hasattr(table, "padding_idx")), None)
    # Models like RoBERTa count positions from the one after the padding's.
    return most if most is None or padding is None else most - padding - 1


def location_of(section: PretrainedFields, recipe_dir: Path, label: str) -> Location:
    """Where the model of the reward `label` is. Raises ModelError for a folder that is not there."""
    return located(f"reward {label!r}", section.model, recipe_dir, section.revision)


def _quantization(section: PretrainedFields, device: Any) -> Any:
    if section.quantization.type == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    from pgrpo_cli.pretrained.device import has_bfloat16

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=section.quantization.double,
        bnb_4bit_compute_dtype=torch.bfloat16 if has_bfloat16(device) else torch.float16,
    )
