"""Recurrent ops in the catalogue."""

import numpy as np

from jaxnn.catalogue.case import Entry, case, constant, normal, omitted, params
from jaxnn.op import Op
from jaxnn.ops.recurrent.cells import gru_cell, lstm_cell, rnn_cell
from jaxnn.ops.recurrent.gru import gru
from jaxnn.ops.recurrent.lstm import lstm
from jaxnn.ops.recurrent.reverse import reverse_sequences
from jaxnn.ops.recurrent.rnn import rnn

LENGTHS = constant([4, 0, 3, 1, 4, 2, 3])


def _params(n_in, n_hidden, gates, candidate_bias, scale=1.0):
    return params(
        w=normal(n_in, gates * n_hidden, scale=scale),
        u=normal(n_hidden, gates * n_hidden, scale=scale),
        b=normal(gates * n_hidden, scale=scale),
        **({"b_u": normal(n_hidden, scale=scale)} if candidate_bias else {}),
    )


def _pair(maker):
    """A tuple of two arrays of the same kind."""
    return lambda random, dtype: (maker(random, dtype), maker(random, dtype))


def _without_biases(maker):
    """The same params without biases."""
    return lambda random, dtype: {n: p for n, p in maker(random, dtype).items() if p.ndim > 1}


def _recurrent(
    op: Op, gates: int, saves: int, state=lambda maker: maker, candidate_bias=False, activations=()
) -> Entry:
    audit = _params(5, 3, gates, candidate_bias, scale=0.5)
    one = _params(1, 1, gates, candidate_bias)
    x, start = normal(4, 7, 5), state(normal(7, 3))
    no_lengths = constant(np.zeros(0, np.int32))
    return Entry(
        op,
        cases=(
            case("from zero", audit, x, omitted, omitted),
            case("state and lengths", audit, x, start, LENGTHS),
            case("no biases", _without_biases(audit), x, start, omitted),
            *(case(phi, audit, x, start, LENGTHS, activation=phi) for phi in activations),
        ),
        hard=(
            case("saturated", audit, normal(4, 7, 5, scale=1e4), start, LENGTHS),
            case("one of each", one, normal(1, 1, 1), state(normal(1, 1)), omitted),
            case("no steps", audit, normal(0, 7, 5), start, omitted),
            case("empty batch", audit, normal(4, 0, 5), omitted, no_lengths),
        ),
        benchmark=case(
            "T 64, N 32, I 64, H 128",
            _params(64, 128, gates, candidate_bias, scale=0.1),
            normal(64, 32, 64),
            omitted,
            omitted,
        ),
        saves=saves,
    )


def _cell(
    op: Op, gates: int, saves: int, state=lambda maker: maker, candidate_bias=False, activations=()
) -> Entry:
    audit = _params(5, 3, gates, candidate_bias, scale=0.5)
    x, start = normal(7, 5), state(normal(7, 3))
    return Entry(
        op,
        cases=(
            case("rows", audit, x, start),
            case("two batch axes", audit, normal(4, 7, 5), state(normal(4, 7, 3))),
            case("no biases, no batch", _without_biases(audit), normal(5), state(normal(3))),
            *(case(phi, audit, x, start, activation=phi) for phi in activations),
        ),
        hard=(
            case("saturated", audit, normal(7, 5, scale=1e4), start),
            case(
                "one of each",
                _params(1, 1, gates, candidate_bias),
                normal(1, 1),
                state(normal(1, 1)),
            ),
            case("empty batch", audit, normal(0, 5), state(normal(0, 3))),
        ),
        benchmark=case(
            "N 256, I 128, H 256",
            _params(128, 256, gates, candidate_bias, scale=0.1),
            normal(256, 128),
            state(normal(256, 256)),
        ),
        saves=saves,
    )


ENTRIES = (
    _recurrent(rnn, 1, saves=1_671_680, activations=("relu",)),
    _recurrent(gru, 3, saves=6_064_128, candidate_bias=True),
    _recurrent(lstm, 4, saves=7_211_008, state=_pair),
    _cell(rnn_cell, 1, saves=1_049_600, activations=("relu",)),
    _cell(gru_cell, 3, saves=2_625_536, candidate_bias=True),
    _cell(lstm_cell, 4, saves=3_280_896, state=_pair),
    Entry(
        reverse_sequences,
        cases=(
            case("whole", normal(4, 7, 5), omitted),
            case("lengths", normal(4, 7, 5), LENGTHS),
        ),
        hard=(
            case("one of each", normal(1, 1, 1), constant([1])),
            case("no steps", normal(0, 7, 5), omitted),
        ),
        benchmark=case("(64, 32, 512)", normal(64, 32, 512), constant([64, 40, 17, 3] * 8)),
        saves=128,
    ),
)
