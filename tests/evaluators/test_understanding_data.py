"""Finding and reading a benchmark's files: layouts of folders, splits, the hub's package, hostile files."""

import csv
import io
import zlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluators.understanding.benchmarks import BENCHMARKS, named
from evaluators.understanding.data import load_questions
from evaluators.understanding.images import rgb_image
from rf_repro.core.errors import UserError
from rf_repro.core.untrusted.problems import MAX_PIXELS, CorruptSample
from tests.evaluators.understanding_files import MINIS, coded, color, png, write_arrow, write_parquet, write_tsv


def keys(name: str, data: Path | str, alone: bool = True) -> list[str]:
    return [row.key for row in load_questions(BENCHMARKS[name], str(data), alone=alone).rows]


@pytest.mark.parametrize("name", list(MINIS))
def test_all_formats_and_the_hubs_package_hold_the_same_questions(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `vlm` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    mini, benchmark = MINIS[name], BENCHMARKS[name]
    images = {field.name: datasets.Image() for field in mini.schema if pa.types.is_struct(field.type)}
    hub = tmp_path / "hub" / "data" / f"{benchmark.split}-00000-of-00001.parquet"
    hub.parent.mkdir(parents=True)
    features = datasets.Features.from_arrow_schema(mini.schema) | images
    datasets.Dataset.from_list(mini.columns, features=datasets.Features(features)).to_parquet(hub)
    own = load_questions(benchmark, str(write_parquet(tmp_path / "x.parquet", mini)))
    for other in (str(write_arrow(tmp_path / "x.arrow", mini)), f"hub:{tmp_path / 'hub'}"):
        found = load_questions(benchmark, other)
        assert found.digest == own.digest
        assert [row.load() for row in found.rows] == [row.load() for row in own.rows]
    kit = load_questions(benchmark, str(write_tsv(tmp_path / "x.tsv", mini)))
    assert [row.load() for row in kit.rows] == [row.load() for row in own.rows]
    assert [row.answer for row in kit.rows] == [row.answer for row in own.rows]
    assert len(own.rows) == len(mini.replies)
    assert not own.problems


def test_a_folder_of_data_has_a_folder_or_a_file_for_each(tmp_path: Path) -> None:
    write_parquet(tmp_path / "mmmu" / "Accounting" / "validation-00000-of-00001.parquet", MINIS["mmmu"])
    write_parquet(tmp_path / "mmmu" / "Accounting" / "test-00000-of-00001.parquet", MINIS["blink"])  # another split: not read
    write_arrow(tmp_path / "docvqa" / "DocVQA" / "validation" / "data-00000-of-00001.arrow", MINIS["docvqa"])
    write_arrow(tmp_path / "docvqa" / "InfographicVQA" / "validation" / "data-00000-of-00001.arrow", MINIS["mme"])
    write_parquet(tmp_path / "blink.parquet", MINIS["blink"])
    write_tsv(tmp_path / "AI2D_TEST_NO_MASK.tsv", MINIS["ai2d"])
    for name in ("mmmu", "docvqa", "blink", "ai2d"):
        assert len(keys(name, tmp_path, alone=False)) == len(MINIS[name].replies), name
    with pytest.raises(UserError, match=r"has neither a folder chartqa/ nor chartqa\.parquet"):
        keys("chartqa", tmp_path, alone=False)
    assert len(keys("mmmu", tmp_path / "mmmu")) == 4
    with pytest.raises(UserError, match=r"is one file; name one benchmark"):
        keys("blink", tmp_path / "blink.parquet", alone=False)


def test_rows_of_several_files_have_keys_of_their_own(tmp_path: Path) -> None:
    for part in range(2):
        write_parquet(tmp_path / "chartqa" / f"test-0000{part}-of-00002.parquet", MINIS["chartqa"])
    assert keys("chartqa", tmp_path) == [str(number) for number in range(8)]
    assert keys("mme", write_parquet(tmp_path / "mme.parquet", MINIS["mme"])) == [
        "OCR/a.png", "OCR/a.png#2", "code_reasoning/a.png", "code_reasoning/a.png#2",
    ]  # fmt: skip


def test_another_benchmarks_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.parquet:0: has no column type or split or human_or_machine, it has question_id"):
        keys("chartqa", write_parquet(tmp_path / "x.parquet", MINIS["mme"]))
    hidden = write_parquet(tmp_path / "y.parquet", replace(MINIS["blink"], columns=[MINIS["blink"].columns[-1]]))
    with pytest.raises(UserError, match="no question of BLINK, validation: none of its rows"):
        keys("blink", hidden)
    (tmp_path / "z.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(UserError, match="cannot be read"):
        keys("mme", tmp_path / "z.parquet")
    with pytest.raises(UserError, match="no such folder or file"):
        keys("mme", tmp_path / "nothing")


def test_a_tsv_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    """Quoted cells over several lines, quotes in them, and other line ends within; offsets hold all the same."""
    header = ["index", "image", "question", "answer", "split"]
    rows = [
        ["0", coded(1), 'Two\nlines and "quotes"\tand a tab', "1", "test_human"],
        ["1", "0", "Ünïcode\u2028and\x0bmore", "2", "test_human"],
        ["2", coded(3), "plain", "None", "test_augmented"],
    ]
    path = tmp_path / "ChartQA_TEST.tsv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    found = load_questions(BENCHMARKS["chartqa"], str(path)).rows
    assert [row.question for row in found] == [row[2] for row in rows]
    assert [row.answer for row in found] == ["1", "2", "None"]  # pandas would lose the last
    assert [rgb_image(row.load()[1]).getpixel((0, 0)) for row in found] == [color(1), color(1), color(3)]


@pytest.mark.parametrize(
    ("image", "reason"),
    [("!" * 80, "not base64"), ("9", "that of row 9, which is not there"), (coded(1)[:72], "cannot be")],
)
def test_a_tsvs_bad_image_is_an_error_when_it_is_asked_for(image: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(f"index\timage\tquestion\tanswer\tsplit\n0\t{image}\tq\ta\ttest_human\n")
    (row,) = load_questions(BENCHMARKS["chartqa"], str(path)).rows
    with pytest.raises(CorruptSample, match=reason):
        rgb_image(row.load()[1])


def test_a_tsv_with_paths_reads_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    path = tmp_path / "x.tsv"
    for name, good in (("a.png", True), ("['a.png', 'a.png']", True), ("../a.png", False), ("/etc/passwd", False)):
        path.write_text(f"index\timage_path\tquestion\tanswer\tsplit\n0\t{name}\tq\ta\ttest_human\n")
        (row,) = load_questions(BENCHMARKS["chartqa"], str(path)).rows
        if good:
            assert set(row.load().values()) == {png(1)}
        else:
            with pytest.raises(CorruptSample, match="leaves the shard's folder"):
                row.load()


def test_a_tsv_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "MME.tsv", MINIS["mme"])
    path.write_bytes(path.read_bytes()[:-60].rpartition(b"\t")[0].rpartition(b"\t")[0])
    found = load_questions(BENCHMARKS["mme"], str(path))
    assert len(found.rows) == 3
    assert found.problems == ("MME.tsv: row 5: has 1 cells of 6: cut off or damaged",)
    assert found.incomplete(BENCHMARKS["mme"]).endswith("cut off or damaged")
    path.write_bytes(b"index\tquestion\n0\t\xff\xfe\n")
    with pytest.raises(UserError, match="is not UTF-8 near byte"):
        keys("mme", path)
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(UserError, match="is no TSV of VLMEvalKit"):
        keys("mme", path)


def test_options_are_read_and_never_evaluated(tmp_path: Path) -> None:
    columns = [{**MINIS["mmmu"].columns[0], "options": "__import__('os').system('touch x')"}]
    with pytest.raises(UserError, match="options: is not a list of texts"):
        keys("mmmu", write_parquet(tmp_path / "x.parquet", replace(MINIS["mmmu"], columns=columns)))


def test_columns_that_are_there_twice_or_pickled_are_no_text(tmp_path: Path) -> None:
    table = pa.table([pa.array(["q"]), pa.array(["r"])], names=["question", "question"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="has the column question 2 times"):
        keys("mme", tmp_path / "x.parquet")
    columns = {"category": ["OCR"], "question_id": ["a"], "question": [b"\x80\x04."], "answer": ["Yes"]}
    pq.write_table(pa.table(columns), tmp_path / "y.parquet")
    with pytest.raises(UserError, match="has no column question"):
        keys("mme", tmp_path / "y.parquet")


def test_images_are_what_the_harnesses_show() -> None:
    """Transparency is dropped and nothing is turned, as by `convert("RGB")`; a bomb is refused before it is decoded."""
    clear = Image.new("RGBA", (4, 2), (9, 8, 7, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    clear.save(buffer, "PNG", exif=exif)
    shown = rgb_image(buffer.getvalue())
    assert (shown.size, shown.mode, shown.getpixel((0, 0))) == ((4, 2), "RGB", (9, 8, 7))
    bomb = bytearray(png(1))
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(CorruptSample, match=f"20000 x 20000 pixels; pixels decoded at most: {MAX_PIXELS}"):
        rgb_image(bytes(bomb))


def test_names_of_benchmarks() -> None:
    assert [benchmark.name for benchmark in named("all")] == [name for name in BENCHMARKS if name != "ai2d_mask"]
    assert [benchmark.name for benchmark in named("mme,ai2d_mask")] == ["mme", "ai2d_mask"]
    for wrong in ("mme,mme", "mmlu", ""):
        with pytest.raises(UserError, match=r"^benchmark '.*': (unknown; choose from mmmu, |is named twice in mme,mme)"):
            named(wrong)


def test_hub_names_other_places_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `vlm` is not installed")

    def fail(*arguments: object, **settings: object) -> None:
        raise ConnectionError("no route to it\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UserError, match=r"lmms-lab-encoder/MME: no route to it; name a folder of files, or one of hub:lmms-lab/MME$"
    ):
        load_questions(BENCHMARKS["mme"], "hub")
    with pytest.raises(UserError, match="is one benchmark's data"):
        load_questions(BENCHMARKS["mme"], "hub:lmms-lab/MME", alone=False)
