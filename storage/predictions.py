"""The life of predictions in SQL. Every change of a status is a verb of one of these classes.

The fence: every claim writes a fresh id into the rows it takes, and every later change asks for that id and for a
status that has not ended. Whoever comes late, however late, changes nothing.
"""

from storage.changing import Changing
from storage.reading import Reading
from storage.returning import Returning
from storage.running import Running
from storage.submitting import Submitting


class Predictions(Submitting, Running, Returning, Changing, Reading):
    """Every verb raises StorageUnavailable when SQL is away. An id that is no UUID names no row."""
