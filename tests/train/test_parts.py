"""The loop's parts: margin softmax, schedules, optimizer groups, averages, checkpoints, batch norm."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svq.files import fingerprint
from svq.distill.config import DistillConfig
from svq.distill.objective import EmbeddingObjective, Teacher, soft_label_loss
from svq.errors import UserError
from svq.nets import build
from svq.quant import QuantConfig, quantize_
from svq.train.arithmetic import low_precision, memory_format
from svq.train.checkpoint import RunningAverage, load_checkpoint, save_checkpoint
from svq.train.distributed import GlobalBatchNorm, World, join_world, place, synchronize_batch_norm
from svq.train.curves import Curves
from svq.train.objective import AAMSoftmax, Objective
from svq.train.config import OptimizerConfig, ScheduleConfig
from svq.train.optimizer import learning_rate, make_optimizer, load_optimizer, margin, set_learning_rate


def slow_logits(embeddings, weight, labels, scale, margin):
    """ArcFace by its angles, one number at a time in float64."""
    out = np.empty((len(embeddings), len(weight)))
    for i, e in enumerate(embeddings):
        for j, w in enumerate(weight):
            theta = math.acos(max(-1.0, min(1.0, float(e @ w) / math.sqrt(float(e @ e) * float(w @ w)))))
            if j != labels[i]:
                value = math.cos(theta)
            elif theta + margin <= math.pi:
                value = math.cos(theta + margin)
            else:
                value = math.cos(theta) - margin * math.sin(margin)
            out[i, j] = scale * value
    return out


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.2, 0.5])
def test_margin_softmax_against_angles(margin):
    torch.manual_seed(0)
    head = AAMSoftmax(6, 5, scale=32.0)
    embeddings, labels = 3 * torch.randn(40, 6), torch.arange(40) % 5
    with torch.no_grad():
        for i in range(10):  # nearly opposite to their class: theta + margin beyond pi
            embeddings[i] = -head.weight[labels[i]] + 0.02 * torch.randn(6)
    cosine = F.cosine_similarity(embeddings, head.weight[labels])
    if margin:
        assert (torch.acos(cosine) + margin > math.pi).sum() >= 5 and (torch.acos(cosine) + margin < math.pi).sum() > 20
    expected = slow_logits(embeddings.numpy().astype(float), head.weight.detach().numpy().astype(float),
                           labels.tolist(), 32.0, margin)
    np.testing.assert_allclose(head(embeddings, labels, margin).detach().numpy(), expected, atol=2e-4)


def test_margin_zero_is_the_scaled_cosine():
    head = AAMSoftmax(6, 5, scale=10.0)
    embeddings = torch.randn(7, 6)
    expected = 10 * F.cosine_similarity(embeddings[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(embeddings, torch.zeros(7, dtype=torch.long)), expected)


def test_target_logit_falls_with_the_angle_and_gradients_are_finite_at_the_poles():
    head = AAMSoftmax(2, 1, scale=1.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0]]))
    theta = torch.linspace(0, math.pi, 500)
    embeddings = torch.stack([theta.cos(), theta.sin()], 1).requires_grad_()
    logits = head(embeddings, torch.zeros(500, dtype=torch.long), 0.2)[:, 0]
    # One step up is allowed: where the linear branch takes over it lies higher than cos(pi).
    assert (torch.diff(logits) > 1e-6).sum() <= 1
    logits.sum().backward()
    assert embeddings.grad.isfinite().all() and head.weight.grad.isfinite().all()


def test_objective_keeps_cosines_in_float32_under_autocast():
    torch.manual_seed(0)
    net = nn.Identity()
    objective = Objective(net, AAMSoftmax(16, 9))
    feats, labels = torch.randn(8, 16), torch.arange(8)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective(feats, labels, 0.2)
    torch.testing.assert_close(loss, objective(feats, labels, 0.2)[0], rtol=0, atol=0)


schedules = st.builds(ScheduleConfig, lr=st.floats(1e-2, 1), final_lr=st.floats(1e-6, 1e-2),
                      warmup_epochs=st.floats(0, 5), decay=st.sampled_from(["exponential", "cosine"]))


@given(schedules, st.integers(1, 50), st.integers(6, 20))
def test_learning_rate_begins_and_ends_as_configured(config, steps, epochs):
    total = steps * epochs
    rates = [learning_rate(config, step, steps, epochs) for step in range(total)]
    assert math.isclose(rates[-1], config.final_lr, rel_tol=1e-9) or total == 1
    warmup = config.warmup_epochs * steps
    assert math.isclose(rates[0], config.lr * min(1, 1 / warmup) if warmup else config.lr, rel_tol=1e-9)
    assert all(0 < rate <= config.lr for rate in rates)
    after = rates[math.ceil(warmup):]
    assert all(a >= b * (1 - 1e-12) for a, b in zip(after, after[1:]))


def test_exponential_decay_is_a_constant_factor_and_cosine_has_its_middle_half_way():
    config = ScheduleConfig(lr=0.1, final_lr=0.001, warmup_epochs=0)
    rates = [learning_rate(config, step, 10, 3) for step in range(30)]
    np.testing.assert_allclose(np.diff(np.log(rates)), math.log(0.01) / 29)
    config = ScheduleConfig(lr=0.1, final_lr=0.001, warmup_epochs=0, decay="cosine")
    assert math.isclose(learning_rate(config, 15, 31, 1), (0.1 + 0.001) / 2)


def test_warm_up_grows_linearly():
    config = ScheduleConfig(lr=0.1, final_lr=0.1, warmup_epochs=2)
    rates = [learning_rate(config, step, 5, 4) for step in range(20)]
    np.testing.assert_allclose(rates, [0.1 * min(1, (step + 1) / 10) for step in range(20)])


def test_margin_schedule():
    config = ScheduleConfig(margin=0.2, margin_start_epoch=2, margin_full_epoch=4)
    values = [margin(config, step, 10) for step in range(60)]
    np.testing.assert_allclose(values, np.clip((np.arange(60) - 20) / 20, 0, 1) * 0.2)
    at_once = ScheduleConfig(margin=0.2, margin_start_epoch=0, margin_full_epoch=0)
    assert margin(at_once, 0, 10) == 0.2


def test_optimizer_groups():
    net = quantize_(build("ResNet18", 24, 8, width=4), QuantConfig(bits=4))
    module = Objective(net, AAMSoftmax(8, 3))
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.1, scale_lr=0.25), module)
    set_learning_rate(optimizer, 2.0)
    settings = {}
    for group in optimizer.param_groups:
        settings.update({id(p): (group["lr"], group["weight_decay"]) for p in group["params"]})
    for name, parameter in module.named_parameters():
        kind = (0.5, 0.0) if name.endswith("alpha") else (2.0, 0.1) if parameter.dim() > 1 else (2.0, 0.0)
        assert settings.pop(id(parameter)) == kind, name
    assert not settings
    assert type(make_optimizer(OptimizerConfig(name="adamw"), module)) is torch.optim.AdamW


def test_running_average():
    rng = np.random.default_rng(0)
    states = [{"w": torch.tensor(rng.normal(size=5), dtype=torch.float32), "n": torch.tensor(i)} for i in range(4)]
    average = RunningAverage()
    with pytest.raises(UserError, match="no checkpoint to average yet"):
        average.mean()
    for i, state in enumerate(states):
        average.add(state)
        if i == 1:  # stopped and resumed
            average = RunningAverage(**average.state())
    expected = np.mean([state["w"].double().numpy() for state in states], axis=0)
    np.testing.assert_allclose(average.mean()["w"].numpy(), expected, rtol=1e-7)
    assert average.mean()["n"] == 3 and average.mean()["w"].dtype == torch.float32
    np.testing.assert_array_equal(states[0]["w"].numpy(), states[0]["w"].float().numpy())


def test_average_of_equal_weights_is_exact():
    average, levels = RunningAverage(), torch.tensor([0.1, -1 / 3, 1e-30])
    for _ in range(7):
        average.add({"levels": levels})
    assert torch.equal(average.mean()["levels"], levels)


def test_checkpoints_hold_data_only(tmp_path):
    path = tmp_path / "deep" / "last.pt"
    assert load_checkpoint(path) is None
    state = {"run_id": "a", "step": 3, "t": torch.arange(3.0), "rng": torch.get_rng_state(), "l": [1, [2.5, None]]}
    save_checkpoint(path, state)
    read = load_checkpoint(path)
    assert read.keys() == state.keys() and torch.equal(read["t"], state["t"]) and read["l"] == state["l"]


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("content", ["empty", "text", "cut", "evil", "other"])
def test_other_files_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "last.pt"
    torch.save({"evil": {"run_id": "a", "x": Evil()}, "other": {"step": 1}}.get(content, {"run_id": torch.ones(99)}), path)
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello\n", "cut": data[:len(data) // 2]}.get(content, data))
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert "not a checkpoint of ours" in message and "remove it to start anew" in message and "\n" not in message


def test_fingerprint(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_text("a b\n")
    first = fingerprint({"x": 1, "y": 2}, ("file", path))
    assert first == fingerprint({"y": 2, "x": 1}, ("file", path))
    assert first != fingerprint({"x": 1, "y": 3}, ("file", path))
    path.write_text("a c\n")
    assert first != fingerprint({"x": 1, "y": 2}, ("file", path))


def test_curves(tmp_path):
    curves = Curves(tmp_path / "curves.csv", every=2)
    for step, (loss, correct) in enumerate([(4.0, 1), (2.0, 3), (1.0, 4)], 1):
        curves.add(step, step / 2, 0.1, 0.0, loss, correct, 4)
        if step == 1:
            curves = Curves(tmp_path / "curves.csv", 2, **curves.state())
    curves.write()
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,lr,margin,loss,accuracy" and lines[1:] == ["2,1,0.1,0,3,0.5"]


@pytest.fixture
def alone(tmp_path):
    """A process group of one, so that the collective code runs inside the test."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape, more", [
    ((6, 5, 7, 4), {}), ((6, 5, 9), {}), ((6, 5), {}), ((6, 5), {"affine": False}), ((6, 5, 9), {"momentum": None}),
    ((6, 5), {"track_running_stats": False})])
def test_global_batch_norm_is_batch_norm(alone, shape, more):
    torch.manual_seed(0)
    kind = {4: nn.BatchNorm2d, 3: nn.BatchNorm1d, 2: nn.BatchNorm1d}[len(shape)]
    net = nn.Sequential(kind(5, **more))
    if net[0].affine:
        nn.init.uniform_(net[0].weight)
        nn.init.normal_(net[0].bias)
    other = nn.Sequential(kind(5, **more))
    other.load_state_dict(net.state_dict())
    synchronize_batch_norm(other, World(0, 2))
    assert type(other[0]) is GlobalBatchNorm
    for _ in range(3):
        x = 100 + 3 * torch.randn(shape)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        grad = torch.randn(shape)
        net(a).backward(grad)
        other(b).backward(grad)
        torch.testing.assert_close(other(x), net(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4)
    for (name, p), (_, q) in zip(net.named_parameters(), other.named_parameters()):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-4, msg=name)
    for (name, p), (_, q) in zip(net.named_buffers(), other.named_buffers()):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-5, msg=name)
    torch.testing.assert_close(other.eval()(x), net.eval()(x))


def test_one_process_keeps_torchs_batch_norm():
    net = nn.Sequential(nn.BatchNorm2d(3))
    assert type(synchronize_batch_norm(net, World())[0]) is nn.BatchNorm2d


def test_distillation_loss_is_one_minus_cosine_through_a_learned_map():
    torch.manual_seed(0)
    same = EmbeddingObjective(6, 6)
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    assert not list(same.parameters())
    torch.testing.assert_close(same(x, y), 1 - F.cosine_similarity(x, y).mean())
    torch.testing.assert_close(same(3 * y, y), torch.tensor(0.0))
    unlike = EmbeddingObjective(4, 6)
    x = torch.randn(5, 4)
    torch.testing.assert_close(unlike(x, y), 1 - F.cosine_similarity(x @ unlike.projection.weight.T, y).mean())
    objective = Objective(nn.Identity(), AAMSoftmax(4, 3), DistillConfig(2.0, 0.5), unlike)
    labels = torch.tensor([0, 1, 2, 0, 1])
    loss, correct = objective(x, labels, 0.1, y)
    logits = objective.head(x, labels, 0.1)
    torch.testing.assert_close(loss, 0.5 * F.cross_entropy(logits, labels) + 2.0 * unlike(x, y))
    assert correct == (logits.argmax(1) == labels).sum()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 7.5])
def test_soft_label_loss_against_its_sum(temperature):
    """T^2 times the divergence, number by number in float64; nothing where the logits agree up to a constant."""
    rng = np.random.default_rng(0)
    student, teacher = 8 * rng.normal(size=(5, 7)), 8 * rng.normal(size=(5, 7))
    expected = 0.0
    for s, t in zip(student / temperature, teacher / temperature):
        p, q = np.exp(t) / np.exp(t).sum(), np.exp(s) / np.exp(s).sum()
        expected += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q)) / 5
    got = soft_label_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(got) == pytest.approx(expected, rel=1e-9) and expected > 0.1
    same = soft_label_loss(torch.tensor(teacher + 3), torch.tensor(teacher), temperature)
    assert float(same) == pytest.approx(0, abs=1e-12)


def test_soft_label_loss_of_two_classes_and_its_gradient():
    """Hinton et al., eq. 2: for the logits z, the gradient is T (softmax(z / T) - softmax(v / T)) over the batch."""
    z, v = torch.tensor([[1.0, -1.0]], dtype=torch.float64, requires_grad=True), torch.tensor([[0.5, 2.0]]).double()
    soft_label_loss(z, v, 3.0).backward()
    expected = 3.0 * (torch.softmax(z / 3, 1) - torch.softmax(v / 3, 1))
    torch.testing.assert_close(z.grad, expected.detach())


def test_objective_with_soft_labels_has_no_margin_in_them():
    torch.manual_seed(0)
    head, teacher_head = AAMSoftmax(4, 3, 10.0), AAMSoftmax(6, 3, 10.0)
    config = DistillConfig(embedding_weight=0.0, label_weight=0.5, logit_weight=2.0, temperature=2.0)
    x, y, labels = torch.randn(5, 4), torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    embeddings, logits = Teacher(nn.Identity(), teacher_head)(y, labels)
    cosine = F.cosine_similarity(y[:, None], teacher_head.weight[None], dim=-1)
    torch.testing.assert_close(logits, 10 * cosine)
    assert Teacher(nn.Identity())(y, labels)[1] is None
    loss, _ = Objective(nn.Identity(), head, config, EmbeddingObjective(4, 6))(x, labels, 0.2, embeddings, logits)
    plain, with_margin = head(x, labels), head(x, labels, 0.2)
    kl = (logits / 2).softmax(1) * ((logits / 2).log_softmax(1) - (plain / 2).log_softmax(1))
    torch.testing.assert_close(loss, 0.5 * F.cross_entropy(with_margin, labels) + 2.0 * 4.0 * kl.sum() / 5)


def test_a_teachers_logits_are_float32_under_autocast():
    torch.manual_seed(0)
    teacher, y, labels = Teacher(nn.Identity(), AAMSoftmax(6, 3)), torch.randn(5, 6), torch.zeros(5, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        _, logits = teacher(y, labels)
    assert torch.equal(logits, teacher(y, labels)[1])


def conv(channels, kernel, stride):
    return nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(channels, 32, kernel, stride)))


@pytest.mark.parametrize("net, safe", [
    (conv(8, 1, 2), False), (conv(15, 1, 2), False), (conv(8, 1, (1, 2)), False), (conv(1, 1, 2), False),
    (conv(16, 1, 2), True), (conv(8, 1, 1), True), (conv(8, 3, 2), True), (nn.Linear(8, 8), True),
    (nn.Sequential(nn.Conv1d(8, 16, 1, 2)), True), (build("ResNet18", 24, 8, width=8), False),
    (build("ResNet18", 24, 8, width=16), True), (quantize_(conv(8, 1, 2), QuantConfig(bits=4)), False)])
def test_layout_of_networks_that_channels_last_would_break(net, safe):
    cpu, contiguous, last = torch.device("cpu"), torch.contiguous_format, torch.channels_last
    assert memory_format(net, True, cpu) is (last if safe else contiguous)
    assert memory_format(net, False, cpu) is contiguous
    assert memory_format(net, True, torch.device("cuda")) is last


@pytest.mark.parametrize("units", ["amx_tile", "avx512_bf16", None])
def test_precision(monkeypatch, units):
    for name in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name == units)
    cpu = torch.device("cpu")
    assert low_precision("bf16", cpu) is torch.bfloat16 and low_precision("fp16", cpu) is torch.float16
    assert low_precision("fp32", cpu) is None
    assert low_precision("auto", cpu) is (None if units is None else torch.bfloat16)
    for can in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, can=can: can)
        assert low_precision("auto", torch.device("cuda")) is (torch.bfloat16 if can else None)


def test_an_optimizer_takes_up_what_another_device_left():
    """Fused, as on a GPU, and not: the next step is the same."""
    torch.manual_seed(0)
    net, config = nn.Linear(4, 3), OptimizerConfig(name="adamw")
    gradient = torch.randn(3, 4)

    def step(optimizer, module):
        set_learning_rate(optimizer, 0.1)
        module.weight.grad, module.bias.grad = gradient.clone(), torch.ones(3)
        optimizer.step()

    first = make_optimizer(config, net)
    step(first, net)
    other, state = copy.deepcopy(net), copy.deepcopy(first.state_dict())
    step(first, net)
    for group in state["param_groups"]:
        group["fused"] = True
    second = make_optimizer(config, other)
    load_optimizer(second, state)
    assert not any(group["fused"] for group in second.param_groups)
    step(second, other)
    assert torch.equal(net.weight, other.weight)


STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize("environment, expected", [
    ({}, (0, 1, 0)),
    (STEP, (3, 4, 1)),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, (0, 1, 0)),  # a job's script, which is one process
    ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, (0, 1, 0)),
    ({**STEP, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (1, 2, 1)),  # torchrun inside a step
])
def test_place_among_processes(monkeypatch, environment, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_NTASKS", *STEP):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place() == expected


def test_processes_that_cannot_meet(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="process 3 of 4.*MASTER_ADDR"):
        join_world()
