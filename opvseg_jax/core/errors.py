"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake in what came in: one sentence with what was wrong, where, and what to do.

    The command line prints it as one line and exits with code 2.
    """
