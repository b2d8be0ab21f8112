"""The check of GenEval's models before images are drawn for them: once for all runs of a folder that ask for the same models."""

from rf_repro.core.action_dir import ActionDir
from rf_repro.core.files import write_json
from rf_repro.core.hashing import content_hash
from rf_repro.core.provenance import utc_now
from rf_repro.core.run_dir import RunDir
from rf_repro.core.run_lock import run_lock
from rf_repro.evaluations.actions import Scoring
from rf_repro.evaluations.scenes import SCENES

PATIENCE = 3600.0  # seconds for another job's check


def self_check_once(scoring: Scoring, run: RunDir, device: str) -> None:
    """Loads the detector and CLIP and has them look at drawn images, unless that was done: so that what cannot work is known
    before thousands of images are drawn.

    Raises:
        UserError: a model cannot be loaded, or sees what cannot be.
    """
    if scoring.benchmark != "geneval" or scoring.get("detector") == SCENES:
        return
    from evaluators.geneval.models import check_models

    folder = ActionDir(run.path.parents[1] / ".checks" / content_hash(scoring.settings)[:12])
    marker = folder.path / "passed.json"
    if marker.exists():
        return
    with run_lock(folder.path, PATIENCE):
        if marker.exists():
            return
        from rf_repro.evaluations.score import geneval_options

        said: list[str] = []
        options = geneval_options(scoring, device)
        detector, classifier = options.load_models()
        check_models(detector, classifier, options.reference, said.append)
        write_json(marker, {"checked": utc_now(), "settings": dict(scoring.settings), "said": said})
