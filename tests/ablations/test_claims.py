"""Claims name rows and columns that exist, and gates of runs that their rows start from."""

import re

import pytest

from ablations.claims import CLAIMS, ColumnsWon
from ablations.questions import MIRRORS
from ablations.registry import GRIDS, get_grid
from reports.paper_values import PAPER_TABLES
from reports.verdicts import published
from rf_repro.config.prerequisites import shared_runs

each = pytest.mark.parametrize("claim", CLAIMS, ids=[claim.id for claim in CLAIMS])


def test_ids_are_unique_and_every_table_has_a_claim():
    assert CLAIMS[0].id == "rf_beats_pixel"
    assert len({claim.id for claim in CLAIMS}) == len({claim.statement for claim in CLAIMS}) == len(CLAIMS) == 33
    assert {claim.table for claim in CLAIMS} == set(GRIDS)


@each
def test_rows_and_columns_are_the_tables_own(claim):
    paper = PAPER_TABLES[claim.table]
    assert set(claim.rows) <= set(paper.values)
    if claim.table == "table1":
        assert claim.needs
        return
    grid = get_grid(claim.table)
    assert set(claim.rows) <= {row.key for row in grid.rows}
    assert set(claim.columns) <= {column.key for column in grid.columns}
    assert len(set(claim.columns)) == len(claim.columns)
    assert bool(claim.needs) == (claim.unit in MIRRORS.values()), "only single benchmarks need more than this world has"


@each
def test_the_size_that_a_sentence_names_is_the_published_one(claim):
    if named := re.search(r"RF (?:gains|costs) ([0-9.]+) on", claim.statement):
        assert published(claim) == pytest.approx(float(named[1]) / 100)


@each
def test_a_claim_of_several_columns_has_every_column_of_its_table_and_says_what_it_counts(claim):
    if len(claim.columns) > 1:
        assert set(claim.columns) == {column.key for column in get_grid(claim.table).columns}
    assert (claim.unit == "columns won") == isinstance(claim.comparison, ColumnsWon)


@each
def test_gates_lie_in_runs_that_the_claims_rows_start_from(claim):
    for gate in claim.gates:
        assert gate.row in claim.rows
        config = get_grid(claim.table).configs("tiny")[gate.row]
        assert gate.kind in {run.kind for run in shared_runs(config)}
        assert 0 < gate.minimum < 1
        assert config.model.pixel.space == "vae" or config.model.encoder.pretraining.kind != "none"
    rows = () if claim.needs else claim.rows  # decided nowhere where a VAE is trained in-suite
    gated = {gate.row for gate in claim.gates}
    latent = {row for row in rows if row.startswith("vae")}
    assert bool(gated & latent) == bool(latent)  # no claim on the VAE rows is decided with a poor VAE
