"""What a user can mend. The command line prints these as one line and exits with status 2, without a traceback."""


class UserError(ValueError):
    """Bad input: says what is wrong, where, what is allowed and what to do."""


class Stopped(Exception):
    """Work ended early because it was asked to; says where. Nothing is lost: started again, it goes on from there."""


class TrainingDiverged(RuntimeError):
    """A loss or gradient stopped being finite; names the step and the term. Nothing was stepped or saved after it."""
