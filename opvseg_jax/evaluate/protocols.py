"""What a number follows: the named protocols, each with the tables it reads and what it leaves out.

A table is one `Confusion`; `run.py` fills those that the chosen protocols read. A protocol has
settings: `objects`, `pred_all` (parts by predictions alone) and `oracle_obj` (the objects given).
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from opvseg_jax.core.errors import UserError
from opvseg_jax.evaluate import groups, rules
from opvseg_jax.evaluate.confusion import Confusion
from opvseg_jax.vocabulary import Vocabulary

SETTINGS = ("objects", "pred_all", "oracle_obj")
MODES = SETTINGS[1:]
BY_BYTE = 254  # classes: the published boundaries are computed in 8 bits

ZEROS_COUNT = "Classes absent from the truth are left out; a class never found counts as 0."
POSITIVE = (
    "Seen and unseen means leave out every class whose IoU is 0, which raises them; "
    "`standard` counts those classes."
)


@dataclasses.dataclass
class Counts:
    """Everything that was counted: tables by name, and the number of images."""

    tables: dict[str, Confusion]
    images: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of one protocol in one setting: percent (CLIPer: fractions), NaN if undefined."""

    protocol: str
    setting: str
    note: str
    names: tuple[str, ...]
    figures: dict[str, float]
    per_class: dict[str, np.ndarray]  # in the order of `names`

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; undefined ones are None."""
        return {
            "protocol": self.protocol,
            "setting": self.setting,
            "note": self.note,
            "figures": {name: _plain(value) for name, value in self.figures.items()},
            "classes": list(self.names),
            "per_class": {key: list(map(_plain, row)) for key, row in self.per_class.items()},
        }


class Words(NamedTuple):
    """What the rules need to know of a vocabulary: names and which classes are seen."""

    names: tuple[str, ...]
    is_seen: np.ndarray
    has_split: bool
    vocabulary: Vocabulary


Tables = Mapping[str, np.ndarray | None]
Rule = Callable[[Tables, Words], rules.Result]


class Protocol(NamedTuple):
    """A note, and for each setting the tables that are read (first the main one) and the rule."""

    note: str
    settings: dict[str, tuple[tuple[str, ...], Rule]]


def _simple(rule, *names: str) -> tuple[tuple[str, ...], Rule]:
    """A rule of (matrix, is_seen, further tables...)."""
    first, *rest = names

    def reduce(tables: Tables, words: Words) -> rules.Result:
        return rule(tables[first], words.is_seen, *(tables[name] for name in rest))

    return names, reduce


def _unsplit(rule, *names: str) -> tuple[tuple[str, ...], Rule]:
    """A rule of (matrix, further tables...) that knows no seen classes."""
    return names, lambda tables, words: rule(*(tables[name] for name in names))


def _standard_pred_all() -> tuple[tuple[str, ...], Rule]:
    def reduce(tables: Tables, words: Words) -> rules.Result:
        result = rules.standard(tables["pred_all"], words.is_seen, tables["pred_all/border"])
        osi = rules.over_segmentation(tables["part_owners"], _seen_owners(words))
        return rules.Result(result.figures | osi, result.per_class)

    return ("pred_all", "pred_all/border", "part_owners"), reduce


def _hops_full() -> tuple[tuple[str, ...], Rule]:
    def reduce(tables: Tables, words: Words) -> rules.Result:
        matrix, vocabulary = tables["pred_all"], words.vocabulary
        owners = tables["part_owners"]
        if vocabulary.name != "pascal_part_116":  # elsewhere HOPS folds the matrix of the parts
            count = len(vocabulary.objects_with_parts)
            owners = groups.folded(matrix, vocabulary.part_to_object_with_parts, count)
        return rules.hops_full(matrix, words.is_seen, owners, _seen_owners(words))

    return ("pred_all", "part_owners"), reduce


def _cliper(has_background: bool) -> tuple[tuple[str, ...], Rule]:
    def reduce(tables: Tables, words: Words) -> rules.Result:
        matrix = background_first(tables["objects"], words.vocabulary.background_object)
        return rules.cliper(matrix, has_background=has_background)

    return ("objects",), reduce


def background_first(matrix: np.ndarray, background_object: int | None) -> np.ndarray:
    """[K + 1, K + 1] with "nothing" first, or, where an object means that, both as one: [K, K]."""
    count = len(matrix) - 1
    order = [count, *range(count)]
    moved = matrix[np.ix_(order, order)]
    if background_object is None:
        return moved
    kept = [i for i in range(count) if i != background_object]
    place = np.zeros(count, int)
    place[kept] = 1 + np.arange(len(kept))
    owners = np.append(place, 0)  # "nothing" and the background object are both class 0
    out = np.zeros((count, count), matrix.dtype)
    np.add.at(out, (owners[:, None], owners), matrix)
    return out


PROTOCOLS: dict[str, Protocol] = {
    "standard": Protocol(
        f"Ours. {ZEROS_COUNT} Answers where nothing is labelled are wrong.",
        {
            "objects": _simple(rules.standard, "objects", "objects/border"),
            "pred_all": _standard_pred_all(),
            "oracle_obj": _simple(rules.standard, "oracle_obj", "oracle_obj/border"),
        },
    ),
    "ov_parts": Protocol(
        "OV-PARTS: in means of seen and unseen, classes absent from the truth but answered count "
        "as 0; pixels without a part are not judged.",
        {"oracle_obj": _simple(rules.ov_parts, "oracle_inside")},
    ),
    "partclipseg": Protocol(
        "PartCLIPSeg: answers outside the labelled parts are not judged. "
        "Its boundary IoU compares differences of labels, not borders.",
        {
            "pred_all": _simple(rules.partclipseg_pred_all, "pred_all", "pred_all/difference"),
            "oracle_obj": _simple(
                rules.partclipseg_oracle, "oracle_exact", "oracle_exact/difference"
            ),
        },
    ),
    "partcatseg": Protocol(
        f"PartCATSeg: answers outside the labelled parts are not judged. {POSITIVE}",
        {
            "pred_all": _simple(rules.partcatseg_pred_all, "pred_all"),
            "oracle_obj": _simple(rules.partcatseg_oracle, "oracle_name"),
        },
    ),
    "hops": Protocol(
        f"HOPS with GT: as PartCATSeg's Pred-All, with mUSI. {POSITIVE}",
        {"pred_all": _simple(rules.hops_with_truth, "pred_all")},
    ),
    "hops_full": Protocol(
        f"HOPS without GT: answers outside the labelled parts are wrong. {POSITIVE}",
        {"pred_all": _hops_full()},
    ),
    "detectron2_0.6": Protocol(
        "detectron2 0.6: a class absent from the truth but answered somewhere counts as 0; "
        "unlabelled pixels are not judged.",
        {"objects": _unsplit(rules.detectron2_06, "objects")},
    ),
    "detectron2": Protocol(
        "detectron2 since October 2022: classes absent from the truth are left out; unlabelled "
        "pixels are not judged.",
        {"objects": _unsplit(rules.detectron2, "objects", "objects/difference")},
    ),
    "deop": Protocol(
        "DeOP, zero-shot: as detectron2 0.6, for all, seen and unseen classes.",
        {"objects": _simple(rules.deop, "objects")},
    ),
    "deop_cross": Protocol(
        "DeOP, cross-dataset: as detectron2 0.6.",
        {"objects": _unsplit(rules.detectron2_06, "objects")},
    ),
    "cliper": Protocol(
        "CLIPer, sets with a background to find; fractions. Accuracy is a mean over all classes, "
        "present or not.",
        {"objects": _cliper(has_background=True)},
    ),
    "cliper_objects": Protocol(
        "CLIPer, sets without a background: its pixels are left out and answers of it are "
        "misses; fractions.",
        {"objects": _cliper(has_background=False)},
    ),
}


def protocol(name: str) -> Protocol:
    """By name; a name that there is not is a `UserError` with the nearest one."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(str(name), PROTOCOLS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "there are " + ", ".join(PROTOCOLS)
    raise UserError(f"unknown protocol {name!r}: {hint}")


def tables_of(
    names: Iterable[str], modes: Iterable[str], vocabulary: Vocabulary
) -> tuple[str, ...]:
    """The tables that these protocols read, for the objects and these modes of the parts."""
    settings = {"objects", *(modes if vocabulary.parts else ())}
    wanted: dict[str, None] = {}
    for name in names:
        for setting, (tables, _) in protocol(name).settings.items():
            if setting in settings:
                wanted |= dict.fromkeys(tables)
    return tuple(name for name in wanted if _is_possible(name, vocabulary))


def num_classes(table: str, vocabulary: Vocabulary) -> int:
    """Of a table, by its name."""
    if table == "part_owners":
        return len(vocabulary.objects_with_parts)
    is_objects = table.partition("/")[0] == "objects"
    return len(vocabulary.objects if is_objects else vocabulary.parts)


def score(counts: Counts, vocabulary: Vocabulary, name: str = "standard") -> tuple[Report, ...]:
    """The figures of a protocol in every setting that was counted."""
    chosen = protocol(name)
    reports = []
    for setting, (tables, rule) in chosen.settings.items():
        if tables[0] not in counts.tables:
            continue
        words = words_of(vocabulary, setting)
        matrices = {
            table: counts.tables[table].counts if table in counts.tables else None
            for table in tables
        }
        reports.append(_report(name, setting, chosen.note, words, rule(matrices, words)))
    return tuple(reports)


def summary(reports: Iterable[Report]) -> dict[str, float]:
    """One flat dict, "protocol/setting/figure" -> value, without what is undefined."""
    return {
        f"{report.protocol}/{report.setting}/{name}": value
        for report in reports
        for name, value in report.figures.items()
        if not np.isnan(value)
    }


def words_of(vocabulary: Vocabulary, setting: str) -> Words:
    """Without a split every class is taken for seen."""
    if setting == "objects":
        names, mask = vocabulary.objects, vocabulary.seen_object_mask
    else:
        names, mask = vocabulary.part_names, vocabulary.seen_part_mask
    is_seen = np.ones(len(names), bool) if mask is None else np.asarray(mask)
    return Words(tuple(names), is_seen, mask is not None, vocabulary)


def _seen_owners(words: Words) -> np.ndarray:
    """[W] bool: objects that own a seen part."""
    out = np.zeros(len(words.vocabulary.objects_with_parts), bool)
    np.logical_or.at(out, words.vocabulary.part_to_object_with_parts, words.is_seen)
    return out


def _report(name: str, setting: str, note: str, words: Words, result: rules.Result) -> Report:
    figures, names = result.figures, words.names
    if not words.has_split:
        figures = {k: v for k, v in figures.items() if not k.endswith("seen") and k[:2] != "h-"}
    if name.startswith("cliper"):  # the background is its first class
        skipped = words.vocabulary.background_object
        names = ("background", *(n for i, n in enumerate(names) if i != skipped))
    return Report(name, setting, note, names, figures, result.per_class)


def _is_possible(table: str, vocabulary: Vocabulary) -> bool:
    return not table.endswith("/difference") or num_classes(table, vocabulary) <= BY_BYTE


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
