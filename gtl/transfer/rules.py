"""Fine-tuning rules of descendants by name: what `gtl descend --fine-tuning` chooses from."""

from __future__ import annotations

from collections.abc import Callable

from gtl.errors import ConfigError
from gtl.fewshot import Training
from gtl.learngene.artifact import Learngene

# The learngene that a descendant has -> how it is trained; None: by `gtl.training.train`.
Rule = Callable[[Learngene], Training | None]


def plain(learngene: Learngene) -> None:
    """All parameters learn, by the recipe."""


RULES: dict[str, Rule] = {"plain": plain}


def rule_of(name: str, learngene: Learngene) -> Training | None:
    """The training that a rule gives the descendants of a learngene.

    Raises:
        ConfigError: there is no such rule.
    """
    if name not in RULES:
        raise ConfigError(f"there is no fine-tuning rule {name!r}; choose one of {', '.join(RULES)}")
    return RULES[name](learngene)
