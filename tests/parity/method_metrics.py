"""The published evaluators: every recorded matrix, vector and figure from our one accumulator."""

import jax
import jax.numpy as jnp
import numpy as np

from opvseg_jax.core.image import resize
from opvseg_jax.evaluate import decisions, groups, instances, proposals, rules
from opvseg_jax.evaluate.boundary import label_difference, reach
from opvseg_jax.pipeline.pixels import resize_labels
from opvseg_jax.pipeline.transforms import shortest_edge
from opvseg_jax.vocabulary import Vocabulary
from parity import metrics_cases as cases
from parity.harness import Case, register

EXACT = ("out.*", "mid.*")


def difference(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The published boundary map of labels with -1 for nothing; computed in a padded frame."""
    named = np.where(labels < 0, num_classes, labels).astype(np.int32)
    size = np.array(labels.shape, np.int32)
    framed = np.pad(named, ((0, 3), (0, 5)), constant_values=7)
    found = jax.jit(label_difference)(framed, size, reach(size[None])[0])
    found = np.asarray(found)[: size[0], : size[1]]
    return np.where(found == num_classes, -1, found)


@register("metrics", "semseg", counted=EXACT)
def semseg(case: Case) -> dict:
    k = case.about["num_classes"]
    is_seen = np.isin(np.arange(k), case.about["results"]["plain.base"])
    plain = _maps(case, "plain.gt.", "plain.pred.", k)
    matrix = cases.counted(plain, k)
    edges = cases.counted([[difference(m, k) for m in pair] for pair in plain], k)
    out = {}
    for name, result in {
        "detectron2_v06": rules.detectron2_06(matrix),
        "detectron2_main": rules.detectron2(matrix, edges),
        "deop_generalized": rules.deop(matrix, is_seen),
    }.items():
        out |= _recorded(case, result, f"plain.{name}")
    # A recorded column holds one truth, ours a row.
    out["out.plain.detectron2_v06.conf"] = out["out.plain.detectron2_main.conf"] = matrix.T
    out["out.plain.detectron2_main.boundary_conf"] = edges.T
    return out | _voc20b(case) | _cliper(case)


def _maps(case: Case, truth: str, answer: str, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    answers = case.below(f"in.{answer}")
    return [
        (cases.with_nothing(m, k), cases.with_nothing(answers[i], k))
        for i, m in case.below(f"in.{truth}").items()
    ]


def _recorded(case: Case, result, name: str) -> dict:
    return cases.outputs(case, result, f"out.results.{name}.") | cases.outputs(
        case, result, "", f"out.{name}.per_class."
    )


def _voc20b(case: Case) -> dict:
    """59 classes are prompted; from number 20 on they are the background."""
    k = 21
    answers = case.below("in.voc20b.pred59.")
    pairs = [
        (cases.with_nothing(m, k), np.minimum(answers[i], 20).astype(np.int32))
        for i, m in case.below("in.voc20b.gt.").items()
    ]
    matrix = cases.counted(pairs, k)
    no_edges = np.zeros_like(matrix)  # CAT-Seg's evaluator of this set does not count them
    out = _recorded(case, rules.detectron2_06(matrix), "voc20b.detectron2_v06")
    out |= _recorded(case, rules.detectron2(matrix, no_edges), "voc20b.detectron2_main")
    return out | {f"out.voc20b.detectron2_{name}.conf": matrix.T for name in ("v06", "main")}


def _cliper(case: Case) -> dict:
    """Label 0 is the background; labels beyond the classes are dropped."""
    k = len(case.tensors["out.cliper.ignore255.hist"])
    answers = case.below("in.cliper.pred.")
    pairs = [(cases.labels(m, k), answers[i]) for i, m in case.below("in.cliper.gt.").items()]
    matrix = cases.counted(pairs, k)[:-1, :-1]
    out = {}
    for name, has_background in (("ignore255", True), ("ignore0_255", False)):
        result = rules.cliper(matrix, has_background=has_background)
        out |= _recorded(case, result, f"cliper.{name}")
        judged = matrix.copy()
        judged[0] *= has_background
        out[f"out.cliper.{name}.hist"] = judged
    return out


@register("metrics", "parts_ade234", counted=EXACT)
@register("metrics", "parts_partimagenet147", counted=EXACT)
@register("metrics", "parts_pascal116", counted=EXACT)
def parts(case: Case) -> dict:
    words = Vocabulary.named(case.about["vocab"])
    k, is_seen = len(words.parts), np.asarray(words.seen_part_mask)
    maps = {
        name: case.below(f"in.{name}.") for name in ("gt_part", "gt_obj", "pred_all", "pred_oracle")
    }
    everything, oracle, inside, edges = [], [], [], {"all": [], "oracle": []}
    for i in maps["gt_part"]:
        truth = cases.with_nothing(maps["gt_part"][i], k)
        answers = {
            name: cases.with_nothing(maps[name][i], k) for name in ("pred_all", "pred_oracle")
        }
        everything.append((cases.resized_to(truth, answers["pred_all"]), answers["pred_all"]))
        truth = cases.resized_to(truth, answers["pred_oracle"])
        oracle.append((truth, answers["pred_oracle"]))
        objects = cases.resized_to(
            cases.with_nothing(maps["gt_obj"][i], len(words)), answers["pred_oracle"]
        )
        inside.append((truth, np.where(objects < 0, -1, answers["pred_oracle"])))
        for name, (true, answer) in (("all", everything[-1]), ("oracle", oracle[-1])):
            masked = np.where(true < 0, -1, answer)  # before borders are looked for
            edges[name].append((difference(true, k), difference(masked, k)))
    matrix, chosen, within = (cases.counted(pairs, k) for pairs in (everything, oracle, inside))
    borders = {name: cases.counted(pairs, k) for name, pairs in edges.items()}
    owners = _owners(words, matrix, maps, is_pascal=case.about["vocab"] == "pascal_part_116")
    out = {}
    for name, result in {
        "hops.pred_with_gt": rules.hops_with_truth(matrix, is_seen),
        "hops.pred_without_gt": rules.hops_full(matrix, is_seen, owners, seen_owners(words)),
        "partcatseg.oracle_obj": rules.partcatseg_oracle(chosen, is_seen),
        "partcatseg.pred_all": rules.partcatseg_pred_all(matrix, is_seen),
        "partclipseg.oracle": rules.partclipseg_oracle(chosen, is_seen, borders["oracle"]),
        "partclipseg.pred_all": rules.partclipseg_pred_all(matrix, is_seen, borders["all"]),
        "ov_parts.oracle": rules.ov_parts(within, is_seen),
    }.items():
        out |= _recorded(case, result, name)
    matrices = {
        "hops.pred_with_gt": groups.forgiven(matrix),
        "hops.pred_without_gt": matrix,
        "partcatseg.oracle_obj": groups.forgiven(chosen),
        "partcatseg.pred_all": groups.forgiven(matrix),
        "ov_parts.oracle": within,
    }
    out |= {f"out.{name}.conf_nz": cases.nonzero_rows(m) for name, m in matrices.items()}
    return out | {"out.hops.object_conf": owners.T}


def seen_owners(words: Vocabulary, is_seen: np.ndarray | None = None) -> np.ndarray:
    is_seen = words.seen_part_mask if is_seen is None else is_seen
    out = np.zeros(len(words.objects_with_parts), bool)
    np.logical_or.at(out, words.part_to_object_with_parts, is_seen)
    return out


def _owners(words: Vocabulary, matrix: np.ndarray, maps: dict, *, is_pascal: bool):
    """Objects with parts: by their own maps (Pascal), or by those of the parts."""
    count = len(words.objects_with_parts)
    if not is_pascal:
        return groups.folded(matrix, words.part_to_object_with_parts, count)
    pairs = []
    for i, answer in maps["pred_all"].items():
        truth = cases.resized_to(cases.with_nothing(maps["gt_obj"][i], len(words)), answer)
        pairs.append(owner_maps(words, truth, cases.with_nothing(answer, len(words.parts))))
    return cases.counted(pairs, count)


def owner_maps(words: Vocabulary, objects: np.ndarray, parts: np.ndarray):
    """A true map of objects and an answered one of parts as numbers of objects with parts."""
    of_object = np.append(words.object_to_object_with_parts, -1)
    of_part = np.append(words.part_to_object_with_parts, -1)
    return of_object[objects], of_part[parts]


@register("hops", "metrics", counted=EXACT)
def hops(case: Case) -> dict:
    out = {}
    for name, about in case.about["datasets"].items():
        words, is_seen, pairs, _, objects = _small_maps(case, name, about)
        matrix = cases.counted(pairs, len(words.parts))
        count = len(words.objects_with_parts)
        owners = groups.folded(matrix, words.part_to_object_with_parts, count)
        if name == "pascal_part_116":
            turned = [owner_maps(words, o, a) for o, (_, a) in zip(objects, pairs, strict=True)]
            owners = cases.counted(turned, count)
            out[f"mid.{name}.conf_matrix_obj"] = owners.T.astype(np.int32)
        with_truth = rules.hops_with_truth(matrix, is_seen)
        full = rules.hops_full(matrix, is_seen, owners, seen_owners(words, is_seen))
        out |= cases.outputs(case, with_truth, f"out.results.{name}.pred_with_gt.")
        out |= cases.outputs(case, full, f"out.results.{name}.pred_without_gt.")
        out |= _matrices(name, groups.forgiven(matrix), matrix)
    return out


def _matrices(name: str, gt_mode: np.ndarray, pred_all: np.ndarray) -> dict:
    found = {"gt_mode": gt_mode, "pred_all": pred_all}
    return {f"mid.{name}.conf_matrix_{key}": m.T.astype(np.int32) for key, m in found.items()}


def _small_maps(case: Case, name: str, about: dict):
    """-> words, seen parts, pairs of Pred-All and of Oracle-Obj, and maps of objects."""
    words = Vocabulary.named({"ade_part_234": "ade20k_part_234"}.get(name, name))
    k = about["num_classes"]
    is_seen = np.isin(np.arange(k), about["base_ids"])
    pairs, oracle, objects = [], [], []
    for i in range(about["num_images"]):
        maps = case.below(f"in.{name}.{i}.")
        truth = cases.with_nothing(maps["gt_part"], k)
        pairs.append((truth, cases.with_nothing(maps["argmax_all"], k)))
        restricted = cases.with_nothing(maps["argmax_gt_object_restricted"], k)
        oracle.append((truth, restricted))
        objects.append(cases.with_nothing(maps["gt_object"], len(words)))
    return words, is_seen, pairs, oracle, objects


@register("partcatseg", "metrics", counted=EXACT)
def partcatseg(case: Case) -> dict:
    out = {}
    for name, about in case.about["datasets"].items():
        words, is_seen, pairs, oracle, _ = _small_maps(case, name, about)
        matrix, chosen = (cases.counted(maps, len(words.parts)) for maps in (pairs, oracle))
        results = {
            "oracle_obj": rules.partcatseg_oracle(chosen, is_seen),
            "pred_all": rules.partcatseg_pred_all(matrix, is_seen),
        }
        for setting, result in results.items():
            out |= cases.outputs(case, result, f"out.results.{name}.{setting}.")
        out |= _matrices(name, groups.forgiven(chosen), groups.forgiven(matrix))
    return out


@register("deop", "eval_metrics")
def deop(case: Case) -> dict:
    k = case.config["num_classes"]
    is_seen = np.isin(np.arange(k), case.config["seen"])
    truth, answer = (cases.with_nothing(case.tensors[f"in.{name}"], k) for name in ("gt", "pred"))
    matrix = cases.counted([(truth, answer)], k)
    result = rules.deop(matrix, is_seen)
    out = cases.outputs(case, result, "out.")
    vectors = {"iou": result.per_class["IoU"], "acc": result.per_class["ACC"]}
    out |= {
        f"out.{name}_per_class_nan_if_no_gt": np.nan_to_num(vector, nan=-1.0).astype(np.float32)
        for name, vector in vectors.items()
    }
    return out | {"out.conf_matrix": matrix.T.astype(np.int32)}


@register("langhops", "semseg_metric")
def langhops(case: Case) -> dict:
    matrix = case.tensors["in.confusion"].T.astype(np.int64)
    k = case.about["num_classes"]
    is_seen = np.isin(np.arange(k), case.tensors["in.base_indices"])
    result = rules.ov_parts(matrix, is_seen)
    keys = ("mIoU", "mIoU-seen", "mIoU-unseen", "h-IoU", "fwIoU")
    return {
        "out.iou_percent": result.per_class["IoU"],
        "out.summary": np.array([result.figures[key] for key in keys]),
    }


@register("metrics", "proposals", counted=EXACT)
def recall(case: Case) -> dict:
    k = case.about["num_classes"]
    is_unseen = np.isin(np.arange(k), case.about["unseen"])
    masks, segments, own = None, {30: None, 50: None}, {30: None, 50: None}
    for i, truth in case.below("in.gt.").items():
        proposed = _proposed(case.tensors[f"in.mask_logits.{i}"], truth.shape)
        masks = _add(masks, proposals.deop_hits(proposed, truth, is_unseen, 0.5))
        answered = proposals.segments_of(case.tensors[f"in.pred.{i}"])
        for least in segments:
            hits = proposals.deop_hits(answered, truth, is_unseen, least / 100)
            segments[least] = _add(segments[least], hits)
            found = proposals.recall(proposed, truth, ~is_unseen, least / 100)
            own[least] = _add(own[least], found)
    out = {f"mask_proposals_iou50.{key}": v for key, v in _hit_figures(masks).items()}
    for least, hits in segments.items():
        name = f"final_segments_iou{least}"
        out |= {f"{name}.{key}": value for key, value in _hit_figures(hits).items()}
        out |= {f"own_recall_per_gt_segment.iou{least}.{k}": v for k, v in _own(own[least]).items()}
    return {f"out.results.{name}": np.float64(value) for name, value in out.items()}


def _add(total, more):
    return more if total is None else total + more


def _proposed(logits: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    scores = jax.nn.sigmoid(jnp.moveaxis(jnp.asarray(logits), 0, -1))
    return list(np.moveaxis(np.asarray(resize(scores, size)) > 0.5, -1, 0))


def _hit_figures(hits: proposals.Hits) -> dict:
    figures = hits.figures()
    counts = {
        "countIoU": hits.seen + hits.unseen,
        "countIoUSeen": hits.seen,
        "countIoUUnseen": hits.unseen,
        "countAllMask": hits.answers,
        "countSeenAllMask": hits.seen_segments,
        "countUnseenAllMask": hits.unseen_segments,
    }
    return counts | figures | {"Recall": figures["AP"]}


def _own(found: proposals.Recall) -> dict:
    counts = {
        "counts.0.seen": found.found_seen,
        "counts.0.unseen": found.found_unseen,
        "counts.1.seen": found.seen,
        "counts.1.unseen": found.unseen,
    }
    return found.figures() | counts


@register("metrics", "instance_ap", counted=EXACT)
def instance_ap(case: Case) -> dict:
    out = {}
    for kind in instances.KINDS:
        found = instances.average_precision(
            case.about["ground_truth"], case.about["detections"], kind
        )
        figures = found.figures() | {
            "objects_AP": found.group(case.about["object_ids"]),
            "parts_AP": found.group(case.about["part_ids"]),
        }
        out |= {f"out.results.{kind}.{name}": np.float64(v) for name, v in figures.items()}
        out[f"out.{kind}.per_class.AP"] = np.array(list(found.per_category().values()))
    return out


@register("metrics", "resize_chain", layers=("out.scores_postprocessed.*",))
def resize_chain(case: Case) -> dict:
    out = {}
    for i, about in enumerate(case.about["cases"]):
        labels = case.tensors[f"in.label.{i}"]
        size = shortest_edge(labels.shape, about["short_edge"], about["max_size"])
        resized = resize_labels(labels, size)
        out[f"out.resized.{i}"] = resized
        out[f"out.back.{i}"] = resize_labels(resized, labels.shape)
        if f"in.scores.{i}" in case.tensors:
            scores = case.tensors[f"in.scores.{i}"]
            found = full_size(np.moveaxis(scores, 0, -1), about["unpadded_crop"], about["orig"])
            out[f"out.scores_postprocessed.{i}"] = np.moveaxis(found, -1, 0)
    return out


def full_size(scores: np.ndarray, content, size) -> np.ndarray:
    """scores [y, x, K] -> [h, w, K], as the labels are read from it: see `full_size_labels`."""

    def keep(seen, truth, kept):
        return seen

    y, x, k = scores.shape
    h, w = (n + 3 for n in size)  # a frame larger than the image, as in a batch
    truth, kept = np.zeros((1, h, w), np.int32), np.zeros((1, 2, k), bool)
    places = (np.array([content], np.float32), np.array([size], np.int32))
    found = decisions.full_size_scores(scores[None], *places, truth, kept, {"all": keep}, (y, x))
    return np.asarray(found["all"])[0, : size[0], : size[1]]


@register("metrics", "oracle_mask")
def oracle_mask(case: Case) -> dict:
    out = {}
    for i, about in enumerate(case.about["items"]):
        words = Vocabulary.named(about["vocab"])
        inside, exact = decisions.parts_by_name(words)
        scores = jnp.asarray(np.moveaxis(case.tensors[f"in.logits.{i}"], 0, -1))
        scores = jax.nn.sigmoid(scores)
        truth = np.full(scores.shape[:2], words.index(about["object"]), np.int32)
        kept = decisions.kept_parts(truth, inside, exact)
        assert kept.sum(axis=1).tolist() == [about["kept_substring"], about["kept_exact"]]
        found = {
            "pred_substring": decisions.oracle_name(scores, truth, kept),
            "pred_exact": decisions.oracle_exact(scores, truth, kept),
            "pred_all": decisions.pred_all(scores, truth, kept),
        }
        k = len(words.parts)
        for name, labels in found.items():
            out[f"out.{name}.{i}"] = np.where(labels < 0, k, labels).astype(np.int32)
    return out
