"""The check that every experiment's pictures pass finds what it is for."""

import pytest

from experiments import common

plt = common.pyplot()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([(0.5, 0.2, "one"), (0.5, 0.5, "two")], None),
        ([(0.5, 0.5, "one"), (0.52, 0.5, "two")], "'one' overlaps 'two'"),
        ([(0.99, 0.5, "three")], "'three' is cut"),
        ([(0.5, 0.99, "four")], "'four' is cut"),
    ],
)
def test_check_texts(readable, texts, message):
    figure = plt.figure()
    for x, y, text in texts:
        figure.text(x, y, text)
    if message is None:
        readable("picture", figure)
    else:
        with pytest.raises(AssertionError, match=message):
            readable("picture", figure)
    plt.close(figure)


def test_a_saved_picture_is_checked(readable, tmp_path):
    figure = plt.figure()
    figure.text(0.99, 0.5, "beyond the edge")
    with pytest.raises(AssertionError, match="picture: 'beyond the edge' is cut"):
        common.save_pictures(tmp_path, picture=figure)
    plt.close(figure)
