"""The front matter of a learngene's card: the YAML block on top that model hubs read.

It states what the file and its evidence hold, and nothing else. Texts may be a stranger's, so only plain words get in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gtl.errors import ConfigError
from gtl.learngene.artifact import Learngene
from gtl.report.provenance import Record
from gtl.report.table import shots_text

PUBLIC = ("cifar_fs", "mini_imagenet")  # data sets that others have too; a user's folder may be called anything
TAGS = ("learngene", "genetic-transfer-learning", "few-shot-learning", "image-classification")
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


def front_matter(learngene: Learngene, record: Record, documents: Sequence[Mapping[str, Any]], license_id: str) -> str:
    """The block, dashes included.

    Args:
        documents: evidence; in the ``model-index`` are those that name this gene by its digest.
        license_id: as hubs spell it; ``unknown`` is one of their words.

    Raises:
        ConfigError: a licence that no hub would take.
        KeyError, TypeError, ValueError: evidence of another shape.
    """
    if not _LICENSE.fullmatch(license_id):
        raise ConfigError(
            f"licence {license_id[:80]!r} is no identifier; give one as model hubs spell them: apache-2.0, mit, other"
        )
    data = record.get("data", "source")
    results = list(_results([each for each in documents if each.get("learngene") == learngene.digest]))
    name = _word(record.get("config", "name") or learngene.arch)
    lines = [
        "---",
        f"license: {json.dumps(license_id)}",
        "library_name: gtl",
        "tags:",
        *(f"- {tag}" for tag in (*TAGS, learngene.arch)),
        *(["datasets:", f"- {data}"] if data in PUBLIC else []),
        *(["metrics:", "- accuracy", "model-index:", f"- name: {name}", "  results:", *results] if results else []),
        "---",
    ]
    return "\n".join(lines)


def _results(documents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What descendants of this gene reached: a result for every evidence document and number of images a class."""
    for document in documents:
        source = _word(document["data"]["source"])
        found = {(result["start"], int(result["shots"])): result["accuracy"] for result in document["descendants"]}
        for (start, shots), accuracy in found.items():
            if start != "learngene":
                continue
            mean, low, high = (float(accuracy[key]) for key in ("mean", "low", "high"))
            text = (
                f"accuracy of descendants, {shots_text(shots)}, mean of n = {int(accuracy['n'])} seeds that draw images and "
                f"new weights, 95 % interval {low:.3f} to {high:.3f}"
            )
            if ("scratch", shots) in found:
                text += f"; {float(found['scratch', shots]['mean']):.3f} from scratch"
            yield from (
                "  - task:",
                "      type: image-classification",
                "      name: few-shot classification of novel classes by fine-tuned descendants",
                "    dataset:",
                f"      type: {source}",
                f"      name: {source}",
                "    metrics:",
                "    - type: accuracy",
                f"      value: {mean:.4f}",
                f'      name: "{text}"',
            )


def _word(text: object) -> str:
    """Letters, digits and a few marks, quoted, so that YAML takes it for text."""
    return json.dumps(re.sub(r"[^A-Za-z0-9._-]+", "-", str(text))[:80].strip("-.") or "unnamed")
