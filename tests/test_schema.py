from pathlib import Path

import pyarrow as pa
import pytest

from manifests.schema import MANIFEST, NUMBER, RESERVED_NAMES, RESULT, WHOLE, Column, markdown, result_schema


def test_the_manifest_has_its_columns() -> None:
    optional = "id prompt negative_prompt width height seed num_steps text_scale audio_scale overlap"
    sampling = "window_latents text_schedule audio_schedule mode blend scheduler guidance lora separate_vocals"
    sound = (
        "audio_stream pad_before_s pad_after_s loudness language subtitles audio_tracks video_name base_video segments"
    )
    names = ["portrait", "audio", *optional.split(), *sampling.split(), "start_s", "end_s", *sound.split(), "priority"]
    assert [c.name for c in MANIFEST] == names
    assert [c.name for c in MANIFEST if c.required] == ["portrait", "audio"]


def test_words_that_both_tables_share_are_the_same_columns() -> None:
    result = {column.name: column for column in RESULT}
    assert all(result[column.name] is column for column in MANIFEST)


def test_the_result_begins_with_what_one_looks_for_first() -> None:
    assert [c.name for c in RESULT][:7] == ["content_id", "id", "status", "error_kind", "error", "stage", "video"]
    assert len({c.name for c in RESULT}) == len(RESULT)


def test_every_column_of_numbers_has_bounds() -> None:
    for column in MANIFEST:
        is_number = column.type in (WHOLE, NUMBER)
        assert (column.minimum is not None) == (column.maximum is not None) == is_number, column.name


def test_units_are_in_the_names_or_the_column() -> None:
    for column in RESULT:
        if column.name.endswith("_s"):
            assert column.unit == "seconds"
        if column.name.endswith("_bytes"):
            assert column.unit == "bytes"


def test_result_schema_puts_carried_columns_last() -> None:
    carried = pa.schema([("campaign", pa.string()), ("tags", pa.list_(pa.string()))])
    schema = result_schema(carried)
    assert schema.names == [c.name for c in RESULT] + ["campaign", "tags"]
    assert schema.field("brightness").type == pa.list_(pa.float32())
    assert schema.field("started_at").type == pa.timestamp("us", tz="UTC")
    assert result_schema().names == [c.name for c in RESULT]


def test_reserved_names_are_those_the_run_fills_in() -> None:
    assert "status" in RESERVED_NAMES
    assert "portrait" not in RESERVED_NAMES


@pytest.mark.parametrize("column", [*MANIFEST, *RESULT], ids=lambda column: column.name)
def test_markdown_has_every_column(column: Column) -> None:
    assert f"| `{column.name}` |" in markdown()


def test_markdown_is_two_well_formed_tables() -> None:
    lines = markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5, 6}
    assert "| `num_steps` | whole number from 1 to 1000 |  | the preset's | denoising steps of each window |" in rows
    assert len(rows) == len(MANIFEST) + len(RESULT) + 6  # two headers of two lines, two lines for other columns


def test_the_readme_shows_the_columns_as_they_are() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert markdown().strip() in readme
