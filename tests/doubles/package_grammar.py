"""What is wrong with an application package, as far as a real Vespa was seen to say.

The facts: a `.profile` file begins with the word rank-profile; a name that is used is declared
(fields, functions, features, inputs, summaries, profiles and what they inherit); XML is well
formed; files that are named are there. Words of the schema language that no recording has are
complaints too: put a new one into WORDS with where a Vespa took it.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Files = Mapping[str, bytes]

# Statements that a real Vespa took: shared/vespa/app, our own package, and its README's findings.
# fmt: off
WORDS = {
    "schema", "document", "field", "indexing", "attribute", "index", "rank", "match", "dictionary",
    "bolding", "struct-field", "fieldset", "fields", "document-summary", "summary", "rank-profile",
    "inputs", "function", "expression", "first-phase", "match-features", "global-phase",
    "rerank-count", "distance-metric", "hnsw", "max-links-per-node", "enable-bm25", "fast-search",
    "neighbors-to-explore-at-insert", "hash", "cased", "query", "filter-first-threshold",
}
# fmt: on
VALUES = {
    "index": {"enable-bm25"},
    "attribute": {"fast-search"},
    "rank": {"filter"},
    "match": {"cased"},
    "bolding": {"on"},
}
# Rank features that take a field, with the field's place among the arguments.
FIELD_FEATURES = {"bm25": 0, "attribute": 0, "closeness": 1, "distance": 1, "fieldTermMatch": 0}
# What else an expression may name besides functions, inputs and fields.
KNOWN = {"sum", "max", "min", "if", "field", "occurrences", "normalize_linear", "reciprocal_rank"}
_WORD = re.compile(r"[A-Za-z_][\w.-]*")
# The braces of a tensor's mapped dimension, column{}, are no block.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|(?:[^{}\n#"]|(?<=\w)\{\})+|[{}\n]|"')


@dataclass
class Block:
    """A statement with what stands in its braces; the outermost has the head ""."""

    head: str
    statements: list[str] = field(default_factory=list)
    blocks: "list[Block]" = field(default_factory=list)

    def named(self, word: str) -> "Iterator[Block]":
        return (block for block in self.blocks if block.head.split()[:1] == [word])

    def one(self, word: str) -> "Block | None":
        return next(self.named(word), None)

    def walk(self) -> "Iterator[Block]":
        yield self
        for block in self.blocks:
            yield from block.walk()


def complaints(files: Files) -> list[str]:
    """Every complaint about the package, each with its file; empty for a package that deploys."""
    return list(_Package(files).complaints())


def parse(text: str) -> Block:
    """The blocks of a schema or a profile. Raises ValueError where the braces do not match."""
    open_blocks = [Block("")]
    head = ""
    for token in _TOKEN.findall(text):
        if token == "{":
            block = Block(head.strip())
            open_blocks[-1].blocks.append(block)
            open_blocks.append(block)
            head = ""
        elif token in ("}", "\n"):
            if head.strip():
                open_blocks[-1].statements.append(head.strip())
            head = ""
            if token == "}":
                if len(open_blocks) == 1:
                    raise ValueError("a brace is closed that was not opened")
                open_blocks.pop()
        elif not token.startswith("#"):
            head += token
    if len(open_blocks) > 1:
        raise ValueError(f"the brace of {open_blocks[-1].head!r} is not closed")
    return open_blocks[0]


@dataclass
class _Schema:
    name: str
    block: Block
    fields: dict[str, str]
    fieldsets: set[str]
    summaries: set[str]
    profiles: dict[str, Block] = field(default_factory=dict)

    def chain(self, profile: str) -> Iterator[Block]:
        """A rank profile and what it inherits, as far as that is there."""
        seen: set[str] = set()
        name: str | None = profile
        while name in self.profiles and name not in seen:
            seen.add(name)
            yield self.profiles[name]
            name = inherited(self.profiles[name])

    def inputs(self, profile: str) -> set[str]:
        return {
            found
            for block in self.chain(profile)
            for inputs in block.named("inputs")
            for found in re.findall(r"query\((\w+)\)", " ".join(inputs.statements))
        }

    def functions(self, profile: str) -> set[str]:
        return {
            re.split(r"[\s(]+", function.head)[1]
            for block in self.chain(profile)
            for function in block.named("function")
        }


def inherited(block: Block) -> str | None:
    found = re.search(r"\binherits\s+(\S+)", block.head)
    return found.group(1) if found else None


class _Package:
    def __init__(self, files: Files) -> None:
        self.texts = {
            path: data.decode() for path, data in files.items() if not path.startswith("models/")
        }
        self.paths = set(files)
        self.schemas: dict[str, _Schema] = {}
        self.roots: dict[str, ElementTree.Element] = {}

    def complaints(self) -> Iterator[str]:
        for path, text in self.texts.items():
            if "{{" in text or "}}" in text:
                yield f"{path}: a template mark is left over"
        if "services.xml" not in self.paths:
            yield "services.xml: does not exist in application package"
        yield from self._read_xml()
        yield from self._read_schemas()
        for schema in self.schemas.values():
            yield from self._summaries(schema)
            for profile, block in schema.profiles.items():
                path = f"schemas/{schema.name}/{profile}.profile"
                yield from _profile(schema, profile, block, path)
        yield from self._services()
        yield from self._query_profiles()

    def _read_xml(self) -> Iterator[str]:
        for path in self.texts:
            if path.endswith(".xml"):
                try:
                    self.roots[path] = ElementTree.fromstring(self.texts[path])
                except ElementTree.ParseError as error:
                    yield f"{path}: is not well formed: {error}"

    def _read_schemas(self) -> Iterator[str]:
        """Fills `schemas`: those that parse."""
        parsed: dict[str, Block] = {}
        for path, text in self.texts.items():
            if not path.endswith((".sd", ".profile")):
                continue
            if path.endswith(".profile") and not text.startswith("rank-profile "):
                yield f"{path}: must begin with rank-profile"
            try:
                parsed[path] = parse(text)
            except ValueError as error:
                yield f"{path}: {error}"
                continue
            for word in _unknown_words(parsed[path]):
                yield f"{path}: {word!r} is no word of the schema language that is known here"
        for path, block in parsed.items():
            if path.endswith(".sd"):
                found = _schema(block)
                if found is None or f"schemas/{found.name}.sd" != path:
                    yield f"{path}: must hold the schema of its own name, with a document"
                else:
                    self.schemas[found.name] = found
        for path, block in parsed.items():
            if not path.endswith(".profile"):
                continue
            schema = self.schemas.get(path.split("/")[1])
            profile = block.one("rank-profile")
            if schema is None or profile is None:
                yield f"{path}: has no schema, or no rank profile"
            elif f"schemas/{schema.name}/{profile.head.split()[1]}.profile" != path:
                yield f"{path}: holds a rank profile of another name"
            else:
                schema.profiles[profile.head.split()[1]] = profile

    def _summaries(self, schema: _Schema) -> Iterator[str]:
        path = f"schemas/{schema.name}.sd"
        for summary in schema.block.named("document-summary"):
            for one in summary.named("summary"):
                if one.head.split()[1] not in schema.fields:
                    yield f"{path}: summary {one.head.split()[1]} has no field as its source"
        for fieldset in schema.block.named("fieldset"):
            for name in re.findall(r"[\w-]+", " ".join(fieldset.statements).partition(":")[2]):
                if name not in schema.fields:
                    yield f"{path}: fieldset names the field {name}, which is not there"

    def _services(self) -> Iterator[str]:
        root = self.roots.get("services.xml")
        if root is None:
            return
        for document in root.iter("document"):
            if document.get("type") not in self.schemas:
                yield f"services.xml: the document type {document.get('type')} has no schema"
        for element in root.iter():
            path = element.get("path")
            if path is not None and path not in self.paths:
                yield f"services.xml: {path} (No such file or directory)"
        hosts = self.roots.get("hosts.xml")
        if hosts is not None:
            aliases = {alias.text for alias in hosts.iter("alias")}
            for element in root.iter():
                if element.get("hostalias", next(iter(aliases))) not in aliases:
                    yield f"services.xml: the host {element.get('hostalias')} is not in hosts.xml"

    def _query_profiles(self) -> Iterator[str]:
        folder = "search/query-profiles/"
        roots = {
            path.removeprefix(folder).removesuffix(".xml"): root
            for path, root in self.roots.items()
            if path.startswith(folder)
        }
        embedders = {
            str(one.get("id"))
            for one in self.roots.get("services.xml", ElementTree.Element("none")).iter("component")
        }
        for name, root in roots.items():
            path = f"{folder}{name}.xml"
            if root.get("id") != name:
                yield f"{path}: holds the query profile {root.get('id')}"
            values: dict[str, str] = {}
            chain = [name]
            while chain[-1] in roots:
                one = roots[chain[-1]]
                values = {**{str(v.get("name")): v.text or "" for v in one}, **values}
                parent = one.get("inherits")
                if parent is None or parent in chain:
                    break
                if parent not in roots:
                    yield f"{path}: inherits {parent}, which is not there"
                chain.append(parent)
            yield from self._query(path, values, embedders)

    def _query(self, path: str, values: dict[str, str], embedders: set[str]) -> Iterator[str]:
        yql = values.get("yql", "")
        if not yql:
            return
        source = re.search(r"\bfrom (\w+)", yql)
        schema = self.schemas.get(source.group(1)) if source else None
        if schema is None:
            yield f"{path}: asks of a schema that is not there"
            return
        profile = values.get("ranking.profile", "default")
        if profile not in schema.profiles:
            yield f"{path}: asks for the rank profile {profile}, which is not there"
        inputs = schema.inputs(profile)
        for name in values:
            found = re.fullmatch(r"input\.query\((\w+)\)", name)
            if found and found.group(1) not in inputs:
                yield f"{path}: sets query({found.group(1)}), which {profile} does not take"
        for name in re.findall(r"nearestNeighbor\(\s*\w+\s*,\s*(\w+)", yql):
            if name not in inputs:
                yield f"{path}: compares with query({name}), which {profile} does not take"
        for name in re.findall(r"nearestNeighbor\(\s*(\w+)", yql):
            if not schema.fields.get(name, "tensor").startswith("tensor"):
                yield f"{path}: looks for neighbours in {name}, which is no tensor"
        if "userInput" in yql and "default" not in schema.fieldsets:
            yield f"{path}: userInput looks into the fieldset default, which is not there"
        if any("embed(" in value for value in values.values()) and not embedders:
            yield f"{path}: embeds text, and services.xml has no embedder"
        for name in sorted(_fields_of(yql) - set(schema.fields)):
            yield f"{path}: names the field {name}, which is not there"
        summary = values.get("presentation.summary")
        if summary is not None and summary not in schema.summaries:
            yield f"{path}: asks for the summary {summary}, which is not there"


def _schema(root: Block) -> _Schema | None:
    block = root.one("schema")
    document = block.one("document") if block else None
    if block is None or document is None or document.head.split()[1:] != block.head.split()[1:]:
        return None
    fields = {}
    for one in (*document.named("field"), *block.named("field")):
        _, name, _, kind = one.head.split(None, 3)
        fields[name] = kind
    return _Schema(
        name=block.head.split()[1],
        block=block,
        fields=fields,
        fieldsets={one.head.split()[1] for one in block.named("fieldset")},
        summaries={one.head.split()[1] for one in block.named("document-summary")} | {"default"},
    )


def _unknown_words(block: Block) -> Iterator[str]:
    lists = ("match-features", "summary-features", "expression")
    for one in block.walk():
        words = [nested.head for nested in one.blocks]
        if one.head.split()[:1] not in [[word] for word in lists]:
            words += one.statements
        for word in words:
            first = re.split(r"[\s:(]", word, maxsplit=1)[0]
            value = word.partition(":")[2].strip()
            if first not in WORDS:
                yield first
            elif value and value not in VALUES.get(first, {value}):
                yield value


def _expressions(profile: Block) -> Iterator[str]:
    for block in profile.walk():
        if block.head in ("match-features", "summary-features", "expression"):
            yield " ".join(block.statements)
        for statement in block.statements:
            key, colon, value = statement.partition(":")
            if colon and key.strip() in ("expression", "match-features", "summary-features"):
                yield value


def _profile(schema: _Schema, name: str, block: Block, path: str) -> Iterator[str]:
    parent = inherited(block)
    if parent is not None and parent not in schema.profiles:
        yield f"{path}: inherits {parent}, which is not found in schema {schema.name}"
    inputs, functions = schema.inputs(name), schema.functions(name)
    for expression in _expressions(block):
        for word, arguments in _calls(expression):
            if word == "query":
                if not inputs.issuperset(arguments):
                    yield f"{path}: query({', '.join(arguments)}) is not among the inputs"
            elif word in FIELD_FEATURES:
                place = FIELD_FEATURES[word]
                named = arguments[place] if len(arguments) > place else ""
                if named not in schema.fields:
                    yield f"{path}: {word} names the field {named}, which is not there"
            elif word not in KNOWN | functions | set(schema.fields):
                yield f"{path}: invalid rank feature {word}: unknown basename"


def _calls(expression: str) -> Iterator[tuple[str, list[str]]]:
    """Each name with its arguments, those of nested calls too; not the argument of query()."""
    for found in _WORD.finditer(expression):
        if not expression[: found.start()].endswith("query("):
            inside = re.match(r"\s*\(([^()]*)\)", expression[found.end() :])
            arguments = inside.group(1).split(",") if inside else []
            yield found.group(), [argument.strip() for argument in arguments]


_FIELD_USES: tuple[Callable[[str], list[str]], ...] = (
    re.compile(r"nearestNeighbor\(\s*(\w+)").findall,
    re.compile(r"\b(\w+)\s+contains\b").findall,
    re.compile(r"\brange\(\s*(\w+)").findall,
    re.compile(r"\b(\w+)\s+in\s*\(").findall,
    re.compile(r"\border by (\w+)").findall,
    re.compile(r"\bgroup\((\w+)").findall,
)


def _fields_of(yql: str) -> set[str]:
    """Fields that a query names, but for the key and value inside sameElement."""
    outside = re.sub(r"sameElement\([^()]*\)", "", yql)
    return {name for uses in _FIELD_USES for name in uses(outside)}
