import numpy as np
import pytest
import torch
from distiller_cases import SHAPE, answered, bits, gradients, total_norm, with_velocity

from fields.carriers import Example, checksum
from fields.method.objective import squared_error
from fields.method.optimization import Optimization


def test_a_fresh_student_against_its_base_has_loss_0_and_does_not_move(new_student, base_field, ask):
    student = new_student()
    before = checksum(student.parameters)
    for _ in range(2):
        update = student.update([answered(ask(0, 1, 2), base_field)])
        assert (update.loss, update.gradient_norm) == (0.0, 0.0)
    assert checksum(student.parameters) == checksum(student.ema) == before


def test_a_student_that_starts_as_an_expert_has_loss_0_against_it_and_does_not_move(new_student, local_field, local_edit, ask):
    student = new_student(shape=local_edit.shape, start=local_edit.tensors)
    assert checksum(student.parameters) == checksum(local_edit.tensors)
    update = student.update([answered(ask(0, 1, 2), local_field)])
    assert (update.loss, update.gradient_norm) == (0.0, 0.0)
    assert checksum(student.parameters) == checksum(student.ema) == checksum(local_edit.tensors)


def test_another_expert_moves_the_adapter_and_nothing_else(new_student, local_field, ask):
    student = new_student()
    tensors = {name: t.clone() for name, t in student.transformer.state_dict().items()}
    update = student.update([answered(ask(0, 1, 2), local_field)])
    assert update.loss > 0.01
    moved = {name for name, t in student.transformer.state_dict().items() if not torch.equal(t, tensors[name])}
    assert moved == {name for name in tensors if ".lora_B." in name}, "A has no gradient while B is 0"


def test_groups_have_the_gradient_of_one_whole_batch(new_student, local_field, ask):
    """Groups of unequal size tell a mean over samples from a mean of the groups' means."""
    whole, grouped = new_student(), new_student()
    one = whole.update([answered(ask(0, 1, 2, 3, 4), local_field)])
    many = grouped.update([answered(ask(*rows), local_field) for rows in ((0,), (1, 2, 3), (4,))])
    assert many.loss == pytest.approx(one.loss, rel=1e-5)
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    expected = gradients(whole)
    difference = {name: g - expected[name] for name, g in gradients(grouped).items()}
    assert total_norm(difference) < 1e-4 * total_norm(expected)


def test_the_gradient_is_autograds_of_the_mean_squared_error(new_student, local_field, ask):
    student, twin = new_student(), new_student()
    example = answered(ask(0, 1, 2), local_field)
    update = student.update([example])
    ((twin.predict(example.query).velocity - example.target.velocity) ** 2).mean().backward()
    expected = gradients(twin)
    assert update.gradient_norm == pytest.approx(total_norm(expected), rel=1e-4)
    difference = {name: g - expected[name] for name, g in gradients(student).items()}
    assert total_norm(difference) < 1e-4 * total_norm(expected)


def test_the_report_is_of_samples_and_of_each_route(new_student, local_field, ask):
    student, twin = new_student(), new_student()
    queries = [ask(0, route="a"), ask(1, 2, 3, route="b"), ask(4, route="a")]
    examples = [answered(query, local_field) for query in queries]
    update = student.update(examples)
    with torch.no_grad():
        losses = {
            e.query.sample_ids: squared_error(twin.predict(e.query).velocity, e.target.velocity).double().numpy()
            for e in examples
        }
    a, b = np.concatenate([losses[(0,)], losses[(4,)]]), losses[(1, 2, 3)]
    assert update.route_samples == {"a": 2, "b": 3}
    assert update.route_loss == pytest.approx({"a": a.mean(), "b": b.mean()}, rel=1e-5)
    assert update.loss == pytest.approx(np.concatenate([a, b]).mean(), rel=1e-5)
    norms = {e.query.sample_ids: np.sqrt((e.target.velocity.double().numpy() ** 2).mean(axis=(1, 2, 3))) for e in examples}
    expected = {"a": np.concatenate([norms[(0,)], norms[(4,)]]).mean(), "b": norms[(1, 2, 3)].mean()}
    assert update.route_target_norm == pytest.approx(expected, rel=1e-5)


def test_clipping_scales_the_whole_gradient_to_the_norm(new_student, local_field, ask):
    free, clipped = new_student(), new_student(Optimization(learning_rate=1e-2, clip=0.01))
    update = [student.update([answered(ask(0, 1, 2), local_field)]) for student in (free, clipped)]
    assert update[0].gradient_norm == update[1].gradient_norm > 0.1, "what is reported is not clipped"
    expected = {name: g * 0.01 / update[0].gradient_norm for name, g in gradients(free).items()}
    assert total_norm(gradients(clipped)) == pytest.approx(0.01, rel=1e-3)
    for name, gradient in gradients(clipped).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-3, atol=1e-9)


def test_the_optimizer_is_adamw_without_decay_after_a_linear_warm_up(new_student, local_field, ask):
    """Simulated in float64 from the gradients that the student had."""
    student = new_student(Optimization(learning_rate=1e-2, betas=(0.8, 0.95), warmup_steps=2, clip=1e9), seed=3)
    name = "blocks.1.ff_in.lora_B.weight"
    p = student.parameters[name].detach().double().numpy().copy()
    m, v = np.zeros_like(p), np.zeros_like(p)
    for step, rate in ((1, 0.005), (2, 0.01), (3, 0.01)):
        student.update([answered(ask(step, step + 1), local_field)])
        g = gradients(student)[name]
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        p = p - rate * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
        np.testing.assert_allclose(student.parameters[name].detach().numpy(), p, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("ema_decay", [0.0, 0.15, 0.99])
def test_the_moving_average_forgets_faster_while_it_is_young(new_student, local_field, ask, ema_decay):
    student = new_student(Optimization(learning_rate=1e-2, ema_decay=ema_decay))
    name = "patch_out.lora_B.weight"
    average = student.parameters[name].detach().double().numpy().copy()
    for n in range(1, 5):
        student.update([answered(ask(n, n + 1), local_field)])
        decay = min(ema_decay, n / (n + 10))
        average = decay * average + (1 - decay) * student.parameters[name].detach().double().numpy()
        np.testing.assert_allclose(student.averaged_weights(n).tensors[name].numpy(), average, rtol=1e-4, atol=1e-8)


def test_the_start_must_fit_in_full(new_student, local_edit):
    with pytest.raises(ValueError, match=r"the student's start: .* tensors don't fit"):
        new_student(shape=SHAPE, start=local_edit.tensors)


@pytest.mark.parametrize("place", [0, 1])
def test_a_loss_that_overflows_leaves_the_student_as_it_was(new_student, local_field, ask, place):
    student, undisturbed = new_student(), new_student()
    for s in (student, undisturbed):
        s.update([answered(ask(0, 1), local_field)])
    examples = [answered(ask(2, 3), local_field), answered(ask(4, 5), local_field)]
    examples[place] = with_velocity(examples[place].query, torch.full((2, 3, 24, 24), 1e30))
    before = bits(student)
    with pytest.raises(
        FloatingPointError, match=rf"local_edit, answered by x, samples \({2 + 2 * place}, {3 + 2 * place}\), t \["
    ):
        student.update(examples)
    assert bits(student) == before
    for s in (student, undisturbed):
        s.update([answered(ask(6, 7), local_field)])
    assert bits(student) == bits(undisturbed), "the gradient of the refused step is gone too"


def test_a_gradient_that_overflows_leaves_the_student_as_it_was(new_student, local_field, ask):
    """With A = 0 the student is the base whatever B is, but A's gradient grows with B."""
    fresh = new_student().parameters
    start = {name: torch.full_like(tensor, 1e25 if "lora_B" in name else 0.0) for name, tensor in fresh.items()}
    student = new_student(start=start)
    before = bits(student)
    with pytest.raises(FloatingPointError, match=r"gradient norm is (inf|nan) over samples of \['local_edit'\]"):
        student.update([answered(ask(2, 3), local_field)])
    assert bits(student) == before


def test_an_answer_to_other_samples_is_refused(local_field, ask):
    asked, other = local_field.answer(ask(0, 1)), local_field.answer(ask(1, 0))
    for target, anchor in ((other, None), (asked, other)):
        with pytest.raises(ValueError, match=r"'local_edit' answered \(1, 0\), asked were \(0, 1\)"):
            Example(query=ask(0, 1), target=target, anchor=anchor)


@pytest.mark.parametrize("updates", [0, 1, 3])
def test_a_restored_student_makes_the_update_of_the_undisturbed_run(new_student, local_field, ask, updates):
    optimization = Optimization(learning_rate=1e-2, warmup_steps=3)
    student, restored = new_student(optimization), new_student(optimization, seed=99)
    for n in range(updates):
        student.update([answered(ask(n, n + 1), local_field)])
    restored.update([answered(ask(7), local_field)])  # leaves moments that restoring must replace
    saved = student.weights(0).tensors, student.averaged_weights(0).tensors, student.optimizer_tensors()
    restored.restore(*saved, updates)
    assert bits(restored)[0] == bits(student)[0]
    for n in range(2):
        results = [s.update([answered(ask(n + 3, n + 4), local_field)]) for s in (student, restored)]
        assert results[0] == results[1]
        assert bits(restored) == bits(student)


@pytest.mark.parametrize("part", ["tensors", "ema", "optimizer_tensors"])
def test_a_checkpoint_of_another_student_is_refused(new_student, local_field, ask, part):
    student = new_student()
    student.update([answered(ask(0), local_field)])
    saved = {"tensors": student.parameters, "ema": student.ema, "optimizer_tensors": student.optimizer_tensors()}
    saved[part] = dict(list(saved[part].items())[1:])
    with pytest.raises(ValueError, match="checkpoint"):
        new_student().restore(**saved, updates=1)
