"""More captions by translating there and back again: "a red boat" → "un bateau rouge" → "a red
ship" (Sennrich et al. 2016, arXiv:1511.06709), with MarianMT models from the Hugging Face hub.

Every round trip is kept on disk as soon as its batch is done, so a killed run goes on, and a run
whose captions are all there loads no model and needs no network.
"""

import re
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from finetune.console import Progress
from finetune.data.captioned_images import CaptionedImages, caption_keys, joined_keys
from finetune.errors import ClipsearchError, TrainingError, UsageError
from finetune.files.databases import foreign_database
from finetune.files.user_folders import user_cache
from finetune.installing import install_command

if TYPE_CHECKING:
    from transformers import MarianMTModel, MarianTokenizer

CACHE_FILE = "back-translations.sqlite"
LOOKED_UP_AT_ONCE = 500


class TranslationCache:
    """Round trips on disk, by models and text; a context manager.

    Several processes may use one file at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._storage_errors():
            if reason := foreign_database(path, ("round_trips",)):
                raise OSError(reason)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            self._database.execute(
                "create table if not exists round_trips"
                " (models text, caption text, translation text, primary key (models, caption))"
                " without rowid"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def get(self, models: str, captions: Sequence[str]) -> dict[str, str]:
        """Return what came back for those of the captions that are known."""
        known: dict[str, str] = {}
        with self._storage_errors():
            for start in range(0, len(captions), LOOKED_UP_AT_ONCE):
                part = captions[start : start + LOOKED_UP_AT_ONCE]
                marks = ",".join("?" * len(part))
                known.update(
                    self._database.execute(
                        "select caption, translation from round_trips"
                        f" where models = ? and caption in ({marks})",
                        (models, *part),
                    )
                )
        return known

    def put(self, models: str, translations: Mapping[str, str]) -> None:
        """Keep these, for good once this returns."""
        rows = [(models, caption, text) for caption, text in translations.items()]
        with self._storage_errors(), self._database:
            self._database.executemany("insert or replace into round_trips values (?, ?, ?)", rows)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise TrainingError(
                f"{self.path}: the cache of back-translations cannot be read or written"
                f" ({error}); move the file away, or give another with --back-translation-cache"
            ) from error


def default_cache() -> Path:
    """Return the file of the cache that all runs of this user share."""
    return user_cache() / CACHE_FILE


FORWARD_MODEL = "Helsinki-NLP/opus-mt-en-{}"
BACK_MODEL = "Helsinki-NLP/opus-mt-{}-en"
# Languages that have a model of their own in each direction (there is no opus-mt-en-pt, for one),
# and those that the models of all Romance languages stand in for.
PAIRED = frozenset({"cs", "da", "de", "es", "fi", "fr", "it", "nl", "ru", "sv"})
ROMANCE, IN_ROMANCE = "ROMANCE", frozenset({"ca", "gl", "pt", "ro"})
ENGLISH = "en"
# A translation may have twice the tokens of its source, and these.
EXTRA_TOKENS = 32

ShowProgress = Callable[[str, int, str], Progress]


@dataclass(frozen=True, slots=True)
class Route:
    """A language to go through, and the two models that go there and back.

    Attributes:
        language: Its name in messages, such as "fr".
        forward, back: Hugging Face ids or folders of MarianMT checkpoints.
    """

    language: str
    forward: str
    back: str

    @property
    def key(self) -> str:
        """Names language and models in the cache: models by ids, or absolute paths."""
        return "\n".join([self.language, *map(_identity, (self.forward, self.back))])


def parse_routes(text: str) -> tuple[Route, ...]:
    """Read the routes of "fr,de,es"; "fr=FORWARD:BACK" names other models by id or folder.

    A model of many languages is told by the language's own name: "pt_BR=FORWARD:BACK".

    Raises UsageError for what is no such list, and a language whose models are not known.
    """
    routes: list[Route] = []
    for part in text.split(","):
        language, equals, models = part.strip().partition("=")
        forward, colon, back = models.partition(":")
        if not re.fullmatch(r"[A-Za-z][A-Za-z_-]*", language) or (
            equals and not (colon and forward and back)
        ):
            raise UsageError(
                f"--back-translate {text}: {part.strip() or 'an empty part'} is no language;"
                f" write fr,de,es, or fr=MODEL_EN_FR:MODEL_FR_EN for models of your own"
            )
        if any(route.language == language for route in routes):
            raise UsageError(f"--back-translate {text}: {language} is there twice")
        known = ROMANCE if language in IN_ROMANCE else language
        if not equals and known not in (*PAIRED, ROMANCE):
            raise UsageError(
                f"--back-translate {text}: for {language} no models are known; name them, such as"
                f" {language}={FORWARD_MODEL.format(language)}:{BACK_MODEL.format(language)}; known"
                f" are {', '.join(sorted(PAIRED | IN_ROMANCE))}"
            )
        routes.append(
            Route(
                language, forward or FORWARD_MODEL.format(known), back or BACK_MODEL.format(known)
            )
        )
    return tuple(routes)


@dataclass(frozen=True, slots=True)
class BackTranslations:
    """New captions, and what became of every round trip.

    Attributes:
        captions: The new texts of each caption that has any.
        counts: Round trips by outcome: "new", "unchanged", "empty", "duplicate".
    """

    captions: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, int]

    def summary(self) -> str:
        """Return one line for people."""
        total = sum(self.counts.values())
        dropped = ", ".join(
            f"{self.counts[outcome]:,} {outcome}"
            for outcome in ("unchanged", "duplicate", "empty")
            if self.counts.get(outcome)
        )
        line = f"Back-translation: {self.counts.get('new', 0):,} new captions"
        return f"{line} of {total:,} round trips" + (f" (dropped: {dropped})" if dropped else "")


def back_translate(
    captions: Sequence[str],
    routes: Sequence[Route],
    cache: TranslationCache,
    *,
    progress: ShowProgress,
    wanted: Mapping[str, int] | None = None,
    batch_size: int = 32,
    beams: int = 4,
    device: str = "cpu",
) -> BackTranslations:
    """Translate each caption along each route and back, and keep what is new.

    What equals the caption but for case, punctuation and white space is dropped as unchanged,
    what equals another route's as duplicate. Only what the cache has not is translated.

    Args:
        captions: Any number; equal ones are translated once.
        routes: From `parse_routes`.
        cache: Read first, and written after each batch.
        progress: Makes the Progress of a task from its name, total and unit.
        wanted: Along how many routes each caption goes, the first ones; those that are not in it
            go along none. Where None, each goes along all.
        batch_size: Captions translated at once.
        beams: Width of the search for the best translation.
        device: Where the models run.

    Raises:
        UsageError: sentencepiece is missing, or a model is neither here nor to be downloaded.
        TrainingError: the cache cannot be read or written.
    """
    found: dict[str, list[str]] = {caption: [] for caption in captions}
    for number, route in enumerate(routes):
        key = f"{route.key}\nbeams {beams}"
        sent = [text for text in found if wanted is None or wanted.get(text, 0) > number]
        known = cache.get(key, sent)
        missing = [caption for caption in sent if caption not in known]
        if missing:
            with progress(
                f"Translating {route.language} and back", len(missing), "captions"
            ) as bar:
                for batch in _round_trips(route, missing, batch_size, beams, device):
                    cache.put(key, batch)
                    known |= batch
                    bar.advance(len(batch))
        for caption in sent:
            found[caption].append(known[caption])
    return _new_captions(found)


def _new_captions(found: Mapping[str, Sequence[str]]) -> BackTranslations:
    counts: Counter[str] = Counter()
    kept: dict[str, tuple[str, ...]] = {}
    for caption, translations in found.items():
        seen = {_words(caption)}
        new: list[str] = []
        for number, text in enumerate(translations):
            words = _words(text)
            if not words:
                counts["empty"] += 1
            elif words in seen:
                same = words == _words(caption)
                counts["unchanged" if same else "duplicate"] += 1
            else:
                counts["new"] += 1
                seen.add(words)
                new.append(translations[number])
        if new:
            kept[caption] = tuple(new)
    return BackTranslations(kept, counts)


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _round_trips(
    route: Route, captions: Sequence[str], batch_size: int, beams: int, device: str
) -> Iterator[dict[str, str]]:
    """Yield batches of caption and translation, long captions first.

    So what needs most memory fails at once.
    """
    forward = Translator.load(route.forward, beams=beams, device=device)
    back = Translator.load(route.back, beams=beams, device=device)
    ordered = sorted(captions, key=len, reverse=True)
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        there = forward(batch, route.language)
        yield dict(zip(batch, back(there, ENGLISH), strict=True))


@dataclass(frozen=True, slots=True)
class Translator:
    """One MarianMT model and its tokenizer."""

    model: "MarianMTModel"
    tokenizer: "MarianTokenizer"
    beams: int

    @classmethod
    def load(cls, name: str, *, beams: int = 4, device: str = "cpu") -> Self:
        """Load a checkpoint from a folder, the Hugging Face cache or the hub.

        Raises UsageError where it is in none of them, or is no MarianMT checkpoint.
        """
        check_installed()
        from transformers import MarianMTModel, MarianTokenizer  # seconds; not where all is cached

        from finetune.models.hub_client import prepare_hub
        from finetune.models.pretrained import quiet_transformers

        prepare_hub()

        try:
            with quiet_transformers(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*sacremoses")  # it changes nothing here
                model = MarianMTModel.from_pretrained(name, trust_remote_code=False)
                tokenizer = MarianTokenizer.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise _not_loaded(name, error) from error
        return cls(model.eval().to(device), tokenizer, beams)

    def __call__(self, texts: Sequence[str], language: str) -> list[str]:
        """Translate each text, without white space at its ends; "" for an empty one.

        Raises UsageError where the model knows many languages, but not this one.
        """
        import torch  # loaded by transformers already

        mark = self._mark(language)
        rows = [row for row, text in enumerate(texts) if text.strip()]
        translated = [""] * len(texts)
        if not rows:
            return translated
        limit = int(self.model.config.max_position_embeddings)
        tokens = self.tokenizer(
            [mark + texts[row] for row in rows],
            return_tensors="pt", padding=True, truncation=True, max_length=limit,
        ).to(self.model.device)  # fmt: skip
        # A model that falls into a loop would otherwise write until its last position.
        room = min(limit - 1, 2 * tokens["input_ids"].shape[1] + EXTRA_TOKENS)
        with torch.inference_mode():
            written: Any = self.model.generate(
                **tokens, num_beams=self.beams, do_sample=False, max_length=None,
                max_new_tokens=room,
            )  # fmt: skip
        decoded = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        for row, text in zip(rows, decoded, strict=True):
            translated[row] = text.strip()
        return translated

    def _mark(self, language: str) -> str:
        """Return what a model of many target languages must read first: ">>fr<< "; else nothing."""
        marks = self.tokenizer.supported_language_codes
        mark = f">>{language}<<"
        if marks and mark not in marks:
            known = ", ".join(sorted(each.strip("<>") for each in marks))
            raise UsageError(
                f"--back-translate: {self.model.name_or_path} translates into many languages, but"
                f" into none named {language}; write one of {known} before the ="
            )
        return f"{mark} " if marks else ""


def wanted_for_duplicates(data: CaptionedImages) -> dict[str, int]:
    """Return how many translations each caption needs, so that no image has it twice."""
    repeated = np.flatnonzero(data.repeats > 1)
    wanted: dict[str, int] = {}
    for row in repeated.tolist():
        text = data.captions[row]
        wanted[text] = max(wanted.get(text, 0), int(data.repeats[row]) - 1)
    return wanted


def check_installed() -> None:
    """Raise UsageError where the package that MarianMT's tokenizer needs is missing."""
    if find_spec("sentencepiece") is None:
        raise UsageError(
            f"--back-translate needs the package sentencepiece; {install_command('backtranslate')}"
        )


def add_captions(
    data: CaptionedImages, new: Mapping[str, Sequence[str]], *, duplicates_only: bool = False
) -> CaptionedImages:
    """Return the same images, each with the new captions of its captions after its own.

    With `duplicates_only` a caption that an image has c times gets c - 1 new ones at most, so that
    the image has no more captions than the manifest gives it.

    A new caption has the key of the one it was made from, so that it is no negative of another
    image which has the same caption; captions that are equal, or have become so, share a key
    too, and so do all that hang together by this. Without new captions it is `data` itself.
    """
    if not new:
        return data
    captions: list[str] = []
    made_from: list[int] = []
    starts = [0]
    for image in range(len(data)):
        own = range(int(data.starts[image]), int(data.starts[image + 1]))
        texts = [data.captions[i] for i in own]
        captions += texts
        made_from += own
        seen = set(texts)
        for i in own:
            made = new.get(data.captions[i], ())
            for text in made[: int(data.repeats[i]) - 1] if duplicates_only else made:
                if text not in seen:
                    seen.add(text)
                    captions.append(text)
                    made_from.append(i)
        starts.append(len(captions))
    return replace(
        data,
        captions=tuple(captions),
        starts=np.array(starts, np.int64),
        keys=joined_keys(caption_keys(captions), data.keys[made_from]),
        repeats=np.ones(len(captions), np.int64) if duplicates_only else data.repeats[made_from],
    )


def _identity(model: str) -> str:
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _not_loaded(name: str, error: Exception) -> ClipsearchError:
    if Path(name).expanduser().is_dir():
        first = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        return UsageError(f"{name}: no MarianMT checkpoint can be loaded from it ({first.strip()})")
    return UsageError(
        f"{name}: the translation model is not in the Hugging Face cache and could not be"
        f" downloaded (no connection, or a wrong id); connect once, give folders as"
        f" --back-translate fr=EN_FR:FR_EN, or leave --back-translate out"
    )
