"""The errors that a user can cause and can mend. Everything else is a bug and is left to surface as such."""


class D24FADError(Exception):
    """Base of the errors whose text is meant for the reader: what is wrong, with what, and what to do."""


class InputError(D24FADError):
    """A study, reference or option cannot be used as it is."""


class ModelError(D24FADError):
    """A model file is missing, damaged, of another architecture or not what its metadata says."""


class OutputError(D24FADError):
    """The results cannot be written where they were asked for."""


class Cancelled(D24FADError):
    """The caller asked to stop; nothing was written."""
