"""The checker: right backwards pass, wrong ones are named, whatever they are given as."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn
from jaxnn.gradcheck import GradientMismatch, check


def random(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def affine(params, x):
    return x @ params["w"] + jnp.broadcast_to(params["b"], (x.shape[0], params["b"].size))


def affine_fwd(params, x):
    return affine(params, x), (params, x)


def affine_bwd(residuals, dy):
    params, x = residuals
    return {"w": x.T @ dy, "b": dy.sum(0)}, dy @ params["w"].T


def changed(mistake):
    """`affine_bwd` with a mistake in what it returns."""

    def bwd(residuals, dy):
        dparams, dx = affine_bwd(residuals, dy)
        return mistake(dparams, dx, residuals, dy)

    return bwd


@cache
def arguments():
    return {"w": random(1, 5, 6), "b": random(2, 6)}, random(3, 64, 5)


check_affine = partial(check, definition=affine)


def test_a_right_pair_passes():
    report = check_affine((affine_fwd, affine_bwd), *arguments())
    assert report.ok
    report.raise_if_failed()
    assert [row.verdict for row in report.rows] == ["right"] * 3
    assert report.to_dict()["ok"] is True


WRONG = {
    r"d_params\['w'\] is 64 × the true gradient everywhere, and 64 is the size of axis 0 of x: "
    "the 1/N of a mean is missing": lambda d, dx, r, dy: (d | {"w": 64 * d["w"]}, dx),
    r"d_params\['b'\] is 0\.0156 × .*one over the size of axis 0 of x.*mean is used": (
        lambda d, dx, r, dy: (d | {"b": dy.mean(0)}, dx)
    ),
    "d_x is the true gradient with the opposite sign": lambda d, dx, r, dy: (d, -dx),
    r"d_params\['b'\] is zero everywhere": lambda d, dx, r, dy: (d | {"b": 0 * d["b"]}, dx),
    r"d_params\['w'\] has shape \(6, 5\) but params\['w'\] has \(5, 6\): it is the transpose": (
        lambda d, dx, r, dy: (d | {"w": d["w"].T}, dx)
    ),
    r"d_params\['b'\] has shape \(64, 6\).*not summed over axis 0": (
        lambda d, dx, r, dy: (d | {"b": dy}, dx)
    ),
    r"d_params\['b'\] has shape \(1, 6\).*keeps axis 0": (
        lambda d, dx, r, dy: (d | {"b": d["b"][None]}, dx)
    ),
    "d_x is 2 × the true gradient everywhere: a ½ is missing": lambda d, dx, r, dy: (d, 2 * dx),
    "d_x is right at indices 0, 1, 2, 4, … of axis 0 and zero at index 3": (
        lambda d, dx, r, dy: (d, dx.at[3].set(0))
    ),
    "d_x points in another direction: its cosine": lambda d, dx, r, dy: (d, jnp.flip(dx, 0)),
    "d_params has the tree": lambda d, dx, r, dy: ({"w": d["w"]}, dx),
    "d_x is None, which JAX reads as zero": lambda d, dx, r, dy: (
        d,
        None,
    ),
    "d_x has dtype float64 but x has float32": lambda d, dx, r, dy: (d, dx.astype(jnp.float64)),
    "bwd must return a tuple of 2, one for each argument, not 3 entries": (
        lambda d, dx, r, dy: (d, dx, dx)
    ),
    "bwd raised ZeroDivisionError: division by zero": lambda d, dx, r, dy: 1 / 0,
    "d_x is not zero for a cotangent of zero": lambda d, dx, r, dy: (d, dx + 1e-4),
    "d_x is not finite at index": lambda d, dx, r, dy: (d, dx.at[2, 3].set(jnp.nan)),
}


@pytest.mark.parametrize("words", WRONG)
def test_the_mistake_is_named(words):
    report = check_affine((affine_fwd, changed(WRONG[words])), *arguments())
    assert not report.ok
    with pytest.raises(GradientMismatch, match=words):
        report.raise_if_failed()
    assert (
        "again: jaxnn.gradcheck.check((affine_fwd, bwd), *args, definition=affine, seed=0)"
        in str(report)
    )


FORWARD = {
    r"fwd must return \(y, residuals\), but it returned": lambda params, x: affine(params, x),
    "fwd raised ValueError: no": lambda params, x: (_ for _ in ()).throw(ValueError("no")),
    "the value of fwd is off by": lambda params, x: (1.01 * affine(params, x), (params, x)),
    r"fwd returns y of shape \(64, 3\) but the definition returns \(64, 6\)": (
        lambda params, x: (affine(params, x)[:, :3], (params, x))
    ),
}


@pytest.mark.parametrize("words", FORWARD)
def test_a_wrong_forward_is_told_from_a_wrong_backward(words):
    with pytest.raises(GradientMismatch, match=words):
        check_affine((FORWARD[words], affine_bwd), *arguments()).raise_if_failed()


def test_zero_against_zero_is_not_a_pass():
    def fwd(x):
        return jnp.zeros_like(x), None

    bwd = lambda residuals, dy: (jnp.zeros_like(dy),)  # noqa: E731
    report = check((fwd, bwd), random(3, 7, 5), definition=lambda x: 0 * x)
    assert [row.verdict for row in report.rows] == ["not tested"]
    assert not report.ok
    assert not report.findings


def test_a_kink_is_noted_and_not_blamed():
    def fwd(x):
        return jnp.maximum(x, 0), x

    x = jnp.array([0.0, 1.0, -2.0])
    for slope in (0.0, 1.0):
        report = check(
            (fwd, lambda x, dy, s=slope: (jnp.where(x > 0, dy, jnp.where(x == 0, s * dy, 0)),)),
            x,
            definition=lambda x: jnp.maximum(x, 0),
        )
        assert report.ok
        assert "not smooth here: at x[0]" in report.notes[0]
    wrong = check(
        (fwd, lambda x, dy: (jnp.where(x > 0, dy, jnp.where(x == 0, 7 * dy, 0)),)),
        x,
        definition=lambda x: jnp.maximum(x, 0),
    )
    assert not wrong.ok


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def power(x, n):
    return x**n


power.defvjp(lambda x, n: (x**n, x), lambda n, x, dy: (n * x ** (n - 1) * dy,))


def test_custom_vjp_functions_are_their_own_definition():
    assert check(power, random(4, 7), 3).ok

    @jax.custom_vjp
    def other_value(x):
        return jnp.sin(x)

    other_value.defvjp(lambda x: (jnp.sin(x) + 0.01, x), lambda x, dy: (jnp.cos(x) * dy,))
    report = check(other_value, random(4, 7))
    assert "value" in {finding.law for finding in report.findings}


class Halved(jaxnn.Linear):
    """A linear layer whose gradients are half the true ones."""

    def bwd(self, residuals, dy):
        return super().bwd(residuals, dy / 2)


def test_layers_are_checked_against_the_definitions_of_their_ops():
    net = jaxnn.mlp((5, 6, 3), jaxnn.gelu)
    params = net.init(jax.random.key(0))
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    _, x = arguments()
    report = check(net, params, x)
    assert report.ok
    assert [row.leaf for row in report.rows] == [
        "params[0]['b']",
        "params[0]['w']",
        "params[2]['b']",
        "params[2]['w']",
        "x",
    ]
    assert "halves" in report.laws
    half = jaxnn.serial(jaxnn.Linear(5, 6), jaxnn.gelu, Halved(6, 3), jaxnn.identity)
    assert [row.verdict for row in check(half, params, x).rows] == ["WRONG"] * 5


def test_a_layer_of_functions_is_checked_as_it_is():
    net = jaxnn.layer(
        init=lambda key: {"s": jnp.ones(())},
        apply=lambda params, x: params["s"] * x,
        fwd=lambda params, x, key: (params["s"] * x, (params, x)),
        bwd=lambda saved, dy: ({"s": jnp.vdot(saved[1], dy)}, 2 * saved[0]["s"] * dy),
    )
    report = check(net, {"s": jnp.asarray(3.0)}, jnp.linspace(-1.0, 2.0, 7))
    assert [row.verdict for row in report.rows] == ["right", "WRONG"]
    assert "halves" not in report.laws


def split_halves(x):
    return x[:3] ** 2, {"rest": x[3:] ** 3}


def split_halves_fwd(x):
    return split_halves(x), x


def test_an_output_may_be_a_tree():
    def bwd(x, dy):
        first, rest = dy
        return (jnp.concatenate([2 * x[:3] * first, 3 * x[3:] ** 2 * rest["rest"]]),)

    def forgets_the_rest(x, dy):
        return (bwd(x, (dy[0], jax.tree.map(jnp.zeros_like, dy[1])))[0],)

    x = random(4, 8)
    check((split_halves_fwd, bwd), x, definition=split_halves).raise_if_failed()
    report = check((split_halves_fwd, forgets_the_rest), x, definition=split_halves)
    assert {finding.law for finding in report.findings} == {"gradient"}


def test_only_the_laws_that_are_asked_for():
    report = check_affine((affine_fwd, affine_bwd), *arguments(), laws=("gradient",))
    assert report.laws == ["runs", "structure", "gradient"]
    assert "laws=('gradient',)" in report.reproduce
    with pytest.raises(ValueError, match="there is no law 'speed'; the laws are runs, structure"):
        check_affine((affine_fwd, affine_bwd), *arguments(), laws=("speed",))


def test_integers_booleans_and_keys_have_no_gradient():
    def masked(x, mask, key, ids):
        noise = jax.random.normal(key, x.shape, x.dtype)
        return jnp.where(mask, x * noise, 0)[ids]

    def fwd(x, mask, key, ids):
        return masked(x, mask, key, ids), (x, mask, key, ids)

    def bwd(residuals, dy):
        x, mask, key, ids = residuals
        scattered = jnp.zeros_like(x).at[ids].add(dy)
        dx = jnp.where(mask, scattered * jax.random.normal(key, x.shape, x.dtype), 0)
        return dx, None, None, None

    args = random(5, 7), jnp.arange(7) % 3 > 0, jax.random.key(0), jnp.array([1, 2, 2, 5])
    report = check((fwd, bwd), *args, definition=masked)
    assert report.ok
    assert [row.verdict for row in report.rows] == ["right", *["no gradient"] * 3]


def test_numpy_code_is_checked_by_differences():
    def fwd(x):
        return np.sin(np.asarray(x)), np.asarray(x)

    def definition(x):
        return np.sin(np.asarray(x))

    x = np.linspace(-1.0, 1.0, 7)
    assert check((fwd, lambda x, dy: (np.cos(x) * dy,)), x, definition=definition).ok
    report = check((fwd, lambda x, dy: (-np.cos(x) * dy,)), x, definition=definition)
    assert "opposite sign" in str(report)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_right_code_passes_in_every_dtype_at_real_sizes(dtype):
    params = {"w": random(1, 512, 64).astype(dtype), "b": random(2, 64).astype(dtype)}
    check(jaxnn.linear, params, random(3, 128, 512).astype(dtype)).raise_if_failed()


class TestWhereOtherCheckersFail:
    """What `jax.test_util.check_grads` and `chex` get wrong, as measured; here it is right."""

    def test_a_zero_gradient_of_a_large_mean_is_wrong(self):
        def mse(p, t):
            return jnp.mean((p - t) ** 2)

        def fwd(p, t):
            return mse(p, t), (p, t)

        args = random(1, 512, 512), random(2, 512, 512)
        zero = (fwd, lambda r, dy: (jnp.zeros_like(r[0]), jnp.zeros_like(r[1])))
        report = check(zero, *args, definition=mse)
        assert "is zero everywhere" in str(report)

    @pytest.mark.parametrize("seed", range(2))
    def test_a_bias_five_percent_too_large_is_wrong(self, seed):
        params = {"w": random(seed, 5, 6), "b": random(seed + 9, 6)}
        bwd = changed(lambda d, dx, r, dy: (d | {"b": 1.05 * d["b"]}, dx))
        report = check_affine((affine_fwd, bwd), params, arguments()[1], seed=seed)
        assert r"d_params['b'] is 1.05 × the true gradient everywhere" in str(report)

    def test_a_large_matrix_product_is_right(self):
        params = {"w": random(1, 512, 512), "b": random(2, 512)}
        assert check_affine((affine_fwd, affine_bwd), params, random(3, 128, 512)).ok

    def test_a_summed_cross_entropy_is_right(self):
        labels = jnp.asarray(np.random.default_rng(0).integers(0, 1000, 64))
        assert check(jaxnn.softmax_cross_entropy, random(1, 64, 1000), labels).ok

    def test_relu_at_zero_is_right(self):
        assert check(jaxnn.relu, jnp.array([0.0, 1.0, -1.0], jnp.float32)).ok

    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
    @pytest.mark.parametrize("op", [jaxnn.gelu, jaxnn.softmax], ids=str)
    def test_half_precision_is_right(self, op, dtype):
        assert check(op, random(1, 64, 64).astype(dtype)).ok

    def test_the_identity_is_not_the_gradient_of_tanh(self):
        def fwd(x):
            return jnp.tanh(x), x

        report = check((fwd, lambda x, dy: (dy,)), random(1, 64, 64), definition=jnp.tanh)
        assert not report.ok

    def test_a_gradient_in_another_dtype_is_wrong(self):
        bwd = changed(lambda d, dx, r, dy: (d, dx.astype(jnp.bfloat16)))
        assert "has dtype bfloat16" in str(check_affine((affine_fwd, bwd), *arguments()))

    @pytest.mark.parametrize("rate", [1e-1, 1e-2, 1e-3])
    def test_a_weight_that_is_already_updated_is_wrong(self, rate):
        def bwd(residuals, dy):
            params, x = residuals
            dw = x.T @ dy / 64
            return {"w": x.T @ dy, "b": dy.sum(0)}, dy @ (params["w"] - rate * dw).T

        report = check_affine((affine_fwd, bwd), *arguments())
        assert [row.verdict for row in report.rows] == ["right", "right", "WRONG"]


BAD = [
    (lambda: check("tanh", jnp.ones(3)), r"check takes an op, a \(fwd, bwd\) pair, a function"),
    (lambda: check(jaxnn.Linear, jnp.ones(3)), "takes an instance of Linear, not the class"),
    (lambda: check((affine_fwd, affine_bwd), *arguments()), "needs definition="),
    (
        lambda: check(jaxnn.relu, jnp.ones(3), jnp.ones(3)),
        r"relu takes 1 argument\(s\), \(x\), but 2 were given",
    ),
    (lambda: check(jaxnn.relu, "x"), "x must hold arrays, got str"),
    (lambda: check(jaxnn.relu, jnp.ones(3), slope=1), "relu: there is no option 'slope'"),
    (lambda: check(jaxnn.mlp((5, 3)), (), jnp.ones(3), slope=1), "a layer has no option 'slope'"),
    (
        lambda: check((affine_fwd, affine_bwd), jnp.array(1), jnp.array(2), definition=affine),
        "no argument is floating point",
    ),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_gets_one_clear_sentence(call, words):
    with pytest.raises(TypeError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_line_of_the_mistake_and_its_repair():
    def gate(x):
        return x * jax.nn.sigmoid(x)

    def gate_fwd(x):
        return gate(x), x

    def gate_bwd(x, dy):
        s = jax.nn.sigmoid(x)
        slope = s + x * s * (1 + s)
        return (dy * slope,)

    report = check((gate_fwd, gate_bwd), jnp.array([0.5, -1.0, 2.0, 0.25]), definition=gate)
    assert report.repairs
    assert re.match(
        r"test_check\.py:\d+: slope = s \+ x \* s \* \(1 \+ s\): write .*1 - s.* here",
        report.repairs[0],
    )
