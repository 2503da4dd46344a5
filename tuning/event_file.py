"""A TensorBoard event file that is written in the thread of the caller, and what it may hold.

The SummaryWriters of torch and tensorboardX hand events to a thread through a short queue. A full
disk can end that thread unseen; from then on the queue, and with it the study, waits for ever.
Both also import torch, which takes seconds; TensorBoard's own messages do not.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto


class EventFile:
    """One new event file in a folder.

    Its methods raise an OSError that names the folder where the disk takes no more.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        now = time.time()
        path = folder / f"events.out.tfevents.{now:.6f}.{platform.node()}"
        with self._named():
            self._writer = RecordWriter(path.open("wb"))
            self._write(Event(wall_time=now, file_version="brain.Event:2"))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point of a curve."""
        self.add_summary(Summary(value=[Summary.Value(tag=tag, simple_value=value)]), step)

    def add_summary(self, summary: Summary, step: int | None = None) -> None:
        """Add a summary, such as those that this module makes."""
        with self._named():
            self._write(Event(summary=summary, wall_time=time.time(), step=step))

    def flush(self) -> None:
        """Write what was added to the disk."""
        with self._named():
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with self._named():
            self._writer.close()

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._folder)
            raise


def charts(layout: Mapping[str, Mapping[str, Sequence[str]]]) -> Summary:
    """Return the layout of TensorBoard's page "Custom scalars".

    Args:
        layout: the tags of each chart's lines, by category and title.
    """
    categories = [
        layout_pb2.Category(
            title=category,
            chart=[
                layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                for title, tags in content.items()
            ],
        )
        for category, content in layout.items()
    ]
    value = Summary.Value(
        tag=custom_scalars.CONFIG_SUMMARY_TAG,
        metadata=custom_scalars.create_summary_metadata(),
        tensor=make_tensor_proto(layout_pb2.Layout(category=categories).SerializeToString()),
    )
    return Summary(value=[value])


def hyperparameters(
    trial: str, values: Mapping[str, bool | float | str], metrics: Sequence[str]
) -> Iterator[Summary]:
    """Return what TensorBoard's page "HParams" needs to know of a finished trial.

    Args:
        trial: its id.
        values: of its hyperparameters.
        metrics: tags of scalars that tell how well it did.
    """
    experiment = api_pb2.Experiment(
        hparam_infos=[api_pb2.HParamInfo(name=k, type=_data_type(v)) for k, v in values.items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )
    yield _hparams(hparams.EXPERIMENT_TAG, experiment=experiment)
    yield hparams_pb(dict(values), trial_id=trial)
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    yield _hparams(hparams.SESSION_END_INFO_TAG, session_end_info=end)


def _data_type(value: bool | float | str) -> int:
    if isinstance(value, bool):
        return int(api_pb2.DATA_TYPE_BOOL)
    return int(api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64)


def _hparams(tag: str, **content: object) -> Summary:
    data = plugin_data_pb2.HParamsPluginData(**content)
    value = Summary.Value(
        tag=tag, metadata=hparams.create_summary_metadata(data), tensor=hparams.NULL_TENSOR
    )
    return Summary(value=[value])
