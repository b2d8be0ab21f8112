"""Tables beyond 3a: shared runs, question columns beside the paper's, chance, and the same numbers in every format."""

import re

import pandas as pd
import pytest

from ablations.questions import QUESTIONS
from reports.build import build_report
from tests.reports.runs import make_items, make_result, write_geneval, write_metrics, write_questions, write_run, write_samples

WEAK = make_items(lambda task, index, sample: index == 0)
STRONG = make_items(lambda task, index, sample: index < 3)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Pixel, Pixel+RF and a codebook of twice the size, drawn and asked; VLM-only, asked alone."""
    root = tmp_path_factory.mktemp("tables")
    for variant, top in (("pixel", 5), ("pixel_rf", 9), ("pixel_rf_k_double", 9), ("vlm_only", 10)):
        run = write_run(root / "runs", variant, 0)
        write_questions(run, lambda kind, index, top=top: index < top - (kind == "chart"), chance=0.4)
        if variant == "pixel_rf":
            write_questions(run, lambda kind, index: index < 2, per_type=4, name="questions-step000015", step=15)
        if variant != "vlm_only":
            items = WEAK if variant == "pixel" else STRONG
            write_geneval(run, items)
            write_metrics(run, [10, 20, 30], 1.0, codebook=variant != "pixel")
            write_samples(run, items)
        if variant in ("pixel", "pixel_rf"):
            shares = {"no_object": 0.25 if variant == "pixel" else 0.0, "broken_object": 0.5}
            run.write_eval("objects", make_result(items, metrics=shares))
    build_report([root / "runs"], root / "out", "smoke")
    return root / "out"


def rows_of(out, name):
    found = pd.read_csv(out / "tables" / f"{name}.csv")
    return {(row["row"], row["column"]): row for row in found.to_dict("records")}


def test_question_columns_are_measured_under_their_own_names(out):
    found = rows_of(out, "table2")
    assert {column for _, column in found} == set(QUESTIONS)
    assert found["pixel_rf", "object"]["measured"] == pytest.approx(0.9)
    assert found["pixel", "chart"]["measured"] == pytest.approx(0.4)
    assert pd.isna(found["pixel", "chart"]["paper"])
    assert pd.isna(found["vae", "object"]["measured"])
    text = (out / "report.md").read_text()
    assert "| Variant | Scenes questions: object |" in text
    measured = text[text.index("### Table 2 at") : text.index("### The paper's Table 2")]
    assert "MMMU" not in measured


def test_the_papers_table_stands_apart_and_says_so(out):
    found = rows_of(out, "table2-paper")
    assert found["vlm_only", "MMMU"]["paper"] == pytest.approx(0.562)
    text = (out / "report.md").read_text()
    assert "### The paper's Table 2: other benchmarks, not comparable with the numbers above" in text
    assert "object beside MMMU" in text
    assert not (out / "tables" / "table3a-paper.csv").exists()  # its values stand beside ours


def test_questions_answered_on_the_way_are_drawn_against_steps(out):
    assert (out / "figures" / "table2-types-curves.png").exists()
    sources = pd.read_csv(out / "tables" / "sources.csv")
    curves = sources[sources["Record"].str.contains("questions-step000015")]
    assert curves["Variant"].unique().tolist() == ["Pixel+RF"]
    assert not (out / "figures" / "table3a-types-curves.png").exists()


def test_where_images_fail_stands_under_the_pictures(out):
    found = pd.read_csv(out / "tables" / "table3a-failures.csv").set_index(["row", "metric"])["measured"]
    assert found["pixel", "no_object"] == 0.25
    assert found["pixel_rf", "no_object"] == 0
    assert found["vae", "no_object"] != found["vae", "no_object"]  # not run: no number
    text = (out / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| Pixel |") and line.endswith("| 0.250 | 0.500 |"))
    assert "| – |" in row  # it has no representation tokens to draw from
    assert not (out / "tables" / "table3b-failures.csv").exists()


def test_the_best_guess_without_the_image_has_its_row(out):
    found = rows_of(out, "table2")
    assert found["chance", "color"]["measured"] == pytest.approx(0.4)
    assert re.search(r"\| Best guess without the image \| 0\.40 \| 0\.40 ", (out / "report.md").read_text())
    assert ("chance", "geneval") not in rows_of(out, "table3a")


def test_shared_runs_are_one_run_and_repeated_parts_are_printed_once(out):
    text = (out / "report.md").read_text()
    for name in ("table3b", "table3c"):  # Pixel and Pixel+RF alone: nothing that Table 3a has not shown
        assert not (out / "figures" / f"{name}-curves.png").exists()
        assert not (out / "tables" / f"{name}-tasks.csv").exists()
    assert text.count("All runs of this table are also those of Table 3a") == 2
    assert (out / "figures" / "table3d-curves.png").exists()
    runs = pd.read_csv(out / "tables" / "runs.csv")
    assert len(runs) == runs["Run"].nunique() == 4
    assert runs[runs["Run"].str.contains("/pixel_rf/")]["Tables"].item() == "3a, 3b, 3c, 3d, 2"


def test_the_codebook_is_shown_by_size(out):
    found = pd.read_csv(out / "tables" / "codebook.csv")
    assert dict(zip(found["row"], found["size"], strict=True)) == {"pixel_rf": 32, "pixel_rf_k_double": 64}
    assert (out / "figures" / "codebook-size.png").exists()


def test_csv_and_parquet_hold_the_same_numbers(out):
    tables = sorted((out / "tables").glob("*.csv"))
    assert len(tables) >= 10
    for path in tables:
        csv, parquet = pd.read_csv(path), pd.read_parquet(path.with_suffix(".parquet"))
        assert list(csv) == list(parquet)
        for name in csv:
            if parquet[name].dtype.kind in "fi":
                pd.testing.assert_series_equal(csv[name], parquet[name], check_dtype=False)
            else:
                text = parquet[name].fillna("").astype(str).tolist()
                assert text == pd.read_csv(path, dtype=str, keep_default_na=False)[name].tolist()


def test_claims_link_to_evidence_that_is_there(out):
    page = (out / "report.html").read_text()
    links = re.findall(r'<a href="#(table\w+)">Evidence: (Table \w+)</a>', page)
    assert len(links) == page.count('<div class="claim ')
    for anchor, name in links:
        assert anchor == name.lower().replace(" ", "")
        assert f'<h2 id="{anchor}">' in page
    assert page.index('id="claims"') < page.index('id="table1"') < page.index('id="table2"') < page.index('id="table3a"')
