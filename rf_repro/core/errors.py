"""What a user can mend. The command line prints these as one line and exits with status 2, without a traceback."""

from rf_repro.core.shown import one_line

LONGEST = 2_000  # characters of a message: more is what some file holds, and no reader's concern


class UserError(ValueError):
    """Bad input: says what is wrong, where, what is allowed and what to do.

    Its text is printable: names from files of others cannot steer a terminal. A longer message loses its middle.
    """

    def __init__(self, message: object = "") -> None:
        text = "\n".join(map(one_line, str(message).split("\n")))
        super().__init__(text if len(text) <= LONGEST else f"{text[:1_200]} ... {text[-700:]}")


class Stopped(Exception):
    """Work ended early because it was asked to; says where. Nothing is lost: started again, it goes on from there."""


class TrainingDiverged(RuntimeError):
    """A loss or gradient stopped being finite; names the step and the term. Nothing was stepped or saved after it."""
