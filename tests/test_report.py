import logging
import re
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from pipelines import lease, report, results, storage
from pipelines.cli import main
from pipelines.observers import Observers
from pipelines.outcome import RunReport
from pipelines.report import REMEDIES, ReportWriter, duration, render_page, write_report
from pipelines.status import Status, read_facts, read_status
from stableavatar.errors import KINDS, BadInput
from tests.nights import BEGAN, MakeRow, failed, made, write_media, write_night, write_rows, write_run

HOSTILE = [
    "<script>alert(1)</script>",
    "a\"onload='x'&amp;",
    "ä#? %/日本\u202egpj.exe",
    "{{ 7 * 7 }}",
    "</title><b>",
    "]]>",
]

pytestmark = pytest.mark.usefixtures("quick_lease")


@pytest.fixture
def night(make_row: MakeRow) -> MakeRow:
    """A row of the night's manifest."""
    return lambda **words: make_row(**{"manifest": "night.jsonl", **words})


def read_page(output: str) -> Element:
    """The page as written, parsed: it is well-formed, or this raises."""
    return ElementTree.fromstring(storage.read(f"{output}/report.html").decode())


def text_of(page: Element, path: str = "body") -> str:
    """What a person reads there."""
    return " ".join(" ".join(part for found in page.iterfind(path) for part in found.itertext()).split())


def links_of(page: Element) -> list[str]:
    names = ("href", "src", "poster")
    return [element.attrib[name] for element in page.iter() for name in names if name in element.attrib]


def check_links(page: Element, output: str) -> int:
    """Every link leads to a file of the output or a place of the page; gives the number of files."""
    ids = [element.attrib["id"] for element in page.iter() if "id" in element.attrib]
    assert len(set(ids)) == len(ids)
    links = [link for link in links_of(page) if not link.startswith("data:")]
    files = [link for link in links if not link.startswith("#")]
    assert {link[1:] for link in links if link not in files} <= set(ids)
    assert [link for link in files if not Path(output, unquote(link)).is_file()] == []
    return len(files)


def test_the_page_tells_of_a_night_in_agreement_with_status(night: MakeRow, tmp_path: Path) -> None:
    output = str(tmp_path)
    write_night(output, night, 60)
    write_report(output)
    page, status = read_page(output), read_status(output)
    assert (status.num_ok, status.num_failed, status.num_unfinished) == (51, 3, 6)
    assert text_of(page, "body//h1") == "51 of 60 videos are there; 3 failed; 6 are unfinished."
    assert "The same command goes on from there" in text_of(page)
    kinds = {article.findtext("h3", "").strip(): text_of(article, "h3/span") for article in page.iter("article")}
    assert kinds == dict.fromkeys(("bad_input", "storage", "out_of_memory"), "1 row")
    assert len(page.findall(".//video")) == 51
    assert check_links(page, output) == 51 * 2 + 1
    assert f"stableavatar retry {output} --kind out_of_memory" in text_of(page)
    assert "s3://takes/7.wav does not exist. Check the name." in text_of(page)  # which row it was is said beside it


def test_totals_and_times(night: MakeRow, tmp_path: Path) -> None:
    rows = [made(night(id=f"{n}", row_number=n + 1), number=n, began_at=BEGAN, generate_s=10.0 + n) for n in range(2)]
    write_rows(str(tmp_path), rows)
    write_run(str(tmp_path), num_rows=2, num_generators=2)
    write_report(str(tmp_path))
    page = read_page(str(tmp_path))
    totals = {div.findtext("dt"): div.findtext("dd", "").strip() for div in page.iterfind(".//dl/div")}
    assert totals == {
        "Videos": "2", "Video made": "10 s", "On generators": "21 s", "For a second of video": "2.1 s",
        "Generators busy": "95%", "Wall time": "12 s",
    }  # fmt: skip
    table = [[cell.text for cell in line] for line in page.findall(".//table")[0].iterfind("tbody/tr")]
    assert table[3][:6] == ["generate", "2", "10 s", "10 s", "11 s", "21 s"]
    assert [line.findtext(".//bdi") for line in page.findall(".//table")[1].iterfind("tbody/tr")] == ["1", "0"]
    svgs = page.findall(".//{http://www.w3.org/2000/svg}svg")
    assert [svg.attrib["aria-label"].partition(":")[0] for svg in svgs][3:] == ["generate", "measure"]
    titles = [title.text or "" for title in page.iter("{http://www.w3.org/2000/svg}title")]
    assert "1: 22:15:00 to 22:15:11, 11 s" in titles


def test_whatever_a_row_says_is_text(night: MakeRow, tmp_path: Path) -> None:
    output = f"{tmp_path}/a b's #1"
    rows = [
        made(night(id=id, row_number=n + 1, video_name=id, status="ready"), number=n) for n, id in enumerate(HOSTILE)
    ]
    for row in rows:
        write_media(output, row)
    bad = [failed(night(id=f"bad {id}", row_number=9 + n), "internal", id) for n, id in enumerate(HOSTILE)]
    write_rows(output, rows + bad)
    write_run(output, num_rows=12, manifest="night.jsonl")
    write_report(output, stopped="<i>of this</i>")
    page = read_page(output)
    assert [name.text for name in page.iterfind(".//summary//bdi")] == HOSTILE
    assert [item.findtext("p") for item in page.iterfind(".//article//li")] == HOSTILE
    assert Counter(element.tag for element in page.iter() if element.tag in ("script", "title", "i", "b")) == {
        "script": 1,
        "title": 1,
    }
    assert not [name for element in page.iter() for name in element.attrib if name.startswith("on")]
    assert check_links(page, output) == 6 * 2 + 1
    assert f"stableavatar report '{tmp_path}/a b'\"'\"'s #1'" in text_of(page)


def test_nothing_is_fetched_from_elsewhere(night: MakeRow, tmp_path: Path) -> None:
    write_night(str(tmp_path), night, 20)
    write_report(str(tmp_path))
    text = storage.read(f"{tmp_path}/report.html").decode()
    assert not re.search(r"@import|url\(|<iframe|<object|<base|srcset", text)
    links = links_of(read_page(str(tmp_path)))
    assert [link for link in links if not link.startswith("data:") and re.match(r"[a-z]+:|/", link)] == []


def test_every_player_waits_and_has_a_picture_and_a_name(night: MakeRow, tmp_path: Path) -> None:
    write_night(str(tmp_path), night, 20)
    write_report(str(tmp_path))
    page = read_page(str(tmp_path))
    videos = page.findall(".//video")
    assert all((video.attrib["preload"], "controls" in video.attrib) == ("none", True) for video in videos)
    pictures = [card.find("summary/img") for card in page.iterfind(".//details[@class='card']")]
    sheets = [picture.attrib["src"] for picture in pictures if picture is not None]
    assert len(sheets) == len(videos) and all(sheet.startswith("data:image/jpeg;base64,/9j/") for sheet in sheets)
    text = storage.read(f"{tmp_path}/report.html").decode()
    assert all(text.count(sheet) == 1 for sheet in sheets) and 'video").poster = ' in text  # the player gets it there
    assert all(element.attrib.get("alt") for element in page.iter("img"))
    assert all(table.find("caption") is not None for table in page.iter("table"))
    levels = [int(element.tag[1]) for element in page.iter() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1 and 1 not in levels[1:]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_thousands_of_rows_make_a_page_of_a_bounded_size(night: MakeRow, tmp_path: Path) -> None:
    output = str(tmp_path)
    for row in write_night(output, night, 100):
        storage.write(b"x" * report.MAX_SHEET_BYTES, results.sheet_uri(output, row))
    facts = read_facts(output, report.ROW_COLUMNS)
    for number in range(1, 40):
        again = [
            {**row, "id": f"{row['id']}-{number}", "row_number": row["row_number"] + 100 * number}
            for row in facts.rows[:90]
        ]
        facts.rows.extend({**row, "error": row["error"] + row["id"]} for row in again)
    facts.run["num_rows"] = 4000
    text = render_page(output, facts)
    page = ElementTree.fromstring(text)
    assert text.count("data:image/jpeg") == text.count("<img ") > report.MAX_SHEETS
    assert len(text) < (report.MAX_SHEETS + report.MAX_SLOWEST) * report.MAX_SHEET_BYTES * 4 / 3 + 1_000_000
    assert text_of(page, "body//h1").startswith("3,400 of 4,000 videos are there; 200 failed; 400")
    assert len(page.findall(".//video")) == report.MAX_SHEETS + report.MAX_SLOWEST
    assert len(page.findall(".//ul[@class='links']/li")) == report.MAX_LINKS
    assert "more in the folder videos" in text_of(page)


def test_a_sheet_that_is_missing_or_too_large_leaves_the_player_without_a_picture(
    night: MakeRow, tmp_path: Path
) -> None:
    output = str(tmp_path)
    rows = [made(night(id=f"{n}", row_number=n + 1), number=n) for n in range(3)]
    write_rows(output, rows)
    write_run(output, num_rows=3)
    write_media(output, rows[0])
    storage.write(b"x" * (report.MAX_SHEET_BYTES + 1), results.sheet_uri(output, rows[1]))
    write_report(output)
    page = read_page(output)
    assert [card.find("summary/img") is not None for card in page.iterfind(".//div/details")] == [True, False, False]


def test_rows_that_do_not_tell_who_worked_still_give_a_page(night: MakeRow, tmp_path: Path) -> None:
    write_rows(str(tmp_path), [made(night(), spans=None), failed(night(id="b", row_number=4), "internal", "why")])
    write_report(str(tmp_path))
    page = read_page(str(tmp_path))
    assert text_of(page, "body//h1") == "1 of 2 videos are there; 1 failed; nothing is unfinished."
    assert page.find(".//{http://www.w3.org/2000/svg}svg") is None
    assert text_of(page, "body//table/caption") == "Those that took a generator longest"


def test_what_an_earlier_run_made_or_failed_is_told_apart(night: MakeRow, tmp_path: Path) -> None:
    output = str(tmp_path)
    earlier = BEGAN - 86_400
    rows = [
        made(night(id="old", row_number=1), number=1, began_at=earlier),
        failed(night(id="left", row_number=2), "broken_video", "every frame is blank", at=earlier),
        failed(night(id="again", row_number=3), "storage", "refused", at=earlier),  # which this run did not come to
        made(night(id="new", row_number=4), number=4),
        made(night(id="other", row_number=1, manifest="other.jsonl"), number=5, began_at=earlier),
    ]
    write_rows(output, rows)
    write_run(output, num_rows=4, num_done=1, left={"broken_video": 1})
    write_report(output)
    page, status = read_page(output), read_status(output)
    assert (status.num_ok, status.num_failed, status.num_unfinished, status.num_videos) == (2, 1, 1, 3)
    assert [name.text for name in page.iterfind(".//summary//bdi")] == ["old", "new"]
    assert "left (row 2, in an earlier run)" in text_of(page, "body//article")
    assert len(page.findall(".//article")) == 1
    assert f"Of all runs there are 3 videos in {output}: 15 s of video" in text_of(page, "body/footer")


def test_rows_that_were_carried_over_have_players_and_reasons(night: MakeRow, tmp_path: Path) -> None:
    output, carried = str(tmp_path), f"{tmp_path}/carried-over/0123.jsonl"
    rows = [
        made(night(id="made-before", manifest=carried, row_number=1), number=1, began_at=BEGAN - 86_400),
        failed(night(id="left", manifest=carried, row_number=2), "internal", "nobody knows", at=BEGAN - 86_400),
        made(night(id="of-tonight", row_number=1), number=2),
    ]
    write_rows(output, rows)
    write_run(output, num_rows=3, num_done=1, left={"internal": 1}, carried_over=carried)
    write_report(output)
    page = read_page(output)
    assert {name.text for name in page.iterfind(".//summary//bdi")} == {"made-before", "of-tonight"}
    assert len(page.findall(".//video")) == 2
    assert "nobody knows" in text_of(page, "body//article")


def test_a_run_that_goes_on(night: MakeRow, base: str) -> None:
    write_rows(base, [made(night(), began_at=BEGAN)])
    write_run(base, num_rows=9)
    with lease.Lease(base) as held:
        held.note({"running": [{"id": "ä<b>", "windows_done": 1.25, "num_windows": 4}], "seconds_left": 90.0})
        lease.await_change(base, lease.look(base), for_s=10)
        write_run(base, num_rows=9, began_at=datetime.now(UTC).timestamp())
        write_report(base)
    page = read_page(base)
    assert text_of(page, "body//h1") == "0 of 9 videos are there so far; none failed; 1 in the making; 8 still to come."
    assert "ä<b> 1.2 of 4 windows" in text_of(page)
    assert "Running on" in text_of(page)


STATUS = dict.fromkeys(Status.__annotations__, 0) | {"is_running": False}


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({}, "There was nothing to do."),
        ({"is_running": True}, "The rows of a new run are being checked."),
        ({"num_rows": 1, "num_ok": 1}, "The video is there; none failed; nothing is unfinished."),
        ({"num_rows": 1, "num_failed": 1}, "0 of 1 video is there; 1 failed; nothing is unfinished."),
        ({"num_rows": 1200, "num_ok": 1200}, "All 1,200 videos are there; none failed; nothing is unfinished."),
        (
            {"num_rows": 120, "num_ok": 117, "num_failed": 2, "num_unfinished": 1},
            "117 of 120 videos are there; 2 failed; 1 is unfinished.",
        ),
    ],
)  # fmt: skip
def test_one_sentence_says_what_happened(numbers: dict[str, int], words: str) -> None:
    assert report.sentence(Status(**{**STATUS, **numbers})) == words  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((None, "–"), (0.0, "0.00 s"), (0.42, "0.42 s"), (0.996, "1.0 s"), (9.94, "9.9 s"), (9.96, "10 s")),
        *((59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3599.6, "1 h 00 min"), (7830, "2 h 10 min")),
        (50 * 3600, "2 d 2 h"),
    ],
)
def test_durations_are_for_people(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_each_kind_of_failure_has_a_remedy() -> None:
    assert set(REMEDIES) == set(KINDS)


def begun(output: str, night: MakeRow, began_at: float = BEGAN) -> ReportWriter:
    """The writer of a run that has begun, after one that made a video."""
    write_rows(output, [made(night())])
    write_run(output, began_at=began_at, num_rows=2)
    writer = ReportWriter()
    writer.begin({"output": output, **(results.read_run(output) or {})})
    return writer


def test_the_end_of_a_run_writes_the_page_and_says_why_it_ended(night: MakeRow, base: str) -> None:
    writer = begun(base, night)
    writer.end(RunReport(finished=[], unfinished=[], left=[], done=[], stopped="it is 06:30; s3://a:secret@b"))
    writer.close()
    assert "It ended early because it is 06:30; s3://***@b." in text_of(read_page(base))


def test_a_run_that_is_killed_leaves_the_page_of_its_beginning(night: MakeRow, base: str) -> None:
    storage.write(b"about the run before", f"{base}/report.html")
    with lease.Lease(base):
        writer = begun(base, night, began_at=datetime.now(UTC).timestamp())
        writer.beginning.join()
        writer.end(RunReport(finished=[], unfinished=[], left=[], done=[], stopped=""))  # it would count as running
    said = text_of(read_page(base))
    assert "0 of 2 videos are there so far" in said and "Running on" in said and "So it was on" in said


def test_a_run_that_lost_its_output_leaves_the_page_to_the_other(night: MakeRow, base: str) -> None:
    writer = begun(base, night)
    writer.beginning.join()
    storage.write(b"about the other run", f"{base}/report.html")
    write_run(base, began_at=BEGAN + 60, num_rows=2)
    writer.end(RunReport(finished=[], unfinished=[], left=[], done=[], stopped="another run has taken over"))
    writer.close()
    assert storage.read(f"{base}/report.html") == b"about the other run"


def test_a_run_that_never_began_has_no_page(base: str) -> None:
    ReportWriter().close()
    with pytest.raises(BadInput, match="holds no results"):
        write_report(base)
    assert not storage.exists(f"{base}/report.html")


def test_a_page_that_cannot_be_written_does_not_stop_the_run(
    night: MakeRow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(str(tmp_path), [made(night())])
    (tmp_path / "report.html").mkdir()
    observers = Observers([ReportWriter()])
    observers.begin({"output": str(tmp_path)})
    observers.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "ReportWriter failed; the run goes on" in caplog.text


def test_the_command_writes_the_page_and_says_where(
    night: MakeRow, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(base, [made(night())])
    assert main(["report", base]) == 0
    assert capsys.readouterr().out.strip() == f"{base}/report.html"
    assert text_of(read_page(base), "body//h1").startswith("The video is there")


def test_an_output_that_was_moved_keeps_its_links(night: MakeRow, tmp_path: Path) -> None:
    row = made(night(video_name="de/anna"), video="s3://old/place/videos/de/anna.mp4")
    output = f"{tmp_path}/elsewhere"
    write_rows(output, [row])
    write_media(output, row)
    write_report(output)
    assert check_links(read_page(output), output) == 3


def test_the_page_comes_with_the_package() -> None:
    import tomllib

    data = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]
    folder = Path(report.__file__).parent
    assert folder / "report.html" in {path for pattern in data["pipelines"] for path in folder.glob(pattern)}
