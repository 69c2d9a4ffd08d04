"""Opening a split of any format so that memory does not grow with the number of its images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from suite.data.formats import Location, open_annotated
from suite.data.formats.annotated import AnnotatedSet, Report, refuse
from suite.data.formats.coco_stream import stream_coco


def stream_annotated(
    location: Location, *, report: Report = refuse
) -> AbstractContextManager[AnnotatedSet]:
    """Open what `open_annotated` opens, for the length of a block; one pass takes little memory.

    Raises:
        InputError, UsageError: as `open_annotated`.
    """
    if location.format == "coco" and location.images is not None:
        return stream_coco(location.annotations, location.images, report=report)
    return nullcontext(open_annotated(location, report=report))
