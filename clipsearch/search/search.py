"""Search an index by words, by images, by an indexed image, or by a weighted mix of these.

>>> from clipsearch import Search
>>> search = Search.open("photos.index")              # or "http://localhost:8080"
>>> page = search.query("two dogs on a beach", mode="hybrid", k=10, filters={"class": "beach"})

A mix is one vector: the weighted sum of the parts' unit embeddings, brought to unit length. The
lexical half of a ranking takes the words of the texts with a positive weight.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

import numpy.typing as npt

from clipsearch.documents import Document, Embedding
from clipsearch.engine import (
    NO_WORDS,
    Engine,
    EngineQuery,
    IndexInfo,
    Page,
)
from clipsearch.engines import open_engine
from clipsearch.modes import MODES_WITHOUT_VECTOR, Mode, ranking_of
from clipsearch.search.calibrated_order import calibrated_order, search_in
from clipsearch.search.explaining import explained
from clipsearch.search.filters import check_facets
from clipsearch.search.finding import find_documents, known_document, with_known_ids
from clipsearch.search.folder_tree import filters_of, with_folders_counted
from clipsearch.search.images import ImageFolders
from clipsearch.search.index_encoder import EncoderLoader, check_encoder, load_encoder
from clipsearch.search.limits import check_options, check_page
from clipsearch.search.misspelled import corrections
from clipsearch.search.nothing_found import fewer_than_asked, why_nothing
from clipsearch.search.options import (
    ASKED,
    LISTED,
    SIMILAR,
    ListKeywords,
    ListOptions,
    QueryKeywords,
    QueryOptions,
    query_options,
)
from clipsearch.search.orders import parse_sort
from clipsearch.search.parts import (
    Part,
    check_parts,
    parts_like,
    query_parts,
    vector_parts,
    words_only,
)
from clipsearch.search.query_images import opened, source_of_document
from clipsearch.search.query_terms import encoded_parts, query_terms, written_words
from clipsearch.search.query_vectors import QueryVectors
from clipsearch.search.word_share import with_word_share
from clipsearch.text import words
from clipsearch.vocabulary import WordCount
from finetune.encoder_folder import read_description
from finetune.errors import (
    UsageError,
)
from finetune.images.pixel_box import PixelBox
from finetune.several import check_several

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipsearch.encoder.encoder import Encoder
    from clipsearch.localization.heat_map import HeatMap

NO_ENCODER = "the index names no encoder: searched by words alone (mode bm25)"
NOTHING_BUT_LEFT_OUT = "the query only says what to leave out"
WORDS_AND_VECTOR = (
    "the index names no encoder: the text counted by its words, and the other parts by their vector"
)

_TEXTS_REMEMBERED = 1024


class Search:
    """An open index with the encoder that filled it. A context manager.

    Threads may share one as far as they may share its engine.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        encoder: "Encoder | str | Path | None" = None,
        device: str = "cpu",
        load: EncoderLoader = load_encoder,
        texts_remembered: int = _TEXTS_REMEMBERED,
    ) -> None:
        """Search `engine`, which is closed with this; see `open`. `encoder` may be loaded.

        `load` loads the encoder at its first use; of so many texts the embeddings are kept.
        """
        self.engine = engine
        self._device = device
        self._load = load
        self._encoder: Encoder | None = None
        self._folder: Path | None = None
        self._loading = threading.Lock()
        self._vectors = QueryVectors(engine, lambda: self.encoder, texts_remembered)
        if isinstance(encoder, str | Path):
            self._folder = Path(encoder)
            check_encoder(self._folder, read_description(self._folder), self.info)
        elif encoder is not None:
            self._encoder = encoder
            check_encoder(encoder.folder, encoder.description, self.info)

    def __repr__(self) -> str:
        encoder = self.info.encoder_name or "no encoder"
        return f"<clipsearch.Search of {self.engine.target}, {encoder}>"

    @classmethod
    def open(
        cls, target: str | Path, *, encoder: str | Path | None = None, device: str = "cpu"
    ) -> Self:
        """Open an index: a folder is the embedded engine, an http(s) address is Vespa.

        The encoder is the folder that the index names, unless `encoder` says another place of it;
        it is loaded by the first query that needs it.

        Raises EngineError where there is no index, EncoderError for a bad `encoder`,
        EncoderMismatchError where it is not the one that filled the index.
        """
        engine = open_engine(str(target))
        try:
            return cls(engine, encoder=encoder, device=device)
        except BaseException:
            engine.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def info(self) -> IndexInfo:
        """What the index knows about itself."""
        return self.engine.info

    @property
    def encoder(self) -> "Encoder":
        """The encoder that filled the index, loaded once.

        Raises EncoderError where the index names none or its folder is gone, and
        EncoderMismatchError where the folder holds another one.
        """
        with self._loading:
            if self._encoder is None:
                self._encoder = self._load(
                    self.engine.target, self.info, self._folder, self._device
                )
            return self._encoder

    @property
    def has_encoder(self) -> bool:
        """Whether texts and images can be embedded, as far as is known before it is loaded."""
        return not self._is_without_encoder()

    @property
    def texts_looked_up(self) -> tuple[int, int]:
        """How many texts had their embedding remembered, and how many were to be encoded."""
        return self._vectors.texts_looked_up

    def refresh(self) -> None:
        """Learn what others have changed of an open index: its columns, its encoder.

        New documents are found without it. Raises EngineError.
        """
        before = self.info.encoder_fingerprint
        if self.engine.refresh_info().encoder_fingerprint != before:
            with self._loading:
                self._encoder = None  # loaded and checked anew
                self._vectors.forget_texts()

    def query(
        self,
        text: str | None = None,
        *,
        image: "str | Path | bytes | Image | None" = None,
        crop: PixelBox | None = None,
        vector: npt.ArrayLike | None = None,
        parts: Sequence[Part] = (),
        **options: Unpack[QueryKeywords],
    ) -> Page:
        """Find the k best documents of page `page` (from 1).

        `text`, `image` and `vector` count as parts of weight 1 beside `parts`; indexed images
        that are parts are left out of the hits. Of `image`, `crop` alone counts. `options` are
        the fields of `clipsearch.search.options.QueryOptions`: `mode`, `k`, `page`, `filters`,
        `facets`, `sort`, `min_score`, `collapse`, `explain` and more.

        In an index of ready-made vectors, without encoder, a text beside `vector` gives a hybrid
        its words, and the vector is that of the other parts; a note says so.

        Raises UsageError for options that cannot work, DocumentNotFoundError for an unknown id,
        ImageError for an image that cannot be read, EncoderError and EngineError.
        """
        asked = query_parts(text, image=image, crop=crop, vector=vector, parts=parts)
        return self.ask(asked, query_options(options))

    def ask(self, parts: Sequence[Part], options: QueryOptions = ASKED) -> Page:
        """Find what `query` finds, for a question that is in parts already; raises as it does."""
        check_several(parts, "parts")
        check_parts(parts)
        check_several(options.facets, "facets")
        mode, plain = options.mode, options.plain
        given = with_known_ids(self.engine, parts)
        notes: list[str] = []
        is_unnamed = mode is None
        if mode is None:
            mode = self.default_mode(given)
            alone = mode in MODES_WITHOUT_VECTOR and any(part.kind == "text" for part in given)
            notes += [NO_ENCODER] if alone else []
        check_options(mode, options)
        ranking = ranking_of(mode)
        terms = query_terms(given, self.info.language, plain=plain, synonyms=options.synonyms)
        query = EngineQuery(
            mode=mode,
            tokens=terms.tokens if ranking.uses_words else (),
            terms=terms.terms,
            k=options.k,
            offset=options.offset,
            filters=filters_of(options.filters, self.engine),
            facets=check_facets(options.facets, self.info),
            candidates=options.candidates,
            bm25_weight=options.bm25_weight,
            vector_weight=options.vector_weight,
            exact=options.exact,
            exclude_ids=tuple(str(part.value) for part in given if part.kind == "id"),
            min_score=options.min_score,
            min_cosine=options.min_cosine,
            sort=parse_sort(options.sort, self.info),
            collapse=options.collapse,
        )
        if ranking.needs_vector:
            of_vector = vector_parts(given, mode)
            with_vector = self._with_vector(of_vector) if ranking.uses_words else of_vector
            notes += [] if len(with_vector) == len(of_vector) else [WORDS_AND_VECTOR]
            encoded = encoded_parts(with_vector, plain=plain)
            if not encoded:
                none = dict.fromkeys(query.facets, ())
                return Page((), 0, query.offset, none, notes=(NOTHING_BUT_LEFT_OUT,))
            query = replace(query, vector=self._vectors.mix(encoded))
        else:
            notes += words_only(given, mode)
        if ranking.uses_words and not query.has_words:
            notes.append(NO_WORDS)
        order, told = calibrated_order(query, self.info) if is_unnamed else (None, [])
        notes += told
        query = with_word_share(query, self.engine)
        answer = search_in(order, query, self.engine)
        if options.explain:
            given_words = written_words(
                given, self.info.language, plain=plain, synonyms=options.synonyms
            )
            answer = explained(
                answer, query, self.engine, weighted=order is None, written=given_words
            )
        if ranking.uses_words:
            is_known = (
                self._encoder.knows_word if query.vector is not None and self._encoder else None
            )
            found = corrections(given, answer, self.engine, plain=plain, is_known=is_known)
            answer = replace(answer, corrections=found)
            notes += map(str, answer.corrections)
        if not answer.total:
            notes += why_nothing(self.engine, query)
        notes += fewer_than_asked(self.engine, query, answer)
        find = ImageFolders(self.info).find
        hits = tuple(replace(hit, find_image=find) for hit in answer.hits)
        facets = with_folders_counted(answer.facets)
        notes = [*dict.fromkeys((*notes, *answer.notes))]
        return replace(answer, hits=hits, facets=facets, notes=tuple(notes))

    def browse(self, options: ListOptions = LISTED) -> Page:
        """Return what `list` returns; raises as it does."""
        check_page(options)
        query = EngineQuery(
            None,
            k=options.k,
            offset=options.offset,
            filters=filters_of(options.filters, self.engine),
            facets=check_facets(options.facets, self.info),
            sort=parse_sort(options.sort, self.info),
        )
        page = self.engine.search(query)
        page = replace(page, facets=with_folders_counted(page.facets))
        if page.total:
            return page
        return replace(page, notes=(*page.notes, *why_nothing(self.engine, query)))

    def default_mode(self, parts: Sequence[Part]) -> Mode:
        """Return what `query` takes without `mode`: hybrid where there is text, otherwise vector.

        In place of hybrid, the mode that `clipsearch calibrate` has found better for the index.
        Where nothing has a vector, as texts in an index without encoder: bm25.
        """
        kinds = {part.kind for part in parts}
        if not kinds & {"text", "words"}:
            return "vector"
        of_vector = kinds - {"words", "text" if self._is_without_encoder() else "words"}
        if not of_vector:
            return "bm25"
        return self.info.text_mode or "hybrid"

    def _is_without_encoder(self) -> bool:
        return (self._encoder, self._folder, self.info.encoder_path) == (None, None, None)

    def _with_vector(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Return the parts that the vector of a hybrid is made of: texts only with an encoder."""
        others = [part for part in parts if part.kind != "text"]
        if not self._is_without_encoder() or not others:
            return parts
        for part in parts:
            if part.kind == "text" and part.weight <= 0:
                raise UsageError(
                    f"the text {str(part.value)!r} has the weight {part.weight:g}, but without an"
                    f" encoder a text counts by its words alone, and those cannot be taken away:"
                    f" leave it out, or say which encoder made the vectors with --encoder FOLDER"
                )
        return others

    def similar(self, id: str, **options: Unpack[QueryKeywords]) -> Page:
        """Find what is like an indexed image, itself left out. Needs no encoder.

        By `vector`, the nearest images; this is the mode unless `options`, those of `query`, say
        another. The other modes look also, and bm25 alone, for the words of its captions, each
        once.

        Raises DocumentNotFoundError for an unknown id, and what `query` raises.
        """
        asked = replace(SIMILAR, **options)
        return self.ask(self.parts_like(id, asked.mode), asked)

    def parts_like(self, id: str, mode: Mode | None) -> tuple[Part, ...]:
        """Return the parts of the query for what is like an indexed image; raises as `similar`."""
        if mode is None or not ranking_of(mode).uses_words:
            return (Part("id", id),)
        (document,) = self.get([id])
        return parts_like(known_document(self.engine, id, document), mode)

    def locate(
        self,
        text: str | None = None,
        *,
        image: "str | Path | bytes | Image | None" = None,
        id: str | None = None,
        parts: Sequence[Part] = (),
        method: str | None = None,
        images: Path | None = None,
    ) -> "HeatMap":
        """Say where in an image, or in that of an indexed document, a query is answered.

        The query is `text` with `parts`, one vector as in `query`. `method`: see
        `clipsearch.localization.locate.locate`. `images`: folder of the images, where they are not
        where the index was fed from.

        Raises UsageError unless there is either an image or an id, and what `query` and `locate`
        raise.
        """
        from clipsearch.localization.locate import locate  # light path: ONNX Runtime

        if (image is None) == (id is None):
            raise UsageError("locate looks into one image: give either an image or an id")
        vector = self.vector_of((*([] if text is None else [Part("text", text)]), *parts))
        if id is not None:
            image = self.open_image(id, images)
        assert image is not None
        picture = opened(image, self.encoder.preprocessing.transparency)
        name = str(image) if isinstance(image, str | Path) else id or "the picture"
        return locate(self.encoder, picture, vector, method, name=name)

    def open_image(self, id: str, images: Path | None = None) -> "Image":
        """Open the image of an indexed document, upright and in mode RGB, as the encoder sees it.

        `images`: folder of the images, where they are not where the index was fed from.

        Raises DocumentNotFoundError for an unknown id, ImageError where the image is not on this
        machine or cannot be read, and EncoderError.
        """
        (document,) = self.get([id])
        folders = ImageFolders(self.info, images)
        source = source_of_document(known_document(self.engine, id, document), folders)
        return opened(source, self.encoder.preprocessing.transparency)

    def vector_of(self, parts: Sequence[Part]) -> Embedding:
        """Return the vector of a query, float32[d], unit length. Raises as `query`."""
        check_parts(parts)
        encoded = encoded_parts(with_known_ids(self.engine, parts))
        if not encoded:
            raise UsageError(f"{NOTHING_BUT_LEFT_OUT}: say what to look for")
        return self._vectors.mix(encoded)

    def get(self, ids: Sequence[str], *, embeddings: bool = False) -> list[Document | None]:
        """Return the documents of these ids, in their order; None where there is none.

        An id is found in whichever Unicode form it is written.
        """
        check_several(ids, "Search.get")
        return find_documents(self.engine, ids, embeddings=embeddings)

    def suggest(self, prefix: str, limit: int = 10) -> tuple[WordCount, ...]:
        """Return words of the index that go on with what is typed, the most frequent first.

        Of `prefix` the last word counts, whatever its case and accents; nothing is returned for
        none. Raises UsageError for a limit below 1, and EngineError.
        """
        if limit < 1:
            raise UsageError(f"limit is {limit}, must be at least 1")
        typed = words(prefix)
        return self.engine.suggest(typed[-1], limit) if typed else ()

    def count(self) -> int:
        """Return the number of documents."""
        return self.engine.count()

    def close(self) -> None:
        """Close the engine; the search cannot be used after."""
        self.engine.close()

    # Last: in what follows of the class, `list` would be this.
    def list(self, **options: Unpack[ListKeywords]) -> Page:
        """Return the documents that pass the filters, by id unless `sort` says otherwise.

        `options` are the fields of `clipsearch.search.options.ListOptions`: `filters`, `sort`,
        `k`, `page`, `facets`. Needs no encoder. Raises UsageError and EngineError.
        """
        return self.browse(ListOptions(**options))
