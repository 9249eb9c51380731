"""What is written into runs for people: pictures and evidence, whole or not at all, the same when written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_samples import REFERENCE, make_document, make_learngene, make_logbook

from gtl.errors import RunError, StorageError
from gtl.population.founding import RECORD
from gtl.population.run import LEARNGENE, write_record
from gtl.population.store import RunStore
from gtl.report.run import read_evidence, write_evidence, write_run_pictures


def make_run(path: Path) -> RunStore:
    return RunStore.create(path, config_text="seed: 1\n", config_hash="c" * 64, versions={"torch": "2.15"})


def test_pictures_of_a_run_as_far_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    store = make_run(run)
    assert write_run_pictures(run) == []
    with store.lock():
        store.commit(0, {"blobs": [], "logbook": make_logbook()}, [])
    assert [path.name for path in write_run_pictures(run)] == ["evolution.png"]
    plain = (run / "evolution.png").read_bytes()
    write_record(run / RECORD, {"reference": REFERENCE})
    make_learngene().save(run / LEARNGENE)
    assert write_run_pictures(run) == [run / "evolution.png", run / "channels.png"]
    assert (run / "evolution.png").read_bytes() != plain  # now with the reference lines
    before = {path.name: path.read_bytes() for path in run.glob("*.png")}
    write_run_pictures(run)
    assert before == {path.name: path.read_bytes() for path in run.glob("*.png")}


def test_evidence_is_written_and_found_again(tmp_path: Path) -> None:
    document = make_document()
    written = write_evidence(tmp_path / "deep" / "fewshot-digits", document)
    assert [path.name for path in written] == ["evidence.json", "evidence.md", "descendants.png"]
    assert json.loads(written[0].read_text()) == document and "| learngene |" in written[1].read_text()
    before = {path: path.read_bytes() for path in written}
    with pytest.raises(StorageError, match=r"evidence\.json is there already"):
        write_evidence(tmp_path / "deep" / "fewshot-digits", {**document, "images": 1})
    assert {path: path.read_bytes() for path in written} == before, "nothing is overwritten"
    assert read_evidence(tmp_path / "deep", document["learngene"]) == [document]
    assert read_evidence(tmp_path / "deep", "another gene") == []
    written[0].write_text("{")
    with pytest.raises(RunError, match=r"evidence\.json"):
        read_evidence(tmp_path / "deep", document["learngene"])


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        write_evidence(tmp_path / "out", make_document())
