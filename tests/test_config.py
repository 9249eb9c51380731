"""Configurations: files, bases and overrides; every refusal with file, key, value and remedy; dump, hash and schema."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gtl import strict_yaml
from gtl.checks import check_feasible
from gtl.config import Config
from gtl.config_file import ADDED, config_hash, dump_config, known_keys, load_config, parse_config, schema
from gtl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SMALLEST = "name: x\ndata: {source: glyphs}\n"


def write(folder: Path, text: str, name: str = "c.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    return str(caught.value)


def value_at(config: Config, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


# ---- what is read


def test_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SMALLEST))
    assert config.name == "x"
    assert config.life.training.weight_decay == 5e-4


def test_values_keep_their_types() -> None:
    text = SMALLEST + (
        "gene: {budget: 1, initial_share: [1e-2, 5E-1]}\n"
        "fewshot: {shots: [1, 5], learning_rates: [1e-3]}\n"
        "critic: {n_way: 5, tasks_change: false}\n"
    )
    config = parse_config(text, "c.yaml")
    assert (config.gene.budget, type(config.gene.budget)) == (1.0, float)
    assert config.gene.initial_share == (0.01, 0.5)
    assert config.fewshot.shots == (1, 5)
    assert config.fewshot.learning_rates == (0.001,)
    assert config.critic.n_way == 5
    assert config.critic.tasks_change is False


def test_bare_names_are_looked_up_in_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SMALLEST, "configs/glyphs.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glyphs").mkdir()  # a folder of that name is not meant
    assert load_config("glyphs").name == "x"
    assert load_config("configs/glyphs.yaml").name == "x"
    with pytest.raises(ConfigError, match=r"glyhps: no such configuration; did you mean glyphs\?"):
        load_config("glyhps")
    with pytest.raises(ConfigError, match=r"zzz: no such configuration; names that are known: .*, glyphs, "):
        load_config("zzz")


def test_names_of_what_comes_with_gtl_are_known_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("cifar_fs_vgg11_quarter_10").name == "cifar-fs-vgg11-quarter-10"  # with its base
    write(tmp_path, SMALLEST, "configs/glyphs.yaml")
    assert load_config("glyphs").name == "x"  # one's own come first


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "\x1b[0m"])
def test_names_that_cannot_be_files(path: str) -> None:
    with pytest.raises(ConfigError, match="give the path of a YAML file") as caught:
        load_config(path)
    assert str(caught.value).isprintable()


def test_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load_and_round_trip(path: Path) -> None:
    config = load_config(path)
    assert parse_config(dump_config(config), "dump") == config


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "place", "parts"),
    [
        ("evolution: {populaton: 3}", "3:13", ("'evolution.populaton'", "did you mean evolution.population?")),
        ("lif: {}", "3:1", ("'lif'", "did you mean life?")),
        ("budget: 0.1", "3:1", ("'budget'", "did you mean gene.budget?")),
        ("zzzz: 1", "3:1", ("'zzzz'", "known keys there: name, description, seed")),
        ("critic: {qqqq: 1}", "3:10", ("'critic.qqqq'", "known keys there: kind, n_way")),
        ("evolution: {generations: 8.5}", "3:13", ("evolution.generations = 8.5", "a whole number, at least 1")),
        ("evolution: {generations: 1e1}", "3:13", ("evolution.generations = 10.0", "whole number", "write 10")),
        ("evolution: {generations: '3'}", "3:13", ('evolution.generations = "3"', "whole number", "remove the quotes")),
        ("evolution: {generations: true}", "3:13", ("evolution.generations = true", "a whole number")),
        ("gene: {budget: '1e-3'}", "3:8", ('gene.budget = "1e-3"', "a number, above 0", "remove the quotes")),
        ("gene: {budget: 1_0}", "3:8", ('gene.budget = "1_0"', "a number, above 0")),
        ("gene: {budget: true}", "3:8", ("gene.budget = true", "a number")),
        ("gene: {budget: 1.5}", "3:8", ("gene.budget = 1.5", "at most 1")),
        ("gene: {initial_share: [0.1]}", "3:8", ("gene.initial_share[1] is missing", "a number, above 0")),
        ("gene: {initial_share: [1, 2, 3]}", "3:8", ("gene.initial_share = [1, 2, 3]", "a list of 2")),
        ("model: {arch: vgg12}", "3:9", ('model.arch = "vgg12"', "one of vgg11, resnet12")),
        ("founders: {channels: l1}", "3:12", ('founders.channels = "l1"', "each one of l1, bn, random", "brackets")),
        ("founders: {channels: []}", "3:12", ("founders.channels = []", "not empty")),
        ("founders: {channels: [l1, l2]}", "3:27", ('founders.channels[1] = "l2"', "one of l1, bn, random")),
        ("critic: {tasks_change: yes}", "3:10", ('critic.tasks_change = "yes"', "true or false", "write true")),
        ("critic: {n_way: x}", "3:10", ('critic.n_way = "x"', "a whole number, at least 2, or null")),
        ("life:", "3:1", ("life = null", "a section with the keys steps, n_way", "leave it out")),
        ("life: 3", "3:1", ("life = 3", "a section with the keys")),
        ("compute: {device: tpu}", "3:11", ('compute.device = "tpu"', "matching ^(auto|cpu|cuda")),
    ],
)
def test_refused_with_file_key_value_and_remedy(text: str, place: str, parts: tuple[str, ...]) -> None:
    message = refused(SMALLEST + text)
    assert message.startswith(f"c.yaml:{place}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["../../x", "/x", "~", "~/x", "a/b", "X", "''", ".x", '"a\\n"', "a" * 65, "1e3", "5"])
def test_hostile_names(name: str) -> None:
    message = refused(f"name: {name}\ndata: {{source: glyphs}}\n")
    assert message.startswith("c.yaml:1:1: name = ")
    assert "must be text, matching ^[a-z0-9]" in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gene: {budget: .nan}", ("gene.budget = NaN", "above 0")),
        ("gene: {budget: .inf}", ("gene.budget = Infinity", "at most 1")),
        ("gene: {budget: 1e999}", ("gene.budget = Infinity", "at most 1")),
        ("gene: {budget: -0.1}", ("gene.budget = -0.1", "above 0")),
        ("seed: -1", ("seed = -1", "at least 0")),
        ("seed: 9223372036854775808", ("seed = 9223372036854775808", "below 9223372036854775808")),
        ("evolution: {population: 1e9}", ("evolution.population = 1000000000.0", "at most 100000")),
        ("evolution: {population: 1000000000}", ("evolution.population = 1000000000", "at most 100000")),
        ("model: {width: 1e300}", ("model.width = 1e+300", "at most 4")),
        ('data: {source: folder, root: "a\\0b"}', ("control character", "remove it")),
    ],
)
def test_hostile_values(text: str, parts: tuple[str, ...]) -> None:
    message = refused("name: x\n" + text + "\n" + ("" if text.startswith("data") else "data: {source: glyphs}\n"))
    assert message.startswith("c.yaml:2:")
    for part in parts:
        assert part in message
    assert "; write 1000000000" not in message  # no advice that would be refused in turn


def test_long_values_are_shortened() -> None:
    assert len(refused(SMALLEST + f"model: {{arch: {'x' * 5000}}}")) < 300


def test_missing_sections() -> None:
    message = refused("seed: 1\n")
    assert message.startswith("c.yaml: 2 problems\n")
    assert "name is missing; it must be text, matching" in message
    assert "data is missing; it must be a section with the keys source" in message
    assert "c.yaml:2:1: data.source is missing; it must be text (glyphs" in refused("name: x\ndata: {}\n")


def test_all_problems_at_once() -> None:
    message = refused(SMALLEST + "life: {steps: -1, nway: 5}\nfewshot: {shots: [0]}\n")
    head, *problems = message.splitlines()
    assert head == "c.yaml: 3 problems"
    assert problems[0].startswith("  c.yaml:3:8: life.steps = -1: must be a whole number, at least 0")
    assert problems[1] == "  c.yaml:3:19: unknown key 'life.nway'; did you mean life.n_way?"
    assert problems[2].startswith("  c.yaml:4:19: fewshot.shots[0] = 0: must be a whole number, at least 1")


@pytest.mark.parametrize("override", ["x" * 5000, "seed=" + "[" * 5000, "seed=1 #" + "x" * 5000, "x" * 5000 + "=1"])
def test_messages_about_long_texts_are_short(override: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALLEST)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml", [override])
    assert len(str(caught.value)) < 1000
    assert len(refused(SMALLEST + "".join(f"{'x' * 900}{number}: 1\n" for number in range(100)))) < 50_000
    assert len(refused(SMALLEST + f"{'x' * 900}: 1\n{'x' * 900}: 1\n")) < 1000


def test_thousands_of_problems_are_told_at_once_and_not_all() -> None:
    unknown = "".join(f"stepss{number}: 1\n" for number in range(4900))
    wrong = f"fewshot: {{shots: [{', '.join(['0'] * 4900)}]}}\n"
    for text in (unknown, wrong):
        began = time.process_time()
        message = refused(SMALLEST + text)
        assert time.process_time() - began < 1.0
        assert message.startswith("c.yaml: 4900 problems\n") and message.endswith("\n  and 4800 more")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("evolution: {racing: {heats: [0.1]}, litter: 2, crossover: {average_siblings: true}}",
         ("evolution.racing.heats does not go with evolution.crossover.average_siblings", "leave one of the two off")),
        ("evolution: {racing: {heats: [0.1]}}\nlife: {steps: 4}",
         ("of life.steps (4) are lives of (0,) steps", "at least 1 (or a heat of 0) to less than 4", "raise life.steps")),
        ("evolution: {racing: {heats: [0.5]}}\nlife: {steps: 0}", ("of life.steps (0) are lives of (0,) steps",)),
        ("evolution: {racing: {heats: [0.0]}}\nlife: {steps: 0}", ("of life.steps (0) are lives of (0,) steps",)),
        ("evolution: {racing: {heats: [0.0, 0.001]}}", ("are lives of (0, 0) steps; they must rise",)),
        ("evolution: {racing: {heats: [-0.1]}}", ("evolution.racing.heats[0] = -0.1", "at least 0.0")),
        ("evolution: {racing: {heats: [0.3, 0.1]}}", ("are lives of (90, 30) steps; they must rise",)),
        ("evolution: {racing: {heats: [0.1, 0.101]}}", ("are lives of (30, 30) steps; they must rise",)),
        ("evolution: {racing: {heats: [0.999]}}", ("are lives of (300,) steps", "less than 300")),
        ("evolution: {racing: {heats: [1.0]}}", ("evolution.racing.heats[0] = 1.0", "below 1")),
        ("evolution: {racing: {keep: 1.0}}", ("evolution.racing.keep = 1.0", "below 1")),
    ],
)  # fmt: skip
def test_races_that_decide_nothing_are_refused(text: str, parts: tuple[str, ...]) -> None:
    message = refused(SMALLEST + text)
    for part in parts:
        assert part in message


def test_impossible_combinations_name_their_keys() -> None:
    message = refused(SMALLEST + "evolution: {population: 2, tournament: {elite: 2}}\ngene: {budget: 0.1}\n")
    assert message.startswith("c.yaml: ")
    assert "evolution.tournament.elite (2) must be below evolution.population (2)" in message
    assert "gene.initial_share" in message


@pytest.mark.parametrize("text", ["life: {host: newborn}", "life: {host: circuit}\nfounders: {kind: random}"])
def test_channels_of_an_ancestor_need_one_and_a_circuit(text: str) -> None:
    message = refused(SMALLEST + text + "\nevolution: {mutation: {new_channel: ancestor}}\n")
    assert "evolution.mutation.new_channel: ancestor needs" in message


def test_depths_are_refused_for_critics_that_read_no_others() -> None:
    for kind in ("nearest_class_mean", "short_training"):
        message = refused(SMALLEST + f"critic: {{kind: {kind}, depths: 2}}\n")
        assert "critic.depths (2)" in message and "leave it out" in message and kind in message
    assert parse_config(SMALLEST + "critic: {kind: leave_one_out_ridge, depths: 2}\n", "c.yaml").critic.depths == 2


def test_malformed_yaml_is_refused_with_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nname: y\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}:2:1: the key 'name' is given twice")


# ---- bases


def test_bases_are_merged_deeply(tmp_path: Path) -> None:
    write(tmp_path, SMALLEST + "life: {steps: 5, n_way: 7}\nfewshot: {shots: [1, 2, 3]}\n", "shared/low.yaml")
    write(tmp_path, "base: shared/low.yaml\nname: mid\nlife: {steps: 6}\n", "mid.yaml")
    path = write(tmp_path, "base: mid.yaml\ndata: {images_per_class: 9}\nfewshot: {shots: [4]}\n")
    config = load_config(path)
    assert config.name == "mid"
    assert (config.data.source, config.data.images_per_class) == ("glyphs", 9)
    assert (config.life.steps, config.life.n_way) == (6, 7)
    assert config.fewshot.shots == (4,)


def test_a_problem_is_named_where_it_stands(tmp_path: Path) -> None:
    low = write(tmp_path, SMALLEST + "life: {steps: -5, n_way: 0}\n", "low.yaml")
    path = write(tmp_path, "base: low.yaml\nlife: {n_way: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert f"{low}:3:8: life.steps = -5" in str(caught.value)
    assert f"{path}:2:8: life.n_way = 1" in str(caught.value)


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("../outside.yaml", "leads out of"),
        ("sub/../../outside.yaml", "leads out of"),
        ("link.yaml", "leads out of"),
        ("/etc/passwd", "relative to this one"),
        ("~/x.yaml", "relative to this one"),
        ("~", "relative to this one"),
        ("''", "relative to this one"),
        ("[a.yaml]", "relative to this one"),
        ("loop.yaml", "give a regular file"),
        ("none.yaml", "no such file"),
        (".", "no such file"),
        ("c.yaml", "break the circle"),
        ("sub/back.yaml", "leads out of"),
    ],
)
def test_bases_that_are_refused(tmp_path: Path, base: str, reason: str) -> None:
    write(tmp_path, SMALLEST, "outside.yaml")
    folder = tmp_path / "in"
    write(folder, "base: ../../outside.yaml\n", "sub/back.yaml")
    (folder / "link.yaml").symlink_to("../outside.yaml")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    path = write(folder, f"seed: 1\nbase: {base}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    place = folder / "sub/back.yaml:1:1" if "back" in base else f"{path}:2:1"
    assert str(caught.value).startswith(f"{place}: base = ")
    assert reason in str(caught.value)


def test_circles_and_depth_of_bases(tmp_path: Path) -> None:
    a = write(tmp_path, "base: b.yaml\n", "a.yaml")
    write(tmp_path, "base: a.yaml\n", "b.yaml")
    with pytest.raises(ConfigError, match=r"b\.yaml:1:1: base = .*already based on it; break the circle"):
        load_config(a)
    for number in range(20):
        write(tmp_path, f"base: {number + 1}.yaml\n", f"{number}.yaml")
    write(tmp_path, SMALLEST, "20.yaml")
    with pytest.raises(ConfigError, match=r"more than 8 files deep; merge"):
        load_config(tmp_path / "0.yaml")
    assert load_config(tmp_path / "12.yaml").name == "x"


# ---- overrides


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST)
    overrides = [
        *("evolution.population=20", "life.training.learning_rate=1e-3", "fewshot.shots=[1,5]", "critic.n_way=null"),
        *("description='run #3'", "data.root=a=b", "seed=1", "seed=2"),
    ]
    config = load_config(path, overrides)
    assert config.evolution.population == 20
    assert config.life.training.learning_rate == 0.001
    assert config.fewshot.shots == (1, 5)
    assert config.critic.n_way is None
    assert config.description == "run #3"
    assert config.data.root == "a=b"
    assert config.seed == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("evolution.populaton=3", ("'evolution.populaton'", "did you mean evolution.population?")),
        ("evolutoin.population=3", ("'evolutoin.population'", "did you mean evolution.population?")),
        ("budget=1", ("'budget'", "did you mean gene.budget?")),
        ("seed.x=1", ("'seed.x'",)),
        ("=1", ("unknown key ''",)),
        ("base=x.yaml", ("unknown key 'base'",)),
        ("gene=3", ("gene is a section", "one by one: budget, initial_share")),
        ("seed", ("write key=value",)),
        ("seed=", ("no value", "null")),
        ("seed=x", ('seed = "x"', "whole number")),
        ("evolution.population=1e9", ("evolution.population = 1000000000.0", "at most 100000")),
        ("name=../x", ('name = "../x"', "matching")),
        ("description=a #b", ("'#b' would be cut off", "quotes")),
        ("description=a: b", ("mapping",)),
        ("fewshot.shots=[1,x]", ('fewshot.shots[1] = "x"', "whole number")),
        ("evolution.population=010", ("starts with a zero",)),
        ('data.root="\\0"', ("control character",)),
    ],
)
def test_overrides_that_are_refused(tmp_path: Path, override: str, parts: Sequence[str]) -> None:
    path = write(tmp_path, SMALLEST)
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert str(caught.value).startswith(f"--set {override!r}:")
    for part in parts:
        assert part in str(caught.value)


def test_an_override_mends_a_wrong_value(tmp_path: Path) -> None:
    path = write(tmp_path, SMALLEST + "life: {steps: -1}\n")
    assert load_config(path, ["life.steps=3"]).life.steps == 3


# ---- dump, hash, schema


def test_dump_reads_back_equal() -> None:
    text = (
        "name: x\ndescription: \"yes, 1e3: 'quoted' # and\\nmore\"\nseed: 7\ndata: {source: folder, root: '010'}\n"
        "gene: {budget: 0.3, initial_share: [1e-5, 0.3]}\nlife: {training: {weight_decay: 5e-12}}\ncritic: {n_way: 3}\n"
    )
    config = parse_config(text, "c.yaml")
    dumped = dump_config(config)
    assert parse_config(dumped, "dump") == config
    assert dump_config(parse_config(dumped, "dump")) == dumped
    assert "weight_decay: 0.0005\n" in dumped
    assert "shots: [20]\n" in dumped
    assert strict_yaml.loads(dumped, "dump") == json.loads(json.dumps(config.model_dump(mode="json")))


def test_the_hash_covers_what_changes_results() -> None:
    config = parse_config(SMALLEST, "c.yaml")
    other = "data:\n  source: 'glyphs'\n  root: null\nname: other\ndescription: d\nmodel: {width: 1}\n"
    other += "transfer: {mixer: static}\n"  # no gene depends on it: runs that were begun before it was there go on
    same = parse_config(other, "d.yaml")
    assert config_hash(config) == config_hash(same)
    assert re.fullmatch("[0-9a-f]{64}", config_hash(config))
    for key, value in [("seed", "1"), ("compute", "{threads: 1}"), ("fewshot", "{seeds: 6}"), ("life", "{n_way: 6}")]:
        assert config_hash(parse_config(f"{SMALLEST}{key}: {value}\n", "c.yaml")) != config_hash(config)


def test_runs_that_were_begun_before_a_key_existed_go_on() -> None:
    """The hash is that of commit 67f0f0e. A new key that results depend on belongs into `gtl.config_file.ADDED`."""
    before = "e3d8aaeb67fa2d460e8ce5e6f3862c1eb4003c612604c79435e40dca51cbe3a4"
    assert config_hash(parse_config(SMALLEST, "c.yaml")) == before
    for (section, key), value in ADDED.items():
        written = json.dumps({section: {key: value}})[1:-1].replace('"', "")
        assert config_hash(parse_config(f"{SMALLEST}{written}\n", "c.yaml")) == before
    assert config_hash(parse_config(f"{SMALLEST}critic: {{depths: 1}}\n", "c.yaml")) != before


def test_the_schema_agrees() -> None:
    jsonschema = pytest.importorskip("jsonschema")  # comes with ray
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    validator = jsonschema.Draft202012Validator(found)
    values = strict_yaml.loads(dump_config(parse_config(SMALLEST, "c.yaml")), "dump")
    assert validator.is_valid({"base": "x.yaml", **values})
    assert not validator.is_valid({**values, "zzz": 1})
    assert not validator.is_valid({**values, "gene": {"budget": 2}})


def test_every_key_is_known_and_overridable() -> None:
    config = parse_config(SMALLEST, "c.yaml")
    assert "evolution.tournament.size" in known_keys()
    assert "fewshot.training.batch_size" in known_keys()
    for key in known_keys():
        value_at(config, key)


def test_values_are_frozen() -> None:
    with pytest.raises(ValidationError):
        parse_config(SMALLEST, "c.yaml").seed = 1


def test_options_table_states_the_defaults() -> None:
    config = parse_config(SMALLEST, "c.yaml")
    table = (ROOT / "docs/options.md").read_text()
    rows = re.findall(r"^\| ([\d., ]+) \|[^|]*\| `([\w.]+)` \| `([^`]*)` \|", table, re.MULTILINE)
    assert len(rows) > 30
    for _, key, default in rows:
        assert key in known_keys(), f"docs/options.md names {key}, which is no key"
        value = value_at(config, key)
        assert strict_yaml.parse_value(default, key) == (list(value) if isinstance(value, tuple) else value), key
    named = {number for numbers, _, _ in rows for number in re.findall(r"[\d.]+", numbers)}
    assert named >= {str(number) for number in (*range(1, 19), 22)}


# ---- checks that need the data or the network

COUNTS = {"train": 64, "val": 16, "novel": 20}
IMAGES = {"train": 600, "val": 600, "novel": 600}


def checked(text: str, counts: dict[str, int] = COUNTS, images: dict[str, int] = IMAGES) -> str:
    with pytest.raises(ConfigError) as caught:
        check_feasible(parse_config(SMALLEST + text, "c.yaml"), counts, images, name="c.yaml")
    return str(caught.value)


def test_feasible_and_unknown_roles() -> None:
    config = parse_config(SMALLEST, "c.yaml")
    check_feasible(config, COUNTS, IMAGES)
    check_feasible(config, {}, {})
    check_feasible(parse_config(SMALLEST + "life: {n_way: 64}\ncritic: {n_way: 16}\n", "c.yaml"), COUNTS, IMAGES)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("life: {n_way: 65}", ("life.n_way = 65", "64 train", "at most 64", "data.train_classes")),
        ("critic: {n_way: 17}", ("critic.n_way = 17", "16 val", "at most 16", "data.val_classes")),
        (
            "critic: {fit_images: 500, score_images: 101}",
            ("critic.fit_images = 500", "critic.score_images = 101", "need 601", "val class", "has 600", "lower one"),
        ),
        (
            "fewshot: {shots: [1, 599], test_images: 2}",
            ("fewshot.shots (largest) = 599", "fewshot.test_images = 2", "need 601", "novel class", "has 600"),
        ),
        ("gene: {budget: 1e-7, initial_share: [1e-8, 1e-7]}", ("gene.budget = 1e-07", "1 channel(s)", "raise")),
        (
            "gene: {min_channels: 8, budget: 0.02, initial_share: [0.01, 0.02]}\nmodel: {width: 0.125}",
            ("gene.budget = 0.02", "gene.initial_share = 0.02", "8 channel(s)", "0.029", "lower gene.min_channels"),
        ),
        ("gene: {min_channels: 65}", ("gene.min_channels = 65", "conv1 of vgg11", "64 channels", "raise model.width")),
        ("model: {arch: vgg11, family: 64-160-320-640}", ("model.family", "vgg11", "64-128-256-512")),
        ("life: {training: {batch_size: 3001}}", ("life.training.batch_size = 3001", "3000", "at most 3000")),
        ("founders: {training: {batch_size: 60000}}", ("founders.training.batch_size = 60000", "at most 38400")),
    ],
)
def test_infeasible(text: str, parts: tuple[str, ...]) -> None:
    message = checked(text)
    assert message.startswith("c.yaml: ")
    for part in parts:
        assert part in message


def test_infeasible_for_small_data() -> None:
    assert "critic.n_way = all: glyphs has 1 val class(es), 2 are needed; use more classes" in checked("", {"val": 1})
    message = checked("", {}, {"val": 20})
    assert "learning rates are chosen on validation classes" in message
    assert "give one value in fewshot.learning_rates" in message


def test_what_is_not_used_is_not_checked() -> None:
    text = "life: {steps: 0, training: {batch_size: 65536}}\nfounders: {kind: random, training: {batch_size: 65536}}\n"
    check_feasible(parse_config(SMALLEST + text, "c.yaml"), COUNTS, IMAGES)


def test_all_infeasibilities_at_once() -> None:
    message = checked("life: {n_way: 65}\ncritic: {n_way: 17}\ngene: {min_channels: 65}\n")
    assert message.startswith("c.yaml: 3 problems\n")
    for key in ("life.n_way", "critic.n_way", "gene.min_channels"):
        assert key in message


def test_the_smallest_circuit_is_exact() -> None:
    for arch, width in (("vgg11", 0.125), ("resnet12", 0.25)):
        text = f"model: {{arch: {arch}, width: {width}}}\ngene: {{budget: 1e-9, initial_share: [1e-9, 1e-9]}}\n"
        found = re.search(r"a share of ([\d.e-]+)", checked(text))
        assert found is not None
        least = float(found[1])
        above = f"gene: {{budget: {least * 1.01}, initial_share: [1e-9, {least * 1.01}]}}\n"
        check_feasible(parse_config(SMALLEST + text.splitlines()[0] + "\n" + above, "c.yaml"), COUNTS, IMAGES)
