"""The whole flow through Ray, on a real cluster of this machine."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.data.exceptions import UserCodeException
from ray.exceptions import RayError

from manifests.schema import ManifestError
from pipelines import cache, carry_over, plan, results, storage
from pipelines.check import Check
from pipelines.cli import main
from pipelines.outcome import RunReport
from pipelines.rounds import read_files, rounds
from pipelines.run import Loaders, Options, Todo, list_unmade, run, settle
from pipelines.stage import Row, fail, place
from pipelines.status import read_status
from pipelines.watch import Bounds, Watch
from pipelines.workers import Capacity, ClusterError, Pool, cluster, flow, require_room, stop_flows
from stableavatar.errors import StorageError
from stableavatar.presets import Preset
from stableavatar.video.quality import check_contract, measure_video
from tests.avatars import load_no_words, load_noise
from tests.conftest import EXAMPLES

SPEECH = EXAMPLES / "speech_es_short.flac"
GOOD: dict[str, Any] = {"portrait": "face.jpg", "audio": "speech.flac", "end_s": 0.5, "team": "blue"}


def write_manifest(base: str, rows: list[dict[str, Any]], name: str = "night.jsonl") -> str:
    """A manifest and the files it names, under `base`."""
    storage.publish(f"{EXAMPLES}/portrait_nasa.jpg", f"{base}/face.jpg")
    storage.publish(str(SPEECH), f"{base}/speech.flac")
    storage.write("".join(json.dumps(row) + "\n" for row in rows).encode(), f"{base}/{name}")
    return f"{base}/{name}"


class DeadlyCheck(Check):
    """Kills the process that checks the row `deadly`."""

    def process(self, row: Row) -> Row:
        if row["id"] == "deadly":
            os._exit(1)
        return super().process(row)


def run_noise(manifest: str, output: str, preset: Preset, **options: Any) -> RunReport:
    loaders = Loaders(avatar=load_noise, encoder=load_no_words)
    return run(manifest, output, preset, loaders=loaders, options=Options(**options))


@pytest.mark.slow
def test_good_and_bad_rows_to_s3(ray_cluster: None, bucket: str, preset: Preset, tmp_path: Path) -> None:
    rows = [
        {**GOOD, "id": "one"},
        {**GOOD, "id": "../two ü", "end_s": 1.0, "seed": 1, "team": None},
        {**GOOD, "id": "missing", "portrait": "missing.jpg"},
        {**GOOD, "id": "blank", "seed": 13},
        {**GOOD, "id": "strange", "seed": 14},
        {**GOOD, "id": "deadly", "seed": 666},
        {**GOOD, "id": "twice"},
        {**GOOD, "id": "twice", "seed": 3},
        {**GOOD, "id": "nan", "text_scale": float("nan")},
    ]
    manifest, output = write_manifest(f"{bucket}/in", rows), f"{bucket}/out"
    report = run_noise(manifest, output, preset)
    assert len(report.finished) == len(rows)

    table = {(row["id"], row["row_number"]): row for row in results.read_results(output).to_pylist()}
    kinds = {id: row["error_kind"] for (id, _), row in table.items() if row["status"] == "failed"}
    assert kinds == {
        "missing": "bad_input", "blank": "broken_video", "strange": "internal", "deadly": "quarantined",
        "twice": "bad_input", "nan": "bad_input",
    }  # fmt: skip
    assert len(table) == len(rows)
    assert all(
        row["error"].startswith(f"row {row['row_number']} of {manifest}") for row in table.values() if row["error"]
    )

    good = [table["one", 1], table["../two ü", 2]]
    assert [row["team"] for row in good] == ["blue", None]
    assert sorted(storage.join(output, f"videos/{name}") for name in storage.names_in(f"{output}/videos")) == sorted(
        row["video"] for row in good
    )
    for row in good:
        assert all(row[f"{stage}_s"] > 0 for stage in ("check", "prepare", "encode_text", "generate", "measure"))
        with cache.fetched(row["video"]) as path:
            check_contract(measure_video(path), num_frames=row["num_frames"], width=row["width"], height=row["height"])


@pytest.mark.slow
def test_running_again_does_only_what_is_missing(
    ray_cluster: None, preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**GOOD, "id": "one"}, {**GOOD, "id": "two", "audio": "late.flac"}]
    manifest, output = write_manifest(f"{tmp_path}/a b #1", rows), f"{tmp_path}/out"
    first = run_noise(manifest, output, preset)
    assert sorted(row["status"] for row in first.finished) == ["failed", "ok"]

    storage.publish(str(SPEECH), f"{tmp_path}/a b #1/late.flac")

    def with_one_begun_again(*args: Any) -> Iterator[Row]:
        """As Ray does where a generator dies just after its row was passed on."""
        yield from rounds(*args)
        for name in storage.names_in(f"{output}/videos"):
            storage.write(b"{}", f"{output}/checkpoints/{Path(name).stem}/attempts.json")

    monkeypatch.setattr("pipelines.run.rounds", with_one_begun_again)
    second = run_noise(manifest, output, preset)
    monkeypatch.undo()
    assert [(row["id"], row["status"]) for row in second.finished] == [("two", "ok")]
    assert [name[:3] for name in storage.folders_in(f"{output}/checkpoints")] == ["one"]  # which was not in this run
    assert len(second.done) == 1
    assert results.read_results(output)["status"].to_pylist() == ["ok", "ok"]

    third = run_noise(manifest, output, preset, limit=1)
    assert (third.finished, len(third.done)) == ([], 1)
    assert main(["status", output]) == 0


@pytest.mark.slow
def test_what_failed_for_good_waits_until_it_is_asked_for(ray_cluster: None, preset: Preset, tmp_path: Path) -> None:
    rows = [{**GOOD, "id": "one"}, {**GOOD, "id": "strange", "seed": 14}]
    manifest, output = write_manifest(f"{tmp_path}", rows), f"{tmp_path}/out"
    first = run_noise(manifest, output, preset)
    assert [row["attempts"] for row in first.finished] == [1, 1]
    second = run_noise(manifest, output, preset)
    assert (second.finished, len(second.done), [row["id"] for row in second.left]) == ([], 1, ["strange"])
    assert storage.names_in(f"{output}/results") == []  # all is in one file since the first run

    third = run_noise(manifest, output, preset, retry=frozenset({"internal"}))
    assert [(row["id"], row["status"], row["attempts"]) for row in third.finished] == [("strange", "failed", 2)]
    assert results.read_results(output).num_rows == 2
    assert run_noise(manifest, output, preset, retry=frozenset({"storage"})).finished == []


@pytest.mark.slow
def test_a_row_that_kills_its_check_is_written_down(
    ray_cluster: None, preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**GOOD, "id": "one", "audio": "missing.wav"}, {**GOOD, "id": "deadly"}]
    manifest = write_manifest(str(tmp_path), rows)
    monkeypatch.setattr("pipelines.run.Check", DeadlyCheck)
    report = run_noise(manifest, f"{tmp_path}/out", preset)
    kinds = {row["id"]: row["error_kind"] for row in report.finished}
    assert kinds == {"one": "bad_input", "deadly": "quarantined"}
    assert results.read_results(f"{tmp_path}/out").num_rows == 2


def test_pools_that_never_fit_are_refused() -> None:
    pools = [Pool(stage=object, num_cpus=1), Pool(stage=object, num_cpus=0.5, size=2)]
    require_room(pools, Capacity(num_cpus=2, num_gpus=0))
    with pytest.raises(ClusterError, match="has 1 CPUs, and this run needs 2"):
        require_room(pools, Capacity(num_cpus=1, num_gpus=0))


def test_what_stops_a_run_before_it_starts(ray_cluster: None, preset: Preset, tmp_path: Path) -> None:
    manifest = write_manifest(str(tmp_path), [GOOD])
    with pytest.raises(StorageError, match="cannot write to"):
        run_noise(manifest, f"{manifest}/out", preset)
    storage.write(b'{"audio": "speech.flac"}', f"{tmp_path}/bad.jsonl")
    with pytest.raises(ManifestError, match="portrait"):
        run_noise(f"{tmp_path}/bad.jsonl", f"{tmp_path}/out", preset)


def test_a_model_that_cannot_be_loaded_ends_the_run(ray_cluster: None, preset: Preset, tmp_path: Path) -> None:
    def broken(preset: Preset, device: str) -> Any:
        raise OSError("weights are broken")

    manifest = write_manifest(str(tmp_path), [GOOD])
    with pytest.raises(RayError, match="weights are broken"):
        run(manifest, f"{tmp_path}/out", preset, loaders=Loaders(avatar=broken))


@pytest.mark.slow
def test_what_a_night_left_is_made_first_by_the_next_one_also_if_that_is_stopped_too(
    ray_cluster: None, preset: Preset, tmp_path: Path
) -> None:
    output, ended = f"{tmp_path}/out", Bounds(max_gpu_hours=1e-9)
    rows = [{**GOOD, "id": "a"}, {**GOOD, "id": "b"}, {**GOOD, "id": "strange", "seed": 14}]
    first = write_manifest(str(tmp_path), rows)
    run_noise(first, output, preset, bounds=ended)
    assert listed(output) == {"a": 42, "b": 42, "strange": 14}

    rows = [{**GOOD, "id": "b", "seed": 2}, {**GOOD, "id": "c", "priority": 9}]
    second = write_manifest(str(tmp_path), rows)  # under the name of the first
    assert len(run_noise(second, output, preset, bounds=ended, carry_over=True).unfinished) == 4
    retried = run_noise(second, output, preset, retry=frozenset({"internal"}))
    assert (retried.finished, [row["id"] for row in retried.unfinished]) == ([], ["b", "c"])  # which never failed
    assert listed(output) == {"a": 42, "strange": 14, "b": 2, "c": 42}

    third = write_manifest(str(tmp_path), [{**GOOD, "id": "d", "priority": 9}])
    report = run_noise(third, output, preset, carry_over=True)
    assert sorted(row["id"] for row in report.finished) == ["a", "b", "c", "d", "strange"]
    assert "d" in [row["id"] for row in report.finished][-2:]  # a row may overtake the one just before it
    assert not storage.exists(f"{output}/carry-over.jsonl")
    table = {row["id"]: row for row in results.read_results(output).to_pylist()}
    assert {id: (row["status"], row["seed"], row["attempts"]) for id, row in table.items()} == {
        "a": ("ok", 42, 1), "b": ("ok", 2, 1), "c": ("ok", 42, 1), "d": ("ok", 42, 1), "strange": ("failed", 14, 1)
    }  # fmt: skip
    status = read_status(output)
    assert (status.num_rows, status.num_ok, status.num_failed) == (5, 4, 1)

    noted = results.read_run(output) or {}
    again = run_noise(third, output, preset, carry_over=noted["carried_over"], retry=frozenset({"internal"}))
    assert [(row["id"], row["attempts"]) for row in again.finished] == [("strange", 2)]


def listed(output: str) -> dict[str, Any]:
    """The seed of each row that a run has left, by its id."""
    return {row["id"]: row["seed"] for row in plan.read_manifest(f"{output}/carry-over.jsonl")}


@pytest.mark.slow
def test_a_run_that_is_killed_has_listed_what_it_was_to_make(
    ray_cluster: None, preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> Iterator[Row]:
        raise KeyboardInterrupt
        yield

    manifest, output = (
        write_manifest(str(tmp_path), [{**GOOD, "id": "one"}, {"id": "bad", **GOOD, "audio": "no.wav"}]),
        f"{tmp_path}/out",
    )
    monkeypatch.setattr("pipelines.run.rounds", killed)
    with pytest.raises(KeyboardInterrupt):
        run_noise(manifest, output, preset)
    monkeypatch.undo()
    assert [row["id"] for row in plan.read_manifest(carry_over.list_uri(output))] == ["one"]
    report = run_noise(f"{tmp_path}/tonight/", output, preset, carry_over=True)  # a folder that holds nothing yet
    assert [(row["id"], row["status"]) for row in report.finished] == [("one", "ok")]
    assert not storage.exists(carry_over.list_uri(output))
    quiet = run_noise(f"{tmp_path}/tonight/", output, preset, carry_over=True)  # nor does anything wait
    assert (quiet.finished, quiet.unfinished, quiet.done) == ([], [], [])
    assert read_status(output).state == "finished"
    noted = results.read_run(output)
    assert noted and noted["manifest"] == f"{tmp_path}/tonight/"  # `retry` may find it empty, too


def test_what_a_night_left_stays_listed_by_a_run_that_knows_nothing_of_it(tmp_path: Path, make_row: Any) -> None:
    output = str(tmp_path)
    night = [make_row(id=id) for id in ("a", "b", "c")]
    list_unmade(output, [], Options(), night, night)
    list_unmade(output, [], Options(), [make_row(id="b", seed=2)], [make_row(id="b", seed=2), make_row(id="c")])
    assert listed(output) == {"a": None, "b": 2}
    unread = make_row(id="a", status="failed", stage="read")
    list_unmade(output, [], Options(carry_over="s3://list.jsonl"), [], [unread, make_row(id="b")])
    assert listed(output) == {"a": None}
    list_unmade(output, [], Options(carry_over=True, retry=frozenset({"storage"})), [], [])
    assert listed(output) == {"a": None}
    list_unmade(output, [], Options(carry_over=True), [], [])
    assert not storage.exists(carry_over.list_uri(output))


def test_what_a_store_kept_from_being_made_is_left_to_the_next_night(tmp_path: Path, make_row: Any) -> None:
    output = str(tmp_path)
    rows = {id: make_row(id=id, row_number=number) for number, id in enumerate(("made", "cut off", "wrong", "left"))}
    came = [rows["made"] | {"status": "ok"}, fail(rows["cut off"], "measure", "network", "")]
    came += [fail(rows["wrong"], "prepare", "bad_input", "")]
    todo = Todo(
        rows=[*rows.values()],
        to_make=[*rows.values()],
        unchecked=[],
        done=[],
        left=[],
        passed_over=[],
        measured=[],
        carried="",
    )
    report = settle(output, [], Options(carry_over=True), todo, {place(row): row for row in came}, "it is late")
    assert [row["id"] for row in report.unfinished] == ["left"]
    assert set(listed(output)) == {"cut off", "left"}


def test_the_check_of_all_rows_uses_the_nodes_that_came_to_read_them(
    ray_cluster: None, preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Checked(Exception):
        pass

    def check_rounds(rows: list[Row], pools: list[Pool], watch: Watch) -> list[Row]:
        raise Checked(*(pool.size for pool in pools))

    manifest = write_manifest(str(tmp_path), [GOOD])
    grown = Capacity(num_cpus=16, num_gpus=0, is_local=False)
    monkeypatch.setattr("pipelines.run.read_capacity", lambda: grown)
    monkeypatch.setattr("pipelines.run.check_rounds", check_rounds)
    for wanted, size in ((None, 8), (10, 20)):
        with pytest.raises(Checked) as checked:
            run_noise(manifest, f"{tmp_path}/out", preset, generators=wanted)
        assert checked.value.args == (size,)


def test_a_run_that_broke_off_leaves_no_flow_behind_and_ray_as_it_was(ray_cluster: None, tmp_path: Path) -> None:
    def slow(row: Row) -> Row:
        (tmp_path / str(row["row_number"])).touch()
        time.sleep(1)
        return row

    def bad(row: Row) -> Row:
        raise ValueError("a bad row")

    rows: list[Row] = [{"manifest": "m", "row_number": number} for number in range(30)]

    def broken_off() -> None:
        with cluster(), Watch(Bounds(), stop_flows=stop_flows) as watch:
            for _ in watch.until_drained(flow(rows, [Pool(stage=slow, num_cpus=1)])):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    begun = len(list(tmp_path.iterdir()))
    assert ray.data.range(5).map(lambda row: row).take_all() == [{"id": number} for number in range(5)]
    with pytest.raises(UserCodeException, match="a bad row"):
        ray.data.range(2).map(bad).take_all()
    time.sleep(2)
    assert len(list(tmp_path.iterdir())) <= begun + 1 < len(rows)
    assert len(list(flow(rows[:1], [Pool(stage=slow, num_cpus=1)]))) == 1


def test_a_file_that_cannot_be_read_ends_the_run(ray_cluster: None, tmp_path: Path) -> None:
    def dies(uri: str) -> list[Row]:
        os._exit(1) if uri == "b" else None
        return [{"id": uri}]

    with Watch(Bounds()) as watch:
        rows = read_files([f"{tmp_path}/missing.jsonl"], plan.read_file, watch)
        assert "does not exist" in rows[0]["manifest_error"]
        assert read_files(["c", "a"], dies, watch) == [{"id": "c"}, {"id": "a"}]
        with pytest.raises(ClusterError, match="b could not be read"):
            read_files(["a", "b"], dies, watch)
