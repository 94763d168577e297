"""What is taken of a launcher's options for FSDP, and what is refused. Processes: tests/invariants/test_sharding.py."""

from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from nlptl import Classifier, ConfigError
from nlptl.training.sharding import check_sharding, read_plugin
from nlptl.training.stages import Stage


@pytest.fixture
def accelerator_with(monkeypatch):
    """Return a function that gives what Accelerate makes of variables that a launcher has set."""

    def build(kind=DistributedType.FSDP, *, parallelism=None, **variables):
        for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **variables}.items():
            monkeypatch.setenv(name, value)
        state = SimpleNamespace(distributed_type=kind)
        if kind == DistributedType.FSDP:
            state.fsdp_plugin = FullyShardedDataParallelPlugin()
        return SimpleNamespace(state=state, distributed_type=kind, parallelism_config=parallelism)

    return build


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"FSDP_VERSION": "1"}, r"found fsdp_version 1\."),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, r"found fsdp_offload_params\."),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, r"found fsdp_activation_checkpointing\."),
        ({"FSDP_IGNORED_MODULES": ".*pooler"}, r"found fsdp_ignored_modules\."),
        ({"FSDP_AUTO_WRAP_POLICY": "NO_WRAP"}, r"found fsdp_auto_wrap_policy NO_WRAP\."),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, r"found fsdp_auto_wrap_policy SIZE_BASED_WRAP\."),
        ({"FSDP_VERSION": "1", "FSDP_IGNORED_MODULES": "x"}, r"found fsdp_version 1, fsdp_ignored_modules\."),
    ],
    ids=str,
)
def test_options_that_would_not_be_obeyed(variables, found, accelerator_with):
    with pytest.raises(ConfigError, match=f"Expected fsdp_version 2 .*{found} Set the first two"):
        read_plugin(accelerator_with(**variables))


def test_other_ways_to_share_weights(accelerator_with):
    with pytest.raises(ConfigError, match=r"found use_parallelism_config\. Set the first"):
        read_plugin(accelerator_with(parallelism=object()))


def test_options_that_are_obeyed(accelerator_with):
    variables = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_RESHARD_AFTER_FORWARD": "false"}
    accelerator = accelerator_with(**variables, FSDP_STATE_DICT_TYPE="FULL_STATE_DICT")
    read_plugin(accelerator)
    assert not accelerator.state.fsdp_plugin.reshard_after_forward


@pytest.mark.parametrize(
    ("names", "stages", "found"),
    [
        (
            "BertLayer",
            [Stage(0, 1, 0), Stage(1, 2, None)],
            r"Expected one stage .* found 2\. Leave --warm-head-epochs and",
        ),
        (
            "BertPooler,BertLayer",
            [Stage(0, 3, None)],
            r"Expected BertLayer, .* found BertLayer, BertPooler\. Leave it out",
        ),
    ],
)
def test_what_cannot_be_sharded(names, stages, found, accelerator_with, tiny_bert):
    variables = {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_TRANSFORMER_CLS_TO_WRAP": names}
    accelerator = accelerator_with(**variables)
    accelerator.is_fsdp2 = True
    model = Classifier.from_pretrained(tiny_bert, labels=("a", "b"))
    with pytest.raises(ConfigError, match=found):
        check_sharding(model, accelerator, stages)
    accelerator.is_fsdp2 = False
    check_sharding(model, accelerator, stages)


def test_checkpoints_of_gradients_are_refused_where_weights_are_sharded(accelerator_with, tiny_bert):
    accelerator = accelerator_with()
    model = Classifier.from_pretrained(tiny_bert, labels=("a", "b"))
    model.checkpoint_gradients(True)
    accelerator.is_fsdp2 = False
    check_sharding(model, accelerator, [Stage(0, 1, None)])
    accelerator.is_fsdp2 = True
    with pytest.raises(ConfigError, match=r"under FSDP2, found gradient_checkpointing\. Leave --grad"):
        check_sharding(model, accelerator, [Stage(0, 1, None)])
