"""CLIP through transformers: similarity of an image to a caption for each label (Radford et al. 2021, section 3.1).

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
_BATCH = 256  # captions per pass
_CACHED_TEMPLATES = 64  # whose caption features are cached: about 130 MB with 1,000 labels


class _Captions(NamedTuple):
    """The encoded captions of a template, one per label.

    Args:
        features: unit vectors, float32 [L, D], or a failure.
        tokens: total number of tokens in all captions.
    """

    features: torch.Tensor | Failure
    tokens: int


class ClipModel:
    """A CLIP model on this machine that compares an image with a caption for each label.

    Log-probabilities are log softmax(scale * cosine) over the labels, in float32, not over a vocabulary.

    Image features are cached by the digest of the file: each image is computed once per process. Each image, and each
    template's captions, are separate passes of fixed shape, so that features are bitwise reproducible; a killed and resumed
    run gives identical results.

    Args:
        name: a folder or a hub name.
        device: "auto" uses a GPU if there is one.

    Raises:
        InputError: the model cannot be found, or is not a CLIP model.
    """

    unit: Literal["batch"] = "batch"
    price = Price(0.0, 0.0)
    captions: Literal[True] = True

    def __init__(self, name: str, *, device: str = "auto") -> None:
        self.name = name
        self.device = torch.device(choose_device(device))
        self._files = _ClipFiles(name)
        self._image_features: dict[str, torch.Tensor] = {}
        self._encoded_captions: dict[tuple[str, ...], _Captions] = {}

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

    def generate(self, requests: Iterable[Request]) -> Iterator[Arrival]:  # noqa: ARG002  the protocol's signature
        """Raise: CLIP generates no text.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"{self.name} compares images with captions and generates no text: add a writer model, such as --writer openai:NAME"
        )

    def label_logprobs(self, contexts: Iterable[Context], labels: Sequence[str]) -> Iterator[Arrival]:
        """Yield for each context natural log p(label | image), normalized over the labels.

        Args:
            contexts: (caption with the slot {label}, reference to an image), as in tasks with format "caption".
            labels: values of the slot.

        Raises:
            InputError: a context has another form, or an image cannot be read.
        """
        rows: dict[str, list[tuple[int, Image]]] = {}
        for number, context in enumerate(contexts):
            template, image = self._parts(context)
            rows.setdefault(template, []).append((number, image))
        for template, group in rows.items():
            captions = self._captions(tuple(template.replace(_SLOT, label) for label in labels))
            if isinstance(captions.features, Failure):
                yield from (Arrival(number, captions.features) for number, _ in group)
                continue
            images = torch.stack([self._image(image) for _, image in group])  # [n, D]
            logits = self._network.logit_scale.exp() * images @ captions.features.T  # [n, L]
            logprobs = functional.log_softmax(logits, dim=1).tolist()
            for (number, _), row in zip(group, logprobs, strict=True):
                likeliest = labels[max(range(len(labels)), key=row.__getitem__)]
                yield Arrival(number, Response(likeliest, tuple(row), Usage(input=captions.tokens)))

    def _parts(self, context: Context) -> tuple[str, Image]:
        if not isinstance(context, str) and [turn.role for turn in context] == ["system", "user"]:
            caption, image = (turn.content for turn in context)
            if _SLOT in caption:
                return caption, parse_reference(image)
        raise InputError(
            f"{self.name} compares images with captions that contain {_SLOT}: set the task's format to 'caption'"
        )

    @torch.inference_mode()
    def _captions(self, captions: tuple[str, ...]) -> _Captions:
        if captions not in self._encoded_captions:
            if len(self._encoded_captions) == _CACHED_TEMPLATES:
                del self._encoded_captions[next(iter(self._encoded_captions))]
            self._encoded_captions[captions] = self._encode(captions)
        return self._encoded_captions[captions]

    def _encode(self, captions: Sequence[str]) -> _Captions:
        network, longest = self._network, int(self._files.config.max_position_embeddings)
        out: list[torch.Tensor] = []
        tokens = 0
        for start in range(0, len(captions), _BATCH):
            batch = self._files.tokenizer(list(captions[start : start + _BATCH]), padding=True, return_tensors="pt")
            tokens += int(batch["attention_mask"].sum())
            if batch["input_ids"].shape[1] > longest:
                reason = (
                    f"{batch['input_ids'].shape[1]} tokens are more than the {longest} that {self.name} supports: "
                    "shorten the caption"
                )
                return _Captions(Failure(reason), tokens)
            ids, mask = (batch[name].to(self.device) for name in ("input_ids", "attention_mask"))
            pooled = network.text_model(input_ids=ids, attention_mask=mask).pooler_output
            out.append(_normalize(network.text_projection(pooled)))
        return _Captions(torch.cat(out), tokens)

    @torch.inference_mode()
    def _image(self, image: Image) -> torch.Tensor:
        if image.digest not in self._image_features:
            values = self._files.preprocessing.apply(pixels(image)).to(self.device)
            pooled = self._network.vision_model(pixel_values=values[None]).pooler_output
            self._image_features[image.digest] = _normalize(self._network.visual_projection(pooled))[0]
        return self._image_features[image.digest]

    @cached_property
    def _network(self) -> Any:
        return self._files.network(torch.float32, self.device)


class _Preprocessing(NamedTuple):
    """Image preprocessing: resize the shorter side (bicubic), center-crop, normalize colors.

    Args:
        side: length of the resized shorter side.
        crop: side of the cropped square.
        mean: of red, green and blue in [0, 1].
        deviation: standard deviation of red, green and blue.
    """

    side: int
    crop: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def apply(self, image: Pixels) -> torch.Tensor:
        """Return float32 [3, crop, crop]."""
        values = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
        height, width = image.shape[:2]
        shorter = min(height, width)
        size = [int(self.side * height / shorter), int(self.side * width / shorter)]
        for step in ([height, size[1]], size):  # columns, then rows, with rounding in between, like Pillow
            if list(values.shape[1:]) != step:
                values = functional.interpolate(values[None], step, mode="bicubic", antialias=True)[0]
                values = values.round().clamp(0, 255)
        top, left = ((edge - self.crop) // 2 for edge in size)
        values = values[:, top : top + self.crop, left : left + self.crop] / 255
        return (values - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.deviation)[:, None, None]


class _ClipFiles(Files):
    """The files of a CLIP model."""

    def network(self, dtype: torch.dtype, device: torch.device) -> Any:
        """Load the weights of both encoders."""
        if self._whole_config.model_type != "clip":
            raise InputError(
                f"{self.name} is a {self._whole_config.model_type} model, not a CLIP model: use another model"
            )
        # Output of transformers, such as progress bars, would break our own progress line.
        with contextlib.redirect_stderr(io.StringIO()):
            network: Any = CLIPModel.from_pretrained(self._source, dtype=dtype)
        return network.to(device).eval().requires_grad_(requires_grad=False)

    def digest(self) -> str:
        """Return the SHA-256 of the files, or the commit of a hub model."""
        if isinstance(self._location, Path):
            return super().digest()
        return str(self._whole_config._commit_hash)  # noqa: SLF001  the text encoder's config has none

    @cached_property
    def preprocessing(self) -> _Preprocessing:
        """The preprocessing that the model's files specify.

        Raises:
            InputError: it differs from CLIP's standard preprocessing.
        """
        settings, _ = ImageProcessingMixin.get_image_processor_dict(self._source)
        side, crop = (_edge(settings.get(name)) for name in ("size", "crop_size"))
        expected_size = self._whole_config.vision_config.image_size
        if side is None or crop is None or not crop == expected_size <= side or settings.get("resample", 3) != _BICUBIC:
            raise InputError(
                f"{self.name} uses unsupported image preprocessing (size {settings.get('size')}, crop "
                f"{settings.get('crop_size')}, resample {settings.get('resample')}; the network expects {expected_size}): use a model with "
                "bicubic resizing of the shorter side and a center crop"
            )
        return _Preprocessing(side, crop, tuple(settings["image_mean"]), tuple(settings["image_std"]))


_BICUBIC = 3  # Pillow's constant


def _edge(size: Any) -> int | None:
    """Return the edge length of a size with a single one, else None; older files give a number."""
    if isinstance(size, dict):
        edges = set(size.values()) if set(size) in ({"shortest_edge"}, {"height", "width"}) else set()
        return int(edges.pop()) if len(edges) == 1 else None
    return size if isinstance(size, int) else None


def _normalize(features: torch.Tensor) -> torch.Tensor:
    return features / features.pow(2).sum(dim=-1, keepdim=True).sqrt()
