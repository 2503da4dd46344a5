"""The parameters of a trial: what a study may search over or fix, typed and bounded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Parameters(BaseModel):
    """Base of all parameter sets: unknown keys and silently converted types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResNetParameters(Parameters):
    """Parameters of a ResNet trial."""

    model: Literal["resnet18", "resnet34", "resnet50"] = Field(
        "resnet18", description="torchvision's network, without pre-trained weights"
    )
    stem: Literal["standard", "small"] = Field(
        "standard",
        description="first convolution: torchvision's 7x7 stride 2, or 3x3 stride 1 (small images)",
    )
    image_size: Annotated[int, Field(ge=28, le=224)] = Field(
        28, description="pixels per side at which images enter the network"
    )
    batch_size: PositiveInt = Field(128, description="images per optimizer step")
    epochs: PositiveInt = Field(4, description="passes over the training split")
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = Field(
        "sgd", description="optimizer; muon steps kernels by Muon and the other weights by SGD"
    )
    lr: PositiveFloat = Field(0.05, description="learning rate (the peak under one-cycle)")
    momentum: Fraction = Field(0.9, description="momentum of SGD and Muon")
    nesterov: bool = Field(False, description="Nesterov momentum of SGD and Muon")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="weight decay")
    label_smoothing: Fraction = Field(0.0, description="label smoothing of the training loss")
    schedule: Literal["constant", "onecycle"] = Field(
        "constant", description="learning-rate schedule over all steps of the trial"
    )
    warmup: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.3, description="onecycle: share of the steps in which the learning rate rises"
    )
    augmentation: Literal["none", "flip"] = Field(
        "none", description="random horizontal flips of training images (never for digits)"
    )
    shift: Annotated[int, Field(ge=0, le=8)] = Field(
        0, description="random shifts of training images by up to this many of their own pixels"
    )
    precision: Literal["fp32", "amp", "bf16"] = Field(
        "amp",
        description="amp: fp16 with gradient scaling on CUDA, bf16 on a CPU that has it in "
        "hardware, otherwise fp32 with the reason recorded",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: the GPU that the trial was given, otherwise the CPU"
    )
    loader: Literal["resident", "dataloader"] = Field(
        "resident",
        description="resident: slice uint8 tensors held on the device; dataloader: torch's "
        "DataLoader with worker processes",
    )
    num_workers: Annotated[int, Field(ge=0)] = Field(
        0, description="worker processes of the DataLoader"
    )
    pin_memory: bool = Field(
        False, description="page-locked host memory for copies to the GPU, on either loader"
    )
    train_size: PositiveInt | None = Field(
        None, description="train on a stratified subset of this many images (default: all)"
    )
    engine: Literal["native", "ddp", "deepspeed"] = Field(
        "native",
        description="native: PyTorch in one process; ddp: DistributedDataParallel; deepspeed: "
        "DeepSpeed's ZeRO. The last two train in `resources.workers` processes, over all of which "
        "`batch_size` counts and batch norm takes its statistics",
    )
    zero_stage: Literal[0, 1, 2] = Field(
        0,
        description="deepspeed: what is sharded over the workers: nothing, the optimizer's state, "
        "or its gradients too",
    )


class SVMParameters(Parameters):
    """Parameters of a support vector machine trial."""

    kernel: Literal["rbf", "poly", "linear"] = Field("rbf", description="kernel of the SVC")
    C: PositiveFloat = Field(1.0, description="inverse strength of the regularisation")
    gamma: PositiveFloat | Literal["scale", "auto"] = Field(
        "scale",
        description="kernel coefficient of rbf and poly; scale is 1 / (features x variance)",
    )
    degree: PositiveInt = Field(3, description="degree of the poly kernel")
    coef0: float = Field(0.0, description="independent term of the poly kernel")
    implementation: Literal["auto", "pairwise", "sklearn"] = Field(
        "auto",
        description="pairwise: scikit-learn's solver on kernel matrices from products of bytes, "
        "some twenty times as fast; sklearn: its SVC; auto: pairwise where memory suffices",
    )
    train_size: PositiveInt | None = Field(
        None, description="train on a stratified subset of this many images (default: all)"
    )
    rungs: Annotated[int, Field(ge=1, le=6)] = Field(
        1,
        description="fit on growing subsets first, each three times the last, so that a scheduler "
        "can stop early: 3 fits a ninth, a third and all; `epoch` counts in the smallest subset",
    )


class FreeParameters(BaseModel):
    """Parameters of a user's trainable that declares none: any names, any values."""

    model_config = ConfigDict(extra="allow", frozen=True)


PARAMETERS: dict[str, type[Parameters]] = {"resnet": ResNetParameters, "svm": SVMParameters}


class TrainableError(ValueError):
    """A trainable's name leads to none, or it does not do its part; the text says why."""


def find_trainable(name: str, code: str | None = None) -> Any:
    """Return the class or function that `package.module:name` names.

    Args:
        name: of the user's own trainable.
        code: a folder in which Python looks for the module first.

    Raises:
        TrainableError: there is none.
    """
    module, _, attribute = name.partition(":")
    if code is not None and (folder := str(Path(code).resolve())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, SyntaxError, ValueError, AttributeError) as error:
        raise TrainableError(f"{name!r} cannot be imported ({error})") from None


def is_function(trainable: str) -> bool:
    """Return whether a user's trainable is a function and not a class."""
    return not isinstance(find_trainable(trainable), type)


def parameters_of(trainable: str) -> type[BaseModel]:
    """Return the model of a trainable's parameters; a user's class may have it as `Parameters`.

    Raises:
        TrainableError: there is no such trainable.
    """
    if trainable in PARAMETERS:
        return PARAMETERS[trainable]
    model: type[BaseModel] = getattr(find_trainable(trainable), "Parameters", FreeParameters)
    return model


def knows(trainable: str, key: str) -> bool:
    """Return whether a trainable has a parameter of this name."""
    model = parameters_of(trainable)
    return key in model.model_fields or model.model_config.get("extra") == "allow"


def value_adapter(trainable: str, key: str) -> TypeAdapter[Any]:
    """Return the validator of one parameter's value."""
    field = parameters_of(trainable).model_fields.get(key)
    if field is None:
        return TypeAdapter(Any)
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return TypeAdapter(annotation, config=ConfigDict(strict=True))
