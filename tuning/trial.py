"""The trial: the bridge between Ray Tune's class API and a trainable.

A trial finds its own way back: whenever one begins, in a fresh process or a reused one, after a
lost host or a resumed study, it looks for the newest intact checkpoint in its folder and goes on
from there. Tune's own checkpoints are used only to move a running trial.

The driver imports this module as well, to name the class to Tune. What only the trials' processes
need, torch above all, is imported where it is used.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ray import tune

from tuning import checkpoint
from tuning.data import DataError, ImageData
from tuning.outcome import NonFiniteLoss
from tuning.parameters import (
    PARAMETERS,
    ResNetParameters,
    TrainableError,
    find_trainable,
    parameters_of,
)
from tuning.process import describe, end_with_parent, limit_memory, memory_bytes
from tuning.record import write_atomically
from tuning.resources import Allotment, ResourceError, larger_share, takes_workers
from tuning.study import Limits
from tuning.workers import Workers

if TYPE_CHECKING:
    import torch

#: Keys of a trial's configuration that are not parameters of its trainable.
NOT_PARAMETERS = ("trial", "reads_test", "seed", "trainable", "dataset", "gpu_share")
#: Errors that the same configuration meets again: the trial fails at once, without a retry.
PERMANENT = (
    NonFiniteLoss,
    DataError,
    ResourceError,
    ModuleNotFoundError,
    TrainableError,
    MemoryError,
    TimeoutError,
)
#: In a trial's folder: where the trial was when its time limit ended it.
TIME_LIMIT = "time_limit.txt"
#: What torch's and oneDNN's allocators of CPU memory say, in a plain RuntimeError.
NO_MEMORY = ("can't allocate memory", "not enough memory", "could not create a memory object")


class Training(Protocol):
    """What a trainable gives the trial, the user's own included.

    It is made as `Class(parameters, data, seed, allotment)`: its parameters (an object with one
    attribute each), a `tuning.data.ImageData` (None under `dataset: {name: none}`), the trial's
    seed, and the `tuning.resources.Allotment`. It may have `facts`, what does not change within a
    trial, `test_predictions`, classes `[n_test]` or None, and `adopt(state)`, which population
    based training calls in place of `restore` when the state is another trial's.
    """

    def step(self) -> dict[str, Any]:
        """Train a while; return metrics, with `done` true at the end. `epoch` counts the steps."""

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to go on in another process: plain values and tensors."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""


class FunctionTraining:
    """A user's function as a `Training`: a generator that yields the metrics of every epoch.

    The trial ends when the function does, or after its `epochs` if it has such a parameter. A
    function has no state to go on from: a trial that lost its process runs it again, and passes
    over the epochs that are known. One that returns metrics in place of yielding reports once.
    """

    def __init__(
        self, function: Callable[..., Any], parameters: Any, data: Any, seed: int, allotment: Any
    ) -> None:
        self.last: dict[str, Any] = {}
        self.epoch = 0
        self.epochs = getattr(parameters, "epochs", None)
        made = function(parameters, data, seed, allotment)
        self.reports = iter([made] if isinstance(made, Mapping) else made)

    def step(self) -> dict[str, Any]:
        """Return the next epoch's metrics; after an end that `epochs` did not tell, the last."""
        report = next(self.reports, None)
        if report is None:
            return self.last | {"done": True}
        if not isinstance(report, Mapping):
            raise TrainableError(
                f"the function must yield mappings of metrics, but gave {report!r}"
            )
        self.epoch += 1
        self.last = {"epoch": self.epoch, **report}
        return self.last | {"done": self.epoch == self.epochs}

    def state(self) -> dict[str, Any]:
        """Return how many epochs are known."""
        return {"epoch": self.epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """Run the function again up to where it was."""
        while self.epoch < state["epoch"]:
            self.step()


class StudyTrial(tune.Trainable):
    """One trial of a study, for `tune.Tuner`.

    A result holds the metrics that schedulers and searchers need, and beside them `report` (all
    metrics, once per epoch), `facts` (with the first result), `failure` (why a trial ended
    without a result), `pause` (why the study has to stop, though the trial is well) and `enlarge`
    (the trial ran out of its share of a GPU, and goes on with this larger one when Tune has started
    it again, which the error in its next step makes it do).
    """

    training: Training
    facts: dict[str, Any]
    saved_report: dict[str, Any]
    failure: str
    pause: str
    out_of_memory: torch.OutOfMemoryError | None

    def setup(
        self,
        config: dict[str, Any],
        folder: str,
        data: dict[str, ImageData],
        limits: Limits,
        code: str | None = None,
        gpu: float = 0,
        trainables: Iterable[str] = (),
    ) -> None:
        """Begin the first trial of this process.

        All that trials of the study need is imported before. If one process were ready while others
        still import, and its trial short, Tune would give it the trial of one of those and end that
        process, to start another one for the next trial.

        Args:
            config: the configuration, with `trial`, `seed`, `trainable`, `dataset`; and
                `reads_test` false for a trial that must not say how well it does on the test split.
            folder: the study folder.
            data: the data sets by name, from the object store.
            limits: of time and memory.
            code: folder of the user's own trainable, if it is not installed.
            gpu: share of a GPU that trials of this study begin with.
            trainables: of the study's trials.
        """
        import torch  # noqa: F401

        self.code = code
        self.gpu = gpu
        end_with_parent()
        for name in set(trainables) & set(PARAMETERS):
            trainable_class(name)
        if limits.trial_memory_gib is not None:
            limit_memory(limits.trial_memory_gib)
        self.limits = limits
        self.study_folder = Path(folder)
        self.data = data
        # What is imported by now stays; collecting it after every trial would take 0.1 s each.
        gc.freeze()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next result of the trial."""
        import torch

        started = time.perf_counter()
        if self.failure:
            return {"failure": self.failure, "done": True}
        if self.pause:
            return {"pause": self.pause}
        if self.out_of_memory is not None:
            return self._ask_for_more(self.out_of_memory)
        if self.saved_report:
            # The driver may have missed the report that belongs to the checkpoint.
            report, self.saved_report = self.saved_report, {}
            return self._result(report)
        try:
            with self._time_limit():
                report = self.training.step()
            self.total_seconds += time.perf_counter() - started
            report = {"memory_bytes": memory_bytes()} | report
            report |= {"total_seconds": self.total_seconds}
            self.reports += 1
            if self.config["trainable"] not in PARAMETERS:
                report = {"epoch": self.reports, "done": False} | report
            if self.config.get("reads_test", True):
                self._write_predictions()
            else:
                report.pop("test_accuracy", None)
            checkpoint.save(self.folder, self.reports, self._state(report))
        except torch.OutOfMemoryError as error:
            self._run_out(error)
            return self.step()
        except (*PERMANENT, RuntimeError) as error:
            return {"failure": _permanent(error), "done": True}
        except OSError as error:
            return {"pause": _full_disk(error)}
        return self._result(report)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial's state where Tune wants it; a trial that never began has none."""
        if self.failure or self.pause or self.out_of_memory:
            return
        checkpoint.save(Path(checkpoint_dir), self.reports, self._state({}))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Take over a state that Tune moved here."""
        state = checkpoint.load_newest(Path(checkpoint_dir))
        if state is not None:
            self._restore(state)

    def cleanup(self) -> None:
        """Give back the memory of the trial."""
        self._free()

    def _begin(self, config: dict[str, Any]) -> None:
        import torch

        started = time.perf_counter()
        self._free()
        self.folder = self.study_folder / "trials" / str(config["trial"])
        self.failure = self.pause = ""
        self.out_of_memory = None
        self.asked = False
        self.reports = 0
        self.total_seconds = 0.0
        self.facts_sent = False
        self.saved_report = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if read_time_limit(self.folder):
                raise self._timeout()
            with self._time_limit():
                self.training, self.facts = self._build(config)
        except torch.OutOfMemoryError as error:
            self._run_out(error)
            return
        except (*PERMANENT, RuntimeError) as error:
            self.failure = _permanent(error)
            return
        except OSError as error:
            self.pause = _full_disk(error)
            return
        state = checkpoint.load_newest(self.folder)
        if state is not None:
            self._restore(state)
        self.total_seconds += time.perf_counter() - started

    def _run_out(self, error: torch.OutOfMemoryError) -> None:
        """Fail, unless there is a larger share of a GPU and the trial did not get one before."""
        share = self._allotment().gpus
        if share > self.gpu or larger_share(share) is None:
            before = f", after {self.gpu:g}" if share > self.gpu else ""
            gpu = f" with gpu {share:g}{before}" if share else ""
            self.failure = f"OutOfMemoryError{gpu}: {str(error).strip()}"
        else:
            self.out_of_memory = error

    def _ask_for_more(self, error: torch.OutOfMemoryError) -> dict[str, Any]:
        """Ask the driver for a larger share of a GPU, and then let Tune start the trial again."""
        if self.asked:
            raise error
        self.asked = True
        share = self._allotment().gpus
        return {"enlarge": {"was": share, "gpu": larger_share(share)}}

    @contextmanager
    def _time_limit(self) -> Iterator[None]:
        """End this process when the trial's time is over, and write where it was.

        The timer is a thread of C, so that it ends a trial that hangs in C code as well.
        """
        limit = self.limits.trial_seconds
        if limit is None:
            yield
            return
        left = limit - self.total_seconds
        if left <= 0:
            raise self._timeout()
        path = self.folder / TIME_LIMIT
        with path.open("w") as file:
            faulthandler.dump_traceback_later(left, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
        path.unlink()

    def _timeout(self) -> TimeoutError:
        return TimeoutError(f"limits.trial_seconds: {self.limits.trial_seconds:g} are over")

    def _build(self, config: dict[str, Any]) -> tuple[Training, dict[str, Any]]:
        allotment = self._allotment()
        values = {k: v for k, v in config.items() if k not in NOT_PARAMETERS}
        if takes_workers(config):
            group = Workers(
                ResNetParameters.model_validate(values),
                self.data[config["dataset"]],
                config["seed"],
                allotment,
                self.trial_resources.bundles,
                self.limits.trial_memory_gib,
            )
            return group, group.facts
        allotment.apply()
        build = trainable_class(config["trainable"], self.code)
        parameters = parameters_of(config["trainable"]).model_validate(values)
        data = self.data.get(config["dataset"])
        training: Training = build(parameters, data, config["seed"], allotment)
        model = config["trainable"].rpartition(":")[2]
        facts = {"model": model, "device": "cpu"} | getattr(training, "facts", {})
        return training, facts | describe(allotment, facts["device"]) | {"workers": 1}

    def _allotment(self) -> Allotment:
        """Return what this process got, or each of the trial's workers."""
        bundle = self.trial_resources.bundles[0] if self.trial_resources else {}
        return Allotment(bundle.get("CPU", 1), bundle.get("GPU", 0))

    def _result(self, report: dict[str, Any]) -> dict[str, Any]:
        result = {k: v for k, v in report.items() if k != "done"}
        result |= {"report": dict(result), "done": report["done"], "final": report["done"]}
        if not self.facts_sent:
            result["facts"] = self.facts
            self.facts_sent = True
        return result

    def _state(self, report: dict[str, Any]) -> dict[str, Any]:
        return {
            "trial": self.config["trial"],
            "training": self.training.state(),
            "report": report,
            "reports": self.reports,
            "total_seconds": self.total_seconds,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        own = state.get("trial") in (None, self.config["trial"])
        restore = self.training.restore
        (restore if own else getattr(self.training, "adopt", restore))(state["training"])
        self.saved_report = state["report"]
        self.reports = state["reports"]
        self.total_seconds = state["total_seconds"]

    def _write_predictions(self) -> None:
        predicted = getattr(self.training, "test_predictions", None)
        if predicted is None:
            return
        buffer = io.BytesIO()
        data = self.data[self.config["dataset"]]
        actual = data.labels[data.test].astype(np.uint8)
        np.savez_compressed(buffer, predicted=predicted, actual=actual)
        write_atomically(self.folder / "predictions.npz", buffer.getvalue())

    def _free(self) -> None:
        """Drop the last trial, so that its memory does not add to the next one's."""
        import torch

        if not hasattr(self, "training"):
            return
        if isinstance(self.training, Workers):
            self.training.close()
        del self.training
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def read_time_limit(folder: Path) -> str:
    """Return where a trial was when its time limit ended it, or nothing."""
    path = folder / TIME_LIMIT
    return path.read_text() if path.is_file() else ""


def _permanent(error: Exception) -> str:
    """Return why a trial has failed.

    Raises:
        RuntimeError: the error itself, where another try may do better.
    """
    text = str(error).strip()
    if any(words in text for words in NO_MEMORY) or isinstance(error, MemoryError):
        return f"OutOfMemory: {text.splitlines()[0] if text else 'the trial wanted too much'}"
    if not isinstance(error, PERMANENT):
        raise error
    return f"{type(error).__name__}: {text}"


def _full_disk(error: OSError) -> str:
    """Return what a study that is paused says of its full disk.

    Raises:
        OSError: the error itself, if it is another one.
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return f"{error.filename or 'storage'}: {error.strerror}; free some space"


def trainable_class(name: str, code: str | None = None) -> Any:
    """Return what makes a `Training`; imported here, since an SVM needs no torchvision."""
    if name == "svm":
        from tuning.svm import SVMTraining

        return SVMTraining
    if name == "resnet":
        from tuning.resnet import ResNetTraining

        return ResNetTraining
    found = find_trainable(name, code)
    return found if isinstance(found, type) else partial(FunctionTraining, found)
