"""A module, a loss and an optimiser as a step: against torch's own training loop, and against what
``sample_weight`` promises.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeadapt.errors import CompileError
from edgeadapt.host import gradient_step
from edgeadapt.host.compile import compile_step
from edgeadapt.host.steps.optimisers import SGD, Adam, AdamW, Momentum


class Plain:
    """Accumulated gradients (Duchi et al., JMLR 2011), with an ``update`` that knows nothing of
    ``live``.
    """

    def state(self, parameters):
        return {f"sum.{name}": torch.full_like(p, 0.1) for name, p in parameters.items()}

    def update(self, parameters, gradients, state, learning_rate):
        after = {
            f"sum.{name}": state[f"sum.{name}"] + g * g + 0.01 for name, g in gradients.items()
        }
        return {
            name: p - learning_rate * gradients[name] / after[f"sum.{name}"].sqrt()
            for name, p in parameters.items()
        }, after


def network(seed=0, norm=True):
    torch.manual_seed(seed)
    parts = [nn.Linear(6, 10), *([nn.BatchNorm1d(10)] if norm else []), nn.Tanh(), nn.Linear(10, 4)]
    return nn.Sequential(*parts).eval()


def each(logits, ports):
    return F.cross_entropy(logits, ports["y"], reduction="none")


def make_ports(generator, batch):
    return {
        "x": torch.randn(batch, 6, generator=generator),
        "y": torch.randint(0, 4, (batch,), generator=generator),
        "sample_weight": torch.ones(batch),
    }


def example(seed=0, batch=8):
    return make_ports(torch.Generator().manual_seed(seed), batch)


def follow(step, batches):
    """The tensors after these batches, and the losses."""
    tensors, losses = dict(step.tensors), []
    for ports in batches:
        outputs, new = step.fn(ports, tensors)
        tensors.update(new)
        losses.append(outputs["loss"])
    return tensors, losses


# -- the numbers -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(), lambda p: torch.optim.SGD(p, 0.1)),
        (Momentum(0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (Adam(), lambda p: torch.optim.Adam(p, 0.1, eps=1e-6)),
        (AdamW(0.05), lambda p: torch.optim.AdamW(p, 0.1, eps=1e-6, weight_decay=0.05)),
        (Plain(), None),
    ],
    ids=["SGD", "Momentum", "Adam", "AdamW", "own"],
)
def test_five_steps_are_those_of_torch(ours, theirs):
    module = network().double()  # in float32 the first steps of Adam are ill-conditioned
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batches = [
        {
            **example(seed),
            "x": example(seed)["x"].double(),
            "sample_weight": torch.linspace(0, 1.5, 8).double(),
        }
        for seed in range(5)
    ]
    tensors, losses = follow(gradient_step(module, each, ours, learning_rate=0.1), batches)
    # the module is only read
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    optimiser = (
        theirs(module.parameters())
        if theirs
        else torch.optim.Adagrad(module.parameters(), 0.1, initial_accumulator_value=0.1, eps=0)
    )
    for ports, loss in zip(batches, losses, strict=True):
        w = ports["sample_weight"]
        value = (w * each(module(ports["x"]), ports)).sum() / w.sum()
        optimiser.zero_grad()
        value.backward()
        if theirs is None:
            for state in optimiser.state.values():
                state["sum"] += 0.01
        optimiser.step()
        torch.testing.assert_close(loss, value.detach(), atol=2e-6, rtol=0)
    for name, value in module.named_parameters():
        torch.testing.assert_close(tensors[f"model.{name}"], value.detach(), atol=1e-6, rtol=0)


def test_without_weights_the_mean_is_plain_and_a_rate_can_be_a_port():
    ports = {key: value for key, value in example().items() if key != "sample_weight"}
    module = network()
    _, by_number = gradient_step(module, each, Adam(), learning_rate=0.25).fn(
        ports, gradient_step(module, each, Adam()).tensors
    )
    step = gradient_step(module, each, Adam(), learning_rate="rate")
    outputs, by_port = step.fn({**ports, "rate": torch.tensor(0.25)}, step.tensors)
    torch.testing.assert_close(outputs["loss"], each(module(ports["x"]), ports).mean().detach())
    assert all(torch.equal(by_port[name], by_number[name]) for name in by_number)


def test_a_scalar_loss_is_taken_as_it_is():
    ports = example()
    step = gradient_step(
        network(), lambda out, p: 3 * out.square().mean(), SGD(), learning_rate=0.1
    )
    torch.testing.assert_close(
        step.fn(ports, step.tensors)[0]["loss"], 3 * network()(ports["x"]).square().mean().detach()
    )


# -- sample_weight ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "optimiser", [SGD(), Momentum(), Adam(), AdamW(0.1), Plain()], ids=lambda o: type(o).__name__
)
def test_weights_of_0_change_nothing_bit_for_bit(optimiser):
    step = gradient_step(network(), each, optimiser, learning_rate=0.1)
    tensors, _ = follow(step, [example(1), example(2)])  # a state that has moved
    outputs, new = step.fn({**example(3), "sample_weight": torch.zeros(8)}, tensors)
    assert outputs["loss"] == 0 and set(new) == set(tensors) - set(step.frozen)
    assert all(torch.equal(value, tensors[name]) for name, value in new.items())


def test_a_sample_of_weight_0_may_contain_anything_and_a_weight_of_2_counts_twice():
    step = gradient_step(network(), each, SGD(), learning_rate=0.1)
    ports = {**example(batch=3), "sample_weight": torch.tensor([1.0, 0.0, 2.0])}
    garbage = {
        **ports,
        "x": ports["x"].clone(),
        "y": torch.tensor([ports["y"][0], (ports["y"][1] + 1) % 4, ports["y"][2]]),
    }
    garbage["x"][1] = 1e3
    rows = torch.tensor([0, 2, 2])
    repeated = {"x": ports["x"][rows], "y": ports["y"][rows], "sample_weight": torch.ones(3)}
    want = step.fn(ports, step.tensors)[1]
    for other in (garbage, repeated):
        for name, value in step.fn(other, step.tensors)[1].items():
            torch.testing.assert_close(value, want[name], atol=1e-7, rtol=1e-6)


def test_an_unweighted_scalar_loss_beside_weights_does_not_compile():
    step = gradient_step(
        network(), lambda out, p: F.cross_entropy(out, p["y"]), SGD(), learning_rate=0.1
    )
    with pytest.raises(CompileError, match="sample_weight is 0"):
        compile_step(
            "mean", step.fn, make_ports, step.tensors, frozen=step.frozen, dynamic_batch=False
        )


# -- what is trained -------------------------------------------------------------------------------
def test_patterns_choose_and_everything_else_is_frozen():
    module = network()
    buffers = {"model.1.running_mean", "model.1.running_var", "model.1.num_batches_tracked"}
    head = gradient_step(module, each, Momentum(), train=["3.*"])
    assert set(head.frozen) == buffers | {
        "model.0.weight",
        "model.0.bias",
        "model.1.weight",
        "model.1.bias",
    }
    assert {"momentum.model.3.weight", "momentum.model.3.bias"} == {
        name for name in head.tensors if name.startswith("momentum.")
    }
    assert set(
        gradient_step(module, each, SGD(), train=["*"], freeze=["*.bias"]).frozen
    ) == buffers | {"model.0.bias", "model.1.bias", "model.3.bias"}
    module[0].requires_grad_(False)
    assert (
        "model.0.weight" in gradient_step(module, each, SGD()).frozen
        and "model.3.weight" not in gradient_step(module, each, SGD()).frozen
    )
    assert "net.0.weight" in gradient_step(module, each, SGD(), train=["0.*"], prefix="net").tensors


def test_frozen_parameters_and_running_statistics_stay_and_others_move():
    step = gradient_step(network(), each, SGD(), learning_rate=0.1, train=["1.*", "3.weight"])
    _, new = step.fn(example(), step.tensors)
    assert set(new) == {"model.1.weight", "model.1.bias", "model.3.weight"}
    assert all(not torch.equal(value, step.tensors[name]) for name, value in new.items())


def test_tied_weights_are_one_tensor():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(6, 6, bias=False)
            self.decode = nn.Linear(6, 6, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x):
            return self.decode(torch.tanh(self.encode(x)))

    module = Tied()
    step = gradient_step(
        module, lambda out, p: (out - p["x"]).square().mean(1), SGD(), learning_rate=1.0
    )
    assert set(step.tensors) == {"model.encode.weight"}
    ports = {"x": example()["x"]}
    _, new = step.fn(ports, step.tensors)
    (module(ports["x"]) - ports["x"]).square().mean().backward()
    torch.testing.assert_close(
        new["model.encode.weight"], (module.encode.weight - module.encode.weight.grad).detach()
    )


# -- optimisers of torch ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (torch.optim.SGD, SGD()),
        (partial(torch.optim.SGD, momentum=0.8), Momentum(0.8)),
        (torch.optim.Adam, Adam()),
        (
            partial(torch.optim.AdamW, betas=(0.8, 0.9), weight_decay=0.1, eps=1e-5),
            AdamW(0.1, beta1=0.8, beta2=0.9, eps=1e-5),
        ),
    ],
    ids=["SGD", "SGD with momentum", "Adam", "AdamW"],
)
def test_a_class_of_torch_takes_the_steps_of_ours(given, ours):
    steps = [
        gradient_step(network(), each, optimiser, learning_rate=0.1) for optimiser in (given, ours)
    ]
    one, two = (follow(step, [example(1), example(2)])[0] for step in steps)
    assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


PARAMETERS = [nn.Parameter(torch.zeros(1))]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            torch.optim.SGD(PARAMETERS, lr=0.1, momentum=0.9),
            r"write Momentum\(0.9\) of edgeadapt.host.steps.optimisers, and learning_rate=0.1",
        ),
        (torch.optim.SGD(PARAMETERS, lr=0.5), r"write SGD\(\) of .* learning_rate=0.5"),
        (
            torch.optim.SGD(PARAMETERS, 0.1, weight_decay=0.1),
            "without weight_decay, which has no counterpart",
        ),
        (torch.optim.Adam(PARAMETERS), r"write Adam\(\*\(0.9, 0.999\)\)"),
        (torch.optim.AdamW(PARAMETERS), r"write AdamW\(0.01\)"),
        (torch.optim.RMSprop(PARAMETERS), "there are SGD, Momentum, Adam"),
        (torch.optim.Adagrad, "Adagrad has no counterpart; there are SGD, Momentum"),
        (partial(torch.optim.SGD, lr=0.1), r"learning_rate=0.1\)"),
        (partial(torch.optim.SGD, nesterov=True), "leave nesterov out"),
        (Momentum, r"is the class Momentum; give an object: Momentum\(...\)"),
        ("sgd", "optimiser is a str"),
    ],
    ids=lambda value: getattr(value, "__name__", None) or type(value).__name__,
)
def test_an_optimiser_that_no_graph_can_have_says_what_to_write(given, says):
    with pytest.raises(CompileError, match=says):
        gradient_step(network(), each, given)


# -- refusals --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train": ["head.*"]},
            r"no parameter is called 'head\.\*'; the module has: 0\.weight, 0\.bias",
        ),
        ({"freeze": ["4.*"]}, r"no parameter is called '4\.\*'"),
        ({"freeze": ["*"]}, "no parameter is left to train"),
    ],
)
def test_patterns_that_name_nothing_are_refused(settings, message):
    with pytest.raises(CompileError, match=message):
        gradient_step(network(), each, Momentum(), **settings)


def test_an_optimiser_that_takes_a_name_of_the_module_is_refused():
    class Clashing(Plain):
        def state(self, parameters):
            return {"model.0.weight": torch.zeros(1)}

    with pytest.raises(
        CompileError, match=r"'model\.0\.weight' is a tensor of the module and of the optimiser"
    ):
        gradient_step(network(), each, Clashing())


@pytest.mark.parametrize(
    "part", [nn.BatchNorm1d(10), nn.Dropout(0.5)], ids=lambda part: type(part).__name__
)
def test_training_mode_that_no_graph_can_have_is_refused(part):
    module = nn.Sequential(nn.Linear(6, 10), part, nn.Linear(10, 4))
    with pytest.raises(
        CompileError, match=rf"1 \({type(part).__name__}\) is in train\(\) mode: .*call eval\(\)"
    ):
        gradient_step(module, each, SGD())
    step = gradient_step(module.eval(), each, SGD(), learning_rate=0.1)
    assert step.fn(example(), step.tensors)[1]
    module.train()
    with pytest.raises(CompileError, match=r"is in train\(\) mode"):
        step.fn(example(), step.tensors)


def test_missing_ports_and_losses_of_another_shape_are_named():
    ports = example()
    with pytest.raises(
        CompileError, match="no port 'learning_rate'; its ports: x, y, sample_weight"
    ):
        gradient_step(network(), each, SGD()).fn(
            ports, gradient_step(network(), each, SGD()).tensors
        )
    step = gradient_step(network(), each, SGD(), learning_rate=0.1, inputs=["image"])
    with pytest.raises(CompileError, match="no port 'image'"):
        step.fn(ports, step.tensors)
    step = gradient_step(network(), lambda out, p: out, SGD(), learning_rate=0.1)
    with pytest.raises(CompileError, match=r"the loss has shape \[8, 4\]"):
        step.fn(ports, step.tensors)


# -- compiled --------------------------------------------------------------------------------------
def test_it_compiles_with_a_free_batch_an_output_of_its_own_and_another_name_for_the_loss():
    step = gradient_step(
        network(),
        each,
        Plain(),
        learning_rate=0.1,
        train=["1.*", "3.*"],
        loss_name="surprise",
        outputs=lambda out, p: {"logits": out},
    )
    graph = compile_step("own", step.fn, make_ports, step.tensors, frozen=step.frozen)
    assert [(port.name, port.shape) for port in graph.outputs] == [
        ("surprise", ()),
        ("logits", (None, 4)),
    ]
    assert set(graph.writes) == set(step.tensors) - set(step.frozen) and set(graph.frozen) < set(
        step.frozen
    )
    assert graph.parity.cases >= 18 and graph.parity.worst_error <= 1e-4
