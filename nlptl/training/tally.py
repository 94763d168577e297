"""Sums up over the stages of a training what was measured in its last one."""

import psutil
from accelerate import Accelerator
from torch import nn

from nlptl.config import TrainingConfig
from nlptl.model.classifier import Classifier
from nlptl.model.freezing import is_adapter
from nlptl.model.inference import tokens_at_once
from nlptl.training.boundary import MEMORY_SHARE, cut_depth
from nlptl.training.cache import FeatureCache
from nlptl.training.encoding import LARGE_BYTES, is_encoded
from nlptl.training.inputs import Inputs
from nlptl.training.probe import memory_in_use, plan_work, run_probe, time_encoding
from nlptl.training.stages import Stage

HEAD_STEP_SECONDS = 1e-3
"""What a step of the head alone takes, about."""
GROWTH_BYTES = 80_000_000
"""What a process grows by in training beside what is counted, as measured: holes in its heap, code that is read."""
TOKENIZER_BYTES = 5_000_000
"""What stands beside the weights in a model folder, about."""


class Tally:
    """Memory, time and disk space of a training.

    The model is left as it is set for the last stage, in which all that ever trains does.
    """

    def __init__(
        self,
        model: Classifier,
        config: TrainingConfig,
        stages: list[Stage],
        splits: list[Inputs],
        accelerator: Accelerator,
        cache: FeatureCache | None,
        *,
        first_step: int,
    ) -> None:
        self.model, self.config, self.stages, self.splits = model, config, stages, splits
        self.accelerator, self.cache, self.first_step = accelerator, cache, first_step
        self.is_on_cpu = accelerator.device.type == "cpu"
        self.steps_per_epoch = -(-len(splits[0]) // config.batch_size)
        self.trained = _trained_bytes(model.network)
        self.in_use, self.uncached, self.tokens_per_step = 0, 0, 0.0
        # Seconds of one token in one layer, and bytes of one layer.
        self.encoding = self.forward = self.backward = self.activations = 0.0

    def measure(self, *, seed: int, max_tokens: int, encoder_sha256: str) -> None:
        """Run a micro-batch of the last stage, or a batch of the frozen encoder where the head alone trains."""
        model, config, accelerator = self.model, self.config, self.accelerator
        num_layers = model.parts.num_layers
        starts_with_head = any(stage.top == 0 for stage in self.stages) and not model.pools_by_learning
        if model.features_are_constant or starts_with_head:
            missing = [
                split
                for split in self.splits
                if not is_encoded(model, split, accelerator, cache=self.cache, encoder_sha256=encoder_sha256)
            ]
            self.uncached = sum(len(split.tokens.ids) for split in missing)
        if model.features_are_constant:
            self.in_use = memory_in_use(accelerator.device)
            if missing:
                self.encoding = time_encoding(model, missing[0], accelerator) / num_layers
            return
        depth, trained = self._depth(self.stages[-1]), self._num_layers_trained()
        num_passes = 2 if config.r_drop > 0 else 1
        work = plan_work(
            self.splits[0],
            config.batch_size,
            seed=seed,
            max_tokens=max_tokens // num_passes,
            num_processes=accelerator.num_processes,
        )
        probe = run_probe(
            model,
            self.splits[0],
            work,
            accelerator,
            depth=depth,
            num_passes=num_passes,
        )
        self.in_use = probe.in_use
        self.activations = probe.activations / trained
        self.tokens_per_step = work.tokens_per_step * num_passes
        self.forward = probe.forward / num_passes / max(1, num_layers - depth)
        self.backward = probe.backward / num_passes / trained
        self.encoding = probe.below / depth if depth else self.forward

    def of_all_stages(self) -> tuple[dict[str, int], float]:
        """Return the memory of the stage that takes most, by what it is for, and the seconds of all stages."""
        model, transfer = self.model, self.model.transfer
        is_kept = self.cache is not None or not self.stages
        memories, seconds = [], self._encoding_seconds(self.uncached) if is_kept else 0.0  # once for all stages
        try:
            for stage in self.stages or [Stage(0, 0, None)]:
                model.freeze(transfer.freeze, train_only=transfer.train_only, top=stage.top)
                memories.append(self._memory(stage))
                seconds += self._seconds(stage)
        finally:
            top = self.stages[-1].top if self.stages else None
            model.freeze(transfer.freeze, train_only=transfer.train_only, top=top)
        return max(memories, key=lambda memory: sum(memory.values())), seconds

    def num_steps(self, stage: Stage) -> int:
        """Return how many steps of a stage are still to be taken."""
        first = stage.first_epoch * self.steps_per_epoch
        end = first + stage.num_epochs * self.steps_per_epoch
        return max(0, end - max(first, self.first_step))

    def disk(self) -> int:
        """Return the bytes of the checkpoints that are kept, of the one that is written, and of the model."""
        config, network = self.config, self.model.network
        every = min(config.eval_steps or self.steps_per_epoch, config.save_steps or self.steps_per_epoch)
        num_saved = sum(-(-self.num_steps(stage) // every) for stage in self.stages)
        num_kept = min(num_saved, config.keep_last + 1)  # the best one too
        model: int = sum(p.nbytes for name, p in network.named_parameters() if not is_adapter(name))
        adapter = self.trained if self.model.has_adapters else 0
        return (num_kept + bool(num_kept)) * self._checkpoint() + model + adapter + TOKENIZER_BYTES

    def _seconds(self, stage: Stage) -> float:
        num_steps, num_layers = self.num_steps(stage), self.model.parts.num_layers
        num_evaluations = -(-num_steps // (self.config.eval_steps or self.steps_per_epoch))
        lengths = [len(split.tokens.ids) for split in self.splits]
        if self.model.features_are_constant:
            tokens = num_steps / self.steps_per_epoch * lengths[0] + num_evaluations * sum(lengths[1:])
            in_every_pass = self._encoding_seconds(tokens) if self.cache is None else 0.0
            return num_steps * HEAD_STEP_SECONDS + in_every_pass
        depth = self._depth(stage)
        forward = (num_layers - depth) * self.forward
        step = self.tokens_per_step * (forward + self._num_layers_trained() * self.backward)
        num_processes: int = self.accelerator.num_processes
        once = depth * self.encoding * sum(lengths) / num_processes if num_steps else 0.0
        return once + num_steps * step + num_evaluations * sum(lengths[1:]) / num_processes * forward

    def _encoding_seconds(self, num_tokens: float) -> float:
        """Return how long all layers of the frozen encoder take for so many tokens, over all processes."""
        num_processes: int = self.accelerator.num_processes
        return num_tokens / num_processes * self.model.parts.num_layers * self.encoding

    def _memory(self, stage: Stage) -> dict[str, int]:
        network = self.model.network
        weights, trained = sum(p.nbytes for p in network.parameters()), _trained_bytes(network)
        optimizer = trained * self._state_size() if self.stages else 0
        activations = 0.0 if self.model.features_are_constant else self.activations * self._num_layers_trained()
        # DistributedDataParallel sends gradients from copies.
        num_gradients = (1 if self.accelerator.num_processes == 1 else 2) if self.stages else 0
        return {
            "weights": weights,
            "gradients": trained * num_gradients,
            "optimizer": optimizer,
            "copies": self._copies(),
            "features": self._features(stage),
            "activations": int(max(activations, self._inference())),
            # The largest of its files is there twice while it is made.
            "checkpoint": self._checkpoint() + optimizer if self.is_on_cpu else 0,
            "the program": max(0, self.in_use - weights) + (GROWTH_BYTES if self.is_on_cpu else 0),
        }

    def _copies(self) -> int:
        """Return the bytes of the weights that are there beside those of the model."""
        config, network = self.config, self.model.network
        copies = self.trained if config.ema_decay is not None else 0
        if config.wise_ft is not None:
            named = network.named_parameters()
            copies += sum(p.nbytes for name, p in named if p.requires_grad and name in self.model.pretrained_names)
        if self.is_on_cpu and len(self.splits) > 1 and self.stages:
            copies += self.trained  # the best ones so far
        return copies

    def _features(self, stage: Stage) -> int:
        """Return the bytes of what is computed once, as far as the device holds it."""
        width = int(self.model.network.base_model.config.hidden_size)
        if self.model.features_are_constant:
            num_read = self.model.head.layers if isinstance(self.model.head.layers, int) else 1
            sizes = [len(split) * num_read * width * 4 for split in self.splits]
            return sum(size for size in sizes if size <= LARGE_BYTES or not self.is_on_cpu)
        if not (self.is_on_cpu and self.accelerator.num_processes == 1 and self._depth(stage)):
            return 0
        itemsize = 2 if self.config.cache_dtype == "float16" else 4
        size = sum(len(split.tokens.ids) for split in self.splits) * width * itemsize
        return size if size <= MEMORY_SHARE * psutil.virtual_memory().available else 0

    def _inference(self) -> float:
        """Return the bytes of a pass without gradients over as many tokens as an evaluation runs at once, about."""
        width = int(self.model.network.base_model.config.hidden_size)
        longest = max(int(split.tokens.lengths.max()) for split in self.splits)  # of which one is run at least
        limit = max(longest, tokens_at_once(self.accelerator.device))
        num_tokens = min(limit, max(len(split.tokens.ids) for split in self.splits))
        # Besides some hidden states, the widest layer's input and output, four times as wide.
        return num_tokens * 14 * width * (4 if self.accelerator.mixed_precision == "no" else 2)

    def _checkpoint(self) -> int:
        if not self.stages:
            return 0
        return self.trained * (1 + self._state_size() + (self.config.ema_decay is not None))

    def _state_size(self) -> int:
        """Return how many numbers the optimizer keeps for each one that trains."""
        return 1 if self.config.optimizer == "sgd" else 2

    def _depth(self, stage: Stage) -> int:
        return 0 if self.cache is None else cut_depth(self.model, num_passes=stage.num_epochs)

    def _num_layers_trained(self) -> int:
        """Return how many layers a backward pass goes through."""
        return max(1, self.model.parts.num_layers - self.model.num_frozen_layers)


def _trained_bytes(network: nn.Module) -> int:
    return sum(p.nbytes for p in network.parameters() if p.requires_grad)
