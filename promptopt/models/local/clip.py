"""CLIP through transformers: how near an image is to a caption for each label (Radford et al. 2021, section 3.1).

Knows nothing of tasks or rewards.
"""

from __future__ import annotations

import contextlib
import io
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from promptopt.errors import InputError, MissingExtraError
from promptopt.images import Image, parse_reference, pixels
from promptopt.models.base import Price
from promptopt.prompt import LABEL
from promptopt.replies import Arrival, Failure, Response, Usage

try:
    import torch
    from torch.nn import functional
    from transformers import CLIPModel
    from transformers.image_processing_base import ImageProcessingMixin
except ImportError as error:
    raise MissingExtraError("a CLIP model", "local") from error

from promptopt.models.local.loading import Files, choose_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from promptopt.images import Pixels
    from promptopt.models.base import Request
    from promptopt.prompt import Context

_SLOT = f"{{{LABEL}}}"
_ROWS = 256  # captions in one pass
_KEPT = 64  # templates whose captions' features stay at hand: of 1,000 labels some 130 MB


class _Captions(NamedTuple):
    """A template's captions, one a label.

    Args:
        features: float32 [L, D], of length 1; or why there are none.
        tokens: read, of all captions together.
    """

    features: torch.Tensor | Failure
    tokens: int


class ClipModel:
    """A CLIP model on this machine, that compares an image with a caption for each label.

    Log-probabilities are log softmax(scale * cosine) over the labels, in float32, not over a vocabulary.

    Image features are kept for as long as the model lives, by the digest of the file: each image is computed once a process.
    Each image, and each template's captions, are passes of their own and always of one shape, so that features are the
    same to the last bit whatever else is computed; a killed and resumed run ends with the same bytes.

    Args:
        name: a folder or a hub name.
        device: "auto" takes a GPU where there is one.

    Raises:
        InputError: the model is not there, or no CLIP model.
    """

    unit: Literal["batch"] = "batch"
    price = Price(0.0, 0.0)
    captions: Literal[True] = True

    def __init__(self, name: str, *, device: str = "auto") -> None:
        self.name = name
        self.device = choose_device(device)
        self._files = _ClipFiles(name)
        self._images: dict[str, torch.Tensor] = {}
        self._texts: dict[tuple[str, ...], _Captions] = {}

    def __repr__(self) -> str:
        return f"ClipModel({self.name!r}, device={self.device})"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """Digest of the files (commit of a hub model)."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> Mapping[str, Any]:
        return {
            "provider": "local-clip",
            "model": Path(self.name).name if Path(self.name).exists() else self.name,
            "digest": self._files.digest(),
            "dtype": "float32",
        }

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:  # noqa: ARG002  the protocol's
        """Refuse: CLIP writes no text.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.name} compares images with captions and writes no text: give the search a writer, such as --writer openai:NAME"
        )

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context natural log p(label | image), normalised over the labels.

        Args:
            contexts: (caption with the slot {label}, reference to an image), as tasks with format "caption" have them.
            labels: fill the slot.

        Raises:
            InputError: a context of another kind, or an image that cannot be read.
        """
        rows: dict[str, list[tuple[int, Image]]] = {}
        for number, context in enumerate(contexts):
            template, image = self._parts(context)
            rows.setdefault(template, []).append((number, image))
        for template, asked in rows.items():
            captions = self._captions(tuple(template.replace(_SLOT, label) for label in labels))
            if isinstance(captions.features, Failure):
                yield from (Arrival(number, captions.features) for number, _ in asked)
                continue
            images = torch.stack([self._image(image) for _, image in asked])  # [n, D]
            logits = self._network.logit_scale.exp() * images @ captions.features.T  # [n, L]
            logprobs = functional.log_softmax(logits, dim=1).tolist()
            for (number, _), row in zip(asked, logprobs, strict=True):
                likeliest = labels[max(range(len(labels)), key=row.__getitem__)]
                yield Arrival(number, Response(likeliest, tuple(row), Usage(input=captions.tokens)))

    def _parts(self, context: Context) -> tuple[str, Image]:
        if not isinstance(context, str) and [turn.role for turn in context] == ["system", "user"]:
            caption, image = (turn.content for turn in context)
            if _SLOT in caption:
                return caption, parse_reference(image)
        raise InputError(
            f"{self.name} compares images with captions that hold {_SLOT}: give the task format = 'caption'"
        )

    @torch.inference_mode()
    def _captions(self, captions: tuple[str, ...]) -> _Captions:
        if captions not in self._texts:
            if len(self._texts) == _KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[captions] = self._read(captions)
        return self._texts[captions]

    def _read(self, captions: Sequence[str]) -> _Captions:
        network, longest = self._network, int(self._files.config.max_position_embeddings)
        out: list[torch.Tensor] = []
        tokens = 0
        for start in range(0, len(captions), _ROWS):
            batch = self._files.tokenizer(list(captions[start : start + _ROWS]), padding=True, return_tensors="pt")
            tokens += int(batch["attention_mask"].sum())
            if batch["input_ids"].shape[1] > longest:
                reason = (
                    f"{batch['input_ids'].shape[1]} tokens are more than the {longest} that {self.name} can read: "
                    "shorten the caption"
                )
                return _Captions(Failure(reason), tokens)
            ids, mask = (batch[part].to(self.device) for part in ("input_ids", "attention_mask"))
            pooled = network.text_model(input_ids=ids, attention_mask=mask).pooler_output
            out.append(_unit(network.text_projection(pooled)))
        return _Captions(torch.cat(out), tokens)

    @torch.inference_mode()
    def _image(self, image: Image) -> torch.Tensor:
        if image.digest not in self._images:
            values = self._files.frame.of(pixels(image)).to(self.device)
            pooled = self._network.vision_model(pixel_values=values[None]).pooler_output
            self._images[image.digest] = _unit(self._network.visual_projection(pooled))[0]
        return self._images[image.digest]

    @cached_property
    def _network(self) -> Any:
        return self._files.network(torch.float32, self.device)


class _Frame(NamedTuple):
    """How an image becomes the network's input: shorter side to a size (bicubic), middle cut out, colours normalised.

    Args:
        side: of the shorter side.
        crop: side of the square that is cut out.
        mean: of red, green and blue in [0, 1].
        deviation: of red, green and blue.
    """

    side: int
    crop: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def of(self, image: Pixels) -> torch.Tensor:
        """Return float32 [3, crop, crop]."""
        values = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
        height, width = image.shape[:2]
        shorter = min(height, width)
        size = [int(self.side * height / shorter), int(self.side * width / shorter)]
        for step in ([height, size[1]], size):  # columns, then rows, rounded between, as Pillow does
            if list(values.shape[1:]) != step:
                values = functional.interpolate(values[None], step, mode="bicubic", antialias=True)[0]
                values = values.round().clamp(0, 255)
        top, left = ((edge - self.crop) // 2 for edge in size)
        values = values[:, top : top + self.crop, left : left + self.crop] / 255
        return (values - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.deviation)[:, None, None]


class _ClipFiles(Files):
    """Where a CLIP model is, and what is read from there."""

    def network(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Load the weights of both encoders."""
        if self._whole_config.model_type != "clip":
            raise InputError(f"{self.name} is a {self._whole_config.model_type} model, no CLIP model: use another")
        # What transformers says while loading, bars above all, would break the one line of progress.
        with contextlib.redirect_stderr(io.StringIO()):
            network: Any = CLIPModel.from_pretrained(self._source, dtype=dtype)
        return network.to(device).eval().requires_grad_(requires_grad=False)

    def digest(self) -> str:
        """Return the SHA-256 of the files, or the commit of a hub model."""
        if isinstance(self._where, Path):
            return super().digest()
        return str(self._whole_config._commit_hash)  # noqa: SLF001  the text encoder's own settings have none

    @cached_property
    def frame(self) -> _Frame:
        """How images are prepared, as the model's files say.

        Raises:
            InputError: they say something else than CLIP's own way.
        """
        given, _ = ImageProcessingMixin.get_image_processor_dict(self._source)
        side, crop = (_edge(given.get(name)) for name in ("size", "crop_size"))
        wanted = self._whole_config.vision_config.image_size
        if side is None or crop is None or not crop == wanted <= side or given.get("resample", 3) != _BICUBIC:
            raise InputError(
                f"{self.name} prepares images in a way that is not built (size {given.get('size')}, crop "
                f"{given.get('crop_size')}, resample {given.get('resample')}; the network reads {wanted}): use a model with "
                "the shorter side resized (bicubic) and the middle cut out"
            )
        return _Frame(side, crop, tuple(given["image_mean"]), tuple(given["image_std"]))


_BICUBIC = 3  # in Pillow's numbers


def _edge(given: Any) -> int | None:
    """Return the one edge that a size has, or None; older files hold a number."""
    if isinstance(given, dict):
        edges = set(given.values()) if set(given) in ({"shortest_edge"}, {"height", "width"}) else set()
        return int(edges.pop()) if len(edges) == 1 else None
    return given if isinstance(given, int) else None


def _unit(features: torch.Tensor) -> torch.Tensor:
    return features / features.pow(2).sum(dim=-1, keepdim=True).sqrt()
