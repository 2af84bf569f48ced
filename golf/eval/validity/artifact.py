"""A1, A4, A5 and what a source says of itself: sizes, formats, imports."""

from __future__ import annotations

import ast
import base64
import bz2
import gzip
import io
import lzma
import pickletools
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import MAGIC_NUMBER

from golf.eval.validity.verdict import Verdict, failed, passed, unchecked

# Modules that build objects by running what a file says.
PICKLING = frozenset("pickle cPickle _pickle marshal dill cloudpickle shelve joblib".split())
PICKLED_SUFFIXES = (".pkl", ".pickle", ".joblib", ".pth", ".dill")
# A pickle of anything worth the name has more opcodes; random bytes hardly ever have so many valid ones in a row.
PICKLE_OPCODES = 8
PACKED_CHARS = 1000
# How programs and libraries of the common systems begin.
MACHINE = (b"\x7fELF", b"MZ\x90\x00", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
# Characters: longer names tell more than what a file is. Bytes of all names together, which are free.
LONG_NAME, NAMES_FREE = 64, 4096


def size(
    counted: Mapping[str, int], shown: Mapping[str, int], read: Iterable[str], cap: int, claimed: int | None,
    others: Mapping[int, int] = {},
) -> Verdict:  # fmt: skip
    """A1: bytes of everything counted against the cap, of everything read against what is counted.

    counted, shown: files and their bytes; the shown ones (a stock tokenizer) are free.  read: files of the submission
    that were opened while it scored.  others: stated totals of all seeds, of which the worst decides.
    """
    total = sum(counted.values())
    parts = ", ".join(f"{name} {size:,}" for name, size in sorted(counted.items(), key=lambda item: -item[1])[:4])
    if total > cap:
        return failed("A1", f"{total:,} bytes ({parts}), {total - cap:,} over the {cap:,} cap", numbers=[total, cap])
    for seed, stated in others.items():
        if stated > cap:
            why = f"seed {seed} states {stated:,} bytes, {stated - cap:,} over the {cap:,} cap"
            return failed("A1", why, seed=seed, numbers=[stated, cap])
    free = sum(size for name, size in shown.items() if name in set(read))
    if total + free > cap and free:
        names = ", ".join(name for name in shown if name in set(read))
        why = f"{names} is read while tokens are scored, so its bytes count: {total + free:,} of {cap:,}"
        return failed("A1", why, numbers=[total + free, cap])
    spelled = {name: len(name.encode()) for name in counted}
    names = sum(length for name, length in spelled.items() if length > min(LONG_NAME, counted[name]))
    if names > LONG_NAME * 4 or sum(spelled.values()) > NAMES_FREE:
        names = max(names, sum(spelled.values()))
        return failed("A1", f"names of files hold {names:,} bytes, which nobody counts", numbers=[names, 0])
    hidden = sorted(set(read) - set(counted) - set(shown))
    if hidden:
        return failed("A1", f"{hidden[0]} is read while scoring and counted nowhere", files=hidden)
    if claimed is not None and claimed != total:
        return failed("A1", f"{claimed:,} bytes are claimed, the files have {total:,} ({parts})",
                      numbers=[claimed, total])  # fmt: skip
    free = f"; not counted: {', '.join(f'{name} {size:,}' for name, size in shown.items())}" if shown else ""
    return passed("A1", f"{total:,} of {cap:,} bytes ({parts}), {cap - total:,} left{free}", total=total, cap=cap)


def safe_files(files: Mapping[str, bytes]) -> list[Verdict]:
    """A5: no file is a pickle, by name or by content."""
    for name, data in files.items():
        what = pickled(name, data)
        if what:
            return [failed("A5", f"{name} {what}: reading it can run anything", file=name)]
    return [passed("A5", f"{len(files)} files are no pickles")]


def pickled(name: str, data: bytes) -> str:
    """Why a file counts as a pickle; empty when it does not."""
    if name.lower().endswith(PICKLED_SUFFIXES):
        return f"is named as one ({name.rpartition('.')[2]})"
    if data.startswith((*MACHINE, MAGIC_NUMBER)):
        return "is compiled code"
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as bag:
            inner = [entry for entry in bag.namelist() if entry.lower().endswith((*PICKLED_SUFFIXES, "/data.pkl"))]
            if inner:
                return f"is a zip archive with {inner[0]}"
            for entry in bag.namelist():
                if entry.endswith(".npy") and _object_array(_head(bag, entry)):
                    return f"is a zip archive with {entry}, an array of Python objects"
            return ""
    if data.startswith(b"\x93NUMPY"):
        return "is an array of Python objects" if _object_array(data[:256]) else ""
    return "begins as a pickle" if _opcodes(data) >= PICKLE_OPCODES else ""


def _head(bag: zipfile.ZipFile, entry: str) -> bytes:
    """How an entry begins; what it unpacks to may be without end."""
    with bag.open(entry) as file:
        return file.read(256)


def _object_array(head: bytes) -> bool:
    return b"'descr': '|O'" in head


def _opcodes(data: bytes) -> int:
    """How many opcodes in a row the data begins with, as many as matter; 0 without a pickle's opening."""
    if data[:1] != b"\x80" and data[:1] not in (b"(", b"}", b"]", b"c"):
        return 0
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(data):
            count += 1
            if opcode.name == "STOP":
                return max(count, PICKLE_OPCODES)
            if count >= 4 * PICKLE_OPCODES and data[:1] == b"\x80":
                return count
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError):
        return 0
    return 0


def source(name: str, text: str, allowed: frozenset[str]) -> list[Verdict]:
    """A3 and A5 of one source file: what it imports, and calls that run what they read."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [unchecked("A3", f"{name} is not Python this interpreter reads ({error.msg}, line {error.lineno})")]
    own, clocks = name.rpartition("/")[2].removesuffix(".py"), _names_of(tree, "time")
    for node in ast.walk(tree):
        for module in _imports(node):
            top = module.partition(".")[0]
            if top in PICKLING:
                return [failed("A5", f"{name}:{node.lineno} imports {module}", file=name, line=node.lineno)]
            if top not in allowed and top != own:
                why = f"{name}:{node.lineno} imports {module}, which no submission may need"
                return [failed("A3", why, file=name, line=node.lineno)]
        if clock := _clock_set(node, clocks):
            why = f"{name}:{node.lineno} puts another clock in the place of time's: {clock[:80]}"
            return [failed("T1", why, line=node.lineno)]
        unsafe = _unsafe_call(node)
        if unsafe:
            return [failed("A5", f"{name}:{node.lineno} calls {unsafe}", file=name, line=node.lineno)]
    return [passed("A3", f"{name} imports only what is allowed"), passed("A5", f"{name} calls nothing that unpickles")]


def unpacked(name: str, text: str) -> dict[str, str]:
    """The sources inside a self-extracting script, by name: long literals that decode and decompress to Python."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) and len(node.value) > PACKED_CHARS:
            data = node.value.encode("latin-1", "replace") if isinstance(node.value, str) else node.value
            for inner in _decompressed(data):
                for number, part in enumerate(inner.decode("utf-8", "replace").split("\0")):
                    found |= _python(f"{name}[{number}]", part)
    return found


def _decompressed(data: bytes) -> Iterator[bytes]:
    for decode in (base64.b85decode, base64.b64decode, base64.a85decode, bytes):
        for decompress in (bz2.decompress, lzma.decompress, zlib.decompress, gzip.decompress):
            try:
                yield decompress(decode(data))
            except (ValueError, OSError, EOFError, lzma.LZMAError, zlib.error):
                continue  # in another coat, then


def _python(name: str, text: str) -> dict[str, str]:
    """The text if it is Python, or what follows its first line if that names it."""
    first, _, rest = text.partition("\n")
    for title, body in ((name, text), (first, rest)):
        try:
            ast.parse(body)
            return {title: body}
        except (SyntaxError, ValueError):
            continue
    return {}


def _imports(node: ast.AST) -> Sequence[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return []


def _names_of(tree: ast.AST, module: str) -> frozenset[str]:
    """The names under which a source knows a module."""
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return frozenset({module} | {alias.asname for alias in aliases if alias.name == module and alias.asname})


def _clock_set(node: ast.AST, clocks: frozenset[str]) -> str:
    """The statement, if it replaces a function of `time`, in whatever way it gets at the module."""
    modules = {*clocks, "sys.modules['time']"}
    reached: list[tuple[ast.expr, set[str]]] = []
    for target in node.targets if isinstance(node, ast.Assign) else ():
        if isinstance(target, ast.Attribute):
            reached.append((target.value, modules))
        elif isinstance(target, ast.Subscript):
            reached.append((target.value, {road for name in modules for road in (f"vars({name})", f"{name}.__dict__")}))
    if isinstance(node, ast.Call) and node.args:
        name = ast.unparse(node.func)
        if name == "setattr" or name.endswith("patch.object"):
            reached.append((node.args[0], modules))
        elif name.endswith("patch") and str(getattr(node.args[0], "value", "")).startswith("time."):
            return ast.unparse(node)
    return next((ast.unparse(node) for inner, roads in reached if ast.unparse(inner) in roads), "")


def _unsafe_call(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name = ast.unparse(node.func)
    keywords = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
    if name == "torch.load" and keywords.get("weights_only") is not True:
        return "torch.load without weights_only=True"
    if name.endswith(".load") and keywords.get("allow_pickle") is True:
        return f"{name} with allow_pickle=True"
    return ""


def round_trip(first: Mapping[str, str], second: Mapping[str, str], what: str) -> Verdict:
    """A4: hashes of what two processes made of one artifact."""
    for name in first.keys() | second.keys():
        if first.get(name) != second.get(name):
            numbers = [first.get(name), second.get(name)]
            return failed("A4", f"{name} differs between two processes that opened the artifact", numbers=numbers)
    return passed("A4", f"{len(first):,} {what} are equal to the last bit in two processes")
