import pytest
import torch
from rollout_cases import rollouts

from fields.carriers import Condition
from fields.distiller import Distiller
from fields.field import Field
from fields.lora.adapter import add_lora
from fields.method.lag import Lag
from fields.method.optimization import Optimization
from fields.method.plan import SamplePlan, noise
from fields.method.query import BetaQuery, UniformQuery
from fields.method.routing import HardRouting
from fields.method.solver import Euler
from fields.method.teaching import Teaching
from fields.method.time_grid import time_grid
from fields.policy import Policy
from fields.reference import distill
from fields.student import LoraStudent
from fields.tensors import load_into
from fields.versions import Merged

GRID = time_grid(5, 2.0)
SEED = 3
ROUTES = ("local_edit", "global_edit")


class Recording(Field):
    """A field that keeps what it was asked."""

    asked: list = []  # noqa: RUF012

    def answer(self, query):
        self.asked.append(query)
        return Field.answer(self, query)


@pytest.fixture(scope="module")
def run(family, new_base, local_edit, global_edit, encoded):
    """A distillation of the two experts into a student that starts as the first one; results of every step."""
    adapters = {"local_edit": local_edit, "global_edit": global_edit}
    table = {route: encoded(route, 6) for route in ROUTES}

    def encode(group) -> Condition:
        return table[group.route].select(torch.tensor([sample.row for sample in group.samples]))

    class Run:
        def __init__(self, steps, lag=0, every=1, weights=None, learning_rate=1e-2, batch_size=4, query=None, mixes=False):
            routing = HardRouting(weights or dict.fromkeys(ROUTES, 1.0))
            rows = dict.fromkeys(ROUTES, 6)
            self.plan = SamplePlan(
                seed=SEED,
                batch_size=batch_size,
                group_size=2,
                routing=routing,
                query=query or UniformQuery(),
                grid=lambda size: GRID,
                rows=rows,
                sources=(lambda route: 1) if mixes else None,
            )
            self.asked, self.published, self.windows, self.updates = [], {}, [], []
            recording = type("Recording", (Recording,), {"asked": self.asked})
            built = {name: Field.build(name, family, {name: (new_base(), adapter)}) for name, adapter in adapters.items()}
            experts = {n: recording(n, family, f.transformers, f.expression, f.device) for n, f in built.items()}
            optimization = Optimization(learning_rate=learning_rate)
            self.student = Distiller(family, new_base(), LoraStudent(local_edit.shape), optimization, 0, local_edit.tensors)
            policy = Policy(family, Merged(new_base(), LoraStudent(local_edit.shape)), rollouts(SEED, GRID, Euler()))
            self.published[0] = self.student.weights(0)
            self.versions = dict(self.published)
            teaching = Teaching(shares={route: {route: 1.0} for route in ROUTES})

            def learn(group, query):
                lesson = teaching.lesson(group)
                return lesson.example(query, {name: experts[name].answer(query) for name in lesson.asked})

            window = range(steps), Lag(lag, every)
            loop = distill(self.plan, encode, policy, policy.queries, learn, self.student, self.published, *window)
            for step, update in loop:
                assert step == len(self.updates)
                self.versions |= self.published
                self.updates.append(update)
                self.windows.append(sorted(self.published))

    Run.encode, Run.adapters = staticmethod(encode), adapters
    return Run


@pytest.fixture(scope="module")
def lagged(run):
    """Four steps of four samples at each lag."""
    return {lag: run(steps=4, lag=lag) for lag in (0, 1, 2)}


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_step_s_rolls_out_with_version_s_minus_lag(lagged, lag):
    result = lagged[lag]
    for query in result.asked:
        step = query.sample_ids[0] // 4
        assert query.policy_version == max(0, step - lag)
        assert query.checksum == result.versions[max(0, step - lag)].checksum
    assert sorted(n for query in result.asked for n in query.sample_ids) == list(range(16))
    assert len({weights.checksum for weights in result.versions.values()}) == 5, "each step is another version"


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_the_published_window_is_what_the_next_step_and_its_successors_need(lagged, lag):
    assert lagged[lag].windows == [list(range(max(0, step + 1 - lag), step + 2)) for step in range(4)]


def test_steps_between_two_publications_roll_out_with_the_same_version(run):
    """Versions 0 and 3 are published: five steps of a lag of 1 roll out with 0, 0, 0, 0 and 3."""
    result = run(steps=5, lag=1, every=3)
    asked = {(query.sample_ids[0] // 4, query.policy_version) for query in result.asked}
    assert asked == {(0, 0), (1, 0), (2, 0), (3, 0), (4, 3)}
    assert {query.checksum for query in result.asked} == {weights.checksum for weights in result.versions.values()}
    assert result.windows == [[0], [0], [0, 3], [3], [3]]


def test_two_runs_are_equal_to_the_last_bit(run, lagged):
    again = run(steps=4)
    assert again.published[4].checksum == lagged[0].published[4].checksum
    assert again.updates == lagged[0].updates


def test_another_lag_is_another_student(lagged):
    assert len({result.published[4].checksum for result in lagged.values()}) == 3


def test_the_loss_falls_on_one_expert(run):
    losses = [u.loss for u in run(steps=24, weights={"local_edit": 0.0, "global_edit": 1.0}, query=BetaQuery()).updates]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_a_route_is_answered_by_its_own_expert(run):
    """The student starts as the local expert, so at step 0 only the global samples have a loss."""
    update = run(steps=1, batch_size=8).updates[0]
    assert update.route_samples.keys() == set(ROUTES)
    assert update.route_loss["local_edit"] < 1e-8
    assert update.route_loss["global_edit"] > 0.01


def test_batches_of_several_routes_are_another_order_of_the_same_sums(run):
    """Two samples a step: they are one batch, also of both routes."""
    apart, mixed = (run(steps=6, batch_size=2, mixes=mixes) for mixes in (False, True))
    assert [len(batch) for step in range(6) for batch in mixed.plan.batches(step)].count(2) >= 2
    asked = [{n: q.x_t[row] for q in result.asked for row, n in enumerate(q.sample_ids)} for result in (apart, mixed)]
    assert asked[0].keys() == asked[1].keys() == set(range(12)), "each sample is asked about once"
    for query in mixed.asked:
        assert len(set(query.routes)) == 1, "an expert is asked about its own route alone"
    for a, b in zip(apart.updates, mixed.updates, strict=True):
        assert (a.route_samples, a.loss) == (b.route_samples, pytest.approx(b.loss, rel=1e-4))
        assert a.route_loss == pytest.approx(b.route_loss, rel=1e-3, abs=1e-9)
        assert a.route_target_norm == pytest.approx(b.route_target_norm, rel=1e-4)


@pytest.mark.parametrize("mixes", [False, True])
def test_losses_are_those_of_algorithm_1_written_out(run, lagged, family, new_base, mixes):
    """One sample at a time, every step of its trajectory, the adapter not merged, the gradient of the whole batch."""
    result = run(steps=4, mixes=True) if mixes else lagged[0]
    networks = {}
    for name, adapter in (*run.adapters.items(), ("student", run.adapters["local_edit"])):
        network = new_base()
        parameters = add_lora(network, adapter.shape, seed=0)
        load_into(parameters, adapter.tensors, name)
        networks[name] = network
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.0)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for step in range(3):
        losses = []
        for n in range(4 * step, 4 * step + 4):
            sample = result.plan.sample(n)
            group = next(g for g in result.plan.groups(step) if n in g.ids)
            c = run.encode(group).select(torch.tensor([group.ids.index(n)]))
            x = noise(SEED, (n,), (3, 24, 24))
            with torch.no_grad():
                trajectory = [x]
                for k in range(5):
                    x = x + (GRID[k + 1] - GRID[k]) * family.velocity(networks["student"], x, GRID[k : k + 1], c)
                    trajectory.append(x)
                (index,) = sample.indices
                x_t, t = trajectory[index], GRID[index : index + 1]
                target = family.velocity(networks[sample.route], x_t, t, c)
            losses.append((family.velocity(networks["student"], x_t, t, c) - target).square().mean())
        loss = torch.stack(losses).mean()
        assert result.updates[step].loss == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
