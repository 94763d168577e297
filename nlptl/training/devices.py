"""The device and the processes of a training, through Accelerate."""

import os
from collections.abc import Callable

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast, parse_flag_from_env
from torch.distributed import DistError

from nlptl.errors import ConfigError, UserError
from nlptl.training.peers import not_met, peer_timeout

KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Ways to use processes that average gradients over them, as the objective assumes."""
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or pipeline parallelism",
}
"""What `accelerate launch` sets to ask for a way to split the model over processes, and the name of that way."""


def processes() -> PartialState:
    """Return this process's device and its place among the others, as the launcher has started them.

    Raises:
        ConfigError: If the launcher has started several and Accelerate was told of one, or asks for the model to be
            split over processes.
        PeerLostError: If not all that the launcher has started come together.
    """
    for variable, name in REFUSED.items():
        if parse_flag_from_env(variable):
            raise _cannot_split(name)
    num_launched = int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.accelerator.current_accelerator()
    # Left to itself, Accelerate takes several processes without a device of their own for several runs of one.
    on_cpu = num_launched > 1 and (device is None or device.type == "mps")
    timeout = peer_timeout()
    try:
        state = PartialState(cpu=on_cpu or parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timeout)
    except DistError as error:
        raise not_met(num_launched) from error
    if state.num_processes != num_launched:
        raise ConfigError(
            f"Expected the {num_launched} processes that were launched, found {state.num_processes} in Accelerate's "
            "state. Create no Accelerator or PartialState before nlptl does."
        )
    return state


def open_accelerator(mixed_precision: str) -> Accelerator:
    """Return Accelerate's view of the device and the other processes.

    Raises:
        ConfigError: If the device lacks the precision, or a launcher has set what would change the gradient.
    """
    device = processes().device
    has_it = device.type == "cuda" and (mixed_precision == "fp16" or torch.cuda.is_bf16_supported())
    if mixed_precision != "no" and not has_it:
        found = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the device {device.type}"
        raise ConfigError(f"Expected a device with {mixed_precision}, found {found}. Pass --mixed-precision no.")
    launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched_with not in ("no", mixed_precision):
        raise ConfigError(
            f"Expected the precision as a setting of the run, found {launched_with} from the launcher and "
            f"mixed_precision={mixed_precision!r}. Pass --mixed-precision {launched_with} to the recipe, or drop it "
            "from the launcher."
        )
    try:
        accelerator = Accelerator(mixed_precision=mixed_precision)
    except ValueError as error:
        if "already been initialized" not in str(error):
            raise
        raise ConfigError(
            f"Expected one precision in a Python process, found mixed_precision={mixed_precision!r} after another one. "
            "Start a new process."
        ) from error
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            f"Expected no gradient accumulation from the launcher, found {accelerator.gradient_accumulation_steps} "
            "steps. Leave it out: --batch-size is the size of a step, and --micro-batch-tokens bounds the memory."
        )
    if accelerator.distributed_type not in KINDS:
        raise _cannot_split(accelerator.distributed_type.value)
    return accelerator


def on_main(action: Callable[[], bool | None]) -> bool:
    """Run `action` on the main process alone, and return what it returned, as a bool, on every process.

    Every process has to call this. An error of `action` stops all of them, so that none waits for a process that ended.

    Raises:
        UserError: On the other processes, of the kind and with the message that stopped the main process.
    """
    state = processes()
    error: Exception | None = None
    result = 0
    if state.is_main_process:
        try:
            result = int(bool(action()))
        except Exception as caught:
            error, result = caught, -(caught.exit_code if isinstance(caught, UserError) else UserError.exit_code)
    if state.num_processes > 1:
        result = int(broadcast(torch.tensor(result, device=state.device)))
        if result < 0:
            message = _broadcast_text(str(error), state)
    if error is not None:
        raise error
    if result < 0:
        kinds = {kind.exit_code: kind for kind in UserError.__subclasses__()}
        raise kinds.get(-result, UserError)(message)
    return bool(result)


def _cannot_split(name: str) -> ConfigError:
    return ConfigError(
        f"The launcher asks for {name}, but nlptl keeps the whole model on every process. Launch with torchrun or "
        "accelerate launch --multi_gpu. If the model does not fit, try --lora-rank 8, --freeze, "
        "--gradient-checkpointing or --mixed-precision bf16."
    )


def _broadcast_text(text: str, state: PartialState) -> str:
    content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=state.device)
    length = int(broadcast(torch.tensor(len(content), device=state.device)))
    if not state.is_main_process:
        content = torch.zeros(length, dtype=torch.uint8, device=state.device)
    return bytes(broadcast(content).tolist()).decode()
