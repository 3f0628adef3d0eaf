"""Sizes as polynomials in letters: reading, printing, arithmetic, division, evaluation."""

import pytest

from refold.errors import EquationError
from refold.shapes import Size, shape_of, shape_text, total, volume

n, m, k = Size.of("n"), Size.of("m"), Size.of("k")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("n", "n"),
        ("1", "1"),
        ("12", "12"),
        ("4n", "4 n"),
        ("4*n", "4 n"),
        ("2n+m", "m + 2 n"),
        ("m+2n", "m + 2 n"),
        ("n+n", "2 n"),
        ("n+1", "n + 1"),
        ("1+n+2+m", "m + n + 3"),
        ("hidden", "hidden"),
        ("n_2", "n_2"),
        ("10x1", "10 x1"),
    ],
)
def test_a_size_is_read_and_printed(text, printed):
    assert str(Size.of(text)) == printed
    assert repr(Size.of(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "n+",
        "*",
        "2*",
        "n*2",
        "n-1",
        "-n",
        "0",
        "0n",
        "00",
        "01n",
        "1.5",
        "n²",
        "ñ",
        "n m",
        "(n)",
        "n/2",
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(EquationError, match="is not a size"):
        Size.of(text)


@pytest.mark.parametrize("text", ["T", "B", "2T", "n+B"])
def test_time_and_batch_are_no_sizes(text):
    with pytest.raises(EquationError, match=r"which stands for (time|the batch)"):
        Size.of(text)


def test_a_declaration_is_sizes_with_blanks_between():
    assert shape_of("") == ()
    assert shape_of("n") == (n,)
    assert shape_of("  2n+m   n ") == (2 * n + m, n)
    with pytest.raises(EquationError, match="'n', 'm'"):
        shape_of(("n", "m"))  # type: ignore[arg-type]


def test_a_shape_prints_as_python_prints_a_tuple():
    assert shape_text(()) == "a scalar"
    assert shape_text((n,)) == "(n,)"
    assert shape_text((2 * n, m)) == "(2 n, m)"


def test_sums_and_products_are_polynomials_in_one_form():
    assert n + m == m + n
    assert (n + m) * (n - m) == n * n - m * m
    assert n - n == Size() == Size.of(0)
    assert 3 + n == n + 3 == n + 1 + 2
    assert hash(n + m) == hash(m + n)
    assert Size.of(n) is n
    assert (n + m).letters == {"n", "m"}
    assert Size.of(7).letters == frozenset()


def test_a_cost_prints_its_highest_power_first():
    B, T = (Size((((letter,), 1),)) for letter in "BT")
    assert str(2 * B * T * n * n + n + B * T * n * m * 8 + 5) == "8 B T m n + 2 B T n² + n + 5"
    assert str(n * n * n) == "n³"
    assert str(Size()) == "0"


def test_a_difference_prints_its_sign_once():
    assert str(m - 2 * n) == "m - 2 n"
    assert str(m - n) == "m - n"
    assert str(n - 1) == "n - 1"
    assert str(Size.of(-1) * n) == "-n"
    assert str(Size.of(-3)) == "-3"


def test_division_into_equal_parts_or_not_at_all():
    assert (4 * n).divided(4) == n
    assert (4 * n + 2 * m).divided(2) == 2 * n + m
    assert Size.of(6).divided(3) == Size.of(2)
    assert n.divided(1) == n
    assert (4 * n + m).divided(2) is None
    assert n.divided(2) is None


def test_a_size_is_a_number_once_its_letters_are():
    assert (2 * n * n + 3 * m + 1).at({"n": 5, "m": 7}) == 72
    assert Size().at({}) == 0
    assert Size.of("2n+m").at({"n": 3, "m": 4, "k": 9}) == 10
    with pytest.raises(KeyError):
        n.at({"m": 1})


def test_volumes_and_totals():
    assert volume(()) == Size.of(1)
    assert volume((n, m)) == n * m
    assert volume((2 * n, n + m)) == 2 * n * n + 2 * n * m
    assert total([]) == Size()
    assert total([n, m, n, Size.of(2)]) == 2 * n + m + 2


def test_sizes_have_an_order_for_sorting():
    sizes = [n * n, n, Size(), m, 2 * n]
    assert sorted(sizes) == sorted([m, 2 * n, n, Size(), n * n])
    assert not n < n and n <= n
