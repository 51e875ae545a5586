"""Training of student and learn-to-weight on one device or several, by Lightning."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from D24FADLib.errors import Cancelled, InputError
from D24FADLib.inference.comparison import Evidence
from D24FADLib.network.checkpoints import read_torch_file
from D24FADLib.network.model import D24FADModel
from D24FADLib.training.cache import DEFAULT_CACHE
from D24FADLib.training.dataset import Episodes, implanted
from D24FADLib.training.episodes import split
from D24FADLib.training.features import cached_teacher_features
from D24FADLib.training.images import ImageSet
from D24FADLib.training.options import Engine, TrainingOptions
from D24FADLib.training.validation import make_cases

if TYPE_CHECKING:
    import pytorch_lightning as lightning

    from D24FADLib.training.distillation import CurvePoint

LAST, BEST = "last.ckpt", "best.ckpt"
# Options that a resumed training may change.
_FREE = {"steps", "epochs", "patience", "keep"}


@dataclass(frozen=True)
class Trained:
    """The curve, the step whose weights the model now has, and whether this is the process that writes."""

    curve: list[CurvePoint]
    step: int
    writes: bool


def train(
    model: D24FADModel,
    sets: Sequence[ImageSet],
    options: TrainingOptions,
    state: Path,
    *,
    teacher_sha256: str,
    engine: Engine | None = None,
    evidence: Evidence | None = None,
    cache: Path = DEFAULT_CACHE,
    resume: bool = False,
    on_point: Callable[[CurvePoint], Any] | None = None,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Trained:
    """Train student and learn-to-weight in place.

    sets: normals, one set for each task and input size. state: folder of the checkpoints, from which
    `resume` goes on; bit for bit on a CPU. The held-out normals of every task judge each `validate_every`
    steps, with synthetic anomalies (`training.validation`); the best step's weights are kept where the
    options say so. Raises InputError where there is nothing to resume or it was trained otherwise, and
    Cancelled when interrupted; the state then allows to resume.
    """
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

    from D24FADLib.training.distillation import Distillation

    engine, evidence = engine or Engine(), evidence or Evidence(student=1.0)
    torch.manual_seed(options.seed)
    identity = {"options": asdict(options), "data": _data_identity(sets, teacher_sha256)}
    if resume:
        _check_resumable(state / LAST, identity)
    parts = split(sets, options.held_out, options.seed)
    training, held_out = [p[0] for p in parts], [p[1] for p in parts]
    steps = options.total_steps(sum(len(pool) for pool in training))
    episodes = _episodes(model, sets, training, options, teacher_sha256, cache, engine, progress)
    cases = make_cases(
        model.teacher, sets, held_out, options, evidence, _device(engine),
        lambda done, total: progress("validation", done, total),
    )  # fmt: skip
    module = Distillation(model, options, steps, episodes, cases, evidence, engine.workers, on_point)
    # The last one by a callback of its own: `save_last` follows the best one and would stay behind with it.
    every: dict[str, Any] = {
        "dirpath": state, "enable_version_counter": False, "save_on_train_epoch_end": True
    }  # fmt: skip
    callbacks: list[lightning.Callback] = [
        ModelCheckpoint(filename=Path(BEST).stem, monitor="score", mode="max", save_top_k=1, **every),
        ModelCheckpoint(filename=Path(LAST).stem, save_top_k=1, **every),
        _progress_callback(steps, progress, identity),
    ]
    if options.patience is not None:
        callbacks.append(
            EarlyStopping("score", mode="max", patience=options.patience, check_on_train_epoch_end=True)
        )
    with _quiet():
        trainer = lightning.Trainer(
            accelerator=engine.accelerator,
            devices=engine.devices,
            num_nodes=engine.nodes,
            strategy="ddp" if engine.devices * engine.nodes > 1 else "auto",
            max_epochs=-(-steps // options.validate_every),
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            callbacks=callbacks,
            default_root_dir=state,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(module, ckpt_path=str(state / LAST) if resume else None, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C and SIGTERM
            raise Cancelled("training was interrupted") from None
    step = _restore(model, state, module.global_step, options)
    model.cpu().eval()
    return Trained(module.curve, step, trainer.is_global_zero)


def _episodes(
    model: D24FADModel,
    sets: Sequence[ImageSet],
    pools: Sequence[Sequence[int]],
    options: TrainingOptions,
    teacher_sha256: str,
    cache: Path,
    engine: Engine,
    progress: Callable[[str, int, int], None],
) -> Episodes:
    """Episodes over images where the teacher has to run in the loop, else over its kept features."""
    images = list(sets)
    pools = list(pools)
    if options.mirrored:
        images += [data.mirrored() for data in sets]
        pools += pools
    if options.augment:
        return Episodes(images, pools, options)

    def features(wanted: Sequence[ImageSet]) -> list[Any]:
        made = []
        for number, data in enumerate(wanted):
            progress("features", number, len(wanted))
            made.append(
                cached_teacher_features(model.teacher, teacher_sha256, data, cache, device=_device(engine))
            )
        progress("features", len(wanted), len(wanted))
        return made

    anomalous = None
    if options.bad_support_probability:
        anomalous = features([implanted(data, options.seed + n)[0] for n, data in enumerate(images)])
    return Episodes(features(images), pools, options, anomalous)


def _device(engine: Engine) -> torch.device:
    """Where the teacher prepares features, before Lightning has chosen the devices to train on."""
    if engine.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _data_identity(sets: Sequence[ImageSet], teacher_sha256: str) -> str:
    return hashlib.sha256(
        " ".join([teacher_sha256, *(data.fingerprint() for data in sets)]).encode()
    ).hexdigest()


def _check_resumable(checkpoint: Path, identity: dict[str, Any]) -> None:
    if not checkpoint.is_file():
        raise InputError(
            f"{checkpoint.parent.parent.name}: no training to resume, {checkpoint.name} is missing; "
            "start without --resume"
        )
    stored = read_torch_file(checkpoint)["identity"]
    if stored["data"] != identity["data"]:
        raise InputError(
            "--resume: the training images or the teacher are not those of the interrupted training"
        )
    changed = [
        name
        for name, value in identity["options"].items()
        if name not in _FREE and stored["options"].get(name) != value
    ]
    if changed:
        raise InputError(
            f"--resume: {', '.join(changed)} differ from the interrupted training; give the same options"
        )


def _progress_callback(
    steps: int, progress: Callable[[str, int, int], None], identity: dict[str, Any]
) -> lightning.Callback:
    import pytorch_lightning as lightning

    class Progress(lightning.Callback):
        """Tells the steps, and stores in every checkpoint what was trained with what."""

        def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
            if trainer.is_global_zero:
                progress("train", trainer.global_step, steps)

        def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
            checkpoint["identity"] = identity

    return Progress()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's hints on loaders, tips and hardware are not for our users."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)


def _restore(model: D24FADModel, state: Path, last: int, options: TrainingOptions) -> int:
    """Give the model the weights that the options want to keep; the step they are from."""
    if options.keep != "best":
        return last
    checkpoint = read_torch_file(state / BEST)
    weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    missing = set(model.state_dict()) - set(weights)
    assert all(name.startswith("teacher.") for name in missing)
    model.load_state_dict(weights, strict=False)
    return int(checkpoint["global_step"])
